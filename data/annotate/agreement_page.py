"""The numbers of the agreement page. Loaded when it is asked for: what computes them would slow the desk's start.

To annotators it counts whole blocks of everybody's tasks: from numbers that moved with each verdict they could tell
which tasks are gold or repeated, and what others said of them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from data.annotate.agreement import against_judges, agreement
from data.annotate.profiles import profiles
from data.annotate.records import Snapshot
from data.annotate.tables import GROUPS, number, percent

BLOCK = 20  # tasks


def in_blocks(snapshot: Snapshot, size: int = BLOCK) -> Snapshot:
    """What everybody had judged when their first `size` tasks were judged, their first two times `size`, and so on.

    Judgments are only ever added, so neither taking one back nor changing it moves what was counted before.
    """
    tasks: dict[str, set[str]] = {}
    until: dict[str, int] = {}
    for judgment in snapshot.judgments:
        own = tasks.setdefault(judgment.annotator, set())
        if judgment.task_id not in own:
            own.add(judgment.task_id)
            if len(own) % size == 0:
                until[judgment.annotator] = judgment.seq
    return dataclasses.replace(snapshot, judgments=tuple(
        judgment for judgment in snapshot.judgments if judgment.seq <= until.get(judgment.annotator, 0)))


def content(snapshot: Snapshot, *, whole: bool) -> dict[str, Any]:
    """What the template shows: coefficients by scale, agreement with AI judges, and each annotator's numbers. `whole`
    for those who judge no task that measures them."""
    if not whole:
        snapshot = in_blocks(snapshot)
    rows = agreement(snapshot)
    scales = {scale: [row for row in rows if row.scale == scale] for scale in dict.fromkeys(row.scale for row in rows)}
    return {"scales": scales, "judges": against_judges(snapshot), "people": profiles(snapshot), "groups": GROUPS,
            "number": number, "percent": percent, "block": None if whole else BLOCK}
