"""Pairs to TRL's formats and back without loss; errors of human files name the line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from trl.data_utils import is_conversational

from data.preferences import as_explicit, as_implicit, as_prompt, from_trl, read_pairs, write_explicit
from data.rows import write_rows
from data.schema import PreferencePair, UserError

PAIR = PreferencePair(
    id="p1", prompt=[{"role": "system", "content": "be brief"}, {"role": "user", "content": "1 + 2?"}], chosen="3",
    rejected="4", origin="human", annotator="ann", strength=0.5, weight=2.0, language="en", error_kind="slipped_digit",
    split="dev", chosen_from="human", shown_order="rejected_first")
STEP = PreferencePair(**{**PAIR.to_json(), "kind": "process", "prefix": "1 + 1 = 2\n", "chosen": "2 + 1 = 3\n",
                         "rejected": "2 + 1 = 4\n"})
STEP_2 = PreferencePair(**{**STEP.to_json(), "id": "p3"})
ROW = {"prompt": "1 + 2?", "chosen": "3", "rejected": "4", "origin": "human", "annotator": "ann"}


@pytest.mark.parametrize("pair", [PAIR, STEP], ids=["outcome", "process"])
@pytest.mark.parametrize("form", [as_explicit, as_implicit])
def test_pairs_come_back_as_they_went(form: Any, pair: PreferencePair) -> None:
    assert from_trl(json.loads(json.dumps(form(pair)))) == pair


def test_a_begun_answer_is_the_last_message_of_a_prompt_as_in_trl() -> None:
    begun = {"role": "assistant", "content": STEP.prefix}
    assert as_explicit(STEP)["prompt"] == as_prompt(STEP)["prompt"] == [*STEP.prompt, begun]
    assert as_explicit(STEP)["rejected"] == [{"role": "assistant", "content": "2 + 1 = 4\n"}]
    assert as_implicit(STEP)["chosen"][-1] == {"role": "assistant", "content": "1 + 1 = 2\n2 + 1 = 3\n"}
    row = {**ROW, "prompt": as_explicit(STEP)["prompt"]}  # another's row, without our columns
    assert (from_trl(row).prefix, from_trl(row).prompt) == (STEP.prefix, STEP.prompt)
    assert from_trl(row).id != from_trl({**row, "prompt": STEP.prompt}).id


def test_the_forms_are_trls() -> None:
    explicit, implicit = as_explicit(PAIR), as_implicit(PAIR)
    assert explicit["prompt"] == PAIR.prompt and explicit["chosen"] == [{"role": "assistant", "content": "3"}]
    assert "prompt" not in implicit and implicit["rejected"] == [*PAIR.prompt, {"role": "assistant", "content": "4"}]
    assert as_prompt(PAIR) == {"prompt": PAIR.prompt}
    assert all(is_conversational(row) for row in (explicit, implicit, as_prompt(PAIR)))


def test_a_written_file_is_read_by_datasets_and_by_us(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    other = PreferencePair(**{**PAIR.to_json(), "id": "p2", "error_kind": None})
    write_explicit(path, [PAIR, other, STEP_2])
    assert read_pairs(path) == [PAIR, other, STEP_2]
    rows = datasets.Dataset.from_json(str(path), cache_dir=str(tmp_path / "cache"))
    assert rows[0]["chosen"] == [{"role": "assistant", "content": "3"}]
    rows.to_parquet(tmp_path / "pairs.parquet")
    assert read_pairs(tmp_path / "pairs.parquet") == [PAIR, other, STEP_2]


def test_schema_rows_and_plain_texts_are_read(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [PAIR])
    assert read_pairs(tmp_path / "a.jsonl") == [PAIR]
    (tmp_path / "b.jsonl").write_text(json.dumps({name: ROW[name] for name in ("prompt", "chosen", "rejected")}))
    (pair,) = read_pairs(tmp_path / "b.jsonl", origin="human", annotator="exported")
    assert (pair.prompt, pair.chosen, pair.annotator) == ([{"role": "user", "content": "1 + 2?"}], "3", "exported")
    assert len(pair.id) == 16


def row(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**ROW, **changes}.items() if value is not None}


USER, BOT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(("line", "message"), [
    (row(rejected="3"), r"h\.jsonl:2: 'chosen' and 'rejected' are the same text '3'"),
    (row(chosen=None), r"h\.jsonl:2: field 'chosen' is missing"),
    (row(rejected=" "), "field 'rejected' is empty"),
    (row(origin="robot"), "field 'origin' of PreferencePair is 'robot'; it must be Literal"),
    (row(origin=None), "field 'origin' is missing; say who preferred: `origin` is one of human, ai, rule, simulated"),
    (row(annotator=None), "field 'annotator' is missing"),
    (row(strength=2.0), "field 'strength' is 2.0; it must be from 0.0 to 1.0"),
    (row(weight=-1.0), "field 'weight' is -1.0"),
    (row(prompt=[USER, BOT]), "begun answer, field 'prefix', is 'b'; it must be whole lines"),
    (row(prompt=[BOT]), "prompt: is empty"),
    (row(prefix=" \n"), "begun answer, field 'prefix', is"),
    (row(prompt=None, prefix="c\n", chosen=[USER, BOT], rejected=[USER, BOT]), "chosen: does not start with the row's"),
    (row(prompt=[]), "prompt: is empty"),
    (row(chosen=[USER]), "chosen: ends with the role 'user'"),
    (row(chosen=[USER, BOT]), "a side has several messages beside the prompt"),
    (row(prompt=None, chosen=[USER, BOT], rejected=[{"role": "user", "content": "x"}, {**BOT, "content": "c"}]),
     "differ before their last message"),
    (row(prompt=None), "prompt: is empty"),
    (row(id="first"), r"field 'id' is 'first', which .*h\.jsonl:1 has too"),
])
def test_errors_name_the_line_and_the_field(line: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text(json.dumps(row(id="first")) + "\n" + json.dumps(line) + "\n")
    with pytest.raises(UserError, match=message):
        read_pairs(path)


def test_schema_rows_are_checked_too(tmp_path: Path) -> None:
    write_rows(tmp_path / "b.jsonl", [PreferencePair(**{**PAIR.to_json(), "prompt": [USER, BOT]})])
    with pytest.raises(UserError, match=r"prompt ends with the assistant's message.* belongs into `prefix`"):
        read_pairs(tmp_path / "b.jsonl")
    write_rows(tmp_path / "a.jsonl", [PreferencePair(**{**PAIR.to_json(), "rejected": "3"})])
    with pytest.raises(UserError, match=r"a\.jsonl:1: 'chosen' and 'rejected' are the same"):
        read_pairs(tmp_path / "a.jsonl")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(UserError, match="is empty"):
        read_pairs(tmp_path / "a.jsonl")
