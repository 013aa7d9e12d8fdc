"""Several examples in one row, each isolated from the others, and the batches made of such rows.

A packed row is told from a long document only by its position ids, which start again at 0 with every example; with no
attention mask and no KV cache, transformers builds the block-diagonal mask from them. Rows stay apart in the batch
(TRL's padding-free collator joins a whole batch into one row, whose mask is quadratically dearer on a CPU).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl.data_utils import pack_dataset

Example = tuple[list[int], list[int]]  # input ids, and labels: the same ids, or -100 where nothing is learnt


def padded_rows(examples: Sequence[Example], *, max_length: int) -> Dataset:
    """One row an example, cut at `max_length`. Columns as of `packed_rows`."""
    cut = [(ids[:max_length], labels[:max_length]) for ids, labels in examples]
    return Dataset.from_dict({"input_ids": [ids for ids, _ in cut], "labels": [labels for _, labels in cut],
                              "seq_lengths": [[len(ids)] for ids, _ in cut]})


def packed_rows(examples: Sequence[Example], *, max_length: int, split: bool) -> Dataset:
    """Rows of at most `max_length` tokens by best-fit decreasing: columns input_ids, labels, seq_lengths.

    An example longer than a row goes on in another row (`split=True`, for documents) or is cut (for solutions).
    """
    rows = Dataset.from_dict({"input_ids": [ids for ids, _ in examples], "labels": [labels for _, labels in examples]})
    return pack_dataset(rows, max_length, "bfd_split" if split else "bfd")


@dataclasses.dataclass(frozen=True)
class RowCollator:
    """Rows to a right-padded batch. Padding is an example of its own, so no real token attends to it."""

    pad_token_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """-> input_ids, labels, position_ids, each (rows, longest row).

        The first token of each example is predicted by nothing, so its label is -100.
        """
        longest = max(len(row["input_ids"]) for row in rows)
        input_ids, labels, position_ids = [], [], []
        for row in rows:
            padding = longest - len(row["input_ids"])
            input_ids.append([*row["input_ids"], *[self.pad_token_id] * padding])
            labels.append([*row["labels"], *[-100] * padding])
            lengths = [*row["seq_lengths"], *([padding] if padding else [])]
            position_ids.append([position for length in lengths for position in range(length)])
        positions = torch.tensor(position_ids)
        return {"input_ids": torch.tensor(input_ids),
                "labels": torch.tensor(labels).masked_fill(positions == 0, -100), "position_ids": positions}
