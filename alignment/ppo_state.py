"""All that an iteration of PPO changes: policy, critic, optimizers and what is remembered; made, saved, loaded."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from alignment.kinds import Ppo
from alignment.optim import make_optimizer
from alignment.rollout import Generation
from alignment.rollout.shared import as_generations, as_numbers
from data.schema import UserError

STATE = "state.pt"  # private to the stage's scratch


class Critic(nn.Module):
    """A trunk of its own and a linear head that starts at zero, so that the first values are 0.

    Beside the trunk's state the head reads how likely the reference found what was written so far (`Batch.trust`). In a
    small causal LM a state hardly knows whether the token just written was the one it had expected, so without these
    two numbers the critic cannot tell where a completion went wrong.
    """

    def __init__(self, trunk: Any, *, num_layers: int | None = None, shared: bool = False) -> None:
        """Copies `trunk`, a transformers model without an output head, and keeps its first `num_layers` layers; a
        `shared` one stays the policy's own, and the critic is the head alone."""
        super().__init__()
        self.shared = shared
        if not shared:
            self.trunk: Any = copy.deepcopy(trunk)
        if num_layers is not None and not shared:
            self.trunk.layers = self.trunk.layers[:num_layers]
            self.trunk.config.num_hidden_layers = len(self.trunk.layers)
        width = trunk.config.get_text_config().hidden_size
        weight = next(trunk.parameters())
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
class Moments:
    """Count, mean and sum of squared deviations of all values so far (Welford's, merged by batch: Chan et al. 1983)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: Sequence[float]) -> None:
        mean = statistics.fmean(values)
        together = self.count + len(values)
        gap = mean - self.mean
        self.squares += sum((value - mean) ** 2 for value in values) + gap**2 * self.count * len(values) / together
        self.mean += gap * len(values) / together
        self.count = together

    @property
    def deviation(self) -> float:
        return math.sqrt(self.squares / self.count) if self.count else 0.0


@dataclasses.dataclass
class PpoState:
    """All that an iteration changes; with the config and the seed it is all that the next one depends on."""

    policy: PreTrainedModel
    critic: Critic | None  # none: advantages are the group's
    policy_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer | None
    kl_coefficient: float
    iteration: int = 0
    reward_scales: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    score_moments: Moments = dataclasses.field(default_factory=Moments)
    memory: list[Remembered] = dataclasses.field(default_factory=list)
    best_answers: list[float] = dataclasses.field(default_factory=list)  # right or wrong, at the best evaluation so far
    rollbacks: int = 0
    skipped: int = 0  # iterations that roll-backs undid, whose draws are not used again
    ahead: dict[int, list[Generation]] = dataclasses.field(default_factory=dict)  # draw -> completions made before it

    @property
    def draw(self) -> int:
        """Which draw of questions, samples and orders is the next iteration's."""
        return self.iteration + self.skipped

    @property
    def models(self) -> list[nn.Module]:
        return [model for model in (self.policy, self.critic) if model is not None]

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [optimizer for optimizer in (self.policy_optimizer, self.critic_optimizer) if optimizer is not None]

    def content(self) -> dict[str, Any]:
        """All of it, as plain containers, numbers and tensors."""
        return {
            "models": [trainable(model) for model in self.models],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "iteration": self.iteration, "kl_coefficient": self.kl_coefficient, "reward_scales": self.reward_scales,
            "score_moments": dataclasses.astuple(self.score_moments),
            "memory": [dataclasses.astuple(row) for row in self.memory], "best_answers": self.best_answers,
            "rollbacks": self.rollbacks, "skipped": self.skipped,
            "ahead": {draw: torch.tensor(as_numbers(made), dtype=torch.float64) for draw, made in self.ahead.items()},
        }

    def fingerprint(self) -> str:
        """SHA-256 of all of it: equal where the next iteration cannot differ in a bit."""
        found = hashlib.sha256()
        _feed(found, self.content())
        return found.hexdigest()

    def save(self, folder: Path) -> None:
        """Writes what `load` needs into a checkpoint's folder."""
        torch.save(self.content(), folder / STATE)

    def load(self, folder: Path) -> None:
        """Makes this state, of the same config and models, the one that was saved. UserError where it is of others."""
        saved = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        self._check_alike(saved, folder)
        for model, weights in zip(self.models, saved["models"], strict=True):
            model.load_state_dict(weights, strict=False)  # the rest does not change
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.zero_grad(set_to_none=True)
            optimizer.load_state_dict(state)
        self.iteration, self.kl_coefficient = saved["iteration"], saved["kl_coefficient"]
        self.reward_scales.clear()
        self.reward_scales.update(saved["reward_scales"])
        self.score_moments = Moments(*saved["score_moments"])
        self.memory[:] = [Remembered(*row) for row in saved["memory"]]
        self.best_answers = list(saved["best_answers"])
        self.rollbacks, self.skipped = saved["rollbacks"], saved["skipped"]
        self.ahead = {draw: as_generations(numbers.tolist()) for draw, numbers in saved["ahead"].items()}

    def _check_alike(self, saved: dict[str, Any], folder: Path) -> None:
        ours = [{name: list(weight.shape) for name, weight in trainable(model).items()} for model in self.models]
        theirs = [{name: list(weight.shape) for name, weight in weights.items()} for weights in saved["models"]]
        groups = [[(group["algorithm"], len(group["params"])) for group in optimizer["param_groups"]]
                  for state in (self.content(), saved) for optimizer in state["optimizers"]]
        half = len(groups) // 2
        if ours == theirs and groups[:half] == groups[half:]:
            return
        names = [name for mine, other in zip(ours, theirs, strict=False) for name in {**mine, **other}
                 if mine.get(name) != other.get(name)]
        what = f"{names[0]} differs" if names else "the number of models or their optimizers differ"
        raise UserError(f"{folder}: this checkpoint is of another model or another config than the stage's ({what}); "
                        f"delete {folder.parent} to start the stage from its beginning")


def _feed(found: Any, value: Any) -> None:
    """Hashes a tree of containers, numbers and tensors: what each is, and its bytes."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous().reshape(-1)
        found.update(f"{value.dtype}{list(value.shape)}".encode())
        found.update(plain.view(torch.uint8).numpy())
    elif isinstance(value, dict):
        for name, part in sorted(value.items(), key=lambda item: repr(item[0])):
            found.update(f"{name!r}:".encode())
            _feed(found, part)
    elif isinstance(value, list | tuple):
        found.update(f"[{len(value)}]".encode())
        for part in value:
            _feed(found, part)
    else:
        found.update(repr(value).encode())


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """The weights that training changes, tied ones once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def new_state(policy: PreTrainedModel, critic: Critic | None, config: Ppo) -> PpoState:
    """The state before the first iteration. Dropout stays off for good: it would make the ratio noisy."""
    def optimizer(model: nn.Module, rate: float, muon_rate: float) -> torch.optim.Optimizer:
        made = make_optimizer(model, optimizer=config.optimizer, learning_rate=rate, muon_learning_rate=muon_rate,
                              weight_decay=0.0)
        for group in made.param_groups:
            group["initial_lr"] = group["lr"]
        return made

    return PpoState(
        policy.eval(), None if critic is None else critic.eval(),
        optimizer(policy, config.learning_rate, config.muon_learning_rate),
        None if critic is None else optimizer(critic, config.critic_learning_rate, config.critic_muon_learning_rate),
        config.kl_coefficient)
