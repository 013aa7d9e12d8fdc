"""Decisions by slots and by candidate ids: one is the other, and what makes no sense is refused by its field."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest

from data.annotate.decisions import MAX_TEXT, Invalid, from_slots, to_slots
from data.annotate.records import Candidate, Decision, Task, TaskKind
from data.annotate.turns import says, slots_of

TAGS = ("wrong_fact", "other")
TEXTS = {"x": "one\ntwo\nthree", "y": "毛利: 14 - 7 = 7", "z": "\U0001f600 smile"}


def task(kind: TaskKind, *names: str, **fields: Any) -> Task:
    return Task(id="t", kind=kind, prompt_id="p", candidate_ids=names, batch_id="b", guideline="g", **fields)


TASKS = {"pairwise": task("pairwise", "x", "y"), "ranking": task("ranking", "x", "y", "z"),
         "rating": task("rating", "x", "y", aspects=("truth", "tone"), scale=5), "stepwise": task("stepwise", "x")}
CANDIDATES = {name: Candidate(id=name, prompt_id="p", text=text, generator="m", steps=tuple(text.split("\n")))
              for name, text in TEXTS.items()}


def walk(*ratings: int | None, **fields: Any) -> dict[str, Any]:
    return {"outcome": "stepped", "steps": [{"step": at, "rating": rating} for at, rating in enumerate(ratings)],
            **fields}


GOOD: list[tuple[str, dict[str, Any]]] = [
    ("pairwise", {"outcome": "prefer", "preferred": "b", "strength": 3, "rationale": "why", "tags": ["wrong_fact"]}),
    ("pairwise", {"outcome": "tie"}), ("pairwise", {"outcome": "both_bad", "rewrite": "Better."}),
    ("pairwise", {"outcome": "skip", "reason": "no idea"}), ("pairwise", {"outcome": "flag", "reason": "broken"}),
    ("pairwise", {"outcome": "tie", "spans": [{"slot": "a", "start": 0, "end": 3, "tag": "other"}]}),
    ("ranking", {"outcome": "ranked", "ranking": [["c"], ["a", "b"]]}), ("ranking", {"outcome": "both_bad"}),
    ("rating", {"outcome": "rated", "ratings": {"a": {"truth": 1, "tone": 5}, "b": {"truth": 3, "tone": 3}}}),
    ("stepwise", walk(1, 0, 1)), ("stepwise", walk(1, -1, None, corrections=[{"step": 1, "text": "zwei"}])),
    ("stepwise", walk(-1, None, None, correction_declined=True)), ("stepwise", walk(1, None, 1)),
]


@pytest.mark.parametrize(("kind", "posted"), GOOD)
def test_slots_and_back_whatever_the_order(kind: str, posted: dict[str, Any]) -> None:
    for seed in range(6):
        slots = slots_of(TASKS[kind], seed)
        decision = from_slots(posted, TASKS[kind], slots, CANDIDATES, tags=TAGS)
        again = from_slots(to_slots(decision, slots), TASKS[kind], slots, CANDIDATES, tags=TAGS)
        assert again == decision
        if decision.preferred:
            assert decision.preferred == slots["ab".index(posted["preferred"])]


def test_a_decision_does_not_depend_on_the_sides() -> None:
    one, other = (from_slots({"outcome": "prefer", "preferred": slot, "strength": 2}, TASKS["pairwise"], slots,
                             CANDIDATES, tags=()) for slot, slots in (("a", ("x", "y")), ("b", ("y", "x"))))
    assert one == other and says(one) == says(other)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("pairwise", {"outcome": "prefer", "strength": 1}, "preferred"),
    ("pairwise", {"outcome": "prefer", "preferred": "c", "strength": 1}, "preferred"),
    ("pairwise", {"outcome": "prefer", "preferred": "x", "strength": 1}, "preferred"),
    ("pairwise", {"outcome": "prefer", "preferred": "a"}, "strength"),
    ("pairwise", {"outcome": "prefer", "preferred": "a", "strength": 4}, "strength"),
    ("pairwise", {"outcome": "prefer", "preferred": "a", "strength": True}, "decision"),
    ("pairwise", {"outcome": "tie", "strength": 1}, "strength"),
    ("pairwise", {"outcome": "tie", "preferred": "a"}, "preferred"),
    ("pairwise", {"outcome": "ranked", "ranking": [["a"], ["b"]]}, "outcome"),
    ("pairwise", {"outcome": "left"}, "decision"), ("pairwise", {}, "decision"),
    ("pairwise", {"outcome": "tie", "model": "m"}, "decision"),
    ("pairwise", {"outcome": "skip"}, "reason"), ("pairwise", {"outcome": "flag", "reason": "  "}, "reason"),
    ("pairwise", {"outcome": "skip", "reason": "x", "rewrite": "y"}, "rewrite"),
    ("pairwise", {"outcome": "tie", "rewrite": " "}, "rewrite"),
    ("pairwise", {"outcome": "tie", "rewrite": TEXTS["x"]}, "rewrite"),
    ("pairwise", {"outcome": "tie", "rationale": "x" * (MAX_TEXT + 1)}, "rationale"),
    ("pairwise", {"outcome": "tie", "rationale": "half \ud83d"}, "rationale"),
    ("pairwise", {"outcome": "tie", "tags": ["\udc00"]}, "tags"),
    ("pairwise", {"outcome": "tie", "tags": ["other", "my own"]}, "tags"),
    ("pairwise", {"outcome": "tie", "spans": [{"slot": "a", "start": 0, "end": 3, "tag": "my own"}]}, "spans"),
    ("stepwise", {"outcome": "stepped", "steps": [{"step": at, "rating": 1, "tag": "x"} for at in range(3)]}, "steps"),
    ("pairwise", {"outcome": "tie", "spans": [{"slot": "a", "start": 3, "end": 3}]}, "spans"),
    ("pairwise", {"outcome": "tie", "spans": [{"slot": "a", "start": 0, "end": 14}]}, "spans"),
    ("pairwise", {"outcome": "tie", "spans": [{"slot": "q", "start": 0, "end": 1}]}, "spans"),
    ("pairwise", {"outcome": "tie", "spans": ["a"]}, "spans"), ("pairwise", {"outcome": "tie", "spans": "a"}, "spans"),
    ("ranking", {"outcome": "ranked", "ranking": [["a"], ["b"]]}, "ranking"),
    ("ranking", {"outcome": "ranked", "ranking": [["a"], ["b"], ["b", "c"]]}, "ranking"),
    ("ranking", {"outcome": "ranked", "ranking": [["a", "b", "c"], []]}, "ranking"),
    ("ranking", {"outcome": "ranked", "ranking": "abc"}, "ranking"),
    ("rating", {"outcome": "rated", "ratings": {"a": {"truth": 1, "tone": 5}}}, "ratings"),
    ("rating", {"outcome": "rated", "ratings": {"a": {"truth": 1}, "b": {"truth": 1}}}, "ratings"),
    ("rating", {"outcome": "rated", "ratings": {s: {"truth": 6, "tone": 1} for s in "ab"}}, "ratings"),
    ("rating", {"outcome": "rated", "ratings": [1]}, "ratings"),
    ("stepwise", walk(1, 1), "steps"), ("stepwise", walk(None, None, None), "steps"),
    ("stepwise", walk(1, -1, 1, correction_declined=True), "steps"),
    ("stepwise", walk(None, -1, None, correction_declined=True), "steps"),
    ("stepwise", walk(1, -1, None), "corrections"),
    ("stepwise", walk(1, -1, None, corrections=[{"step": 0, "text": "x"}]), "corrections"),
    ("stepwise", walk(1, -1, None, corrections=[{"step": 1, "text": "two"}]), "corrections"),
    ("stepwise", walk(1, -1, None, corrections=[{"step": 1, "text": "a\nb"}]), "corrections"),
    ("stepwise", walk(1, -1, None, corrections=[{"step": 1, "text": "x"}], correction_declined=True), "corrections"),
    ("stepwise", walk(1, 1, 1, corrections=[{"step": 1, "text": "x"}]), "corrections"),
    ("stepwise", walk(1, 2, 1), "steps"), ("stepwise", {"outcome": "tie"}, "outcome"),
]


@pytest.mark.parametrize(("kind", "posted", "field"), BAD)
def test_what_makes_no_sense_is_refused_by_its_field(kind: str, posted: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        from_slots(posted, TASKS[kind], slots_of(TASKS[kind], 1), CANDIDATES, tags=TAGS)
    assert refused.value.field == field and str(refused.value).startswith(f"{field}: ")


def test_any_json_is_a_decision_or_refused() -> None:
    """Whatever is posted, nothing else is raised."""
    draw = random.Random(0)
    values: list[Any] = [None, True, 0, -1, 1.5, "a", "x", [], ["a"], [["a"], ["b"]], {}, {"a": 1}, [{"step": 0}],
                         [None]]
    fields = list(Decision(outcome="tie").to_json())
    for _ in range(2_000):
        posted = {field: draw.choice(values) for field in draw.sample(fields, draw.randint(0, 6))}
        posted["outcome"] = draw.choice(["prefer", "tie", "ranked", "rated", "stepped", "skip", 5])
        kind = draw.choice(list(TASKS))
        with contextlib.suppress(Invalid):
            from_slots(posted, TASKS[kind], slots_of(TASKS[kind], 0), CANDIDATES, tags=TAGS)
