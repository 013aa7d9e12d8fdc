"""The runs of a sweep in one table, once all are done: the mean over seeds where the seed is all they differ in, each
run beside the others where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alignment import comparison
from alignment.evidence import aggregate, markdown
from alignment.run_folder import read_run
from data.schema import UserError


def show(folders: Sequence[Path]) -> None:
    """Prints it; nothing where a run has no evaluation, as then there is nothing to compare."""
    if not all(read_run(folder).evaluations for folder in folders):
        return
    try:
        results = aggregate(folders)
    except UserError:  # they differ in more than their seed
        comparison.run(folders, None)
        return
    print(markdown(results))
