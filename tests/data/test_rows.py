"""Rows go to disk and back without loss; what is wrong with a file is said with its place and the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.rows import json_lines, read_rows, read_table, replacing, table_files, write_rows
from data.schema import Comparison, Completion, Document, PreferencePair, Question, Row, UserError, Verdict

QUESTION = Question(id="q1", source="finance", kind="eps", language="zh", prompt="利润 6 亿元？\u2028下一行",
                    steps=("a = 1",), answer="6 亿元", operand_key="k", facts={"profit": "6"},
                    program=("profit / shares",))
PAIR = PreferencePair(id="p1", prompt=[{"role": "user", "content": "x"}], chosen="a", rejected="b", origin="human",
                      annotator="ann", strength=0.5, shown_order="chosen_first")
ROWS: list[Row] = [
    QUESTION, PAIR,
    Completion(question_id="q1", sample=0, text="6\nAnswer: 6", finish_reason="stop", token_ids=(1, 2), logprob=-1.5),
    Verdict(question_id="q1", sample=0, correct=False, judge="rule", first_error=0, steps_correct=(False, True)),
    Verdict(question_id="q1", sample=1, correct=False, judge="endpoint", model="m", prefix="a\n", step="b", score=0.25,
            grades={"accuracy": 4}, prompt_hash="h", raw="{}"),
    Comparison(question_id="q1", left=0, right=1, preferred="tie", agreed=False, judge="endpoint", strength=0.0),
    PreferencePair(**{**PAIR.to_json(), "id": "p2", "kind": "process", "prefix": "a\n", "model": "m", "raw": "{}"}),
    Document(id="d", source="drill", segments=((" 46 - 40 =", False), (" 6\n", True))),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_rows_come_back_as_they_went(row: Row, tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    write_rows(path, [row])
    assert read_rows(path, type(row)) == [row]
    assert path.read_bytes().count(b"\n") == 1


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(codec=None), max_size=20))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    row = Document(id=text, source="file", segments=((text, True),))
    write_rows(path, [row])
    assert read_rows(path, Document) == [row]


def test_bom_crlf_and_blank_lines_are_no_content(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    line = json.dumps(PAIR.to_json())
    path.write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n\r\n")
    assert read_rows(path, PreferencePair) == [PAIR]


def test_an_empty_file_has_no_rows_but_an_empty_table_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n")
    assert read_rows(path, PreferencePair) == []
    with pytest.raises(UserError, match="is empty"):
        read_table(path)


def pair_with(**changes: Any) -> str:
    return json.dumps({**PAIR.to_json(), **changes})


@pytest.mark.parametrize(("line", "message"), [
    ("{", r"rows.jsonl:2: broken JSON at column"),
    ("[1]", r"rows.jsonl:2: is \[1\], not an object"),
    ('{"id": NaN}', "NaN is no JSON number"),
    ('{"weight": 1e999}', "rows.jsonl:2: the number '1e999' is too large to be kept; use null or a finite number"),
    ('{"weight": ' + "1" * 5000 + "}", "rows.jsonl:2: a number has 5000 digits, at most 308 can be kept; write it"),
    ("[" * 100_000, "rows.jsonl:2: lists or objects stand in one another too deeply to be read; flatten them"),
    ('{"id": "x", "id": "y"}', "'id' stands twice"),
    (pair_with(id="p2", chosen=7), r"rows.jsonl:2: field 'chosen' of PreferencePair is 7; it must be str"),
    (pair_with(id="p2", origin="robot"), r"'origin' of PreferencePair is 'robot'; it must be Literal\['human'"),
    (pair_with(id="p2", strength=True), "'strength' of PreferencePair is True; it must be float"),
    (pair_with(id="p2", prompt=[{"role": "user", "content": None}]), "'prompt' of PreferencePair"),
    (pair_with(id="p2", colour="red"), r"rows.jsonl:2: PreferencePair has unknown fields \['colour'\]"),
    ('{"id": "p2"}', r"lacks \['annotator', 'chosen', 'origin', 'prompt', 'rejected'\]"),
    (pair_with(), r"rows.jsonl:2: field 'id' is 'p1', which line 1 has too \(the same row\)"),
    (pair_with(chosen="c"), r"which line 1 has too \(another row\)"),
])
def test_errors_name_the_line_the_field_and_the_value(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(pair_with() + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_rows(path, PreferencePair)


@pytest.mark.parametrize(("content", "message"), [
    ("é".encode("utf-16"), "is UTF-16; save it as UTF-8"),
    (b'{"a": 1}\n\xff\n', r"rows.jsonl:2: is not UTF-8 \(byte 0xff\)"),
])
def test_other_encodings_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(json_lines(path))


def test_folders_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"is a folder.*a\.jsonl"):
        read_rows(tmp_path, Question)
    with pytest.raises(UserError, match="there is no such file"):
        read_rows(tmp_path / "b.jsonl", Question)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [PAIR])
    before = path.read_bytes()

    def rows() -> Any:
        yield QUESTION
        raise RuntimeError("out of rows")

    with pytest.raises(RuntimeError):
        write_rows(path, rows())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_replacing_takes_the_place_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    with replacing(path) as temporary:
        temporary.write_bytes(b"1")
        assert not path.exists()
    assert path.read_bytes() == b"1"


TABLE = [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "2"}]


def test_tables_of_all_forms_are_alike(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, TABLE)))
    (tmp_path / "b.json").write_text(json.dumps(TABLE))
    (tmp_path / "c.json").write_text(json.dumps({"data": TABLE}))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(TABLE), tmp_path / "d.parquet")
    for path in table_files(tmp_path):
        assert read_table(path) == TABLE, path
    assert [path.name for path in table_files(tmp_path)] == ["a.jsonl", "b.json", "c.json", "d.parquet"]


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.csv", b"a,b", "of kind '.csv' cannot be read"),
    ("a.parquet", b"nonsense", "cannot be read as Parquet"),
    ("a.json", b"[1]", "row 1 is 1, not an object"),
    ("a.json", b"3", "a table is a list of objects"),
    ("a.json", b"", "is empty"),
])
def test_tables_that_cannot_be_read(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_table(tmp_path / name)
