"""Rows on disk: JSONL of schema rows in and out, and tables of any columns (JSONL, JSON, Parquet) in.

    write_rows("pairs.jsonl", pairs); pairs = read_rows("pairs.jsonl", PreferencePair)

Every error names the file, the line, the field, the value and the way out. A file is written whole or not at all. The
module knows no source and no stage.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from data.schema import Row, UserError

R = TypeVar("R", bound=Row)
Check = typing.Callable[[Any], bool]
TABLES = (".jsonl", ".ndjson", ".json", ".parquet")
CARD = ".card.json"  # says what the file beside it is
_SHOWN = 60  # characters of a wrong value that an error repeats
MAX_DIGITS = 308  # of a whole number: as large as a float can be


# ------------------------------------------------------------------------------------------------------------ text


def shown(value: object) -> str:
    """A value as an error repeats it, cut short."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def read_text(path: str | Path) -> str:
    """The file's UTF-8 text, without a byte order mark. Raises UserError for what is no readable text file."""
    path = Path(path)
    if path.is_dir():
        inside = sorted(file.name for file in path.iterdir() if file.suffix in TABLES)
        raise UserError(f"{path}: is a folder, not a file; name one of its files "
                        f"({', '.join(inside[:5]) or 'none fits'})")
    if not path.exists():
        raise UserError(f"{path}: there is no such file; check the path (relative paths start at {Path.cwd()})")
    if not path.is_file():
        raise UserError(f"{path}: is a device or a pipe; give a file, which can be read more than once")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path}: is UTF-16; save it as UTF-8 (`iconv -f UTF-16 -t UTF-8`)")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: is not UTF-8 (byte 0x{content[error.start]:02x}); save the file as "
                        "UTF-8") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number; use null or a finite number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {shown(text)} is too large to be kept; use null or a finite number")
    return number


def _whole(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"a number has {len(text)} digits, at most {MAX_DIGITS} can be kept; write it as text, in "
                         "quotes")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} stands twice in one object; keep one of them")
    return found


def _half_characters(value: Any, path: str = "") -> Iterator[str]:
    """Where in a JSON value there is half of a surrogate pair, which is no character and which no file can hold."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            yield path or "the value"
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _half_characters(name, f"the name of a field after {path or 'the beginning'}")
            yield from _half_characters(part, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _half_characters(part, f"{path}[{number}]")


def check_characters(value: Any, *, where: str) -> None:
    """Raises UserError where a row that somebody else has written holds half of a character."""
    for broken in _half_characters(value):
        raise UserError(f"{where}: field {shown(broken)} holds half of a surrogate pair, which is no character; "
                        "replace it")


def parse_json(text: str, *, where: str) -> Any:
    """Strict JSON: no NaN, no number beyond a float's range, no field twice in an object. Raises UserError."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole,
                          object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: broken JSON at column {error.colno}: {error.msg}, near "
                        f"{shown(text[max(0, error.pos - 20):error.pos + 20])}; repair or delete the line") from error
    except RecursionError as error:
        raise UserError(f"{where}: lists or objects stand in one another too deeply to be read; flatten them, or "
                        "delete the line") from error
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def json_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of every line that is not blank."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            value = parse_json(line, where=f"{path}:{number}")
            if not isinstance(value, dict):
                raise UserError(f"{path}:{number}: is {shown(value)}, not an object; each line must be one "
                                '{"field": value, ...}')
            yield number, value


# ----------------------------------------------------------------------------------------------------- schema rows


def _number(kind: type) -> Check:
    kinds = (int, float) if kind is float else (int,)
    return lambda value: isinstance(value, kinds) and not isinstance(value, bool)


def _check(hint: Any) -> Check:
    """A test of whether a JSON value fits a type of data/schema.py."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return lambda value: isinstance(value, str) and value in inner
    if origin in (typing.Union, types.UnionType):
        checks = [_check(option) for option in inner]
        return lambda value: any(check(value) for check in checks)
    if origin in (tuple, list) and (origin is list or inner[-1] is Ellipsis):
        each = _check(inner[0])
        return lambda value: isinstance(value, list | tuple) and all(each(item) for item in value)
    if origin is tuple:
        parts = [_check(part) for part in inner]
        return lambda value: (isinstance(value, list | tuple) and len(value) == len(parts)
                              and all(check(item) for check, item in zip(parts, value, strict=True)))
    if origin is dict:
        key, content = _check(inner[0]), _check(inner[1])
        return lambda value: isinstance(value, dict) and all(key(k) and content(v) for k, v in value.items())
    if hint in (int, float):
        return _number(hint)
    return lambda value: isinstance(value, hint)


@functools.cache
def _checks(cls: type[Row]) -> dict[str, tuple[Check, str]]:
    """field -> (test, the type in words)."""
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    words = {name: str(hints[name]).removeprefix("<class '").removesuffix("'>") for name in names}
    return {name: (_check(hints[name]), words[name].replace("typing.", "")) for name in names}


def to_row(value: dict[str, Any], cls: type[R], *, where: str) -> R:
    """A JSON object as a row of `cls`, with every field's type checked."""
    for name, (fits, wanted) in _checks(cls).items():  # type: ignore[arg-type]
        if name in value and not fits(value[name]):
            raise UserError(f"{where}: field {name!r} of {cls.__name__} is {shown(value[name])}; it must be {wanted}")
    return cls.from_json(value, where=where)


def read_rows(path: str | Path, cls: type[R]) -> list[R]:
    """All rows of a JSONL file; an empty file has none. Two rows with the same `id` are refused."""
    rows: list[R] = []
    lines: dict[str, int] = {}
    for number, value in json_lines(path):
        row = to_row(value, cls, where=f"{path}:{number}")
        name = getattr(row, "id", None)
        if name is not None:
            first = lines.setdefault(name, number)
            if first != number:
                same = "the same row" if rows[list(lines).index(name)] == row else "another row"
                raise UserError(f"{path}:{number}: field 'id' is {name!r}, which line {first} has too ({same}); delete "
                                "one of them or give it its own id")
        rows.append(row)
    return rows


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and vanishes when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def to_line(value: object) -> bytes:
    """One line of JSONL. Text that is no valid UTF-8 (lone surrogates) is escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value, ensure_ascii=True, allow_nan=False).encode() + b"\n"


def write_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Write JSONL, atomically: the file is there with all its rows, or as it was before."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        for row in rows:
            file.write(to_line(row.to_json()))


# ---------------------------------------------------------------------------------------------------------- tables


def _parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]}); write it "
                        "again") from error
    return rows


def _json(path: Path) -> list[dict[str, Any]]:
    """A list of objects, or an object with one under `data`, `rows` or `train`."""
    text = read_text(path)
    if not text.strip():
        return []
    value = parse_json(text, where=str(path))
    if isinstance(value, dict):
        name = next((name for name in ("data", "rows", "train") if isinstance(value.get(name), list)), None)
        value = value[name] if name else [value]
    if not isinstance(value, list):
        raise UserError(f"{path}: holds {shown(value)}; a table is a list of objects")
    for number, row in enumerate(value, start=1):
        if not isinstance(row, dict):
            raise UserError(f"{path}: row {number} is {shown(row)}, not an object")
    return value


def table_files(path: str | Path) -> list[Path]:
    """The file itself, or a folder's table files in order of name; the card beside an exported file is none."""
    path = Path(path).expanduser()
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*")
                   if file.suffix in TABLES and not file.name.endswith(CARD) and file.is_file())
    if not found:
        raise UserError(f"{path}: the folder has no {', '.join(TABLES)} file")
    return found


def read_table(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a JSONL, JSON or Parquet file. Raises UserError where there is none."""
    path = Path(path).expanduser()
    if path.suffix == ".parquet" and path.is_file():
        rows = _parquet(path)
    elif path.suffix == ".json":
        rows = _json(path)
    elif path.suffix in TABLES or not path.exists() or path.is_dir():
        rows = [row for _, row in json_lines(path)]
    else:
        raise UserError(f"{path}: a file of kind {path.suffix!r} cannot be read; give one of {', '.join(TABLES)}")
    if not rows:
        raise UserError(f"{path}: is empty; give a file with at least one row")
    for number, row in enumerate(rows, start=1):
        check_characters(row, where=f"{path}: row {number}")
    return rows
