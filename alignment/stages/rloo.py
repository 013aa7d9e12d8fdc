"""REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024, arXiv:2402.14740) by TRL's trainer.

In: `policy`, which is also the frozen reference; optionally `reward_model`. Out: a model folder. Questions, completions
and rewards are those of the stage `ppo`; a completion is one action, and the KL to the reference is in its reward.
"""

from __future__ import annotations

from typing import Any

from alignment.group_trainer import GroupTrainer, RLOOConfig, RLOOTrainer, group_arguments, train
from alignment.kinds import Rloo
from alignment.stage import Stage


def run(stage: Stage) -> None:
    """Trains for `num_iterations`, leaves the model folder in `stage.output`."""
    config: Rloo = stage.config
    train(stage, LeaveOneOutTrainer,
          RLOOConfig(**group_arguments(stage), normalize_advantages=config.whiten_advantages), method="RLOO")


class LeaveOneOutTrainer(GroupTrainer, RLOOTrainer):
    """TRL's trainer on this project's rollouts."""

    def _generate(self, prompts: list[int]) -> tuple[Any, ...]:
        batch = self.roll(prompts).batch
        return batch.prompts, batch.completions, [""] * len(prompts)
