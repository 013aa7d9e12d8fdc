"""One engine in each process of a stage: prompts shared out, completions gathered, so that all have all of them.

What is shared out are whole batches as the engine itself would make them, so that a completion is the same to the last
bit however many processes there are. vLLM makes its batches as it goes; it gets an equal share in each process. Servers
are asked by the leading process alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignment.group import Group
from alignment.rollout.engine import Engine, Generation, Sampling
from alignment.rollout.requests import check_requests, shortest_first

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Requests = tuple[Sequence[Sequence[int]], Sequence[int]]  # prompts and seeds
REASONS = ("length", "stop")


class SharedEngine:
    """The engines of a group's processes as one; each process must make the same calls."""

    def __init__(self, engine: Engine | None, group: Group, *, max_length: int, batch_size: int | None,
                 name: str) -> None:
        """`batch_size`: prompts that the engine takes at once, None where it decides that as it goes. `engine`: None in
        all processes but the first where that one's serves all."""
        self.engine, self.group, self.max_length, self.batch_size = engine, group, max_length, batch_size
        self.name, self.led = name, name == "server"

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]) -> list[Generation]:
        check_requests(prompts, seeds, self.max_length)
        order = shortest_first(prompts)
        size = len(order) if self.led else self.batch_size or math.ceil(len(order) / self.group.size)
        pieces = [order[start:start + size] for start in range(0, len(order), size)]
        requests = [([prompts[row] for row in rows], [seeds[row] for row in rows]) for rows in pieces]
        found: dict[int, Generation] = {}
        for rows, generations in zip(pieces, shared_out(self.engine, self.group, requests, sampling), strict=True):
            found.update(zip(rows, generations, strict=True))
        return [found[row] for row in range(len(prompts))]

    def push(self, model: PreTrainedModel) -> None:
        if self.engine is not None:
            self.engine.push(model)

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()


def shared_out(engine: Engine | None, group: Group, requests: Sequence[Requests],
               sampling: Sampling) -> list[list[Generation]]:
    """What `engine` makes of each of several calls, in order; each call is made by one process."""
    def generated(call: Requests) -> list[float]:
        assert engine is not None
        return as_numbers(engine.generate(call[0], sampling, call[1]))

    made = group.share_out(requests, generated)
    return [as_generations(numbers) for numbers in made]


def as_numbers(generations: Sequence[Generation]) -> list[float]:
    """Each as its length, its end, its tokens and their log-probabilities; a double holds any of them exactly."""
    return [number for each in generations for number in (
        len(each.token_ids), REASONS.index(each.finish_reason), *each.token_ids, *each.logprobs)]


def as_generations(numbers: Sequence[float]) -> list[Generation]:
    found, place = [], 0
    while place < len(numbers):
        length, reason = int(numbers[place]), REASONS[int(numbers[place + 1])]
        tokens, logprobs = place + 2, place + 2 + length
        place = logprobs + length
        found.append(Generation([int(token) for token in numbers[tokens:logprobs]], list(numbers[logprobs:place]),
                                reason))
    return found
