"""GSM8K's sampled solutions (660 test questions, four models each), as questions and completions of ours.

    python -m tests.reward.gsm8k_samples FILE     what the rule reads of them, and the 50 that were checked by hand
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from data.gsm8k import MARK, Unusable, to_question
from data.rows import json_lines
from data.schema import Completion, Question, Verdict
from reward.arithmetic import equations, normalise
from reward.judge import judged_by_rule
from reward.steps import is_answer, steps_of

MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
CHECKED = Path(__file__).parents[2] / "docs" / "gsm8k_checked.jsonl"
COUNT, SEED = 50, 20_260

Sampled = tuple[Question, Completion, bool]  # and what the data set says of it


def ours(solution: str) -> str:
    """A solution without the calculator's marks, its answer after our marker."""
    lines = [MARK.sub("", line) for line in solution.split("\n")]
    return "\n".join("####" + line[2:] if line.startswith("A: ") else line for line in lines)


def read(path: Path) -> Iterator[Sampled]:
    """Every solution of every question that ours can hold."""
    for _, row in json_lines(path):
        truth = "\n".join("####" + line[2:] if line.startswith("A: ") else line
                          for line in row["ground_truth"].split("\n"))
        try:
            question = to_question({"question": row["question"], "answer": truth})
        except Unusable:
            continue
        for number, model in enumerate(MODELS):
            yield question, Completion(question_id=question.id, sample=number, text=ours(row[model]["solution"]),
                                       finish_reason="stop"), row[model]["is_correct"]


def readable(completion: Completion) -> bool:
    """Whether the rule reads an equation in every step before the answer."""
    steps = [step for step in steps_of(completion.text) if not is_answer(step)]
    return bool(steps) and all(next(equations(normalise(step)), None) is not None for step in steps)


def drawn(path: Path) -> list[tuple[Sampled, Verdict]]:
    """The solutions that were checked by hand: wrong ones in which the rule says which step is the first wrong one."""
    found = [(each, judged_by_rule(each[0], each[1])) for each in read(path)]
    located = [(each, verdict) for each, verdict in found if not verdict.correct and verdict.step is not None]
    return random.Random(SEED).sample(located, COUNT)


def coverage(path: Path) -> dict[str, int]:
    """How many of the solutions the rule can judge, and how far."""
    rows = list(read(path))
    verdicts = [judged_by_rule(question, completion) for question, completion, _ in rows]
    wrong = [verdict for verdict in verdicts if not verdict.correct]
    return {
        "solutions": len(rows), "questions": len({question.id for question, _, _ in rows}),
        "answers as published": sum(verdict.correct == right
                                    for verdict, (*_, right) in zip(verdicts, rows, strict=True)),
        "every step read": sum(readable(completion) for _, completion, _ in rows),
        "with a program": sum(bool(question.program) for question, _, _ in rows),
        "wrong": len(wrong), "first wrong step said": sum(verdict.step is not None for verdict in wrong)}


def main(path: Path) -> None:
    print(json.dumps(coverage(path)))
    for place, ((question, completion, right), verdict) in enumerate(drawn(path)):
        print(f"\n=== {place} {question.id} {MODELS[completion.sample]} published={right}")
        print("--- question, with a program:" if question.program else "--- question:", question.prompt)
        print("--- gold:", " | ".join(question.steps), "####", question.answer)
        print("--- text:", completion.text.replace("\n", "\n          "))
        print("--- rule: ", repr(verdict.step), "->", verdict.correction)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
