"""Stages' processes forked from the nursery: they start, end and die as processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from alignment import nursery
from alignment.nursery import LOST, Forked, Nursery
from alignment.pinning import environment

KINDS = '''
import importlib.abc, os, sys
from alignment import stage

class Broken(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "alignment.stages.broken":
            raise SyntaxError("on purpose")

sys.meta_path.insert(0, Broken())

def main(arguments):
    kind = arguments[1]
    print("this is", kind, "seeded", os.environ["PYTHONHASHSEED"], flush=True)
    if kind == "waits":
        os.read(0, 1)
    if kind == "raises":
        raise ValueError("on purpose")
    return 7 if kind == "fails" else 0

stage.main = main
'''  # becomes sitecustomize.py: the nursery is real, what it starts is not

pytestmark = pytest.mark.skipif(not nursery.serves(), reason="stages are not forked here")


class Home:
    """A nursery, and the lines to what it forked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "sitecustomize.py").write_text(KINDS)
        found = environment(threads=1, offline=True, portable=False)
        self.nursery = Nursery(found | {"PYTHONPATH": os.pathsep.join([found["PYTHONPATH"], str(folder)])})
        self.lines: list[socket.socket] = []

    def start(self, kind: str) -> Forked:
        line, stdin = socket.socketpair()
        self.lines.append(line)
        with stdin, (self.folder / f"{kind}.log").open("wb") as log:
            return self.nursery.start(kind, stdin, log.fileno())

    def said(self, kind: str) -> str:
        return (self.folder / f"{kind}.log").read_text()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.nursery.close()
    for line in home.lines:
        line.close()


def parent(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def forked(process: Forked) -> int:
    """Its pid, once there is one."""
    for _ in range(2000):
        assert process.poll() is None
        if process.pid is not None:
            return process.pid
        time.sleep(0.01)
    raise AssertionError("it was never forked")


def gone(pid: int) -> bool:
    """Whether a process ends within some seconds; it may be a zombie nobody waits for."""
    for _ in range(500):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.01)
                continue
        return True
    return False


def test_each_stage_ends_with_its_own_code_and_log(home: Home) -> None:
    waits, fails, ends, raises = (home.start(kind) for kind in ("waits", "fails", "ends", "raises"))
    assert (fails.wait(30), ends.wait(30), raises.wait(30)) == (7, 0, 1)
    pid = forked(waits)
    assert parent(pid) == home.nursery._process.pid  # type: ignore[union-attr]
    assert os.getsid(pid) == pid and Path(f"/proc/{pid}/comm").read_text() == "waits\n"
    home.lines[0].close()  # as when the controller dies
    assert waits.wait(30) == 0
    for kind in ("waits", "fails", "ends"):
        assert home.said(kind) == f"this is {kind} seeded 0\n"
    assert home.said("raises").endswith("ValueError: on purpose\n")


def test_a_signal_that_ends_a_stage_is_told(home: Home) -> None:
    stage = home.start("waits")
    os.killpg(forked(stage), signal.SIGKILL)
    assert stage.wait(30) == -signal.SIGKILL == stage.poll()


def test_a_nursery_that_is_killed_is_noticed_and_started_again(home: Home) -> None:
    lost = home.start("waits")
    pid, first = forked(lost), home.nursery._process
    assert first is not None
    first.kill()
    assert lost.wait(30) == LOST
    first.wait()
    assert home.start("ends").wait(30) == 0 and home.nursery._process is not first
    home.lines[0].close()
    assert gone(pid)


def test_what_cannot_be_loaded_ends_no_other(home: Home) -> None:
    waits = home.start("waits")
    forked(waits)
    assert home.start("broken").wait(30) == 0  # the stage itself meets it again, here it has no module
    assert waits.poll() is None
    assert home.start("ends").wait(30) == 0
    home.lines[0].close()
    assert waits.wait(30) == 0


def test_a_wait_has_an_end(home: Home) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        home.start("waits").wait(0.01)


def test_a_nursery_ends_with_its_controller(tmp_path: Path) -> None:
    code = (f"import os, sys, time; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
            "from pathlib import Path\n"
            "from tests.alignment.test_nursery import Home, forked\n"
            f"home = Home(Path({str(tmp_path)!r}))\n"
            "print(forked(home.start('waits')), home.nursery._process.pid, flush=True)\n"
            "time.sleep(60)\n")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as controller:
        assert controller.stdout is not None
        pids = [int(pid) for pid in controller.stdout.readline().split()]
        controller.kill()
    assert [gone(pid) for pid in pids] == [True, True]
