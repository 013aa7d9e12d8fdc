"""What their judgments say of annotators: bias by position and by length, speed, gold tasks, repeats. Pure functions.

**Length** is in tokens: those stored with the candidates where one model made both, for two models' tokenizers do not
count alike; else `count_tokens`: a Han character, a run of other letters and digits, or a sign each count one.
Languages are told apart, as these counts are not alike in them.
**Too quick** is a judgment made in less than a second, or faster than `READING` tokens a second for all that was shown:
five times the 238 words a minute of careful reading (Brysbaert 2019).
**Gold** and **repeats** are of what was decided before anything was revealed: see `Snapshot.unprompted`.
"""

from __future__ import annotations

import dataclasses
import re
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from data.annotate.coefficients import Measure, share
from data.annotate.comparisons import same
from data.annotate.records import Candidate, Judgment, Role, Snapshot, Task

READING = 20.0  # tokens a second
LEAST_SECONDS = 1.0
CHANCE = 0.5
GOLD = 0.75  # right gold tasks
QUICK = 0.1  # quick judgments
_TOKEN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
                    r"|[^\W\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+|[^\w\s]")


@dataclasses.dataclass(frozen=True, slots=True)
class Lengths:
    """One language's preferences between answers of different length."""

    language: str
    longer: Measure  # the share that preferred the longer one
    difference: float  # mean tokens of the preferred answer over those of the other


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    """One annotator's measurements; `flags` says in words which of them stand out."""

    annotator: str
    origin: str
    role: Role
    judgments: int
    outcomes: dict[str, int]  # outcome -> count, skips and flags included
    rewrites: int
    first_slot: Measure  # share of preferences for what was shown first
    lengths: tuple[Lengths, ...]
    median_seconds: float | None
    too_quick: Measure  # share of timed judgments
    gold: Measure  # share of gold tasks decided rightly
    repeats: Measure  # share of repeated tasks decided as before
    flags: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def count_tokens(text: str) -> int:
    """Tokens as the module's docstring counts them."""
    return sum(1 for _ in _TOKEN.finditer(text))


def profiles(snapshot: Snapshot) -> list[Profile]:
    """A profile of everyone who has judged, by name; whose judgments stand."""
    records = _Records(snapshot)
    origins = {annotator.name: annotator.origin for annotator in snapshot.annotators}
    judged, unprompted = by_person(snapshot.standing()), by_person(snapshot.unprompted())
    return [profile(records, own, unprompted.get(person, []), origin=origins.get(person[0], "human"))
            for person, own in sorted(judged.items())]


def by_person(judgments: Iterable[Judgment]) -> dict[tuple[str, Role], list[Judgment]]:
    """The judgments of everyone in each of their roles."""
    found: dict[tuple[str, Role], list[Judgment]] = {}
    for judgment in judgments:
        found.setdefault((judgment.annotator, judgment.role), []).append(judgment)
    return found


class _Records:
    """A snapshot's rows by id, and the length of each candidate."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.tasks: dict[str, Task] = snapshot.by_id("tasks")
        self.candidates: dict[str, Candidate] = snapshot.by_id("candidates")
        self.assignments, self.prompts = snapshot.by_id("assignments"), snapshot.by_id("prompts")
        self._counted: dict[str, int] = {}

    def slots(self, judgment: Judgment) -> Sequence[str]:
        """The candidates as they were shown; none where that is not known."""
        assignment = self.assignments.get(judgment.assignment_id or "")
        return assignment.slots if assignment else ()

    def language(self, judgment: Judgment) -> str:
        return self.prompts[self.tasks[judgment.task_id].prompt_id].language or "unknown"

    def lengths(self, *names: str) -> list[int]:
        """Tokens of candidates, all by the same count."""
        candidates = [self.candidates[name] for name in names]
        stored = [each.num_tokens for each in candidates if each.num_tokens is not None]
        if len(stored) == len(names) and len({each.generator for each in candidates}) == 1:
            return stored
        return [self.counted(name) for name in names]

    def counted(self, name: str) -> int:
        """Tokens of a candidate by `count_tokens`."""
        if name not in self._counted:
            self._counted[name] = count_tokens(self.candidates[name].text)
        return self._counted[name]

    def shown(self, judgment: Judgment) -> int:
        """Tokens of all that was shown to be judged."""
        return sum(map(self.counted, self.tasks[judgment.task_id].candidate_ids))


def profile(records: _Records, judgments: Sequence[Judgment], unprompted: Sequence[Judgment], *,
            origin: str) -> Profile:
    """The measurements of one annotator's standing judgments, and of their unprompted ones."""
    outcomes: dict[str, int] = {}
    for judgment in judgments:
        outcomes[judgment.decision.outcome] = outcomes.get(judgment.decision.outcome, 0) + 1
    seconds = [judgment.lead_time_ms / 1000 for judgment in judgments if judgment.lead_time_ms is not None]
    first_slot, lengths = first_slot_share(records, judgments), length_bias(records, judgments)
    quick, gold = too_quick(records, judgments), gold_accuracy(records, unprompted)
    return Profile(
        annotator=judgments[0].annotator, origin=origin, role=judgments[0].role, judgments=len(judgments),
        outcomes=dict(sorted(outcomes.items())), rewrites=sum(bool(each.decision.rewrite) for each in judgments),
        first_slot=first_slot, lengths=lengths, median_seconds=statistics.median(seconds) if seconds else None,
        too_quick=quick, gold=gold, repeats=consistency(records, unprompted),
        flags=tuple(_flags(first_slot, lengths, quick, gold)))


def _flags(first_slot: Measure, lengths: Iterable[Lengths], quick: Measure, gold: Measure) -> Iterable[str]:
    """What stands out: intervals beside chance, one judgment in ten or more too quick, gold surely below `GOLD`."""
    if _beside_chance(first_slot):
        yield f"prefers what is shown {'first' if (first_slot.value or 0) > CHANCE else 'second'}"
    for each in lengths:
        if _beside_chance(each.longer):
            yield f"prefers {'longer' if (each.longer.value or 0) > CHANCE else 'shorter'} answers ({each.language})"
    if quick.value is not None and quick.value >= QUICK:
        yield "too quick"
    if gold.high is not None and gold.high < GOLD:
        yield "gets gold tasks wrong"


def _beside_chance(measure: Measure) -> bool:
    return measure.low is not None and measure.high is not None and not measure.low <= CHANCE <= measure.high


# ------------------------------------------------------------------------------------------------------ measurements


def preferences(judgments: Iterable[Judgment]) -> list[tuple[Judgment, str]]:
    """The judgments that prefer one of two answers, and which."""
    return [(each, each.decision.preferred) for each in judgments
            if each.decision.outcome == "prefer" and each.decision.preferred is not None]


def first_slot_share(records: _Records, judgments: Iterable[Judgment]) -> Measure:
    """How often the answer shown first is the preferred one, where an order was shown."""
    first = [records.slots(each)[0] == preferred for each, preferred in preferences(judgments) if records.slots(each)]
    return share(sum(first), len(first))


def length_bias(records: _Records, judgments: Iterable[Judgment]) -> tuple[Lengths, ...]:
    """By language: how often the longer of two answers is preferred, and by how much the preferred one is longer."""
    differences: dict[str, list[int]] = {}
    for judgment, preferred in preferences(judgments):
        other = next(name for name in records.tasks[judgment.task_id].candidate_ids if name != preferred)
        own, others = records.lengths(preferred, other)
        differences.setdefault(records.language(judgment), []).append(own - others)
    return tuple(Lengths(language, share(sum(each > 0 for each in found), sum(each != 0 for each in found)),
                         statistics.fmean(found)) for language, found in sorted(differences.items()))


def too_quick(records: _Records, judgments: Iterable[Judgment]) -> Measure:
    """How many decisions came faster than all that was shown can be read; skips and flags may be quick."""
    quick = [judgment.lead_time_ms / 1000 < max(LEAST_SECONDS, records.shown(judgment) / READING)
             for judgment in judgments if judgment.lead_time_ms is not None and judgment.decision.decides]
    return share(sum(quick), len(quick))


def gold_accuracy(records: _Records, judgments: Iterable[Judgment]) -> Measure:
    """How many tasks whose right decision is known were decided so."""
    right = [same(task, judgment.decision, task.gold) for judgment in judgments if judgment.decision.decides
             and (task := records.tasks[judgment.task_id]).gold is not None]
    return share(sum(right), len(right))


def consistency(records: _Records, judgments: Sequence[Judgment]) -> Measure:
    """How many tasks were decided the same when they came again."""
    decided = {judgment.task_id: judgment.decision for judgment in judgments if judgment.decision.decides}
    again = [same(records.tasks[name], decision, decided[first]) for name, decision in decided.items()
             if (first := records.tasks[name].repeat_of) is not None and first in decided]
    return share(sum(again), len(again))
