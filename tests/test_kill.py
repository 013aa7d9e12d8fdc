"""Killed in every kind of stage and at the worst moments, and run again: the bytes of a run that was never killed.

Moments are exact where a checkpoint or an artifact is being written: a hook that Python loads at its start ends the
process at a file of that name. Elsewhere they are random, from a seed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alignment.checkpoints import CHECKPOINTS, complete_checkpoints
from alignment.repro import main as repro
from alignment.store import LOG, MANIFEST, Artifact, Store, read_artifact

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

RECIPE = """\
# @package _global_
defaults: [ppo_fin, /kind@dpo: dpo, _self_]
dpo: {inputs: {policy: sft, pairs: pairs}}
evaluate: {inputs: {dpo: dpo}}
judge: {judge: rule}
"""
STAGES = ["pretrain", "sft", "sample", "judge", "pairs", "reward_model", "ppo", "dpo", "evaluate"]
STEPS = 20  # of sft and dpo
SETTINGS = ["scale=tiny", "threads=1", "workers=1", "pretrain.save_every=2", "reward_model.save_every=2",
            "evaluate.max_new_tokens=16",
            *(f"{stage}.{setting}" for stage in ("sft", "dpo") for setting in (f"max_steps={STEPS}", "save_every=8")),
            *(f"{stage}.log_every=1" for stage in ("pretrain", "sft", "reward_model", "dpo")), f"sft.patience={STEPS}"]
TIMES = re.compile(r"time|seconds.*|completions_per_second")

HOOK = '''
import json, os, re, signal, sys
fault = json.loads(os.environ.get("FAULT", "null"))
if fault:
    def look(event, arguments):
        if (event == fault["event"] and fault["who"] in " ".join(sys.argv)
                and any(re.fullmatch(fault["path"], str(part)) for part in arguments[:2])):
            if "touch" in fault:
                with open(fault["touch"] + ".new", "w") as file:
                    file.write(str(os.getpid()))
                os.rename(fault["touch"] + ".new", fault["touch"])
            else:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(look)
'''  # becomes sitecustomize.py; `open`, `os.mkdir`, `os.rename` and `shutil.rmtree` tell before they act
CHILD, CONTROLLER = "--attached {}", "recipe=every_kind"  # whom a fault is for: part of the arguments


class Chain:
    """One command, run again and again in a folder of its own."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.runs = folder / "runs"
        self.run_dir = self.runs / "every_kind" / "seed1-tiny"
        self.store = Store(self.runs)
        for path, text in {"recipes/recipe/every_kind.yaml": RECIPE, "hook/sitecustomize.py": HOOK}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        self.begun = folder / "begun"
        self.command = [sys.executable, "-m", "alignment.run", "recipe=every_kind", "--config-dir",
                        str(folder / "recipes"), f"runs_dir={self.runs}", *SETTINGS, *overrides]
        self.environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder / "hook"), str(ROOT)])}

    def start(self, *overrides: str, **fault: str) -> subprocess.Popen[str]:
        return subprocess.Popen([*self.command, *overrides], env=self.environment | {"FAULT": json.dumps(fault)},
                                cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def finish(self, *overrides: str) -> str:
        """Runs to the end; what was said."""
        process = self.start(*overrides)
        said = process.communicate()[0]
        assert process.returncode == 0, said
        return said

    def work(self, stage: str) -> Path:
        """The folder in which a stage's artifact is being made."""
        [folder] = (self.store.root / ".work").glob(f"{stage}-*")
        return folder

    def checkpoints(self, stage: str) -> list[str]:
        """Those that count."""
        return [folder.name for folder in complete_checkpoints(self.work(stage) / "scratch" / CHECKPOINTS)]

    def artifact(self, stage: str) -> Artifact | None:
        return self.store.last(stage, stage)

    def steps(self, stage: str) -> list[tuple[int, float]]:
        """(step, when it was logged) of each training loss a stage under way has logged."""
        with contextlib.suppress(ValueError, FileNotFoundError):  # not begun
            lines = [json.loads(line) for line in (self.work(stage) / "events.jsonl").read_text().splitlines(True)
                     if line.endswith("\n")]
            return [(line["step"], line["time"]) for line in lines
                    if line["event"] == "metrics" and "loss" in line["metrics"]]
        return []

    def die(self, who: str, stage: str, event: str, path: str) -> None:
        """Runs until the process of a stage, or its controller, is about to do this to a path, and is killed."""
        process = self.start(f"until={stage}", who=who.format(stage), event=event, path=path)
        said = process.communicate()[0]
        assert process.returncode == (-signal.SIGKILL if who == CONTROLLER else 1), said
        assert who == CONTROLLER or f"stage {stage} failed: it was ended by SIGKILL" in said, said

    def kill(self, stage: str, victims: list[str], *, after: float) -> None:
        """Kills `victims`, controller and child, in that order, `after` seconds into a stage."""
        for _ in range(5):
            with self.within(stage) as (controller, child):
                time.sleep(after)
                for victim in victims:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(controller.pid if victim == CONTROLLER else child, signal.SIGKILL)
            made = self.artifact(stage)
            if made is None:
                return
            self.store.remove(made.path)  # it had just ended: once more
        pytest.fail(f"{stage} ended each time before it could be killed")

    def interrupt(self, stage: str, number: signal.Signals) -> int:
        """Sends the controller a signal once a stage has trained a step; the step of the checkpoint it left."""
        before = self.steps(stage)
        with self.within(stage) as (controller, _):
            while not set(self.steps(stage)) - set(before):
                assert controller.poll() is None, controller.communicate()[0]
                time.sleep(0.02)
            controller.send_signal(number)
            said = controller.communicate()[0]
        assert controller.returncode == 130 and "the same command goes on from here" in said, said
        assert json.loads((self.run_dir / "run.json").read_text())["stages"][stage]["status"] == "interrupted"
        last = self.checkpoints(stage)[-1]
        assert last == f"checkpoint-{self.steps(stage)[-1][0]}"
        return int(last.partition("-")[2])

    @contextlib.contextmanager
    def within(self, stage: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
        """A run up to a stage, which has its job and its libraries: (controller, pid of the stage's process)."""
        self.begun.unlink(missing_ok=True)
        controller = self.start(f"until={stage}", who=CHILD.format(stage), event="open", path=r".*/job\.json",
                                touch=str(self.begun))
        while not self.begun.exists():
            assert controller.poll() is None, controller.communicate()[0]
            time.sleep(0.01)
        yield controller, int(self.begun.read_text())
        controller.wait()
        assert controller.stdout is not None
        controller.stdout.close()


def content(artifact: Path) -> dict[str, Any]:
    """What an artifact's bytes say: a hash a file; of evaluation.json all but how long it took."""
    found = read_artifact(artifact.resolve())
    assert found is not None
    files = {name: entry["sha256"] for name, entry in found.manifest["files"].items()}
    if "evaluation.json" in files:
        report = json.loads((artifact / "evaluation.json").read_text())
        files["evaluation.json"] = report | {"policies": {name: policy | {"seconds": 0} for name, policy in
                                                          report["policies"].items()}}
    return files


def curve(artifact: Path) -> list[dict[str, Any]]:
    """The lines of a sealed metrics.jsonl, without times."""
    lines = [json.loads(line) for line in (artifact / LOG).read_text().splitlines()]
    return [{name: value for name, value in line.items() if not TIMES.fullmatch(name)} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The chain, run once and never interrupted."""
    chain = Chain(tmp_path_factory.mktemp("whole"))
    chain.finish()
    return chain


def test_killed_anywhere_the_artifacts_are_those_of_an_uninterrupted_run(whole: Chain, tmp_path: Path) -> None:
    chain, draw = Chain(tmp_path), random.Random(0)
    seconds = {stage: entry["seconds"] for stage, entry in
               json.loads((whole.run_dir / "run.json").read_text())["stages"].items()}

    def some(stage: str) -> float:
        """A moment in a stage's first half."""
        return draw.uniform(0.0, 0.5) * float(seconds[stage])

    # in the middle of writing a checkpoint, before its marker, between manifest and rename
    chain.die(CHILD, "pretrain", "open", r".*/checkpoint-4/trainer_state\.json")
    assert chain.checkpoints("pretrain") == ["checkpoint-2"]
    chain.die(CHILD, "pretrain", "open", r".*/checkpoint-6/COMPLETE")
    assert chain.checkpoints("pretrain") == ["checkpoint-2", "checkpoint-4"]
    chain.die(CONTROLLER, "pretrain", "os.rename", r".*/store/pretrain-\w+")
    assert (chain.work("pretrain") / "output" / MANIFEST).exists() and chain.artifact("pretrain") is None

    step = chain.interrupt("sft", signal.SIGTERM)
    resumed = time.time()
    chain.die(CHILD, "sft", "os.mkdir", rf".*/checkpoint-{STEPS}")
    assert [logged for logged, when in chain.steps("sft") if when > resumed] == list(range(step + 1, STEPS + 1))
    chain.kill("sft", [CONTROLLER, CHILD], after=some("sft"))
    chain.kill("sample", [CHILD, CONTROLLER], after=some("sample"))

    # after the rename; while an artifact's files and its manifest are being written
    chain.die(CONTROLLER, "judge", "shutil.rmtree", r".*/\.work/judge-\w+")
    assert chain.work("judge").exists() and chain.artifact("judge") is not None
    chain.die(CHILD, "pairs", "os.rename", r".*/output/dev\.jsonl")
    chain.die(CONTROLLER, "pairs", "os.rename", r".*/pairs-\w+/output/manifest\.json")
    assert chain.artifact("pairs") is None

    chain.kill("reward_model", [CONTROLLER, CHILD], after=some("reward_model"))
    chain.kill("ppo", [CONTROLLER], after=some("ppo"))
    chain.interrupt("dpo", signal.SIGINT)
    chain.kill("evaluate", [CHILD, CONTROLLER], after=some("evaluate"))
    chain.finish()

    for stage in STAGES:
        mine, other = (each.run_dir / "stages" / stage for each in (chain, whole))
        assert content(mine) == content(other), stage
        assert curve(mine) == curve(other), stage
    assert repro(["verify", str(chain.run_dir / "run.json")]) == 0
    assert list((chain.store.root / ".work").iterdir()) == []


def ends(said: str, stage: str) -> str:
    """How a stage ended by what a run said: done or reused."""
    [found] = re.findall(rf"^\[\d/\d\] {stage}: (done|reused)", said, re.MULTILINE)
    return str(found)


def at_once(*processes: subprocess.Popen[str]) -> list[str]:
    """What each said, all having ended well."""
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said


def test_the_same_command_twice_at_once_makes_each_artifact_once(whole: Chain, tmp_path: Path) -> None:
    shutil.copytree(whole.runs, tmp_path / "runs", symlinks=True)
    chain = Chain(tmp_path, "until=pairs")
    for _ in range(2):
        for stage in ("judge", "pairs"):
            made = chain.artifact(stage)
            assert made is not None
            chain.store.remove(made.path)
        said = at_once(chain.start(), chain.start())
        for stage in ("judge", "pairs"):
            assert sorted(ends(text, stage) for text in said) == ["done", "reused"], said
            assert content(chain.run_dir / "stages" / stage) == content(whole.run_dir / "stages" / stage)
        assert repro(["verify", str(chain.run_dir / "run.json")]) == 0
        assert list((chain.store.root / ".work").iterdir()) == []


def test_two_seeds_at_once_share_what_does_not_depend_on_the_seed(whole: Chain, tmp_path: Path) -> None:
    shared = ["pretrain", "sft", "sample"]
    chain = Chain(tmp_path, *(f"{stage}.adopt={whole.run_dir / 'stages' / stage}" for stage in shared),
                  f"until='{','.join([*shared, 'pairs'])}'")  # what is adopted hangs on nothing, so each is named
    said = at_once(chain.start("seed=1"), chain.start("seed=2"))
    for stage in shared:
        assert sorted(ends(text, stage) for text in said) == ["done", "reused"], said
    for stage in ("judge", "pairs"):
        assert [ends(text, stage) for text in said] == ["done", "done"]
    for seed in (1, 2):
        assert repro(["verify", str(chain.runs / "every_kind" / f"seed{seed}-tiny" / "run.json")]) == 0
    assert list((chain.store.root / ".work").iterdir()) == []
