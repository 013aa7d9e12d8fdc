"""Whether an engine holds the weights it was given: a few random prompts, read and continued by it and by the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from alignment.rollout.engine import PushError
from alignment.rollout.requests import inference

PROBES, PROBE_LENGTH, PROBE_NEW = 4, 16, 8
TOLERANCE = 1e-3
COARSE_TOLERANCE = 0.5  # 16 bits: catches wrong weights (errors of 0.9 and more were seen), not stale ones


@dataclasses.dataclass(frozen=True)
class Read:
    """What an engine makes of a probe: the tokens it goes on with, greedily, and the log-probabilities of all tokens
    but the first."""

    new: Sequence[int]
    logprobs: Sequence[float]


def probe_prompts(model: PreTrainedModel) -> list[list[int]]:
    """The same random tokens each time."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    found: list[list[int]] = torch.randint(vocabulary, (PROBES, PROBE_LENGTH), generator=generator).tolist()
    return found


def probe_length(max_length: int) -> int:
    """How many tokens an engine for sequences of `max_length` goes on with."""
    return min(PROBE_NEW, max_length - PROBE_LENGTH)


def check_probe(model: PreTrainedModel, read: Sequence[Read], *, dtype: torch.dtype, engine: str, way_out: str) -> None:
    """PushError where what an engine computing in `dtype` has read differs from the model's forward pass by more than
    1e-3 (float32) or 0.5 (16-bit engines or models)."""
    sequences = torch.tensor([[*prompt, *found.new] for prompt, found in zip(probe_prompts(model), read, strict=True)])
    worst = (torch.tensor([list(found.logprobs) for found in read]) - logprobs(model, sequences)).abs().max().item()
    tolerance = TOLERANCE if dtype == model.dtype == torch.float32 else COARSE_TOLERANCE
    if not worst <= tolerance:  # NaN too
        raise PushError(f"after the push {engine}'s logprobs differ from the model's by up to {worst:.2e} on a probe; "
                        f"at most {tolerance:g} is expected of {model.dtype} and {dtype}. {way_out}")


def logprobs(model: PreTrainedModel, sequences: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Of each token but the first, (rows, length - 1), by the model's forward pass."""
    with inference(model):
        logits = model(input_ids=sequences.to(model.device), use_cache=False).logits[:, :-1].float().cpu()
    return (logits / temperature).log_softmax(-1).gather(-1, sequences[:, 1:, None])[..., 0]
