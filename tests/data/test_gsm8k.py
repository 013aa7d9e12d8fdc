"""GSM8K: steps without marks, answers, programs where they are certain, splits, and the published file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data.finance.generator import solution_text
from data.gsm8k import load, program_of
from data.loading import Loaded
from data.schema import UserError
from reward.rule import verify
from tests.data.real_files import GSM8K, needs_gsm8k

ROW = {"question": "Natalia sold clips to 48 friends in April, and half as many in May. How many in all?",
       "answer": "She sold 48/2 = <<48/2=24>>24 clips in May.\n"
                 "She sold 48+24 = <<48+24=72>>72 clips altogether.\n#### 72"}


def write(path: Path, *rows: dict[str, str]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_a_row_as_a_question(tmp_path: Path) -> None:
    (row,) = load(write(tmp_path / "g.jsonl", ROW)).questions["train"]
    assert row.steps == ("She sold 48/2 = 24 clips in May.", "She sold 48+24 = 72 clips altogether.")
    assert (row.answer, row.kind) == ("72", "steps_2")
    assert row.program == ("n1 / n2", "n1 + s1") and row.facts == {"n1": "48", "n2": "2"}
    assert "<<" not in solution_text(row) and verify(row, solution_text(row)).correct


@pytest.mark.parametrize(("steps", "marks", "answer"), [
    (["Half is 48/2 = 24."], [["48/2=25"]], "24"),  # the mark says something else
    (["Half is 48/2 = 25."], [["48/2=25"]], "25"),  # wrong
    (["Left are 9-3-2 = 4."], [["9-3-2=4"]], "4"),  # two operations
    (["Half is 48/2 = 24 and 1+1 = 2."], [["48/2=24", "1+1=2"]], "2"),  # two equations
    (["She has none."], [[]], "0"),  # none
    (["It is 50 * 20% = 10."], [["50*20%=10"]], "10"),  # percent
    (["Half is 48/2 = 24."], [["48/2=24"]], "72"),  # not the answer
])
def test_no_program_where_it_would_not_be_certain(steps: list[str], marks: list[list[str]], answer: str) -> None:
    assert program_of(steps, marks, answer=answer) == ((), {})


@pytest.mark.parametrize(("changes", "reason"), [
    ({"answer": "It is 4."}, "no answer after ####"), ({"answer": "x\n#### four"}, "the answer is no number"),
    ({"answer": "#### 4"}, "no worked steps"), ({}, "the same question twice"),
    ({"answer": "The answer is 4 = 4\n#### 4"}, "a step has an answer marker"),
])
def test_every_drop_is_counted_with_its_reason(changes: dict[str, str], reason: str, tmp_path: Path) -> None:
    other = {"question": ROW["question"] if not changes else "Other?", "answer": ROW["answer"], **changes}
    report = load(write(tmp_path / "g.jsonl", ROW, other)).report
    assert (report.kept, report.dropped) == (1, {reason: 1})


def test_rows_of_another_form_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"g\.jsonl: row 2: field 'answer' is None"):
        load(write(tmp_path / "g.jsonl", ROW, {"question": "?"}))


def test_a_published_test_split_stays_and_dev_is_split_off(tmp_path: Path) -> None:
    def rows(name: str, count: int) -> list[dict[str, str]]:
        return [{"question": f"{name} {n}: 2 + {n}?", "answer": f"2 + {n} = {n + 2}\n#### {n + 2}"}
                for n in range(count)]

    write(tmp_path / "train.jsonl", *rows("train", 40))
    write(tmp_path / "test.jsonl", *rows("test", 10))
    loaded = load(str(tmp_path))
    assert {name: len(found) for name, found in loaded.questions.items()} == {"train": 36, "dev": 4, "test": 10}
    assert all(row.prompt.startswith("test") for row in loaded.questions["test"])


@pytest.fixture(scope="module")
def published() -> Loaded:
    return load(str(GSM8K))


@needs_gsm8k
def test_the_published_file_is_kept_nearly_whole(published: Loaded) -> None:
    report = published.report
    assert report.kept + sum(report.dropped.values()) == 7473 and report.kept >= 7440
    rows = [row for found in published.questions.values() for row in found]
    assert sum(bool(row.program) for row in rows) > 2000
    assert not any("<<" in step for row in rows for step in row.steps)
    assert len({row.operand_key for row in rows}) == len(rows)


@needs_gsm8k
def test_the_rule_accepts_the_gold_solutions(published: Loaded) -> None:
    rows = [row for found in published.questions.values() for row in found][::5]
    wrong = [row.id for row in rows if not verify(row, solution_text(row)).correct]
    assert len(wrong) <= 0.01 * len(rows)


@needs_gsm8k
def test_another_number_is_not_accepted(published: Loaded) -> None:
    for row in published.questions["dev"][:50]:
        other = solution_text(row).removesuffix(row.answer) + f"1{row.answer}"
        assert not verify(row, other).correct
