"""A chain of fake stages that tests of the controller run in a temporary folder."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from alignment import controller as controllers
from alignment import leakage
from alignment import prepare as preparing
from alignment.config import RunConfig, load
from alignment.controller import Controller
from alignment.display import Quiet
from data.schema import Question
from tests.alignment import fake_stage

COMMAND = (sys.executable, str(Path(fake_stage.__file__)))


def question(key: str = "test-1", prompt: str = "2 + 2?") -> Question:
    return Question(id=key, source="finance", kind="sum", language="en", prompt=prompt, steps=(), answer="4",
                    operand_key=key)


class FakeSource:
    """A data source of one held-out question."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def files(self) -> list[Path]:
        return self._files

    def questions(self, split: str, *, count: int | None, seed: int) -> list[Question]:
        assert split == "test"
        return [question()]


class Recorder(Quiet):
    """Keeps what was said and how each stage ended."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.ends: dict[str, str] = {}

    def say(self, text: str) -> None:
        self.said.append(text)

    def ended(self, stage: str, status: str, seconds: float) -> None:
        self.ends[stage] = status


@dataclasses.dataclass
class Outcome:
    """What a run did."""

    code: int
    started: list[str]  # stages whose process was started, in order
    ends: dict[str, str]
    said: str
    config: RunConfig
    manifest: dict[str, Any]  # run.json as this run left it

    @property
    def run_dir(self) -> Path:
        return self.config.run_dir


class Chain:
    """Runs recipes with fake stages; each call is one command."""

    def __init__(self, tmp_path: Path, monkeypatch: Any) -> None:
        self.root = tmp_path
        self.base = tmp_path / "base"
        fake_stage.write_model(self.base)
        self.data_files: list[Path] = []
        self.code: dict[str, str] = {"alignment.stages.any": "1" * 16}
        self.starts = tmp_path / "starts"
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("FAKE_STARTS", str(self.starts))
        monkeypatch.setattr(controllers, "POLL_SECONDS", 0.005)
        for module in (preparing, leakage):
            monkeypatch.setattr(module, "open_source", lambda config: FakeSource(self.data_files))

    def config(self, *overrides: str, recipe: str = "ppo_fin") -> RunConfig:
        return load([f"recipe={recipe}", f"runs_dir={self.root / 'runs'}", f"model.path={self.base}",
                     "rollout=transformers", *overrides])

    def prepare(self, *overrides: str, recipe: str = "ppo_fin") -> preparing.Prepared:
        return preparing.prepare(self.config(*overrides, recipe=recipe), code_of=lambda kind: (self.code, frozenset()))

    def run(self, *overrides: str, recipe: str = "ppo_fin", **behaviour: str) -> Outcome:
        """Runs a recipe; `behaviour`: stage -> what its fake does."""
        self._monkeypatch.setenv("FAKE_BEHAVIOUR", json.dumps(behaviour))
        self.starts.write_text("")
        prepared = self.prepare(*overrides, recipe=recipe)
        recorder = Recorder()
        code = Controller(prepared, recorder, command=COMMAND).run()
        manifest = json.loads((prepared.config.run_dir / "run.json").read_text())
        return Outcome(code, self.starts.read_text().split(), recorder.ends, "\n".join(recorder.said), prepared.config,
                       manifest)
