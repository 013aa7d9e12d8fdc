"""Whose turn it is for which task: overlap reached exactly, leases that come back, gold and repeated tasks mixed in.

Every function runs inside a writer's transaction, so that what it counts is still true when it writes. A task's places
are `min_judgments`; one is taken by a judgment and by a lease that has not run out. Somebody has one assignment of a
task at most: whoever comes back finds the answers in the order they were first shown in.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Select, and_, exists, func, or_, select, update

from data.annotate.ledger import ASSIGNMENTS, JUDGMENTS, SUGGESTIONS, TASKS, append, find, get, record, records
from data.annotate.records import Annotator, Assignment, Batch, Decision, Judgment, Task
from data.schema import content_id

REPEAT_GAP = 10  # a task comes again after at least so many others
TAKEN = ("judged", "open")


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """Who asks, and the clock: leases that ended before `moment` have run out, new ones end at `until`."""

    annotator: Annotator
    moment: str
    until: str
    seed_of: Callable[[Task], int]  # draws the order in which an assignment shows its answers
    batch: str | None = None  # None = any
    ui_version: str = ""


# ------------------------------------------------------------------------------------------------------------ places


def _is_taken(moment: str) -> Any:
    """The condition that an assignment takes one of its task's places."""
    a = ASSIGNMENTS.c
    return and_(a.role == "annotator", or_(a.state == "judged", and_(a.state == "open", a.leased_until > moment)))


def places_taken(task_id: Any, moment: str, *, besides: str | None = None) -> Any:
    """A scalar query: how many places of a task are taken, by others than `besides`."""
    a = ASSIGNMENTS.c
    others = [a.annotator != besides] if besides is not None else []
    return select(func.count()).select_from(ASSIGNMENTS).where(
        a.task_id == task_id, _is_taken(moment), *others).scalar_subquery()


def is_full(connection: Connection, task: Task, turn: Turn) -> bool:
    """Whether others have taken all places; gold and repeated tasks have one for everybody."""
    taken = connection.execute(select(places_taken(task.id, turn.moment, besides=turn.annotator.name))).scalar_one()
    return turn.annotator.role == "annotator" and 0 < task.min_judgments <= taken


# ------------------------------------------------------------------------------------------------------------- turns


def turns(connection: Connection, turn: Turn, *, count: int = 2) -> list[Assignment]:
    """The next `count` assignments of a person: what lies open, oldest first, then new ones. All leased until then."""
    found = [_renew(connection, each, turn) for each in open_ones(connection, turn)][:count]
    while len(found) < count and (task := choose(connection, turn)) is not None:
        found.append(assign(connection, task, turn))
    return found


def open_ones(connection: Connection, turn: Turn) -> list[Assignment]:
    """A person's open assignments, without those whose lease ran out and whose task others have filled since."""
    a = ASSIGNMENTS.c
    rows = connection.execute(select(ASSIGNMENTS).where(a.annotator == turn.annotator.name, a.state == "open")
                              .order_by(a.seq)).all()
    kept = []
    for row in rows:
        task = get(connection, Task, row.task_id)
        if turn.batch in (None, task.batch_id) and (row.leased_until > turn.moment
                                                    or not is_full(connection, task, turn)):
            kept.append(record(Assignment, row))
    return kept


def _renew(connection: Connection, assignment: Assignment, turn: Turn) -> Assignment:
    connection.execute(update(ASSIGNMENTS).where(ASSIGNMENTS.c.id == assignment.id).values(leased_until=turn.until))
    return dataclasses.replace(assignment, leased_until=turn.until)


def assign(connection: Connection, task: Task, turn: Turn) -> Assignment:
    """Lends a task, its answers in an order drawn for this assignment alone."""
    batch = get(connection, Batch, task.batch_id)
    seed = turn.seed_of(task)
    shown = batch.suggestions == "shown" and connection.execute(
        select(exists().where(SUGGESTIONS.c.task_id == (task.repeat_of or task.id)))).scalar_one()
    assignment = Assignment(
        id=str(uuid.uuid4()), task_id=task.id, annotator=turn.annotator.name, slots=slots_of(task, seed), seed=seed,
        created_at=turn.moment, leased_until=turn.until, role=turn.annotator.role, suggestion_shown=bool(shown),
        ui_version=turn.ui_version)
    is_new = task.repeat_of is not None and find(connection, Task, task.id) is None
    append(connection, turn.annotator.name, "claim", assignment.id, [task, assignment] if is_new else [assignment])
    return assignment


def slots_of(task: Task, seed: int) -> tuple[str, ...]:
    """The task's answers in the order that a seed gives."""
    return tuple(random.Random(seed).sample(sorted(task.candidate_ids), len(task.candidate_ids)))


# ---------------------------------------------------------------------------------------------------------- choosing


def choose(connection: Connection, turn: Turn) -> Task | None:
    """The next task for a person, or None where nothing is left for them.

    Now and then, in the shares that the batch asks for, it is one whose right decision is known, or an earlier one of
    theirs again; which, nobody can tell by counting.
    """
    if turn.annotator.role == "adjudicator":
        return disputed(connection, turn)
    task = _first(connection, ordinary(turn))
    batch = _batch_at_hand(connection, task, turn)
    if batch is None:
        return task
    draw = _draw(connection, batch, turn)
    if draw < batch.gold_share or task is None:
        gold = _first(connection, known_ones(turn, batch)) if batch.gold_share > 0 or task is None else None
        return gold or task
    if draw < batch.gold_share + batch.repeat_share:
        return again(connection, batch, turn) or task
    return task


def _first(connection: Connection, query: Select[Any]) -> Task | None:
    row = connection.execute(query.limit(1)).one_or_none()
    return None if row is None else record(Task, row)


def _mine(turn: Turn) -> Any:
    return exists().where(ASSIGNMENTS.c.task_id == TASKS.c.id, ASSIGNMENTS.c.annotator == turn.annotator.name)


def ordinary(turn: Turn) -> Select[Any]:
    """Tasks with a free place that this person has not had, most urgent first."""
    t = TASKS.c
    of_batch = [t.batch_id == turn.batch] if turn.batch is not None else []
    return select(TASKS).where(*of_batch, t.min_judgments > 0, ~_mine(turn),
                               places_taken(t.id, turn.moment) < t.min_judgments).order_by(t.priority.desc(), t.seq)


def known_ones(turn: Turn, batch: Batch) -> Select[Any]:
    """Tasks of a batch whose right decision is known and that this person has not had."""
    t = TASKS.c
    return select(TASKS).where(t.batch_id == batch.id, t.is_gold == 1, t.min_judgments == 0, ~_mine(turn)).order_by(
        t.priority.desc(), t.seq)


def _batch_at_hand(connection: Connection, task: Task | None, turn: Turn) -> Batch | None:
    """The batch of the next ordinary task. Where there is none, one that holds nothing but gold tasks."""
    if task is not None:
        return get(connection, Batch, task.batch_id)
    t = TASKS.c
    mixed = select(t.batch_id).where(t.min_judgments > 0)
    of_batch = [t.batch_id == turn.batch] if turn.batch is not None else []
    alone = connection.execute(select(t.batch_id).where(*of_batch, t.is_gold == 1, t.batch_id.not_in(mixed),
                                                        ~_mine(turn)).order_by(t.seq).limit(1)).scalar()
    return None if alone is None else get(connection, Batch, alone)


def _draw(connection: Connection, batch: Batch, turn: Turn) -> float:
    """A number in [0, 1) for this person's next turn; the same until they have had it."""
    had = connection.execute(select(func.count()).select_from(ASSIGNMENTS).where(
        ASSIGNMENTS.c.annotator == turn.annotator.name)).scalar_one()
    return random.Random(f"{batch.id}/{turn.annotator.name}/{had}").random()


def again(connection: Connection, batch: Batch, turn: Turn) -> Task | None:
    """One of the person's own tasks as a new one, judged at least REPEAT_GAP turns ago and not repeated yet."""
    a, t = ASSIGNMENTS.c, TASKS.c
    mine = select(TASKS, a.state).join(TASKS, t.id == a.task_id).where(
        a.annotator == turn.annotator.name, t.batch_id == batch.id).order_by(a.seq)
    rows = connection.execute(mine).all()
    repeated = {row.repeat_of for row in rows}
    past = [row for row in rows[:-REPEAT_GAP]
            if row.state == "judged" and row.min_judgments > 0 and row.id not in repeated]
    if not past:
        return None
    first = record(Task, random.Random(f"{batch.id}/{turn.annotator.name}/{len(rows)}").choice(past))
    name = content_id("repeat", first.id)
    return find(connection, Task, name) or dataclasses.replace(first, id=name, repeat_of=first.id, min_judgments=0)


# ------------------------------------------------------------------------------------------------------ adjudication


def disputed(connection: Connection, turn: Turn) -> Task | None:
    """The next task that people have judged in full and not alike, and that no adjudicator has or has settled."""
    found = next(disputes(connection, turn.annotator.name, turn.moment, batch=turn.batch), None)
    return None if found is None else get(connection, Task, found[0])


def disputes(connection: Connection, adjudicator: str, moment: str, *, batch: str | None = None
             ) -> Iterator[tuple[str, str]]:
    """(task, batch) of all such tasks, most urgent first."""
    t, j, a = TASKS.c, JUDGMENTS.c, ASSIGNMENTS.c
    of_batch = [t.batch_id == batch] if batch is not None else []
    settled = exists().where(a.task_id == t.id, a.role == "adjudicator", or_(
        a.annotator == adjudicator, a.state == "judged", and_(a.state == "open", a.leased_until > moment)))
    judged = select(func.count()).select_from(ASSIGNMENTS).where(
        a.task_id == t.id, a.state == "judged", a.role == "annotator").scalar_subquery()
    rows = connection.execute(select(t.id.label("task"), t.batch_id, j.id, j.body).join(JUDGMENTS, j.task_id == t.id)
                              .where(*of_batch, judged >= 2, judged >= t.min_judgments, ~settled, *_deciding())
                              .order_by(t.priority.desc(), t.seq, j.seq))
    for task, judgments in itertools.groupby(rows, lambda row: (row.task, row.batch_id)):
        if len({says(record(Judgment, row).decision) for row in judgments}) > 1:
            yield task


def standing(connection: Connection, task_id: str) -> list[Judgment]:
    """The annotators' decisions on a task that count, in order; without skips and flags."""
    return records(connection, Judgment, JUDGMENTS.c.task_id == task_id, *_deciding())


def _deciding() -> list[Any]:
    """The conditions that a judgment is an annotator's, counts and decides."""
    j, later = JUDGMENTS.c, JUDGMENTS.alias("later")
    return [j.status == "submitted", j.role == "annotator", j.outcome.not_in(("skip", "flag")),
            ~exists().where(later.c.supersedes == j.id)]


def says(decision: Decision) -> str:
    """What a decision comes to, without its strength and words: two that differ in this disagree."""
    ranking: Sequence[Sequence[str]] = [sorted(group) for group in decision.ranking]
    return json.dumps([decision.outcome, decision.preferred, ranking, decision.ratings, decision.first_error],
                      sort_keys=True)
