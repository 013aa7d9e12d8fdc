"""Preference pairs in TRL's formats, out and in.

    as_explicit(pair)  {"prompt": [...], "chosen": [assistant message], "rejected": [assistant message], provenance...}
    as_implicit(pair)  {"chosen": [..., assistant message], "rejected": [..., assistant message], provenance...}
    as_prompt(pair)    {"prompt": [...]}

A begun answer (`prefix`) is in TRL's way the last message of an explicit prompt, the assistant's; in an implicit row
it stands at the head of both answers.

    read_pairs("human.jsonl")    schema rows or TRL rows; every error names the file and the line

The two TRL forms keep all of a pair's other fields as columns, so that a pair comes back as it went.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from data.chat import check_messages
from data.files import as_messages
from data.rows import check_characters, json_lines, read_table, replacing, shown, to_line, to_row
from data.schema import Message, PreferencePair, UserError, content_id

ORIGINS: tuple[str, ...] = get_args(get_type_hints(PreferencePair)["origin"])
_SIDES = ("prompt", "chosen", "rejected")
_OTHERS = [field.name for field in dataclasses.fields(PreferencePair) if field.name not in _SIDES]


def _provenance(pair: PreferencePair) -> dict[str, Any]:
    return {name: getattr(pair, name) for name in _OTHERS}


def _assistant(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


def _begun(pair: PreferencePair) -> list[Message]:
    return [*pair.prompt, *_assistant(pair.prefix)] if pair.prefix else pair.prompt


def as_explicit(pair: PreferencePair) -> dict[str, Any]:
    """TRL's preference row with an explicit prompt, conversational."""
    return {"prompt": _begun(pair), "chosen": _assistant(pair.chosen), "rejected": _assistant(pair.rejected),
            **_provenance(pair)}


def as_implicit(pair: PreferencePair) -> dict[str, Any]:
    """TRL's preference row without a prompt: both sides are whole conversations."""
    return {**{side: [*pair.prompt, *_assistant(pair.prefix + getattr(pair, side))] for side in ("chosen", "rejected")},
            **_provenance(pair)}


def as_prompt(pair: PreferencePair) -> dict[str, Any]:
    """TRL's prompt-only row."""
    return {"prompt": _begun(pair)}


def _side(value: object, *, where: str) -> list[Message]:
    """One side of a TRL row as messages, its last one the assistant's."""
    messages = as_messages(value, "assistant", where=where)
    check_messages(messages, where=where)
    if messages[-1]["role"] != "assistant":
        raise UserError(f"{where}: ends with the role {messages[-1]['role']!r}; end it with the assistant's answer")
    return messages


def _continuation(text: str, prefix: str, *, where: str) -> str:
    """What an answer of an implicit row says after the begun part that both sides share."""
    if not isinstance(prefix, str) or not text.startswith(prefix):
        raise UserError(f"{where}: does not start with the row's 'prefix' {shown(prefix)}; both answers of a row "
                        "without `prompt` must")
    return text[len(prefix):]


def from_trl(row: Mapping[str, Any], *, where: str = "row", **defaults: Any) -> PreferencePair:
    """A TRL preference row, explicit or implicit. `defaults` fill in provenance that the row does not have.

    Raises UserError naming `where`, the field, the value and the way out.
    """
    for name in ("chosen", "rejected"):
        if row.get(name) is None:
            raise UserError(f"{where}: field {name!r} is missing; a pair has `prompt`, `chosen` and `rejected`, or "
                            "`chosen` and `rejected` as whole conversations")
    sides = {name: _side(row[name], where=f"{where}: {name}") for name in ("chosen", "rejected")}
    prefix = row.get("prefix") or ""
    if row.get("prompt") is not None:
        prompt = as_messages(row["prompt"], "user", where=f"{where}: prompt")
        if prompt and prompt[-1].get("role") == "assistant":
            prompt, prefix = prompt[:-1], prompt[-1].get("content")
        if any(len(side) > 1 for side in sides.values()):
            raise UserError(f"{where}: a side has several messages beside the prompt; put all but the last into "
                            "`prompt`")
    else:
        prompt = sides["chosen"][:-1]
        if prompt != sides["rejected"][:-1]:
            raise UserError(f"{where}: 'chosen' and 'rejected' differ before their last message; both must answer the "
                            "same prompt")
        sides = {name: _assistant(_continuation(side[-1]["content"], prefix, where=f"{where}: {name}"))
                 for name, side in sides.items()}
    check_messages(prompt, where=f"{where}: prompt")
    chosen, rejected = sides["chosen"][-1]["content"], sides["rejected"][-1]["content"]
    given = {name: value for name, value in {**defaults, **row}.items() if name in _OTHERS and value is not None}
    lacking = [name for name in ("origin", "annotator") if name not in given]
    if lacking:
        raise UserError(f"{where}: field {lacking[0]!r} is missing; say who preferred: `origin` is one of "
                        f"{', '.join(ORIGINS)}, `annotator` is a name")
    given.setdefault("id", content_id(prompt, *([prefix] if prefix else []), chosen, rejected, given["annotator"]))
    pair = {**given, "prompt": prompt, "prefix": prefix, "chosen": chosen, "rejected": rejected}
    return checked(to_row(pair, PreferencePair, where=where), where=where)


def checked(pair: PreferencePair, *, where: str) -> PreferencePair:
    """The pair. Raises UserError where it says nothing or what cannot be."""
    if pair.chosen == pair.rejected:
        raise UserError(f"{where}: 'chosen' and 'rejected' are the same text {shown(pair.chosen)}; delete the row, or "
                        "mark it as a tie where it was made")
    for name in ("chosen", "rejected"):
        if not getattr(pair, name).strip():
            raise UserError(f"{where}: field {name!r} is empty; delete the row")
    check_messages(pair.prompt, where=f"{where}: prompt")
    if pair.prompt[-1]["role"] == "assistant":
        raise UserError(f"{where}: prompt ends with the assistant's message; it must end with the user's, and what the "
                        "assistant has begun to answer belongs into `prefix`")
    if pair.prefix and not (pair.prefix.strip() and pair.prefix.endswith("\n")):
        raise UserError(f"{where}: the begun answer, field 'prefix', is {shown(pair.prefix)}; it must be whole lines, "
                        "the last one with its line break")
    for name, low, high in (("strength", 0.0, 1.0), ("weight", 0.0, float("inf"))):
        if not low <= getattr(pair, name) <= high:
            raise UserError(f"{where}: field {name!r} is {getattr(pair, name)}; it must be from {low} to {high}")
    return pair


def read_pairs(path: str | Path, **defaults: Any) -> list[PreferencePair]:
    """The pairs of a file of schema rows or TRL rows (JSONL with line numbers, or JSON and Parquet with row numbers).

    `defaults`, such as `origin="human", annotator="exported"`, fill in what rows lack. The same id twice is refused.
    """
    path = Path(path).expanduser()
    if path.suffix in (".json", ".parquet"):
        rows = [(f"{path}: row {number}", row) for number, row in enumerate(read_table(path), start=1)]
    else:
        rows = [(f"{path}:{number}", row) for number, row in json_lines(path)]
    if not rows:
        raise UserError(f"{path}: is empty; give a file with at least one pair")
    pairs: list[PreferencePair] = []
    places: dict[str, str] = {}
    for where, row in rows:
        check_characters(row, where=where)
        is_schema = isinstance(row.get("chosen"), str) and isinstance(row.get("prompt"), list) and "id" in row
        pair = (checked(to_row(row, PreferencePair, where=where), where=where) if is_schema and not defaults
                else from_trl(row, where=where, **defaults))
        first = places.setdefault(pair.id, where)
        if first != where:
            raise UserError(f"{where}: field 'id' is {pair.id!r}, which {first} has too; delete one of them or give "
                            "it its own id")
        pairs.append(pair)
    return pairs


def write_explicit(path: str | Path, pairs: Iterable[PreferencePair]) -> None:
    """A TRL file that `datasets.load_dataset("json", data_files=path)` reads; written whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        for pair in pairs:
            file.write(to_line(as_explicit(pair)))
