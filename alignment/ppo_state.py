"""All that an iteration of PPO changes: policy, critic, optimizers and what is remembered; made, saved, loaded."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from alignment.kinds import Ppo
from alignment.optim import make_optimizer

STATE = "state.pt"  # private to the stage's scratch


class Critic(nn.Module):
    """A trunk of its own and a linear head that starts at zero, so that the first values are 0.

    Beside the trunk's state the head reads how likely the reference found what was written so far (`Batch.trust`). In a
    small causal LM a state hardly knows whether the token just written was the one it had expected, so without these
    two numbers the critic cannot tell where a completion went wrong.
    """

    def __init__(self, trunk: Any, *, num_layers: int | None = None) -> None:
        """Copies `trunk`, a transformers model without an output head; keeps its first `num_layers` layers."""
        super().__init__()
        self.trunk: Any = copy.deepcopy(trunk)
        if num_layers is not None:
            self.trunk.layers = self.trunk.layers[:num_layers]
            self.trunk.config.num_hidden_layers = len(self.trunk.layers)
        width = self.trunk.config.get_text_config().hidden_size
        weight = next(self.trunk.parameters())
        self.head = nn.Linear(width + 2, 1, device=weight.device, dtype=weight.dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, states: Tensor, trust: Tensor) -> Tensor:
        """(N, D) states of the trunk and (N, 2) of `Batch.trust` -> (N,) values."""
        return self.head(torch.cat([states, trust.to(states.dtype)], dim=1))[:, 0].float()


@dataclasses.dataclass(frozen=True)
class Remembered:
    """A completion that scored better than the mean of its rollout batch, by `gain`."""

    prompt: list[int]
    completion: list[int]
    gain: float


@dataclasses.dataclass
class PpoState:
    """All that an iteration changes; with the config and the seed it is all that the next one depends on."""

    policy: PreTrainedModel
    critic: Critic
    policy_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer
    iteration: int = 0
    reward_scales: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    memory: list[Remembered] = dataclasses.field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Writes what `load` needs into a checkpoint's folder."""
        torch.save({
            "models": [trainable(model) for model in (self.policy, self.critic)],
            "optimizers": [self.policy_optimizer.state_dict(), self.critic_optimizer.state_dict()],
            "iteration": self.iteration, "reward_scales": self.reward_scales,
            "memory": [dataclasses.astuple(row) for row in self.memory],
        }, folder / STATE)

    def load(self, folder: Path) -> None:
        """Makes this state, built as before the first iteration, the one that was saved."""
        saved = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        for model, weights in zip((self.policy, self.critic), saved["models"], strict=True):
            model.load_state_dict(weights, strict=False)  # the rest does not change
        for optimizer, state in zip((self.policy_optimizer, self.critic_optimizer), saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.iteration = saved["iteration"]
        self.reward_scales.update(saved["reward_scales"])
        self.memory[:] = [Remembered(*row) for row in saved["memory"]]


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """The weights that training changes, tied ones once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def new_state(policy: PreTrainedModel, critic: Critic, config: Ppo) -> PpoState:
    """The state before the first iteration. Dropout stays off for good: it would make the ratio noisy."""
    def optimizer(model: nn.Module, rate: float, muon_rate: float) -> torch.optim.Optimizer:
        made = make_optimizer(model, optimizer=config.optimizer, learning_rate=rate, muon_learning_rate=muon_rate,
                              weight_decay=0.0)
        for group in made.param_groups:
            group["initial_lr"] = group["lr"]
        return made

    return PpoState(policy.eval(), critic.eval(),
                    optimizer(policy, config.learning_rate, config.muon_learning_rate),
                    optimizer(critic, config.critic_learning_rate, config.critic_muon_learning_rate))
