"""A trunk's hidden states of completions, and batches of them: a prompt that several completions share is read once.

Where prompts repeat (a group of samples, the two sides of a pair) and are long enough to be worth it, the distinct ones
are read first and each completion goes on from its prompt's keys and values: D prompts and B completions are read
instead of B of both. Gradients flow through those keys and values, so that sums over a batch are what they are when
each row is read by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

Tokens = Sequence[int]
READ_TOKENS = 2048  # of a batch that is only read, with its padding: what fits a processor's caches is read at up to
# twice the speed of four times as much
WORTH = 0.6  # of the tokens that rows by themselves would be; two shorter passes are no faster above it


def completion_states(trunk: Any, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> Tensor:
    """(B, T + 1, D), T the longest completion: row b holds the states after its prompt and after each token of its
    completion; what stands beyond the completion means nothing. `trunk`: a decoder without an output head. Prompts
    must not be empty."""
    if not _shares(prompts, completions) or not _keeps_all(trunk):
        return _row_by_row(trunk, prompts, completions)
    distinct: dict[tuple[int, ...], int] = {}
    where = [distinct.setdefault(tuple(prompt), len(distinct)) for prompt in prompts]
    device = next(trunk.parameters()).device
    longest = max(map(len, distinct))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in distinct], device=device)  # (D, P)
    lengths = torch.tensor([len(prompt) for prompt in distinct], device=device)[:, None]  # (D, 1)
    places = torch.arange(longest, device=device)[None, :] - (longest - lengths)  # (D, P), below 0 in the padding
    cache = DynamicCache(config=trunk.config)
    after_prompt = trunk(input_ids=ids, attention_mask=(places >= 0).long(), position_ids=places.clamp_min(0),
                         past_key_values=cache, use_cache=True).last_hidden_state[:, -1]  # (D, D')
    rows = torch.tensor(where, device=device)
    cache.batch_select_indices(rows)
    width = max(map(len, completions))
    ids = torch.tensor([list(tokens) + [0] * (width - len(tokens)) for tokens in completions], device=device)  # (B, T)
    mask = torch.nn.functional.pad((places >= 0).long()[rows], (0, width), value=1)  # the right padding nobody sees
    positions = lengths[rows] + torch.arange(width, device=device)[None, :]
    states = trunk(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache,
                   use_cache=True).last_hidden_state
    return torch.cat([after_prompt[rows][:, None], states], dim=1)


def _row_by_row(trunk: Any, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> Tensor:
    """Rows are padded on the right: attention is causal, so no token sees the padding and no mask is needed."""
    device = next(trunk.parameters()).device
    sequences = [[*prompt, *tokens] for prompt, tokens in zip(prompts, completions, strict=True)]
    longest, width = max(map(len, sequences)), max(map(len, completions))
    ids = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens in sequences], device=device)
    hidden = trunk(input_ids=ids, use_cache=False).last_hidden_state  # (B, L, D)
    starts = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)[:, None]
    places = (starts + torch.arange(width + 1, device=device)[None, :]).clamp_max(longest - 1)  # (B, T + 1)
    return hidden[torch.arange(len(sequences), device=device)[:, None], places]


def _shares(prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> bool:
    """Whether reading the distinct prompts and then the completions is worth it."""
    longest, width = max(map(len, prompts)), max(map(len, completions))
    whole = max(len(prompt) + len(tokens) for prompt, tokens in zip(prompts, completions, strict=True))
    read = len(set(map(tuple, prompts))) * longest + len(prompts) * width
    return width > 0 and read <= WORTH * len(prompts) * whole


def _keeps_all(trunk: Any) -> bool:
    """Whether what was read of a prompt is there for the completions: not in a sliding window, nor where activations
    are computed anew, nor where another process holds part of the weights."""
    plain = all(type(layer) is DynamicLayer for layer in DynamicCache(config=trunk.config).layers)
    recomputed = trunk.training and getattr(trunk, "is_gradient_checkpointing", False)
    return plain and not recomputed and type(next(trunk.parameters())).__name__ != "DTensor"


def batches(prompts: Sequence[Tokens], completions: Sequence[Tokens], rows: Sequence[int], max_tokens: int, *,
            trunk: Any = None) -> Iterator[list[int]]:
    """`rows` in groups whose completions share prompts, or else are of like length; each at most `max_tokens` tokens
    read, padding included (or one row). `trunk`: who will read them, where it may be one that reads row by row."""
    def size(row: int) -> int:
        return len(prompts[row]) + len(completions[row])

    shares = (trunk is None or _keeps_all(trunk)) and _shares(
        [prompts[row] for row in rows], [completions[row] for row in rows])
    ordered = sorted(rows, key=lambda row: (len(prompts[row]), prompts[row], size(row), row) if shares
                     else (size(row), row))
    group: list[int] = []
    distinct: set[tuple[int, ...]] = set()
    longest = 0
    for row in ordered:
        apart, width = distinct | {tuple(prompts[row])}, max(longest, len(completions[row]))
        read = len(apart) * len(prompts[row]) + (len(group) + 1) * width if shares else (len(group) + 1) * size(row)
        if group and read > max_tokens:
            yield group
            group, apart, width = [], {tuple(prompts[row])}, len(completions[row])
        group.append(row)
        distinct, longest = apart, width
    yield group
