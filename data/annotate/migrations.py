"""The database's layout, as numbered steps from an empty file to what is read today; a step never changes once out.

A record is a row of its list's table: `body` is its JSON, the other columns are what queries ask for, `event` the event
that wrote it. Judgments and events can be added and never changed or deleted: the database itself refuses.
"""

from __future__ import annotations

from collections.abc import Iterator

_RECORD = "seq INTEGER PRIMARY KEY, id VARCHAR(64) NOT NULL UNIQUE, event INTEGER NOT NULL, body TEXT NOT NULL"

RECORDS = (
    f"CREATE TABLE guidelines ({_RECORD})",
    f"CREATE TABLE annotators ({_RECORD}, preferences TEXT)",
    f"CREATE TABLE batches ({_RECORD})",
    f"CREATE TABLE prompts ({_RECORD})",
    f"CREATE TABLE candidates ({_RECORD}, prompt_id VARCHAR(64) NOT NULL)",
    f"CREATE TABLE tasks ({_RECORD}, batch_id VARCHAR(64) NOT NULL, min_judgments INTEGER NOT NULL, "
    "is_gold INTEGER NOT NULL, repeat_of VARCHAR(64), priority DOUBLE PRECISION NOT NULL)",
    f"CREATE TABLE assignments ({_RECORD}, task_id VARCHAR(64) NOT NULL, annotator VARCHAR(64) NOT NULL, "
    "role VARCHAR(16) NOT NULL, state VARCHAR(8) NOT NULL, leased_until VARCHAR(32) NOT NULL, "
    "opened_at VARCHAR(32), draft TEXT, revises VARCHAR(64), UNIQUE (task_id, annotator))",
    f"CREATE TABLE judgments ({_RECORD}, task_id VARCHAR(64) NOT NULL, annotator VARCHAR(64) NOT NULL, "
    "assignment_id VARCHAR(64), role VARCHAR(16) NOT NULL, outcome VARCHAR(16) NOT NULL, status VARCHAR(16) NOT NULL, "
    "supersedes VARCHAR(64) UNIQUE, lead_time_ms INTEGER, created_at VARCHAR(32) NOT NULL)",
    f"CREATE TABLE suggestions ({_RECORD}, task_id VARCHAR(64) NOT NULL)",
    "CREATE TABLE events (seq INTEGER PRIMARY KEY, at VARCHAR(32) NOT NULL, actor VARCHAR(64) NOT NULL, "
    "action VARCHAR(32) NOT NULL, object VARCHAR(64) NOT NULL, payload_sha256 VARCHAR(64) NOT NULL, "
    "prev_hash VARCHAR(64) NOT NULL, hash VARCHAR(64) NOT NULL)",
    "CREATE TABLE settings (name VARCHAR(32) PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE INDEX assignments_by_task ON assignments (task_id, state)",
    "CREATE INDEX assignments_by_annotator ON assignments (annotator, state)",
    "CREATE INDEX judgments_by_task ON judgments (task_id)",
    "CREATE INDEX judgments_by_annotator ON judgments (annotator)",
    "CREATE INDEX tasks_by_batch ON tasks (batch_id, priority)",
    "CREATE INDEX suggestions_by_task ON suggestions (task_id)",
)


def append_only(dialect: str) -> Iterator[str]:
    """Triggers that refuse to change or delete a judgment or an event."""
    if dialect == "postgresql":
        yield ("CREATE FUNCTION desk_append_only() RETURNS trigger LANGUAGE plpgsql AS "
               "$$ BEGIN RAISE EXCEPTION USING MESSAGE = 'rows of ' || TG_TABLE_NAME || ' are only ever added'; END $$")
    for table in ("judgments", "events"):
        for action in ("UPDATE", "DELETE"):
            head = f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} FOR EACH ROW "
            yield head + ("EXECUTE FUNCTION desk_append_only()" if dialect == "postgresql" else
                          f"BEGIN SELECT RAISE(ABORT, 'rows of {table} are only ever added'); END")


def steps(dialect: str) -> tuple[tuple[str, ...], ...]:
    """The statements of every step, in order; the first step is number 1."""
    return RECORDS, tuple(append_only(dialect))
