"""What process rewards pay, from characters of a completion's text to the tokens that were sampled.

A span's score is paid at the token that completed its last character. Sampled text is never tokenised again: places
are found by decoding the sampled ids up to a token, so that pieces of a character, special tokens and odd segmentations
fall where they were drawn. Knows no config and no reward.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from data.schema import Completion
from reward import Span

MAX_BYTES = 4  # of a character in UTF-8


def last_token(tokenizer: PreTrainedTokenizerBase, completion: Completion, end: int) -> int:
    """The place, in the completion's `token_ids`, of the token with which its first `end` characters stand.

    By bisection over the number of tokens; `data.chat.token_offsets` is the slow twin. A token more can undo what
    stood: where a character is written byte by byte, some decoders show the whole run of bytes as broken until its last
    byte is there. So what stood at one of the last few tokens stands.
    """
    ids = list(completion.token_ids[:-1] if completion.finish_reason == "stop" else completion.token_ids)
    wanted = completion.text[:end]

    def stood(count: int) -> bool:
        return any(str(tokenizer.decode(ids[:few])).startswith(wanted)
                   for few in range(count, max(0, count - MAX_BYTES), -1))

    return bisect.bisect_left(range(1, len(ids)), True, key=stood)


@dataclasses.dataclass(frozen=True)
class Steps:
    """The process rewards of B completions, (B, T) with T the longest: `rewards` at the tokens where steps end, all of
    a token's in one, and where those tokens are."""

    rewards: Tensor
    ends: Tensor  # True where a step ends, whatever it is paid

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, completions: Sequence[Completion],
           spans: Sequence[Sequence[Span]], device: torch.device) -> Steps | None:
        """`spans[i]` are of `completions[i]`; None where there are none at all."""
        if not any(spans):
            return None
        rewards = torch.zeros(len(completions), max(len(completion.token_ids) for completion in completions))
        ends = torch.zeros_like(rewards, dtype=torch.bool)
        for row, (completion, found) in enumerate(zip(completions, spans, strict=True)):
            places = {end: last_token(tokenizer, completion, end) for end in {span.end for span in found}}
            for span in found:
                rewards[row, places[span.end]] += span.score
                ends[row, places[span.end]] = True
        return cls(rewards.to(device), ends.to(device))

    def scaled(self, factor: float) -> Steps:
        return Steps(self.rewards * factor, self.ends)
