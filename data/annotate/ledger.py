"""The desk's records in the database: added with an event each, chained by hashes, read back as rows or as a snapshot.

    append(connection, "anna", "submit", judgment.id, [judgment])
    snapshot(connection); verify(connection)

An event's hash covers the event before it and the rows it wrote, so that a row changed, added or deleted behind the
desk's back is found. What a chain cannot show is that its end was cut off together with the rows: keep its last hash
elsewhere, and `verify` says whether it is still part of the chain. Knows no rule of who may do what.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Column, Connection, Float, Integer, MetaData, String, Table, func, insert, select

from data.annotate.database import now
from data.annotate.records import (
    Annotator,
    Assignment,
    Batch,
    Candidate,
    Guideline,
    Judgment,
    Prompt,
    Snapshot,
    Suggestion,
    Task,
    canonical,
    to_record,
)
from data.schema import Row

R = TypeVar("R", bound=Row)
METADATA = MetaData()


def _table(name: str, *texts: str, **others: Any) -> Table:
    """A list's table; its layout is what data/annotate/migrations.py has made."""
    columns = [*(Column(text, String) for text in ("id", "body", *texts)),
               *(Column(other, kind) for other, kind in {"event": Integer, **others}.items())]
    return Table(name, METADATA, Column("seq", Integer, primary_key=True), *columns)


GUIDELINES = _table("guidelines")
ANNOTATORS = _table("annotators", "preferences")
BATCHES = _table("batches")
PROMPTS = _table("prompts")
CANDIDATES = _table("candidates", "prompt_id")
TASKS = _table("tasks", "batch_id", "repeat_of", min_judgments=Integer, is_gold=Integer, priority=Float)
ASSIGNMENTS = _table("assignments", "task_id", "annotator", "role", "state", "leased_until", "opened_at", "draft",
                     "revises")
JUDGMENTS = _table("judgments", "task_id", "annotator", "assignment_id", "role", "outcome", "status", "supersedes",
                   "created_at", lead_time_ms=Integer)
SUGGESTIONS = _table("suggestions", "task_id")
EVENTS = Table("events", METADATA, Column("seq", Integer, primary_key=True), *(
    Column(name, String) for name in ("at", "actor", "action", "object", "payload_sha256", "prev_hash", "hash")))
SETTINGS = Table("settings", METADATA, Column("name", String, primary_key=True), Column("value", String))

SHELVES: dict[type[Row], Table] = {  # in the order of an event's rows
    Guideline: GUIDELINES, Annotator: ANNOTATORS, Batch: BATCHES, Prompt: PROMPTS, Candidate: CANDIDATES, Task: TASKS,
    Assignment: ASSIGNMENTS, Judgment: JUDGMENTS, Suggestion: SUGGESTIONS}
CHANGING = ("leased_until", "opened_at")  # of an assignment: kept in columns, no part of what its event wrote
START = "0" * 64  # the hash before the first event


# --------------------------------------------------------------------------------------------------------- rows in


def name_of(row: Row) -> str:
    """What a record is known by within its list."""
    return str(getattr(row, {Guideline: "version", Annotator: "name"}.get(type(row), "id")))


def _columns(row: Row) -> dict[str, Any]:
    """What queries ask for, beside the body."""
    if isinstance(row, Task):
        return {"batch_id": row.batch_id, "min_judgments": row.min_judgments, "is_gold": int(row.gold is not None),
                "repeat_of": row.repeat_of, "priority": row.priority}
    if isinstance(row, Assignment):
        return {"task_id": row.task_id, "annotator": row.annotator, "role": row.role, "state": "open",
                "leased_until": row.leased_until, "opened_at": row.opened_at}
    if isinstance(row, Judgment):
        return {"outcome": row.decision.outcome} | {name: getattr(row, name) for name in (
            "task_id", "annotator", "assignment_id", "role", "status", "supersedes", "lead_time_ms", "created_at")}
    if isinstance(row, Candidate):
        return {"prompt_id": row.prompt_id}
    return {"task_id": row.task_id} if isinstance(row, Suggestion) else {}


def _body(row: Row) -> str:
    value = row.to_json()
    return canonical({name: value[name] for name in value if not (isinstance(row, Assignment) and name in CHANGING)})


def next_seq(connection: Connection, table: Table) -> int:
    """The place after the last; only a writer may ask."""
    return int(connection.execute(select(func.coalesce(func.max(table.c.seq), 0))).scalar_one()) + 1


def append(connection: Connection, actor: str, action: str, subject: str, rows: Iterable[Row]) -> str:
    """Adds the rows and the event that wrote them; the event's hash."""
    event = next_seq(connection, EVENTS)
    rows = list(rows)
    written = []
    for cls, table in SHELVES.items():
        if group := [row for row in rows if isinstance(row, cls)]:
            first = next_seq(connection, table)
            values = [{"seq": first + place, "id": name_of(row), "event": event, "body": _body(row), **_columns(row)}
                      for place, row in enumerate(group)]
            connection.execute(insert(table), values)
            written += [(table.name, value["body"]) for value in values]
    previous = connection.execute(select(EVENTS.c.hash).where(EVENTS.c.seq == event - 1)).scalar() or START
    said = {"seq": event, "at": now(), "actor": actor, "action": action, "object": subject,
            "payload_sha256": _payload(written), "prev_hash": previous}
    said["hash"] = _event_hash(said)
    connection.execute(insert(EVENTS), [said])
    return str(said["hash"])


def _payload(written: Sequence[tuple[str, str]]) -> str:
    return hashlib.sha256(canonical(written).encode()).hexdigest()


def _event_hash(said: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical({name: said[name] for name in said if name != "hash"}).encode()).hexdigest()


# -------------------------------------------------------------------------------------------------------- rows out


def record(cls: type[R], row: Any) -> R:
    """A database row as the record it holds."""
    value = json.loads(row.body)
    if cls is Assignment:
        value |= {name: getattr(row, name) for name in CHANGING}
    return to_record(value, cls, where=f"{SHELVES[cls].name} {row.id}")


def find(connection: Connection, cls: type[R], name: str) -> R | None:
    """The record of that name, if there is one."""
    table = SHELVES[cls]
    row = connection.execute(select(table).where(table.c.id == name)).one_or_none()
    return None if row is None else record(cls, row)


def get(connection: Connection, cls: type[R], name: str) -> R:
    """The record of that name, which must be there."""
    found = find(connection, cls, name)
    assert found is not None, f"no {cls.__name__} {name!r}"
    return found


def records(connection: Connection, cls: type[R], *where: Any) -> list[R]:
    """The records that meet the conditions, in order."""
    table = SHELVES[cls]
    return [record(cls, row) for row in connection.execute(select(table).where(*where).order_by(table.c.seq))]


def known(connection: Connection, cls: type[Row]) -> set[str]:
    """The names of all records of a list."""
    return set(connection.execute(select(SHELVES[cls].c.id)).scalars())


def snapshot(connection: Connection) -> Snapshot:
    """Everything, as it is now."""
    names = {table.name for table in SHELVES.values()}
    lists = {table.name: tuple(records(connection, cls)) for cls, table in SHELVES.items()}
    assert names == {field.name for field in dataclasses.fields(Snapshot)}
    return Snapshot(**lists)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------- the check


@dataclasses.dataclass(frozen=True, slots=True)
class Verified:
    """What a check of the chain found."""

    events: int
    head: str  # the last event's hash: note it elsewhere
    problems: tuple[str, ...]


def _mismatches(cls: type[Row], row: Any) -> list[str]:
    """Columns of a row that do not say what its body says."""
    held = record(cls, row)
    wanted = {"id": name_of(held), **_columns(held)}
    wrong = [name for name, value in wanted.items() if name != "state" and getattr(row, name) != value]
    return [f"{SHELVES[cls].name} row {row.seq}: its column {name!r} is not what its body says" for name in wrong]


def verify(connection: Connection, *, head: str | None = None) -> Verified:
    """Every event against the one before it and against the rows it wrote. `head`: a hash noted earlier."""
    written: dict[int, list[tuple[str, str]]] = {}
    problems: list[str] = []
    for cls, table in SHELVES.items():
        for row in connection.execute(select(table).order_by(table.c.seq)):
            written.setdefault(row.event, []).append((table.name, row.body))
            problems += _mismatches(cls, row)
    previous, hashes = START, {START}
    expected = 1
    for said in map(dict, connection.execute(select(EVENTS).order_by(EVENTS.c.seq)).mappings()):
        where = f"event {said['seq']} ({said['action']} {said['object']} by {said['actor']} at {said['at']})"
        if said["seq"] != expected:
            problems.append(f"{where}: event {expected} before it is missing")
        elif said["prev_hash"] != previous:
            problems.append(f"{where}: does not continue the event before it")
        if said["hash"] != _event_hash(said):
            problems.append(f"{where}: is not what its hash says")
        if said["payload_sha256"] != _payload(written.pop(said["seq"], [])):
            problems.append(f"{where}: the rows it wrote were changed, added to or deleted")
        previous, expected = said["hash"], said["seq"] + 1
        hashes.add(previous)
    problems += [f"{len(rows)} rows of {rows[0][0]} belong to no event ({number})" for number, rows in written.items()]
    if head is not None and head not in hashes:
        problems.append(f"the chain does not hold the hash {head}: its end was cut off or it is another desk's")
    return Verified(expected - 1, previous, tuple(problems))
