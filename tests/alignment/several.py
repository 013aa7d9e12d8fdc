"""Stages run by several gloo processes, for tests: `run_stages` runs each stage in both of two, one after the
other, as alignment/ranks.py would, but with one start-up for all of them.

Run by torch's launcher as `python -m tests.alignment.several FOLDER`, a folder of job files.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState

from alignment import group
from alignment.layout import ALONE, Layout
from alignment.stage import Stage, load_job
from data.schema import UserError

ROOT = Path(__file__).parents[2]


def write_job(stage: Stage, path: Path) -> None:
    """The job file of a stage, as a controller writes it."""
    content = {"name": stage.name, "kind": stage.kind, "config": dataclasses.asdict(stage.config),
               "inputs": {role: str(folder) for role, folder in stage.inputs.items()}, "data": stage.data,
               "rollout": dataclasses.asdict(stage.rollout), "seed": stage.seed, "root_seed": stage.root_seed,
               "layout": dataclasses.asdict(stage.layout), "output": str(stage.output), "scratch": str(stage.scratch),
               "events": str(stage.events)}
    path.write_text(json.dumps(content), encoding="utf-8")


def launch(module: str, *arguments: str) -> None:
    """Runs a module in two processes that find each other on the loopback device; fails where one fails."""
    subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1",
                    "--nproc-per-node=2", "-m", module, *arguments], check=True, cwd=ROOT, timeout=600,
                   env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "PYTHONWARNINGS": "ignore"})


def run_stages(stages: list[Stage], folder: Path, *, strategy: str = "ddp",
               module: str = "tests.alignment.several") -> None:
    """Runs the stages in two processes; a stage whose layout is not that of one process keeps its own."""
    folder.mkdir()
    for number, stage in enumerate(stages):
        layout = Layout(2, 1, strategy) if stage.layout == ALONE else stage.layout
        write_job(dataclasses.replace(stage, layout=layout), folder / f"{number:02d}.json")
    launch(module, str(folder))


def told(stage: Stage, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in stage.events.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["event"] == kind]


def main(folder: Path, last: Callable[[Path], None] = lambda folder: None) -> None:
    """Runs the jobs in their order, then `last`, each in a state as a process of its own would have it."""
    told_us = dict(os.environ)
    group.join()
    for job in sorted(folder.glob("*.json")):
        AcceleratorState._reset_state(reset_partial_state=True)  # a stage has its process to itself
        os.environ.update(told_us)
        stage = load_job(job, rank=int(os.environ["RANK"]))
        for place in (stage.output, stage.scratch):
            place.mkdir(parents=True, exist_ok=True)
        try:
            importlib.import_module(f"alignment.stages.{stage.kind}").run(stage)
        except UserError as error:
            stage.note(f"refused: {error}")
    last(folder)
    group.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
