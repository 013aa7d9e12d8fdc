"""The questions of a stage that trains on completions of its own: which it may draw, in what order, and its dev check.

Every such stage of a run has the same pool, drawn for the purpose "ppo"; none of it is asked in an evaluation.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment.kinds import SelfSampling
from alignment.rollout import Engine, Sampling
from alignment.rollout.rows import Prompted, prompt_questions, to_completion
from alignment.seeds import derive
from alignment.stage import Stage
from alignment.stats import Bootstrap, Estimate
from data.schema import UserError
from data.sources import open_source
from reward.verifiable import RuleReward


def question_pool(stage: Stage, tokenizer: PreTrainedTokenizerBase, policy: PreTrainedModel) -> Prompted:
    """The training questions of the purpose "ppo"."""
    config: SelfSampling = stage.config
    drawn = open_source(stage.data).questions("train", count=config.question_pool,
                                              seed=derive(stage.root_seed, "questions", "ppo"))
    pool = prompt_questions(tokenizer, policy.config, drawn, max_new_tokens=config.max_new_tokens)
    if len(pool.questions) < config.num_prompts:
        raise UserError(f"{stage.name}: {len(pool.questions)} training questions are fewer than num_prompts="
                        f"{config.num_prompts}; lower it")
    stage.note(f"a pool of {len(pool.questions)} questions, answers only; {pool.dropped} too long, dropped")
    return pool


def dev_questions(stage: Stage, tokenizer: PreTrainedTokenizerBase, policy: PreTrainedModel) -> Prompted:
    config: SelfSampling = stage.config
    drawn = open_source(stage.data).questions("dev", count=config.dev_examples, seed=stage.derive("dev"))
    return prompt_questions(tokenizer, policy.config, drawn, max_new_tokens=config.max_new_tokens)


def draw(pool: int, count: int, number: int, seed: int) -> list[int]:
    """Which of `pool` questions the draw of this number consists of: each once per pass over the pool, in an order of
    the pass's own.

    Says the same whatever was drawn before, so that a resumed run goes on where it was.
    """
    places = range(number * count, (number + 1) * count)
    orders = {turn: random.Random(derive(seed, "pass", turn)).sample(range(pool), pool)
              for turn in {place // pool for place in places}}
    return [orders[place // pool][place % pool] for place in places]


def greedy_right(engine: Engine, tokenizer: PreTrainedTokenizerBase, dev: Prompted,
                 max_new_tokens: int) -> Sequence[float]:
    """1 for each dev question whose greedy answer the rule finds right, with the weights the engine has; else 0, also
    where the answer was cut off."""
    generations = engine.generate(dev.prompts, Sampling(max_new_tokens=max_new_tokens, temperature=0.0),
                                  [0] * len(dev.prompts))
    return RuleReward()(dev.questions, [
        to_completion(tokenizer, question.id, 0, generation)
        for question, generation in zip(dev.questions, generations, strict=True)]).total


def greedy_accuracy(engine: Engine, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dev: Prompted,
                    max_new_tokens: int) -> Estimate:
    """Their share, with the policy's weights."""
    engine.push(policy)
    right = greedy_right(engine, tokenizer, dev, max_new_tokens)
    return Bootstrap([question.operand_key for question in dev.questions]).mean(right)
