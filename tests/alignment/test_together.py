"""A sweep ends with one table: over seeds where these are all that differs, of run beside run where not."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from alignment import evidence, run, together
from alignment.config import RunConfig
from tests.alignment.fake_run import fake_run
from tests.alignment.test_compare import CONFIG, made


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("together")
    return [fake_run(root / f"seed{seed}", seed=seed) for seed in range(3)]


def test_seeds_are_brought_together(seeds: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    together.show(seeds)
    assert capsys.readouterr().out == evidence.markdown(evidence.aggregate(seeds)) + "\n"


def test_runs_that_differ_in_more_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = CONFIG | {"ppo": {"kind": "ppo", "reward_weights": {"rule": 0.5}}}
    together.show([made(tmp_path / "one"), made(tmp_path / "two", name="two", config=other)])
    said = capsys.readouterr().out
    assert "held-out metrics" in said and "config keys that differ" in said


def test_without_an_evaluation_there_is_no_table(seeds: list[Path], tmp_path: Path,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(seeds[0], bare, symlinks=True)
    shutil.rmtree(bare / "stages")
    together.show([seeds[1], bare])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("extra", "tables"), [([], 1), (["quiet=true"], 0)])
def test_a_sweep_ends_with_it(extra: list[str], tables: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                              capsys: pytest.CaptureFixture[str]) -> None:
    def attempt(config: RunConfig) -> int:
        fake_run(config.run_dir, seed=config.root.seed)
        return 0

    monkeypatch.setattr(run, "attempt", attempt)
    monkeypatch.setattr(sys, "argv", ["run"])
    assert run.main(["--multirun", "recipe=evaluate", "seed=1,2", f"runs_dir={tmp_path}", *extra]) == 0
    assert capsys.readouterr().out.count("Mean over seeds with the 95% interval") == tables
