"""Sealing: whole or absent, checked when read, shared between runs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alignment.store import MANIFEST, Artifact, Store, StoreError
from data.schema import UserError

IDENTITY = "ab" * 32


def make(store: Store, text: str = "content", name: str = "a.txt", identity: str = IDENTITY) -> None:
    output = store.work("sft", identity) / "output"
    output.mkdir(parents=True)
    (output / name).write_text(text)


def seal(store: Store, identity: str = IDENTITY, peak_mib: float = 500.0) -> Artifact:
    return store.seal(kind="sft", identity=identity, stage="sft", parts={"seed": 1}, seed=1, seconds=2.0,
                      metrics={"accuracy": 0.5}, notes=["a note"], log=[{"step": 1, "loss": 2.0}], peak_mib=peak_mib)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_sealed_and_read(store: Store) -> None:
    make(store)
    assert store.get("sft", IDENTITY) is None
    sealed = seal(store)
    found = store.get("sft", IDENTITY)
    assert found is not None and found == sealed
    assert found.metrics == {"accuracy": 0.5} and list(found.manifest["files"]) == ["a.txt"]
    assert not store.work("sft", IDENTITY).exists()
    assert store.get("sft", "ab" * 8 + "cd" * 24) is None  # the same folder name, another identity
    last = store.last("sft", "sft")
    assert last is not None and last.identity == IDENTITY


def test_the_content_hash_leaves_the_log_the_time_and_the_memory_out(store: Store) -> None:
    make(store)
    first = seal(store)
    make(store, identity="cd" * 32)
    second = seal(store, "cd" * 32, peak_mib=600.0)
    assert second.output_sha256 == first.output_sha256
    assert (first.manifest["peak_mib"], second.manifest["peak_mib"]) == (500.0, 600.0)
    make(store, text="other", identity="ef" * 32)
    assert seal(store, "ef" * 32).output_sha256 != first.output_sha256


@pytest.mark.parametrize("damage", ["edit", "truncate", "remove", "add"])
def test_a_changed_artifact_is_refused_by_name(store: Store, damage: str) -> None:
    make(store)
    folder = seal(store).path
    match damage:
        case "edit":
            (folder / "a.txt").write_text("CONTENT")
        case "truncate":
            (folder / "a.txt").write_text("")
        case "remove":
            (folder / "a.txt").unlink()
        case "add":
            (folder / "b.txt").write_text("")
    with pytest.raises(UserError, match=r"b\.txt was added" if damage == "add" else r"a\.txt is"):
        store.get("sft", IDENTITY)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"identity": "x"}'])
def test_a_manifest_that_is_not_whole_is_no_artifact(store: Store, text: str) -> None:
    make(store)
    folder = seal(store).path
    (folder / MANIFEST).write_text(text)
    assert store.get("sft", IDENTITY) is None
    make(store)
    assert seal(store).metrics == {"accuracy": 0.5}  # made again in its place


def test_an_edited_manifest_is_no_artifact(store: Store) -> None:
    make(store)
    path = seal(store).path / MANIFEST
    content = json.loads(path.read_text())
    content["metrics"]["accuracy"] = 0.9
    path.write_text(json.dumps(content))
    assert store.get("sft", IDENTITY) is None


KILLED = """
import os, signal, sys
from pathlib import Path
from alignment import store as stores
from tests.alignment.test_store import make, seal
def die(*arguments, **keywords): os.kill(os.getpid(), signal.SIGKILL)
where = sys.argv[2]
if where == "before the manifest": stores.write_json = die
if where == "in the manifest": os.replace = die
if where == "before the rename": Path.rename = die
store = stores.Store(Path(sys.argv[1]))
make(store)
seal(store)
"""


@pytest.mark.parametrize("where", ["before the manifest", "in the manifest", "before the rename"])
def test_killed_while_sealing_leaves_nothing_to_read(store: Store, where: str) -> None:
    runs = store.root.parent
    process = subprocess.run([sys.executable, "-c", KILLED, str(runs), where], check=False)
    assert process.returncode == -signal.SIGKILL
    assert (store.work("sft", IDENTITY) / "output/a.txt").exists()  # it got that far
    assert store.get("sft", IDENTITY) is None and list(store.artifacts()) == []


def test_what_cannot_be_sealed(store: Store) -> None:
    (store.work("sft", IDENTITY) / "output").mkdir(parents=True)
    with pytest.raises(StoreError, match="wrote nothing"):
        seal(store)
    make(store, name="weights.bin", identity="cd" * 32)
    with pytest.raises(StoreError, match=r"pickles: weights\.bin"):
        seal(store, "cd" * 32)
    assert list(store.artifacts()) == []


def test_one_maker_at_a_time_and_a_dead_ones_lock_is_free(store: Store) -> None:
    mine, other = store.lock("sft", IDENTITY), store.lock("sft", IDENTITY)
    assert mine.acquire() and not other.acquire()
    holder = subprocess.Popen(["sleep", "60"], pass_fds=[mine.fileno()])
    mine.release()
    assert not other.acquire()  # its child still works on it
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert other.acquire()
    other.release()
