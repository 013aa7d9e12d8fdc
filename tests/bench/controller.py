"""What the controller adds to the stages it runs: the tiny chain from nothing, and once more when all is sealed.

    python -m tests.bench.controller [--docs docs/benchmarks.md]

A stage's own time is from the handing over of its job to the end of its process. What else a run takes is the
controller's: to read the recipe, work out identities, look at models, data and contracts, seal, write the record and
the report, and to load the first stage's libraries, as nothing else can go on meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.ppo import write_docs

ROOT = Path(__file__).parents[2]
REPEATS = 3
MARK = "controller"
ARGUMENTS = ("recipe=ppo_fin", "scale=tiny")


def run(runs: Path) -> tuple[float, dict[str, Any]]:
    """Seconds of the command, and the record it left."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "alignment.run", *ARGUMENTS, f"runs_dir={runs}"], cwd=ROOT, check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - begun
    return seconds, json.loads((runs / "ppo_fin" / "seed1-tiny" / "run.json").read_text(encoding="utf-8"))


def table(made: Sequence[tuple[float, dict[str, Any]]], again: Sequence[float]) -> list[str]:
    """Medians over the repeats of (seconds, record) of the run that makes all stages, and seconds of the one after."""
    stages = [[stage["seconds"] for stage in record["stages"].values()] for _, record in made]
    whole = statistics.median(seconds for seconds, _ in made)
    beside = statistics.median(seconds - sum(own) for (seconds, _), own in zip(made, stages, strict=True))
    sealed, count = statistics.median(again), len(stages[0])
    return ["| | seconds |", "|---|---|",
            f"| the chain of {count} stages, all made | {whole:.1f} |",
            f"| of that in the stages | {statistics.median(map(sum, stages)):.1f} |",
            f"| beside them | {beside:.1f} |",
            f"| the same command when all is sealed | {sealed:.1f} |",
            f"| what a stage costs the controller, beyond that | {(beside - sealed) / count:.2f} |"]


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--docs", type=Path)
    asked = parser.parse_args(argv)
    made, again = [], []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            made.append(run(Path(folder)))
            again.append(run(Path(folder))[0])
    lines = table(made, again)
    print(*lines, sep="\n")
    if asked.docs:
        write_docs(asked.docs, "\n".join(lines), mark=MARK)


if __name__ == "__main__":
    main(sys.argv[1:])
