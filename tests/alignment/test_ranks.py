"""Several processes for one stage: started together, heard as one, ended together whatever happens to one of them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alignment.child import Child, ranks_command, separately
from alignment.layout import Layout
from alignment.pinning import environment
from alignment.store import Lock


@contextlib.contextmanager
def started(folder: Path, behaviour: dict[str, str], layout: Layout = Layout(2)) -> Iterator[Child]:  # noqa: B008
    """Two fake processes that do what `behaviour` says of their numbers, else sleep."""
    (folder / "scratch").mkdir()
    lock = Lock(folder / "lock")
    assert lock.acquire()
    launch = separately(ranks_command(layout, "tests.alignment.fake_rank"),
                        environment(threads=1, offline=True, portable=False))
    child = Child.start("sft", launch, log=folder / "log")
    try:
        child.give({"config": behaviour, "scratch": str(folder / "scratch"), "events": str(folder / "events.jsonl")},
                   work=folder, lock=lock)
        yield child
    finally:
        child.stop()
        lock.release()


def wait(condition: Any, seconds: float = 300.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def pids(folder: Path) -> list[int]:
    """Of the processes, once both have begun."""
    wait(lambda: len([path for path in folder.glob("scratch/*.pid") if path.read_text()]) == 2)
    return [int(path.read_text()) for path in sorted(folder.glob("scratch/*.pid"))]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def ended(child: Child) -> int:
    wait(lambda: child.exit_code() is not None)
    code = child.exit_code()
    assert code is not None
    return code


@pytest.mark.slow
def test_each_process_is_told_who_it_is(tmp_path: Path) -> None:
    with started(tmp_path, {"0": "done", "1": "done"}) as child:
        assert ended(child) == 0
    said = (tmp_path / "log").read_text()
    assert all(f"process {rank} of 2 at 127.0.0.1, sft" in said for rank in (0, 1))


@pytest.mark.slow
@pytest.mark.parametrize(("behaviour", "code", "told"), [
    ("user error", 2, "the file has no rows"),
    ("killed", 1, "process 1 of 2 was ended by SIGKILL (out of memory?)")])
def test_where_one_fails_all_end(behaviour: str, code: int, told: str, tmp_path: Path) -> None:
    with started(tmp_path, {"1": behaviour}) as child:
        assert ended(child) == code
        other = pids(tmp_path)[0]
        wait(lambda: not alive(other))
        events = child.new_events()
    assert [event["text"] for event in events] == [told]
    assert (tmp_path / "scratch" / "0.ended").read_text() == "SIGTERM"


@pytest.mark.slow
def test_two_machines_meet_and_end_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By srun, here one that starts both on this machine; a failure on one ends the other."""
    (tmp_path / "bin").mkdir()
    srun = tmp_path / "bin" / "srun"
    srun.write_text(f"#!/bin/bash\nexec {sys.executable} {Path(__file__).with_name('fake_srun.py')} \"$@\"\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("alignment.child.socket.gethostname", lambda: "localhost")
    with started(tmp_path, {"1": "user error"}, Layout(1, 2)) as child:
        assert ended(child) != 0
        other = pids(tmp_path)[0]
        wait(lambda: not alive(other))
        assert [event["text"] for event in child.new_events()] == ["the file has no rows"]
    assert "process 0 of 2" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_asked_to_stop_all_are_asked(tmp_path: Path) -> None:
    with started(tmp_path, {}) as child:
        both = pids(tmp_path)
        child.stop()
        assert child.exit_code() == 128 + signal.SIGTERM
        assert not any(map(alive, both))
    assert [(tmp_path / "scratch" / f"{rank}.ended").read_text() for rank in (0, 1)] == ["SIGTERM"] * 2
