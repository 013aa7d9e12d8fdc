"""The desk: sign in, take the next task, keep a draft, decide, take back. All of it on disk before it answers.

    desk = Desk.open("annotations.db")
    anna = desk.sign_in("anna")
    first, ahead = desk.next(anna)
    desk.submit(anna, id=str(uuid4()), assignment=first.id, decision={"outcome": "prefer", "preferred": "a", ...})

Knows the rules of who may do what and when. Knows no HTTP and nothing of what a page shows.
"""

from __future__ import annotations

import datetime
import json
import re
import secrets
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, exists, insert, select, update

from data.annotate import turns, views
from data.annotate.database import Database, stamp
from data.annotate.decisions import from_slots, to_slots
from data.annotate.ledger import (
    ANNOTATORS,
    ASSIGNMENTS,
    JUDGMENTS,
    SETTINGS,
    append,
    find,
    get,
    next_seq,
    record,
    snapshot,
)
from data.annotate.records import (
    Annotator,
    Assignment,
    Batch,
    Candidate,
    Decision,
    Judgment,
    Origin,
    Role,
    Snapshot,
    Status,
    Task,
    canonical,
)
from data.annotate.turns import Turn
from data.schema import UserError

LEASE = datetime.timedelta(minutes=30)
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,39}", re.ASCII)
MAX_DRAFT, MAX_PREFERENCES = 1_000_000, 16_384  # characters of JSON
UI_VERSION = "1"  # goes up when a page shows a task differently


class Refused(UserError):
    """The desk says no; `code` is one of the API's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def utc() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def any_seed(task: Task) -> int:
    """Another one each time, which nobody can foresee."""
    return secrets.randbelow(2**31)


class Desk:
    """One database, the clock it is worked by, and the chance that orders the answers of an assignment."""

    def __init__(self, database: Database, *, clock: Callable[[], datetime.datetime] = utc,
                 lease: datetime.timedelta = LEASE, seed_of: Callable[[Task], int] = any_seed) -> None:
        self.database, self.clock, self.lease, self.seed_of = database, clock, lease, seed_of

    @classmethod
    def open(cls, place: str, *, create: bool = True) -> Desk:
        """Raises UserError where the database cannot be used."""
        return cls(Database.open(place, create=create))

    def close(self) -> None:
        self.database.close()

    def snapshot(self) -> Snapshot:
        """Everything, as it is now."""
        with self.database.reading() as connection:
            return snapshot(connection)

    def secret(self) -> bytes:
        """A random key of this database, for signing sessions: they outlive the server."""
        with self.database.writing() as connection:
            wanted = select(SETTINGS.c.value).where(SETTINGS.c.name == "secret")
            value = connection.execute(wanted).scalar()
            if value is None:
                value = secrets.token_hex(32)
                connection.execute(insert(SETTINGS), [{"name": "secret", "value": value}])
        return bytes.fromhex(value)

    # ------------------------------------------------------------------------------------------------------- people

    def sign_in(self, name: str, *, role: Role | None = None, origin: Origin = "human") -> Annotator:
        """The person of that pseudonym, made when new. Raises Refused for what is no name, or another role."""
        if not NAME.fullmatch(name):
            raise Refused("invalid", "a pseudonym has 1 to 40 letters a-z, digits, dots, dashes and underscores, and "
                                     "starts with a letter or digit")
        with self.database.reading() as connection:
            found = find(connection, Annotator, name)
        if found is None:
            with self.database.writing() as connection:
                found = find(connection, Annotator, name)
                if found is None:
                    found = Annotator(name=name, origin=origin, role=role or "annotator", created_at=self.now())
                    append(connection, name, "sign_in", name, [found])
        if role is not None and found.role != role:
            raise Refused("conflict", f"{name} is known as {found.role}; choose another pseudonym for the {role}")
        return found

    def person(self, name: str) -> Annotator | None:
        """The person of that pseudonym, if known."""
        with self.database.reading() as connection:
            return find(connection, Annotator, name)

    def preferences(self, name: str) -> dict[str, Any]:
        """What `set_preferences` kept for that person; nothing before."""
        with self.database.reading() as connection:
            text = connection.execute(select(ANNOTATORS.c.preferences).where(ANNOTATORS.c.id == name))
            return dict(json.loads(text.scalar() or "{}"))

    def set_preferences(self, name: str, preferences: Mapping[str, Any]) -> None:
        """Keys, language and whatever else a page wants to find again."""
        text = json.dumps(preferences)
        if len(text) > MAX_PREFERENCES:
            raise Refused("too_large", f"preferences have {len(text)} characters; at most {MAX_PREFERENCES} are kept")
        with self.database.writing() as connection:
            connection.execute(update(ANNOTATORS).where(ANNOTATORS.c.id == name).values(preferences=text))

    # -------------------------------------------------------------------------------------------------------- tasks

    def next(self, annotator: Annotator, *, batch: str | None = None, count: int = 2) -> list[Assignment]:
        """The person's next assignments, the current one first; none where nothing is left for them now."""
        with self.database.writing() as connection:
            return turns.turns(connection, self._turn(annotator, batch), count=count)

    def opened(self, annotator: Annotator, assignment: str) -> str:
        """The assignment is on the screen: its clock starts, its lease is renewed; until when."""
        with self.database.writing() as connection:
            turn, row = self._turn(annotator), self._open_row(connection, annotator, assignment)
            connection.execute(update(ASSIGNMENTS).where(ASSIGNMENTS.c.id == assignment).values(
                opened_at=row.opened_at or turn.moment, leased_until=self._renewed(connection, row, turn)))
            return turn.until

    def save_draft(self, annotator: Annotator, assignment: str, draft: Mapping[str, Any]) -> str:
        """Keeps the page's state of an open assignment; the time it was kept at."""
        text = json.dumps(draft)
        if len(text) > MAX_DRAFT:
            raise Refused("too_large", f"the draft has {len(text)} characters; at most {MAX_DRAFT} are kept")
        with self.database.writing() as connection:
            turn, row = self._turn(annotator), self._open_row(connection, annotator, assignment)
            connection.execute(update(ASSIGNMENTS).where(ASSIGNMENTS.c.id == assignment).values(
                draft=text, leased_until=self._renewed(connection, row, turn)))
            return turn.moment

    def submit(self, annotator: Annotator, *, id: str, assignment: str, decision: Mapping[str, Any],
               lead_time_ms: int | None = None) -> Judgment:
        """The judgment, committed; the same id and content again give the same one. Raises Refused and Invalid."""
        check_uuid(id)
        with self.database.writing() as connection:
            turn = self._turn(annotator)
            row = self._row(connection, annotator, assignment)
            lent, task = record(Assignment, row), get(connection, Task, row.task_id)
            candidates = {name: get(connection, Candidate, name) for name in task.candidate_ids}
            decided = from_slots(decision, task, lent.slots, candidates,
                                 tags=get(connection, Batch, task.batch_id).error_tags)
            if (known := find(connection, Judgment, id)) is not None:
                return _same(known, assignment, decided)
            if row.state != "open":
                raise Refused("already_judged", "this task is judged already, in another window perhaps; go on to the "
                                                "next, or take the judgment back")
            status: Status = "submitted"
            if decided.decides and turns.is_full(connection, task, turn):
                status = "surplus"
            judgment = Judgment(
                id=id, seq=next_seq(connection, JUDGMENTS), task_id=task.id, annotator=annotator.name,
                decision=decided, status=status, supersedes=row.revises, assignment_id=assignment,
                guideline=task.guideline, role=annotator.role, lead_time_ms=lead_time_ms, created_at=turn.moment)
            append(connection, annotator.name, "submit", id, [judgment])
            state = "surplus" if status == "surplus" else "judged" if decided.decides else "passed"
            connection.execute(update(ASSIGNMENTS).where(ASSIGNMENTS.c.id == assignment).values(
                state=state, draft=None, revises=None))
            return judgment

    def undo(self, annotator: Annotator, *, id: str) -> Judgment | None:
        """Takes back the person's latest judgment by a row that voids it, and opens its task again; that row.

        None where there is nothing to take back. What was skipped and has been filled by others stays as it is.
        """
        check_uuid(id)
        with self.database.writing() as connection:
            if (known := find(connection, Judgment, id)) is not None:
                if known.annotator != annotator.name or known.status != "void":
                    raise Refused("conflict", f"the id {id} belongs to another judgment; make a new one")
                return known
            turn = self._turn(annotator)
            last = self._last(connection, turn)
            if last is None:
                return None
            void = Judgment(
                id=id, seq=next_seq(connection, JUDGMENTS), task_id=last.task_id, annotator=annotator.name,
                decision=last.decision, status="void", supersedes=last.id, assignment_id=last.assignment_id,
                guideline=last.guideline, role=last.role, created_at=turn.moment)
            append(connection, annotator.name, "undo", id, [void])
            slots = get(connection, Assignment, str(last.assignment_id)).slots
            draft = {**to_slots(last.decision, slots), "elapsed_ms": last.lead_time_ms or 0}  # the clock goes on
            connection.execute(update(ASSIGNMENTS).where(ASSIGNMENTS.c.id == last.assignment_id).values(
                state="open", leased_until=turn.until, revises=id, draft=canonical(draft)))
            return void

    # -------------------------------------------------------------------------------------------- what a page may see

    def shown(self, name: str, assignment: str, *, whole: bool = True) -> dict[str, Any]:
        """An assignment of that person, as JSON. Raises Refused."""
        with self.database.reading() as connection:
            annotator = get(connection, Annotator, name)
            return views.assignment_view(connection, self._row(connection, annotator, assignment), annotator,
                                         whole=whole)

    def waiting(self, annotator: Annotator, *, batch: str | None = None) -> dict[str, Any]:
        """The current assignment and the one after, leased, with the person's progress; or why there is none."""
        lent = self.next(annotator, batch=batch)
        shown = [self.shown(annotator.name, each.id, whole=False) for each in lent]
        with self.database.reading() as connection:
            turn = self._turn(annotator)
            why = {} if lent else views.nothing_left(connection, annotator, turn.moment)
            return {"current": shown[0] if shown else None, "ahead": shown[1] if len(shown) > 1 else None,
                    "progress": {"mine": views.own_progress(connection, annotator, turn.moment)},
                    "undo": self._last(connection, turn) is not None, **why}

    def revealed(self, judgment: Judgment) -> dict[str, Any] | None:
        """What the batch shows after the verdict, if anything."""
        with self.database.reading() as connection:
            return views.reveal(connection, judgment)

    def progress(self, annotator: Annotator) -> dict[str, Any]:
        with self.database.reading() as connection:
            return views.progress(connection, annotator, self.now())

    def guideline(self, version: str | None = None) -> dict[str, Any]:
        """The guideline of that version, or the newest. Raises Refused."""
        with self.database.reading() as connection:
            found = views.guideline_view(connection, version)
        if found is None:
            raise Refused("not_found", "there is no such guideline")
        return found

    def history(self, annotator: Annotator, *, limit: int = 50) -> list[dict[str, Any]]:
        """The person's own rows, newest first: what was superseded and taken back is among them."""
        with self.database.reading() as connection:
            rows = connection.execute(select(JUDGMENTS).where(JUDGMENTS.c.annotator == annotator.name)
                                      .order_by(JUDGMENTS.c.seq.desc()).limit(limit)).all()
            return [views.history_view(connection, record(Judgment, row)) for row in rows]

    # --------------------------------------------------------------------------------------------------------- within

    def now(self) -> str:
        return stamp(self.clock())

    def _turn(self, annotator: Annotator, batch: str | None = None) -> Turn:
        moment = self.clock()
        return Turn(annotator, stamp(moment), stamp(moment + self.lease), self.seed_of, batch, UI_VERSION)

    def _row(self, connection: Connection, annotator: Annotator, assignment: str) -> Any:
        """The database row of a person's assignment."""
        row = connection.execute(select(ASSIGNMENTS).where(ASSIGNMENTS.c.id == assignment)).one_or_none()
        if row is None or row.annotator != annotator.name:  # which of the two, is nobody's business
            raise Refused("not_found", "there is no such assignment of yours; ask for the next one")
        return row

    def _open_row(self, connection: Connection, annotator: Annotator, assignment: str) -> Any:
        row = self._row(connection, annotator, assignment)
        if row.state != "open":
            raise Refused("already_judged", "this task is judged already; go on to the next")
        return row

    def _renewed(self, connection: Connection, row: Any, turn: Turn) -> str:
        """The lease's new end; one that ran out and whose place has gone stays as it is."""
        lost = row.leased_until <= turn.moment and turns.is_full(connection, get(connection, Task, row.task_id), turn)
        return str(row.leased_until) if lost else turn.until

    def _last(self, connection: Connection, turn: Turn) -> Judgment | None:
        """The person's latest standing judgment whose task has a place for them still."""
        j, later = JUDGMENTS.c, JUDGMENTS.alias("later")
        rows = connection.execute(select(JUDGMENTS).where(
            j.annotator == turn.annotator.name, j.status != "void", j.assignment_id.is_not(None),
            ~exists().where(later.c.supersedes == j.id)).order_by(j.seq.desc()))
        for row in rows:
            found = record(Judgment, row)
            counts = found.decision.decides and found.status == "submitted"
            if counts or not turns.is_full(connection, get(connection, Task, row.task_id), turn):
                return found
        return None


def check_uuid(text: str) -> None:
    """Raises Refused for what is no UUID in its usual form."""
    try:
        fits = str(uuid.UUID(text)) == text
    except ValueError:
        fits = False
    if not fits:
        raise Refused("invalid", "id must be a UUID such as crypto.randomUUID() makes, in small letters with dashes")


def _same(known: Judgment, assignment: str, decided: Decision) -> Judgment:
    """The judgment that this id has already, when it says the same."""
    if known.assignment_id != assignment or known.decision != decided or known.status == "void":
        raise Refused("conflict", f"the id {known.id} belongs to another judgment; make a new one")
    return known


