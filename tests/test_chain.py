"""The real chain, end to end and small: every stage a process, real models, real libraries."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from alignment.repro import main as repro
from data.annotate.cli import main as annotate
from data.annotate.desk import Desk
from tests.alignment.judged import sampled
from tests.data.real_files import TATQA, needs_tatqa

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def finalign(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Of one thread: other tests run beside it."""
    return subprocess.run([sys.executable, "-m", "alignment.run", "threads=1", *arguments], capture_output=True,
                          text=True, cwd=ROOT, timeout=800)


def record(folder: Path) -> dict:  # type: ignore[type-arg]
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `runs_dir` in which recipe=ppo_fin scale=tiny has run once."""
    folder = tmp_path_factory.mktemp("runs")
    done = finalign("recipe=ppo_fin", "scale=tiny", f"runs_dir={folder}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) <= 5
    return folder


def test_the_chain_leaves_a_sound_run_and_a_report_that_opens_offline(runs: Path) -> None:
    folder = runs / "ppo_fin" / "seed1-tiny"
    stages = record(folder)["stages"]
    assert list(stages) == ["pretrain", "sft", "sample", "judge", "pairs", "reward_model", "ppo", "evaluate"]
    assert {stage["status"] for stage in stages.values()} == {"ran"}
    assert stages["pairs"]["metrics"]["origin.simulated"] > 0 < stages["pairs"]["metrics"]["origin.ai"]
    assert repro(["verify", str(folder / "run.json")]) == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "ppo - sft" in page and not re.search(r"<script|(?:src|href)=[\"']?(?:https?:)?//", page)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["stage"] for line in lines} >= {"pretrain", "sft", "reward_model", "ppo"}


def test_a_second_run_has_nothing_to_do(runs: Path) -> None:
    assert finalign("recipe=ppo_fin", "scale=tiny", f"runs_dir={runs}").returncode == 0
    assert {stage["status"] for stage in record(runs / "ppo_fin" / "seed1-tiny")["stages"].values()} == {"reused"}


def test_people_s_judgments_of_the_samples_come_back_into_the_chain(runs: Path, tmp_path: Path) -> None:
    """From the sealed `sample` artifact to the desk, and from its database to a reward model on both kinds of pair."""
    stages, database = runs / "ppo_fin" / "seed1-tiny" / "stages", tmp_path / "annotations.db"
    assert annotate(["import", str(stages / "sample"), "--verdicts", str(stages / "judge"), "--pairing", "random",
                     "--per-prompt", "3", "--db", str(database)]) == 0
    desk = Desk.open(str(database))
    anna = desk.sign_in("anna")
    while lent := desk.next(anna, count=1):
        desk.submit(anna, id=str(uuid.uuid4()), assignment=lent[0].id, decision={
            "outcome": "prefer", "preferred": "a", "strength": 2})
    desk.close()
    done = finalign("recipe=ppo_fin", "scale=tiny", f"runs_dir={runs}", "name=people", "until=reward_model",
                    "gates=warn", f"pairs.human={database}")
    assert done.returncode == 0, done.stdout + done.stderr
    ran = record(runs / "ppo_fin" / "people")["stages"]
    assert [name for name, stage in ran.items() if stage["status"] == "ran"] == ["pairs", "reward_model"]
    pairs, model = ran["pairs"]["metrics"], ran["reward_model"]["metrics"]
    assert pairs["origin.human"] > 0 and pairs["origin.ai"] > 0 and pairs["weight.human"] == pairs["origin.human"]
    assert pairs["strength.human"] == pytest.approx(2 / 3)
    assert {"accuracy.human", "margin.human"} <= model.keys()


def test_one_ppo_key_reruns_ppo_and_what_hangs_on_it(runs: Path) -> None:
    done = finalign("recipe=ppo_fin", "scale=tiny", f"runs_dir={runs}", "ppo.kl_coefficient=0.05", "dry_run=true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^  (\w+): runs$", done.stdout, re.MULTILINE) == ["ppo", "evaluate"]


def test_grpo_takes_the_place_of_ppo_after_the_same_stages(runs: Path) -> None:
    done = finalign("recipe=grpo_fin", "scale=tiny", f"runs_dir={runs}")
    assert done.returncode == 0, done.stdout + done.stderr
    stages = record(runs / "grpo_fin" / "seed1-tiny")["stages"]
    assert [name for name, stage in stages.items() if stage["status"] == "ran"] == ["grpo", "evaluate"]
    assert "grpo - sft" in (runs / "grpo_fin" / "seed1-tiny" / "report.html").read_text(encoding="utf-8")


def test_the_same_command_gives_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    done = finalign("recipe=ppo_fin", "scale=tiny", f"runs_dir={tmp_path}", "until=ppo", "quiet=true")
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (record(folder / "ppo_fin" / "seed1-tiny")["stages"] for folder in (runs, tmp_path))
    for name in ("pretrain", "sft", "sample", "judge", "pairs", "reward_model", "ppo"):
        assert first[name]["output_sha256"] == second[name]["output_sha256"], name


@pytest.mark.parametrize(("gate", "broken"), [
    ("sft: dev_accuracy", ["until=sample", "sft.max_steps=1", 'sft.require=["dev_accuracy >= 0.2"]']),
    ("reward_model: accuracy", ["until=ppo", "reward_model.features=scalar", "reward_model.learning_rate=0",
                                "reward_model.muon_learning_rate=0", 'reward_model.require=["accuracy >= 0.6"]']),
], ids=["an SFT model that learned nothing", "a reward model at chance"])
def test_a_broken_stage_closes_its_gate(runs: Path, gate: str, broken: list[str]) -> None:
    done = finalign("recipe=ppo_fin", "scale=tiny", f"runs_dir={runs}", "name=broken", *broken)
    stage, metric = gate.split(": ")
    assert done.returncode == 1
    assert stage in done.stderr and metric in done.stderr and "Traceback" not in done.stderr
    stopped = record(runs / "ppo_fin" / "broken")
    assert stopped["status"] == "gate closed" and list(stopped["stages"])[-1] == stage  # nothing after it was started


def test_a_critic_with_another_template_than_the_policy_is_refused(runs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(runs / "ppo_fin" / "seed1-tiny" / "stages" / "reward_model", other)
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    (other / "chat_template.jinja").write_text(template, encoding="utf-8")
    done = finalign("recipe=ppo_fin", "scale=tiny", f"runs_dir={runs}", "name=other", "until=ppo",
                    f"reward_model.adopt={other}", "ppo.critic_from=reward_model")
    assert done.returncode == 2 and "template" in done.stderr and "Traceback" not in done.stderr
    assert record(runs / "ppo_fin" / "other")["stages"]["ppo"]["status"] == "failed"


STEPS = """\
# @package _global_
defaults: [findap, /kind@process_reward: process_reward, /kind@ppo: ppo, _self_]
process_reward: {inputs: {model: sft, completions: sample, verdicts: judge}, max_steps: 4, batch_size: 4}
ppo: {inputs: {policy: sft, process_reward: process_reward}, reward_weights: {rule: 1.0, process_reward: 0.5}}
evaluate: {inputs: {ppo: ppo}}
"""


def test_judged_steps_become_pairs_and_pay_ppo(runs: Path, tmp_path: Path) -> None:
    """On samples with planted errors in the place of a raw model's: FAP and SCP pairs, DPO on both, a process reward
    model and PPO on it."""
    sampled(tmp_path / "samples")
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "steps.yaml").write_text(STEPS)
    done = finalign("recipe=steps", "--config-dir", str(tmp_path), "scale=tiny", f"runs_dir={runs}", "gates=warn",
                    f"sample.adopt={tmp_path / 'samples'}")
    assert done.returncode == 0, done.stdout + done.stderr
    stages = record(runs / "steps" / "seed1-tiny")["stages"]
    assert stages["pairs"]["metrics"]["process"] > 0 < stages["pairs"]["metrics"]["origin.rule"]
    assert {stages[name]["status"] for name in ("pretrain", "sft")} == {"reused"}
    assert {stages[name]["status"] for name in ("pairs", "dpo", "process_reward", "ppo", "evaluate")} == {"ran"}
    lines = [json.loads(line) for line in (runs / "steps" / "seed1-tiny" / "metrics.jsonl").read_text().splitlines()]
    assert any("reward_process_reward" in line for line in lines if line["stage"] == "ppo")
    assert repro(["verify", str(runs / "steps" / "seed1-tiny" / "run.json")]) == 0


@needs_tatqa
def test_the_chain_takes_real_questions(tmp_path: Path) -> None:
    some = tmp_path / "tatqa.json"
    some.write_text(json.dumps(json.loads(TATQA.read_text(encoding="utf-8"))[:60]), encoding="utf-8")
    done = finalign("recipe=dpo_fin", "scale=tiny", "data=tatqa", f"data.path={some}", "gates=warn",
                    f"runs_dir={tmp_path}", *(f"{stage}.max_steps=2" for stage in ("pretrain", "sft", "dpo")),
                    "sft.eval_every=2", "evaluate.num_questions=8")  # its rows are long
    assert done.returncode == 0, done.stdout + done.stderr
    stages = record(tmp_path / "dpo_fin" / "seed1-tiny-tatqa")["stages"]
    assert stages["pairs"]["metrics"]["gold"] > 0  # no sample was right: gold solutions stand in, counted
