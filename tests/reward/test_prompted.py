"""A prompted judge: a scripted model is obeyed, in both orders; what cannot be read is counted and is no verdict."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.finance.generator import questions, solution_text
from data.schema import Completion, Question
from reward.judge import Reply, Request, Unreadable, read_reply, schema_of
from reward.prompted import PROCESS, PromptedJudge, certainty, settle
from reward.prompting import read_prompt
from reward.rule import verify
from tests.reward.planted import Planted, finance, other_words
from tests.reward.scripted import Answer, Scripted, always, at_random, by_merit, says

ASKED = questions("train", count=12, seed=4)


def judge(answer: Answer, *tasks: str, **options: Any) -> PromptedJudge:
    return PromptedJudge(Scripted(answer), tasks=tasks, name="endpoint", model="m-1", **options)


def completion(question: Question, text: str, *, sample: int = 0, finish_reason: str = "stop") -> Completion:
    return Completion(question_id=question.id, sample=sample, text=text,
                      finish_reason=finish_reason)  # type: ignore[arg-type]


def marker(asked: dict[str, str], request: Request) -> str:
    """Marks as the rule does, and knows where the errors were planted: the model the tests obey."""
    known = PLANTED.get(asked["proposal"])
    right = known is None and verify(BY_PROMPT[asked["question"]], asked["proposal"]).correct
    if request.options:
        return "Yes" if right else "No"
    if request.schema == PROCESS:
        assert known is not None
        return says(first_incorrect_step=other_words(known.step), correct_prefix=known.prefix, step_correction="Fixed")
    return says(correctness="correct" if right else "wrong")


PLANTED: dict[str, Planted] = {planted.text: planted for planted in finance(40)}
BY_PROMPT = {question.prompt: question for question in [*ASKED, *(each.question for each in PLANTED.values())]}


def material() -> tuple[list[Question], list[Completion]]:
    asked = [*ASKED] + [planted.question for planted in PLANTED.values()]
    texts = [solution_text(question) for question in ASKED] + list(PLANTED)
    return asked, [completion(question, text) for question, text in zip(asked, texts, strict=True)]


@pytest.mark.parametrize("outcome", ["outcome", "outcome_token", "outcome_rule"])
def test_a_scripted_judge_is_obeyed(outcome: str) -> None:
    asked, completions = material()
    found = judge(marker, outcome, "process")
    verdicts = found(asked, completions)
    assert [verdict is not None and verdict.correct for verdict in verdicts] == [True] * 12 + [False] * 40
    for verdict, planted in zip(verdicts[12:], PLANTED.values(), strict=True):
        assert verdict is not None
        assert verdict.first_error == planted.first_error and verdict.correction == "Fixed"
        assert verdict.judge == ("rule+endpoint" if outcome == "outcome_rule" else "endpoint")
        assert verdict.model == "m-1" and set(json.loads(str(verdict.raw))) >= {"process"}
        assert str(verdict.prompt_hash).endswith(read_prompt("process").sha256)
    assert not found.unreadable and found.asked == 40 + (0 if outcome == "outcome_rule" else 52)


def test_only_wrong_solutions_are_asked_for_their_first_wrong_step() -> None:
    asked, completions = material()
    found = judge(marker, "outcome", "process")
    found(asked, completions)
    assert isinstance(found.complete, Scripted)
    assert sum(request.schema == PROCESS for request in found.complete.seen) == 40


def test_a_truncated_solution_is_wrong_without_asking() -> None:
    found = judge(marker, "outcome")
    [verdict] = found(ASKED[:1], [completion(ASKED[0], solution_text(ASKED[0]), finish_reason="length")])
    assert verdict is not None and not verdict.correct and verdict.error_kind == "truncated" and found.asked == 0


def test_the_reference_and_the_proposal_are_in_their_places() -> None:
    asked, completions = material()
    found = judge(marker, "outcome")
    found(asked[:1], completions[:1])
    assert isinstance(found.complete, Scripted)
    text = found.complete.seen[0].messages[-1]["content"]
    assert asked[0].prompt in text and text.count(solution_text(asked[0])) == 2


BROKEN = ["", "correct", "{}", "[]", says(correctness="right"), says(correctness="correct", extra="x"),
          '{"justification": "x", "correctness": "correct", "correctness": "wrong"}', "```json\n{}\n```",
          json.dumps({"correctness": "correct"}), json.dumps({"justification": 1, "correctness": "correct"}),
          '{"justification": NaN, "correctness": "correct"}', "[" * 100_000]


@pytest.mark.parametrize("reply", BROKEN, ids=lambda reply: reply[:30])
def test_what_cannot_be_read_is_no_verdict_and_is_counted(reply: str) -> None:
    """It is never "wrong"."""
    found = judge(lambda asked, request: reply, "outcome", "process")
    assert found(ASKED[:3], [completion(question, "Answer: 1") for question in ASKED[:3]]) == [None] * 3
    assert found.unreadable == {"outcome": 3} and found.asked == 3 and found.examples["outcome"]


def test_an_unreadable_first_step_leaves_the_verdict_on_the_answer() -> None:
    def answer(asked: dict[str, str], request: Request) -> str:
        return "?" if request.schema == PROCESS else says(correctness="wrong")
    found = judge(answer, "outcome", "process")
    [verdict] = found(ASKED[:1], [completion(ASKED[0], "Answer: 1")])
    assert verdict is not None and verdict.step is None and verdict.first_error is None
    assert found.unreadable == {"process": 1} and json.loads(str(verdict.raw))["process"] == "?"


def test_certainty_is_the_share_of_yes() -> None:
    assert certainty(Reply("", {"Yes": 0.6, "No": 0.2})) == pytest.approx(0.75)
    for nothing in ({}, {"Yes": 0.0, "No": 0.0}):
        with pytest.raises(Unreadable, match="neither Yes nor No"):
            certainty(Reply("", nothing))


def test_grades_by_a_rubric() -> None:
    def answer(asked: dict[str, str], request: Request) -> str:
        if "criteria" in asked:
            assert "risk_warning:" in asked["criteria"]
            return says(accuracy=5, compliance=4, risk_warning=3, clarity=2)
        return says(correctness="correct")
    found = judge(answer, "outcome", "rubric")
    [verdict] = found(ASKED[:1], [completion(ASKED[0], "Answer: 1")])
    assert verdict is not None and verdict.grades == {"accuracy": 5, "compliance": 4, "risk_warning": 3, "clarity": 2}
    for wrong in (says(accuracy=6, compliance=4, risk_warning=3, clarity=2), says(accuracy=True, compliance=4,
                                                                                 risk_warning=3, clarity=2)):
        found = judge(lambda asked, request, said=wrong: said if "criteria" in asked else says(correctness="wrong"),
                      "outcome", "rubric")
        [verdict] = found(ASKED[:1], [completion(ASKED[0], "Answer: 1")])
        assert verdict is not None and verdict.grades == {} and found.unreadable == {"rubric": 1}


# Comparisons -----------------------------------------------------------------------------------------------------


def versus(count: int, seed: int = 0) -> tuple[list[Question], list[Completion], list[Completion]]:
    draw = random.Random(seed)
    asked = [draw.choice(ASKED) for _ in range(count)]
    merits = [draw.sample(range(100), 2) for _ in range(count)]
    return asked, *([completion(question, f"merit {pair[side]}", sample=side)
                     for question, pair in zip(asked, merits, strict=True)] for side in (0, 1))


def merit(text: str) -> float:
    return float(text.split()[-1])


@pytest.mark.parametrize("task", ["pairwise", "principles"])
def test_a_scripted_comparison_is_obeyed_in_all_pairs(task: str) -> None:
    asked, left, right = versus(300)
    found = judge(by_merit(merit), task).compare(asked, left, right)
    for row, one, other in zip(found, left, right, strict=True):
        assert row is not None and row.agreed and row.strength == 1.0
        assert row.preferred == ("left" if merit(one.text) > merit(other.text) else "right")


@pytest.mark.parametrize("task", ["pairwise", "principles"])
@pytest.mark.parametrize("answer", [by_merit(merit), always("A"), always("tie")], ids=["obeyed", "A", "tie"])
def test_exchanged_sides_exchange_the_label(task: str, answer: Answer) -> None:
    asked, left, right = versus(50)
    one, other = judge(answer, task).compare(asked, left, right), judge(answer, task).compare(asked, right, left)
    for row, turned in zip(one, other, strict=True):
        assert row is not None and turned is not None
        assert (row.swap().preferred, row.strength, row.agreed) == (turned.preferred, turned.strength, turned.agreed)
        assert row.swap().swap() == row


@pytest.mark.parametrize("task", ["pairwise", "principles"])
@pytest.mark.parametrize("side", ["A", "B"])
def test_a_judge_that_goes_by_the_place_prefers_nothing(task: str, side: str) -> None:
    asked, left, right = versus(100)
    found = judge(always(side), task).compare(asked, left, right)
    assert {row.preferred for row in found if row is not None} == {"tie"}
    assert {row.strength for row in found if row is not None} == {0.0}
    assert not any(row.agreed for row in found if row is not None)


def test_a_judge_at_random_is_as_often_for_either_side() -> None:
    asked, left, right = versus(900)
    sides = [row.preferred for row in judge(at_random(0), "pairwise").compare(asked, left, right) if row is not None]
    assert abs(sides.count("left") - sides.count("right")) < 60 and sides.count("tie") > 600


def test_principles_are_weighed_and_count_where_the_orders_agree() -> None:
    weights = {"accuracy": 4.0, "compliance": 3.0, "risk_warning": 2.0, "clarity": 1.0}
    first = {"accuracy": 1, "compliance": -1, "risk_warning": 1, "clarity": 0}
    turned = {name: -vote for name, vote in first.items()}
    assert settle([first, turned], weights) == ("left", pytest.approx(0.3), True)
    assert settle([first, {**turned, "accuracy": 1}], weights) == ("right", pytest.approx(0.1), False)
    assert settle([first, first], weights) == ("tie", 0.0, False)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from([-1, 0, 1]), st.sampled_from([-1, 0, 1])), min_size=4, max_size=4))
def test_the_order_of_the_two_questions_does_not_matter(votes: Sequence[tuple[int, int]]) -> None:
    weights = {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}
    first, second = ({name: vote[place] for name, vote in zip(weights, votes, strict=True)} for place in (0, 1))
    other = {"left": "right", "right": "left", "tie": "tie"}
    one, turned = settle([first, second], weights), settle([second, first], weights)
    assert (other[one[0]], one[1], one[2]) == turned


def test_an_order_that_cannot_be_read_leaves_no_comparison() -> None:
    asked, left, right = versus(3)
    found = judge(lambda said, request: "?" if said["solution_a"] == left[0].text else always("A")(said, request),
                  "pairwise")
    rows = found.compare(asked, left, right)
    assert rows[0] is None and None not in rows[1:] and found.unreadable == {"pairwise": 1}


def test_principles_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('[{"name": "brevity", "text": "Short.", "weight": 2}]')
    asked, left, right = versus(2)
    rows = judge(by_merit(merit), "principles", criteria=path).compare(asked, left, right)
    assert all(row is not None and set(json.loads(json.loads(str(row.raw))[0])) == {"justification", "brevity"}
               for row in rows)


def test_a_schema_is_read_to_the_letter() -> None:
    schema = schema_of(grade=[1, 2], word=str)
    assert list(schema["properties"]) == ["justification", "grade", "word"] == schema["required"]
    assert read_reply('{"justification": "", "grade": 2, "word": "x"}', schema)["grade"] == 2
    for grade in ("2.0", '"2"', "3", "null"):
        with pytest.raises(Unreadable, match="grade"):
            read_reply(f'{{"justification": "", "grade": {grade}, "word": "x"}}', schema)
