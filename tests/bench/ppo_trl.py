"""TRL 1.12's PPO, the last there was, as a contender of tests/bench/ppo.py, in an environment of its own.

Runs as `python -m tests.bench.ppo_trl CASE FOLDER` there. TRL generates to the limit and cuts a completion at one stop
token; here it cuts at any of the case's, which changes no computation. Answers `step` with the seconds of an iteration.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer
from trl.experimental.ppo import ppo_trainer as module

from tests.bench.ppo_case import LIMIT, Case, serve, work_of

STEPS = 10_000  # more than are asked for


class StepByStep(TrainerCallback):
    """Holds the trainer at the end of each iteration until the next is asked for."""

    def __init__(self) -> None:
        self.asked: queue.Queue[str] = queue.Queue()
        self.done: queue.Queue[dict[str, Any]] = queue.Queue()
        self.generating, self.tokens = 0.0, 0

    def __call__(self, asked: str) -> dict[str, Any]:
        self.asked.put(asked)
        return self.done.get()

    def wait(self) -> None:
        self.asked.get()
        self.generating, self.tokens, self.started = 0.0, 0, time.perf_counter()

    def on_train_begin(self, *arguments: Any, **keywords: Any) -> None:
        self.wait()

    def on_step_end(self, *arguments: Any, **keywords: Any) -> None:
        self.done.put({"seconds": time.perf_counter() - self.started, "generate": self.generating,
                       "tokens": self.tokens})
        self.wait()


def tokenizer_of(case: Case) -> PreTrainedTokenizerFast:
    words = {str(number): number for number in range(case.size.vocabulary)}
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="0")), pad_token="0",
                                   eos_token="1", padding_side="left")
    return made


def patched(case: Case, steps: StepByStep) -> None:
    """Times generation; cuts completions at any of the case's ends."""
    generate, ends = module.batch_generation, torch.tensor(case.ends)

    def timed(*arguments: Any, **keywords: Any) -> Any:
        started = time.perf_counter()
        made = generate(*arguments, **keywords)
        steps.generating += time.perf_counter() - started
        return made

    def cut(stop: int, pad: int, responses: torch.Tensor) -> torch.Tensor:
        ended = torch.isin(responses, ends)
        after = ended.cumsum(1) - ended.long() > 0
        steps.tokens += int((~after).sum())
        return responses.masked_fill(after, pad)

    module.batch_generation, module.truncate_response = timed, cut


def main(case: Case, folder: Path) -> None:
    steps, batch = StepByStep(), case.size.batch
    patched(case, steps)
    rows = [prompt for step in range(1, 41) for prompt in case.prompts(step)]
    args = PPOConfig(
        output_dir=str(folder / "trl"), use_cpu=True, bf16=case.precision == "bf16", gradient_checkpointing=False,
        per_device_train_batch_size=batch, gradient_accumulation_steps=1, num_mini_batches=1, num_ppo_epochs=1,
        total_episodes=STEPS * batch, response_length=LIMIT, local_rollout_forward_batch_size=batch, temperature=1.0,
        stop_token_id=1 if case.ragged else None, num_sample_generations=0, learning_rate=1e-6, save_strategy="no",
        eval_strategy="no", report_to="none", logging_steps=STEPS, disable_tqdm=True, dataloader_pin_memory=False)
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder / "policy") for _ in range(2))
    value, reward = (AutoModelForSequenceClassification.from_pretrained(folder / name, num_labels=1)
                     for name in ("value", "reward"))
    trainer = PPOTrainer(args=args, processing_class=tokenizer_of(case), model=policy, ref_model=reference,
                         reward_model=reward, value_model=value, train_dataset=Dataset.from_dict({"input_ids": rows}),
                         eval_dataset=Dataset.from_dict({"input_ids": rows[:batch]}), callbacks=[steps])
    threading.Thread(target=trainer.train, daemon=True).start()
    serve(steps)


if __name__ == "__main__":
    case, folder, _ = work_of(sys.argv[1:])
    main(case, folder)
