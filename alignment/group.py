"""The processes of a stage as one group: what all have counted, and what each has made.

One process is a group of one, to which every call gives back what it gave. Numbers travel as tensors: on the CPU by
gloo, on GPUs by NCCL. Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from alignment.stage import Stage

Item = TypeVar("Item")
PATIENCE = datetime.timedelta(hours=2)  # one process may save or measure while the others wait
BUCKET = 1 << 26  # elements summed at once: bounds the copy that is made of them


@dataclasses.dataclass(frozen=True)
class Group:
    """`size` processes, of which this one is number `rank`."""

    rank: int = 0
    size: int = 1

    @classmethod
    def of(cls, stage: Stage) -> Group:
        return cls(stage.rank, stage.layout.world)

    def mine(self, items: Iterable[Item]) -> list[Item]:
        """This process's share of what all of them have in the same order."""
        return [item for number, item in enumerate(items) if number % self.size == self.rank]

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its sum over the processes, which all of them get to the last bit alike."""
        if self.size == 1:
            return
        for alike in buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            dist.all_reduce(flat)
            for tensor, part in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replaces gradients by their sums; a process that had no part in one adds nothing to it."""
        if self.size > 1:
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            self.add([parameter.grad for parameter in parameters if parameter.grad is not None])

    def any(self, flag: bool) -> bool:
        """Whether it is so in any of them."""
        count = torch.tensor(float(flag))
        self.add([count])
        return bool(count)

    def wait(self) -> None:
        """Until all of them have come here."""
        self.any(False)

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """The numbers of each process, in their order; they need not be equally many."""
        if self.size == 1:
            return [list(values)]
        counts = torch.zeros(self.size)
        counts[self.rank] = len(values)
        self.add([counts])
        padded = torch.zeros(int(counts.max()), dtype=torch.float64)
        padded[:len(values)] = torch.tensor(values, dtype=torch.float64)
        found = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(found, padded)
        return [each[:int(count)].tolist() for each, count in zip(found, counts, strict=True)]

    def share_out(self, pieces: Sequence[Item], work: Callable[[Item], list[float]]) -> list[list[float]]:
        """What `work` makes of each piece, in order. Each piece is the work of one process; all get the whole."""
        done = [work(piece) for piece in self.mine(pieces)]
        if self.size == 1:
            return done
        lengths = self.gather([len(each) for each in done])
        numbers = self.gather([number for each in done for number in each])
        cut = [iter(torch.tensor(all_of, dtype=torch.float64).split([int(length) for length in counts]))
               for all_of, counts in zip(numbers, lengths, strict=True)]
        return [next(cut[number % self.size]).tolist() for number in range(len(pieces))]


ONE = Group()


def buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """The tensors in runs of one type on one device, each of about `BUCKET` elements at most."""
    found: list[list[Tensor]] = []
    open_ones: dict[tuple[torch.dtype, torch.device], tuple[list[Tensor], int]] = {}
    for tensor in tensors:
        kind = (tensor.dtype, tensor.device)
        bucket, size = open_ones.get(kind, ([], BUCKET))
        if size + tensor.numel() > BUCKET:
            bucket, size = [], 0
            found.append(bucket)
        bucket.append(tensor)
        open_ones[kind] = (bucket, size + tensor.numel())
    return found


def join() -> None:
    """Makes this process one of the group that its launcher has told it of (alignment/ranks.py)."""
    gpu = torch.cuda.is_available()
    if not gpu:  # Accelerate says cpu:1, which torch does not know where it reads an optimizer's state
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=PATIENCE)


def stand_alone() -> None:
    """From now on Accelerate, should it look, takes this process for the only one: where a stage shares out its work
    itself, and every process goes through a trainer's steps as one would alone."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)


def leave() -> None:
    """Parts from the group, where this process is still in one: vLLM, closing, takes it away."""
    if dist.is_initialized():
        dist.destroy_process_group()
