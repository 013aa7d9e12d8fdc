"""What a run leaves in its folder, read back for the report and for the evidence over seeds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.schema import UserError


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run's folder holds; missing parts are empty."""

    folder: Path
    record: dict[str, Any]
    log: list[dict[str, Any]]
    config: str
    evaluations: dict[str, dict[str, Any]]  # stage -> evaluation.json
    questions: dict[str, dict[str, Any]]  # id -> Question row
    generations: list[dict[str, Any]]  # the greedy ones


def read_run(folder: Path) -> Run:
    """Reads a run's folder. Raises UserError where it is none."""
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} has no run.json, so it is not the folder of a run") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{folder / 'run.json'} is not JSON: {error}") from None
    evaluations: dict[str, dict[str, Any]] = {}
    questions: dict[str, dict[str, Any]] = {}
    generations: list[dict[str, Any]] = []
    for name in record.get("stages", {}):
        stage = folder / "stages" / name
        if (stage / "evaluation.json").is_file():
            evaluations[name] = json.loads((stage / "evaluation.json").read_text(encoding="utf-8"))
            questions |= {row["id"]: row for row in json_lines(stage / "questions.jsonl")}
            generations += [row for row in json_lines(stage / "generations.jsonl") if row["mode"] == "greedy"]
    config = folder / "config.yaml"
    return Run(folder=folder, record=record, log=list(json_lines(folder / "metrics.jsonl")),
               config=config.read_text(encoding="utf-8") if config.is_file() else "", evaluations=evaluations,
               questions=questions, generations=generations)


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file; nothing where there is none. A line cut off by an interrupt is left out."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n") and line.strip():
                yield json.loads(line)
