"""Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300) by TRL's trainer, and the losses after it.

In: `policy`, which is also the frozen reference; optionally `reward_model`. Out: a model folder. Questions, completions
and rewards are those of the stage `ppo`; instead of a critic a score is measured against the question's other
completions, and the KL to the reference is in the loss.
"""

from __future__ import annotations

from typing import Any

from alignment.group_trainer import GroupTrainer, GRPOConfig, GRPOTrainer, group_arguments, train
from alignment.kinds import Grpo
from alignment.stage import Stage


def run(stage: Stage) -> None:
    """Trains for `num_iterations`, leaves the model folder in `stage.output`."""
    config: Grpo = stage.config
    corrected: dict[str, Any] = {} if config.importance_cap is None else {
        "vllm_importance_sampling_mode": "token_truncate", "vllm_importance_sampling_clip_max": config.importance_cap}
    train(stage, GroupRelativeTrainer, GRPOConfig(
        **group_arguments(stage), loss_type=config.loss, scale_rewards=config.scale_rewards,
        importance_sampling_level=config.importance_level, delta=config.dual_clip,
        use_bias_correction_kl=config.kl_corrected, entropy_coef=config.entropy_coefficient, **corrected),
        method="GRPO")


class GroupRelativeTrainer(GroupTrainer, GRPOTrainer):
    """TRL's trainer on this project's rollouts."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.use_vllm = self.stage.config.importance_cap is not None  # to TRL: the engine's probabilities differ

    def _generate(self, prompts: list[int]) -> tuple[Any, ...]:
        batch = self.roll(prompts).batch
        logprobs = [row[mask].tolist() for row, mask in zip(batch.engine_logprobs, batch.mask, strict=True)]
        return batch.prompts, batch.completions, None, [""] * len(prompts), logprobs, {}, None, []
