"""Export: what a policy keeps and leaves out, the forms, and that the same snapshot gives the same bytes."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from data.annotate.export import ENDINGS, export, pairs, write_export
from data.annotate.policy import FORMATS, OPTIONS, PAIRED, Policy
from data.annotate.records import Decision, Snapshot
from data.files import read_conversations
from data.preferences import read_pairs
from data.schema import PreferencePair, UserError
from tests.data.annotate.desk_made import BOTH_BAD, FLAG, SKIP, STEPS, TIE, Desk, busy_desk, prefer, walk

ROOT = Path(__file__).parents[3]


def voted(*decisions: Decision, **task: Any) -> Desk:
    """One task, `t`, and what ann, bea, cyd, ... decided of it."""
    desk = Desk()
    desk.task("t", **task)
    for who, decision in zip(("ann", "bea", "cyd", "dan"), decisions):
        desk.judge(who, "t", decision)
    return desk


def found(desk: Desk, **policy: Any) -> list[PreferencePair]:
    return pairs(desk.snapshot(), Policy(**policy))[0]


def left_out(desk: Desk, **policy: Any) -> dict[str, int]:
    return export(desk.snapshot(), Policy(**policy)).left_out


# ------------------------------------------------------------------------------------------------------- resolution


def test_a_row_says_where_it_comes_from() -> None:
    desk = Desk()
    desk.task("t", language="zh", candidate={"generator_type": "gold", "error_kind": "slipped_digit"}, split="dev")
    desk.judge("ann", "t", prefer("t", 0, 3), first="t.1")
    (row,) = found(desk)
    assert row == PreferencePair(
        id=row.id, prompt=[{"role": "user", "content": "t?"}], chosen="good", rejected="bad", origin="human",
        annotator="ann", strength=1.0, question_id="q-t", operand_key="k-t", language="zh", error_kind="slipped_digit",
        split="dev", chosen_from="gold", prompt_hash="g1", shown_order=None)
    (row,) = found(desk, resolution="each", shown_order="keep")
    assert row.shown_order == "rejected_first"
    assert len(row.id) == 16


def test_the_majority_is_more_than_half() -> None:
    two_to_one = voted(prefer("t", 0, 1), prefer("t", 1, 3), prefer("t", 0, 2))
    (row,) = found(two_to_one)
    assert (row.chosen, row.annotator, row.strength) == ("good", "ann+cyd", 0.5)
    split = voted(prefer("t", 0), prefer("t", 1), TIE)
    assert found(split) == [] and left_out(split) == {"comparisons without a majority": 1}
    assert found(voted(prefer("t", 0), prefer("t", 1))) == []
    assert left_out(voted(TIE, TIE, prefer("t", 0))) == {"ties": 1}


def test_each_judgment_for_itself() -> None:
    desk = voted(prefer("t", 0, 1), prefer("t", 1, 3), TIE, SKIP)
    assert [(row.chosen, row.annotator, row.strength) for row in found(desk, resolution="each")] == [
        ("good", "ann", 1 / 3), ("bad", "bea", 1.0)]
    assert left_out(desk, resolution="each") == {"ties": 1, "skipped judgments": 1}


def test_an_adjudicator_settles_a_task_unless_the_majority_shall() -> None:
    desk = voted(prefer("t", 0), prefer("t", 0), prefer("t", 1))
    desk.judge("eve", "t", prefer("t", 1, 3), role="adjudicator")
    (row,) = found(desk, min_agreement=1.0, min_judgments=4)
    assert (row.chosen, row.annotator) == ("bad", "eve")
    (row,) = found(desk, resolution="majority")
    assert (row.chosen, row.annotator) == ("good", "ann+bea")
    assert {row.annotator for row in found(desk, resolution="each")} == {"ann", "bea", "cyd"}


def test_limits_on_judgments_and_agreement() -> None:
    desk = voted(prefer("t", 0), prefer("t", 0), prefer("t", 1))
    assert left_out(desk, min_judgments=4) == {"tasks with fewer than 4 judgments": 1}
    assert found(desk, min_judgments=3) != []
    assert left_out(desk, min_agreement=0.7) == {"comparisons with agreement below 0.7": 1}
    assert found(desk, min_agreement=0.66) != [] and found(desk, min_agreement=0.67) != []  # two of three
    assert [row.annotator for row in found(desk, min_agreement=0.6, resolution="each")] == ["ann", "bea"]


def test_skips_count_for_nothing_and_a_flag_may_veto() -> None:
    desk = voted(prefer("t", 0), FLAG, SKIP)
    assert len(found(desk)) == 1 and left_out(desk) == {"flagged judgments": 1, "skipped judgments": 1}
    assert found(desk, min_judgments=2) == []
    assert left_out(desk, skips="veto") == {"flagged judgments": 1, "skipped judgments": 1,
                                            "tasks that somebody flagged": 1}
    assert left_out(voted(SKIP)) == {"skipped judgments": 1, "tasks without a judgment that counts": 1}


def test_a_tie_that_is_kept_goes_both_ways_at_half_the_weight() -> None:
    rows = found(voted(TIE), ties="keep")
    assert [(row.chosen, row.rejected, row.weight, row.strength) for row in rows] == [
        ("good", "bad", 0.5, 0.0), ("bad", "good", 0.5, 0.0)]
    assert rows[0].id != rows[1].id
    implicit = export(voted(TIE).snapshot(), Policy(format="trl-implicit", ties="keep")).rows
    assert [row["margin"] for row in implicit] == [0.0, 0.0]


def test_margins_are_the_policys_and_means_over_the_votes() -> None:
    desk = voted(prefer("t", 0, 1), prefer("t", 0, 3), prefer("t", 1, 2))
    (row,) = export(desk.snapshot(), Policy(format="trl-implicit", margins=(0, 0.5, 1, 4))).rows
    assert row["margin"] == 2.25 and row["strength"] == pytest.approx(2 / 3)
    assert row["chosen"] == [{"role": "user", "content": "t?"}, {"role": "assistant", "content": "good"}]


def test_what_is_superseded_void_late_repeated_gold_or_held_out_gives_no_row() -> None:
    desk = voted(prefer("t", 1))
    desk.judge("ann", "t", prefer("t", 0), supersedes="j1")
    desk.task("gold", gold=prefer("gold", 0))
    desk.task("again", repeat_of="t")
    desk.task("test", split="test")
    desk.task("late")
    for name in ("gold", "again", "test"):
        desk.judge("ann", name, prefer("t" if name == "again" else name, 0))
    desk.judge("ann", "late", prefer("late", 0), status="surplus")
    (row,) = found(desk)
    assert row.chosen == "good" and row.question_id == "q-t"
    assert left_out(desk) == {
        "gold tasks": 1, "judgments taken back or corrected": 1, "judgments that came after their task was full": 1,
        "tasks of the test split": 1, "tasks that repeat another": 1, "tasks without a judgment that counts": 1}
    everything = found(desk, gold="keep", splits=("train", "test"))
    assert {row.question_id for row in everything} == {"q-t", "q-gold", "q-test"}


def test_sources_are_never_mixed() -> None:
    desk = voted(prefer("t", 0))
    desk.judge("sim", "t", prefer("t", 1), origin="simulated")
    desk.judge("gpt", "t", prefer("t", 1), origin="ai")
    desk.suggest("judge", "t", prefer("t", 0), prompt_hash="h")
    desk.suggest("rule", "t", prefer("t", 1))
    rows = found(desk, sources=("human", "simulated", "ai", "rule"), min_judgments=1)
    assert {(row.origin, row.annotator, row.chosen, row.prompt_hash) for row in rows} == {
        ("human", "ann", "good", "g1"), ("simulated", "sim", "bad", "g1"), ("ai", "gpt", "bad", "g1"),
        ("ai", "judge", "good", "h"), ("rule", "rule", "bad", None)}
    assert [row.origin for row in found(desk)] == ["human"]
    assert left_out(desk) == {"judgments by ai annotators": 1, "judgments by simulated annotators": 1}


def test_an_ai_judge_that_contradicts_itself_gives_no_pair() -> None:
    desk = voted()
    desk.suggest("judge", "t", prefer("t", 0))
    desk.suggest("judge", "t", prefer("t", 1), swap_of="s0")
    assert left_out(desk, sources=("ai",)) == {"ties": 1}


def test_rankings_and_ratings_give_a_pair_for_every_two() -> None:
    desk = Desk()
    desk.task("t", ["x", "y", "z"], kind="ranking")
    desk.judge("ann", "t", Decision(outcome="ranked", ranking=(("t.2",), ("t.0", "t.1"))))
    assert [(row.chosen, row.rejected) for row in found(desk)] == [("z", "x"), ("z", "y")]
    assert left_out(desk) == {"ties": 1}
    desk = Desk()
    desk.task("t", ["x", "y", "z"], kind="rating", aspects=("truth", "style"))
    desk.judge("ann", "t", Decision(outcome="rated", ratings={
        name: {"truth": truth, "style": 3} for name, truth in (("t.0", 1), ("t.1", 2), ("t.2", 5))}))
    assert [(row.chosen, row.rejected, round(3 * row.strength)) for row in found(desk)] == [
        ("y", "x", 1), ("z", "x", 2), ("z", "y", 2)]


# ----------------------------------------------------------------------------------------------- rewrites and steps


def test_a_rewrite_is_preferred_over_every_candidate_and_a_demonstration() -> None:
    desk = voted(Decision(outcome="both_bad", rewrite="best"), prefer("t", 0))
    rows = found(desk)
    assert [(row.chosen, row.rejected, row.chosen_from, row.annotator) for row in rows] == [
        ("best", "good", "human", "ann"), ("best", "bad", "human", "ann")]
    assert found(desk, rewrites="drop") == []
    (shown,) = export(desk.snapshot(), Policy()).sft
    assert shown["prompt"] == [{"role": "user", "content": "t?"}]
    assert shown["completion"] == [{"role": "assistant", "content": "best"}] and shown["annotator"] == "ann"
    same = voted(Decision(outcome="both_bad", rewrite="good"))
    assert left_out(same)["pairs whose sides are the same text"] == 1


def test_a_rewrite_is_one_persons_work_of_which_no_agreement_is_asked() -> None:
    desk = voted(Decision(outcome="both_bad", rewrite="best"), prefer("t", 0), prefer("t", 0))
    rows = found(desk, min_agreement=1.0)
    assert {(row.chosen, row.annotator) for row in rows} == {("best", "ann")}
    assert "rewrite" in OPTIONS["min_agreement"].metadata["help"]  # which the card repeats


def test_rewrites_that_are_dropped_are_written_nowhere(tmp_path: Path) -> None:
    snapshot = voted(Decision(outcome="both_bad", rewrite="best"), prefer("t", 0), prefer("t", 0)).snapshot()
    assert export(snapshot, Policy(rewrites="drop")).sft == []
    with pytest.raises(UserError, match=r"--sft .*--rewrites drop leaves out"):
        write_export(tmp_path / "a.jsonl", snapshot, Policy(rewrites="drop"), sft=tmp_path / "b.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_correction_is_preferred_over_the_first_wrong_step_after_the_right_ones() -> None:
    desk = voted(walk(1, -1, None, correction="Growth: 6 / 40 = 15%\n", tag="wrong_fact"), kind="stepwise", texts=STEPS)
    (row,) = found(desk)
    assert (row.kind, row.prefix) == ("process", "Change: 46 - 40 = 6\n")
    assert (row.chosen, row.rejected) == ("Growth: 6 / 40 = 15%\n", "Growth: 6 / 46 = 13%\n")
    assert (row.strength, row.error_kind, row.chosen_from) == (1.0, "wrong_fact", "human")
    assert found(desk, kinds=("outcome",)) == []
    explicit = export(desk.snapshot(), Policy(format="trl")).rows[0]
    assert explicit["prompt"][-1] == {"role": "assistant", "content": row.prefix}
    implicit = export(desk.snapshot(), Policy(format="trl-implicit")).rows[0]
    assert implicit["chosen"][-1]["content"] == row.prefix + row.chosen


def test_the_last_step_ends_the_answer_and_the_first_has_no_prefix() -> None:
    last = voted(walk(1, 1, -1, correction="Answer: 15%"), kind="stepwise", texts=STEPS)
    assert [(row.chosen, row.rejected) for row in found(last)] == [("Answer: 15%", "Answer: 13%")]
    first = voted(walk(-1, None, None, correction="Change: 6"), kind="stepwise", texts=STEPS)
    assert [row.prefix for row in found(first)] == [""]


@pytest.mark.parametrize(("decisions", "reason"), [
    ([walk(1, 1, 1)], "solutions without a wrong step"),
    ([walk(1, -1, None, correction_declined=True)], "wrong steps without a correction"),
    ([walk(1, -1, None, correction=STEPS[1] + " ")], "pairs whose sides are the same text"),
    ([walk(1, -1, None, correction=" ")], "pairs with an empty side"),
    ([walk(1, -1, None, correction="x"), walk(-1, None, None, correction="y")], "first errors without a majority")])
def test_walks_that_give_no_pair_are_counted(decisions: list[Decision], reason: str) -> None:
    desk = voted(*decisions, kind="stepwise", texts=STEPS)
    assert found(desk) == [] and left_out(desk) == {reason: 1}


def test_every_correction_of_the_majority_is_kept_once() -> None:
    desk = voted(walk(1, -1, None, correction="x"), walk(1, -1, None, correction="w"),
                 walk(1, -1, None, correction="x"), walk(-1, None, None, correction="y"), kind="stepwise", texts=STEPS)
    assert [(row.chosen, row.annotator) for row in found(desk)] == [("w\n", "bea"), ("x\n", "ann+cyd")]


@pytest.mark.parametrize(("neutral", "labels"), [
    ("true", [True, True, False]), ("false", [True, False, False]), ("half", [1.0, 0.5, 0.0]), ("cut", [True])])
def test_steps_get_labels_and_the_neutral_ones_as_the_policy_says(neutral: str, labels: list[Any]) -> None:
    desk = voted(walk(1, 0, -1), kind="stepwise", texts=STEPS)
    (row,) = export(desk.snapshot(), Policy(format="trl-stepwise", neutral=neutral)).rows
    assert row["labels"] == labels and list(map(type, row["labels"])) == list(map(type, labels))
    assert row["completions"] == STEPS[:len(labels)]
    assert (row["prompt"], row["origin"], row["annotator"]) == ("t?", "human", "ann")


def test_steps_that_were_not_judged_are_cut_off() -> None:
    desk = voted(walk(1, -1, None), walk(1, -1, None), walk(1, 1, 1), kind="stepwise", texts=STEPS)
    policy = Policy(format="trl-stepwise")
    (row,) = export(desk.snapshot(), policy).rows
    assert (row["labels"], row["completions"]) == ([True, False], STEPS[:2])
    split = voted(walk(1, -1, None), walk(1, 1, 1), kind="stepwise", texts=STEPS)
    assert export(split.snapshot(), policy).rows[0]["labels"] == [True]
    desk = voted(walk(None, None, None), kind="stepwise", texts=STEPS)
    assert export(desk.snapshot(), policy).left_out == {"solutions whose first step has no label": 1}
    assert export(voted(TIE).snapshot(), policy).left_out == {"tasks without steps": 1}


def test_line_breaks_at_a_steps_end_stay_where_the_answer_goes_on() -> None:
    middle = voted(walk(1, -1, None, correction="x"), kind="stepwise", texts=["a\n", "b\n ", "c\n"])
    assert [(row.prefix, row.chosen, row.rejected) for row in found(middle)] == [("a\n\n", "x\n \n", "b\n \n")]
    last = voted(walk(1, 1, -1, correction="x"), kind="stepwise", texts=["a\n", "b\n ", "c\n"])
    assert [(row.chosen, row.rejected) for row in found(last)] == [("x", "c")]
    (row,) = export(last.snapshot(), Policy(format="trl-stepwise")).rows
    assert row["completions"] == ["a", "b", "c"]


def test_blank_lines_are_no_steps_to_label_but_stay_in_a_prefix() -> None:
    desk = voted(walk(1, None, -1, correction="x"), kind="stepwise", texts=["a", "", "b", ""])
    (row,) = export(desk.snapshot(), Policy(format="trl-stepwise")).rows
    assert (row["completions"], row["labels"]) == (["a", "b"], [True, False])
    assert [(row.prefix, row.chosen) for row in found(desk)] == [("a\n\n", "x\n")]


def test_single_answers_are_good_or_not() -> None:
    def labels(desk: Desk, **policy: Any) -> list[tuple[str, bool]]:
        rows = export(desk.snapshot(), Policy(format="trl-unpaired", **policy)).rows
        return [(row["completion"][0]["content"], row["label"]) for row in rows]

    assert labels(voted(prefer("t", 1))) == [("good", False), ("bad", True)]
    assert labels(voted(BOTH_BAD)) == [("good", False), ("bad", False)]
    assert labels(voted(Decision(outcome="both_bad", rewrite="best"))) == [
        ("good", False), ("bad", False), ("best", True)]
    assert labels(voted(TIE)) == []
    assert labels(voted(prefer("t", 0), prefer("t", 0, 3)), resolution="each") == [
        ("good", True), ("bad", False), ("good", True), ("bad", False)]
    disputed = voted(prefer("t", 0), prefer("t", 1))
    assert labels(disputed, resolution="each") == []
    assert left_out(disputed, format="trl-unpaired", resolution="each") == {
        "answers that annotators call both good and not": 2}
    desk = Desk()
    desk.task("t", ["x", "y", "z"], kind="ranking")
    desk.judge("ann", "t", Decision(outcome="ranked", ranking=(("t.0",), ("t.1",), ("t.2",))))
    assert labels(desk) == [("x", True), ("z", False)]
    assert left_out(desk, format="trl-unpaired") == {"answers that are better than one and worse than another": 1}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_an_answer_between_two_others_has_no_label_in_whichever_tasks(order: tuple[int, ...]) -> None:
    """Best over middle, middle over worst, best over worst, a task each, as `--pairing all` makes them."""
    desk, texts = Desk(), ("best", "middle", "worst")
    for place in order:
        better, worse = [(0, 1), (1, 2), (0, 2)][place]
        desk.task(f"t{place}", [texts[better], texts[worse]], question="one question?")
        desk.judge("ann", f"t{place}", prefer(f"t{place}", 0))
    rows = export(desk.snapshot(), Policy(format="trl-unpaired")).rows
    assert sorted((row["completion"][0]["content"], row["label"]) for row in rows) == [("best", True), ("worst", False)]
    assert left_out(desk, format="trl-unpaired") == {
        "answers that are better than one and worse than another": 1, "answers that are there already": 2}


# ------------------------------------------------------------------------------------------------------- stable bytes


def shuffled(desk: Desk) -> Snapshot:
    """The same judgments, arrived in another order, assigned in another order."""
    draw = random.Random(9)
    judgments = draw.sample(desk.judgments, len(desk.judgments))
    desk.judgments = [dataclasses.replace(each, seq=seq) for seq, each in enumerate(judgments, start=1)]
    desk.assignments, desk.annotators = desk.assignments[::-1], desk.annotators[::-1]
    return desk.snapshot()


@pytest.mark.parametrize("resolution", ["majority", "adjudicated", "each"])
@pytest.mark.parametrize("form", FORMATS)
def test_neither_the_order_of_the_sides_nor_that_of_the_judgments_changes_a_byte(
        form: str, resolution: str, tmp_path: Path) -> None:
    policy = Policy(format=form, resolution=resolution, sources=("human", "ai"),
                    ties="keep" if form in PAIRED else "drop")
    first, other = busy_desk(sides=1).snapshot(), shuffled(busy_desk(sides=2))
    assert [each.slots for each in first.assignments] != [each.slots for each in other.assignments]
    for name, snapshot in (("a", first), ("b", other)):
        write_export(tmp_path / f"{name}.jsonl", snapshot, policy, sft=tmp_path / f"{name}.sft.jsonl")
        write_export(tmp_path / f"{name}.parquet", snapshot, policy)
    for ending in (".jsonl", ".sft.jsonl", ".parquet"):
        assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


def test_another_process_elsewhere_writes_the_same_bytes(tmp_path: Path) -> None:
    """Other hash seed, locale, time zone and working folder; the cards too. Nothing heavy is imported."""
    code = ("import sys; import data.annotate.tables; from data.annotate.export import write_export; "
            "from data.annotate.policy import Policy; from tests.data.annotate.desk_made import busy_desk; "
            "write_export(sys.argv[1], busy_desk().snapshot(), Policy(sources=('human', 'ai'), ties='keep')); "
            "print([name for name in ('torch', 'transformers', 'trl', 'datasets', 'pandas') if name in sys.modules])")
    written = []
    for number, (seed, locale, zone) in enumerate([("1", "C", "UTC"), ("2", "C.UTF-8", "Asia/Shanghai")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        env = {**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": locale, "TZ": zone, "PYTHONWARNINGS": "ignore",
               "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        said = subprocess.run([sys.executable, "-c", code, "out.jsonl"], cwd=folder, env=env, check=True,
                              capture_output=True, text=True)
        assert said.stdout == "[]\n"
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {"out.jsonl", "out.jsonl.card.json", "out.jsonl.card.md"}


# -------------------------------------------------------------------------------------------------- files and cards


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("form", PAIRED)
def test_files_are_read_back_as_the_pairs_they_hold(form: str, ending: str, tmp_path: Path) -> None:
    snapshot = busy_desk().snapshot()
    policy = Policy(format=form, ties="keep", resolution="each")
    write_export(tmp_path / f"pairs{ending}", snapshot, policy)
    expected, _ = pairs(snapshot, policy)
    assert read_pairs(tmp_path / f"pairs{ending}") == expected
    assert {row.kind for row in expected} == {"outcome", "process"}


def test_rewrites_are_conversations_to_fine_tune_on(tmp_path: Path) -> None:
    write_export(tmp_path / "pairs.jsonl", busy_desk().snapshot(), Policy(), sft=tmp_path / "rewrites.jsonl")
    (tmp_path / "pairs.jsonl").unlink()
    conversations, _ = read_conversations(tmp_path)  # the card is there too, and no table
    assert {row[-1]["content"] for row in conversations} == {"写得更好"}


def test_a_parquet_column_without_values_is_text(tmp_path: Path) -> None:
    write_export(tmp_path / "p.parquet", voted(prefer("t", 0)).snapshot(), Policy(format="finalign"))
    schema = pyarrow.parquet.read_schema(tmp_path / "p.parquet")
    assert {str(schema.field(name).type) for name in ("shown_order", "error_kind", "question_kind")} == {"string"}


def test_the_card_says_the_policy_and_what_was_left_out(tmp_path: Path) -> None:
    desk = busy_desk()
    desk.task("hostile")
    for who in ("a|[b](c)<d>", "ann"):
        desk.judge(who, "hostile", prefer("hostile", 1))
    card = write_export(tmp_path / "out.jsonl", desk.snapshot(), Policy(min_judgments=2), sft=tmp_path / "s.jsonl")
    written = json.loads((tmp_path / "out.jsonl.card.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(card.content))
    assert written["rows"] == len((tmp_path / "out.jsonl").read_bytes().splitlines())
    assert written["policy"]["min_judgments"] == 2 and set(written["policy"]) == set(OPTIONS)
    assert written["snapshot"]["sha256"] == desk.snapshot().sha256()
    assert sum(written["counts"]["annotator"].values()) == written["rows"]
    assert written["left_out"]["skipped judgments"] == sum(
        each.decision.outcome == "skip" for each in desk.judgments)
    assert written["sft"] == {"file": "s.jsonl", "rows": len((tmp_path / "s.jsonl").read_bytes().splitlines())}
    assert written["counts"]["annotator"]["ann+a|[b](c)<d>"] == 1
    text = (tmp_path / "out.jsonl.card.md").read_text(encoding="utf-8")
    assert "| min_judgments | 2 | least number of people's judgments of a task |" in text
    assert f"| {written['left_out']['skipped judgments']} | skipped judgments |" in text and written["sha256"] in text
    assert "a\\|\\[b](c)&lt;d>" in text and "a|[b]" not in text


def test_where_nothing_is_left_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no row is left to export \(left out: 1 x ties\); judge more, or choose"):
        write_export(tmp_path / "out.jsonl", voted(TIE).snapshot(), Policy())
    with pytest.raises(UserError, match="there is no rewrite"):
        write_export(tmp_path / "out.jsonl", voted(prefer("t", 0)).snapshot(), Policy(), sft=tmp_path / "sft.jsonl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("path", "sft", "message"), [
    ("out.csv", None, r"a file of kind '\.csv' cannot be written; let its name end in \.jsonl or \.parquet"),
    ("out.jsonl", "out.jsonl", "is the file of the pairs too"),
    ("out.jsonl", "sft.txt", r"a file of kind '\.txt'")])
def test_wrong_paths(path: str, sft: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        write_export(tmp_path / path, voted(prefer("t", 0)).snapshot(), Policy(),
                     sft=None if sft is None else tmp_path / sft)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("policy", "message"), [
    ({"format": "hh-rlhf"}, "--format hh-rlhf: choose from finalign, trl, trl-implicit, trl-unpaired, trl-stepwise"),
    ({"ties": "maybe"}, "--ties maybe: choose from drop, keep"),
    ({"sources": ("human", "robot")}, r"--sources robot: choose from human, simulated, ai, rule \(one or more\)"),
    ({"kinds": ()}, "--kinds nothing: choose from outcome, process"),
    ({"min_judgments": 0}, "--min-judgments 0: must be 1 or more"),
    ({"min_agreement": 1.5}, "--min-agreement 1.5: must be from 0 to 1"),
    ({"margins": (0.0, 1.0)}, "--margins 0.0,1.0: must be four numbers"),
    ({"margins": (0.0, 1.0, 2.0, float("nan"))}, "must be four numbers"),
    ({"ties": "keep", "format": "trl-unpaired"}, "a tie has no honest form in trl-unpaired"),
    ({"shown_order": "keep"}, "use it with --resolution each"),
    ({"format": "trl-stepwise", "kinds": ("outcome",)}, "--kinds leaves out"),
    ({"format": "trl-unpaired", "kinds": ("process",)}, "--kinds leaves out"),
    ({"batches": ("nowhere",)}, "--batches nowhere: no batch has that name; there are first")])
def test_policies_that_cannot_be_followed(policy: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        export(voted(prefer("t", 0)).snapshot(), Policy(**policy))


def test_a_batch_can_be_chosen() -> None:
    desk = voted(prefer("t", 0))
    desk.task("u", batch="other")
    desk.judge("ann", "u", prefer("u", 0))
    assert [row.question_id for row in found(desk, batches=("other",))] == ["q-u"]
    assert left_out(desk, batches=("other",)) == {"tasks of other batches": 1}


def test_every_option_of_a_policy_is_explained() -> None:
    assert all(field.metadata["help"] for field in OPTIONS.values())
    assert Policy.from_json(json.loads(json.dumps(Policy().to_json()))) == Policy()
