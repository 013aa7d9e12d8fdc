"""Who agrees with whom, from snapshots: what counts, by which groups, and against AI judges."""

from __future__ import annotations

import collections
import dataclasses
import io
import random
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sklearn.metrics import cohen_kappa_score

from data.annotate.agreement import Agreement, against_judges, agreement, labels_of
from data.annotate.cli import main
from data.annotate.pairing import Plan
from data.annotate.records import Decision, Snapshot
from data.annotate.tables import agreement_json, show_agreement
from tests.data.annotate.desk_made import BOTH_BAD, FLAG, SKIP, TIE, Desk, prefer, walk
from tests.data.annotate.desk_opened import Visitor, completions, opened


def row(snapshot: Snapshot, scale: str, name: str = "all") -> Agreement:
    return next(each for each in agreement(snapshot, resamples=100) if (each.scale, each.name) == (scale, name))


def random_desk(seed: int = 0, *, people: int = 3, tasks: int = 40, sides: int = 0) -> tuple[Desk, dict[str, Any]]:
    """People who agree in part, with gaps; and what each said, signed, by name."""
    draw, desk = random.Random(seed), Desk(seed=sides)
    said: dict[str, dict[str, int]] = {f"ann{number}": {} for number in range(people)}
    for number in range(tasks):
        name = f"t{number}"
        desk.task(name, batch=f"batch {number % 2}", language="zh" if number % 3 else "en")
        truth = draw.choice([-3, -2, -1, 0, 1, 2, 3])
        for who in said:
            if draw.random() < 0.8:
                signed = truth if draw.random() < 0.6 else draw.choice([-3, -1, 0, 2])
                said[who][name] = signed
                desk.judge(who, name, TIE if signed == 0 else prefer(name, 0 if signed > 0 else 1, abs(signed)))
    return desk, said


def test_pairs_of_people_have_scikit_learns_kappa() -> None:
    desk, said = random_desk()
    snapshot = desk.snapshot()
    for one, other in (("ann0", "ann1"), ("ann0", "ann2"), ("ann1", "ann2")):
        shared = sorted(set(said[one]) & set(said[other]))
        expected = cohen_kappa_score([said[one][task] for task in shared], [said[other][task] for task in shared],
                                     labels=range(-3, 4), weights="quadratic")
        found = row(snapshot, "strength", f"{one} and {other}")
        assert (found.cohen.value, found.people) == (pytest.approx(expected, abs=5e-7), 2)
        assert found.items == found.cohen.n == len(shared)


def test_the_mean_over_pairs_stands_for_more_than_two() -> None:
    snapshot = random_desk()[0].snapshot()
    pairs = [each.cohen.value for each in agreement(snapshot, resamples=0)
             if each.scale == "strength" and each.group == "pair"]
    assert row(snapshot, "strength").cohen.value == pytest.approx(sum(pairs) / 3)
    own = [each.cohen.value for each in agreement(snapshot, resamples=0)
           if each.scale == "strength" and each.group == "pair" and "ann0" in each.name]
    assert row(snapshot, "strength", "ann0").cohen.value == pytest.approx(sum(own) / 2)


def test_groups_are_batches_languages_people_and_pairs() -> None:
    rows = agreement(random_desk()[0].snapshot(), resamples=50)
    names = [(each.group, each.name) for each in rows if each.scale == "verdict"]
    assert names == [("all", "all"), ("batch", "batch 0"), ("batch", "batch 1"), ("language", "en"), ("language", "zh"),
                     ("person", "ann0"), ("person", "ann1"), ("person", "ann2"), ("pair", "ann0 and ann1"),
                     ("pair", "ann0 and ann2"), ("pair", "ann1 and ann2")]
    by_name = {each.name: each for each in rows if each.scale == "verdict"}
    assert by_name["en"].items + by_name["zh"].items == by_name["all"].items
    assert set(by_name["all"].alpha) == {"nominal"}
    assert by_name["all"].alpha["nominal"].low < by_name["all"].alpha["nominal"].value


def test_the_order_of_sides_and_of_judgments_changes_nothing() -> None:
    first, other = random_desk(sides=1)[0], random_desk(sides=2)[0]
    assert {each.slots[0] for each in first.assignments} != {each.slots[0] for each in other.assignments}
    other.judgments = [dataclasses.replace(each, seq=len(other.judgments) - place)
                       for place, each in enumerate(other.judgments)][::-1]
    assert agreement_json(first.snapshot())["agreement"] == agreement_json(other.snapshot())["agreement"]


def test_what_does_not_count() -> None:
    desk = Desk()
    for name in ("t1", "t2"):
        desk.task(name)
    desk.task("gold", gold=prefer("gold", 0))
    desk.task("again", repeat_of="t1")
    for who, place in (("ann", 0), ("bea", 1)):
        desk.judge(who, "t1", prefer("t1", place))
        desk.judge(who, "t2", SKIP if who == "ann" else FLAG)
        desk.judge(who, "gold", prefer("gold", 0))
        desk.judge(who, "again", prefer("t1", 0))
    old = desk.judge("cyd", "t1", prefer("t1", 1))
    desk.judge("cyd", "t1", prefer("t1", 0), supersedes=old.id)
    taken_back = desk.judge("dan", "t1", prefer("t1", 0))
    desk.judge("dan", "t1", SKIP, status="void", supersedes=taken_back.id)
    desk.judge("eve", "t1", prefer("t1", 0), role="adjudicator")
    desk.judge("model", "t1", prefer("t1", 0), origin="ai")
    snapshot = desk.snapshot()
    assert [(label.annotator, label.value) for label in labels_of(snapshot)
            if label.scale == "verdict" and label.task.id == "t1"] == [("ann", 0), ("bea", 1), ("cyd", 0)]
    assert (row(snapshot, "verdict").items, row(snapshot, "verdict").percent.value) == (1, pytest.approx(1 / 3))
    assert row(snapshot, "verdict", "gold tasks").percent.value == 1.0


def test_both_bad_is_no_tie_but_prefers_nothing_either() -> None:
    desk = Desk()
    desk.task("t")
    desk.judge("ann", "t", TIE)
    desk.judge("bea", "t", BOTH_BAD)
    assert row(desk.snapshot(), "verdict").percent.value == 0.0
    assert row(desk.snapshot(), "strength").percent.value == 1.0
    assert str(row(desk.snapshot(), "strength").cohen) == "n/a (no variation)"


def test_one_person_alone_overlaps_with_nobody() -> None:
    desk = Desk()
    desk.task("t")
    desk.judge("ann", "t", prefer("t", 0))
    found = row(desk.snapshot(), "verdict")
    assert {str(each) for each in (found.percent, found.cohen, found.fleiss, *found.alpha.values())} == {
        "n/a (no overlap)"}
    assert agreement(Desk().snapshot()) == []


def test_rankings_ratings_and_walks_have_scales_of_their_own() -> None:
    desk = Desk()
    desk.task("rank", ["x", "y", "z"], kind="ranking")
    desk.task("rate", ["x", "y"], kind="rating", aspects=("truth", "style"))
    desk.task("walk", ["1", "2", "3"], kind="stepwise")
    for who, order in (("ann", ("0", "1", "2")), ("bea", ("0", "2", "1"))):
        desk.judge(who, "rank", Decision(outcome="ranked", ranking=tuple((f"rank.{each}",) for each in order)))
        high = 5 if who == "ann" else 4
        desk.judge(who, "rate", Decision(outcome="rated", ratings={"rate.0": {"truth": high, "style": 2},
                                                                   "rate.1": {"truth": 1, "style": 2}}))
        desk.judge(who, "walk", walk(1, -1, None) if who == "ann" else walk(1, 1, -1))
    rows = {each.scale: each for each in agreement(desk.snapshot(), resamples=0) if each.group == "all"}
    assert list(rows) == ["verdict", "strength", "rating: truth", "rating: style", "step", "first error"]
    assert (rows["verdict"].items, rows["verdict"].percent.value) == (3, pytest.approx(2 / 3))
    assert (rows["rating: truth"].items, rows["rating: truth"].percent.value) == (2, 0.5)
    assert str(rows["rating: style"].alpha["interval"]) == "n/a (no variation)"
    assert (rows["step"].items, rows["step"].percent.value) == (2, 0.5)
    assert rows["first error"].percent.value == 0.0
    assert set(rows["first error"].alpha) == {"nominal"} and set(rows["step"].alpha) == {"ordinal", "interval"}


def test_ai_judges_are_split_by_whether_they_were_seen() -> None:
    desk = Desk()
    for number in range(8):
        name = f"t{number}"
        desk.task(name)
        desk.suggest("judge", name, prefer(name, 0, 2))
        seen = number < 4
        desk.judge("ann", name, prefer(name, 0 if seen or number == 4 else 1, 2), shown=seen)
    desk.task("elsewhere")
    desk.suggest("judge", "elsewhere", prefer("elsewhere", 1))
    desk.judge("ann", "elsewhere", prefer("elsewhere", 1), imported=True)
    found = {each.shown: each for each in against_judges(desk.snapshot()) if each.scale == "verdict"}
    assert {name: (each.labels, each.percent.value) for name, each in found.items()} == {
        "suggestion shown": (4, 1.0), "suggestion hidden": (4, 0.25), "not recorded": (1, 1.0)}
    assert str(found["suggestion shown"].cohen) == "n/a (no variation)"
    assert {each.judge for each in against_judges(desk.snapshot())} == {"judge"}
    assert labels_of(dataclasses.replace(desk.snapshot(), judgments=())) == []  # a suggestion never is a judgment


def test_a_judge_that_contradicts_itself_when_the_sides_are_swapped_says_a_tie() -> None:
    desk = Desk()
    for name in ("t1", "t2"):
        desk.task(name)
        desk.judge("ann", name, TIE if name == "t1" else prefer(name, 0, 1))
    desk.suggest("judge", "t1", prefer("t1", 0, 3))
    desk.suggest("judge", "t1", prefer("t1", 1, 3), swap_of="s0")
    desk.suggest("judge", "t2", prefer("t2", 0, 3))
    desk.suggest("judge", "t2", prefer("t2", 0, 1), swap_of="s2")
    assert {each.scale: each.percent.value for each in against_judges(desk.snapshot())} == {
        "verdict": 1.0, "strength": 1.0}


def test_a_judge_may_be_an_annotator() -> None:
    desk = Desk()
    desk.task("t")
    desk.judge("ann", "t", prefer("t", 0))
    desk.judge("gpt", "t", prefer("t", 1), origin="ai")
    (found,) = [each for each in against_judges(desk.snapshot()) if each.scale == "verdict"]
    assert (found.judge, found.percent.value) == ("gpt", 0.0)


def shown(snapshot: Snapshot, *, width: int = 160) -> str:
    written = io.StringIO()
    show_agreement(snapshot, Console(file=written, width=width))
    return written.getvalue()


def test_a_narrow_terminal_cuts_nothing() -> None:
    """Every letter and figure of a wide one is there, on more lines."""
    desk, _ = random_desk()
    desk.task("t", batch="a name that is longer than it need be")
    desk.judge("somebody-with-a-very-long-pseudonym", "t", prefer("t", 0))
    narrow, wide = shown(desk.snapshot(), width=80), shown(desk.snapshot(), width=1000)
    assert "…" not in narrow and max(map(len, narrow.splitlines())) <= 80 < max(map(len, wide.splitlines()))
    count = [collections.Counter(letter for letter in text if letter.isalnum()) for text in (narrow, wide)]
    assert count[0] == count[1]


def test_what_is_piped_is_as_wide_as_it_likes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    desk = opened(tmp_path, completions(3), plan=Plan(overlap=2))
    for name in ("somebody-with-a-very-long-pseudonym", "bea"):
        Visitor(desk, name).work(outcome="tie")
    desk.close()
    assert main(["agreement", "--db", str(tmp_path / "annotations.db")]) == 0
    printed = capsys.readouterr().out
    assert "n/a (no variation)" in printed and "bea and somebody-with-a-very-long-pseudonym" in printed


def test_the_terminal_shows_every_number_and_names_as_they_are() -> None:
    desk, _ = random_desk()
    desk.task("t", batch="[red]not markup[/red]")
    desk.judge("ann0", "t", prefer("t", 0))
    desk.suggest("judge", "t", prefer("t", 0))
    text = shown(desk.snapshot())
    for wanted in ("Agreement: verdict", "alpha (interval)", "ann0 and ann1", "[red]not markup[/red]",
                   "Agreement with AI judges", "suggestion hidden", "Annotators", "n/a (no overlap)"):
        assert wanted in text
    alpha = row(desk.snapshot(), "strength").alpha["interval"].value
    assert f"{alpha:.2f} [" in text
    assert shown(Desk().snapshot()) == "Nothing has been judged yet.\n"
