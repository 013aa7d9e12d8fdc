"""The completions of one PPO iteration as tensors: what is known of each token, and a trunk's states before it.

Knows no reward, no optimizer and no config.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from alignment import losses
from reward.completion_states import batches, completion_states


@dataclasses.dataclass
class Batch:
    """The B completions of one iteration, and what was computed about each of their tokens.

    Tensors are (B, T), T the longest completion, valid where `mask` is True. Token t of a completion is the action
    taken in the state after the prompt and the tokens before it.
    """

    prompts: list[list[int]]
    completions: list[list[int]]
    lengths: Tensor  # (B,)
    mask: Tensor
    engine_logprobs: Tensor  # by whom the tokens were drawn
    old_logprobs: Tensor  # by the trainer's own forward pass, before the update
    reference_logprobs: Tensor
    kl: Tensor  # of the policy to the reference, as the penalty counts it
    old_values: Tensor
    advantages: Tensor
    returns: Tensor
    step_rewards: Tensor | None = None  # what process rewards pay at each token, where there are any

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], device: torch.device) -> Batch:
        lengths = torch.tensor([len(tokens) for tokens in completions], device=device)
        mask = losses.length_mask(lengths, int(lengths.max()))
        return cls([list(prompt) for prompt in prompts], [list(tokens) for tokens in completions], lengths, mask,
                   *(torch.zeros(mask.shape, device=device) for _ in range(7)))

    def micro_batches(self, rows: Sequence[int], max_tokens: int,
                      trunk: nn.Module | None = None) -> Iterator[list[int]]:
        """`rows` in groups that `trunk` reads together, each at most `max_tokens` tokens with padding (or one row)."""
        return batches(self.prompts, self.completions, rows, max_tokens, trunk=trunk)

    def states(self, trunk: nn.Module, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The trunk's states (N, D) before each of the rows' N completion tokens, and those tokens (N,), row by row."""
        completions = [self.completions[row] for row in rows]
        states = completion_states(trunk, [self.prompts[row] for row in rows], completions)[:, :-1]
        mask = losses.length_mask(self.lengths[list(rows)], states.shape[1])
        return states[mask], torch.tensor([token for tokens in completions for token in tokens], device=mask.device)

    def trust(self, rows: Sequence[int]) -> Tensor:
        """(N, 2) before each of the rows' tokens: the reference's probability of the least likely token so far, and of
        all tokens so far; both 1 before the first."""
        before = self.reference_logprobs[list(rows)].roll(1, dims=1)  # (b, T)
        before[:, 0] = 0.0
        return torch.stack([before.cummin(dim=1).values, before.cumsum(dim=1)], dim=-1).exp()[self.mask[list(rows)]]

    def tokens(self, values: Tensor, rows: Sequence[int]) -> Tensor:
        """What `values` (B, T) says of the rows' tokens, (N,), in the order of `states`."""
        return values[list(rows)][self.mask[list(rows)]]

    def fill(self, values: Tensor, rows: Sequence[int], tokens: Tensor) -> None:
        """Writes the rows' tokens (N,) into `values` (B, T)."""
        values[list(rows)] = values[list(rows)].masked_scatter(self.mask[list(rows)], tokens)
