"""TAT-QA: what becomes of a question, why others are dropped, splits, and the whole published file."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data.finance.generator import solution_text
from data.loading import Loaded
from data.schema import UserError
from data.tatqa import ROUNDING, load
from reward.rule import verify
from tests.data.real_files import TATQA, needs_tatqa

TABLE = [["", "", "Years Ended September 30,", ""], ["", "2019", "2018", "2017"],
         ["Sales:", "", "", ""], ["Fixed Price", "$  1,452.4", "$  1,146.2", "$  1,036.9"],
         ["Other", "44.1", "56.7", "70.8"], ["Total sales", "$1,496.5", "$1,202.9", "$1,107.7"]]
PARAGRAPHS = [{"uid": "p1", "order": 1, "text": "Nothing of use."},
              {"uid": "p2", "order": 2, "text": "The table shows sales (in millions). Staff were  1,234 people."}]


def question(**changes: Any) -> dict[str, Any]:
    return {"uid": "q", "order": 1, "question": "What is the change in Other in 2019 from 2018?", "answer": -12.6,
            "derivation": "44.1-56.7", "answer_type": "arithmetic", "answer_from": "table-text",
            "rel_paragraphs": ["2"], "req_comparison": False, "scale": "million", **changes}


def write(path: Path, *questions: dict[str, Any], tables: int = 1) -> Path:
    contexts = []
    for number in range(tables):
        rows = [{**row, "uid": f"{number}-{index}"} for index, row in enumerate(questions)]
        contexts.append({"table": {"uid": f"t{number}", "table": TABLE}, "paragraphs": PARAGRAPHS, "questions": rows})
    path.write_text(json.dumps(contexts))
    return path


def everything(loaded: Loaded) -> list[Any]:
    return [row for rows in loaded.questions.values() for row in rows]


def test_a_question_with_its_evidence_steps_and_program(tmp_path: Path) -> None:
    (row,) = everything(load(write(tmp_path / "t.json", question())))
    assert row.prompt == ("|  | Years Ended September 30, |\n| 2019 | 2018 | 2017\nSales: |  |  |\n"
                          "Other | 44.1 | 56.7 | 70.8\n"
                          "The table shows sales (in millions). Staff were 1,234 people.\n"
                          f"What is the change in Other in 2019 from 2018? {ROUNDING}")
    assert row.steps == ("Difference: 44.1 - 56.7 = -12.6 million",)
    assert (row.answer, row.program, row.kind) == ("-12.6 million", ("n1 - n2",), "difference")
    assert row.facts == {"n1": "44.1", "n2": "56.7"}


def test_percentages_and_scales(tmp_path: Path) -> None:
    rows = everything(load(write(
        tmp_path / "t.json",
        question(question="a?", derivation="(44.1-56.7)/56.7", answer=-22.22, scale="percent"),
        question(question="b?", derivation="(44.1 + 56.7)/2", answer=50.4, scale="thousand", rel_paragraphs=[]),
        question(question="c?", derivation="56.7/44.1", answer=1.29, scale=""))))
    found = {row.prompt.split("\n")[-1][0]: row for row in rows}
    assert found["a"].answer == "-22.22%" and found["a"].kind == "relative_change"
    assert found["a"].steps == ("Difference: 44.1 - 56.7 = -12.6", "Percentage: -12.6 / 56.7 = -22.22%")
    assert found["b"].answer == "50.4 thousand" and found["b"].kind == "average"
    assert found["b"].program == ("n1 + n2", "s1 / 2") and "Amounts are in thousands." in found["b"].prompt
    assert found["c"].answer == "1.29" and found["c"].kind == "ratio"


def test_operands_of_a_paragraph_that_was_not_named_are_found(tmp_path: Path) -> None:
    (row,) = everything(load(write(tmp_path / "t.json", question(
        derivation="1,234 - 44.1", answer=1189.9, scale="", rel_paragraphs=[]))))
    assert "1,234 people" in row.prompt and "Nothing of use" not in row.prompt


def test_accountants_parentheses_are_negative_where_the_answer_says_so(tmp_path: Path) -> None:
    (row,) = everything(load(write(tmp_path / "t.json", question(derivation="44.1 - (56.7)", answer=100.8))))
    assert row.steps == ("Difference: 44.1 - (-56.7) = 100.8 million",)


@pytest.mark.parametrize(("changes", "reason"), [
    ({"answer_type": "span"}, "not arithmetic"),
    ({"derivation": "44.1 minus 56.7"}, "the derivation cannot be read"),
    ({"derivation": "44.1", "answer": 44.1}, "the derivation has no operation"),
    ({"answer": -12.7}, "the derivation disagrees with the answer"),
    ({"answer": 12.6}, "the derivation disagrees with the answer"),
    ({"answer": ["no"]}, "the answer is no number"),
    ({"scale": "dozen"}, "unknown scale"),
    ({"derivation": "44.1 - 999.9", "answer": -955.8}, "an operand is in neither the table nor the paragraphs"),
    ({"derivation": "44.1 / (56.7 - 56.7)"}, "the derivation divides by zero"),
    ({}, "the same question twice"),
])
def test_every_drop_is_counted_with_its_reason(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    report = load(write(tmp_path / "t.json", question(), question(**changes))).report
    assert (report.kept, report.dropped) == (1, {reason: 1})
    assert reason in str(report)


def test_a_file_of_which_nothing_can_be_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no row can be used .*1 x not arithmetic"):
        load(write(tmp_path / "t.json", question(answer_type="count")))


@pytest.mark.parametrize(("content", "message"), [
    ({"a": 1}, "a list of tables"), ([{"table": {}}], "table 0: lacks one of"),
    ([{"table": {"uid": "t", "table": TABLE}, "paragraphs": PARAGRAPHS, "questions": [{"uid": "q"}]}],
     "table 0, question 0: lacks question, answer"),
    ([{"table": {"uid": "t", "table": TABLE}, "paragraphs": [{}], "questions": []}], "paragraph 0: lacks `order`"),
])
def test_other_files_are_refused_by_place(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load(path)


def test_tables_that_share_operands_stay_together(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", question(), tables=30)
    contexts = json.loads(path.read_text())
    for number, context in enumerate(contexts):
        context["questions"][0]["question"] = f"What is the change in case {number}?"
    path.write_text(json.dumps(contexts))
    assert sum(bool(rows) for rows in load(path).questions.values()) == 1


@pytest.fixture(scope="module")
def published() -> Loaded:
    return load(TATQA)


@needs_tatqa
def test_the_published_file_is_kept_nearly_whole(published: Loaded) -> None:
    dropped = Counter(published.report.dropped)
    assert dropped["not arithmetic"] == 950 and published.report.kept + sum(dropped.values()) == 1668
    assert published.report.kept >= 0.99 * 718
    assert sum(map(len, published.questions.values())) == published.report.kept
    assert len(published.questions["test"]) >= 100 and len(published.questions["dev"]) >= 50


@needs_tatqa
def test_the_rule_accepts_the_gold_solutions(published: Loaded) -> None:
    rows = everything(published)
    wrong = [row.id for row in rows if not verify(row, solution_text(row)).correct]
    assert len(wrong) <= 0.01 * len(rows)
    stepwise = [row.id for row in rows if verify(row, solution_text(row)).first_error is not None]
    assert len(stepwise) <= 0.01 * len(rows)


@needs_tatqa
def test_no_table_and_no_operands_are_in_two_splits(published: Loaded) -> None:
    tables = {row["uid"]: context["table"]["uid"] for context in json.loads(TATQA.read_text())
              for row in context["questions"]}
    assert len(tables) == 1668
    for first, second in (("train", "dev"), ("train", "test"), ("dev", "test")):
        for key in ("operand_key", "id", "prompt"):
            assert not ({getattr(row, key) for row in published.questions[first]}  # type: ignore[index]
                        & {getattr(row, key) for row in published.questions[second]})  # type: ignore[index]
        assert not ({document.text for document in published.documents[first]}  # type: ignore[index]
                    & {document.text for document in published.documents[second]})  # type: ignore[index]


@needs_tatqa
def test_the_seed_moves_the_splits_and_nothing_else(published: Loaded) -> None:
    other = load(TATQA, seed=1)
    assert sorted(row.id for row in everything(other)) == sorted(row.id for row in everything(published))
    assert {row.id for row in other.questions["test"]} != {row.id for row in published.questions["test"]}
    assert copy.deepcopy(load(TATQA).questions) == published.questions
