"""The reward-model stage: its loss, its resume, its report, and that it learns a preference a rule can state."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from trl import RewardConfig, RewardTrainer

import alignment.kinds
from alignment.checkpoints import CHECKPOINTS, complete_checkpoints
from alignment.models import load_policy, load_tokenizer, new_model, save_policy
from alignment.stage import Rollout, Stage
from alignment.stages import reward_model
from alignment.trainers import training_arguments
from data.rows import write_rows
from data.schema import PreferencePair, UserError
from data.tokenizer import build_tokenizer
from reward.model import RewardModel


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tokenizer = build_tokenizer(["revenue was 46 million", "net margin is 12%"] * 20, vocab_size=300)
    save_policy(new_model(tokenizer, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48, seed=3),
                tokenizer, folder)
    return folder


def pair(number: int, **changes: Any) -> PreferencePair:
    values: dict[str, Any] = {
        "id": f"p{number}", "prompt": [{"role": "user", "content": f"revenue was {number}?"}],
        "chosen": f"net margin {number}" + " million, net" * (number % 2), "rejected": f"net revenue {number}",
        "annotator": "rule",
        "origin": "simulated" if number % 3 == 0 else "rule", "operand_key": f"k{number}"}
    return PreferencePair(**(values | changes))


def make_stage(folder: Path, base: Path, pairs: list[PreferencePair] | None = None, **config: Any) -> Stage:
    rows = pairs or [pair(number) for number in range(36)]
    write_rows(folder / "pairs" / "train.jsonl", rows[:-12])
    write_rows(folder / "pairs" / "dev.jsonl", rows[-12:])
    settings = {"max_steps": 12, "batch_size": 8, "learning_rate": 1e-2, "warmup_steps": 0, "log_every": 1,
                "schedule": "constant", "save_every": 100, "center_rewards": 0.05} | config
    return Stage(name="rm", kind="reward_model", config=alignment.kinds.RewardModel(**settings),
                 inputs={"model": base, "pairs": folder / "pairs"}, data={}, rollout=Rollout(), seed=5, root_seed=0,
                 output=folder / "out", scratch=folder / "scratch", events=folder / "events.jsonl")


def told(stage: Stage, kind: str) -> list[dict[str, Any]]:
    return [row for row in map(json.loads, stage.events.read_text().splitlines()) if row["event"] == kind]


@pytest.mark.parametrize("features", ["scalar", "likelihood", "regret"])
def test_it_learns_a_plain_preference(base: Path, tmp_path: Path, features: str) -> None:
    stage = make_stage(tmp_path, base, features=features)
    reward_model.run(stage)
    result = told(stage, "result")[0]["metrics"]
    assert result["accuracy"]["value"] == 1.0
    assert result["log_loss"] < math.log(2)
    assert result["length_accuracy"]["value"] == 0.5  # every other chosen answer is the longer one
    assert {"accuracy.rule", "accuracy.simulated", "untrained_accuracy", "calibration_error"} <= set(result)
    assert result["accuracy.rule"]["n"] + result["accuracy.simulated"]["n"] == result["dev_rows"] == 12
    tokenizer = load_tokenizer(stage.output)
    dev = reward_model.read_pairs(stage, tokenizer, "dev")
    chosen, rejected = reward_model.score_pairs(RewardModel.load(stage.output), dev)
    assert bool((chosen > rejected).all())
    assert abs(float(torch.cat([chosen, rejected]).mean())) < 3  # centred, though sums of log p are far from 0


def test_the_loss_is_bradley_and_terrys() -> None:
    chosen, rejected = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.0, 0.0, 5.0])
    plain = reward_model.pair_loss(chosen, rejected, torch.ones(3), centering=None)
    expected = [math.log(1 + math.exp(-1)), math.log(2), math.log(1 + math.exp(3))]
    assert float(plain) == pytest.approx(sum(expected) / 3)
    heavy = reward_model.pair_loss(chosen, rejected, torch.tensor([3.0, 0.0, 0.0]), centering=None)
    assert float(heavy) == pytest.approx(expected[0])
    centred = reward_model.pair_loss(chosen, rejected, torch.ones(3), centering=0.1)
    assert float(centred - plain) == pytest.approx(0.1 * (1 + 0 + 49) / 3)


def test_the_gradient_pushes_chosen_up_and_rejected_down() -> None:
    chosen, rejected = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    reward_model.pair_loss(chosen, rejected, torch.ones(2), centering=0.01).backward()
    assert bool((chosen.grad < 0).all()) and bool((rejected.grad > 0).all())


def make_trainer(stage: Stage, base: Path) -> reward_model.PairTrainer:
    tokenizer = load_tokenizer(base)
    rows = [reward_model.as_row(row) for row in reward_model.read_pairs(stage, tokenizer, "train")]
    return reward_model.PairTrainer(
        model=RewardModel(load_policy(base), features="likelihood"),
        args=RewardConfig(**training_arguments(stage), max_length=None, center_rewards_coefficient=0.05),
        train_dataset=Dataset.from_list(rows), data_collator=reward_model.collate, processing_class=tokenizer,
        stage=stage)


def test_with_equal_weights_the_loss_is_trls(base: Path, tmp_path: Path) -> None:
    """The same scores through TRL's own compute_loss."""
    trainer = make_trainer(make_stage(tmp_path, base), base)
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    ours = trainer.compute_loss(trainer.model, dict(batch))
    scores = trainer.model(batch["input_ids"], batch["completion_mask"])

    class Output:
        logits: Tensor = scores[:, None]

    theirs = RewardTrainer.compute_loss(
        trainer, lambda **inputs: Output(),
        {"input_ids": batch["input_ids"], "attention_mask": torch.ones_like(batch["input_ids"])})
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)


def test_resumed_equals_uninterrupted(base: Path, tmp_path: Path) -> None:
    whole = make_trainer(make_stage(tmp_path / "whole", base, max_steps=5), base)
    whole.run()
    stage = make_stage(tmp_path / "resumed", base, max_steps=5, save_every=3)
    first = make_trainer(stage, base)
    step = first.training_step

    def dies(*args: Any, **kwargs: Any) -> Tensor:
        if first.state.global_step == 4:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    first.training_step = dies
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = make_trainer(stage, base)
    second.run()
    assert [row["step"] for row in told(stage, "metrics")] == [1, 2, 3, 4, *(1, 2, 3), 4, 5]
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_sigterm_leaves_a_checkpoint_of_its_step(base: Path, tmp_path: Path) -> None:
    whole = make_trainer(make_stage(tmp_path / "whole", base, max_steps=5), base)
    whole.run()
    stage = make_stage(tmp_path / "resumed", base, max_steps=5, save_every=100)
    first = make_trainer(stage, base)
    step, handler = first.training_step, signal.getsignal(signal.SIGTERM)

    def interrupted(*args: Any, **kwargs: Any) -> Tensor:
        if first.state.global_step == 2:
            signal.raise_signal(signal.SIGTERM)
        return step(*args, **kwargs)

    first.training_step = interrupted
    with pytest.raises(SystemExit):
        first.run()
    assert signal.getsignal(signal.SIGTERM) == handler
    assert [path.name for path in complete_checkpoints(stage.scratch / CHECKPOINTS)] == ["checkpoint-3"]
    second = make_trainer(stage, base)
    second.run()
    assert [row["step"] for row in told(stage, "metrics")] == [1, 2, 3, *(1, 2, 3), 4, 5]
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_tie_counts_half_and_pairs_without_room_are_counted(base: Path, tmp_path: Path) -> None:
    assert reward_model.ranked(torch.tensor([2.0, 0.0, -1.0])).tolist() == [1.0, 0.5, 0.0]
    rows = [pair(number) for number in range(20)]
    rows[0] = pair(0, rejected="net revenue " * 200)
    stage = make_stage(tmp_path, base, rows)
    assert len(reward_model.read_pairs(stage, load_tokenizer(base), "train")) == 7
    assert "1 of 8 pairs are longer" in told(stage, "note")[0]["text"]
    with pytest.raises(UserError, match="no pair fits max_length=8"):
        reward_model.run(make_stage(tmp_path / "short", base, max_length=8))


def test_calibration_of_a_model_that_is_always_right() -> None:
    assert reward_model.agreement_error(torch.full((100,), 20.0)) == pytest.approx(0.0, abs=1e-6)
    overconfident = torch.cat([torch.full((50,), 20.0), torch.full((50,), -20.0)])
    assert reward_model.agreement_error(overconfident) == pytest.approx(0.5, abs=1e-6)
