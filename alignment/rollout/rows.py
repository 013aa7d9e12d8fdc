"""Between rows and engines: which questions fit a model, and generations as completions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignment.rollout.engine import Generation
from data.chat import render_prompt
from data.schema import Completion, Question, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class Prompted:
    """Questions with their prompts as token ids, in one order; `dropped` questions were too long for the model."""

    questions: list[Question]
    prompts: list[list[int]]
    max_length: int  # of the longest prompt and a completion together
    dropped: int


def prompt_questions(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, questions: Sequence[Question], *,
                     max_new_tokens: int) -> Prompted:
    """Renders the questions; one whose prompt and completion may exceed the model's positions is dropped.

    UserError where none is left.
    """
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    rendered = [(question, render_prompt(tokenizer, question)) for question in questions]
    kept = [(question, prompt) for question, prompt in rendered
            if positions is None or len(prompt) + max_new_tokens <= positions]
    if not kept:
        raise UserError(f"none of {len(rendered)} questions leaves max_new_tokens={max_new_tokens} within the model's "
                        f"{positions} positions: lower max_new_tokens, or check the data source")
    longest = max(len(prompt) for _, prompt in kept)
    return Prompted([question for question, _ in kept], [prompt for _, prompt in kept], longest + max_new_tokens,
                    len(rendered) - len(kept))


def to_completion(tokenizer: PreTrainedTokenizerBase, question_id: str, sample: int,
                  generation: Generation) -> Completion:
    """A generation as a row; the token that ended it is not part of its text."""
    ended = generation.finish_reason == "stop"
    ids = generation.token_ids[:-1] if ended else generation.token_ids
    return Completion(question_id=question_id, sample=sample, text=str(tokenizer.decode(ids)),
                      finish_reason="stop" if ended else "length", token_ids=tuple(generation.token_ids),
                      logprob=sum(generation.logprobs))
