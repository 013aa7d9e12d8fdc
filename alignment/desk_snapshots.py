"""The annotator's desk's database where a recipe names it: exported, before all else, to a file that stays as it is.

So the identity of what reads it is made of the exported bytes, and a run does not see what people judge meanwhile.
The database packages are loaded only where a recipe names a database.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable
from pathlib import Path

from alignment.plan import PlannedStage
from alignment.preference_kinds import Pairs
from data.schema import UserError

URLS = ("sqlite:", "postgresql:", "postgresql+psycopg:")
ENDINGS = (".db", ".sqlite", ".sqlite3")
MAGIC = b"SQLite format 3\x00"


def is_database(place: str) -> bool:
    """Whether a place names a desk's database rather than a file of pairs: by its form, or by how the file begins."""
    if place.startswith(URLS) or place.endswith(ENDINGS):
        return True
    path = Path(place).expanduser()
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def sealed(stages: Iterable[PlannedStage], folder: Path) -> list[PlannedStage]:
    """The stages, those that read a database with the file it was exported to in its place. Raises UserError."""
    return [_sealed(stage, folder) for stage in stages]


def _sealed(stage: PlannedStage, folder: Path) -> PlannedStage:
    config = stage.config
    if stage.adopted or not isinstance(config, Pairs) or config.human is None or not is_database(config.human):
        return stage
    try:
        path = importlib.import_module("data.annotate.sealing").seal(config.human, folder)
    except UserError as error:
        reason = str(error).removeprefix(f"--db {config.human}: ")
        raise UserError(f"{stage.name}.human={config.human}: {reason}") from error
    return dataclasses.replace(stage, config=dataclasses.replace(config, human=str(path)))
