"""The README cannot rot: its tree, recipes, commands and keys are those of the code."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

from alignment.config import load
from alignment.kinds import Ppo
from alignment.own_rewards import OwnReward
from data.annotate.cli import COMMANDS
from data.schema import Completion
from tests.readme_tree import ROOT, block, tree

README = (ROOT / "README.md").read_text(encoding="utf-8")
DESK = re.findall(r"^ *python -m data\.annotate (.*?)(?: +#.*)?$", README, re.MULTILINE)
RUNS = re.findall(r"^ *python -m alignment\.run (.*?)(?: +#.*)?$", README, re.MULTILINE)


def test_the_tree_is_that_of_the_code() -> None:
    assert block(README) == tree(), "write it anew with `python -m tests.readme_tree`"


def test_every_recipe_is_told() -> None:
    told = set(re.findall(r"^\| `(\w+)` \|", README.partition("## Results")[0], re.MULTILINE))
    assert told == {path.stem for path in (ROOT / "recipes" / "recipe").glob("*.yaml")}


@pytest.mark.parametrize("line", [run for run in RUNS if "--" not in run], ids=lambda line: line.strip())
def test_every_command_composes(line: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    named = {"tatqa_dataset_dev.json": tmp_path / "a.json", "adopt=FOLDER": f"adopt={tmp_path / 'mine'}"}
    overrides = [re.sub("|".join(named), lambda found: str(named[found[0]]), part) for part in shlex.split(line)]
    assert load([*overrides, f"runs_dir={tmp_path}"]).stages


def test_the_readmes_reward_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    [named] = [block for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if "rewards:" in block]
    (tmp_path / "my_rewards.py").write_text(code)
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text(f"# @package _global_\ndefaults: [ppo_fin, _self_]\n{named}")
    ppo = load(["recipe=mine"], config_dirs=[str(tmp_path)]).stages["ppo"]
    assert isinstance(ppo, Ppo) and ppo.reward_weights["shorter"] == 0.5 and ppo.rewards
    row = Completion(question_id="q", sample=0, text="x" * 30, finish_reason="stop")
    assert OwnReward.read("ppo.rewards.shorter", ppo.rewards["shorter"]).load()([], [row]).total == [-0.3]


def test_commands_were_found() -> None:
    assert len(RUNS) >= 8 and len(DESK) >= 5


@pytest.mark.parametrize("line", DESK, ids=lambda line: line.strip())
def test_every_command_of_the_desk_is_one(line: str) -> None:
    command, *arguments = shlex.split(line)
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(f"data.annotate.{COMMANDS[command][0]}").COMMANDS[command][0](parser)
    assert parser.parse_args(arguments)


def test_every_link_and_picture_is_there() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_make_has_the_targets_that_are_told() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"(?:`|^ +)make ([a-z]+)", README, re.MULTILINE)) <= targets
    assert {"setup", "run", "test", "check", "bench", "evidence"} <= targets
