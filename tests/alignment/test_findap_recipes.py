"""The recipes of FinDAP: the published settings in what is built from them, and an ablation one key apart."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference

from alignment.config import RunConfig, load
from alignment.kinds import Dpo, Pretrain
from alignment.optim import make_optimizer
from alignment.plan import order
from alignment.stage import Rollout, Stage
from alignment.trainers import training_arguments
from tests.alignment.tiny_model import tiny_model

RECIPES = ["findap", "findap_rounds", "findap_ablation", "findap_llama3_8b"]
GPUS = 16  # that they trained on


@pytest.fixture(scope="module")
def published() -> RunConfig:
    return load(["recipe=findap_llama3_8b"])


def stage_of(config: Any, folder: Path) -> Stage:
    return Stage(name="s", kind=config.kind, config=config, inputs={}, data={}, rollout=Rollout(), seed=1, root_seed=1,
                 output=folder, scratch=folder, events=folder / "events.jsonl")


@pytest.mark.parametrize("recipe", RECIPES)
def test_they_compose_and_their_stages_fit(recipe: str) -> None:
    assert order(load([f"recipe={recipe}"]).stages)


@pytest.mark.parametrize(("group", "tokens", "warmup"), [("group_1", 3.84e9, 0.1), ("group_2", 1.66e9, 0.5)])
def test_continual_pre_training_is_as_published(published: RunConfig, tmp_path: Path, group: str, tokens: float,
                                                warmup: float) -> None:
    """Table G.1: AdamW with rate 5e-6, betas 0.9 and 0.95, decay 0.1; 128K tokens a step."""
    config = published.stages[group]
    assert isinstance(config, Pretrain)
    optimizer = make_optimizer(tiny_model(), optimizer=config.optimizer, learning_rate=config.learning_rate,
                               muon_learning_rate=config.muon_learning_rate, weight_decay=config.weight_decay)
    groups = optimizer.param_groups
    assert {one["algorithm"] for one in groups} == {"adamw"} and {one["lr"] for one in groups} == {5e-6}
    assert {one["betas"] for one in groups} == {(0.9, 0.95)}
    matrices = [one for one in groups if all(parameter.ndim == 2 for parameter in one["params"])]
    assert {one["weight_decay"] for one in matrices} >= {0.1}
    arguments = training_arguments(stage_of(config, tmp_path))
    assert arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"] == GPUS
    assert config.batch_size * config.max_length == 128_000
    assert config.max_steps * 128_000 == pytest.approx(tokens, rel=0.001)
    assert config.warmup_steps == pytest.approx(warmup * config.max_steps, abs=1)
    assert (arguments["lr_scheduler_type"], arguments["bf16"]) == ("linear", True)


def test_the_preference_part_is_as_published(published: RunConfig, tmp_path: Path) -> None:
    """Rate 5e-7, 10% warm-up, 24.58M tokens in rows of 2,048, one pair a GPU; beta 0.1 and NLL of weight 1."""
    config = published.stages["dpo"]
    assert isinstance(config, Dpo)
    optimizer = make_optimizer(tiny_model(), optimizer=config.optimizer, learning_rate=config.learning_rate,
                               muon_learning_rate=config.muon_learning_rate, weight_decay=config.weight_decay)
    assert {one["lr"] for one in optimizer.param_groups} == {5e-7}
    shared = training_arguments(stage_of(config, tmp_path)) | {"bf16": False}  # which TRL refuses where there is none
    built = DPOConfig(**shared, beta=config.beta, loss_type=config.loss, loss_weights=config.loss_weights)
    assert (built.beta, built.loss_type, built.loss_weights) == (0.1, ["sigmoid", "sft"], [1.0, 1.0])
    assert built.per_device_train_batch_size * built.gradient_accumulation_steps == GPUS
    assert config.max_steps * GPUS * config.max_length == pytest.approx(24.58e6, rel=0.001)
    assert config.warmup_steps == 0.1 * config.max_steps and built.lr_scheduler_type == "linear"
    assert (config.process_form, config.max_length) == ("ask", 2048)
    row = {"prompt_ids": [5] * 1000, "chosen_ids": [6] * 1048, "rejected_ids": [7] * 9}
    batch = DataCollatorForPreference(pad_token_id=0, max_length=config.max_length)([row])
    assert batch["input_ids"].shape == (2, 2048) and int(batch["completion_mask"][0].sum()) == 1048
    assert torch.equal(batch["completion_mask"][1, :1009].nonzero().flatten(), torch.arange(1000, 1009))


def test_the_pairs_are_both_kinds(published: RunConfig) -> None:
    pairs: Any = published.stages["pairs"]
    judge: Any = published.stages["judge"]
    assert pairs.build == ["outcome", "process"] and judge.tasks == ["outcome", "process"] and pairs.human is None


def test_the_arms_of_the_ablation_differ_in_their_pairs_or_their_loss_alone() -> None:
    stages = load(["recipe=findap_ablation"]).stages
    whole: Any = stages["dpo"]
    builds = {name: stages[config.inputs["pairs"]].build for name, config in stages.items()
              if isinstance(config, Dpo)}  # type: ignore[attr-defined]
    assert builds == {"dpo": ["outcome", "process"], "dpo_fap": ["outcome"], "dpo_scp": ["process"],
                      "dpo_naive": ["naive"], "nll": ["outcome", "process"]}
    for name in ("dpo_fap", "dpo_scp", "dpo_naive"):
        assert dataclasses.replace(stages[name], inputs=whole.inputs) == whole  # type: ignore[type-var]
        both, own = stages["pairs"], stages[stages[name].inputs["pairs"]]
        assert dataclasses.replace(own, build=both.build) == both  # type: ignore[attr-defined, call-arg, type-var]
    control: Any = stages["nll"]
    assert dataclasses.replace(control, loss=whole.loss, loss_weights=whole.loss_weights) == whole
    assert (control.loss, control.loss_weights) == (["sft"], [1.0])
    policies = stages["evaluate"].inputs
    assert {"sft", "dpo", "dpo_fap", "dpo_scp", "dpo_naive", "nll"} <= set(policies)


def test_a_second_round_is_on_the_first_ones_policy() -> None:
    stages: Any = load(["recipe=findap_rounds"]).stages
    assert stages["sample_2"].inputs == {"policy": "dpo"} and stages["dpo_2"].inputs["policy"] == "dpo"
    assert stages["sample_2"].purpose != stages["sample"].purpose
    names = [stage.name for stage in order(stages)]
    assert names.index("dpo") < names.index("sample_2") < names.index("judge_2") < names.index("pairs_2")
