"""What was acknowledged is there: after kill -9 under load, a double post, a restart, and with 25 writers at once."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest

from data.annotate.desk import Desk
from data.annotate.ledger import verify
from data.annotate.pairing import Plan
from tests.data.annotate.desk_opened import completions, look, opened
from tests.data.annotate.served import ROOT, Person, Server

WRITER = """
import sys, threading, uuid
from data.annotate.desk import Desk
database, process, threads, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
def write(number):
    desk = Desk.open(database)
    person = desk.sign_in(f"p{process}-{number}")
    for _ in range(rounds):
        lent = desk.next(person, count=1)[0]
        made = desk.submit(person, id=str(uuid.uuid4()), assignment=lent.id, decision={"outcome": "tie"})
        print(made.id, flush=True)
    desk.close()
workers = [threading.Thread(target=write, args=(number,)) for number in range(threads)]
[worker.start() for worker in workers]
[worker.join() for worker in workers]
"""


class Load(threading.Thread):
    """Somebody who judges without pause until the server is gone."""

    def __init__(self, server: Server, name: str) -> None:
        super().__init__()
        self.person, self.acknowledged, self.posted = Person(server, name), list[str](), list[tuple[str, str]]()

    def run(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            current = self.person.call("POST", "next")["current"]
            while current is not None:
                name = str(uuid.uuid4())
                self.posted.append((name, current["id"]))
                answer = self.person.submit(current["id"], name)
                self.acknowledged.append(answer["judgment"])
                current = answer["next"]["current"]


@pytest.mark.slow
def test_kill_9_under_load_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Twice: four people judge without pause, the server is killed, and whoever got no answer posts the same again."""
    opened(tmp_path, completions(150), plan=Plan(overlap=4)).close()
    database = tmp_path / "annotations.db"
    acknowledged: list[str] = []
    for turn in range(2):
        with Server(database) as server:
            people = [Load(server, f"p{number}") for number in range(4)]
            for person in people:
                person.start()
            deadline = time.monotonic() + 30
            while sum(len(person.acknowledged) for person in people) < 25 and time.monotonic() < deadline:
                time.sleep(0.01)
            server.kill()
            for person in people:
                person.join(timeout=60)
        fresh = [name for person in people for name in person.acknowledged]
        acknowledged += fresh
        assert len(fresh) >= 20
        snapshot = look(database)
        assert set(acknowledged) <= {judgment.id for judgment in snapshot.judgments}, turn
        unanswered = [(number, person.posted[-1]) for number, person in enumerate(people)
                      if person.posted[-1][0] not in person.acknowledged]
        with Server(database) as server:
            for number, (name, assignment) in unanswered:
                again = Person(server, f"p{number}")
                acknowledged.append(again.submit(assignment, name)["judgment"])
                assert again.submit(assignment, name)["judgment"] == name
    snapshot = look(database)
    counts = Counter(judgment.id for judgment in snapshot.judgments)
    assert set(counts.values()) == {1} and set(acknowledged) <= counts.keys()
    assert max(Counter(judgment.task_id for judgment in snapshot.standing()).values()) <= 4
    desk = Desk.open(str(database))
    with desk.database.reading() as connection:
        assert verify(connection).problems == ()
    desk.close()


@pytest.mark.slow
def test_25_writers_at_once_lose_nothing_and_none_is_locked_out(tmp_path: Path) -> None:
    """Five processes of five threads, each with a database connection of its own, on tasks that want all of them."""
    opened(tmp_path, completions(4), plan=Plan(overlap=25)).close()
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "annotations.db"), str(number), "5", "4"],
                                cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
               for number in range(5)]
    said = [writer.communicate(timeout=300) for writer in writers]
    assert [error for _, error in said if error] == []
    written = [name for out, _ in said for name in out.split()]
    snapshot = look(tmp_path / "annotations.db")
    assert len(written) == 100 and set(written) == {judgment.id for judgment in snapshot.judgments}
    assert Counter(judgment.task_id for judgment in snapshot.standing()) == Counter(
        {task.id: 25 for task in snapshot.tasks})
    assert {judgment.status for judgment in snapshot.judgments} == {"submitted"}


@pytest.mark.slow
def test_undo_and_drafts_outlive_the_server(tmp_path: Path) -> None:
    opened(tmp_path, completions(3)).close()
    database = tmp_path / "annotations.db"
    with Server(database) as server:
        anna = Person(server, "anna")
        first = anna.call("POST", "next")["current"]
        second = anna.submit(first["id"])["next"]["current"]
        anna.call("POST", "draft", assignment=second["id"], draft={"rationale": "half a tho"})
        server.kill()
    with Server(database) as server:
        anna.connection = server.connect()
        assert anna.call("POST", "next")["current"]["draft"] == {"rationale": "half a tho"}  # the cookie still holds
        back = anna.call("POST", "undo", id=str(uuid.uuid4()))["next"]["current"]
        assert back["id"] == first["id"] and back["draft"]["preferred"] == "a"
        assert anna.submit(first["id"])["next"]["current"]["id"] == second["id"]
    snapshot = look(database)
    assert [judgment.status for judgment in snapshot.judgments] == ["submitted", "void", "submitted"]


def test_the_first_page_needs_no_heavy_library(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with Server(tmp_path / "annotations.db") as server:
        assert "<html" in server.page
        maps = Path(f"/proc/{server.process.pid}/maps")
        if maps.exists():
            assert not [name for name in ("torch", "transformers") if f"/{name}/" in maps.read_text()]



@pytest.mark.parametrize("module", ["data.annotate.cli", "data.annotate.serving", "data.annotate.importing",
                                    "data.annotate.reporting", "data.annotate.keeping"])
def test_no_command_imports_torch(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{name.split('.')[0] for name in sys.modules}}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert not [name for name in ("torch", "transformers", "trl", "datasets", "pandas") if f"'{name}'" in out]


@pytest.mark.slow
def test_two_desks_on_one_port_are_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with Server(tmp_path / "annotations.db") as server:
        second = subprocess.run([sys.executable, "-m", "data.annotate", "serve", "--db", str(tmp_path / "b.db"),
                                 "--port", str(server.port)], cwd=ROOT, capture_output=True, text=True)
    assert second.returncode == 2 and "--port 0 takes a free one" in second.stderr
