"""A batch shared out to the processes of a stage: the rows of each, and what they are of the whole.

Every process draws the batches that one alone would draw, in that order, and keeps its rows of each. A process's loss
is a mean over its rows, or their tokens, and gradients are averaged over processes; weighted by `Part`, that average is
the mean over all rows of the optimizer step, also where they are not equally many for each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from alignment.group import Group

Row = dict[str, Any]
SHARE = "share"  # a batch's key


@dataclasses.dataclass(frozen=True)
class Part:
    """What the mean over one process's rows, and over their tokens, has to be multiplied by."""

    rows: float = 1.0
    tokens: float = 1.0


@dataclasses.dataclass(frozen=True)
class Share:
    """(this process's, all) rows and tokens of one forward pass."""

    rows: tuple[int, int]
    tokens: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class ShareCollator:
    """Rows of a whole batch to a batch of this process's. Where it has none it gets one that counts for nothing."""

    collate: Callable[[Sequence[Row]], dict[str, Any]]
    group: Group
    tokens: Callable[[Row], int] | None  # that a loss is a mean over; None where the batch has labels, which say it

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        mine = self.group.mine(rows)
        batch = self.collate(mine or rows[:1])
        if self.tokens is None:
            if not mine:
                labels: Tensor = batch["labels"]
                labels.fill_(-100)
        else:
            counts = [sum(map(self.tokens, some)) for some in (mine, rows)]
            batch[SHARE] = Share((len(mine), len(rows)), (counts[0], counts[1]))
        return batch


def parts(batches: Sequence[dict[str, Any]], group: Group) -> list[Part]:
    """The part of each of an optimizer step's batches; takes their `share` out."""
    shares: list[Share] = [batch.pop(SHARE) for batch in batches if SHARE in batch]
    rows, tokens = sum(share.rows[1] for share in shares), sum(share.tokens[1] for share in shares)
    whole = group.size * len(shares)  # the trainer divides by their number, and so do the processes together
    return [Part(share.rows[0] * whole / rows, share.tokens[0] * whole / tokens) for share in shares]
