"""Checkpoints of a stage under way, in its scratch: a folder each, which counts only once its marker is written."""

from __future__ import annotations

import shutil
import signal
import types
from pathlib import Path
from typing import Self

CHECKPOINTS = "checkpoints"  # folder inside the stage's scratch
MARKER = "COMPLETE"  # the last file written into a checkpoint
KEPT = 2  # the last ones


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints that were written to the end, oldest first."""
    found = [path.parent for path in folder.glob(f"checkpoint-*/{MARKER}")]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest that was written to the end."""
    return next(reversed(complete_checkpoints(folder)), None)


def delete_broken(folder: Path) -> None:
    """Deletes those that a kill cut short."""
    for broken in set(folder.glob("checkpoint-*")) - set(complete_checkpoints(folder)):
        shutil.rmtree(broken)


def begin_checkpoint(folder: Path, step: int) -> Path:
    """An empty folder to write the checkpoint of `step` into; then call `end_checkpoint`."""
    made = folder / f"checkpoint-{step}"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    return made


def end_checkpoint(made: Path) -> None:
    """From now on the checkpoint counts; all but the last `KEPT` go."""
    (made / MARKER).touch()
    for old in complete_checkpoints(made.parent)[:-KEPT]:
        (old / MARKER).unlink()  # first, so that what is half deleted does not count
        shutil.rmtree(old)


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
