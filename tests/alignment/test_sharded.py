"""Weights shared out to two gloo processes by FSDP2: losses, weights and checkpoints of one process; and a strategy
that is not in force is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType

from alignment import trainers
from alignment.kinds import Sft
from alignment.layout import ALONE, Layout
from alignment.models import load_policy
from alignment.sharding import gathered, is_shared_out, load_trained, trained_state
from alignment.stage import Stage
from alignment.trainers import check_strategy, strategy_arguments
from data.schema import UserError
from reward.model import RewardModel
from tests.alignment import test_dpo, test_reward_model_stage
from tests.alignment.several import run_stages, told
from tests.alignment.test_several import TOLERANCE, alone, trained
from tests.alignment.test_several import base as base  # a fixture
from tests.alignment.tiny_model import tiny_model

SHARED = "tests.alignment.sharded"
UNSETTLED = pytest.mark.skip(reason="ended by its time limit once, beside other tests: why is to be found out")


def stages(folder: Path, base: Path) -> dict[str, Stage]:
    folder.mkdir()
    supervised = {"batch_size": 4, "max_length": 128, "num_examples": 21, "dev_examples": 6, "eval_every": 2,
                  "max_steps": 4, "optimizer": "adamw", "save_every": 2}
    return {
        "sft": trained(folder / "sft", "sft", {"model": base}, **supervised),
        "sft with an adapter": trained(folder / "lora", "sft", {"model": base}, **supervised | {"lora_rank": 4}),
        "reward_model": test_reward_model_stage.make_stage(folder / "rm", base, max_steps=3),
        "dpo": test_dpo.make_stage(folder / "dpo", base, max_steps=3),
    }


@pytest.fixture(scope="module")
def runs(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Stage], dict[str, Stage]]:
    """Each stage run in one process, and shared out to two."""
    folder = tmp_path_factory.mktemp("shared")
    one, two = (stages(folder / name, base) for name in ("one", "two"))
    for stage in one.values():
        alone(stage)
    run_stages(list(two.values()), folder / "jobs", strategy="fsdp", module=SHARED)
    return one, two


@pytest.mark.slow
@UNSETTLED
@pytest.mark.parametrize("name", ["sft", "sft with an adapter", "reward_model", "dpo"])
def test_shared_out_it_trains_as_whole(name: str, runs: tuple[dict[str, Stage], dict[str, Stage]]) -> None:
    one, two = (each[name] for each in runs)
    losses = [[row["metrics"]["loss"] for row in told(stage, "metrics") if "loss" in row["metrics"]]
              for stage in (one, two)]
    assert len(losses[0]) == one.config.max_steps
    assert losses[1] == pytest.approx(losses[0], abs=TOLERANCE)
    load: Any = RewardModel.load if name == "reward_model" else load_policy
    for first, second in zip(load(one.output).parameters(), load(two.output).parameters(), strict=True):
        assert (first - second).abs().max() < 1e-4
    results = [told(stage, "result")[0]["metrics"] for stage in (one, two)]
    assert results[0].keys() == results[1].keys() and results[0]["parameters"] == results[1]["parameters"]


@pytest.mark.slow
@UNSETTLED
def test_checkpoints_are_those_of_a_whole_model(runs: tuple[dict[str, Stage], dict[str, Stage]], base: Path,
                                                tmp_path: Path) -> None:
    """One process goes on from what two that shared out have saved, as far as the weights are concerned."""
    stage = runs[1]["sft"]
    folder = stage.scratch / "checkpoints" / "checkpoint-4"
    state = trainers.load_file(folder / "model.safetensors")
    model = load_policy(base)
    assert state.keys() == {name for name, _ in model.named_parameters()}
    load_trained(model, state)
    best = trainers.load_file(folder / "best.safetensors")
    assert best.keys() == state.keys()
    for name, parameter in load_policy(stage.output).named_parameters():
        assert torch.allclose(parameter, best[name], atol=1e-6)


@pytest.mark.parametrize(("strategy", "found", "right"), [
    ("ddp", DistributedType.MULTI_CPU, True), ("ddp", DistributedType.MULTI_GPU, True),
    ("ddp", DistributedType.NO, False), ("ddp", DistributedType.FSDP, False), ("fsdp", DistributedType.FSDP, True),
    ("fsdp", DistributedType.MULTI_GPU, False), ("zero3", DistributedType.DEEPSPEED, True),
    ("zero2", DistributedType.MULTI_GPU, False)])
def test_the_strategy_in_force_is_the_one_that_was_asked_for(strategy: str, found: DistributedType,
                                                             right: bool) -> None:
    check_strategy(ALONE, found)
    if right:
        check_strategy(Layout(2, 1, strategy), found)
        return
    with pytest.raises(UserError, match=f"launch.strategy={strategy}: Accelerate would train by {found.value}"):
        check_strategy(Layout(2, 1, strategy), found)


def test_what_accelerate_is_asked_for() -> None:
    config = Sft(gradient_checkpointing=True, precision="bf16")
    assert strategy_arguments(ALONE, config) == strategy_arguments(Layout(8), config) == {}
    assert strategy_arguments(Layout(1, 1, "fsdp"), config) == {}
    shared = strategy_arguments(Layout(8, 1, "fsdp"), config)
    assert shared["fsdp"] and not shared["gradient_checkpointing"]
    assert shared["fsdp_config"]["version"] == 2 and shared["fsdp_config"]["activation_checkpointing"]
    for stage in (2, 3):
        deepspeed = strategy_arguments(Layout(8, 1, f"zero{stage}"), config)["deepspeed"]
        assert deepspeed["zero_optimization"]["stage"] == stage and deepspeed["bf16"]["enabled"]
        json.dumps(deepspeed)


def test_a_whole_model_stays_as_it_is() -> None:
    model = tiny_model()
    assert not is_shared_out(model) and gathered(model, tiny_model, leads=True) is model
    state = {name: value + 1 for name, value in trained_state(model).items()}
    load_trained(model, state)
    assert all(torch.equal(parameter, state[name]) for name, parameter in model.named_parameters())


@pytest.mark.slow
@UNSETTLED
def test_torchs_own_sharing_gives_the_losses_of_a_whole_model(runs: tuple[dict[str, Stage], dict[str, Stage]]) -> None:
    """`fully_shard` on a gloo mesh: three steps of AdamW, half of the batch each, against all of it whole."""
    found = json.loads((runs[1]["sft"].output.parents[2] / "jobs" / "found").read_text())
    assert found["shared"] == pytest.approx(found["whole"], abs=TOLERANCE)
    assert found["parts"] == [True, True] and found["apart"] < 1e-5 and found["put_back"] == 0.0
