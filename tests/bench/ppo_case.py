"""What the contenders of tests/bench/ppo.py are given, the same for each: sizes of models, prompts, lengths, and how
they are asked for a step. Imports nothing but the standard library, since each runs in an environment of its own.
"""

from __future__ import annotations

import dataclasses
import json
import random
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROMPT, LIMIT = 64, 64  # tokens of a prompt, and of a completion at most
RAGGED = 0.4  # of the limit: the mean length of completions that end
ANSWER = "@ "  # before a line that is meant for the one who asked


@dataclasses.dataclass(frozen=True)
class Size:
    """A Llama with tied embeddings; `batch` completions an iteration."""

    name: str
    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    batch: int

    @property
    def body(self) -> int:
        """Weights of the layers' matrices, each of which every token meets once."""
        return self.layers * (4 * self.width**2 + 3 * self.width * self.inner)

    @property
    def parameters(self) -> int:
        return self.body + self.vocabulary * self.width + (2 * self.layers + 1) * self.width

    def config(self, **settings: Any) -> dict[str, Any]:
        """Of a transformers LlamaConfig."""
        return {"vocab_size": self.vocabulary, "hidden_size": self.width, "intermediate_size": self.inner,
                "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
                "num_key_value_heads": self.heads, "max_position_embeddings": 2 * (PROMPT + LIMIT),
                "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0, **settings}


SIZES = {size.name: size for size in (
    Size("0.7M", vocabulary=1024, width=128, inner=320, layers=3, heads=4, batch=64),
    Size("104M", vocabulary=24576, width=768, inner=2048, layers=12, heads=12, batch=16))}


@dataclasses.dataclass(frozen=True)
class Case:
    """One workload. Completions are all as long as the limit, or, `ragged`, end at `RAGGED` of it on average: a random
    model finds all tokens about as likely, so that this share of them as ends gives that length."""

    size: Size
    ragged: bool
    precision: str = "fp32"

    @property
    def ends(self) -> list[int]:
        """The tokens that end a completion."""
        if not self.ragged:
            return []
        low, high = 0.0, 1.0  # the share of tokens p with (1 - (1 - p)^limit) / p tokens on average
        for _ in range(60):
            share = (low + high) / 2
            low, high = (share, high) if (1 - (1 - share)**LIMIT) / share > RAGGED * LIMIT else (low, share)
        return list(range(1, 1 + max(1, round(share * self.size.vocabulary))))

    def prompts(self, step: int) -> list[list[int]]:
        """Of an iteration, all of one length, from the upper half of the vocabulary."""
        draw = random.Random(step)
        return [[draw.randrange(self.size.vocabulary // 2, self.size.vocabulary) for _ in range(PROMPT)]
                for _ in range(self.size.batch)]

    def to_json(self) -> str:
        return json.dumps({"size": self.size.name, "ragged": self.ragged, "precision": self.precision})

    @classmethod
    def of_json(cls, text: str) -> Case:
        value = json.loads(text)
        return cls(SIZES[value["size"]], value["ragged"], value["precision"])


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def tell(**found: Any) -> None:
    """On a line of its own, also where a library's thread is in the middle of one."""
    print("\n" + ANSWER + json.dumps(found), flush=True)


def serve(answer: Callable[[str], dict[str, Any]]) -> None:
    """Answers the lines of stdin until it ends."""
    tell(ready=True)
    for line in sys.stdin:
        tell(**answer(line.strip()), peak_mib=peak_mib())


def work_of(argv: list[str]) -> tuple[Case, Path, list[str]]:
    """(case, folder of the random-weight models, further arguments) of a contender's command line."""
    return Case.of_json(argv[0]), Path(argv[1]), argv[2:]
