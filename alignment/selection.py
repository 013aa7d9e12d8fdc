"""The best weights of a training run by a dev measurement, with early stopping; part of a resumable checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignment.adapters import trainable
from alignment.sharding import like, whole
from alignment.stage import Stage


class BestWeights(TrainerCallback):
    """Measures every `every` steps and at the last, keeps the weights of the best, stops after `patience` worse ones.

    `measure(model)` gives the dev metrics, and `key` names the one that decides. Give the same object to a
    `StageTrainer` as its callback and as its `memory`.
    """

    def __init__(self, stage: Stage, measure: Callable[[PreTrainedModel], dict[str, float]], *, key: str, higher: bool,
                 every: int, patience: int) -> None:
        self.stage, self.measure = stage, measure
        self.key, self.higher, self.every, self.patience = key, higher, every, patience
        self.weights: dict[str, Tensor] = {}
        self.step, self.value, self.worse = 0, float("-inf") if higher else float("inf"), 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.every and state.global_step < state.max_steps:
            return
        metrics = self.measure(kwargs["model"])
        if self.stage.leads:
            self.stage.log(state.global_step, **metrics)
        if self.consider(state.global_step, metrics[self.key]):
            self.weights = {name: parameter.detach().clone() for name, parameter in trainable(kwargs["model"])}
        if self.worse >= self.patience:
            control.should_training_stop = True

    def consider(self, step: int, value: float) -> bool:
        """Whether this is the best so far; a tie is not, so that the earlier step stays."""
        better = value > self.value if self.higher else value < self.value
        if better:
            self.step, self.value, self.worse = step, value, 0
        else:
            self.worse += 1
        return better

    def restore(self, model: PreTrainedModel) -> None:
        """Puts the best weights back into the model."""
        with torch.no_grad():
            for name, parameter in trainable(model):
                parameter.copy_(like(self.weights[name], parameter))

    def save(self, folder: Path) -> None:
        """Called by all processes; the leading one writes."""
        weights = {name: whole(value).contiguous() for name, value in self.weights.items()}
        if not self.stage.leads:
            return
        save_file(weights, folder / "best.safetensors")
        state = {"step": self.step, "value": self.value, "worse": self.worse}
        (folder / "best.json").write_text(json.dumps(state), encoding="utf-8")

    def load(self, folder: Path) -> None:
        state = json.loads((folder / "best.json").read_text(encoding="utf-8"))
        self.step, self.value, self.worse = state["step"], state["value"], state["worse"]
        self.weights = load_file(folder / "best.safetensors")
