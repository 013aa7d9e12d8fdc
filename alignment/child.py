"""One stage's process: started, given its job, followed through its events file, stopped with all it started.

It is started before its job is known: it may have to load its libraries (seconds), and does while an earlier stage
runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from alignment.layout import Layout
from alignment.store import Lock

STAGE_COMMAND = (sys.executable, "-m", "alignment.stage", "--attached")
GRACE_SECONDS = 20.0


class Process(Protocol):
    """What is used of `subprocess.Popen`; `pid` leads a session of its own, and is None before there is one."""

    @property
    def pid(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


Launch = Callable[[str, socket.socket, int], Process]  # of a kind, given its stdin and its log's descriptor


def separately(command: Sequence[str], environment: dict[str, str]) -> Launch:
    """A process of its own from the beginning: `command KIND`."""
    def launch(kind: str, stdin: socket.socket, log: int) -> Process:
        return subprocess.Popen([*command, kind], stdin=stdin.fileno(), stdout=log, stderr=subprocess.STDOUT,
                                env=environment, start_new_session=True)
    return launch


def ranks_command(layout: Layout, module: str = "alignment.stage") -> tuple[str, ...]:
    """Starts a stage's processes (alignment/ranks.py): on this machine, or by Slurm once on each of several, which meet
    at a port of this one."""
    command = (sys.executable, "-m", "alignment.ranks", str(layout.processes), str(layout.nodes))
    if layout.nodes == 1:
        return (*command, "127.0.0.1:0", module)
    srun = ("srun", f"--nodes={layout.nodes}", f"--ntasks={layout.nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit")
    return (*srun, *command, f"{socket.gethostname()}:{free_port()}", module)


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    with socket.socket() as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])


@dataclasses.dataclass
class Child:
    """A running stage."""

    process: Process
    line: socket.socket  # to its stdin
    log: Path
    started: float
    events: Path | None = None
    _read: int = 0

    @classmethod
    def start(cls, kind: str, launch: Launch, *, log: Path) -> Child:
        """Starts a process for a stage of this kind; it waits for its job, and ends when this process does."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            line, stdin = socket.socketpair()
            with stdin:
                process = launch(kind, stdin, output.fileno())
        return cls(process, line, log, time.monotonic())

    def give(self, job: dict[str, Any], *, work: Path, lock: Lock) -> None:
        """Hands the job over, and a share in its lock; the stage's time counts from here."""
        job_file, self.events = work / "job.json", Path(job["events"])
        job_file.write_text(json.dumps(job, ensure_ascii=False), encoding="utf-8")
        self.events.unlink(missing_ok=True)
        self.started = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it ended already: its exit code says so
            socket.send_fds(self.line, [os.fsencode(job_file) + b"\n"], [lock.fileno()])

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def exit_code(self) -> int | None:
        """None while it runs; negative = ended by that signal."""
        return self.process.poll()

    def new_events(self) -> list[dict[str, Any]]:
        """The events written since the last call; a line still being written waits."""
        assert self.events is not None
        try:
            with self.events.open("rb") as file:
                file.seek(self._read)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[:text.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def stop(self) -> None:
        """Ends the stage and whatever it started: asked first, then made to."""
        self.process.poll()
        if self.process.pid is None:  # it will find that there is nothing to do
            self.close()
            return
        for ask, wait in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, None)):
            try:
                os.killpg(self.process.pid, ask)
            except ProcessLookupError:
                break
            try:
                self.process.wait(wait)
            except subprocess.TimeoutExpired:
                continue
        self.process.wait()
        self.close()

    def close(self) -> None:
        """Lets go of a process that has ended."""
        self.line.close()


def ended_by(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
