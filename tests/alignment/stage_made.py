"""A Stage as a stage module is given one, in a temporary folder, and what it said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alignment.kinds import KINDS
from alignment.stage import Rollout, Stage

FINANCE = {"source": "finance", "path": None, "languages": ["en", "zh"], "kinds": None, "seed": 0}


def make_stage(folder: Path, kind: str, *, inputs: dict[str, Path], data: dict[str, Any] | None = None, seed: int = 5,
               **config: Any) -> Stage:
    """A stage of this kind with its config's defaults but for `config`."""
    for name in ("output", "scratch"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return Stage(name=kind, kind=kind, config=KINDS[kind].config(**config), inputs=inputs, data=data or FINANCE,
                 rollout=Rollout(engine="transformers"), seed=seed, root_seed=1, output=folder / "output",
                 scratch=folder / "scratch", events=folder / "events.jsonl")


def said(stage: Stage, event: str) -> list[dict[str, Any]]:
    """The events of one sort, in order."""
    lines = stage.events.read_text(encoding="utf-8").splitlines() if stage.events.exists() else []
    return [row for row in map(json.loads, lines) if row["event"] == event]


def result(stage: Stage) -> dict[str, Any]:
    """All metrics the stage reported."""
    return {name: value for row in said(stage, "result") for name, value in row["metrics"].items()}


def notes(stage: Stage) -> str:
    """All notes, a line each."""
    return "\n".join(row["text"] for row in said(stage, "note"))
