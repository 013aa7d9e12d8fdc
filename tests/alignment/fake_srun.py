"""Slurm's srun in tests: `--nodes=2 ... COMMAND` runs the command twice on this machine, as on two, what comes on stdin
going to each through a pipe; with `--kill-on-bad-exit` one that fails ends the other."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time


def main(argv: list[str]) -> int:
    options = list(itertools.takewhile(lambda part: part.startswith("--"), argv))
    count = next(int(part.partition("=")[2]) for part in options if part.startswith("--nodes="))
    command = argv[len(options):]
    tasks = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(count)]
    signal.signal(signal.SIGTERM, lambda number, frame: [task.send_signal(number) for task in tasks])

    def pass_on() -> None:
        while text := os.read(0, 4096):
            for task in tasks:
                os.write(task.stdin.fileno(), text)  # type: ignore[union-attr]
        for task in tasks:
            task.stdin.close()  # type: ignore[union-attr]

    threading.Thread(target=pass_on, daemon=True).start()
    while None in (codes := [task.poll() for task in tasks]):
        if any(codes) and "--kill-on-bad-exit" in options:
            for task in tasks:
                task.terminate()
        time.sleep(0.05)
    return next(filter(None, codes), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
