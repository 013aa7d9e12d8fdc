"""Checkpoints of a stage under way, in its scratch: a folder each, which counts only once its marker is written.

`checkpoint-12` is of step 12; so is `checkpoint-12.1`, of the attempt that began when the stage first went back.
"""

from __future__ import annotations

import shutil
import signal
import types
from collections.abc import Collection
from pathlib import Path
from typing import Self

CHECKPOINTS = "checkpoints"  # folder inside the stage's scratch
MARKER = "COMPLETE"  # the last file written into a checkpoint
KEPT = 2  # the last ones


def age(checkpoint: Path) -> tuple[int, int]:
    """(attempt, step): larger is later."""
    step, _, attempt = checkpoint.name.rpartition("-")[2].partition(".")
    return int(attempt or 0), int(step)


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints that were written to the end, oldest first."""
    return sorted((path.parent for path in folder.glob(f"checkpoint-*/{MARKER}")), key=age)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest that was written to the end."""
    return next(reversed(complete_checkpoints(folder)), None)


def delete_broken(folder: Path) -> None:
    """Deletes those that a kill cut short."""
    for broken in set(folder.glob("checkpoint-*")) - set(complete_checkpoints(folder)):
        shutil.rmtree(broken)


def delete_undone(folder: Path) -> None:
    """Deletes those of steps that a later attempt has gone back beyond."""
    complete = complete_checkpoints(folder)
    for checkpoint in complete:
        attempt, step = age(checkpoint)
        if any(later > attempt and back < step for later, back in map(age, complete)):
            _delete(checkpoint)


def begin_checkpoint(folder: Path, step: int, *, attempt: int = 0) -> Path:
    """An empty folder to write the checkpoint of `step` into; then call `end_checkpoint`."""
    made = folder / (f"checkpoint-{step}.{attempt}" if attempt else f"checkpoint-{step}")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    return made


def end_checkpoint(made: Path, *, needed: Collection[int] = ()) -> None:
    """From now on the checkpoint counts; all but the last `KEPT` and those of the steps that are `needed` go."""
    (made / MARKER).touch()
    for old in complete_checkpoints(made.parent)[:-KEPT]:
        if age(old)[1] not in needed:
            _delete(old)


def _delete(checkpoint: Path) -> None:
    (checkpoint / MARKER).unlink()  # first, so that what is half deleted does not count
    shutil.rmtree(checkpoint)


class Termination:
    """Inside `with`: whether SIGTERM has come, which asks for a checkpoint of the step it came in."""

    asked = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _ask(self, number: int, frame: types.FrameType | None) -> None:
        self.asked = True
