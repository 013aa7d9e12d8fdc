"""This project's PPO as a contender of tests/bench/ppo.py: `python -m tests.bench.ppo_ours CASE FOLDER ENGINE`.

Answers `step` with the seconds of an iteration and of its parts, and `bare` with those of the same prompts through the
engine and through the library under it.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedModel

from alignment.kinds import Ppo
from alignment.ppo import PpoTrainer
from alignment.ppo_state import Critic, new_state
from alignment.rollout import Sampling, VllmEngine, make_engine
from alignment.stage import Rollout
from data.schema import Completion, Question
from reward import Scores
from reward.mixture import WeightedReward
from reward.model import RewardModel
from tests.bench.ppo_case import LIMIT, PROMPT, Case, serve, work_of

QUESTION = Question(id="q", source="file", kind="any", language="en", prompt="", steps=(), answer="", operand_key="k")


class Ids:
    """A tokenizer whose text is the ids: nothing is decoded that is not looked at."""

    def decode(self, ids: Sequence[int]) -> str:
        return ""


class Scored:
    """A reward model's scores."""

    def __init__(self, model: RewardModel) -> None:
        self.model, self.prompts = model, [[0]]

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
        found = self.model.score(self.prompts, [completion.token_ids for completion in completions]).tolist()
        return Scores(found, {"rule": found})


class Contender:
    def __init__(self, case: Case, folder: Path, engine: str) -> None:
        policy = load(folder / "policy", case)
        config = Ppo(num_prompts=case.size.batch, minibatch_size=case.size.batch, max_new_tokens=LIMIT,
                     critic_warmup=0, learning_rate=1e-6, critic_learning_rate=1e-6, num_epochs=1,
                     precision=case.precision, truncation="penalty", truncation_reward=0.0)
        self.case, self.number = case, 0
        self.reward = Scored(RewardModel(load(folder / "reward", case), features="scalar"))
        rollout = Rollout(engine=engine, max_num_seqs=case.size.batch,
                          dtype="bfloat16" if case.precision == "bf16" else "float32")
        self.engine = make_engine(folder / "policy", rollout, max_length=PROMPT + LIMIT, model=policy)
        state = new_state(policy, Critic(load(folder / "value", case).base_model), config)
        self.trainer = PpoTrainer(config, state, reference=copy.deepcopy(policy), engine=self.engine,
                                  reward=WeightedReward({"rule": self.reward}, {"rule": 1.0}, standardised=[],
                                                        scales={}), tokenizer=Ids(), seed=0)  # type: ignore[arg-type]

    def __call__(self, asked: str) -> dict[str, Any]:
        self.number += 1
        prompts = self.case.prompts(self.number)
        return self.bare(prompts) if asked == "bare" else self.step(prompts)

    def step(self, prompts: list[list[int]]) -> dict[str, Any]:
        self.reward.prompts = prompts
        pushed = time.perf_counter()
        if self.number > 1:
            self.engine.push(self.trainer.state.policy)  # once more than need be: a step times its own push, too
        pushed = time.perf_counter() - pushed
        started = time.perf_counter()
        metrics = self.trainer.iterate([QUESTION] * len(prompts), prompts)
        return {"seconds": time.perf_counter() - started, "push": pushed, "generate": metrics["seconds_generate"],
                "score": metrics["seconds_score"], "update": metrics["seconds_update"],
                "tokens": metrics["length"] * len(prompts)}

    def bare(self, prompts: list[list[int]]) -> dict[str, Any]:
        """Seconds of one rollout through the engine and, where there is vLLM under it, through `LLM.generate`."""
        sampling, seeds = Sampling(max_new_tokens=LIMIT), range(len(prompts))
        started = time.perf_counter()
        self.engine.generate(prompts, sampling, seeds)
        found = {"engine": time.perf_counter() - started}
        if isinstance(self.engine, VllmEngine):
            settings = [self.engine._vllm.SamplingParams(
                max_tokens=LIMIT, temperature=1.0, seed=seed, stop_token_ids=self.engine.stop_ids, logprobs=0,
                detokenize=False) for seed in seeds]
            requests = [{"prompt_token_ids": prompt} for prompt in prompts]
            self.engine._llm.reset_prefix_cache()
            started = time.perf_counter()
            self.engine._llm.generate(requests, settings, use_tqdm=False)
            found["bare"] = time.perf_counter() - started
        return found


def load(folder: Path, case: Case) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    model.generation_config.eos_token_id = list(case.ends)
    return model.float()


if __name__ == "__main__":
    case, folder, [engine] = work_of(sys.argv[1:])
    serve(Contender(case, folder, engine))
