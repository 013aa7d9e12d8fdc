"""The judge stage: the rule's verdicts in the completions' order."""

from __future__ import annotations

import random

import pytest

from alignment.metrics import documented
from alignment.stages import judge
from data.finance.errors import corrupt
from data.finance.generator import questions, solution_text
from data.rows import read_rows, write_rows
from data.schema import Completion, UserError, Verdict
from tests.alignment.stage_made import make_stage, result


@pytest.fixture
def asked():
    return questions("train", count=6, seed=3)


def judged(folder, asked, completions):
    given = folder / "given"
    write_rows(given / "questions.jsonl", asked)
    write_rows(given / "completions.jsonl", completions)
    stage = make_stage(folder, "judge", inputs={"completions": given})
    judge.run(stage)
    return stage, read_rows(stage.output / "verdicts.jsonl", Verdict)


def completion(question, text, *, sample=0, finish_reason="stop"):
    return Completion(question_id=question.id, sample=sample, text=text, finish_reason=finish_reason)


def test_verdicts_keep_the_order_and_the_sample(tmp_path, asked):
    rows = [completion(question, solution_text(question) if sample else "nothing", sample=sample)
            for question in reversed(asked) for sample in range(2)]
    _, verdicts = judged(tmp_path, asked, rows)
    assert [(row.question_id, row.sample) for row in verdicts] == [(row.question_id, row.sample) for row in rows]
    assert [row.correct for row in verdicts] == [False, True] * len(asked)
    assert {row.judge for row in verdicts} == {"rule"}


def test_the_metrics_count_what_was_judged(tmp_path, asked):
    rows = [completion(question, solution_text(question)) for question in asked[:3]]
    rows += [completion(question, "I do not know.") for question in asked[3:]]
    rows += [completion(asked[0], "Nor do I.", sample=1)]
    stage, verdicts = judged(tmp_path, asked, rows)
    found = result(stage)
    assert found["completions"] == 7 and found["questions"] == 6
    assert found["accuracy"] == pytest.approx(3 / 7)
    assert found["solved"] == 0.5
    assert sum(value for name, value in found.items() if name.startswith("error.")) == 4
    assert found["located"] == sum(row.first_error is not None for row in verdicts if not row.correct) / 4
    for name in found:
        documented(name, "judge")


def test_a_wrong_step_is_located(tmp_path, asked):
    wrong = corrupt(asked[0], random.Random(0))
    stage, verdicts = judged(tmp_path, asked, [completion(asked[0], wrong.text)])
    assert not verdicts[0].correct and verdicts[0].first_error == wrong.first_error
    assert result(stage)["located"] == 1


def test_a_truncated_right_answer_is_wrong(tmp_path, asked):
    stage, verdicts = judged(tmp_path, asked, [completion(asked[0], solution_text(asked[0]), finish_reason="length")])
    assert not verdicts[0].correct and verdicts[0].error_kind == "truncated"
    assert result(stage)["truncated"] == 1 and result(stage)["error.truncated"] == 1


def test_a_truncated_answer_keeps_an_earlier_error(tmp_path, asked):
    wrong = corrupt(asked[0], random.Random(0))
    _, verdicts = judged(tmp_path, asked, [completion(asked[0], wrong.text, finish_reason="length")])
    assert verdicts[0].error_kind not in (None, "truncated")


def test_inputs_that_do_not_fit(tmp_path, asked):
    with pytest.raises(UserError, match="row 1 answers question"):
        judged(tmp_path / "a", asked[1:], [completion(asked[0], "x")])
    with pytest.raises(UserError, match="no completion to judge"):
        judged(tmp_path / "b", asked, [])
