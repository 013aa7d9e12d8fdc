"""What a critic is asked and what its walk says: written from the rule's verdict and read back, in every case."""

from __future__ import annotations

import dataclasses
import random

import pytest

from data.finance.generator import questions, solution_text
from data.schema import Completion, Question, Verdict
from reward.judge import Unreadable, judged_by_rule
from reward.lessons import lessons
from reward.walk import MOST, asked, compared, marked, read_walk, walk
from tests.reward.planted import finance

GROWTH = Question(id="q", source="finance", kind="revenue_growth", language="en", prompt="Growth?",
                  steps=("Change: 46 - 40 = 6 million", "Growth: 6 / 40 = 15%"), answer="15%", operand_key="k",
                  facts={"new": "46", "old": "40"}, program=("new - old", "s1 / old"))
SLIPPED = "Change: 46 - 40 = 6 million\nGrowth: 6 / 40 = 25%\nAnswer: 25%"
ASKED = """\
a Change: 46 - 40 = 6 million
b Growth: 6 / 40 = 15%
z Answer: 15%
A Change: 46 - 40 = 6 million
B Growth: 6 / 40 = 25%
Z Answer: 25%"""
WALK = """\
z Answer: 15%
Z Answer: 2^5%
wrong
a Change: 46 - 40 = 6 million
A Change: 46 - 40 = 6 million
right
b Growth: 6 / 40 = 15%
B Growth: 6 / 40 = 2^5%
wrong
b Growth: 6 / 40 = 15%"""


def completion(question: Question, text: str) -> Completion:
    return Completion(question_id=question.id, sample=0, text=text, finish_reason="stop")


def blank(question: Question) -> Verdict:
    return Verdict(question_id=question.id, sample=0, correct=False, judge="critic")


def said(question: Question, text: str) -> str:
    """What a critic should say."""
    found = walk(question, text, judged_by_rule(question, completion(question, text)))
    assert found is not None
    return found


def test_an_example() -> None:
    assert asked(GROWTH, SLIPPED) == ASKED and said(GROWTH, SLIPPED) == WALK
    verdict = judged_by_rule(GROWTH, completion(GROWTH, SLIPPED))
    assert walk(GROWTH, SLIPPED, verdict, marks=False) == WALK.replace("^", "")
    assert said(GROWTH, solution_text(GROWTH)) == "z Answer: 15%\nZ Answer: 15%\nright"


@pytest.mark.parametrize(("line", "beside", "found"), [
    ("A Change: 46 - 40 = 5 million", "a Change: 46 - 40 = 6 million", "A Change: 46 - 40 = 5^ million"),
    ("A Growth: 46 - 40 = 6 billion", "a Change: 46 - 40 = 6 million", "A Growth: 46 - 40 = 6 billion^"),  # any label
    ("Z Answer: 6", "z Answer: 6 million", "Z Answer: 6^"),  # what is not there
    ("B 答案: 7 万元", "b 变化: 6 万元", "B 答案: 7^ 万元"),
    ("A so 1 + 1", "a Change: 46 - 40 = 6 million", "A so 1 + 1^"),
])
def test_the_mark_stands_behind_the_first_difference(line: str, beside: str, found: str) -> None:
    assert marked(line, beside) == found


def test_a_walk_written_from_the_rules_verdict_reads_back_as_that_verdict() -> None:
    for planted in finance(300):
        rule = judged_by_rule(planted.question, completion(planted.question, planted.text))
        verdict = read_walk(said(planted.question, planted.text), planted.question,
                            completion(planted.question, planted.text), blank(planted.question))
        assert not verdict.correct
        assert (verdict.prefix, verdict.step, verdict.correction) == (rule.prefix, rule.step, rule.correction)
        assert verdict.first_error == planted.first_error
        gold = completion(planted.question, solution_text(planted.question))
        assert read_walk(said(planted.question, gold.text), planted.question, gold, blank(planted.question)).correct


def test_a_solution_that_ends_before_it_goes_wrong_has_no_first_wrong_step() -> None:
    text = "Change: 46 - 40 = 6 million"
    reply = said(GROWTH, text)
    assert reply.endswith("\nright\nnone")
    verdict = read_walk(reply, GROWTH, completion(GROWTH, text), blank(GROWTH))
    assert not verdict.correct and verdict.step is None


@pytest.mark.parametrize("reply", ["", "right", "z Answer: 15%\nZ Answer: 25%", "z Answer: 15%\nZ Answer: 25%\nmaybe"])
def test_a_walk_that_does_not_judge_the_answer_is_no_verdict(reply: str) -> None:
    with pytest.raises(Unreadable):
        read_walk(reply, GROWTH, completion(GROWTH, SLIPPED), blank(GROWTH))


@pytest.mark.parametrize("copy", ["B Growth: 6 / 40 = 3^5%", "B Gro", "B"])
def test_the_wrong_step_is_the_line_of_that_letter(copy: str) -> None:
    """Also where it is not copied to the letter: what is quoted is the solution's."""
    reply = WALK.replace("B Growth: 6 / 40 = 2^5%", copy)
    verdict = read_walk(reply, GROWTH, completion(GROWTH, SLIPPED), blank(GROWTH))
    assert (verdict.prefix, verdict.step, verdict.correction, verdict.first_error) == (
        "Change: 46 - 40 = 6 million\n", "Growth: 6 / 40 = 25%\n", "Growth: 6 / 40 = 15%", 1)


@pytest.mark.parametrize("reply", [
    WALK.replace("B Growth: 6 / 40 = 2^5%", "C Growth: 6 / 40 = 2^5%"),  # a letter that the solution does not have
    WALK.replace("B Growth: 6 / 40 = 2^5%", "Z Answer: 2^5%"),  # a line left out
    WALK.replace("A Change: 46 - 40 = 6 million", "A Change: 46 - 40 = 5 million"),  # called right and not copied
    WALK.replace("B Growth: 6 / 40 = 2^5%", "Better"),  # a word is no letter
    WALK[:-1] + "4%",  # a correction that the reference does not have
    WALK.replace("\nwrong\nb", "\nright\nb") + WALK[WALK.index("\nb "):] + WALK[WALK.index("\nb "):],  # no end
    "\n".join(WALK.split("\n")[:-1]),  # no correction
    "\n".join(WALK.split("\n")[:5]),  # cut off
    WALK.replace("million\nright", "million\nmaybe"),
])
def test_a_walk_that_loses_its_way_says_nothing_of_steps(reply: str) -> None:
    verdict = read_walk(reply, GROWTH, completion(GROWTH, SLIPPED), blank(GROWTH))
    assert not verdict.correct and verdict.raw == reply
    assert verdict.step is verdict.prefix is verdict.correction is verdict.first_error is None


def test_a_solution_cannot_write_lines_of_the_reference() -> None:
    """Whatever it says stands after its own letters."""
    text = "Change: 46 - 40 = 7 million\nz Answer: 99%\n\nright\nZ Answer: 99%"
    lines = str(asked(GROWTH, text)).split("\n")
    assert [line[0] for line in lines] == list("abzABCZ")
    assert [line for line in lines if line[0].islower()] == ASKED.split("\n")[:3]


def test_what_has_too_many_lines_or_none_is_not_asked_about() -> None:
    assert asked(GROWTH, "\n".join(["1 + 1 = 2"] * (MOST + 1))) is None is asked(GROWTH, "")
    assert asked(GROWTH, "\n".join(["1 + 1 = 2"] * MOST)) is not None


def test_a_plain_comparison_finds_the_first_line_that_differs() -> None:
    rows = list(finance(200))
    verdicts = compared([each.question for each in rows], [completion(each.question, each.text) for each in rows])
    assert all(verdict is not None and (verdict.correct, verdict.prefix, verdict.step) ==
               (False, each.prefix, each.step) for each, verdict in zip(rows, verdicts, strict=True))
    [gold] = compared([GROWTH], [completion(GROWTH, solution_text(GROWTH))])
    [other] = compared([GROWTH], [completion(GROWTH, "Change: 46 - 40 = 6 million\nAnswer: 15%")])
    assert gold is not None and other is not None and gold.correct and other.correct


def test_lessons_are_right_and_wrong_solutions() -> None:
    drawn = questions("train", count=300, seed=2)
    texts = lessons(drawn, random.Random(1), reworded=0.1)
    rules = [judged_by_rule(question, completion(question, text)) for question, text in zip(drawn, texts, strict=True)]
    assert 0.5 < sum(not rule.correct for rule in rules) / len(rules) < 0.75
    assert lessons(drawn, random.Random(1), reworded=0.1) == texts
    assert all(walk(*each) is not None for each in zip(drawn, texts, rules, strict=True))


def test_a_gold_solution_in_other_words_is_right_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reward.lessons.WRONG", 0.0)
    monkeypatch.setattr("reward.lessons.CUT", 0.0)
    drawn = questions("train", count=300, seed=2)
    texts = lessons(drawn, random.Random(1), reworded=1.0)
    assert sum(text != solution_text(question) for question, text in zip(drawn, texts, strict=True)) > 280
    for question, text in zip(drawn, texts, strict=True):
        verdict = judged_by_rule(question, completion(question, text))
        assert verdict.correct and verdict.first_error is None and all(verdict.steps_correct)


def test_a_verdict_that_no_line_of_the_reference_corrects_has_no_walk() -> None:
    verdict = judged_by_rule(GROWTH, completion(GROWTH, SLIPPED))
    assert walk(GROWTH, SLIPPED, dataclasses.replace(verdict, correction="Growth: 1 + 1 = 2")) is None
