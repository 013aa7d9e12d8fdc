"""PPO of a policy: builds its parts, runs the iterations of alignment/ppo_run.py, saves policy and critic.

In: `policy`, which is also the frozen reference; optionally `reward_model`. Out: a model folder, and the critic's
weights in critic/. Questions come from a pool drawn for the purpose "ppo" and are used once per pass over the pool.
"""

from __future__ import annotations

import copy
import statistics

from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment.adapters import adapted, save_adapter
from alignment.device import placed
from alignment.group import Group
from alignment.kinds import Ppo
from alignment.models import load_policy, load_tokenizer, save_policy
from alignment.ppo import PpoTrainer
from alignment.ppo_run import PpoRun
from alignment.ppo_state import Critic, PpoState, new_state
from alignment.question_pool import dev_questions, question_pool
from alignment.rewards import make_reward
from alignment.rollout import make_engine
from alignment.stage import Stage
from data.schema import UserError
from reward.model import RewardModel, fingerprint

RESULT_ITERATIONS = 10  # the last ones, over which reward and KL are averaged for the result


def run(stage: Stage) -> None:
    """Trains for `num_iterations`, then saves."""
    config: Ppo = stage.config
    group = Group.of(stage)
    tokenizer, policy = load_tokenizer(stage.inputs["policy"]), placed(load_policy(stage.inputs["policy"]))
    critic = make_critic(stage, policy, tokenizer)
    reference = None if config.lora_rank else copy.deepcopy(policy).requires_grad_(False)
    policy = adapted(policy, config, seed=stage.derive("adapter"))
    pool, dev = question_pool(stage, tokenizer, policy), dev_questions(stage, tokenizer, policy)
    state = new_state(policy, critic, config)
    reward = make_reward(stage, tokenizer, state.reward_scales, rehearsal=pool.questions[:2])
    engine = make_engine(stage.inputs["policy"], stage.rollout, max_length=max(pool.max_length, dev.max_length),
                         model=policy, group=group, serving=stage.serving)
    trainer = PpoTrainer(config, state, reference=reference, engine=engine, tokenizer=tokenizer,
                         reward=reward, seed=stage.seed, group=group)
    training = PpoRun(stage, trainer, pool=pool, dev=dev)
    final = training.train()
    engine.close()
    if stage.leads:
        save(stage, state, tokenizer)
    history = training.watch.history
    stage.result(dev_accuracy=final.to_json(), alarms=training.rung, rollbacks=state.rollbacks,
                 logprob_gap_max=max(line["logprob_gap_max"] for line in history),
                 **{name: statistics.fmean(line[name] for line in history[-RESULT_ITERATIONS:])
                    for name in ("reward", "reward_rule", "kl_sequence", "truncated")})


def make_critic(stage: Stage, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Critic | None:
    """The critic on the policy's trunk, a copy of it, or one of the reward model's where that reads the same tokens;
    none where advantages are the group's."""
    config: Ppo = stage.config
    if config.advantages == "group":
        return None
    if config.critic_from in ("policy", "shared"):
        return Critic(policy.base_model, num_layers=config.critic_layers, shared=config.critic_from == "shared")
    folder = stage.inputs.get("reward_model")
    if folder is None:
        raise UserError(f"{stage.name}: critic_from=reward_model needs the input reward_model")
    if fingerprint(load_tokenizer(folder)) != fingerprint(tokenizer):
        raise UserError(f"{stage.name}: critic_from=reward_model, but the reward model in {folder} has another "
                        "tokenizer than the policy; use critic_from=policy")
    return Critic(placed(RewardModel.load(folder)).trunk.base_model, num_layers=config.critic_layers)


def save(stage: Stage, state: PpoState, tokenizer: PreTrainedTokenizerBase) -> None:
    """The policy's folder; the critic's weights in critic/critic.safetensors, an adapter in adapter/."""
    config: Ppo = stage.config
    save_policy(state.policy, tokenizer, stage.output, name=stage.name,
                description=f"Aligned by PPO in finalign's stage `{stage.name}`: {config.num_iterations} iterations of "
                            f"{config.num_prompts * config.num_samples} completions.")
    save_adapter(state.policy, stage.output / "adapter")
    if state.critic is not None:
        folder = stage.output / "critic"
        folder.mkdir(exist_ok=True)
        save_file({name: value.detach().cpu().contiguous() for name, value in state.critic.state_dict().items()},
                  folder / "critic.safetensors")
