"""What reading a prompt once for all its completions saves: forward and backward passes of a trunk, in turns.

    python -m tests.bench.shared_prompts [--docs docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from alignment.models import load_policy
from alignment.origin import EMBEDDED
from reward import completion_states
from tests.bench.ppo import write_docs

ROWS, MAX_TOKENS, ROUNDS = 64, 4096, 5
CASES = ((30, 40, 4), (200, 40, 2), (200, 40, 4), (400, 60, 4), (400, 60, 8))  # prompt, completion, completions of each
MARK = "shared-prompts"


def milliseconds(once: Callable[[], None]) -> float:
    begun = time.perf_counter()
    once()
    return 1000 * (time.perf_counter() - begun)


def measure(prompt: int, completion: int, samples: int) -> str:
    draw, trunk = random.Random(0), load_policy(EMBEDDED).base_model

    def text(length: int) -> list[int]:
        return [draw.randrange(9, 900) for _ in range(length)]

    prompts = [row for _ in range(ROWS // samples) for row in [text(prompt)] * samples]
    completions = [text(draw.randint(completion // 2, completion)) for _ in range(ROWS)]

    def once() -> None:
        for rows in completion_states.batches(prompts, completions, range(ROWS), MAX_TOKENS):
            states = completion_states.completion_states(trunk, [prompts[row] for row in rows],
                                                         [completions[row] for row in rows])
            states.sum().backward()

    worth, times = completion_states.WORTH, {0.0: [], completion_states.WORTH: []}  # type: ignore[var-annotated]
    for _ in range(ROUNDS + 1):
        for limit, taken in times.items():
            completion_states.WORTH = limit
            taken.append(milliseconds(once))
    completion_states.WORTH = worth
    apart, shared = (statistics.median(taken[1:]) for taken in times.values())
    return (f"| {prompt} | {completion // 2}-{completion} | {samples} | {apart:.0f} | {shared:.0f} "
            f"| {apart / shared:.2f} |")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--docs", type=Path)
    asked = parser.parse_args(argv)
    lines = [f"{ROWS} completions, the embedded model, {torch.get_num_threads()} threads, medians of {ROUNDS}.", "",
             "| prompt | completion | of each prompt | by themselves, ms | as the trainers do, ms | ratio |",
             "|---|---|---|---|---|---|", *(measure(*case) for case in CASES)]
    print(*lines, sep="\n")
    if asked.docs:
        write_docs(asked.docs, "\n".join(lines), mark=MARK)


if __name__ == "__main__":
    main(sys.argv[1:])
