"""What is measured of each annotator, on judgments whose bias is known because the test made it."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest

from data.annotate.profiles import Profile, count_tokens, profiles
from data.annotate.records import Decision, Snapshot
from tests.data.annotate.desk_made import BOTH_BAD, FLAG, SKIP, TIE, Desk, prefer, walk


def of(snapshot: Snapshot, name: str) -> Profile:
    return next(each for each in profiles(snapshot) if each.annotator == name)


@pytest.mark.parametrize(("text", "tokens"), [
    ("", 0), ("Net profit: 12.5%", 7), ("净利润为十亿元。", 8), ("营收 46 亿元", 5),
    ("it's  a\n\ttest", 5), ("naïve café", 2)])
def test_a_token_is_a_han_character_a_word_or_a_sign(text: str, tokens: int) -> None:
    assert count_tokens(text) == tokens


def judged(rule: Any, *, tasks: int = 60, language: str = "en", **options: Any) -> Desk:
    """A desk on which `rule(name, slots)` says which candidate is preferred; candidate 1 has two words more."""
    desk = Desk()
    for number in range(tasks):
        name = f"{language}{number}"
        desk.task(name, ["one two", "one two three four"], language=language)
        first = f"{name}.{random.Random(number).randrange(2)}"
        desk.judge("ann", name, prefer(name, rule(name, first)), first=first, **options)
    return desk


def test_position_bias_is_measured_and_flagged() -> None:
    biased = of(judged(lambda name, first: int(first[-1])).snapshot(), "ann")
    assert (biased.first_slot.value, biased.first_slot.n) == (1.0, 60)
    assert biased.first_slot.low > 0.9 and "prefers what is shown first" in biased.flags
    second = of(judged(lambda name, first: 1 - int(first[-1])).snapshot(), "ann")
    assert second.first_slot.value == 0.0 and "prefers what is shown second" in second.flags
    fair = of(judged(lambda name, first: int(name[2:]) % 2).snapshot(), "ann")
    assert fair.first_slot.low < 0.5 < fair.first_slot.high and fair.flags == ()


def test_an_imported_judgment_has_no_position() -> None:
    found = of(judged(lambda name, first: 0, imported=True).snapshot(), "ann")
    assert str(found.first_slot) == "n/a (no data)"


def test_length_bias_is_by_language_in_tokens() -> None:
    desk = judged(lambda name, first: 1)
    for number in range(30):
        desk.task(f"zh{number}", ["利润下降", "利润"], language="zh")
        desk.judge("ann", f"zh{number}", prefer(f"zh{number}", number % 2), first=f"zh{number}.{number // 2 % 2}")
    desk.task("same", ["one two", "two one"])
    desk.judge("ann", "same", prefer("same", 0))
    found = of(desk.snapshot(), "ann")
    english, chinese = found.lengths
    assert (english.language, english.longer.value, english.longer.n) == ("en", 1.0, 60)
    assert english.difference == pytest.approx(2 * 60 / 61)  # the pair of equal length has none
    assert (chinese.language, chinese.longer.value, chinese.difference) == ("zh", 0.5, 0.0)
    assert "prefers longer answers (en)" in found.flags and len([each for each in found.flags if "zh" in each]) == 0


def test_stored_counts_serve_where_one_model_made_both_sides() -> None:
    def difference(**candidate: Any) -> float:
        desk = Desk()
        desk.task("t", ["one two three", "one"], candidate=candidate)
        desk.judge("ann", "t", prefer("t", 0))
        return of(desk.snapshot(), "ann").lengths[0].difference

    assert difference() == 2.0
    assert difference(num_tokens=7, generator="m") == 0.0  # both have 7 of the same model's tokens
    assert difference(num_tokens=7) == 2.0  # two models, two tokenizers


def test_speed_is_the_median_and_too_quick_is_what_cannot_have_been_read() -> None:
    desk = Desk()
    long = " ".join(["word"] * 200)  # 400 tokens to read: 20 seconds
    for number, (seconds, texts) in enumerate([(19.0, [long, long]), (21.0, [long, long]), (0.9, ["a", "b"]),
                                               (1.1, ["a", "b"]), (None, ["a", "b"])]):
        desk.task(f"t{number}", texts)
        desk.judge("ann", f"t{number}", prefer(f"t{number}", 0), seconds=seconds)
    desk.task("skipped")
    desk.judge("ann", "skipped", SKIP, seconds=0.2)
    found = of(desk.snapshot(), "ann")
    assert (found.too_quick.value, found.too_quick.n) == (0.5, 4)
    assert found.median_seconds == 1.1 and "too quick" in found.flags
    assert of(judged(lambda name, first: 0, seconds=None).snapshot(), "ann").median_seconds is None


def test_gold_tasks_of_every_kind_measure_whether_somebody_is_right() -> None:
    desk = Desk()
    ranked = Decision(outcome="ranked", ranking=(("r.0",), ("r.1",), ("r.2",)))
    rated = Decision(outcome="rated", ratings={"s.0": {"truth": 5}, "s.1": {"truth": 2}})
    near = Decision(outcome="rated", ratings={"s.0": {"truth": 4}, "s.1": {"truth": 3}})
    far = Decision(outcome="rated", ratings={"s.0": {"truth": 3}, "s.1": {"truth": 2}})
    desk.task("p", gold=prefer("p", 0, 3))
    desk.task("b", gold=BOTH_BAD)
    desk.task("r", ["x", "y", "z"], kind="ranking", gold=ranked)
    desk.task("s", kind="rating", gold=rated)
    desk.task("w", ["1", "2"], kind="stepwise", gold=walk(1, -1))
    other_order = Decision(outcome="ranked", ranking=(("r.0",), ("r.2",), ("r.1",)))
    right = {"p": prefer("p", 0, 1), "b": BOTH_BAD, "r": ranked, "s": near, "w": walk(0, -1, correction="2")}
    wrong = {"p": TIE, "b": TIE, "r": other_order, "s": far, "w": walk(1, 1)}
    for name in right:
        desk.judge("right", name, right[name])
        desk.judge("wrong", name, wrong[name])
        desk.judge("absent", name, SKIP)
    snapshot = desk.snapshot()
    assert [str(of(snapshot, name).gold)[:5] for name in ("right", "wrong", "absent")] == ["1.000", "0.000", "n/a ("]
    assert of(snapshot, "right").gold.n == 5
    assert of(snapshot, "right").flags == () and of(snapshot, "wrong").flags == ("gets gold tasks wrong",)


def test_repeated_tasks_measure_consistency() -> None:
    desk = Desk()
    for number in range(4):
        desk.task(f"t{number}")
        desk.task(f"again{number}", repeat_of=f"t{number}")
        desk.judge("ann", f"t{number}", prefer(f"t{number}", 0))
        desk.judge("ann", f"again{number}", prefer(f"t{number}", 0, 3) if number else TIE)
    desk.judge("bea", "again0", TIE)  # who never saw the first
    assert (of(desk.snapshot(), "ann").repeats.value, of(desk.snapshot(), "ann").repeats.n) == (0.75, 4)
    assert str(of(desk.snapshot(), "bea").repeats) == "n/a (no data)"


def retaken(desk: Desk, task: str, first: Decision, last: Decision) -> None:
    """ann decides, takes it back after whatever was revealed, and decides again: three rows of one assignment."""
    old = desk.judge("ann", task, first)
    void = desk.judge("ann", task, first, status="void", supersedes=old.id, imported=True)
    new = desk.judge("ann", task, last, supersedes=void.id, imported=True)
    desk.judgments[-2:] = [dataclasses.replace(each, assignment_id=old.assignment_id) for each in (void, new)]


@pytest.mark.parametrize("reveal", [True, False])
def test_gold_and_repeats_are_measured_before_the_answer_is_revealed(reveal: bool) -> None:
    desk = Desk()
    desk.task("gold", gold=prefer("gold", 0))
    desk.task("t")
    desk.task("again", repeat_of="t")
    desk.judge("ann", "t", prefer("t", 0))
    retaken(desk, "gold", prefer("gold", 1), prefer("gold", 0))
    retaken(desk, "again", prefer("t", 1), prefer("t", 0))
    desk.batches = [dataclasses.replace(batch, reveal=reveal) for batch in desk.batches]
    found = of(desk.snapshot(), "ann")
    assert (found.gold.value, found.repeats.value, found.judgments) == ((0.0, 0.0, 3) if reveal else (1.0, 1.0, 3))


def test_outcomes_are_counted_and_only_those_that_stand() -> None:
    desk = Desk()
    for number, decision in enumerate([prefer("t0", 0), TIE, BOTH_BAD, SKIP, FLAG]):
        desk.task(f"t{number}")
        old = desk.judge("ann", f"t{number}", TIE)
        desk.judge("ann", f"t{number}", decision, supersedes=old.id)
    desk.task("late")
    desk.judge("ann", "late", TIE, status="surplus")
    desk.judge("eve", "t0", BOTH_BAD, role="adjudicator")
    desk.judge("bot", "t0", Decision(outcome="both_bad", rewrite="better"), origin="simulated")
    found = of(desk.snapshot(), "ann")
    assert found.outcomes == {"prefer": 1, "tie": 1, "both_bad": 1, "skip": 1, "flag": 1} and found.judgments == 5
    assert [(each.annotator, each.origin, each.role, each.rewrites) for each in profiles(desk.snapshot())] == [
        ("ann", "human", "annotator", 0), ("bot", "simulated", "annotator", 1), ("eve", "human", "adjudicator", 0)]
