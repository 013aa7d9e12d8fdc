"""The plain engine: a transformers model decoded by a loop of our own. The slow twin of the vLLM engine, and the
fallback where no vLLM wheel exists.

A batch is left-padded and holds prompts of like length; rows that are finished leave the key-value cache, so ragged
lengths cost little. On a CPU each thread decodes a part of it, in a process of its own. Sampling draws the noise that
vLLM draws (exponential noise from one generator per request), so that the two engines sample the same tokens from the
same seeds wherever rounding does not decide.

It knows transformers and torch, and nothing of stages or rewards.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Cache, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from alignment.device import placed
from alignment.rollout.engine import Generation, Sampling
from alignment.rollout.requests import check_requests, inference, shortest_first, stop_token_ids
from alignment.rollout.side_by_side import parts_of, side_by_side
from data.schema import UserError

ROOM = 32  # spare places in the cache, so that it is copied once in that many tokens
SHRINK = 0.75  # finished rows leave the cache once fewer than this share of its rows are live


class TransformersEngine:
    """Generates with `model`, which it shares with whoever pushed it: a later in-place update is seen at once."""

    name = "transformers"

    def __init__(self, model_path: Path, *, max_length: int, max_num_seqs: int = 256, dtype: str = "float32",
                 model: PreTrainedModel | None = None) -> None:
        self.max_length = max_length
        self.max_num_seqs = max_num_seqs
        self.dtype: torch.dtype = getattr(torch, dtype)
        if model is None:
            model = placed(AutoModelForCausalLM.from_pretrained(model_path, dtype=self.dtype))
        self.push(model)

    def push(self, model: PreTrainedModel) -> None:
        """Generates with this very model from now on; a model of another dtype is copied and cast, so that a further
        update needs another push. An adapter stays one: what it adds is computed as the model computes it."""
        if next(model.parameters()).dtype != self.dtype:
            model = copy.deepcopy(model)
            for parameter in model.parameters():  # not the buffers: rotary frequencies rounded to 16 bits turn astray
                parameter.data = parameter.data.to(self.dtype)
        self.model = model
        self.stop_ids = stop_token_ids(model.generation_config, model.config)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]) -> list[Generation]:
        check_requests(prompts, seeds, self.max_length)
        if sampling.schema is not None:
            raise UserError("the transformers engine cannot hold a text to a JSON schema; use rollout=vllm")
        order = shortest_first(prompts)
        results: list[Generation | None] = [None] * len(prompts)
        with inference(self.model):
            for start in range(0, len(order), self.max_num_seqs):
                rows = order[start:start + self.max_num_seqs]
                parts = [[rows[place] for place in part] for part in
                         parts_of([prompts[row] for row in rows], self.model.device)]
                made = side_by_side(lambda part: self._decode([prompts[row] for row in part], sampling,
                                                              [seeds[row] for row in part]), parts)
                for part, generations in zip(parts, made, strict=True):
                    for row, generation in zip(part, generations, strict=True):
                        results[row] = generation
        return [generation for generation in results if generation is not None]

    def _decode(self, prompts: list[Sequence[int]], sampling: Sampling, seeds: list[int]) -> list[Generation]:
        """One batch, in order."""
        device = self.model.device
        tokens: list[list[int]] = [[] for _ in prompts]
        logprobs: list[list[float]] = [[] for _ in prompts]
        reasons = ["length"] * len(prompts)
        limits = [min(sampling.max_new_tokens, self.max_length - len(prompt)) for prompt in prompts]
        generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        cache = roomy_cache(self.model.config)
        logits, positions, mask = self._prefill(prompts, cache, max(limits))
        rows = list(range(len(prompts)))  # which prompt each row of the cache is
        while True:
            chosen, chosen_logprobs = sample(logits, sampling, [generators[row] for row in rows])
            live = []
            for slot, (token, logprob) in enumerate(zip(chosen.tolist(), chosen_logprobs.tolist(), strict=True)):
                row = rows[slot]
                if reasons[row] == "stop" or len(tokens[row]) == limits[row]:
                    continue  # finished, and not yet out of the cache
                tokens[row].append(token)
                logprobs[row].append(logprob)
                if token in self.stop_ids:
                    reasons[row] = "stop"
                elif len(tokens[row]) < limits[row]:
                    live.append(slot)
            if not live:
                break
            if len(live) <= SHRINK * len(rows):
                keep = torch.tensor(live, device=device)
                cache.batch_select_indices(keep)
                chosen, positions, mask = chosen[keep], positions[keep], mask[keep]
                rows = [rows[slot] for slot in live]
            positions = positions + 1
            logits = self.model(input_ids=chosen[:, None], attention_mask=mask[:, :cache.get_seq_length() + 1],
                                position_ids=positions, past_key_values=cache, use_cache=True).logits[:, -1].float()
        return [Generation(*parts) for parts in zip(tokens, logprobs, reasons, strict=True)]

    def _prefill(self, prompts: list[Sequence[int]], cache: Cache,
                 room: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Reads the prompts, each distinct one once: logits (B, V) after them, the position of the last token (B, 1)
        and the mask (B, P + room) that hides the padding of a row and nothing else."""
        device = self.model.device
        distinct: dict[tuple[int, ...], int] = {}
        where = torch.tensor([distinct.setdefault(tuple(prompt), len(distinct)) for prompt in prompts], device=device)
        longest = max(map(len, distinct))
        ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in distinct], device=device)  # (D, P)
        padding = torch.tensor([[longest - len(p)] for p in distinct], device=device)  # (D, 1)
        mask = (torch.arange(longest + room, device=device)[None, :] >= padding).long()
        positions = (torch.arange(longest, device=device)[None, :] - padding).clamp_min(0)
        logits = self.model(input_ids=ids, attention_mask=mask[:, :longest], position_ids=positions,
                            past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].float()
        if len(distinct) < len(prompts):
            cache.batch_select_indices(where)
        return logits[where], positions[where, -1:], mask[where]

    def close(self) -> None:
        """Lets the model go."""
        del self.model


class RoomyLayer(DynamicLayer):
    """transformers' growing cache layer, written into spare room instead of concatenated anew for each token."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object,
               **kwargs: object) -> tuple[torch.Tensor, torch.Tensor]:
        length = self.get_seq_length()
        if not self.is_initialized:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self._rooms = [key_states.new_empty(()), value_states.new_empty(())]
        self._rooms = [extended(room, length, new) for room, new in
                       zip(self._rooms, (key_states, value_states), strict=True)]
        return self._show(length + key_states.shape[-2])

    def _show(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (room[:, :, :length] for room in self._rooms)
        self.keys, self.values = keys, values
        return keys, values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        length = self.get_seq_length()
        self._rooms = [room[indices] for room in self._rooms]
        self._show(length)


def extended(room: torch.Tensor, length: int, new: torch.Tensor) -> torch.Tensor:
    """`room` (B, heads, at least length, width) with `new` written after `length`; copied only where it is full."""
    end = length + new.shape[-2]
    if length == 0 or room.shape[-2] < end:
        larger = new.new_empty((*new.shape[:2], end + ROOM, new.shape[-1]))
        if length:
            larger[:, :, :length] = room[:, :, :length]
        room = larger
    room[:, :, length:end] = new
    return room


def roomy_cache(config: PreTrainedConfig) -> Cache:
    """A cache for a model of this config: the plain layers get spare room, sliding and other layers stay their own."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def sample(logits: torch.Tensor, sampling: Sampling,
           generators: Sequence[torch.Generator]) -> tuple[torch.Tensor, torch.Tensor]:
    """One token per row of `logits` (B, V), and its logprob under the sampling distribution; both (B,).

    p_i / e_i with e ~ Exp(1) is largest at i with probability p_i (the exponential race, that is Gumbel-max).
    At temperature 0 the token is the most likely one and the logprob is the one at temperature 1.
    """
    if sampling.allowed:
        allowed = torch.tensor(sampling.allowed, device=logits.device)
        logits = torch.full_like(logits, float("-inf")).index_copy_(-1, allowed, logits[..., allowed])
    if sampling.temperature == 0:
        logprobs = logits.log_softmax(-1)
        chosen = logprobs.argmax(-1)
    else:
        scaled = logits / sampling.temperature
        if sampling.top_p < 1:
            scaled = keep_nucleus(scaled, sampling.top_p)
        logprobs = scaled.log_softmax(-1)
        noise = torch.empty_like(logprobs)
        for row, generator in zip(noise, generators, strict=True):
            row.exponential_(generator=generator)
        chosen = (scaled.softmax(-1) / noise).argmax(-1)
    return chosen, logprobs.gather(-1, chosen[:, None])[:, 0]


def keep_nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """`logits` (B, V) with all outside the smallest set of mass >= `top_p` at -inf (Holtzman et al. 2020)."""
    ascending, order = logits.sort(-1)
    outside = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
    outside[:, -1] = False
    return torch.empty_like(logits).scatter_(-1, order, ascending.masked_fill(outside, float("-inf")))
