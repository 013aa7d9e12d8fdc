"""A reward model from preference pairs, by TRL's reward trainer hosting the model class of reward/model.py.

In: `model`, the folder its trunk starts from, and `pairs` (train.jsonl, dev.jsonl). Out: a reward model's folder.
The loss is Bradley and Terry's (1952), each pair weighted by its `weight`, plus a penalty that centres the scores
(Eisenstein et al. 2023, arXiv:2312.09244).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from trl import RewardConfig, RewardTrainer

import alignment.kinds
from alignment.adapters import adapted, merged_state, save_adapter, trainable
from alignment.models import load_policy, load_tokenizer
from alignment.sharding import gathered
from alignment.stage import Stage
from alignment.stats import Bootstrap, calibration
from alignment.trainers import StageTrainer, quiet, training_arguments
from data.chat import render_pair
from data.rows import read_rows
from data.schema import PreferencePair, UserError
from reward.model import RewardModel, pad_rows

STANDARDISED_ON = 128  # training pairs whose scores start with mean 0 and variance 1


@dataclasses.dataclass(frozen=True)
class TokenPair:
    """A preference pair in the trunk's tokens; whole answers end with EOS."""

    pair: PreferencePair
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


def run(stage: Stage) -> None:
    """Trains on train.jsonl, measures on dev.jsonl before and after, leaves the model in `stage.output`."""
    quiet()
    config: alignment.kinds.RewardModel = stage.config
    tokenizer = load_tokenizer(stage.inputs["model"])
    model = starting_model(stage)
    train = read_pairs(stage, tokenizer, "train")
    dev = read_pairs(stage, tokenizer, "dev")
    if not train:
        raise UserError(f"{stage.inputs['pairs'] / 'train.jsonl'}: no pair fits max_length={config.max_length} tokens; "
                        "raise it or make more pairs")
    model.standardise(torch.cat(score_pairs(model, train[:STANDARDISED_ON])))
    before = score_pairs(model, dev)
    arguments = training_arguments(stage) | {"ddp_find_unused_parameters": config.features == "scalar"}  # no LM head
    trainer = PairTrainer(
        model=model, args=RewardConfig(**arguments, max_length=None, center_rewards_coefficient=config.center_rewards,
                                       disable_dropout=not config.lora_dropout),
        train_dataset=Dataset.from_list([as_row(pair) for pair in train]), data_collator=collate,
        processing_class=tokenizer, stage=stage)
    trainer.run()
    model = gathered(model, lambda: starting_model(stage), leads=stage.leads)
    if stage.leads:
        stage.result(train_rows=len(train), dev_rows=len(dev), parameters=sum(p.numel() for _, p in trainable(model)),
                     **quality(dev, score_pairs(model, dev), before, seed=stage.derive("bootstrap")))
        model.save(stage.output, tokenizer, trunk_state=merged_state(model.trunk))
        save_adapter(model.trunk, stage.output / "adapter")


def starting_model(stage: Stage) -> RewardModel:
    trunk = adapted(load_policy(stage.inputs["model"]), stage.config, seed=stage.derive("adapter"))
    return RewardModel(trunk, features=stage.config.features)


def read_pairs(stage: Stage, tokenizer: PreTrainedTokenizerBase, split: str) -> list[TokenPair]:
    """The split's pairs in tokens. Pairs longer than `max_length` are dropped and counted in a note."""
    pairs = read_rows(stage.inputs["pairs"] / f"{split}.jsonl", PreferencePair)
    rows = [TokenPair(pair, *render_pair(tokenizer, pair)) for pair in pairs]
    limit = stage.config.max_length
    kept = [row for row in rows if len(row.prompt) + max(len(row.chosen), len(row.rejected)) <= limit]
    if len(kept) < len(rows):
        stage.note(f"{split}: {len(rows) - len(kept)} of {len(rows)} pairs are longer than {limit} tokens; dropped")
    return kept


def as_row(row: TokenPair) -> dict[str, Any]:
    """A row in the columns that TRL's trainer takes for tokenised, plus what our collator needs."""
    return {"chosen_ids": row.prompt + row.chosen, "rejected_ids": row.prompt + row.rejected,
            "prompt_length": len(row.prompt), "weight": row.pair.weight}


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Chosen rows, then rejected ones: ids and completion mask (2B, longest), and the pairs' weights (B,)."""
    sides = [(row[side][:row["prompt_length"]], row[side][row["prompt_length"]:])
             for side in ("chosen_ids", "rejected_ids") for row in rows]
    ids, mask = pad_rows(sides)
    return {"input_ids": ids, "completion_mask": mask, "weight": torch.tensor([row["weight"] for row in rows])}


class PairTrainer(StageTrainer, RewardTrainer):
    """TRL's reward trainer around a `RewardModel`, with weighted pairs."""

    metric_names = MappingProxyType({"accuracy": "pair_accuracy", "margin": "margin"})
    row_tokens = staticmethod(lambda row: 1)
    model: RewardModel

    def __init__(self, *args: Any, model: RewardModel, **kwargs: Any) -> None:
        model.config.num_labels = 1  # what TRL asks of a reward model before it takes it
        super().__init__(*args, model=model, **kwargs)

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False,
                     num_items_in_batch: Tensor | int | None = None) -> Any:
        chosen, rejected = model(inputs["input_ids"], inputs["completion_mask"]).chunk(2)
        part = self.part()
        loss = part.rows * pair_loss(chosen, rejected, inputs["weight"], centering=self.stage.config.center_rewards)
        seen = self._metrics["train" if self.model.training else "eval"]
        seen["accuracy"].append(self.over_all((chosen > rejected).float().mean(), part))
        seen["margin"].append(self.over_all((chosen - rejected).detach().mean(), part))
        return (loss, {"chosen": chosen, "rejected": rejected}) if return_outputs else loss


def pair_loss(chosen: Tensor, rejected: Tensor, weight: Tensor, *, centering: float | None) -> Tensor:
    """Mean over pairs of weight * (-log sigmoid(chosen - rejected) + centering * (chosen + rejected)^2).

    A mean over pairs, not over weight: so micro-batches add up to the whole batch.
    """
    losses = -F.logsigmoid(chosen - rejected) + (centering or 0.0) * (chosen + rejected) ** 2
    return (weight.to(losses.dtype) * losses).mean()


def score_pairs(model: RewardModel, rows: Sequence[TokenPair]) -> tuple[Tensor, Tensor]:
    """(N,) scores of the chosen and of the rejected sides."""
    prompts = [row.prompt for row in rows]
    return model.score(prompts, [row.chosen for row in rows]), model.score(prompts, [row.rejected for row in rows])


def quality(rows: Sequence[TokenPair], after: tuple[Tensor, Tensor], before: tuple[Tensor, Tensor], *,
            seed: int) -> dict[str, Any]:
    """Held-out accuracy (a tie counts half) with intervals clustered by question, log-loss, calibration, baselines."""
    if not rows:
        return {}
    margin = (after[0] - after[1]).double()
    keys = [row.pair.operand_key or row.pair.question_id or row.pair.id for row in rows]
    bootstrap = Bootstrap(keys, seed=seed)
    right = ranked(margin)
    shorter = ranked(torch.tensor([float(len(row.rejected) - len(row.chosen)) for row in rows]))
    length_rule = shorter if float(shorter.mean()) >= 0.5 else 1 - shorter
    metrics: dict[str, Any] = {
        "accuracy": bootstrap.mean(right.numpy()).to_json(),
        "untrained_accuracy": bootstrap.mean(ranked((before[0] - before[1]).double()).numpy()).to_json(),
        "length_accuracy": bootstrap.mean(length_rule.numpy()).to_json(),
        "log_loss": float(-F.logsigmoid(margin).mean()),
        "calibration_error": agreement_error(margin),
    }
    for origin in sorted({row.pair.origin for row in rows}):
        where = [row.pair.origin == origin for row in rows]
        metrics[f"accuracy.{origin}"] = bootstrap.mean(right.numpy(), where=where).to_json()
        metrics[f"margin.{origin}"] = float(margin[torch.tensor(where)].mean())
    return metrics


def ranked(margin: Tensor) -> Tensor:
    """1 where the chosen side is ahead, 0 where behind, 1/2 at a tie."""
    return (torch.sign(margin) + 1) / 2


def agreement_error(margin: Tensor) -> float:
    """Expected calibration error of the side the model prefers: its probability against how often it is the chosen."""
    confidence = torch.sigmoid(margin.abs())
    error, _ = calibration(confidence.numpy(), ranked(margin).numpy(), limits=(0.5, 1.0))
    return math.nan if math.isnan(error) else error


