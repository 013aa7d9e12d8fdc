"""Verdicts on completions, in their order: what the rule finds right, and where the others go wrong.

Reads `completions` (questions.jsonl, completions.jsonl), writes verdicts.jsonl. Knows no model.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

from alignment.stage import Stage
from data.rows import read_rows, write_rows
from data.schema import Completion, Question, UserError, Verdict
from reward.rule import verify


def run(stage: Stage) -> None:
    """Judges every completion of the input."""
    folder = stage.inputs["completions"]
    questions = {question.id: question for question in read_rows(folder / "questions.jsonl", Question)}
    completions = read_rows(folder / "completions.jsonl", Completion)
    if not completions:
        raise UserError(f"{folder / 'completions.jsonl'} holds no completion to judge")
    verdicts = []
    for done, completion in enumerate(completions, start=1):
        question = questions.get(completion.question_id)
        if question is None:
            raise UserError(f"{folder / 'completions.jsonl'}: row {done} answers question {completion.question_id!r}, "
                            f"which is not in questions.jsonl; both files must come from one `sample` stage")
        verdicts.append(judge(question, completion))
        if done % 500 == 0 or done == len(completions):
            stage.progress(done, len(completions), "completion")
    write_rows(stage.output / "verdicts.jsonl", verdicts)
    stage.result(**summary(completions, verdicts))


def judge(question: Question, completion: Completion) -> Verdict:
    """The rule's verdict; a truncated completion is wrong whatever it says, because it never came to its end."""
    verdict = dataclasses.replace(verify(question, completion.text), sample=completion.sample)
    if completion.finish_reason == "length":
        kind = verdict.error_kind if verdict.first_error is not None else "truncated"
        return dataclasses.replace(verdict, correct=False, error_kind=kind)
    return verdict


def summary(completions: Sequence[Completion], verdicts: Sequence[Verdict]) -> dict[str, float]:
    """The stage's metrics; see alignment/metrics.py."""
    wrong = [verdict for verdict in verdicts if not verdict.correct]
    solved: dict[str, bool] = collections.defaultdict(bool)
    for verdict in verdicts:
        solved[verdict.question_id] |= verdict.correct
    kinds = collections.Counter(verdict.error_kind or "unknown" for verdict in wrong)
    return {
        "completions": len(completions),
        "questions": len(solved),
        "accuracy": 1 - len(wrong) / len(verdicts),
        "solved": sum(solved.values()) / len(solved),
        "located": sum(verdict.first_error is not None for verdict in wrong) / max(len(wrong), 1),
        "truncated": sum(completion.finish_reason == "length" for completion in completions) / len(completions),
        **{f"error.{kind}": count for kind, count in sorted(kinds.items())},
    }
