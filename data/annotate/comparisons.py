"""What a decision says of two candidates, of a candidate's steps, and whether two decisions say the same.

A preference, a ranking and ratings come to the same form, so that they are counted, measured and exported alike. The
module knows no snapshot.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Literal

from data.annotate.records import Decision, Task

Verdict = Literal["first", "second", "tie", "both_bad"]
VERDICTS: tuple[Verdict, ...] = ("first", "second", "tie", "both_bad")
RANKED_STRENGTH = 2  # a ranking says no strength: "better", the middle one
RATING_TOLERANCE = 1  # ratings this near say the same of an answer


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """Which of two candidates is better and how clearly (0 .. 3)."""

    verdict: Verdict
    strength: int

    @property
    def signed(self) -> int:
        """-3 (the second is much better) .. 3; a tie and both bad are 0: neither is better."""
        return {"first": self.strength, "second": -self.strength}.get(self.verdict, 0)


def pairs_of(task: Task) -> Iterator[tuple[str, str]]:
    """Every two candidates of a task, in the order of its candidates: never in that of the slots."""
    return itertools.combinations(task.candidate_ids, 2)


def compare(decision: Decision, first: str, second: str) -> Comparison | None:
    """What the decision says of two candidates; None where it says nothing."""
    if decision.outcome in ("tie", "both_bad"):
        return Comparison("tie" if decision.outcome == "tie" else "both_bad", 0)
    if decision.outcome == "prefer" and decision.preferred in (first, second):
        return Comparison("first" if decision.preferred == first else "second", decision.strength)
    if decision.outcome == "ranked":
        places = {name: place for place, group in enumerate(decision.ranking) for name in group}
        if first in places and second in places:
            return _by_difference(places[second] - places[first], strength=RANKED_STRENGTH)
    if decision.outcome == "rated" and decision.ratings.get(first) and decision.ratings.get(second):
        difference = mean_rating(decision, first) - mean_rating(decision, second)
        return _by_difference(difference, strength=min(3, math.ceil(abs(difference))))
    return None


def mean_rating(decision: Decision, candidate: str) -> float:
    """The mean over a candidate's rated aspects."""
    ratings = decision.ratings[candidate].values()
    return sum(ratings) / len(ratings)


def _by_difference(difference: float, *, strength: int) -> Comparison:
    if difference == 0:
        return Comparison("tie", 0)
    return Comparison("first" if difference > 0 else "second", strength)


def same(task: Task, decision: Decision, other: Decision) -> bool:
    """Whether two decisions on a task say the same: the verdict (not its strength), the whole ranking, every rating
    within one point, the first wrong step."""
    if {decision.outcome, other.outcome} == {"rated"}:
        return all(abs(value - other.ratings.get(name, {}).get(aspect, math.inf)) <= RATING_TOLERANCE
                   for name, ratings in decision.ratings.items() for aspect, value in ratings.items())
    if {decision.outcome, other.outcome} == {"stepped"}:
        return decision.first_error == other.first_error
    return decision.outcome == other.outcome and verdicts(task, decision) == verdicts(task, other)


def verdicts(task: Task, decision: Decision) -> list[Verdict | None]:
    """The verdict on every two candidates of a task, None where there is none."""
    found = [compare(decision, *pair) for pair in pairs_of(task)]
    return [comparison.verdict if comparison else None for comparison in found]
