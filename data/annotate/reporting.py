"""The commands that read a desk's database and change nothing in it: `export` and `agreement`.

Both are functions of a snapshot; what they write depends on nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from rich.console import Console

from data.annotate.database import DEFAULT
from data.annotate.desk import Desk
from data.annotate.export import reasons, write_export
from data.annotate.policy import FORMATS, OPTIONS, Policy, spelled
from data.annotate.records import Snapshot
from data.annotate.tables import agreement_json, show_agreement

FILE_WIDTH = 1_000  # of a table that goes to a file or another program: as wide as it likes


def db_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--db", default=DEFAULT, metavar="URL",
                        help="the database: a file's path or postgresql://USER@HOST/NAME (default: %(default)s)")


def snapshot_of(place: str) -> Snapshot:
    """Everything in the database, which must be there. Raises UserError."""
    desk = Desk.open(place, create=False)
    try:
        return desk.snapshot()
    finally:
        desk.close()


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `export`: every choice of a policy."""
    parser.add_argument("file", metavar="FILE", help="ends in .jsonl or .parquet; a card for people (.card.md) and one "
                                                     "for machines (.card.json) come beside it")
    db_argument(parser)
    parser.add_argument("--sft", metavar="FILE", help="write the rewrites here too, as prompt and completion")
    policy = parser.add_argument_group("policy")
    for name, field in OPTIONS.items():
        meaning, several = field.metadata["help"], isinstance(field.default, tuple)
        if name == "format":
            meaning += ": " + "; ".join(f"{form} = {text}" for form, text in FORMATS.items())
        default = ",".join(map(str, field.default)) if several else field.default
        choices = field.metadata["choices"]
        if several and choices:
            meaning += f"; one or more, by commas, of {', '.join(choices)}"
        parser_choices: Any = None if several else choices or None
        policy.add_argument(f"--{spelled(name)}", default=default, type=str if several else type(field.default),
                            choices=parser_choices, help=f"{meaning} (default: {default or 'all'})".replace("%", "%%"))


def policy_of(arguments: argparse.Namespace) -> Policy:
    """The policy that the options state. Raises UserError."""
    values: dict[str, Any] = {}
    for name, field in OPTIONS.items():
        value = getattr(arguments, name)
        if isinstance(field.default, tuple):
            value = tuple(part.strip() for part in value.split(",") if part.strip())
            if name == "margins":
                value = _numbers(value)
        values[name] = value
    return Policy(**values)


def _numbers(parts: tuple[str, ...]) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in parts)
    except ValueError:
        return ()  # refused with the right sentence where the policy is checked


def export_command(arguments: argparse.Namespace) -> int:
    """Writes the file and its cards, and says what is in it."""
    card = write_export(arguments.file, snapshot_of(arguments.db), policy_of(arguments), sft=arguments.sft)
    print(f"{arguments.file}: {card.content['rows']} rows (left out: {reasons(card.content['left_out'])})")
    return 0


def agreement_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `agreement`."""
    db_argument(parser)
    parser.add_argument("--json", action="store_true", help="the same numbers as JSON, unrounded")


def agreement_command(arguments: argparse.Namespace) -> int:
    """Prints the numbers."""
    snapshot = snapshot_of(arguments.db)
    if arguments.json:
        json.dump(agreement_json(snapshot), sys.stdout, ensure_ascii=False, indent=1)
        print()
    else:
        show_agreement(snapshot, Console() if sys.stdout.isatty() else Console(width=FILE_WIDTH))
    return 0


COMMANDS = {"export": (export_arguments, export_command), "agreement": (agreement_arguments, agreement_command)}
