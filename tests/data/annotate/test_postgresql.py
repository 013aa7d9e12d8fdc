"""The desk on PostgreSQL: the same rules, where FINALIGN_POSTGRESQL names an empty database to test on.

    FINALIGN_POSTGRESQL=postgresql://me@127.0.0.1/empty python -m pytest tests/data/annotate/test_postgresql.py
"""

from __future__ import annotations

import os
import threading
import uuid
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy.exc import ProgrammingError

from data.annotate.cli import main
from data.annotate.desk import Desk
from data.annotate.ledger import verify
from data.annotate.pairing import Plan
from tests.data.annotate.desk_opened import Visitor, completions, imported

URL = os.environ.get("FINALIGN_POSTGRESQL", "")
pytestmark = pytest.mark.skipif(not URL, reason="FINALIGN_POSTGRESQL names no empty database")


def test_25_writers_undo_and_the_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    desk = Desk.open(URL)
    rows = [*completions(3), {"prompt": "Q?", "completion": "nul \x00 and \u202e"}, {"prompt": "Q?", "completion": "x"}]
    imported(desk, tmp_path, rows, plan=Plan(overlap=25))
    failures: list[str] = []

    def write(number: int) -> None:
        own = Desk.open(URL)
        person = own.sign_in(f"p{number}")
        for _ in range(4):
            lent = own.next(person, count=1)
            if not lent:
                failures.append(f"p{number} got no task")
                return
            own.submit(person, id=str(uuid.uuid4()), assignment=lent[0].id, decision={
                "outcome": "prefer", "preferred": "a", "strength": 2})

    writers = [threading.Thread(target=write, args=(number,)) for number in range(25)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failures == []
    snapshot = desk.snapshot()
    assert set(Counter(judgment.task_id for judgment in snapshot.standing()).values()) == {25}
    visitor = Visitor(desk, "p7")
    assert visitor.post("undo", id=str(uuid.uuid4()))["undone"] is not None
    assert visitor.get("progress")["mine"]["judged"] == 3 and visitor.decide()["status"] == "submitted"
    assert any("\x00" in candidate.text for candidate in snapshot.candidates)
    with pytest.raises(ProgrammingError, match="only ever added"), desk.database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM judgments")
    with desk.database.reading() as connection:
        assert verify(connection).problems == ()
    assert main(["verify", "--db", URL]) == 0 and main(["export", str(tmp_path / "out.jsonl"), "--db", URL]) == 0
    assert capsys.readouterr().out.count("no problems") == 1
