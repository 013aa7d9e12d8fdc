"""What both engines ask of requests and models: limits checked, stop ids found, inference mode entered and left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from data.schema import UserError


def check_requests(prompts: Sequence[Sequence[int]], seeds: Sequence[int], max_length: int) -> None:
    """Refuses what no engine can serve: an empty prompt, or one that leaves no room for a token."""
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}")
    for index, prompt in enumerate(prompts):
        if not 0 < len(prompt) < max_length:
            raise UserError(f"prompt {index} has {len(prompt)} tokens; an engine built for sequences of {max_length} "
                            f"tokens takes prompts of 1 to {max_length - 1}: shorten the prompt or use a model with "
                            "more positions")


def shortest_first(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The prompts' places in an order that puts like lengths, and like prompts, side by side."""
    return sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), tuple(prompts[i]), i))


def stop_token_ids(*configs: GenerationConfig | PreTrainedConfig | None) -> list[int]:
    """The ids that end a completion, by the first config that names any (the generation config goes first)."""
    for config in configs:
        ids = getattr(config, "eos_token_id", None)
        if ids is not None:
            return sorted(ids) if isinstance(ids, list | tuple) else [ids]
    raise UserError("neither the model's generation config nor its config names an eos_token_id: without one a "
                    "completion never ends; add it to the model's generation_config.json")


@contextmanager
def inference(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode without gradients; the model's training mode comes back after."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)
