"""What a model finds likely, teacher-forced: sums of log-probabilities, and whether a text is its greedy continuation.

One forward pass per batch of like lengths, right-padded (causal attention never sees the padding). Knows tokens and
labels, not where they come from.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from alignment.group import ONE, Group
from data.chat import IGNORED
from reward.completion_states import READ_TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LabelledRow = tuple[Sequence[int], Sequence[int]]  # input_ids and labels, of one length; -100 = only context


@dataclasses.dataclass(frozen=True, slots=True)
class Likelihood:
    """Of the labelled tokens of one row."""

    logprob: float  # sum, natural logarithm
    num_tokens: int
    runs: tuple[bool, ...]  # per unbroken run of labelled tokens: would greedy decoding have written exactly it?


    def numbers(self) -> list[float]:
        return [self.logprob, self.num_tokens, len(self.runs), *self.runs]


def likelihoods(model: PreTrainedModel, rows: Sequence[LabelledRow], *, max_tokens: int = READ_TOKENS,
                group: Group = ONE) -> list[Likelihood]:
    """One result a row, in order; a batch holds at most `max_tokens` tokens, padding included. The processes of a
    `group` share the batches out."""
    order = sorted(range(len(rows)), key=lambda row: len(rows[row][0]), reverse=True)
    batches = []
    while order:
        size = max(1, max_tokens // len(rows[order[0]][0]))
        batches.append(order[:size])
        order = order[size:]
    was_training = model.training
    model.eval()
    read = group.share_out(batches, lambda batch: [
        number for each in _batch(model, [rows[row] for row in batch]) for number in each.numbers()])
    model.train(was_training)
    results: dict[int, Likelihood] = {}
    for batch, numbers in zip(batches, map(iter, read), strict=True):
        for row in batch:
            logprob, num_tokens, runs = next(numbers), int(next(numbers)), int(next(numbers))
            results[row] = Likelihood(logprob, num_tokens, tuple(bool(next(numbers)) for _ in range(runs)))
    return [results[row] for row in range(len(rows))]


@torch.inference_mode()
def _batch(model: PreTrainedModel, rows: Sequence[LabelledRow]) -> list[Likelihood]:
    width = max(len(ids) for ids, _ in rows)
    input_ids = torch.zeros((len(rows), width), dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED)
    for number, (ids, targets) in enumerate(rows):
        input_ids[number, :len(ids)] = torch.tensor(ids)
        labels[number, :len(targets)] = torch.tensor(targets)
    input_ids, labels = input_ids.to(model.device), labels.to(model.device)
    logits = model(input_ids=input_ids, use_cache=False).logits[:, :-1].float()  # (B, T-1, V)
    targets_next = labels[:, 1:]  # (B, T-1)
    counted = targets_next != IGNORED
    wanted = targets_next.clamp_min(0)
    logprobs = logits.gather(-1, wanted[..., None])[..., 0] - logits.logsumexp(-1)  # (B, T-1)
    sums = (logprobs * counted).double().sum(1)
    likeliest = (logits.argmax(-1) == wanted).tolist()
    return [Likelihood(total, sum(used), tuple(runs(used, hits))) for total, used, hits in
            zip(sums.tolist(), counted.tolist(), likeliest, strict=True)]


def runs(counted: Sequence[bool], hits: Sequence[bool]) -> list[bool]:
    """For each unbroken run of counted places, whether all of them are hits."""
    return [all(hit for _, hit in run) for used, run
            in itertools.groupby(zip(counted, hits, strict=True), key=lambda place: place[0]) if used]
