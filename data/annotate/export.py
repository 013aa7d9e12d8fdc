"""Training rows from a snapshot under a stated policy: a pure function, the same bytes every time.

    export(snapshot, Policy(format="trl")).rows
    write_export("pairs.jsonl", snapshot, Policy(), sft="rewrites.jsonl")

The file never depends on the order in which sides were shown or judgments arrived, on time, place or hash seed. Beside
it stand a card for machines and one for people: the policy, what was left out and why, and the file's hash.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.annotate.agreement import PEOPLE
from data.annotate.ballots import LeftOut, ballots
from data.annotate.card import Card, card_of, most_first
from data.annotate.findings import Finding, demonstrations, findings, labelled_steps, single_answers, usable
from data.annotate.policy import PAIRED, Policy, checked
from data.annotate.records import Snapshot
from data.preferences import as_explicit, as_implicit
from data.rows import replacing, to_line
from data.schema import PreferencePair, UserError

ENDINGS = (".jsonl", ".parquet")


@dataclasses.dataclass(frozen=True, slots=True)
class Export:
    """The rows, the rewrites as demonstrations, and how much was left out for which reason."""

    policy: Policy
    rows: list[dict[str, Any]]
    sft: list[dict[str, Any]]
    left_out: dict[str, int]


def export(snapshot: Snapshot, policy: Policy) -> Export:
    """Raises UserError for a policy that cannot be followed; there may be no row."""
    checked(policy)
    left_out: LeftOut = collections.Counter()
    counted = ballots(snapshot, policy, left_out)
    if policy.format in PAIRED:
        rows = [row_of(finding, policy) for finding in
                usable((each for ballot in counted for each in findings(ballot, policy, left_out)), left_out)]
    elif policy.format == "trl-unpaired":
        rows = single_answers(counted, policy, left_out)
    else:
        rows = labelled_steps(counted, policy, left_out)
    shown = demonstrations(counted) if policy.rewrites == "keep" else []
    return Export(policy, rows, shown, {reason: n for reason, n in sorted(left_out.items()) if n})


def pairs(snapshot: Snapshot, policy: Policy | None = None) -> tuple[list[PreferencePair], dict[str, int]]:
    """The preference pairs of a snapshot, whatever the policy's format, and what was left out by reason.

    Without a policy: everybody's but machines'.
    """
    policy = dataclasses.replace(policy or Policy(sources=PEOPLE), format="finalign")
    found = export(snapshot, policy)
    return [PreferencePair.from_json(row) for row in found.rows], found.left_out


def row_of(finding: Finding, policy: Policy) -> dict[str, Any]:
    """A pair in the policy's form."""
    if policy.format == "trl":
        return as_explicit(finding.pair)
    if policy.format == "trl-implicit":
        return {**as_implicit(finding.pair), "margin": finding.margin}
    return finding.pair.to_json()


# ------------------------------------------------------------------------------------------------------------ files


def write_export(path: str | Path, snapshot: Snapshot, policy: Policy, *, sft: str | Path | None = None) -> Card:
    """Writes the rows, the rewrites where `sft` names a file for them, and the cards; each file whole or not at all.

    Raises UserError where the policy or a path cannot be followed or leaves no row; nothing is written then.
    """
    path, demonstrated = Path(path).expanduser(), None if sft is None else Path(sft).expanduser()
    for each in (path, demonstrated):
        if each is not None and each.suffix not in ENDINGS:
            raise UserError(f"{each}: a file of kind {each.suffix!r} cannot be written; let its name end in "
                            f"{' or '.join(ENDINGS)}")
    if path == demonstrated:
        raise UserError(f"--sft {sft}: is the file of the pairs too; give it another name")
    if demonstrated is not None and policy.rewrites == "drop":
        raise UserError(f"--sft {sft}: is for the rewrites, which --rewrites drop leaves out; leave out one of the two")
    found = export(snapshot, policy)
    if not found.rows:
        raise UserError(f"{path}: no row is left to export (left out: {reasons(found.left_out)}); judge more, or "
                        "choose another policy")
    if demonstrated is not None and not found.sft:
        raise UserError(f"--sft {sft}: there is no rewrite to write into it; leave the option out")
    with replacing(path) as temporary:
        write_table(temporary, found.rows, parquet=path.suffix == ".parquet")
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
    if demonstrated is not None:
        with replacing(demonstrated) as temporary:
            write_table(temporary, found.sft, parquet=demonstrated.suffix == ".parquet")
    card = card_of(snapshot, policy, found.rows, found.left_out, file=path.name, sha256=digest,
                   sft=None if demonstrated is None else (demonstrated.name, len(found.sft)))
    card.write(path)
    return card


def reasons(left_out: dict[str, int]) -> str:
    """"3 x ties, ...", most frequent first."""
    return ", ".join(f"{count} x {reason}" for reason, count in most_first(left_out)) or "nothing"


def write_table(path: Path, rows: Sequence[dict[str, Any]], *, parquet: bool) -> None:
    """JSONL or Parquet. Columns without any value are text in Parquet, so that files of one form fit together."""
    if not parquet:
        path.write_bytes(b"".join(map(to_line, rows)))
        return
    import pyarrow
    import pyarrow.parquet

    columns = dict.fromkeys((name for row in rows for name in row), "")  # `prefix` is in the rows of steps alone
    table = pyarrow.Table.from_pylist([{**columns, **row} for row in rows])
    typed = [pyarrow.field(field.name, pyarrow.string()) if pyarrow.types.is_null(field.type) else field
             for field in table.schema]
    pyarrow.parquet.write_table(table.cast(pyarrow.schema(typed)), path)

