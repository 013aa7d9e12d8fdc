"""The numbers of the agreement page. Loaded when it is asked for: what computes them would slow the desk's start."""

from __future__ import annotations

from typing import Any

from data.annotate.agreement import against_judges, agreement
from data.annotate.profiles import profiles
from data.annotate.records import Snapshot
from data.annotate.tables import GROUPS, number, percent


def content(snapshot: Snapshot) -> dict[str, Any]:
    """What the template shows: coefficients by scale, agreement with AI judges, and each annotator's numbers."""
    rows = agreement(snapshot)
    scales = {scale: [row for row in rows if row.scale == scale] for scale in dict.fromkeys(row.scale for row in rows)}
    return {"scales": scales, "judges": against_judges(snapshot), "people": profiles(snapshot), "groups": GROUPS,
            "number": number, "percent": percent}
