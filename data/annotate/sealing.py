"""A database as a file of preference pairs that does not change: named by its content, read-only, its cards beside it.

    seal("annotations.db", Path("runs/annotations"))    runs/annotations/<hash of the pairs>/pairs.jsonl

This is how a recipe reads a desk that people may be working at: the bytes of the file are what counts, not the
database. The policy is the default one, simulated people's judgments included and said to be so; for another, `export`
writes a file to name in the recipe.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from data.annotate.export import write_export
from data.annotate.policy import Policy
from data.annotate.reporting import snapshot_of

NAME = "pairs.jsonl"
POLICY = Policy(format="finalign", sources=("human", "simulated"))


def seal(place: str, folder: Path) -> Path:
    """The sealed file. Raises UserError where there is no such database, or no pair in it yet."""
    snapshot = snapshot_of(place)
    folder.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=".making-", dir=folder))
    try:
        card = write_export(making / NAME, snapshot, POLICY)
        sealed = folder / str(card.content["sha256"])[:16]
        for path in making.iterdir():
            path.chmod(0o444)
        making.chmod(0o755)
        if not sealed.exists():
            making.rename(sealed)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return sealed / NAME
