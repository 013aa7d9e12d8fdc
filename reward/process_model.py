"""A process reward model: a reward model's trunk and features, asked of every step whether it is right.

What a step's logit is made of, `features`, is as in reward/model.py, of the step in the place of the completion: h at
the step's last token, the sum over the step's tokens, its worst token. A step is a line; the end token belongs to the
last one. The module knows no stage and no trainer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from data.chat import completion_ids, render_prompt, token_offsets
from data.schema import Completion, Question
from data.tokenizer import read_tokenizer
from reward import Scores, Span
from reward.completion_states import READ_TOKENS
from reward.model import RewardModel, fingerprint
from reward.steps import steps_of


class ProcessRewardModel(RewardModel):
    """Scores the steps of (prompt, completion) rows: a logit each, above 0 where the step is rather right."""

    head_files = ("process.json", "process.safetensors")
    made = "process reward model"

    def forward(self, input_ids: Tensor, step_numbers: Tensor) -> Tensor:  # type: ignore[override]
        """(rows, length) ids, and the number of the step that each token belongs to, 0 of none -> (rows, most steps)
        logits; of a step that a row has not 0.
        """
        hidden = self.trunk.base_model(input_ids=input_ids, use_cache=False).last_hidden_state  # (B, T, D)
        count = int(step_numbers.max())
        places = torch.arange(input_ids.size(1), device=input_ids.device).expand_as(step_numbers)
        empty = torch.zeros((input_ids.size(0), count + 1), device=input_ids.device)  # column 0: of no step
        last = empty.long().scatter_reduce(1, step_numbers, places, "amax")[:, 1:]  # (B, S)
        there = empty.scatter_reduce(1, step_numbers, torch.ones_like(places, dtype=empty.dtype), "amax")[:, 1:]
        ends = hidden.gather(1, last[..., None].expand(-1, -1, hidden.size(-1)))  # (B, S, D)
        scores = ends.float() @ self.direction + self.offset
        if self.features != "scalar":
            numbers = step_numbers[:, 1:]
            tokens = self._token_scores(hidden[:, :-1], input_ids[:, 1:], numbers > 0)  # (B, T-1)
            scores = scores + self.token_weight * empty.scatter_add(1, numbers, tokens)[:, 1:]
            if self.features == "regret":
                worst = empty.scatter_reduce(1, numbers, tokens, "amin")  # regrets are <= 0, so the 0s never win
                scores = scores + self.worst_weight * worst[:, 1:]
        return scores * there

    @torch.no_grad()
    def step_logits(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]],
                    numbers: Sequence[Sequence[int]], *, max_tokens: int = READ_TOKENS) -> list[list[float]]:
        """The logits of each row's steps. `numbers`: of each completion token, the number of its step.

        Rows of like length share a batch of at most `max_tokens` tokens.
        """
        lengths = [len(prompt) + len(completion) for prompt, completion in zip(prompts, completions, strict=True)]
        order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
        found: list[list[float]] = [[] for _ in lengths]
        was_training, start = self.training, 0
        self.eval()
        while start < len(order):
            batch = order[start:start + max(1, max_tokens // max(1, lengths[order[start]]))]
            start += len(batch)
            batch = [row for row in batch if any(numbers[row])]
            if batch:
                ids, steps = pad_steps([(prompts[row], completions[row], numbers[row]) for row in batch])
                logits = self(ids.to(self.device), steps.to(self.device)).float().cpu()
                for row, values in zip(batch, logits.tolist(), strict=True):
                    found[row] = values[:max(numbers[row])]
        self.train(was_training)
        return found


StepRow = tuple[Sequence[int], Sequence[int], Sequence[int]]  # prompt ids, completion ids, a step number each of these


def pad_steps(rows: Sequence[StepRow]) -> tuple[Tensor, Tensor]:
    """Rows -> ids and step numbers, (rows, longest), padded on the right with 0."""
    longest = max(len(prompt) + len(completion) for prompt, completion, _ in rows)
    ids, steps = (torch.zeros((len(rows), longest), dtype=torch.long) for _ in range(2))
    for row, (prompt, completion, numbers) in enumerate(rows):
        end = len(prompt) + len(completion)
        ids[row, :end] = torch.tensor([*prompt, *completion], dtype=torch.long)
        steps[row, len(prompt):end] = torch.tensor(numbers, dtype=torch.long)
    return ids, steps


def number_steps(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], steps: Sequence[str]) -> list[int]:
    """Of each token of a completion, the number of the step, from 1, that its last character stands in; 0 beyond the
    `steps`, which are those of its text or the first of them."""
    ends = [sum(map(len, steps[:count + 1])) for count in range(len(steps))]
    spans = token_offsets(tokenizer, ids)
    numbers = [next((number for number, bound in enumerate(ends, start=1) if max(start, end - 1) < bound), 0)
               for start, end in spans]
    if ends and spans and ids[-1] == tokenizer.eos_token_id and spans[-1][0] == ends[-1]:
        numbers[-1] = len(steps)  # the end token
    return numbers


def whole_steps(completion: Completion) -> list[str]:
    """The steps of a completion; a line that was cut off is none yet."""
    steps = steps_of(completion.text)
    return steps[:-1] if completion.finish_reason == "length" and not completion.text.endswith("\n") else steps


class ProcessReward:
    """A process reward model as a `Reward`: of a completion's n steps each is paid, where its line ends, the
    probability that it is right, over n. So no completion earns more by having more steps.

    Sampled token ids are scored as they are where the policy's tokenizer is the model's own; otherwise the text is
    tokenised anew.
    """

    def __init__(self, model: ProcessRewardModel, tokenizer: PreTrainedTokenizerBase,
                 policy_tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.same_ids = policy_tokenizer is not None and fingerprint(policy_tokenizer) == fingerprint(tokenizer)

    @classmethod
    def load(cls, folder: str | Path, policy_tokenizer: PreTrainedTokenizerBase | None = None, *,
             device: str | torch.device = "cpu", dtype: str = "float32") -> ProcessReward:
        model = ProcessRewardModel.load(folder, dtype=dtype).to(device)
        return cls(model, read_tokenizer(Path(folder)), policy_tokenizer)

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
        steps = [whole_steps(completion) for completion in completions]
        ids = [self._ids(completion) for completion in completions]
        numbers = [number_steps(self.tokenizer, *each) for each in zip(ids, steps, strict=True)]
        logits = self.model.step_logits([render_prompt(self.tokenizer, question) for question in questions], ids,
                                        numbers)
        spans = [spans_of(*each) for each in zip(steps, logits, strict=True)]
        return Scores(total=[0.0] * len(completions), spans=spans)

    def _ids(self, completion: Completion) -> Sequence[int]:
        if self.same_ids and completion.token_ids:
            return completion.token_ids
        return completion_ids(self.tokenizer, completion.text, completion.finish_reason == "stop")


def spans_of(steps: Sequence[str], logits: Sequence[float]) -> list[Span]:
    """A span for each step: its line, without the line break."""
    starts = [sum(map(len, steps[:count])) for count in range(len(steps))]
    return [Span(start, start + max(1, len(step.rstrip("\n"))), 1 / (1 + math.exp(-logit)) / len(steps))
            for start, step, logit in zip(starts, steps, logits, strict=True)]
