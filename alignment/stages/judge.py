"""Verdicts on completions, in their order, and comparisons of two where the judge is asked for them.

In: `completions` (questions.jsonl, completions.jsonl), and `model` for a local judge. Out: verdicts.jsonl; of a
prompted model also replies.jsonl, and comparisons.jsonl where it compared. What the judge said in no readable form has
no verdict there: it is counted, and too much of it stops the run.
"""

from __future__ import annotations

import collections
import itertools
import random
from collections.abc import Iterator, Sequence

from alignment.judges import Bench, open_bench
from alignment.preference_kinds import Judge
from alignment.remote import costs, origin
from alignment.stage import Stage
from data.rows import read_rows, write_rows
from data.schema import Comparison, Completion, Question, UserError, Verdict
from reward.judge import ModelJudge
from reward.prompted import COMPARISONS, OUTCOMES, PromptedJudge
from reward.replies import FILE

CHUNK = 256  # completions that a model is asked about between two looks at the budget
MANY = 1024  # as many for a judge of our own, whose batches are the fuller the more there are to choose from
Judged = tuple[Question, Completion]


def run(stage: Stage) -> None:
    """Judges every completion of the input."""
    config: Judge = stage.config
    judged = load(stage)
    with open_bench(stage) as bench:
        prompted = isinstance(bench.judge, PromptedJudge)
        verdicts = give_verdicts(stage, bench, judged) if not prompted or set(config.tasks) & set(OUTCOMES) else []
        write_rows(stage.output / "verdicts.jsonl", verdicts)
        metrics = summary([completion for _, completion in judged], verdicts)
        if isinstance(bench.judge, PromptedJudge) and set(config.tasks) & set(COMPARISONS):
            comparisons = compare(stage, bench, bench.judge, judged)
            write_rows(stage.output / "comparisons.jsonl", comparisons)
            metrics |= compared(comparisons)
        if isinstance(bench.judge, ModelJudge):
            metrics |= {f"unreadable.{task}": count for task, count in sorted(bench.judge.unreadable.items())}
        if bench.replies is not None:
            metrics |= costs(bench.replies, config)
            write_rows(stage.output / FILE, bench.replies.used.values())
            stage.note(origin(bench.replies))
    stage.result(**metrics)


def load(stage: Stage) -> list[Judged]:
    """The completions beside their questions."""
    folder = stage.inputs["completions"]
    questions = {question.id: question for question in read_rows(folder / "questions.jsonl", Question)}
    completions = read_rows(folder / "completions.jsonl", Completion)
    if not completions:
        raise UserError(f"{folder / 'completions.jsonl'} holds no completion to judge")
    for number, completion in enumerate(completions, start=1):
        if completion.question_id not in questions:
            raise UserError(f"{folder / 'completions.jsonl'}: row {number} answers question "
                            f"{completion.question_id!r}, which is not in questions.jsonl; both files must come from "
                            "one `sample` stage")
    return [(questions[completion.question_id], completion) for completion in completions]


def give_verdicts(stage: Stage, bench: Bench, judged: Sequence[Judged]) -> list[Verdict]:
    """The verdicts that can be read, in the completions' order."""
    verdicts: list[Verdict] = []
    step = CHUNK if isinstance(bench.judge, PromptedJudge) else MANY
    for start in range(0, len(judged), step):
        chunk = judged[start:start + step]
        found = bench.judge([question for question, _ in chunk], [completion for _, completion in chunk])
        verdicts += [verdict for verdict in found if verdict is not None]
        bench.check(stage.config, planned=len(judged))
        stage.progress(min(start + step, len(judged)), len(judged), "completion")
    bench.check(stage.config)
    return verdicts


def compare(stage: Stage, bench: Bench, judge: PromptedJudge, judged: Sequence[Judged]) -> list[Comparison]:
    """Up to `comparisons` pairs of each question's distinct texts, each seen in both orders."""
    drawn = list(pairs_to_compare(judged, count=stage.config.comparisons, seed=stage.derive("compare")))
    found: list[Comparison] = []
    for start in range(0, len(drawn), CHUNK):
        questions, left, right = zip(*drawn[start:start + CHUNK], strict=True)
        found += [row for row in judge.compare(questions, left, right) if row is not None]
        bench.check(stage.config, planned=2 * len(drawn))
        stage.progress(min(start + CHUNK, len(drawn)), len(drawn), "comparison")
    bench.check(stage.config)
    return found


def pairs_to_compare(judged: Sequence[Judged], *, count: int,
                     seed: int) -> Iterator[tuple[Question, Completion, Completion]]:
    """For each question, `count` drawn pairs of whole completions with different texts."""
    groups: dict[str, dict[str, Judged]] = collections.defaultdict(dict)
    for question, completion in judged:
        if completion.finish_reason != "length":
            groups[question.id].setdefault(completion.text, (question, completion))
    for question_id, texts in groups.items():
        pairs = list(itertools.combinations(texts.values(), 2))
        draw = random.Random(f"{seed}/{question_id}")
        for (question, one), (_, other) in draw.sample(pairs, min(count, len(pairs))):
            yield question, one, other


def summary(completions: Sequence[Completion], verdicts: Sequence[Verdict]) -> dict[str, float]:
    """The stage's metrics; see alignment/metrics.py."""
    found: dict[str, float] = {
        "completions": len(completions), "questions": len({completion.question_id for completion in completions}),
        "truncated": sum(completion.finish_reason == "length" for completion in completions) / len(completions)}
    if not verdicts:
        return found
    wrong = [verdict for verdict in verdicts if not verdict.correct]
    solved: dict[str, bool] = collections.defaultdict(bool)
    for verdict in verdicts:
        solved[verdict.question_id] |= verdict.correct
    kinds = collections.Counter(verdict.error_kind or "unknown" for verdict in wrong)
    return found | {
        "accuracy": 1 - len(wrong) / len(verdicts),
        "solved": sum(solved.values()) / len(solved),
        "located": sum(verdict.first_error is not None for verdict in wrong) / max(len(wrong), 1),
        **{f"error.{kind}": count for kind, count in sorted(kinds.items())},
    }


def compared(comparisons: Sequence[Comparison]) -> dict[str, float]:
    """Of the comparisons: how many, how often the orders agree, how many prefer a side."""
    count = len(comparisons)
    return {"comparisons": count, "agreed": sum(row.agreed for row in comparisons) / max(count, 1),
            "decided": sum(row.preferred != "tie" for row in comparisons) / max(count, 1)}
