"""The reward that a stage's policy is trained on, built from the stage's config and inputs; one for every RL stage."""

from __future__ import annotations

from collections.abc import MutableMapping

from transformers import PreTrainedTokenizerBase

from alignment.device import best_device
from alignment.stage import Stage
from reward import Reward
from reward.mixture import Scale, WeightedReward
from reward.model import ModelReward
from reward.verifiable import RuleReward


def make_reward(stage: Stage, tokenizer: PreTrainedTokenizerBase,
                scales: MutableMapping[str, Scale]) -> WeightedReward:
    """The rule, and the reward model where it is an input; the model's scores are standardised.

    `scales` is filled in place by the first batch; keep it with a checkpoint.
    """
    rewards: dict[str, Reward] = {"rule": RuleReward()}
    if "reward_model" in stage.inputs:
        rewards["reward_model"] = ModelReward.load(stage.inputs["reward_model"], tokenizer, device=best_device())
    return WeightedReward(rewards, stage.config.reward_weights, standardised=["reward_model"], scales=scales)
