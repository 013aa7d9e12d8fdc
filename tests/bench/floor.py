"""The least that an iteration of PPO can take: its operations on real tokens over the machine's measured matmul rate.

Counted are multiplications and additions of the matrices and of attention, forwards once and backwards twice, on the
tokens there are: no padding, logits at completions alone, nothing read twice.
"""

from __future__ import annotations

import statistics
import time

import torch

from tests.bench.ppo_case import PROMPT, Size

SIDE, TRIALS = 2048, 9  # of the square matrices


def forward(size: Size, lengths: list[int], *, head: bool) -> float:
    """Operations of reading each prompt with its completion, and of the logits at the completion's tokens."""
    total = 0.0
    for length in lengths:
        tokens = PROMPT + length
        total += 2 * size.body * tokens + 2 * size.layers * size.width * tokens**2  # causal: half of each square
        total += 2 * size.vocabulary * size.width * length if head else 0
    return total


def iteration(size: Size, lengths: list[int], *, epochs: int = 1) -> dict[str, float]:
    """Operations of each part: policy generates, reward model scores, policy, reference and critic are read, policy and
    critic are updated."""
    plain, with_head = forward(size, lengths, head=False), forward(size, lengths, head=True)
    return {"generate": with_head, "score": plain, "logprobs": 2 * with_head + plain,
            "update": 3 * epochs * (with_head + plain)}


def matmul_rate(precision: str) -> float:
    """Operations a second of a large product, the median of several."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    left @ right
    rates = []
    for _ in range(TRIALS):
        started = time.perf_counter()
        left @ right
        rates.append(2 * SIDE**3 / (time.perf_counter() - started))
    return statistics.median(rates)
