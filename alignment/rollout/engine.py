"""What a rollout engine is: prompts in, completions with logprobs out, weights pushed in place."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to sample. Temperature only by default: top-p renormalises and would bias importance ratios."""

    max_new_tokens: int
    temperature: float = 1.0  # 0 = greedy
    top_p: float = 1.0
    allowed: tuple[int, ...] = ()  # no token but these, where there are any; logprobs are among them
    schema: dict[str, Any] | None = None  # JSON schema that the text must fit: vLLM alone can hold a model to one


@dataclasses.dataclass(frozen=True)
class Generation:
    """One completion. `token_ids` includes the EOS when the model produced it; then `finish_reason` is "stop"."""

    token_ids: list[int]
    logprobs: list[float]  # of each token under the sampling distribution, same length
    finish_reason: str  # "stop" | "length"


class PushError(RuntimeError):
    """The engine's logprobs differ from those of the model that was pushed."""


class Engine(Protocol):
    """A generator holding one set of weights."""

    name: str

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]) -> list[Generation]:
        """One completion per prompt (repeat a prompt with another seed for several); order kept.

        The same (prompt, seed, weights) gives the same tokens whatever else is in the batch, for fp32 on one thread.
        """
        ...

    def push(self, model: PreTrainedModel) -> None:
        """Replaces the engine's weights by the model's, drops cached prefixes, verifies by a probe of logprobs.

        PushError where they did not arrive.
        """
        ...

    def close(self) -> None: ...
