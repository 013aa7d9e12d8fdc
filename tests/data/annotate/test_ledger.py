"""The ledger: append-only, chained, and a check that finds what was done behind its back; the layout's migrations."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import uuid
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from data.annotate.cli import main
from data.annotate.database import Database, database_url
from data.annotate.desk import Desk
from data.annotate.ledger import EVENTS, METADATA, append, verify
from data.annotate.migrations import steps
from data.annotate.records import Annotator, Judgment, Snapshot, to_record
from data.schema import UserError
from tests.data.annotate.desk_opened import completions, lines, look, opened


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Four pairs; anna judged three and took one back."""
    desk = opened(tmp_path, completions(4))
    anna = desk.sign_in("anna")
    for _ in range(3):
        desk.submit(anna, id=str(uuid.uuid4()), assignment=desk.next(anna)[0].id, decision={"outcome": "tie"})
    desk.undo(anna, id=str(uuid.uuid4()))
    desk.close()
    return tmp_path / "annotations.db"


def tamper(database: Path, *statements: str) -> None:
    """What somebody with the file can do: the triggers are gone first."""
    connection = sqlite3.connect(database)
    for trigger in [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]:
        connection.execute(f"DROP TRIGGER {trigger}")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_an_untouched_ledger_is_sound(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--db", str(database)]) == 0
    head = capsys.readouterr().out.split("head ")[1].strip()
    assert main(["verify", "--db", str(database), "--head", head]) == 0


@pytest.mark.parametrize(("statement", "said"), [
    ("UPDATE judgments SET body = replace(body, 'tie', 'both_bad') WHERE seq = 1", "rows it wrote were changed"),
    ("DELETE FROM judgments WHERE seq = 2", "rows it wrote were changed"),
    ("UPDATE judgments SET status = 'void' WHERE seq = 1", "column 'status'"),
    ("UPDATE judgments SET annotator = 'bea' WHERE seq = 1", "column 'annotator'"),
    ("UPDATE candidates SET body = replace(body, 'Work 0', 'Work 9')", "rows it wrote were changed"),
    ("UPDATE assignments SET body = replace(body, '\"seed\":', '\"seed\":1')", "rows it wrote were changed"),
    ("UPDATE events SET actor = 'bea' WHERE seq = 3", "not what its hash says"),
    ("DELETE FROM events WHERE seq = 3", "event 3 before it is missing"),
    ("INSERT INTO judgments SELECT 99, 'x', 99, replace(body, '\"id\":\"', '\"id\":\"x'), task_id, annotator, "
     "assignment_id, role, outcome, status, NULL, lead_time_ms, created_at FROM judgments WHERE seq = 1", "no event"),
])
def test_what_was_done_behind_its_back_is_found(database: Path, statement: str, said: str,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    tamper(database, statement)
    assert main(["verify", "--db", str(database)]) == 1
    assert said in capsys.readouterr().err


def test_an_end_that_was_cut_off_is_found_by_a_hash_noted_earlier(database: Path,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--db", str(database)]) == 0
    head = capsys.readouterr().out.split("head ")[1].strip()
    tamper(database, "DELETE FROM judgments WHERE seq = 4",
           "DELETE FROM events WHERE seq = (SELECT MAX(seq) FROM events)")
    assert main(["verify", "--db", str(database)]) == 0  # a chain alone cannot know
    assert main(["verify", "--db", str(database), "--head", head]) == 1
    assert "cut off" in capsys.readouterr().err


@pytest.mark.parametrize("statement", ["UPDATE judgments SET status = 'void'", "DELETE FROM judgments",
                                       "UPDATE events SET actor = 'x'", "DELETE FROM events"])
def test_the_database_itself_refuses_to_change_a_judgment_or_an_event(database: Path, statement: str) -> None:
    opened_again = Database.open(str(database))
    with pytest.raises(IntegrityError, match="only ever added"), opened_again.writing() as connection:
        connection.exec_driver_sql(statement)
    assert len(look(database).judgments) == 4


def test_a_judgment_is_superseded_once(database: Path) -> None:
    judgments = look(database).judgments
    assert [judgment.supersedes for judgment in judgments] == [None, None, None, judgments[2].id]
    again = dataclasses.replace(judgments[3], id="another", seq=5)
    with pytest.raises(IntegrityError, match="supersedes"), Database.open(str(database)).writing() as connection:
        append(connection, "anna", "undo", "another", [again])
    assert len(look(database).judgments) == 4


def test_events_tell_who_did_what_in_order(database: Path) -> None:
    with Database.open(str(database)).reading() as connection:
        said = connection.execute(select(EVENTS.c.actor, EVENTS.c.action).order_by(EVENTS.c.seq)).tuples().all()
    assert said[0] == ("import", "import") and said[1] == ("anna", "sign_in") and said[-1] == ("anna", "undo")
    assert [action for _, action in said].count("submit") == 3


def test_a_snapshot_is_the_same_for_the_same_content(database: Path) -> None:
    first, second = look(database), look(database)
    assert first == second and first.sha256() == second.sha256() != Snapshot().sha256()
    judgment = first.judgments[0]
    assert to_record(judgment.to_json(), Judgment, where="row") == judgment
    assert isinstance(first.by_id("judgments")[judgment.id], Judgment)
    with pytest.raises(UserError, match=r"row: decision: field 'outcome' of Decision is 'maybe'"):
        to_record({**judgment.to_json(), "decision": {"outcome": "maybe"}}, Judgment, where="row")


# --------------------------------------------------------------------------------------------------------- the layout


def test_the_migrations_make_the_tables_that_queries_ask_for(tmp_path: Path) -> None:
    found = sqlalchemy.inspect(Database.open(str(tmp_path / "a.db")).engine)
    for table in METADATA.tables.values():
        assert {column["name"] for column in found.get_columns(table.name)} == set(table.columns.keys()), table.name


def test_migrations_are_numbered_and_run_once(tmp_path: Path) -> None:
    for _ in range(2):
        database = Database.open(str(tmp_path / "a.db"))
        with database.reading() as connection:
            numbers = connection.exec_driver_sql("SELECT number FROM migrations ORDER BY number").scalars().all()
        assert numbers == list(range(1, len(steps("sqlite")) + 1))


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    Database.open(str(tmp_path / "a.db")).close()
    connection = sqlite3.connect(tmp_path / "a.db")
    connection.execute("INSERT INTO migrations VALUES (99, 'x')")
    connection.commit()
    connection.close()
    with pytest.raises(UserError, match="newer version"):
        Database.open(str(tmp_path / "a.db"))


def test_sqlite_runs_as_it_should(database: Path) -> None:
    with Database.open(str(database)).reading() as connection:
        settings = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in (
            "journal_mode", "synchronous", "foreign_keys", "busy_timeout")}
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 20_000}


def test_a_writer_that_fails_leaves_nothing(database: Path) -> None:
    before, again = look(database), Database.open(str(database))
    with pytest.raises(IntegrityError), again.writing() as connection:
        append(connection, "x", "x", "x", [Annotator(name="new"), Annotator(name="anna")])
    assert look(database) == before


@pytest.mark.parametrize(("place", "said"), [
    ("mysql://me@host/desk", "SQLite or PostgreSQL"), ("://", "no database URL"), ("sqlite://", "names no file"),
    ("/nowhere/at/all/a.db", "folder that is there"), ("text.db", "cannot be used as the desk's database")])
def test_places_that_are_no_database_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str,
                                                 said: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.db").write_text("this is a text and not a database, however it is called")
    with pytest.raises(UserError, match=said):
        Database.open(place)


def test_a_database_to_read_must_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["export", str(tmp_path / "out.jsonl")], ["agreement"], ["verify"], ["invite", "anna"]):
        assert main([*command, "--db", str(tmp_path / "none.db")]) == 2
        assert "there is no such database" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_urls() -> None:
    assert database_url("a.db").database == "a.db" and database_url("sqlite:////x/a.db").database == "/x/a.db"
    assert database_url("postgresql://me@host/desk").drivername == "postgresql+psycopg"


# ------------------------------------------------------------------------------------------------------ the commands


def test_the_commands_say_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0 and "export" in capsys.readouterr().out
    assert main([]) == 2 and main(["judge"]) == 2
    assert "there is serve, import" in capsys.readouterr().err
    for command in ("serve", "import", "export", "agreement", "verify", "invite"):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0 and "--db" in capsys.readouterr().out


def test_an_invitation_signs_its_person_in(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["invite", "head", "--role", "adjudicator", "--db", str(database), "--url", "http://desk:8642/"]) == 0
    assert capsys.readouterr().out.startswith("http://desk:8642/enter?key=head.")
    desk = Desk.open(str(database))
    person = desk.person("head")
    assert person is not None and person.role == "adjudicator"
    with desk.database.reading() as connection:
        assert verify(connection).problems == ()
    assert main(["invite", "head", "--db", str(database)]) == 2


def test_export_and_agreement_read_a_database(database: Path, tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    desk = Desk.open(str(database))
    anna = desk.sign_in("anna")
    desk.submit(anna, id=str(uuid.uuid4()), assignment=desk.next(anna)[0].id, decision={
        "outcome": "prefer", "preferred": "b", "strength": 1})
    before = desk.snapshot()
    assert main(["export", str(tmp_path / "out.jsonl"), "--db", str(database), "--margins", "0,1,2,3"]) == 0
    assert "1 rows" in capsys.readouterr().out
    assert main(["agreement", "--db", str(database), "--json"]) == 0
    assert '"annotators"' in capsys.readouterr().out and desk.snapshot() == before
    assert main(["export", str(tmp_path / "x.jsonl"), "--db", str(database), "--margins", "0,a"]) == 2


@pytest.mark.parametrize("command", [["verify"], ["agreement"], ["export", "out.jsonl"], ["import", "rows.jsonl"]])
@pytest.mark.parametrize("layout", ["CREATE TABLE invoices (number INTEGER)", "CREATE TABLE migrations (id INTEGER)"])
def test_another_programs_database_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str,
                                                    command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "rows.jsonl", completions(2))
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute(layout)
    before = (tmp_path / "other.db").read_bytes()
    assert main([*command, "--db", "other.db"]) == 2
    said = capsys.readouterr().err
    assert "other.db" in said and "another program's" in said and layout.split()[2] in said
    assert (tmp_path / "other.db").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "other.db"}


def test_an_empty_file_becomes_a_desk_only_where_one_is_made(tmp_path: Path,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "a.db"
    place.touch()
    assert main(["agreement", "--db", str(place)]) == 2
    assert "is an empty database" in capsys.readouterr().err and place.read_bytes() == b""
    Database.open(str(place)).close()
    Database.open(str(place), create=False).close()
