"""Models for tests that answer a judge's requests by a script, reading what they are asked as a real one would."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from collections.abc import Callable, Sequence

from reward.judge import Reply, Request

Answer = Callable[[dict[str, str], Request], str]


def fields(request: Request) -> dict[str, str]:
    """The texts in the places of a prompt, by name."""
    text = request.messages[-1]["content"]
    found = re.findall(r"^<(\w+) ([0-9a-f]{12})>\n(.*?)\n</\1 \2>$", text, re.DOTALL | re.MULTILINE)
    return {name: content for name, _, content in found}


@dataclasses.dataclass
class Scripted:
    """A `Complete` that answers by a function of what it was asked; it remembers all it was asked."""

    answer: Answer
    seen: list[Request] = dataclasses.field(default_factory=list)

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        self.seen += requests
        replies = []
        for request in requests:
            said = self.answer(fields(request), request)
            if request.options:
                replies.append(Reply("", {option: 0.9 if option == said else 0.1 for option in request.options}, 10, 1))
            else:
                replies.append(Reply(said, {}, 10, 2))
        return replies


def says(**values: str | int) -> str:
    return json.dumps({"justification": "as scripted", **values})


def better(a: float, b: float) -> str:
    """The side of more merit."""
    return "A" if a > b else "B" if b > a else "tie"


def by_merit(merit: Callable[[str], float]) -> Answer:
    """Prefers the solution of more merit, on every principle."""
    def answer(asked: dict[str, str], request: Request) -> str:
        side = better(merit(asked["solution_a"]), merit(asked["solution_b"]))
        assert request.schema is not None
        return says(**{name: side for name in request.schema["properties"] if name != "justification"})
    return answer


def always(side: str) -> Answer:
    """Goes by the place of an answer and never reads it."""
    def answer(asked: dict[str, str], request: Request) -> str:
        assert request.schema is not None
        return says(**{name: side for name in request.schema["properties"] if name != "justification"})
    return answer


def at_random(seed: int) -> Answer:
    draw = random.Random(seed)

    def answer(asked: dict[str, str], request: Request) -> str:
        return always(draw.choice(["A", "B", "tie"]))(asked, request)
    return answer
