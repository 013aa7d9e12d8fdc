"""The card beside an exported file: what it is, under which policy, and what was left out. No time, no place, no names
of machines: the same snapshot and policy give the same card."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.annotate.agreement import agreement
from data.annotate.policy import FORMATS, OPTIONS, Policy
from data.annotate.records import Snapshot
from data.rows import CARD, replacing

COUNTED = {"kind": "by kind", "origin": "by source", "annotator": "by annotator", "language": "by language",
           "split": "by split", "label": "by label"}


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """What both cards say; `content` is the one for machines."""

    content: dict[str, Any]

    def write(self, path: Path) -> None:
        """pairs.jsonl.card.json and pairs.jsonl.card.md beside the exported pairs.jsonl."""
        texts = {CARD: json.dumps(self.content, ensure_ascii=False, indent=2, sort_keys=True) + "\n",
                 ".card.md": self.markdown()}
        for ending, text in texts.items():
            with replacing(path.with_name(path.name + ending)) as temporary:
                temporary.write_bytes(text.encode("utf-8", "backslashreplace"))

    def markdown(self) -> str:
        """The card for people."""
        said, rows = self.content, self.content["rows"]
        form = FORMATS[said["policy"]["format"]]
        lines = [f"# {said['file']}", "", f"{rows} rows: {form}. Written by the annotator's desk of finalign.", ""]
        if said["sft"]:
            lines += [f"{said['sft']['rows']} rewrites stand in {said['sft']['file']} as prompt and completion.", ""]
        lines += _table("The policy", ("option", "value", "meaning"), [
            (name, _value(value), OPTIONS[name].metadata["help"]) for name, value in said["policy"].items()])
        lines += _table("What was left out", ("count", "what"), [
            (count, reason) for reason, count in most_first(said["left_out"])])
        for name, title in COUNTED.items():
            if said["counts"].get(name):
                lines += _table(f"Rows {title}", (name, "rows"), list(said["counts"][name].items()))
        lines += _table("Agreement of people", ("scale", "items", "percent", "Krippendorff's alpha"), [
            (row["scale"], row["items"], row["percent"], row["alpha"]) for row in said["agreement"]])
        lines += _table("The snapshot", ("what", "count"), list(said["snapshot"]["rows"].items()))
        lines += [f"Guidelines in force: {', '.join(said['guidelines']) or 'none'}.", "",
                  f"SHA-256 of the file: `{said['sha256']}`", "", f"SHA-256 of the snapshot: "
                  f"`{said['snapshot']['sha256']}`", ""]
        return "\n".join(lines)


def card_of(snapshot: Snapshot, policy: Policy, rows: Sequence[dict[str, Any]], left_out: dict[str, int], *,
            file: str, sha256: str, sft: tuple[str, int] | None) -> Card:
    """The card of rows that were written to `file`."""
    return Card({
        "file": file, "sha256": sha256, "rows": len(rows),
        "sft": None if sft is None else {"file": sft[0], "rows": sft[1]},
        "policy": policy.to_json(), "left_out": left_out,
        "counts": {name: counts(row.get(name) for row in rows) for name in COUNTED if name in rows[0]},
        "agreement": [{"scale": row.scale, "items": row.items, "percent": str(row.percent),
                       "alpha": str(row.alpha["ordinal" if "ordinal" in row.alpha else "nominal"])}
                      for row in agreement(snapshot, groups=("all",))],
        "guidelines": sorted({judgment.guideline for judgment in snapshot.standing() if judgment.guideline}),
        "snapshot": {"sha256": snapshot.sha256(), "rows": {
            field.name: len(getattr(snapshot, field.name)) for field in dataclasses.fields(snapshot)}}})


def counts(values: Any) -> dict[str, int]:
    """How often each value occurs, by name."""
    found = collections.Counter("unknown" if value is None else str(value) for value in values)
    return dict(sorted(found.items()))


def most_first(left_out: Mapping[str, int]) -> list[tuple[str, int]]:
    """Reasons and counts, most frequent first."""
    return sorted(left_out.items(), key=lambda item: (-item[1], item[0]))


def _value(value: Any) -> str:
    return (", ".join(map(str, value)) or "all") if isinstance(value, list | tuple) else str(value)


def _table(title: str, head: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> list[str]:
    if not rows:
        return []
    written = [head, ("---",) * len(head), *rows]
    return [f"## {title}", "", *("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in written), ""]


def _cell(value: Any) -> str:
    """Text that cannot break out of its cell, nor show a link or a picture."""
    text = str(value).replace("<", "&lt;")
    return " ".join(text.replace("|", "\\|").replace("[", "\\[").split())
