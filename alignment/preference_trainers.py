"""TRL's preference trainers on rows that are already our tokens: pairs (DPO and its kin) or single answers (KTO).

What a row's tokens are is decided elsewhere (data/chat.py); here are the losses by name, the reference, whose
log-probabilities may be computed once before training, and KTO's rows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from alignment.adapters import adapter_off
from alignment.kinds import Dpo
from alignment.likelihood import likelihoods
from alignment.models import load_policy
from alignment.shares import Part
from alignment.stage import Stage
from alignment.trainers import StageTrainer, training_arguments
from data.chat import IGNORED
from data.schema import UserError

PAIRED = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
          "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft")  # all of TRL's
UNPAIRED = ("kto", "apo_zero_unpaired")
SMOOTHED = ("exo_pair", "robust", "aot", "aot_unpaired")  # those that read label_smoothing; the plain sigmoid does not
Tokens = dict[str, list[int]]  # prompt_ids, chosen_ids, rejected_ids


def check_losses(stage: Stage) -> None:
    """Raises UserError for losses that do not exist, do not go together, or lack what they need."""
    config: Dpo = stage.config
    unknown = [name for name in config.loss if name not in PAIRED + UNPAIRED]
    if unknown or not config.loss:
        raise UserError(f"{stage.name}.loss: {unknown or 'empty'}; choose from {', '.join(PAIRED + UNPAIRED)}")
    if len(config.loss) != len(config.loss_weights):
        raise UserError(f"{stage.name}: {len(config.loss)} losses {config.loss} but {len(config.loss_weights)} "
                        f"loss_weights {config.loss_weights}; give one weight a loss")
    if is_unpaired(config) and (len(config.loss) > 1 or config.loss_weights != [1.0]):
        raise UserError(f"{stage.name}.loss={config.loss}: what learns from single answers ({', '.join(UNPAIRED)}) "
                        "stands alone; set loss_weights=[1.0] and no other loss")
    if "exo_pair" in config.loss and not config.label_smoothing:
        raise UserError(f"{stage.name}.loss={config.loss}: exo_pair takes the logarithm of label_smoothing; set it "
                        "above 0, for example to 0.001")
    if config.label_smoothing and not set(config.loss) & set(SMOOTHED):
        raise UserError(f"{stage.name}.label_smoothing={config.label_smoothing}: none of {config.loss} reads it; "
                        f"{', '.join(SMOOTHED)} do")


def is_unpaired(config: Dpo) -> bool:
    return any(name in UNPAIRED for name in config.loss)


def make_trainer(stage: Stage, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase,
                 rows: Sequence[Tokens]) -> StageTrainer:
    """The trainer of the stage's losses. The reference is the policy as it is now."""
    config: Dpo = stage.config
    distinct = list({id(row): row for row in rows}.values())
    shared: dict[str, Any] = {**training_arguments(stage), "beta": config.beta, "max_length": None,
                              "disable_dropout": not config.lora_dropout}
    if is_unpaired(config):
        size = shared["per_device_train_batch_size"]
        if size < 2:
            raise UserError(f"{stage.name}: KTO compares the answers of a micro-batch; let it hold 2 or more")
        single = unpaired(rows, size=size * stage.layout.world, seed=stage.derive("order"))
        return UnpairedTrainer(
            model=policy, ref_model=make_reference(stage, policy), args=KTOConfig(**shared, loss_type=config.loss[0]),
            train_dataset=Dataset.from_list(single), processing_class=tokenizer, stage=stage)
    arguments = DPOConfig(**shared, loss_type=list(config.loss), loss_weights=list(config.loss_weights),
                          label_smoothing=config.label_smoothing)
    before = precomputes(config, len(distinct))
    trainer = DirectPreferenceTrainer(
        model=policy, ref_model=WithoutAdapter(policy) if before else make_reference(stage, policy), args=arguments,
        train_dataset=Dataset.from_list(list(rows)), processing_class=tokenizer, stage=stage)
    if before:
        trainer.read_reference(rows, distinct)
    return trainer


def make_reference(stage: Stage, policy: PreTrainedModel) -> Any:
    """The policy's copy, or the policy itself where its adapter can be switched off."""
    return WithoutAdapter(policy) if stage.config.lora_rank else load_policy(stage.inputs["policy"])


def precomputes(config: Dpo, distinct: int) -> bool:
    """Whether the reference reads each distinct row once rather than every batch."""
    if config.precompute_reference != "auto":
        return config.precompute_reference == "always"
    return config.max_steps * config.batch_size > distinct


def logprobs(model: PreTrainedModel, rows: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
    """(N,) log-probabilities of the chosen and of the rejected completions, EOS included where there is one."""
    def side(name: str) -> Tensor:
        examples = [(row["prompt_ids"] + row[name], [IGNORED] * len(row["prompt_ids"]) + row[name]) for row in rows]
        return torch.tensor([each.logprob for each in likelihoods(model, examples)], dtype=torch.float64)
    return side("chosen_ids"), side("rejected_ids")


def unpaired(rows: Sequence[Tokens], *, size: int, seed: int) -> list[dict[str, Any]]:
    """KTO's rows in the order they are trained on: each side for itself, with another's answer for its KL estimate.

    The other's is that of the row before it in its micro-batch of `size` (Ethayarajh et al. 2024, section 4.1).
    """
    single = [{"prompt_ids": row["prompt_ids"], "completion_ids": row[name], "label": name == "chosen_ids"}
              for row in rows for name in ("chosen_ids", "rejected_ids")]
    random.Random(seed).shuffle(single)
    blocks = [single[start:start + size] for start in range(0, len(single), size)]
    return [{**row, "KL_completion_ids": block[place - 1]["completion_ids"]}
            for block in blocks for place, row in enumerate(block)]


class DirectPreferenceTrainer(StageTrainer, DPOTrainer):
    """TRL's trainer of pairs."""

    metric_names = MappingProxyType({
        "rewards/accuracies": "pair_accuracy", "rewards/margins": "margin", "logps/chosen": "chosen_logprob",
        "logps/rejected": "rejected_logprob"})
    row_tokens = staticmethod(lambda row: len(row["chosen_ids"]))  # the NLL's; all other losses are means over rows

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.now = Part()
        if self.group.size > 1:
            self._gather, self.accelerator.gather = self.accelerator.gather, self._gather_rows

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False,
                     num_items_in_batch: Any = None) -> Any:
        if self.group.size > 1:
            self.now, config = self.part(), self.stage.config
            self.loss_weights = [weight * (self.now.tokens if name == "sft" else self.now.rows)
                                 for name, weight in zip(config.loss, config.loss_weights, strict=True)]
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _gather_rows(self, values: Tensor) -> Tensor:
        """What TRL measures of every process's rows, which need not be equally many."""
        if values.ndim == 0:
            gathered: Tensor = self._gather(values)
            return gathered
        found = self.group.gather(values.tolist() if self.now.rows else [])
        return values.new_tensor([value for each in found for value in each])

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    def read_reference(self, rows: Sequence[Tokens], distinct: Sequence[Tokens]) -> None:
        """What the policy, not yet trained, gives both sides of each row: rows of like length share a batch."""
        size = self.args.per_device_train_batch_size
        order = sorted(distinct, key=lambda row: max(len(row["chosen_ids"]), len(row["rejected_ids"]))
                       + len(row["prompt_ids"]))
        batches = [order[start:start + size] for start in range(0, len(order), size)]
        found: dict[int, tuple[float, float]] = {}

        def read(batch: list[Tokens]) -> list[float]:
            chosen, rejected = self.compute_ref_log_probs(self.model, self._prepare_inputs(self.data_collator(batch)))
            return [*chosen.tolist(), *rejected.tolist()]

        self.model.eval()
        for batch, sums in zip(batches, self.group.share_out(batches, read), strict=True):
            found.update(zip(map(id, batch), zip(sums[:len(batch)], sums[len(batch):], strict=True), strict=True))
        self.model.train()
        self.train_dataset = Dataset.from_list([
            {**row, "ref_chosen_logps": found[id(row)][0], "ref_rejected_logps": found[id(row)][1]} for row in rows])
        self.precompute_ref_logps = True


class UnpairedTrainer(StageTrainer, KTOTrainer):
    """TRL's trainer of single answers, called good or bad."""

    metric_names = MappingProxyType({
        "rewards/margins": "margin", "logps/chosen": "chosen_logprob", "logps/rejected": "rejected_logprob"})
    row_tokens = staticmethod(lambda row: 1)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False,
                     num_items_in_batch: Any = None) -> Any:
        part = self.part()
        found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.group.size == 1:
            return found
        return (part.rows * found[0], found[1]) if return_outputs else part.rows * found

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset


class WithoutAdapter(torch.nn.Module):
    """A policy with its adapter off, as a reference for TRL: no second copy of the weights.

    TRL writes a reference's forward itself, out of `config`, `base_model` and `get_output_embeddings`. Where the
    reference has been read before, it stands in for one that nobody asks.
    """

    def __init__(self, policy: PreTrainedModel) -> None:
        super().__init__()
        self.config, self._policy = policy.config, [policy]  # in a list: no submodule, whose mode TRL would change

    def base_model(self, **inputs: Any) -> Any:
        with adapter_off(self._policy[0]):
            return self._policy[0].base_model(**inputs)

    def get_output_embeddings(self) -> Any:
        return self._policy[0].get_output_embeddings()
