"""The reward that a stage's policy is trained on, built from the stage's config and inputs; one for every RL stage."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence

from transformers import PreTrainedTokenizerBase

from alignment.device import best_device
from alignment.group import Group
from alignment.judge_reward import JudgeReward
from alignment.own_rewards import OwnReward
from alignment.shared_reward import SharedReward
from alignment.stage import Stage
from data.chat import completion_ids
from data.finance.generator import solution_text
from data.schema import Completion, Question
from reward import Reward
from reward.mixture import Scale, WeightedReward
from reward.model import ModelReward
from reward.process_model import ProcessReward
from reward.verifiable import RuleReward, StepsReward


def make_reward(stage: Stage, tokenizer: PreTrainedTokenizerBase, scales: MutableMapping[str, Scale], *,
                rehearsal: Sequence[Question] = ()) -> WeightedReward:
    """The rule, its steps where they have a weight, the reward model and the process reward model where they are
    inputs, a judge where it has a weight, and the user's own; the reward model's scores are standardised.

    `scales` is filled in place by the first batch; keep it with a checkpoint. The judge and the user's own rewards are
    tried on the questions of the `rehearsal`: UserError, before anything is generated, for one that cannot be had or
    fails there.
    """
    weights = stage.config.reward_weights
    rewards: dict[str, Reward] = {"rule": RuleReward()}
    if "rule_steps" in weights:
        rewards["rule_steps"] = StepsReward()
    if "reward_model" in stage.inputs:
        rewards["reward_model"] = ModelReward.load(
            stage.inputs["reward_model"], tokenizer, device=best_device(),
            dtype="bfloat16" if stage.config.precision == "bf16" else "float32")
    if "process_reward" in stage.inputs:
        rewards["process_reward"] = ProcessReward.load(
            stage.inputs["process_reward"], tokenizer, device=best_device(),
            dtype="bfloat16" if stage.config.precision == "bf16" else "float32")
    if "judge" in weights:
        rewards["judge"] = judge = JudgeReward(stage)
        rehearse(judge, rehearsal if stage.leads else (), tokenizer)
    for name, target in stage.config.rewards.items():
        rewards[name] = own = OwnReward.read(f"{stage.name}.rewards.{name}", target).load()
        rehearse(own, rehearsal, tokenizer)
    group = Group.of(stage)
    if group.size > 1:
        rewards = {name: SharedReward(f"reward {name}", reward, group) for name, reward in rewards.items()}
    return WeightedReward(rewards, weights, standardised=["reward_model"], scales=scales)


def rehearse(reward: Reward, questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase) -> None:
    """Has each question's gold answer and an empty one scored, and the first cut off."""
    if questions:
        texts = [text for question in questions for text in (solution_text(question), "")]
        reward([question for question in questions for _ in range(2)], [
            Completion(question_id=questions[row // 2].id, sample=row % 2, text=text, logprob=0.0,
                       finish_reason="stop" if row else "length",
                       token_ids=tuple(completion_ids(tokenizer, text, finished=row > 0)))
            for row, text in enumerate(texts)])
