"""The rule as a process reward: which characters each step is, and what it is paid."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.finance.errors import corrupt
from data.finance.generator import questions, solution_text
from data.schema import Completion, Question
from reward import Scores
from reward.rule import verify
from reward.verifiable import RuleReward, StepsReward, step_spans
from tests.reward.test_rule import GROWTH

QUESTIONS = questions("train", count=80, seed=0)


def row(text: str, question: Question = GROWTH, *, cut: bool = False) -> Completion:
    return Completion(question_id=question.id, sample=0, text=text, finish_reason="length" if cut else "stop")


def paid(text: str, *, cut: bool = False) -> list[tuple[str, float]]:
    """Each step's text, and its score."""
    return [(text[start:end], score) for start, end, score in step_spans(GROWTH, row(text, cut=cut))]


def test_each_line_of_work_is_a_step() -> None:
    assert paid("Change: 46 - 40 = 6 million\nGrowth: 6 / 40 = 15%\nAnswer: 15%") == [
        ("Change: 46 - 40 = 6 million", 0.5), ("Growth: 6 / 40 = 15%", 0.5)]
    assert paid("So:\n\nChange: 46 - 40 = 7 million\nthen\nGrowth: 6 / 40 = 15%\nAnswer: 15%") == [
        ("Change: 46 - 40 = 7 million", 0.0), ("Growth: 6 / 40 = 15%", 0.5)]
    assert paid("Answer: 15%") == paid("") == paid("I do not know") == []


def test_two_equations_on_a_line_end_together_and_full_width_text_keeps_its_places() -> None:
    assert paid("(46 - 40) / 40 = 6 / 40 = 15%\nAnswer: 15%") == [("(46 - 40) / 40 = 6 / 40 = 15%", 0.5)] * 2
    text = "先算，增加额：４６ － ４０ ＝ ６，\n再算，增长率：6 ÷ 40 ＝ 14%。\n答案：15%"
    assert paid(text) == [("先算，增加额：４６ － ４０ ＝ ６，", 0.5), ("再算，增长率：6 ÷ 40 ＝ 14%。", 0.0)]


def test_a_line_that_was_cut_off_is_no_step_and_a_step_said_again_earns_nothing() -> None:
    assert paid("Change: 46 - 40 = 6\nGrowth: 6 / 40 = 1", cut=True) == [("Change: 46 - 40 = 6", 1.0)]
    assert paid("Change: 46 - 40 = 6", cut=True) == []
    once, often = (sum(score for _, score in paid("Change: 46 - 40 = 6\n" * times)) for times in (1, 9))
    assert once == 1 and often == pytest.approx(1)


def test_equations_beyond_what_the_rule_reads_are_no_steps() -> None:
    assert len(paid("Change: 46 - 40 = 6\n" * 150)) == 100
    assert paid("Change: 46 - 40 = 6\n" * 2000) == []  # a text too long to be judged


@pytest.mark.parametrize("question", QUESTIONS[:16], ids=lambda question: f"{question.kind}-{question.language}")
def test_a_gold_solution_is_paid_one_in_all(question: Question) -> None:
    scores = StepsReward()([question], [row(solution_text(question), question)])
    assert scores.total == [0.0] and scores.paid == [pytest.approx(1)]
    assert len(scores.spans[0]) == len(question.steps)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(QUESTIONS), st.integers(0, 10**6))
def test_spans_are_the_rules_own_verdict_on_each_step(question: Question, seed: int) -> None:
    text = corrupt(question, random.Random(seed)).text
    right = verify(question, text).steps_correct
    spans = step_spans(question, row(text, question))
    assert [span.score > 0 for span in spans] == list(right)
    assert all("=" in text[start:end] and "\n" not in text[start:end] for start, end, _ in spans)
    assert [span.start for span in spans] == sorted(span.start for span in spans)


def test_the_answer_alone_has_no_spans() -> None:
    text = solution_text(QUESTIONS[0])
    scores: Scores = RuleReward()([QUESTIONS[0]], [row(text, QUESTIONS[0])])
    assert scores.paid == scores.total == [1.0] and not scores.spans
