"""What share of the tokens that supervised fine-tuning computes on is any use: packed rows, and TRL's default.

    python -m tests.bench.packing [--docs docs/benchmarks.md]

Counts, and computes nothing: the embedded data's worked solutions, over one pass. TRL's default pads each batch, drawn
at random, to its longest example.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from alignment.models import load_tokenizer
from alignment.origin import EMBEDDED
from alignment.packing import packed_rows
from data.chat import render_conversation
from data.finance.generator import solution_text
from data.sources import open_source
from tests.bench.ppo import write_docs

EXAMPLES, BATCH, MAX_LENGTH = 800, 8, 256
FINANCE = {"source": "finance", "path": None, "languages": ["en", "zh"], "kinds": None, "seed": 0}
MARK = "packing"


def computed(lengths: Sequence[int], batch: int) -> int:
    """Tokens of all batches, padded to the longest row of each."""
    batches = [lengths[start:start + batch] for start in range(0, len(lengths), batch)]
    return sum(max(some) * len(some) for some in batches)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--docs", type=Path)
    asked = parser.parse_args(argv)
    tokenizer = load_tokenizer(EMBEDDED)
    questions = open_source(FINANCE).questions("train", count=EXAMPLES, seed=0)
    examples = [render_conversation(tokenizer, [{"role": "user", "content": question.prompt},
                                                {"role": "assistant", "content": solution_text(question)}])
                for question in questions if question.steps]
    lengths = [len(ids) for ids, _ in examples]
    rows = [len(ids) for ids in packed_rows(examples, max_length=MAX_LENGTH, split=False)["input_ids"]]
    draw = random.Random(0)
    draw.shuffle(lengths)
    draw.shuffle(rows)
    lines = ["| rows | of a batch | useful tokens | computed tokens | useful |", "|---|---|---|---|---|"]
    for name, tokens, batch in (("packed", rows, BATCH), ("one an example (TRL's default)", lengths, BATCH)):
        total = computed(tokens, batch)
        lines.append(f"| {name} | {batch} | {sum(tokens):,} | {total:,} | {sum(tokens) / total:.1%} |")
    print(*lines, sep="\n")
    if asked.docs:
        write_docs(asked.docs, "\n".join(lines), mark=MARK)


if __name__ == "__main__":
    main(sys.argv[1:])
