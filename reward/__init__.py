"""Scores for completions. A rule, a scalar model, a judge and a weighted sum are interchangeable."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from data.schema import Completion, Question, UserError


class RewardError(UserError):
    """A reward raised, or returned what is no score."""


class Span(NamedTuple):
    """What a stretch of a completion's text scores: its characters from `start` up to, not including, `end`."""

    start: int
    end: int
    score: float


@dataclasses.dataclass(frozen=True)
class Scores:
    """One score a completion, and the unweighted parts it was made of (same length, by name).

    `total` is paid where a completion ends. A process reward pays besides, where it was earned: `spans` holds each
    completion's, in any order; it is empty where there are none at all.
    """

    total: list[float]
    parts: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    spans: list[list[Span]] = dataclasses.field(default_factory=list)

    @property
    def paid(self) -> list[float]:
        """What each completion is paid in all."""
        if not self.spans:
            return self.total
        return [score + sum(span.score for span in spans)
                for score, spans in zip(self.total, self.spans, strict=True)]


class Reward(Protocol):
    """Scores completions of questions; `questions[i]` is what `completions[i]` answers."""

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores: ...
