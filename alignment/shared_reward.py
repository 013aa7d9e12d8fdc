"""A reward whose completions the processes of a stage share out, so that each is scored once and all know every score.

All completions of a question go to one process. What fails in one fails in all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from alignment.group import Group
from data.schema import Completion, Question
from reward import Reward, RewardError, Scores, Span
from reward.checks import checked


class SharedReward:
    """The reward `who`, shared out."""

    def __init__(self, who: str, reward: Reward, group: Group) -> None:
        self.who, self.reward, self.group = who, reward, group

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
        runs = [list(rows) for _, rows in itertools.groupby(range(len(questions)), lambda row: questions[row].id)]
        size = math.ceil(len(runs) / self.group.size)
        pieces = [list(itertools.chain(*runs[start:start + size])) for start in range(0, len(runs), size)]
        failures: list[str] = []

        def score(rows: Sequence[int]) -> list[float]:
            some = [completions[row] for row in rows]
            try:
                return as_numbers(checked(self.who, self.reward([questions[row] for row in rows], some), some))
            except RewardError as error:
                failures.append(str(error))
                return []

        made = self.group.share_out(pieces, score)
        if failure := self._failure(failures):
            raise RewardError(failure)
        rows = [row for numbers in made for row in as_rows(numbers)]
        spans = [found for _, found in rows]
        return Scores([score for score, _ in rows], spans=spans if any(spans) else [])

    def _failure(self, failures: Sequence[str]) -> str:
        """What went wrong in the first process in which anything did, known to all."""
        texts = self.group.gather([*"".join(failures[:1]).encode()])
        return next((bytes(map(int, text)).decode() for text in texts if text), "")


def as_numbers(scores: Scores) -> list[float]:
    """For each completion its score, how many spans it has, and those."""
    spans = scores.spans or [[] for _ in scores.total]
    return [number for score, found in zip(scores.total, spans, strict=True)
            for number in (score, len(found), *itertools.chain(*found))]


def as_rows(numbers: Sequence[float]) -> list[tuple[float, list[Span]]]:
    rows, rest = [], iter(numbers)
    for score in rest:
        found = [Span(int(next(rest)), int(next(rest)), next(rest)) for _ in range(int(next(rest)))]
        rows.append((score, found))
    return rows
