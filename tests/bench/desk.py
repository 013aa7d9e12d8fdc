"""How long the annotator's desk keeps people waiting: for its first page, for the next task, for a judgment.

    python -m tests.bench.desk [--tasks 10000] [--docs docs/benchmarks.md]

The server is a process of its own, as `python -m data.annotate serve` starts it; one person talks to it over loopback.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.ppo import machine, write_docs
from tests.data.annotate.desk_opened import completions, opened
from tests.data.annotate.served import Person, Server

MARK = "desk"
STARTS, JUDGMENTS = 5, 200
FIRST, NEXT, SHOWN, JUDGED = ("the command to the first page", "the next task", "its page",
                              "a judgment, on disk, and the next task")


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came back."""
    begun = time.perf_counter()
    found = call()
    return time.perf_counter() - begun, found


def first_pages(database: Path, count: int) -> list[float]:
    """Seconds from the command to the first page, of `count` servers one after another."""
    found = []
    for _ in range(count):
        seconds, server = timed(lambda: Server(database))  # has asked for the page when it is there
        with server:
            assert "<!doctype html>" in server.page
        found.append(seconds)
    return found


def judgments(database: Path, count: int) -> dict[str, list[float]]:
    """Seconds of each thing that somebody waits for, over `count` judgments."""
    waited: dict[str, list[float]] = {NEXT: [], SHOWN: [], JUDGED: []}
    with Server(database) as server:
        person = Person(server, "anna")
        for _ in range(count):
            seconds, answer = timed(lambda: person.call("POST", "next"))
            waited[NEXT].append(seconds)
            current = answer["current"]["id"]
            seconds, page = timed(lambda name=current: person.page(f"/task/{name}"))
            waited[SHOWN].append(seconds)
            assert current in page
            waited[JUDGED].append(timed(lambda name=current: person.submit(name))[0])
    return waited


def table(waited: Mapping[str, Sequence[float]]) -> list[str]:
    """A line for each thing: how often, its median, the least and the most, in milliseconds."""
    lines = ["| waiting for | times | median | least | most |", "|---|---|---|---|---|"]
    for name, seconds in waited.items():
        numbers = [f"{1000 * number:,.0f} ms" for number in (statistics.median(seconds), min(seconds), max(seconds))]
        lines.append(f"| {name} | {len(seconds)} | {' | '.join(numbers)} |")
    return lines


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--docs", type=Path)
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        opened(Path(folder), completions(asked.tasks)).close()
        database = Path(folder) / "annotations.db"
        waited = {FIRST: first_pages(database, STARTS), **judgments(database, JUDGMENTS)}
    lines = [f"{machine().partition(',')[0]}; SQLite, {asked.tasks:,} tasks, one person.", "", *table(waited)]
    print(*lines, sep="\n")
    if asked.docs:
        write_docs(asked.docs, "\n".join(lines), mark=MARK)


if __name__ == "__main__":
    main(sys.argv[1:])
