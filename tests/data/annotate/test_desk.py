"""Overlap, leases, undo, drafts, gold and repeated tasks, adjudication: the desk's rules, worked through its API."""

from __future__ import annotations

import datetime
import itertools
import random
import uuid
from collections import Counter
from pathlib import Path

import pytest

from data.annotate.agreement import against_judges
from data.annotate.desk import Desk, Refused
from data.annotate.ledger import append
from data.annotate.pairing import Plan
from data.annotate.records import Annotator, Decision, Suggestion
from data.annotate.turns import REPEAT_GAP, slots_of
from data.schema import UserError
from tests.data.annotate.desk_opened import Visitor, completions, imported, opened

PREFER = {"outcome": "prefer", "preferred": "a", "strength": 2}


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.moment = datetime.datetime(2026, 5, 1, 9, tzinfo=datetime.UTC)

    def __call__(self) -> datetime.datetime:
        return self.moment

    def wait(self, **time: float) -> None:
        self.moment += datetime.timedelta(**time)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def ticking(desk: Desk, clock: Clock) -> Desk:
    desk.clock = clock
    return desk


# ----------------------------------------------------------------------------------------------------------- overlap


@pytest.mark.parametrize("overlap", [1, 2, 3])
def test_overlap_is_reached_exactly(tmp_path: Path, overlap: int) -> None:
    desk = opened(tmp_path, completions(5), plan=Plan(overlap=overlap))
    people = [desk.sign_in(f"p{number}") for number in range(4)]
    draw = random.Random(overlap)
    while people:
        person = draw.choice(people)
        lent = desk.next(person)
        if not lent:
            people.remove(person)
        else:
            desk.submit(person, id=str(uuid.uuid4()), assignment=lent[0].id, decision=PREFER)
    judged = Counter(judgment.task_id for judgment in desk.snapshot().standing())
    assert set(judged.values()) == {overlap} and len(judged) == 5
    pairs = {(judgment.task_id, judgment.annotator) for judgment in desk.snapshot().standing()}
    assert len(pairs) == 5 * overlap


def test_two_people_never_hold_the_same_last_place(tmp_path: Path) -> None:
    desk = opened(tmp_path, completions(1))
    anna, bea = Visitor(desk, "anna"), Visitor(desk, "bea")
    assert anna.post("next")["current"] is not None
    left = bea.post("next")
    assert left["current"] is None and left["reason"] == "leased" and left["retry_after_s"] > 0


def test_a_lease_that_ran_out_comes_back(tmp_path: Path, clock: Clock) -> None:
    desk = ticking(opened(tmp_path, completions(1)), clock)
    anna, bea = Visitor(desk, "anna"), Visitor(desk, "bea")
    shown = anna.post("next")["current"]
    clock.wait(minutes=29)
    assert bea.post("next")["current"] is None
    clock.wait(minutes=2)
    assert bea.post("next")["current"] is not None
    assert anna.post("next")["current"] is None  # it is bea's now
    late = anna.decide(shown, **PREFER)  # not lost, and not counted
    assert late["status"] == "surplus"
    assert bea.decide(**PREFER)["status"] == "submitted"
    snapshot = desk.snapshot()
    assert [judgment.annotator for judgment in snapshot.standing()] == ["bea"] and len(snapshot.judgments) == 2


def test_opening_and_drafting_renew_the_lease(tmp_path: Path, clock: Clock) -> None:
    desk = ticking(opened(tmp_path, completions(1)), clock)
    anna, bea = Visitor(desk, "anna"), Visitor(desk, "bea")
    shown = anna.post("next")["current"]
    for _ in range(4):
        clock.wait(minutes=20)
        anna.post("draft", assignment=shown["id"], draft={"rationale": "thinking"})
        assert bea.post("next")["current"] is None
    clock.wait(minutes=20)
    anna.post("open", assignment=shown["id"])
    clock.wait(minutes=20)
    assert bea.post("next")["current"] is None
    assert anna.decide(shown, **PREFER)["status"] == "submitted"


def test_a_late_judgment_counts_where_nobody_took_the_place(tmp_path: Path, clock: Clock) -> None:
    desk = ticking(opened(tmp_path, completions(1)), clock)
    anna = Visitor(desk, "anna")
    shown = anna.post("next")["current"]
    clock.wait(days=3)
    assert anna.decide(shown, **PREFER)["status"] == "submitted"


def test_who_comes_back_sees_the_same_order(tmp_path: Path, clock: Clock) -> None:
    desk = ticking(opened(tmp_path, completions(1)), clock)
    anna = Visitor(desk, "anna")
    first = anna.post("next")["current"]
    clock.wait(days=1)
    again = anna.post("next")["current"]
    assert (again["id"], again["slots"]) == (first["id"], first["slots"])


def test_a_skipped_task_goes_to_others_and_not_back(tmp_path: Path) -> None:
    desk = opened(tmp_path, completions(1))
    anna, bea = Visitor(desk, "anna"), Visitor(desk, "bea")
    anna.decide(outcome="skip", reason="I know the author")
    assert anna.post("next")["reason"] == "done"
    assert bea.decide(outcome="tie")["status"] == "submitted"
    assert anna.get("progress")["mine"] == {"judged": 0, "skipped": 1, "flagged": 0, "today": 1, "left": 0,
                                            "median_s": 1.5}


# -------------------------------------------------------------------------------------------------- order of the sides


def test_side_order_is_even_over_a_thousand_serves(tmp_path: Path) -> None:
    """Chi-square with one degree of freedom: 10.83 is passed by chance once in a thousand; and the order of a thousand
    assignments of one candidate says nothing of the next."""
    desk = opened(tmp_path, completions(50), plan=Plan(overlap=20))
    people = [desk.sign_in(f"p{number}") for number in range(20)]
    for person in people:
        assert len(desk.next(person, count=50)) == 50
    served = desk.snapshot().assignments
    assert len(served) == 1000
    first = sum(assignment.slots[0] == min(assignment.slots) for assignment in served)
    assert sum((count - 500) ** 2 / 500 for count in (first, 1000 - first)) < 10.83
    same = sum((a.slots[0] == min(a.slots)) == (b.slots[0] == min(b.slots))
               for a, b in itertools.pairwise(served))
    assert (same - 499.5) ** 2 / (999 / 4) < 10.83
    assert len({assignment.seed for assignment in served}) > 990


def test_the_order_shown_is_the_order_stored_and_what_its_seed_gives(tmp_path: Path) -> None:
    desk = opened(tmp_path)
    anna = Visitor(desk, "anna")
    for _ in range(10):
        shown = anna.post("next")["current"]
        snapshot = desk.snapshot()
        stored = snapshot.by_id("assignments")[shown["id"]]
        texts = [snapshot.by_id("candidates")[name].text for name in stored.slots]
        assert [slot["text"] for slot in shown["slots"]] == texts
        assert slots_of(snapshot.by_id("tasks")[stored.task_id], stored.seed) == stored.slots
        anna.decide(shown, **PREFER)
        judged = desk.snapshot().judgments[-1]
        assert judged.decision.preferred == stored.slots[0]


# --------------------------------------------------------------------------------------------------------------- undo


def test_undo_goes_back_over_submits_and_restarts(tmp_path: Path) -> None:
    desk = opened(tmp_path)
    anna = Visitor(desk, "anna")
    shown = []
    for preferred in ("a", "b", "a"):
        shown.append(anna.post("next")["current"])
        anna.decide(shown[-1], outcome="prefer", preferred=preferred, strength=3, rationale=f"because {preferred}")
    fourth = anna.post("next")["current"]
    desk.close()
    anna = Visitor(Desk.open(str(tmp_path / "annotations.db")), "anna")  # the server was started anew, the page too
    back = anna.post("undo", id=str(uuid.uuid4()))["next"]["current"]
    assert back["id"] == shown[2]["id"] and back["draft"]["rationale"] == "because a" and back["revises"]
    assert back["draft"]["elapsed_ms"] == 1500  # its clock goes on from there
    back = anna.post("undo", id=str(uuid.uuid4()))["next"]["current"]
    assert back["id"] == shown[1]["id"] and back["draft"]["preferred"] == "b"
    following = anna.decide(back, outcome="tie")["next"]["current"]
    assert following["id"] == shown[2]["id"]  # what lies open comes before what is new
    assert anna.decide(following, **PREFER)["next"]["current"]["id"] == fourth["id"]
    rows = anna.get("history")["judgments"]
    assert [row["status"] for row in rows] == ["submitted", "submitted", "void", "void", *["submitted"] * 3]
    snapshot = Desk.open(str(tmp_path / "annotations.db")).snapshot()
    assert len(snapshot.judgments) == 7 and len(snapshot.standing()) == 3
    assert [judgment.decision.outcome for judgment in snapshot.standing()] == ["prefer", "tie", "prefer"]


def test_undo_holds_the_place_until_the_lease_runs_out(tmp_path: Path, clock: Clock) -> None:
    desk = ticking(opened(tmp_path, completions(1)), clock)
    anna, bea = Visitor(desk, "anna"), Visitor(desk, "bea")
    anna.decide()
    anna.post("undo", id=str(uuid.uuid4()))
    assert desk.snapshot().standing() == [] and bea.post("next")["current"] is None
    clock.wait(hours=1)
    assert bea.post("next")["current"] is not None


def test_undo_posted_twice_takes_back_one(tmp_path: Path) -> None:
    desk = opened(tmp_path)
    anna = Visitor(desk, "anna")
    anna.decide()
    anna.decide()
    name = str(uuid.uuid4())
    assert anna.post("undo", id=name)["undone"] == anna.post("undo", id=name)["undone"]
    assert len(desk.snapshot().standing()) == 1


def test_nothing_is_taken_back_that_others_filled(tmp_path: Path) -> None:
    desk = opened(tmp_path, completions(1))
    anna, bea = Visitor(desk, "anna"), Visitor(desk, "bea")
    anna.decide(outcome="skip", reason="unsure")
    bea.decide()
    assert anna.post("undo", id=str(uuid.uuid4()))["undone"] is None
    assert bea.post("undo", id=str(uuid.uuid4()))["undone"] is not None
    assert anna.post("next")["undo"] is False


# ----------------------------------------------------------------------------------------------------- drafts and twice


def test_a_draft_survives_a_restart_and_ends_with_the_judgment(tmp_path: Path) -> None:
    desk = opened(tmp_path)
    anna = Visitor(desk, "anna")
    shown = anna.post("next")["current"]
    anna.post("draft", assignment=shown["id"], draft={"outcome": "both_bad", "rewrite": "写一半\ud83d"})
    anna = Visitor(Desk.open(str(tmp_path / "annotations.db")), "anna")
    again = anna.post("next")["current"]
    assert again["draft"] == {"outcome": "both_bad", "rewrite": "写一半\ud83d"} and again["id"] == shown["id"]
    anna.decide(again, outcome="both_bad", rewrite="Better.")
    assert anna.send("draft", assignment=shown["id"], draft={}).json()["error"]["code"] == "already_judged"


def test_posting_twice_gives_one_row(tmp_path: Path) -> None:
    desk = opened(tmp_path)
    anna, bea = Visitor(desk, "anna"), Visitor(desk, "bea")
    shown, name = anna.post("next")["current"], str(uuid.uuid4())
    answers = [anna.post("submit", id=name, assignment=shown["id"], decision=PREFER) for _ in range(3)]
    assert {answer["judgment"] for answer in answers} == {name} and len(desk.snapshot().judgments) == 1
    other = anna.send("submit", id=name, assignment=shown["id"], decision={"outcome": "tie"})
    assert other.status_code == 409 and other.json()["error"]["code"] == "conflict"
    second = anna.send("submit", id=str(uuid.uuid4()), assignment=shown["id"], decision=PREFER)
    assert second.json()["error"]["code"] == "already_judged"
    stolen = bea.send("submit", id=str(uuid.uuid4()), assignment=shown["id"], decision=PREFER)
    assert stolen.status_code == 404 and len(desk.snapshot().judgments) == 1
    assert anna.send("submit", id="1", assignment=shown["id"], decision=PREFER).status_code == 422


# ------------------------------------------------------------------------------------------------------- gold, repeats


def test_gold_and_repeated_tasks_come_in_their_shares_and_are_not_told(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{n}?", "chosen": f"right {n}", "rejected": f"wrong {n}", "gold": n < 60, "id": f"r{n}"}
            for n in range(260)]
    desk = opened(tmp_path, rows, gold_share=0.2, repeat_share=0.1)
    anna = desk.sign_in("anna")
    keys = set()
    for _ in range(240):
        lent = desk.next(anna, count=1)[0]
        keys.add(tuple(sorted(desk.shown("anna", lent.id))))
        desk.submit(anna, id=str(uuid.uuid4()), assignment=lent.id, decision=PREFER)
    assert len(keys) == 1  # nothing in the JSON tells one kind from another
    snapshot = desk.snapshot()
    tasks = snapshot.by_id("tasks")
    judged = [tasks[judgment.task_id] for judgment in snapshot.standing()]
    gold, repeats = sum(task.gold is not None for task in judged), [task for task in judged if task.repeat_of]
    assert abs(gold - 48) < 22 and abs(len(repeats) - 24) < 17  # 3.5 standard deviations
    order = [task.id for task in judged]
    for task in repeats:
        assert order.index(task.id) - order.index(str(task.repeat_of)) > REPEAT_GAP - 1
        assert task.candidate_ids == tasks[task.repeat_of].candidate_ids and task.gold is None
    assert len({task.repeat_of for task in repeats}) == len(repeats)


def test_a_batch_of_gold_tasks_alone_is_served(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{n}?", "chosen": "right", "rejected": "wrong", "gold": True} for n in range(5)]
    desk = opened(tmp_path, rows)
    assert [Visitor(desk, name).work(**PREFER) for name in ("anna", "bea")] == [5, 5]


@pytest.mark.parametrize("name", ["anna", "bea", "cyd", "dan"])
def test_the_counter_beside_the_tasks_tells_no_gold_or_repeated_one(tmp_path: Path, name: str) -> None:
    """What is judged and what is left add up to the same after every verdict, whichever kind of task it was on; where
    more gold tasks came than their share, the last ones raise it by one each, of every kind."""
    rows = [{"prompt": f"Q{n}?", "chosen": f"right {n}", "rejected": f"wrong {n}", "gold": n < 20, "id": f"r{n}"}
            for n in range(80)]
    desk = opened(tmp_path, rows, gold_share=0.2, repeat_share=0.1)
    anna = desk.sign_in(name)
    sums, shown = [], desk.waiting(anna)
    while shown["current"] is not None:
        mine = shown["progress"]["mine"]
        assert desk.progress(anna) == {"mine": mine, "batches": [
            {"id": desk.snapshot().batches[0].id, "name": "batch 1", "tasks": mine["judged"] + mine["left"],
             "done": mine["judged"], "left_for_me": mine["left"]}]}  # and nothing else
        assert set(shown["progress"]) == {"mine"} and mine["left"] > 0
        sums.append((mine["judged"] + mine["left"], mine["left"]))
        desk.submit(anna, id=str(uuid.uuid4()), assignment=shown["current"]["id"], decision=PREFER)
        shown = desk.waiting(anna)
    tasks = desk.snapshot().by_id("tasks")
    kinds = [tasks[judgment.task_id].min_judgments > 0 for judgment in desk.snapshot().standing()]
    assert kinds.count(True) == 60 and kinds.count(False) > 12
    assert shown["progress"]["mine"] == {**mine, "judged": len(kinds), "today": len(kinds), "left": 0}
    assert {total for total, left in sums if left > 1} == {sums[0][0]}
    last = [total for total, left in sums if left == 1]
    assert last == list(range(sums[0][0], sums[0][0] + len(last)))
    (batch,) = desk.progress(desk.sign_in("head", role="adjudicator"))["batches"]
    assert (batch["tasks"], batch["done"]) == (60, 60)  # of the batch's own tasks, not of anna's


# -------------------------------------------------------------------------------------------------------- adjudication


def test_an_adjudicator_settles_what_people_do_not_agree_on(tmp_path: Path) -> None:
    desk = opened(tmp_path, completions(3), plan=Plan(overlap=2))
    for name in ("anna", "bea"):
        visitor = Visitor(desk, name)
        while (current := visitor.post("next")["current"]) is not None:
            better = min(current["slots"], key=lambda slot: slot["text"])["slot"]
            disputed = "Question 1" in current["prompt"][0]["content"] and name == "bea"
            visitor.decide(current, **({"outcome": "both_bad"} if disputed else PREFER | {"preferred": better}))
    judge = desk.sign_in("head", role="adjudicator")
    assert desk.progress(judge)["mine"]["left"] == 1
    lent = desk.next(judge)
    assert len(lent) == 1 and desk.progress(judge)["mine"]["left"] == 1
    shown = desk.shown("head", lent[0].id)
    assert {other["outcome"] for other in shown["others"]} == {"prefer", "both_bad"}
    assert not any(name in str(shown) for name in ("anna", "bea", "secret-model"))
    made = desk.submit(judge, id=str(uuid.uuid4()), assignment=lent[0].id, decision={"outcome": "tie"})
    assert made.role == "adjudicator" and desk.next(judge) == []
    assert {desk.progress(person)["mine"]["left"] for person in (judge, desk.sign_in("anna"))} == {0}
    assert desk.next(desk.sign_in("other-head", role="adjudicator")) == []
    assert len(desk.snapshot().standing()) == 7


def test_an_adjudicator_cannot_be_had_by_name_alone(tmp_path: Path) -> None:
    desk = opened(tmp_path)
    desk.sign_in("head", role="adjudicator")
    assert Visitor(desk).send("session", annotator="head").status_code == 403
    with pytest.raises(Refused, match="known as adjudicator"):
        desk.sign_in("head", role="annotator")


# --------------------------------------------------------------------------------------------------------- suggestions


@pytest.mark.parametrize(("mode", "reveal"), [("hidden", False), ("hidden", True), ("shown", True)])
def test_a_suggestion_is_hidden_or_recorded_as_shown_and_never_counts(tmp_path: Path, mode: str, reveal: bool) -> None:
    desk = opened(tmp_path, completions(2), suggestions=mode, reveal=reveal)
    with desk.database.writing() as connection:
        append(connection, "import", "suggest", "test", [
            Suggestion(id=f"s-{task.id}", task_id=task.id, judge="secret-judge", confidence=0.9, decision=Decision(
                outcome="prefer", preferred=task.candidate_ids[0], strength=1)) for task in desk.snapshot().tasks])
    anna = Visitor(desk, "anna")
    current = anna.post("next")["current"]
    snapshot = desk.snapshot()
    stored = snapshot.by_id("assignments")[current["id"]]
    assert stored.suggestion_shown is (mode == "shown")
    assert (current["suggestion"] is not None) is (mode == "shown") and "secret-judge" not in str(current)
    assert len(snapshot.standing()) == 0 and anna.get("progress")["batches"][0]["done"] == 0
    told = anna.decide(current, **PREFER)["reveal"]
    if not reveal:
        assert told is None
        return
    assert told["suggestions"][0]["judge"] == "secret-judge" and told["reference"] == "the hidden reference"
    slot = told["suggestions"][0]["decision"]["preferred"]
    assert stored.slots["ab".index(slot)] == snapshot.by_id("tasks")[stored.task_id].candidate_ids[0]


def test_a_repeated_task_has_the_suggestion_of_its_first(tmp_path: Path) -> None:
    """Else it would be known as the one without, where suggestions are shown."""
    rows = [{"prompt": f"Q{n}?", "chosen": f"right {n}", "rejected": f"wrong {n}", "id": f"r{n}"} for n in range(30)]
    desk = opened(tmp_path, rows, judge="judge", suggestions="shown", gold_share=0.0, repeat_share=0.5)
    anna = desk.sign_in("anna")
    for _ in range(30):
        lent = desk.next(anna, count=1)[0]
        assert lent.suggestion_shown and desk.shown("anna", lent.id)["suggestion"]
        desk.submit(anna, id=str(uuid.uuid4()), assignment=lent.id, decision=PREFER)
    assert any(task.repeat_of for task in desk.snapshot().tasks)


def test_gold_tasks_are_refused_beside_shown_suggestions(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{n}?", "chosen": "right", "rejected": "wrong", "gold": n == 0} for n in range(3)]
    with pytest.raises(UserError, match="gold tasks would be known by their having none"):
        opened(tmp_path, rows, judge="judge", suggestions="shown")
    assert len(opened(tmp_path, rows, judge="judge").snapshot().tasks) == 3


def test_two_batches_are_worked_apart_or_together(tmp_path: Path) -> None:
    desk = opened(tmp_path, completions(3), name="first")
    imported(desk, tmp_path, completions(2), name="second")
    anna = Visitor(desk, "anna")
    second = next(batch["id"] for batch in anna.get("session")["batches"] if batch["name"] == "second")
    assert anna.post("next", batch=second)["current"]["batch"] == "second"
    assert anna.work(outcome="tie") == 5
    assert desk.person("anna") == Annotator(name="anna", created_at=desk.snapshot().annotators[0].created_at)


def test_a_verdict_taken_back_after_the_reveal_counts_for_no_agreement(tmp_path: Path) -> None:
    """The page shows the judge's suggestion after the verdict; the annotator takes theirs back and posts that one."""
    rows = [{"prompt": "Q?", "chosen": "right", "rejected": "wrong", "origin": "ai", "annotator": "judge"}]
    desk = opened(tmp_path, rows, reveal=True)
    anna = Visitor(desk, "anna")
    shown = anna.post("next")["current"]
    texts = {slot["text"]: slot["slot"] for slot in shown["slots"]}
    told = anna.decide(shown, outcome="prefer", preferred=texts["wrong"], strength=2)["reveal"]
    assert told["suggestions"][0]["decision"]["preferred"] == texts["right"]
    anna.post("undo", id=str(uuid.uuid4()))
    anna.decide(shown, outcome="prefer", preferred=texts["right"], strength=2)
    (verdict,) = [row for row in against_judges(desk.snapshot()) if row.scale == "verdict"]
    assert (verdict.labels, verdict.percent.value) == (1, 0.0)
    assert [judgment.decision.preferred for judgment in desk.snapshot().standing()] == [
        desk.snapshot().suggestions[0].decision.preferred]  # what is exported is the correction
