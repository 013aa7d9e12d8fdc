"""Work that a stage began and did not seal, and how other code may go on with it.

A stage goes on from its own checkpoints without asking here. Where its code was corrected meanwhile its identity is
another, and it would start anew: the user may say that the change alters nothing of what is done
(`accept_code_change`). Then the checkpoints move over, and the artifact's notes say so.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from alignment.identity import Parts, differences
from alignment.store import Lock, Store, write_json
from data.schema import UserError

BEGUN = "begun.json"  # in a work folder: what the work is made from, and what changed since it was begun


def _read(work: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((work / BEGUN).read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return {}


def begin(work: Path, parts: Parts, *, accepted: list[str] | None = None) -> None:
    """Notes what the work in a folder is made from; `accepted`: the changes of code on the way, else those noted."""
    write_json(work / BEGUN, {"parts": parts, "accepted": _read(work).get("accepted", []) if accepted is None
                              else accepted})


def is_begun(work: Path) -> bool:
    """Whether there is something to go on from."""
    return (work / "scratch").is_dir() and any((work / "scratch").iterdir())


def by_other_code(store: Store, kind: str, parts: Parts) -> Path | None:
    """The folder of the last work on the same config, inputs and data that other code began."""
    found = [work for work in store.unfinished() if work.name.startswith(f"{kind}-") and is_begun(work)
             and _read(work).get("parts", {}) | {"code": None} == parts | {"code": None}]
    return max(found, key=lambda work: (work / "scratch").stat().st_mtime, default=None)


def take_over(store: Store, work: Path, parts: Parts, *, other: Path) -> None:
    """Moves the scratch of `other` into the work folder of these parts, whose lock must be held."""
    lock = Lock(store.lock_path(other.name))
    try:
        if not lock.acquire():
            raise UserError(f"{other} is being worked on by another run; wait for its end, or leave "
                            "accept_code_change out")
        was = _read(other)
        begin(work, parts, accepted=[*was["accepted"], *differences({"code": was["parts"]["code"]},
                                                                    {"code": parts["code"]})])
        shutil.rmtree(work / "scratch", ignore_errors=True)
        (other / "scratch").rename(work / "scratch")
        store.remove(other)
    finally:
        lock.release()


def notes(work: Path) -> list[str]:
    """A sentence for the artifact where code was changed on the way."""
    accepted = _read(work).get("accepted", [])
    return [f"code was changed while it was made, and the change accepted: {'; '.join(accepted)}"] if accepted else []
