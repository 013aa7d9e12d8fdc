"""How far the people of a desk agree, and how far they agree with its AI judges: a pure function of a snapshot.

    for row in agreement(snapshot): print(row.scale, row.group, row.name, row.alpha["nominal"])

Decisions become labels on scales: the *verdict* on two candidates (first, second, tie, both bad), its *strength* (-3 to
3, both bad and tie 0), a *rating* of an aspect, the *step* ratings, the *first error*. A ranking of N gives a label for
every two. Only judgments that stand count, one for each person and task; skips, flags, repeats and adjudicators do not.
Where a batch reveals the answer after the verdict, the first verdict counts: a later one was made knowing it. Gold
tasks, which are easier, are a group of their own.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from data.annotate.coefficients import (
    NO_OVERLAP,
    NO_VARIATION,
    RESAMPLES,
    Level,
    Measure,
    agreement_of_two,
    cohen_kappa,
    count_labels,
    fleiss_kappa,
    krippendorff_alpha,
    percent_agreement,
    undefined,
)
from data.annotate.comparisons import VERDICTS, Comparison, compare, pairs_of
from data.annotate.records import Decision, Judgment, Snapshot, Task, canonical

PEOPLE = ("human", "simulated")
GROUPS = ("all", "gold", "batch", "language", "person", "pair")
SHOWN = {True: "suggestion shown", False: "suggestion hidden", None: "not recorded"}


@dataclasses.dataclass(frozen=True, slots=True)
class Label:
    """What one person said of one item on one scale."""

    scale: str
    item: Hashable
    value: float
    annotator: str
    task: Task
    language: str
    suggestion_shown: bool | None = None  # None: judged elsewhere and imported


@dataclasses.dataclass(frozen=True, slots=True)
class Agreement:
    """The coefficients of one scale over one group of labels."""

    scale: str
    group: str  # one of GROUPS
    name: str  # whose
    people: int
    items: int  # with two labels or more
    labels: int
    percent: Measure
    cohen: Measure  # two people: quadratic on ordered scales; more: the mean over their pairs (Light 1971)
    fleiss: Measure
    alpha: Mapping[Level, Measure]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class JudgeAgreement:
    """An AI judge's suggestions against people's verdicts, by whether people saw them first."""

    judge: str
    shown: str  # a value of SHOWN
    scale: str
    labels: int
    percent: Measure
    cohen: Measure

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


# ------------------------------------------------------------------------------------------------------------ labels


def levels_of(scale: str) -> tuple[Level, ...]:
    """The levels that mean something on a scale."""
    return ("nominal",) if scale in ("verdict", "first error") else ("ordinal", "interval")


def readings(task: Task, decision: Decision) -> list[tuple[str, Hashable, float]]:
    """(scale, item, value) for everything a decision says."""
    found: list[tuple[str, Hashable, float]] = []
    if decision.outcome == "rated":
        found += [(f"rating: {aspect}", (task.id, name, aspect), float(value))
                  for name, ratings in decision.ratings.items() for aspect, value in ratings.items()]
    elif decision.outcome == "stepped":
        found += [("step", (task.id, label.step), float(label.rating)) for label in decision.steps
                  if label.rating is not None]
        found.append(("first error", task.id, -1.0 if decision.first_error is None else float(decision.first_error)))
    elif decision.decides:
        found += [reading for pair in pairs_of(task) if (comparison := compare(decision, *pair))
                  for reading in _of_comparison((task.id, *pair), comparison)]
    return found


def _of_comparison(item: Hashable, comparison: Comparison) -> list[tuple[str, Hashable, float]]:
    return [("verdict", item, float(VERDICTS.index(comparison.verdict))),
            ("strength", item, float(comparison.signed))]


def counted(snapshot: Snapshot) -> list[Judgment]:
    """The judgments that count, one for each person and task (the latest), in order of tasks and names.

    What AI judges and rules decided is not among them, nor an adjudicator's decision: it is made knowing the others.
    """
    origins = {annotator.name: annotator.origin for annotator in snapshot.annotators}
    tasks = {task.id: place for place, task in enumerate(snapshot.tasks)}
    latest: dict[tuple[int, str], Judgment] = {}
    for judgment in sorted(snapshot.unprompted(), key=lambda judgment: judgment.seq):
        if judgment.role == "annotator" and origins.get(judgment.annotator, "human") in PEOPLE:
            latest[tasks[judgment.task_id], judgment.annotator] = judgment
    return [latest[key] for key in sorted(latest)]


def labels_of(snapshot: Snapshot) -> list[Label]:
    """All labels of people, those on repeated tasks left out."""
    tasks, prompts, assignments = (snapshot.by_id(name) for name in ("tasks", "prompts", "assignments"))
    found = []
    for judgment in counted(snapshot):
        task = tasks[judgment.task_id]
        if task.repeat_of is None:
            shown = assignments.get(judgment.assignment_id or "")
            found += [Label(scale, item, value, judgment.annotator, task, prompts[task.prompt_id].language or "unknown",
                            shown.suggestion_shown if shown else None)
                      for scale, item, value in readings(task, judgment.decision)]
    return found


# ------------------------------------------------------------------------------------------------------------ people


def agreement(snapshot: Snapshot, *, groups: Sequence[str] = GROUPS, seed: int = 0,
              resamples: int = RESAMPLES) -> list[Agreement]:
    """All scales: overall, by batch, language, person and pair of people, and on gold tasks. Bootstrap over tasks."""
    batches = {batch.id: batch.name for batch in snapshot.batches}
    labels = labels_of(snapshot)
    found = []
    for scale in _in_order(label.scale for label in labels):
        on_scale = [label for label in labels if label.scale == scale]
        usual = [label for label in on_scale if label.task.gold is None]
        gold = [label for label in on_scale if label.task.gold is not None]
        found += [measured(scale, group, name, members, seed=seed, resamples=resamples)
                  for group, name, members in _groups(usual, gold, batches) if group in groups]
    return found


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _groups(usual: Sequence[Label], gold: Sequence[Label],
            batches: Mapping[str, str]) -> Iterable[tuple[str, str, list[Label]]]:
    """(kind of group, its name, its labels). Groups that would only say again what `all` says are left out."""
    yield "all", "all", list(usual)
    if gold:
        yield "gold", "gold tasks", list(gold)
    keys: dict[str, Callable[[Label], str]] = {
        "batch": lambda label: batches.get(label.task.batch_id, label.task.batch_id),
        "language": lambda label: label.language}
    for group, key in keys.items():
        names = _in_order(map(key, usual))
        if len(names) > 1:
            yield from ((group, name, [label for label in usual if key(label) == name]) for name in names)
    people = sorted({label.annotator for label in usual})
    if len(people) > 2:
        for person in people:
            own = {label.item for label in usual if label.annotator == person}
            yield "person", person, [label for label in usual if label.item in own]
    for one, other in itertools.combinations(people, 2):
        yield "pair", f"{one} and {other}", [label for label in usual if label.annotator in (one, other)]


def measured(scale: str, group: str, name: str, labels: Sequence[Label], *, seed: int = 0,
             resamples: int = RESAMPLES) -> Agreement:
    """The coefficients of labels that share a scale."""
    values = sorted({label.value for label in labels})
    codes: dict[Hashable, list[int]] = {}
    for label in labels:
        codes.setdefault(label.item, []).append(values.index(label.value))
    counts = count_labels(codes, values, {label.item: label.task.id for label in labels})
    by_person: dict[str, dict[Hashable, int]] = {}
    for label in labels:
        by_person.setdefault(label.annotator, {})[label.item] = values.index(label.value)
    of = name if group == "person" else None
    return Agreement(
        scale=scale, group=group, name=name, people=len(by_person), items=len(counts.overlapping().table),
        labels=len(labels), fleiss=fleiss_kappa(counts),
        percent=percent_agreement(counts) if of is None else percent_with(by_person, of),
        cohen=mean_cohen(by_person, values, ordered="ordinal" in levels_of(scale), of=of),
        alpha={level: krippendorff_alpha(counts, level, seed=seed, resamples=resamples) for level in levels_of(scale)})


def percent_with(by_person: Mapping[str, Mapping[Hashable, int]], of: str) -> Measure:
    """How often one person says what another says of the same item, over all others."""
    own = by_person.get(of, {})
    pairs = [(own[item], value) for other, labels in by_person.items() if other != of
             for item, value in labels.items() if item in own]
    return agreement_of_two([one for one, _ in pairs], [other for _, other in pairs])


def mean_cohen(by_person: Mapping[str, Mapping[Hashable, int]], values: Sequence[float], *, ordered: bool,
               of: str | None = None) -> Measure:
    """Cohen's kappa of two people, or the mean over the pairs of more (Light 1971); `of`: over that person's pairs.

    Pairs whose kappa is undefined have no part in the mean. `n` is the number of items, summed over the pairs.
    """
    kappas = []
    for one, other in itertools.combinations(sorted(by_person), 2):
        if of is None or of in (one, other):
            shared = [item for item in by_person[one] if item in by_person[other]]
            kappas.append(cohen_kappa([by_person[one][item] for item in shared],
                                      [by_person[other][item] for item in shared], values,
                                      weights="quadratic" if ordered else "none"))
    defined = [(kappa.value, kappa.n) for kappa in kappas if kappa.value is not None]
    if not defined:
        return undefined(NO_VARIATION if any(kappa.missing == NO_VARIATION for kappa in kappas) else NO_OVERLAP)
    return Measure(math.fsum(value for value, _ in defined) / len(defined), sum(n for _, n in defined))


# --------------------------------------------------------------------------------------------------------- AI judges


def against_judges(snapshot: Snapshot) -> list[JudgeAgreement]:
    """Each AI judge against people, on every scale, split by whether its suggestion was shown before the verdict."""
    labels = labels_of(snapshot)
    found = []
    for judge, said in judge_readings(snapshot).items():
        pairs = [(label, said[label.scale, label.item]) for label in labels if (label.scale, label.item) in said]
        for scale in _in_order(label.scale for label, _ in pairs):
            for shown, name in SHOWN.items():
                these = [(label.value, value) for label, value in pairs
                         if label.scale == scale and label.suggestion_shown is shown]
                if these:
                    found.append(_two(judge, name, scale, these))
    return found


def _two(judge: str, shown: str, scale: str, pairs: Sequence[tuple[float, float]]) -> JudgeAgreement:
    values = sorted({value for pair in pairs for value in pair})
    first, second = ([values.index(pair[side]) for pair in pairs] for side in (0, 1))
    weights: Any = "quadratic" if "ordinal" in levels_of(scale) else "none"
    return JudgeAgreement(judge, shown, scale, len(pairs), agreement_of_two(first, second),
                          cohen_kappa(first, second, values, weights=weights))


def judge_readings(snapshot: Snapshot) -> dict[str, dict[tuple[str, Hashable], float]]:
    """judge -> (scale, item) -> value: what AI judges and rules suggested, or decided where they are annotators."""
    tasks = snapshot.by_id("tasks")
    machines = {annotator.name for annotator in snapshot.annotators if annotator.origin not in PEOPLE}
    said = [(each.judge, each.task_id, each.decision) for each in snapshot.suggestions]
    said += [(each.annotator, each.task_id, each.decision) for each in snapshot.standing()
             if each.annotator in machines]
    decisions: dict[str, dict[str, list[Decision]]] = {}
    for judge, task_id, decision in said:
        decisions.setdefault(judge, {}).setdefault(task_id, []).append(decision)
    return {judge: {(scale, item): value for task_id, several in by_task.items()
                    for scale, item, value in readings(tasks[task_id], both_orders(tasks[task_id], several))}
            for judge, by_task in decisions.items()}


def both_orders(task: Task, decisions: Sequence[Decision]) -> Decision:
    """One decision out of a judge's on a task, asked in both orders of the sides: a tie where it contradicts itself,
    else what it said at its least strength."""
    if task.kind == "pairwise":
        found = [comparison.verdict for decision in decisions
                 if (comparison := compare(decision, *task.candidate_ids)) is not None]
        if len(set(found)) > 1:
            return Decision(outcome="tie")
    return min(decisions, key=lambda decision: (decision.strength, canonical(decision.to_json())))
