"""Stages' processes forked from one that has their libraries loaded: seconds for a chain instead of seconds a stage.

Run by the controller as `python -m alignment.nursery`, which ends when the controller does. A request is a kind on
stdin, with three descriptors: the stage's stdin, its log, and a socket on which its pid, and at the end its exit code,
are told. Only where nothing was started that a fork would lose: on Linux without a GPU.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

from alignment import stage
from alignment.pinning import cuda_visible

NURSERY_COMMAND = (sys.executable, "-m", "alignment.nursery")
LOST = 113  # told of a stage whose nursery ended before it, and so nobody knows how it ended


def serves() -> bool:
    """Whether stages can be forked here: on macOS system libraries, and CUDA anywhere, do not survive it."""
    return sys.platform == "linux" and not cuda_visible()


# The controller's side ----------------------------------------------------------------------------------------------


class Forked:
    """A forked process, with as much of `subprocess.Popen` as the controller uses. `pid` is None until it is forked."""

    def __init__(self, reports: socket.socket) -> None:
        self.pid: int | None = None
        self._reports, self._text = reports, b""
        self._code: int | None = None

    def poll(self) -> int | None:
        """None while it runs; negative = ended by that signal."""
        return self._read(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        code = self._read(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(NURSERY_COMMAND, timeout or 0.0)
        return code

    def _read(self, timeout: float | None) -> int | None:
        while self._code is None and select.select([self._reports], [], [], timeout)[0]:
            part = self._reports.recv(4096)
            self._text += part
            *told, _ = self._text.split(b"\n")
            if told:
                self.pid = int(told[0])
            if len(told) == 2 or not part:
                self._code = int(told[1]) if len(told) == 2 else LOST
                self._reports.close()
        return self._code


class Nursery:
    """The process that stages are forked from, started with the first of them."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._reports: list[socket.socket] = []

    def start(self, kind: str, stdin: socket.socket, log: int) -> Forked:
        """A process for a stage of this kind; there is one as soon as its libraries are loaded."""
        if self._line is None or self._process is None or self._process.poll() is not None:
            self._end()
            self._line, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
            with theirs:
                self._process = subprocess.Popen(NURSERY_COMMAND, stdin=theirs.fileno(), stdout=subprocess.DEVNULL,
                                                 stderr=log, env=self._environment, start_new_session=True)
        mine, reports = socket.socketpair()
        with reports:
            socket.send_fds(self._line, [kind.encode()], [stdin.fileno(), log, reports.fileno()])
        self._reports.append(mine)
        return Forked(mine)

    def close(self) -> None:
        """Ends it; stages that still run go on, but no more is told of them."""
        self._end()
        for reports in self._reports:
            reports.close()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._line is not None:
            self._line.close()
        self._process = self._line = None


# Its own side -------------------------------------------------------------------------------------------------------


def main() -> None:
    """Serves requests until stdin ends."""
    reports: dict[int, int] = {}  # pid -> where its end is told
    wake, woken = os.pipe()
    for end in (wake, woken):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(woken)
    line = socket.socket(fileno=os.dup(0))  # stdin itself becomes the stage's
    while True:
        ready = select.select([line.fileno(), wake], [], [])[0]
        if wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)
            _tell_ends(reports)
        if line.fileno() in ready:
            request, descriptors, _, _ = socket.recv_fds(line, 4096, 3)
            if not request:
                return
            stdin, log, report = descriptors
            kind = request.decode()
            _load(kind, log)
            gc.freeze()  # or each collection would copy the pages that all share
            pid = os.fork()
            if pid == 0:
                os.setsid()
                _tell(report, os.getpid())
                for end in (wake, woken, report, *reports.values()):
                    os.close(end)
                line.close()
                _become(kind, stdin, log)
            os.close(stdin)
            os.close(log)
            reports[pid] = report


def _tell_ends(reports: dict[int, int]) -> None:
    """Reaps what has ended."""
    while reports:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        _tell(reports[pid], os.waitstatus_to_exitcode(status))
        os.close(reports.pop(pid))


def _tell(report: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
        os.write(report, b"%d\n" % number)


def _load(kind: str, log: int) -> None:
    """Loads a stage's libraries; what they say at it belongs to that stage's log."""
    os.dup2(log, 1)
    os.dup2(log, 2)
    with contextlib.suppress(Exception):  # raised again in the stage, where it can be reported
        stage.load(kind)


def _become(kind: str, stdin: int, log: int) -> None:
    """The forked process: a stage as `python -m alignment.stage --attached KIND` starts it."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, standard in ((stdin, 0), (log, 1), (log, 2)):
        os.dup2(number, standard)
    os.close(stdin)
    os.close(log)
    sys.argv = ["alignment.stage", "--attached", kind]
    Path("/proc/self/comm").write_text(kind, encoding="ascii")  # the name that `top` shows
    sys.exit(stage.main(sys.argv[1:]))


if __name__ == "__main__":
    main()
