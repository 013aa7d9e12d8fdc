"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290) by TRL's trainer.

In: `policy`, the model to train and the reference, and `pairs` (train.jsonl, dev.jsonl). Out: a model folder.
`loss: [sft]` alone is the control that learns the chosen answers and never looks at the rejected ones.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer

from alignment.adapters import adapted, adapter_off
from alignment.kinds import Dpo
from alignment.likelihood import likelihoods
from alignment.models import load_policy, load_tokenizer, save_policy
from alignment.stage import Stage
from alignment.stats import Bootstrap
from alignment.trainers import StageTrainer, quiet, training_arguments
from data.chat import completion_ids, render_prompt
from data.rows import read_rows
from data.schema import PreferencePair, UserError

LOSSES = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
          "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft")  # TRL's, but exo_pair: it needs label smoothing
Tokens = dict[str, list[int]]  # prompt_ids, chosen_ids, rejected_ids


def run(stage: Stage) -> None:
    """Trains on train.jsonl, measures on dev.jsonl, leaves the model folder in `stage.output`."""
    quiet()
    config: Dpo = stage.config
    check_losses(stage)
    tokenizer = load_tokenizer(stage.inputs["policy"])
    policy = adapted(load_policy(stage.inputs["policy"]), config, seed=stage.derive("adapter"))
    reference = WithoutAdapter(policy) if config.lora_rank else load_policy(stage.inputs["policy"])
    train, train_rows = read_pairs(stage, tokenizer, "train")
    dev, dev_rows = read_pairs(stage, tokenizer, "dev")
    if not train:
        raise UserError(f"{stage.inputs['pairs'] / 'train.jsonl'}: no pair fits max_length={config.max_length} tokens; "
                        "raise it or make more pairs")
    before = logprobs(policy, dev_rows)
    trainer = DirectPreferenceTrainer(
        model=policy, ref_model=reference, args=DPOConfig(
            **training_arguments(stage), beta=config.beta, loss_type=list(config.loss),
            loss_weights=list(config.loss_weights), max_length=None, disable_dropout=not config.lora_dropout),
        train_dataset=Dataset.from_list(weighted(train, train_rows, seed=stage.derive("weights"))),
        processing_class=tokenizer, stage=stage)
    trainer.run()
    if trainer.is_world_process_zero():
        stage.result(train_rows=len(train), dev_rows=len(dev), parameters=policy.num_parameters(only_trainable=True),
                     **quality(dev, logprobs(policy, dev_rows), before, seed=stage.derive("bootstrap")))
        save_policy(policy, tokenizer, stage.output, name=stage.name,
                    description=f"Trained by finalign's stage `{stage.name}` on {len(train)} preference pairs (DPO, "
                                f"{' + '.join(config.loss)}).")


def check_losses(stage: Stage) -> None:
    config: Dpo = stage.config
    unknown = [name for name in config.loss if name not in LOSSES]
    if unknown or not config.loss:
        raise UserError(f"{stage.name}.loss: {unknown or 'empty'}; choose from {', '.join(LOSSES)}")
    if len(config.loss) != len(config.loss_weights):
        raise UserError(f"{stage.name}: {len(config.loss)} losses {config.loss} but {len(config.loss_weights)} "
                        f"loss_weights {config.loss_weights}; give one weight a loss")


def read_pairs(stage: Stage, tokenizer: PreTrainedTokenizerBase,
               split: str) -> tuple[list[PreferencePair], list[Tokens]]:
    """The split's pairs and their tokens; both completions end with EOS.

    Pairs longer than `max_length` are dropped and counted in a note.
    """
    pairs = read_rows(stage.inputs["pairs"] / f"{split}.jsonl", PreferencePair)
    rows = [{"prompt_ids": render_prompt(tokenizer, pair.prompt),
             "chosen_ids": completion_ids(tokenizer, pair.chosen, True),
             "rejected_ids": completion_ids(tokenizer, pair.rejected, True)} for pair in pairs]
    limit = stage.config.max_length
    fits = [len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) <= limit for row in rows]
    if not all(fits):
        stage.note(f"{split}: {fits.count(False)} of {len(rows)} pairs are longer than {limit} tokens; dropped")
    return ([pair for pair, fit in zip(pairs, fits, strict=True) if fit],
            [row for row, fit in zip(rows, fits, strict=True) if fit])


def weighted(pairs: Sequence[PreferencePair], rows: Sequence[Tokens], *, seed: int) -> list[Tokens]:
    """The rows to train on: as they are where all weigh the same, else drawn with replacement by weight.

    TRL's loss has no weight a row; a draw by weight has the weighted loss as its expectation.
    """
    weights = [pair.weight for pair in pairs]
    if len(set(weights)) == 1:
        return list(rows)
    return random.Random(seed).choices(rows, weights=weights, k=len(rows))


class DirectPreferenceTrainer(StageTrainer, DPOTrainer):
    """TRL's trainer on rows that are already our tokens."""

    metric_names = MappingProxyType({
        "rewards/accuracies": "pair_accuracy", "rewards/margins": "margin", "logps/chosen": "chosen_logprob",
        "logps/rejected": "rejected_logprob"})

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset


class WithoutAdapter(torch.nn.Module):
    """A policy with its adapter off, as a reference for TRL: no second copy of the weights.

    TRL writes a reference's forward itself, out of `config`, `base_model` and `get_output_embeddings`.
    """

    def __init__(self, policy: PreTrainedModel) -> None:
        super().__init__()
        self.config, self._policy = policy.config, [policy]  # in a list: no submodule, whose mode TRL would change

    def base_model(self, **inputs: Any) -> Any:
        with adapter_off(self._policy[0]):
            return self._policy[0].base_model(**inputs)

    def get_output_embeddings(self) -> Any:
        return self._policy[0].get_output_embeddings()


def logprobs(model: PreTrainedModel, rows: Sequence[Tokens]) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) log-probabilities of the chosen and of the rejected completions, EOS included."""
    def side(name: str) -> torch.Tensor:
        examples = [(row["prompt_ids"] + row[name], [-100] * len(row["prompt_ids"]) + row[name]) for row in rows]
        return torch.tensor([each.logprob for each in likelihoods(model, examples)], dtype=torch.float64)
    return side("chosen_ids"), side("rejected_ids")


def quality(pairs: Sequence[PreferencePair], after: tuple[torch.Tensor, torch.Tensor],
            before: tuple[torch.Tensor, torch.Tensor], *, seed: int) -> dict[str, Any]:
    """On held-out pairs: accuracy of the implicit reward (Rafailov et al. 2023, equation 5), and what moved."""
    if not pairs:
        return {}
    chosen, rejected = after[0] - before[0], after[1] - before[1]
    bootstrap = Bootstrap([pair.operand_key or pair.question_id or pair.id for pair in pairs], seed=seed)
    return {"pair_accuracy": bootstrap.mean((chosen > rejected).double().numpy()).to_json(),
            "margin": float((chosen - rejected).mean()), "chosen_logprob_change": float(chosen.mean()),
            "rejected_logprob_change": float(rejected.mean())}
