"""A desk's database in a recipe: sealed to a file first, whose bytes are what a stage's identity knows of it."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from alignment import prepare
from alignment.config import load
from alignment.desk_snapshots import is_database
from alignment.identity import file_sha256
from alignment.prepare import Prepared
from data.annotate.desk import Desk
from data.annotate.importing import Rules, bring
from data.annotate.pairing import Plan
from data.preferences import read_pairs
from data.rows import to_line
from data.schema import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Three pairs, of which anna has judged two."""
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(b"".join(to_line({"prompt": f"Q{n}?", "completion": f"answer {side}", "model": side})
                              for n in range(3) for side in "ab"))
    desk = Desk.open(str(tmp_path / "annotations.db"))
    bring(desk, [str(rows)], Plan(), Rules())
    desk.close()
    judge(tmp_path / "annotations.db", 2)
    return tmp_path / "annotations.db"


def judge(database: Path, count: int) -> None:
    desk = Desk.open(str(database))
    anna = desk.sign_in("anna")
    for _ in range(count):
        lent = desk.next(anna, count=1)[0]
        desk.submit(anna, id=str(uuid.uuid4()), assignment=lent.id, decision={
            "outcome": "prefer", "preferred": "a", "strength": 3})
    desk.close()


def prepared(tmp_path: Path, human: str) -> Prepared:
    return prepare.prepare(load(["recipe=ppo_fin", f"pairs.human='{human}'", f"runs_dir={tmp_path / 'runs'}"]))


def test_a_database_is_sealed_and_its_bytes_are_the_identity(tmp_path: Path, database: Path) -> None:
    first = prepared(tmp_path, str(database))
    path = Path(str(first.node("pairs").stage.config.human))  # type: ignore[attr-defined]
    assert path.is_relative_to(tmp_path / "runs" / "annotations") and len(read_pairs(path)) == 2
    assert file_sha256(path) in first.node("pairs").parts["files"].values()
    assert first.config.stages["pairs"].human == str(path)  # type: ignore[attr-defined]
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "pairs.jsonl", "pairs.jsonl.card.json", "pairs.jsonl.card.md"]
    assert not path.stat().st_mode & 0o222

    desk = Desk.open(str(database))
    desk.sign_in("bea")  # the database changes, and what was judged does not
    desk.close()
    second = prepared(tmp_path, f"sqlite:///{database}")
    assert second.node("pairs").identity == first.node("pairs").identity

    judge(database, 1)
    third = prepared(tmp_path, str(database))
    assert third.node("pairs").identity != first.node("pairs").identity
    assert third.node("sft").identity == first.node("sft").identity
    assert len(list((tmp_path / "runs" / "annotations").iterdir())) == 2 and len(read_pairs(path)) == 2


def test_what_cannot_be_exported_is_said_with_the_key(tmp_path: Path, database: Path) -> None:
    empty = Desk.open(str(tmp_path / "empty.db"))
    empty.close()
    with pytest.raises(UserError, match=r"pairs\.human=.*empty\.db: .*no row is left"):
        prepared(tmp_path, str(tmp_path / "empty.db"))
    with pytest.raises(UserError, match=r"pairs\.human=.*none\.db: there is no such"):
        prepared(tmp_path, str(tmp_path / "none.db"))
    with pytest.raises(UserError, match=r"pairs\.human=none\.db: there is no such"):
        prepared(tmp_path, "none.db")
    assert list((tmp_path / "runs").rglob(".making*")) == []


def test_a_stage_that_is_not_run_needs_no_database(tmp_path: Path) -> None:
    config = load(["recipe=ppo_fin", "pairs.human=sqlite:///none.db", "until=sft", f"runs_dir={tmp_path / 'runs'}"])
    assert [node.name for node in prepare.prepare(config).nodes][-1] == "sft"


def test_what_is_a_database(tmp_path: Path, database: Path) -> None:
    renamed = tmp_path / "renamed"
    renamed.write_bytes(database.read_bytes())
    assert all(map(is_database, (str(database), str(renamed), "postgresql://me@host/desk", "sqlite:///a.jsonl")))
    assert not any(map(is_database, ("embedded", "pairs.jsonl", str(tmp_path), "org/name")))


def test_a_run_without_a_database_loads_no_database_package() -> None:
    code = "import sys, alignment.run; print('sqlalchemy' in sys.modules, 'starlette' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "False"]
