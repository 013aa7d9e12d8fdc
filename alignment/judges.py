"""The judge a stage asks for, made from its config: the rule, a critic, or a prompted model with what it is asked
through."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import alignment.preference_kinds
from alignment.origin import EMBEDDED_CRITIC
from alignment.remote import open_replies
from alignment.stage import Stage
from data.schema import UserError
from reward.judge import Judge, ModelJudge, RuleJudge
from reward.prompted import PromptedJudge
from reward.replies import Replies

CRITIC = ("embedded/critic_tiny/model.safetensors", "embedded/critic_tiny/config.json",
          "embedded/critic_tiny/tokenizer.json")  # named whole, so that they are part of a stage's identity


@dataclasses.dataclass(frozen=True)
class Bench:
    """A judge at work, and where its model's replies are, where it has one that replies."""

    judge: Judge
    replies: Replies | None = None

    def check(self, config: alignment.preference_kinds.Judge, *, planned: int = 0) -> None:
        """Raises UserError once more replies cannot be read than is allowed of those so far, or of `planned` ones."""
        if not isinstance(self.judge, ModelJudge):
            return
        count = self.judge.unreadable.total()
        if count > config.max_unreadable * max(planned, self.judge.asked):
            told = "; ".join(f"{task}: {text}" for task, text in self.judge.examples.items())
            ways = ("Take judge=rule, or another judge" if config.judge == "critic" else
                    "Look at the prompts, at `structured` and `max_tokens`; take a stronger judge")
            raise UserError(f"{count} replies of {self.judge.model} are no verdict ({told}), more than max_unreadable="
                            f"{config.max_unreadable} allows. {ways}; or raise max_unreadable")


@contextlib.contextmanager
def open_bench(stage: Stage) -> Iterator[Bench]:
    """The stage's judge, and its end. Raises UserError where it cannot be had."""
    config: alignment.preference_kinds.Judge = stage.config
    if config.judge == "rule":
        yield Bench(RuleJudge())
        return
    if config.judge == "critic":
        folder = stage.inputs.get("model", EMBEDDED_CRITIC)
        if not (folder / "config.json").is_file():
            raise UserError(f"{stage.name}.judge=critic: the embedded critic is not in {folder}; make it with "
                            f"recipe=critic_tiny and copy its folder there, or name one by {stage.name}.inputs.model")
        with contextlib.closing(importlib.import_module("alignment.critic_judge").open_critic(stage, folder)) as critic:
            yield Bench(critic)
        return
    settings: dict[str, Any] = {"temperature": config.temperature, "max_tokens": config.max_tokens,
                                "structured": config.structured}
    ask = None
    if config.judge == "local":  # its replies are those of its weights, whatever it is called
        settings |= {"weights": stage.inputs["model"].name}
        ask = importlib.import_module("alignment.local_judge").LocalModel  # with torch, for no other judge
    with open_replies(stage, ask=ask and (lambda: ask(stage)), **settings) as replies:
        prompts, criteria = (Path(path).expanduser() if path else None for path in (config.prompts, config.criteria))
        yield Bench(PromptedJudge(replies, tasks=config.tasks, name=config.judge, model=str(config.model),
                                  prompts=prompts, criteria=criteria), replies)
