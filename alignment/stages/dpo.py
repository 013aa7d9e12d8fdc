"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290) and its kin, by TRL's trainers.

In: `policy`, the model to train and the reference, and `pairs` (train.jsonl, dev.jsonl), whole answers and single steps
alike. Out: a model folder. `loss: [sft]` alone is the control that learns the chosen answers and never looks at the
rejected ones.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment.adapters import adapted
from alignment.kinds import Dpo
from alignment.models import load_policy, load_tokenizer, save_policy
from alignment.preference_trainers import Tokens, check_losses, logprobs, make_trainer
from alignment.sharding import gathered
from alignment.stage import Stage
from alignment.stats import Bootstrap
from alignment.trainers import quiet
from data.chat import render_pair
from data.rows import read_rows
from data.schema import PreferencePair, UserError


def run(stage: Stage) -> None:
    """Trains on train.jsonl, measures on dev.jsonl, leaves the model folder in `stage.output`."""
    quiet()
    config: Dpo = stage.config
    check_losses(stage)
    tokenizer = load_tokenizer(stage.inputs["policy"])
    policy = starting_policy(stage)
    train, train_rows = read_pairs(stage, tokenizer, "train")
    dev, dev_rows = read_pairs(stage, tokenizer, "dev")
    if not train:
        raise UserError(f"{stage.inputs['pairs'] / 'train.jsonl'}: no pair fits max_length={config.max_length} tokens; "
                        "raise it or make more pairs")
    before = logprobs(policy, dev_rows)
    trainer = make_trainer(stage, policy, tokenizer, weighted(train, train_rows, seed=stage.derive("weights")))
    trainer.run()
    policy = gathered(policy, lambda: starting_policy(stage), leads=stage.leads)
    if stage.leads:
        stage.result(train_rows=len(train), dev_rows=len(dev), parameters=policy.num_parameters(only_trainable=True),
                     **quality(dev, logprobs(policy, dev_rows), before, seed=stage.derive("bootstrap")))
        save_policy(policy, tokenizer, stage.output, name=stage.name,
                    description=f"Trained by finalign's stage `{stage.name}` on {len(train)} preference pairs (DPO, "
                                f"{' + '.join(config.loss)}).")


def starting_policy(stage: Stage) -> PreTrainedModel:
    return adapted(load_policy(stage.inputs["policy"]), stage.config, seed=stage.derive("adapter"))


def read_pairs(stage: Stage, tokenizer: PreTrainedTokenizerBase,
               split: str) -> tuple[list[PreferencePair], list[Tokens]]:
    """The split's pairs and their tokens, as data/chat.py renders them.

    Pairs longer than `max_length` are dropped and counted in a note.
    """
    pairs = read_rows(stage.inputs["pairs"] / f"{split}.jsonl", PreferencePair)
    ask = stage.config.process_form == "ask"
    rows = [dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), render_pair(tokenizer, pair, ask=ask), strict=True))
            for pair in pairs]
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
