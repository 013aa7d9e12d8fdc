"""Scores for completions. A rule, a scalar model, a judge and a weighted sum are interchangeable."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from data.schema import Completion, Question


@dataclasses.dataclass(frozen=True)
class Scores:
    """One score a completion, and the unweighted parts it was made of (same length, by name)."""

    total: list[float]
    parts: dict[str, list[float]]


class Reward(Protocol):
    """Scores completions of questions; `questions[i]` is what `completions[i]` answers."""

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores: ...
