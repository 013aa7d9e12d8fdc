"""A PPO stage small enough to run in a second: a policy of a few thousand parameters, questions, rewards to plant."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from alignment import question_pool
from alignment.models import new_model, save_policy
from alignment.optim import make_optimizer
from alignment.rollout import TransformersEngine
from alignment.stage import Rollout, Stage
from alignment.stages import ppo
from data.chat import render_example
from data.finance.generator import solution_text
from data.schema import Completion, Question
from data.tokenizer import build_tokenizer
from reward import Reward, Scores
from reward.mixture import WeightedReward
from tests.alignment.stage_made import make_stage, result, said


def question(number: int) -> Question:
    return Question(id=f"q{number}", source="file", kind="copy", language="en", prompt=f"Say {number}.", steps=(),
                    answer=str(number), operand_key=f"k{number}")


class Numbers:
    """Digits to say; the held-out ones are the same, so that a policy this small can know them."""

    def questions(self, split: str, *, count: int | None, seed: int) -> list[Question]:
        return [question(number) for number in range(10)][:count]


class Longer:
    """Prefers the longer completion: 0 for one token, 1 for sixteen; or, `by` -1, the shorter one."""

    def __init__(self, by: float = 1.0) -> None:
        self.by = by

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
        scores = [self.by * (len(completion.token_ids) - 1) / 15 for completion in completions]
        return Scores(scores, {"rule": scores})


def write_policy(folder: Path) -> Path:
    """The folder of a policy that was taught, in half a second, to say the number it is asked to say."""
    rows = Numbers().questions("train", count=None, seed=0)
    tokenizer = build_tokenizer([row.prompt + solution_text(row) for row in rows] * 4, vocab_size=300)
    model = new_model(tokenizer, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, seed=0)
    ids, labels = (torch.tensor(part) for part in zip(
        *(render_example(tokenizer, row, solution_text(row)) for row in rows), strict=True))
    optimizer = make_optimizer(model, optimizer="muon", learning_rate=0.02, muon_learning_rate=0.02, weight_decay=0.0)
    for _ in range(60):
        logits = model(input_ids=ids, use_cache=False).logits
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_policy(model.eval(), tokenizer, folder)
    return folder


def ppo_stage(folder: Path, policy: Path, **config: Any) -> Stage:
    """A stage of eight iterations of eight completions, saved at each one."""
    return make_stage(folder, "ppo", inputs={"policy": policy}, **{
        "num_iterations": 8, "num_prompts": 8, "question_pool": 10, "max_new_tokens": 16, "minibatch_size": 8,
        "critic_warmup": 0, "eval_every": 100, "dev_examples": 4, "save_every": 1, "kl_coefficient": 0.0,
        "truncation": "bootstrap", "truncation_limit": 1.0, "learning_rate": 1e-3, **config})


def planted(patch: pytest.MonkeyPatch, reward: Reward, *, standardised: bool = False) -> None:
    """From now on stages ask for numbers and are paid by this reward."""
    def make_reward(stage: Stage, tokenizer: Any, scales: dict[str, Any], *, rehearsal: Any) -> Reward:
        return WeightedReward({"rule": reward}, {"rule": 1.0}, standardised=["rule"] if standardised else [],
                              scales=scales)

    patch.setattr(question_pool, "open_source", lambda config: Numbers())
    patch.setattr(ppo, "make_reward", make_reward)


class Apart(TransformersEngine):
    """Holds weights of its own, as a server does."""

    def __init__(self, *arguments: Any, model: PreTrainedModel, **keywords: Any) -> None:
        super().__init__(*arguments, model=copy.deepcopy(model), **keywords)

    def push(self, model: PreTrainedModel) -> None:
        super().push(copy.deepcopy(model))


def apart(model_path: Path, rollout: Rollout, *, max_length: int, model: PreTrainedModel, **keywords: Any) -> Apart:
    """In the place of `make_engine`."""
    return Apart(model_path, max_length=max_length, model=model)


def again(stage: Stage) -> Stage:
    """Runs the stage once more, as whoever starts it does."""
    stage.events.unlink(missing_ok=True)
    ppo.run(stage)
    return stage


def warnings(stage: Stage) -> list[str]:
    return [row["text"] for row in said(stage, "warning")]


def untimed(stage: Stage) -> list[tuple[int, dict[str, float]]]:
    """The metrics of each line, without how long they took."""
    return [(line["step"], {name: value for name, value in line["metrics"].items() if not name.startswith("seconds")})
            for line in said(stage, "metrics")]


def left(stage: Stage) -> dict[str, Any]:
    """All that a stage leaves: the bytes of its weights, its metrics, its results, its warnings."""
    files = {path.name: path.read_bytes() for path in stage.output.rglob("*.safetensors")}
    return files | {"metrics": untimed(stage), "result": result(stage), "warnings": warnings(stage)}
