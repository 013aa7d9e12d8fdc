"""PPO of a policy: builds its parts, runs the iterations of alignment/ppo.py, saves policy and critic.

In: `policy`, which is also the frozen reference; optionally `reward_model`. Out: a model folder, and the critic's
weights in critic/. Questions come from a pool drawn for the purpose "ppo" and are used once per pass over the pool.
"""

from __future__ import annotations

import copy
import random
import signal
import statistics
import sys
from collections.abc import Sequence

from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment.adapters import adapted, save_adapter
from alignment.checkpoints import (
    CHECKPOINTS,
    Termination,
    begin_checkpoint,
    delete_broken,
    end_checkpoint,
    latest_checkpoint,
)
from alignment.device import placed
from alignment.kinds import Ppo
from alignment.models import load_policy, load_tokenizer, save_policy
from alignment.ppo import PpoTrainer
from alignment.ppo_state import Critic, PpoState, new_state
from alignment.rewards import make_reward
from alignment.rollout import Engine, Sampling, make_engine
from alignment.rollout.rows import Prompted, prompt_questions, to_completion
from alignment.seeds import derive
from alignment.stage import Stage
from alignment.stats import Bootstrap, Estimate
from data.schema import UserError
from data.sources import open_source
from reward import RewardError
from reward.model import RewardModel, fingerprint
from reward.verifiable import RuleReward

RESULT_ITERATIONS = 10  # the last ones, over which reward and KL are averaged for the result


def run(stage: Stage) -> None:
    """Trains for `num_iterations`, then saves."""
    config: Ppo = stage.config
    tokenizer, policy = load_tokenizer(stage.inputs["policy"]), placed(load_policy(stage.inputs["policy"]))
    critic = make_critic(stage, policy, tokenizer)
    reference = None if config.lora_rank else copy.deepcopy(policy).requires_grad_(False)
    policy = adapted(policy, config, seed=stage.derive("adapter"))
    pool, dev = question_pool(stage, tokenizer, policy), dev_questions(stage, tokenizer, policy)
    state = new_state(policy, critic, config)
    reward = make_reward(stage, tokenizer, state.reward_scales, rehearsal=pool.questions[:2])
    engine = make_engine(stage.inputs["policy"], stage.rollout, max_length=max(pool.max_length, dev.max_length),
                         model=policy)
    trainer = PpoTrainer(config, state, reference=reference, engine=engine, tokenizer=tokenizer,
                         reward=reward, seed=stage.seed)
    history = resume(stage, state)
    with Termination() as termination:
        while state.iteration < config.num_iterations:
            chosen = draw(len(pool.questions), config.num_prompts, state.iteration, stage.seed)
            chosen = [index for index in chosen for _ in range(config.num_samples)]
            try:
                metrics = trainer.iterate([pool.questions[index] for index in chosen],
                                          [pool.prompts[index] for index in chosen])
            except RewardError as error:  # the iteration has changed nothing yet, so that all up to it can be kept
                save_checkpoint(stage, state)
                raise RewardError(f"{error}. What was done up to iteration {state.iteration} is kept: the same command "
                                  "goes on from there, where code was corrected with accept_code_change="
                                  f"{stage.name}") from error
            if state.iteration % config.eval_every == 0 and state.iteration < config.num_iterations:
                metrics["dev_accuracy"] = greedy_accuracy(engine, policy, tokenizer, dev, config.max_new_tokens).value
            stage.log(state.iteration, **metrics)
            stage.progress(state.iteration, config.num_iterations, unit="iteration")
            history.append(metrics)
            if termination.asked or state.iteration % config.save_every == 0:
                save_checkpoint(stage, state)
            if termination.asked:
                sys.exit(128 + signal.SIGTERM)
    final = greedy_accuracy(engine, policy, tokenizer, dev, config.max_new_tokens)
    stage.log(state.iteration, dev_accuracy=final.value)
    engine.close()
    save(stage, state, tokenizer)
    last = history[-RESULT_ITERATIONS:]
    stage.result(dev_accuracy=final.to_json(), **{name: statistics.fmean(metrics[name] for metrics in last)
                                                  for name in ("reward", "reward_rule", "kl_sequence", "truncated")})


def save_checkpoint(stage: Stage, state: PpoState) -> None:
    made = begin_checkpoint(stage.scratch / CHECKPOINTS, state.iteration)
    state.save(made)
    stage.save_log(made)
    end_checkpoint(made)


def resume(stage: Stage, state: PpoState) -> list[dict[str, float]]:
    """Brings the state to where an interrupted run left its last checkpoint; the metrics of the iterations so far."""
    folder = stage.scratch / CHECKPOINTS
    checkpoint = latest_checkpoint(folder)
    delete_broken(folder)
    if checkpoint is not None:
        state.load(checkpoint)
    return stage.resume_log(checkpoint)


def question_pool(stage: Stage, tokenizer: PreTrainedTokenizerBase, policy: PreTrainedModel) -> Prompted:
    """The training questions of the purpose "ppo"."""
    config: Ppo = stage.config
    drawn = open_source(stage.data).questions("train", count=config.question_pool,
                                              seed=derive(stage.root_seed, "questions", "ppo"))
    pool = prompt_questions(tokenizer, policy.config, drawn, max_new_tokens=config.max_new_tokens)
    if len(pool.questions) < config.num_prompts:
        raise UserError(f"{stage.name}: {len(pool.questions)} training questions are fewer than num_prompts="
                        f"{config.num_prompts}; lower it")
    stage.note(f"a pool of {len(pool.questions)} questions, answers only; {pool.dropped} too long, dropped")
    return pool


def dev_questions(stage: Stage, tokenizer: PreTrainedTokenizerBase, policy: PreTrainedModel) -> Prompted:
    config: Ppo = stage.config
    drawn = open_source(stage.data).questions("dev", count=config.dev_examples, seed=stage.derive("dev"))
    return prompt_questions(tokenizer, policy.config, drawn, max_new_tokens=config.max_new_tokens)


def draw(pool: int, count: int, iteration: int, seed: int) -> list[int]:
    """Which of `pool` questions an iteration uses: each once per pass over the pool, in an order of the pass's own.

    Says the same whatever was drawn before, so that a resumed run goes on where it was.
    """
    places = range(iteration * count, (iteration + 1) * count)
    orders = {number: random.Random(derive(seed, "pass", number)).sample(range(pool), pool)
              for number in {place // pool for place in places}}
    return [orders[place // pool][place % pool] for place in places]


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


def greedy_accuracy(engine: Engine, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dev: Prompted,
                    max_new_tokens: int) -> Estimate:
    """Share of the dev questions whose greedy answer the rule finds right; a truncated one is wrong."""
    engine.push(policy)
    generations = engine.generate(dev.prompts, Sampling(max_new_tokens=max_new_tokens, temperature=0.0),
                                  [0] * len(dev.prompts))
    completions = [to_completion(tokenizer, question.id, 0, generation)
                   for question, generation in zip(dev.questions, generations, strict=True)]
    right: Sequence[float] = RuleReward()(dev.questions, completions).total
    return Bootstrap([question.operand_key for question in dev.questions]).mean(right)


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
