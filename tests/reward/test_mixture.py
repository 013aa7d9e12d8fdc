"""The weighted sum: what it adds, what it logs, and what it refuses to add."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch

from data.schema import Completion, Question, Verdict
from reward import RewardError, Scores, Span
from reward.checks import checked
from reward.mixture import WeightedReward

QUESTION = Question(id="q7", source="file", kind="any", language="en", prompt="?", steps=(), answer="", operand_key="k")
ROWS = [Completion(question_id="q7", sample=sample, text=text, finish_reason="stop")
        for sample, text in enumerate(["6 元", "7", "no idea"])]


class Returns:
    """A reward that returns what it was made with."""

    def __init__(self, returned: object) -> None:
        self.returned = returned

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
        return self.returned  # type: ignore[return-value]


class ScriptedJudge:
    """A judge as a reward: its verdicts, here read from a script, as 1 or 0, with what it says of each step."""

    def __init__(self, script: dict[str, Verdict]) -> None:
        self.script = script

    def __call__(self, questions: Sequence[Question], completions: Sequence[Completion]) -> Scores:
        verdicts = [self.script[completion.text] for completion in completions]
        return Scores([float(verdict.correct) for verdict in verdicts], spans=[
            [Span(0, len(row.text), 1.0)] if verdict.steps_correct[:1] == (True,) else []
            for row, verdict in zip(completions, verdicts, strict=True)])


def test_spans_are_weighted_and_parts_hold_all_that_a_part_pays() -> None:
    stepwise = Scores([0.0, 1.0, 0.0], {}, [[Span(0, 1, 1.0), Span(2, 3, -0.5)], [], [Span(0, 7, 2.0)]])
    mixture = WeightedReward({"rule": Returns([1.0, 0.0, 0.0]), "steps": Returns(stepwise), "more": Returns(stepwise)},
                             {"rule": 1.0, "steps": 0.5, "more": 0.0})
    scores = mixture([QUESTION] * 3, ROWS)
    assert scores.total == [1.0, 0.5, 0.0]
    assert scores.spans == [[(0, 1, 0.5), (2, 3, -0.25)], [], [(0, 7, 1.0)]]
    assert scores.parts == {"rule": [1.0, 0.0, 0.0], "steps": [0.5, 1.0, 2.0], "more": [0.5, 1.0, 2.0]}
    assert scores.paid == [1.25, 0.5, 1.0]


def test_spans_of_several_parts_come_together_and_a_standardised_parts_are_scaled_not_shifted() -> None:
    one = Scores([0.0, 4.0, 8.0], {}, [[Span(0, 1, 1.0)], [], []])
    scales = {"model": (4.0, 2.0)}
    scores = WeightedReward({"model": Returns(one), "steps": Returns(one)}, {"model": 1.0, "steps": 1.0},
                            standardised=["model"], scales=scales)([QUESTION] * 3, ROWS)
    assert scores.total == [-2.0, 4.0, 10.0] and scores.spans == [[(0, 1, 0.5), (0, 1, 1.0)], [], []]


def test_without_spans_there_are_none() -> None:
    scores = WeightedReward({"a": Returns(Scores([1.0, 2.0, 3.0], {}, [[], [], []]))}, {"a": 1.0})([QUESTION] * 3, ROWS)
    assert scores.spans == [] and scores.paid is scores.total


def test_a_judges_verdict_is_a_reward_like_any_other() -> None:
    script = {"6 元": Verdict(question_id="q7", sample=0, correct=True, judge="scripted", steps_correct=(True,)),
              "7": Verdict(question_id="q7", sample=1, correct=False, judge="scripted", steps_correct=(False,)),
              "no idea": Verdict(question_id="q7", sample=2, correct=False, judge="scripted")}
    scores = WeightedReward({"judge": ScriptedJudge(script)}, {"judge": 2.0})([QUESTION] * 3, ROWS)
    assert scores.total == [2.0, 0.0, 0.0] and scores.spans == [[(0, 3, 2.0)], [], []]
    assert scores.parts == {"judge": [2.0, 0.0, 0.0]}


@pytest.mark.parametrize("numbers", [
    [1, True, Fraction(1, 2)], (1.0, 1.0, 0.5), np.array([1.0, 1.0, 0.5]), np.array([1, 1, 0.5], dtype=np.float32),
    torch.tensor([1.0, 1.0, 0.5]), [np.float32(1), np.int64(1), np.float64(0.5)],
    Scores(torch.tensor([1.0, 1.0, 0.5])),  # type: ignore[arg-type]
])
def test_numbers_of_many_kinds_are_scores(numbers: object) -> None:
    found = checked("reward x", numbers, ROWS)
    assert found.total == [1.0, 1.0, 0.5] and all(type(score) is float for score in found.total)


@pytest.mark.parametrize(("returned", "message"), [
    ([1.0, 2.0], "reward x returned 2 scores for 3 completions"),
    ([1.0] * 4, "returned 4 scores for 3 completions"),
    (Scores([]), "returned 0 scores for 3 completions"),
    (None, "reward x returned None; return a list of one number for each completion"),
    ("111", "returned '111'; return a list"),
    (b"111", "returned b'111'; return a list"),
    (0.5, "returned 0.5; return a list"),
    ({0: 1.0}, "returned {0: 1.0}; return a list"),
    ((score for score in [1.0]), "returned <generator"),
    (torch.tensor(1.0), "returned 1.0; return a list"),
    ([1.0, float("nan"), 0.0], "reward x: the score of question q7, sample 1 ('7') is nan; return a finite number"),
    ([1.0, 0.0, float("inf")], "the score of question q7, sample 2 ('no idea') is inf"),
    ([1.0, 0.0, -10**400], "sample 2 ('no idea') is -1000"),
    ([1.0, "0.5", 0.0], "sample 1 ('7') is '0.5'; return a finite number"),
    ([1.0, None, 0.0], "is None; return"),
    ([1.0, 1j, 0.0], "is 1j; return"),
    (torch.ones(3, 1), "sample 0 ('6 元') is [1.0]; return"),
    (Scores([1.0] * 3, {}, [[]]), "returned 1 lists of spans for 3 completions"),
    (Scores([1.0] * 3, {}, [[], [(0, 1)], []]), "a span of question q7, sample 1 ('7') is (0, 1); return Span("),
    (Scores([1.0] * 3, {}, [[], [Span(0, 2, 1.0)], []]), "is Span(start=0, end=2, score=1.0), but the text has 1 char"),
    (Scores([1.0] * 3, {}, [[Span(1, 1, 1.0)], [], []]), "spans start at 0 or later, hold a character and end at 3"),
    (Scores([1.0] * 3, {}, [[Span(-1, 1, 1.0)], [], []]), "but the text has 3 characters"),
    (Scores([1.0] * 3, {}, [[Span(0, 1.0, 1.0)], [], []]), "end=1.0"),  # type: ignore[arg-type]
    (Scores([1.0] * 3, {}, [[Span(0, 1, float("nan"))], [], []]), "question q7, sample 0 ('6 元') scores nan"),
    (Scores([1.0] * 3, {}, [[Span(0, 1, "1")], [], []]), "scores '1'; return"),  # type: ignore[arg-type]
])
def test_what_is_no_score_is_refused_by_name(returned: object, message: str) -> None:
    with pytest.raises(RewardError) as caught:
        checked("reward x", returned, ROWS)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    with pytest.raises(RewardError, match="reward broken"):
        WeightedReward({"fine": Returns([0.0] * 3), "broken": Returns(returned)}, {"fine": 1.0})([QUESTION] * 3, ROWS)
