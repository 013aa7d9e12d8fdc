"""Two gloo processes give what one gives: losses and weights but for rounding, text and its scores to the last bit."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from alignment.layout import Layout
from alignment.models import load_policy, load_tokenizer, new_model, save_policy
from alignment.origin import EMBEDDED
from alignment.stage import Rollout, Stage
from reward.model import RewardModel
from tests.alignment import stage_made, test_dpo, test_reward_model_stage
from tests.alignment.several import run_stages, told

TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model for the embedded tokenizer, with so many end tokens that most of its answers come to one."""
    folder, tokenizer = tmp_path_factory.mktemp("base"), load_tokenizer(EMBEDDED)
    model = new_model(tokenizer, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48, seed=3,
                      architecture="qwen3")
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(300, 400)]
    save_policy(model, tokenizer, folder)
    return folder


def trained(folder: Path, kind: str, inputs: dict[str, Path], **config: Any) -> Stage:
    return stage_made.make_stage(folder, kind, inputs=inputs, **(
        {"learning_rate": 3e-3, "warmup_steps": 0, "log_every": 1, "optimizer": "muon"} | config))


def generating(folder: Path, kind: str, inputs: dict[str, Path], **config: Any) -> Stage:
    """A stage whose engine takes eight prompts at once, so that there are batches to share out."""
    rollout = Rollout(engine="transformers", max_num_seqs=8)
    return dataclasses.replace(stage_made.make_stage(folder, kind, inputs=inputs, **config), rollout=rollout)


def stages(folder: Path, base: Path) -> dict[str, Stage]:
    """One of each kind, on data that a batch does not divide: a last batch of an epoch has one row."""
    folder.mkdir()
    packed = {"batch_size": 4, "max_length": 128, "num_examples": 21, "dev_examples": 6, "eval_every": 3,
              "max_steps": 6}
    pairs = [test_reward_model_stage.pair(number, weight=1.0 + number % 3) for number in range(37)]
    return {
        "sft": trained(folder / "sft", "sft", {"model": base}, **packed),
        "sft in micro-batches": trained(folder / "micro", "sft", {"model": base}, **packed | {
            "micro_batch_size": 1, "packing": False}),
        "reward_model": test_reward_model_stage.make_stage(folder / "rm", base, pairs, max_steps=6),
        "dpo": test_dpo.make_stage(folder / "dpo", base, [test_dpo.pair(number) for number in range(25)],
                                   loss=["sigmoid", "sft"], loss_weights=[1.0, 0.5], max_steps=6),
        "dpo with an adapter": test_dpo.make_stage(folder / "dpo2", base, max_steps=4, lora_rank=4,
                                                   precompute_reference="always"),
        "kto": test_dpo.make_stage(folder / "kto", base, max_steps=3, loss=["kto"]),
    }


def rl_stages(folder: Path, base: Path) -> dict[str, Stage]:
    """PPO with all that has a share in it: a critic, a reward model, self-imitation, what is left out of a batch."""
    reward, several = folder / "reward", {
        "num_iterations": 3, "num_prompts": 6, "num_samples": 2, "question_pool": 12, "minibatch_size": 5,
        "micro_batch_tokens": 300, "max_new_tokens": 20, "dev_examples": 4, "eval_every": 2, "critic_warmup": 1,
        "learning_rate": 3e-3, "critic_learning_rate": 3e-3, "save_every": 2}
    grouped = {"num_iterations": 3, "num_prompts": 4, "num_samples": 3, "question_pool": 12, "minibatch_size": 6,
               "micro_batch_size": 3, "max_new_tokens": 20, "dev_examples": 4, "eval_every": 2, "learning_rate": 3e-3,
               "save_every": 2, "reward_weights": {"rule": 1.0, "reward_model": 0.5}}
    judged = {"policy": base, "reward_model": reward}
    RewardModel(load_policy(base)).save(reward, load_tokenizer(base))
    return {
        "ppo": stage_made.make_stage(
            folder / "ppo", "ppo", inputs=judged, **several, imitation_steps=2,
            imitation_batch_size=3, reward_weights={"rule": 1.0, "reward_model": 0.5}, truncation="bootstrap"),
        "ppo on a shared trunk": stage_made.make_stage(
            folder / "shared", "ppo", inputs={"policy": base}, **several, critic_from="shared", lora_rank=4,
            normalisation="sequence", kl_estimator="exact", reward_weights={"rule": 1.0, "rule_steps": 0.5}),
        "grpo": stage_made.make_stage(folder / "grpo", "grpo", inputs=judged, **grouped, kl_coefficient=0.05),
        "rloo": stage_made.make_stage(folder / "rloo", "rloo", inputs=judged, **grouped | {"micro_batch_size": 1}),
    }


def generators(folder: Path, base: Path) -> dict[str, Stage]:
    """More completions than one process generates at a time; and all that an evaluation reads."""
    reward = folder / "reward"
    RewardModel(load_policy(base)).save(reward, load_tokenizer(base))
    return {
        "sample": generating(folder / "sample", "sample", {"policy": base}, num_questions=150, num_samples=4,
                             max_new_tokens=5),
        "evaluate": generating(folder / "evaluate", "evaluate", {"sft": base, "reward_one": reward},
                               num_questions=20, num_samples=2, max_new_tokens=16, num_pairs=8, best_of=2,
                               reward_policy="sft", num_documents=20, num_drills=40, bootstrap=100, temperature=0.8),
    }


def alone(stage: Stage) -> None:
    for place in (stage.output, stage.scratch):
        place.mkdir(parents=True, exist_ok=True)
    importlib.import_module(f"alignment.stages.{stage.kind}").run(stage)


@pytest.fixture(scope="module")
def runs(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Stage], dict[str, Stage]]:
    """Each stage run in one process, and in two; and one that would not be laid out as it asks."""
    folder = tmp_path_factory.mktemp("several")
    one, two = ({**stages(each, base), **generators(each, base), **rl_stages(each, base)}
                for each in (folder / "one", folder / "two"))
    for stage in one.values():
        alone(stage)
    two["refused"] = dataclasses.replace(
        trained(folder / "refused", "sft", {"model": base}, num_examples=8, dev_examples=2, optimizer="adamw"),
        layout=Layout(2, 1, "fsdp"))
    run_stages(list(two.values()), folder / "jobs")
    return one, two


NAMES = ("sft", "sft in micro-batches", "reward_model", "dpo", "dpo with an adapter", "kto")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_as_one_does(name: str, runs: tuple[dict[str, Stage], dict[str, Stage]]) -> None:
    one, two = (each[name] for each in runs)
    lines = [[row for row in told(stage, "metrics") if "loss" in row["metrics"]] for stage in (one, two)]
    assert [row["step"] for row in lines[0]] == [row["step"] for row in lines[1]] == [
        *range(1, one.config.max_steps + 1)]
    for first, second in zip(*lines, strict=True):
        assert first["metrics"].keys() == second["metrics"].keys()
        for metric in first["metrics"]:
            tolerance = TOLERANCE if metric == "loss" else 2e-3
            assert second["metrics"][metric] == pytest.approx(first["metrics"][metric], abs=tolerance), metric
    first, second = (told(stage, "result") for stage in (one, two))
    assert len(first) == len(second) == 1 and first[0]["metrics"].keys() == second[0]["metrics"].keys()
    notes = [[row["text"] for row in told(stage, "note")] for stage in (one, two)]
    assert notes[0] == notes[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_and_leave_the_same_weights(name: str, runs: tuple[dict[str, Stage], dict[str, Stage]]) -> None:
    load = RewardModel.load if name.startswith("reward") else load_policy
    one, two = (load(each[name].output) for each in runs)
    start = load_policy(next(iter(runs[0][name].inputs.values())))
    for (parameter_name, first), second in zip(one.named_parameters(), two.parameters(), strict=True):
        assert (first - second).abs().max() < 1e-4, parameter_name
    trunk = one.trunk if isinstance(one, RewardModel) else one
    moved = max(float((first - second).detach().abs().max())
                for first, second in zip(trunk.parameters(), start.parameters(), strict=True))
    assert moved > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "ppo on a shared trunk", "grpo", "rloo"])
def test_and_learn_from_the_same_rewards(name: str, runs: tuple[dict[str, Stage], dict[str, Stage]]) -> None:
    lines = [[row["metrics"] for row in told(each[name], "metrics")] for each in runs]
    assert len(lines[0]) == len(lines[1]) >= 3  # an iteration each, and the last examination
    for first, second in zip(*lines, strict=True):
        assert first.keys() == second.keys()
        for metric in set(first) - {metric for metric in first if metric.startswith("seconds")}:
            assert second[metric] == pytest.approx(first[metric], abs=TOLERANCE, rel=1e-4), metric
    assert ({"policy_loss", "value_loss", "explained_variance"} if name.startswith("ppo") else {"loss"}) <= set(
        lines[0][1])
    one, two = (load_policy(each[name].output) for each in runs)
    for first_weight, second_weight in zip(one.parameters(), two.parameters(), strict=True):
        assert (first_weight - second_weight).abs().max() < 1e-4
    start = load_policy(runs[0][name].inputs["policy"])
    assert max(float((a - b).detach().abs().max()) for a, b in zip(one.parameters(), start.parameters(),
                                                                   strict=True)) > 1e-3


@pytest.mark.slow
def test_a_stage_that_would_not_be_shared_out_ends_with_a_way_out(runs: tuple[dict[str, Stage], dict[str, Stage]]
                                                                  ) -> None:
    """Accelerate, asked for FSDP on processors, trains by DDP without a word."""
    stage = runs[1]["refused"]
    [note] = [row["text"] for row in told(stage, "note") if row["text"].startswith("refused")]
    assert "launch.strategy=fsdp: Accelerate would train by MULTI_CPU here; use launch.strategy=ddp" in note
    assert not list(stage.output.iterdir()) and not told(stage, "result")


@pytest.mark.slow
def test_and_say_the_same_texts_to_the_last_bit(runs: tuple[dict[str, Stage], dict[str, Stage]]) -> None:
    one, two = (each["sample"] for each in runs)
    for name in ("questions.jsonl", "completions.jsonl"):
        assert (one.output / name).read_bytes() == (two.output / name).read_bytes()
    assert len((one.output / "completions.jsonl").read_text().splitlines()) == 600
    assert [row["text"] for row in told(one, "note")] == [row["text"] for row in told(two, "note")]


@pytest.mark.slow
def test_and_measure_the_same_to_the_last_bit(runs: tuple[dict[str, Stage], dict[str, Stage]]) -> None:
    one, two = (each["evaluate"] for each in runs)
    for name in ("questions.jsonl", "generations.jsonl", "reward_samples.jsonl"):
        assert (one.output / name).read_bytes() == (two.output / name).read_bytes()
    reports = [json.loads((stage.output / "evaluation.json").read_text()) for stage in (one, two)]
    for report in reports:
        for policy in report["policies"].values():
            assert policy.pop("seconds") > 0
    assert reports[0] == reports[1]
