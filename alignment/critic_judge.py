"""The critic as a judge: a model that walks through reference and solution (reward/walk.py), by the rollout engine.

Greedy, so that a solution's verdict depends on nothing but the solution and the weights.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from alignment.device import placed
from alignment.models import load_policy, load_tokenizer
from alignment.rollout import Engine, Sampling, make_engine
from alignment.stage import Stage
from data.chat import render_prompt
from data.schema import Completion, Question, Verdict
from reward.judge import Unreadable
from reward.walk import MAX_TOKENS, PROMPT_HASH, ROOM, asked, read_walk


def open_critic(stage: Stage, folder: Path) -> CriticJudge:
    """The critic in a model folder, by the stage's engine. Close it at the end."""
    model = placed(load_policy(folder))
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    max_length = min(MAX_TOKENS, positions or MAX_TOKENS)
    engine = make_engine(folder, stage.rollout, max_length=max_length, model=model)
    return CriticJudge(engine, load_tokenizer(folder), max_length=max_length, model=stage.config.model or folder.name)


class CriticJudge:
    """Verdicts by a critic. `unreadable` counts the walks that say nothing of the answer; they have no verdict."""

    def __init__(self, engine: Engine, tokenizer: PreTrainedTokenizerBase, *, max_length: int, model: str) -> None:
        self.engine, self.tokenizer, self.max_length, self.model = engine, tokenizer, max_length, model
        self.asked = 0
        self.unreadable: collections.Counter[str] = collections.Counter()
        self.examples: dict[str, str] = {}

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> list[Verdict | None]:
        found: list[Verdict | None] = [
            Verdict(question_id=completion.question_id, sample=completion.sample, correct=False, judge="critic",
                    model=self.model, prompt_hash=PROMPT_HASH,
                    error_kind="truncated" if completion.finish_reason == "length" else None)
            for completion in completions]
        for place, reply in self.walks(questions, completions).items():
            verdict = found[place]
            assert verdict is not None
            try:
                found[place] = read_walk(reply, questions[place], completions[place], verdict)
            except Unreadable as error:
                self.unreadable["walk"] += 1
                self.examples["walk"] = str(error)
                found[place] = None
        return found

    def walks(self, questions: Sequence[Question], completions: Sequence[Completion]) -> dict[int, str]:
        """By their places what it says of whole completions; "" of one that it has no room for. What is said twice is
        judged once."""
        prompts: dict[int, list[int]] = {}
        for place, (question, completion) in enumerate(zip(questions, completions, strict=True)):
            if completion.finish_reason != "length":
                text = asked(question, completion.text)
                prompts[place] = [] if text is None else render_prompt(self.tokenizer,
                                                                       [{"role": "user", "content": text}])
        self.asked += len(prompts)
        said = dict.fromkeys(prompts, "")
        places: dict[tuple[int, ...], list[int]] = {}
        for place, ids in prompts.items():
            if ids and ROOM * len(ids) <= self.max_length:
                places.setdefault(tuple(ids), []).append(place)
        if places:
            generations = self.engine.generate(
                list(places), seeds=[0] * len(places),
                sampling=Sampling(max_new_tokens=(ROOM - 1) * max(map(len, places)), temperature=0.0))
            for alike, each in zip(places.values(), generations, strict=True):
                said |= dict.fromkeys(alike, str(self.tokenizer.decode(each.token_ids, skip_special_tokens=True)))
        return said

    def close(self) -> None:
        self.engine.close()
