"""A whole run with a reward of the user's own: it fails, is corrected, goes on, and ends as if it had never failed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignment import run
from alignment.store import read_artifact

RECIPE = """# @package _global_
defaults: [/kind@ppo: ppo, _self_]
ppo:
  inputs: {policy: base}
  rewards: {mine: my_rewards.py:mine}
  reward_weights: {mine: 0.5}
"""
RIGHT = """from reward import Scores, Span

CALLS = []


def mine(questions, completions):
    CALLS.append(1)
    return Scores([len(row.token_ids) / 48 for row in completions],
                  spans=[[Span(0, 1, 0.25)] if row.text else [] for row in completions])
"""
WRONG = RIGHT.replace("    return Scores", "    if len(CALLS) == 3:\n        raise KeyError('odd')\n    return Scores")


def start(folder: Path, runs: str, *more: str) -> int:
    return run.main(["recipe=mine", "--config-dir", str(folder), "scale=tiny", "rollout=transformers", "threads=1",
                     "ppo.save_every=100", f"runs_dir={folder / runs}", "name=own", *more])


@pytest.mark.slow
def test_a_run_whose_reward_fails_goes_on_when_it_is_corrected(tmp_path: Path,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text(RECIPE)
    (tmp_path / "my_rewards.py").write_text(WRONG)
    assert start(tmp_path, "runs") == 2
    said = capsys.readouterr().err
    assert f"raised KeyError: 'odd' ({tmp_path}/my_rewards.py:9), scoring 8 completions; correct it" in said
    assert "up to iteration 1 is kept" in said and "accept_code_change=ppo" in said
    log = (tmp_path / "runs/mine/own/logs/ppo.log").read_text()
    assert f'File "{tmp_path}/my_rewards.py", line 9, in mine' in log and "KeyError: 'odd'" in log

    (tmp_path / "my_rewards.py").write_text(RIGHT)
    assert start(tmp_path, "runs", "dry_run=true") == 0
    assert "ppo: runs" in (shown := capsys.readouterr().out) and "goes on" not in shown
    assert start(tmp_path, "runs", "accept_code_change=ppo") == 0 and start(tmp_path, "whole") == 0
    went_on, whole = (read_artifact((tmp_path / runs / "mine/own/stages/ppo").resolve()) for runs in ("runs", "whole"))
    assert went_on is not None and whole is not None
    assert went_on.output_sha256 == whole.output_sha256 and went_on.identity == whole.identity
    assert went_on.metrics == whole.metrics
    [note] = [note for note in went_on.manifest["notes"] if note.startswith("code was changed")]
    assert "module rewards.mine:my_rewards.py: " in note
    lines = [json.loads(line) for line in (tmp_path / "runs/mine/own/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 3] and "process_reward" in lines[0]
