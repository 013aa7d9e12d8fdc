"""Steps and quotes: text taken apart and put together, quotes looked up, and the rule's first wrong step quoted."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.finance.generator import questions, solution_text
from data.gsm8k import load
from data.schema import Completion, Question, Verdict
from reward.judge import RuleJudge, judged_by_rule
from reward.steps import Place, find_step, is_answer, quoted, steps_of
from tests.data.real_files import GSM8K, needs_gsm8k
from tests.reward.planted import Planted, chains, finance, other_words


def completion(question: Question, text: str, *, finish_reason: str = "stop") -> Completion:
    return Completion(question_id=question.id, sample=0, text=text, finish_reason=finish_reason)  # type: ignore[arg-type]


@given(st.text(alphabet="ab \n\r\t=1", max_size=30))
def test_steps_are_the_text_in_pieces(text: str) -> None:
    steps = steps_of(text)
    assert "".join(steps) == text
    assert all(step.endswith("\n") for step in steps[:-1])
    assert all(step.strip() for step in steps) or len(steps) <= 1


def test_blank_lines_belong_to_the_step_before() -> None:
    assert steps_of("\n a\n\n b\n  \nc") == ["\n a\n\n", " b\n  \n", "c"]
    assert steps_of("") == []


SOLUTION = "Change: 46 - 40 = 6\nGrowth: 6 / 40 = 15%\n\nAnswer: 15%"


@pytest.mark.parametrize(("step", "prefix", "found"), [
    ("Change: 46 - 40 = 6", "", Place(0, "", "Change: 46 - 40 = 6\n")),
    ("Growth: 6 / 40 = 15%", "Change: 46 - 40 = 6", Place(1, "Change: 46 - 40 = 6\n", "Growth: 6 / 40 = 15%\n\n")),
    (" Growth:  6 / 40 = 15%\n", "Change: 46 - 40 = 6\n\n",
     Place(1, "Change: 46 - 40 = 6\n", "Growth: 6 / 40 = 15%\n\n")),
    ("Growth: 6 / 40 = 15%\nAnswer: 15%", "Change: 46 - 40 = 6",
     Place(1, "Change: 46 - 40 = 6\n", "Growth: 6 / 40 = 15%\n\nAnswer: 15%")),
    ("Growth: 6 / 40 = 16%", "Change: 46 - 40 = 6", "quoted step is not in the solution"),
    ("6 / 40 = 15%", "Change: 46 - 40 = 6", "quoted step is not in the solution"),
    ("", "", "quoted step is not in the solution"),
    ("Growth: 6 / 40 = 15%", "", "quoted prefix is not what stands before the step"),
    ("Growth: 6 / 40 = 15%", "Change: 46 - 40 = 7", "quoted prefix is not what stands before the step"),
])
def test_quotes_are_looked_up(step: str, prefix: str, found: Place | str) -> None:
    assert find_step(SOLUTION, step, prefix) == found


def test_a_step_that_stands_twice_is_the_one_after_its_prefix() -> None:
    assert find_step("a\nb\na\nc", "a", "a\nb") == Place(2, "a\nb\n", "a\n")


@pytest.mark.parametrize("step", ["Answer: 15%", "答案：15%", "So the final answer is 15", "#### 15"])
def test_answer_lines(step: str) -> None:
    assert is_answer(step) and not is_answer("Growth: 6 / 40 = 15%")


def exactly(planted: Planted) -> bool:
    """Whether the rule quotes the planted step and all before it, in words that are looked up again."""
    verdict = judged_by_rule(planted.question, completion(planted.question, planted.text))
    assert not verdict.correct
    if (verdict.prefix, verdict.step) != (planted.prefix, planted.step):
        return False
    place = find_step(planted.text, other_words(planted.step), planted.prefix)
    return place == Place(planted.first_error, planted.prefix, planted.step)


def test_the_rule_quotes_every_planted_error_of_finance() -> None:
    rows = list(finance(1500))
    assert sum(map(exactly, rows)) == len(rows) == 1500


def test_the_rules_correction_is_the_gold_line() -> None:
    for planted in finance(300):
        verdict = judged_by_rule(planted.question, completion(planted.question, planted.text))
        assert verdict.correction == solution_text(planted.question).split("\n")[planted.first_error]


@needs_gsm8k
def test_the_rule_quotes_every_planted_error_of_gsm8k_chains() -> None:
    rows = list(chains(load(str(GSM8K)).questions["train"]))
    assert len(rows) >= 1000
    assert sum(map(exactly, rows)) == len(rows)


def test_right_and_truncated_answers() -> None:
    question = questions("train", count=1, seed=3)[0]
    gold = solution_text(question)
    right, cut, short = RuleJudge()([question] * 3, [
        completion(question, gold), completion(question, gold, finish_reason="length"),
        completion(question, gold.split("\n")[0])])
    assert right is not None and right.correct and right.step is None
    assert cut is not None and not cut.correct and cut.error_kind == "truncated" and cut.step is None
    assert short is not None and not short.correct and short.step is None  # it ends before it goes wrong


def test_an_error_in_the_answer_line_is_quoted() -> None:
    question = questions("train", count=1, seed=3)[0]
    text = "\n".join([*question.steps, "Answer: 123456 million"])
    verdict = judged_by_rule(question, completion(question, text))
    assert verdict.step == "Answer: 123456 million" and verdict.prefix == "\n".join([*question.steps, ""])
    assert verdict.correction == solution_text(question).split("\n")[-1]


def test_a_verdict_without_a_wrong_step_stays_as_it_is() -> None:
    question = questions("train", count=1, seed=random.Random(0).randrange(9))[0]
    verdict = Verdict(question_id=question.id, sample=0, correct=False, judge="rule", first_error=None)
    assert quoted(question, verdict, "no steps here") is verdict
