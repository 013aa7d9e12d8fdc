"""One training step on a desk's exported file, beside the rule's pairs: of a reward model, and of a policy by DPO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from alignment.models import load_policy, new_model, save_policy
from alignment.stages import dpo, pairs, reward_model
from data.rows import write_rows
from data.schema import Completion, Question, Verdict
from data.tokenizer import build_tokenizer
from reward.model import RewardModel
from tests.alignment.stage_made import make_stage, result

ONE_STEP = {"max_steps": 1, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 0, "log_every": 1}


def small_base(folder: Path, texts: list[str]) -> Path:
    """A policy with random weights, whose tokenizer knows the texts."""
    tokenizer = build_tokenizer(texts * 20, vocab_size=300)
    model = new_model(tokenizer, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48, seed=3)
    save_policy(model, tokenizer, folder)
    return folder


def sampled(folder: Path) -> dict[str, Path]:
    """Two questions with a right and a wrong completion each, judged by the rule."""
    asked = [Question(id=f"q{number}", source="finance", kind="net_margin", language="en", prompt=f"Question {number}?",
                      steps=("6 / 40 = 15%",), answer="15%", operand_key=f"q{number}") for number in range(2)]
    given = [(question, sample) for question in asked for sample in range(2)]
    write_rows(folder / "given" / "questions.jsonl", asked)
    write_rows(folder / "given" / "completions.jsonl", [
        Completion(question_id=question.id, sample=sample, text=f"Answer: {15 + sample}%", finish_reason="stop")
        for question, sample in given])
    write_rows(folder / "verdicts" / "verdicts.jsonl", [
        Verdict(question_id=question.id, sample=sample, correct=sample == 0, judge="rule")
        for question, sample in given])
    return {"completions": folder / "given", "verdicts": folder / "verdicts"}


def train_on(file: Path, base: Path, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """`pairs.human=FILE`, then a step of each: what the stages `pairs` and `reward_model` reported."""
    both = make_stage(folder / "both", "pairs", inputs=sampled(folder), human=str(file), dev_fraction=0.3)
    pairs.run(both)
    scorer = make_stage(folder / "rm", "reward_model", inputs={"model": base, "pairs": both.output}, **ONE_STEP)
    reward_model.run(scorer)
    RewardModel.load(scorer.output)
    policy = make_stage(folder / "dpo", "dpo", inputs={"policy": base, "pairs": both.output}, **ONE_STEP)
    dpo.run(policy)
    assert not torch.equal(load_policy(policy.output).lm_head.weight, load_policy(base).lm_head.weight)
    return result(both), result(scorer)
