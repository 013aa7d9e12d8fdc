"""What a run would cost, to be read: a line a stage, and the disk it needs against what is free."""

from __future__ import annotations

import dataclasses
import heapq
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from alignment.display import clock
from alignment.footprint import MIB
from alignment.forecast import Forecast

COLUMNS = ("stage", "work", "optimizer steps", "tokens", "memory", "disk", "last time")
EXPLAINED = ("Work, steps and tokens are the most there can be: the data may have fewer rows, a stage may stop early.",
             "Memory is an estimate of the process's peak; disk is what stays, and + what goes when the stage is done.")


@dataclasses.dataclass(frozen=True)
class Costs:
    """Of the stages that would run, `workers` of them at a time, into `folder`."""

    stages: Sequence[Forecast]
    folder: Path
    workers: int

    @property
    def kept(self) -> float:
        """MiB of artifacts."""
        return sum(stage.artifact or 0.0 for stage in self.stages)

    @property
    def passing(self) -> float:
        """MiB of checkpoints, which go when their stage is done."""
        return sum(heapq.nlargest(self.workers, (stage.checkpoints or 0.0 for stage in self.stages)))

    @property
    def free(self) -> float:
        """MiB."""
        place = self.folder.resolve()
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free / MIB

    @property
    def fits(self) -> bool:
        return self.kept + self.passing <= self.free

    def disk(self) -> str:
        """The need and the room, in one sentence without its end."""
        return (f"the stages need {amount(self.kept)} of disk, and up to {amount(self.passing)} more while they run; "
                f"{amount(self.free)} are free")

    def table(self, last: Mapping[str, float]) -> list[str]:
        """A line a stage under a heading, and the total. `last`: stage -> seconds it took before."""
        rows = [COLUMNS, *(line(stage, last.get(stage.stage)) for stage in self.stages)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines += ["", *EXPLAINED, f"Together {self.disk()}."]
        return lines if self.fits else [*lines, f"WARNING: this does not fit on the disk of {self.folder}"]


def line(stage: Forecast, seconds: float | None) -> tuple[str, ...]:
    work = stage.work
    tokens = [f"{short(count)} {what}" for count, what in ((work.trained, "trained on"), (work.generated, "generated"))
              if count]
    disk = amount(stage.artifact) + (f" + {amount(stage.checkpoints)}" if stage.checkpoints else "")
    return (stage.stage, work.text, f"{work.steps:,}" if work.steps else "", ", ".join(tokens),
            amount(stage.memory), disk, "" if seconds is None else f"took {clock(seconds)}")


def short(count: int) -> str:
    """950, 27k, 1.3M, 2.4B."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if count >= size:
            return f"{count / size:.1f}{letter}" if letter != "k" else f"{count / 1000:.0f}k"
    return str(count)


def amount(mib: float | None) -> str:
    """0.4 MiB, 61 MiB, 15.3 GiB; `unknown` where it is not known."""
    if mib is None:
        return "unknown"
    if mib >= 10240:
        return f"{mib / 1024:,.1f} GiB"
    return f"{mib:,.0f} MiB" if mib >= 10 else f"{mib:.1f} MiB"
