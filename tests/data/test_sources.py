"""Every source answers the same questions: draws, seeds, languages, files, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.general import drills
from data.loading import language_of
from data.schema import Split, UserError
from data.sources import open_source
from tests.data.real_files import TATQA, needs_tatqa


def config(source: str = "finance", **changes: Any) -> dict[str, Any]:
    return {"source": source, "path": None, "languages": ["en", "zh"], "kinds": None, "seed": 0, **changes}


@pytest.fixture
def rows_file(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"What is {n} + 1?", "completion": f"{n} + 1 = {n + 1}\n#### {n + 1}"} for n in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_held_out_rows_do_not_move_with_the_seed_and_training_rows_do() -> None:
    source, other = open_source(config()), open_source(config(seed=5))
    splits: tuple[Split, ...] = ("dev", "test")
    for split in splits:
        rows = source.questions(split, count=20, seed=1)
        assert rows == source.questions(split, count=20, seed=2) != other.questions(split, count=20, seed=1)
        assert source.domain_documents(4, seed=1, split=split) == source.domain_documents(4, seed=2, split=split)
        assert source.drills(2, seed=1, split=split) == source.drills(2, seed=2, split=split)
    assert source.questions("train", count=20, seed=1) != source.questions("train", count=20, seed=2)
    assert source.drills(3, seed=4) == drills(3, seed=4)


def test_finance_asks_in_the_languages_and_kinds_asked_for() -> None:
    source = open_source(config(languages=["zh"], kinds=["eps", "net_debt"]))
    rows = source.questions("train", count=30, seed=0)
    assert {row.language for row in rows} == {"zh"} and {row.kind for row in rows} == {"eps", "net_debt"}
    for documents in (source.domain_documents(5, seed=0), source.general_documents(5, seed=0)):
        assert len(documents) == 5 and {language_of(document.text) for document in documents} == {"zh"}


def test_all_finance_questions_are_many_and_distinct() -> None:
    rows = open_source(config(kinds=["eps"], languages=["en"])).questions("dev", count=None, seed=0)
    assert len(rows) >= 40 and len({row.operand_key for row in rows}) == len(rows)


def test_finance_reads_and_drops_nothing() -> None:
    source = open_source(config())
    assert (source.report.kept, source.report.dropped, source.files()) == (0, {}, [])


def test_a_file_is_drawn_from_and_reported(rows_file: str) -> None:
    source = open_source(config("file", path=rows_file))
    everything = source.questions("train", count=None, seed=3)
    assert source.questions("train", count=10, seed=3) == everything[:10]  # more only appends
    assert source.questions("train", count=10, seed=4) != everything[:10]
    assert source.questions("train", count=10**6, seed=3) == everything
    held_out = source.questions("test", count=None, seed=3)
    assert held_out == source.questions("test", count=None, seed=4) and 10 <= len(held_out) <= 14
    assert not {row.operand_key for row in everything} & {row.operand_key for row in held_out}
    assert source.report.kept == 60 and source.files() == [Path(rows_file)]
    assert len(source.domain_documents(5, seed=0)) == 5 and source.domain_documents(5, seed=0)[0].source == "file"
    assert source.general_documents(2, seed=0)[0].source == "general"


@needs_tatqa
def test_tatqa_through_the_same_door() -> None:
    source = open_source(config("tatqa", path=str(TATQA), languages=["en"], kinds=["average", "difference"]))
    rows = source.questions("test", count=10, seed=0)
    assert len(rows) == 10 and {row.kind for row in rows} <= {"average", "difference"}
    assert source.files() == [TATQA] and source.report.kept > 700
    assert {language_of(document.text) for document in source.general_documents(6, seed=0)} == {"en"}
    assert source.domain_documents(3, seed=0)[0].source == "tatqa"


@pytest.mark.parametrize(("changes", "message"), [
    ({"source": "bloomberg"}, "data.source=bloomberg: is unknown; use one of finance, tatqa"),
    ({"languages": ["fr"]}, "data.languages=.*'fr' is unknown"),
    ({"kinds": ["weather"]}, "data.kinds=.*'weather' is unknown; the kinds are"),
    ({"source": "tatqa"}, "data.path=None: data source 'tatqa' reads a file"),
])
def test_configs_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_source(config(**changes))


def test_errors_of_what_is_read(rows_file: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        open_source(config("tatqa", path=str(tmp_path / "t.json"))).files()
    with pytest.raises(UserError, match="has no question of kind 'eps'; it has question"):
        open_source(config("file", path=rows_file, kinds=["eps"])).questions("train", count=1, seed=0)
    with pytest.raises(UserError, match="gsm8k is in English"):
        open_source(config("gsm8k", path=rows_file, languages=["zh"])).questions("train", count=1, seed=0)
    with pytest.raises(UserError, match=r"data source finance: questions: .* asked"):
        open_source(config()).questions("dev", count=10**6, seed=0)
