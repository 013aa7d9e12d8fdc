"""The exact rule: gold accepted, corruptions rejected in the right place, numbers, units, hostile text."""

from __future__ import annotations

import itertools
import operator
import random
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.finance import errors, generator
from data.schema import Question
from reward import rule
from reward.arithmetic import MAX_DIGITS, compute, equations, normalise, quantities

GROWTH = Question(
    id="q", source="finance", kind="revenue_growth", language="en", prompt="", operand_key="k",
    steps=("Change: 46 - 40 = 6 million", "Growth: 6 / 40 = 15%"), answer="15%",
    facts={"new": "46", "old": "40", "noise": "12"}, program=("new - old", "s1 / old"))
DEBT = Question(
    id="d", source="finance", kind="net_debt", language="en", prompt="", operand_key="k",
    steps=("Debt: 700 + 900 = 1600 million", "Net debt: 1600 - 400 = 1200 million"), answer="1200 million",
    facts={"short": "700", "long": "900", "cash": "400"}, program=("short + long", "s1 - cash"))
PLAIN = Question(id="p", source="gsm8k", kind="gsm8k", language="en", prompt="", operand_key="k", steps=(), answer="18")


def one(text: str) -> Fraction:
    found = quantities(normalise(text))
    assert found is not None and len(found) == 1, (text, found)
    return found[0].value


# ------------------------------------------------------------------------------------------- generated questions


def test_every_gold_solution_is_right() -> None:
    for question in generator.questions("test", count=1600, seed=0):
        verdict = rule.verify(question, generator.solution_text(question), sample=3)
        assert verdict.correct and verdict.first_error is None and verdict.error_kind is None, (question, verdict)
        assert verdict.steps_correct == (True,) * len(question.steps)
        assert (verdict.judge, verdict.question_id, verdict.sample) == ("rule", question.id, 3)


def test_every_corruption_is_found_placed_named_and_corrected() -> None:
    draw = random.Random(0)
    for question in generator.questions("train", count=1000, seed=1):
        for kind in errors.ERROR_KINDS:
            if kind == "skipped_step" and (len(question.program) == 1 or question.kind == "after_tax_profit"):
                continue
            wrong = errors.corrupt(question, draw, error_kind=kind)
            verdict = rule.verify(question, wrong.text)
            assert not verdict.correct, (question, wrong)
            assert (verdict.first_error, verdict.error_kind) == (wrong.first_error, kind), (question, wrong, verdict)
            assert verdict.correction == [*question.steps, question.answer][wrong.first_error]


def test_the_answer_of_another_question_is_wrong() -> None:
    found = generator.questions("test", count=200, seed=2)
    for question, other in itertools.pairwise(found):
        verdict = rule.verify(question, generator.solution_text(other))
        assert verdict.correct == (question.answer == other.answer)


# ------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("text", [
    "Answer: 15%", "The answer is 15 percent.", "答案：１５％", "答案是 15%。", "#### 15 %", "Answer: 15.0%",
    "**Answer:** 15%",
    "so\nAnswer: 15%\nAnswer: 15%", "Answer: 6 / 40 = 15%", "答案为：百分之15",
])
def test_right_answers(text: str) -> None:
    assert rule.verify(GROWTH, text).correct


@pytest.mark.parametrize("text", [
    "", "15%", "Answer:", "Answer: 15% = 0.15", "Answer: 15", "Answer: 0.15", "Answer: -15%", "Answer: (15%)",
    "Answer: 15.4%", "Answer: 1.5%",
    "Answer: 14% or 15%", "Answer: 14%\nAnswer: 15%", "Answer: 16% = 15%", "Answer: 1,5%", "Answer: 1.5.0%",
    "Answer: 15 million", "Answer: 15e0%", "Answer: about half", "To answer: see above", "Answer: 15% 16%",
])
def test_wrong_answers(text: str) -> None:
    assert not rule.verify(GROWTH, text).correct


@pytest.mark.parametrize("text", [
    "1200 million", "1,200 million", "$1.2 billion", "1.2bn", "1,200,000,000", "１．２ billion", "12 亿",
    "120,000 万元", "1200 百万", "USD 1200 million", "1200 million dollars", "¥1,200 million",
])
def test_the_same_amount_in_another_scale(text: str) -> None:
    assert rule.verify(DEBT, f"Answer: {text}").correct


@pytest.mark.parametrize("text", ["1200", "1.2 million", "1200 billion", "1200%", "12 万", "-1200 million",
                                  "(1200) million", "1200 times"])
def test_another_amount_or_no_scale(text: str) -> None:
    assert not rule.verify(DEBT, f"Answer: {text}").correct


@pytest.mark.parametrize(("gold", "given", "right"), [
    ("12 times", "12x", True), ("12 times", "12 倍", True), ("12 times", "12", False),
    ("12 times", "12 dollars", False),
    ("400 units", "400 units", True), ("400 units", "400", False), ("1.5 dollars", "$1.5", True),
    ("1.5 dollars", "1.5", True), ("1.5 dollars", "1.5 元", False), ("1.5 dollars", "1.5%", False),
    ("1.5 dollars", "1.5 dollars per share", True), ("18", "18 apples", True), ("-6.5", "(6.5)", True),
    ("-4.5%", "(4.5)%", True),
])
def test_units(gold: str, given: str, right: bool) -> None:
    answer = rule.final_answer(normalise(f"Answer: {given}"))
    assert rule.answers_match(gold, answer, exact=True) == right


@pytest.mark.parametrize(("gold", "given", "right"), [
    ("2.36", "2.364", True), ("2.36", "2.365", True), ("2.36", "2.366", False), ("18", "18.4", False),
    ("1.5 million", "1,549,000", True), ("1.5 million", "1,551,000", False), ("12.5%", "12.54%", True),
    ("12.5%", "12.56%", False),
])
def test_tolerance_is_half_a_unit_of_the_last_digit(gold: str, given: str, right: bool) -> None:
    answer = rule.final_answer(f"Answer: {given}")
    assert rule.answers_match(gold, answer, exact=False) == right


def test_a_gold_answer_that_is_no_number_raises() -> None:
    with pytest.raises(ValueError, match="not one number"):
        rule.answers_match("yes", None, exact=True)


# --------------------------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize("text", [
    "46 - 40 = 6\n6 / 40 = 15%", "46 million - 40 million = 6 million\n6 million ÷ 40 million = 15%",
    "(46 - 40) / 40 = 15%", "(46 - 40) / 40 = 6 / 40 = 15%", "46 − 40 = 6 million; 6 / 40 = 0.15",
    "46,000,000 - 40,000,000 = 6,000,000\n6 / 40 = 15%", "Change = 46 - 40 = 6 million, growth = 6/40 = 15%",
    "１．变化：４６－４０＝６百万\n增长：６／４０＝１５％", "46 / 40 = 115%\n115% - 100% = 15%", "",
])
def test_right_ways_to_the_answer(text: str) -> None:
    verdict = rule.verify(GROWTH, f"{text}\nAnswer: 15%")
    assert verdict.correct and verdict.first_error is None and all(verdict.steps_correct), verdict


def test_sums_may_be_in_any_order() -> None:
    for text in ("900 + 700 = 1600 million\n1600 - 400 = 1200 million", "700 - 400 + 900 = 1.2 billion",
                 "0.7 billion + 900 million = 1.6 billion\n1600 - 400 = 1200 million"):
        assert rule.verify(DEBT, f"{text}\nAnswer: 1200 million").first_error is None, text


@pytest.mark.parametrize(("text", "first", "kind"), [
    ("46 - 40 = 7 million\n7 / 40 = 17.5%\nAnswer: 17.5%", 0, "slipped_digit"),
    ("46 - 40 = 6 billion\n6 / 40 = 15%\nAnswer: 15%", 0, "lost_unit"),
    ("46 - 40 = 6 million\n6 / 40 = 15\nAnswer: 15", 1, "lost_unit"),
    ("46 - 40 = 6 million\n6 / 46 = 13%\nAnswer: 13%", 1, "wrong_fact"),
    ("46 - 12 = 34 million\n34 / 40 = 85%\nAnswer: 85%", 0, "wrong_fact"),
    ("40 - 46 = -6 million\n-6 / 40 = -15%\nAnswer: -15%", 0, "wrong_formula"),
    ("46 + 40 = 86 million\n86 / 40 = 215%\nAnswer: 215%", 0, "wrong_formula"),
    ("46 / 40 = 115%\nAnswer: 115%", 0, "skipped_step"),
    ("46 - 40 = 6 million\nAnswer: 6 million", 1, "skipped_step"),
    ("46 - 40 = 6 million\n6 / 40 = 15%\nAnswer: 15", 2, "lost_unit"),
    ("46 - 40 = 6 million\n6 / 40 = 15%\nAnswer: 18%", 2, None),
    ("46 - 40 = 6 million\n6 / 40 = 15%", 2, None),
    ("3 × 5 = 15 million\n6 / 40 = 15%\nAnswer: 15%", 0, None),
])
def test_the_first_error_and_its_kind(text: str, first: int, kind: str | None) -> None:
    verdict = rule.verify(GROWTH, text)
    assert (verdict.first_error, verdict.error_kind) == (first, kind), verdict
    assert all(verdict.steps_correct[:first])


def test_a_right_answer_by_wrong_steps_is_right_with_an_error() -> None:
    verdict = rule.verify(GROWTH, "46 - 40 = 7 million\n6 / 40 = 15%\nAnswer: 15%")
    assert verdict.correct and verdict.first_error == 0
    assert verdict.correction == "Change: 46 - 40 = 6 million"


def test_without_a_program_each_equation_stands_alone() -> None:
    text = "16 - 3 - 4 = <<16-3-4=9>>9 eggs\n9 * $2 = $18\n10 / 3 = 3.33\n#### 18"
    assert rule.verify(PLAIN, text).first_error is None
    verdict = rule.verify(PLAIN, "16 - 3 = 13\n13 * 2 = 28\n#### 18")
    assert (verdict.correct, verdict.first_error, verdict.error_kind) == (True, 1, "slipped_digit")
    assert verdict.steps_correct == (True, False)
    assert rule.verify(PLAIN, "6 / 40 = 15\n#### 17").error_kind == "lost_unit"


def test_a_question_that_cannot_be_read_raises() -> None:
    broken = Question(**{**GROWTH.to_json(), "id": "x", "steps": ("no equation", "6 / 40 = 15%")})
    with pytest.raises(ValueError, match="cannot read step 0"):
        rule.verify(broken, "Answer: 15%")


# ------------------------------------------------------------------------------------------------ numbers, limits


@given(st.integers(0, 10**12), st.integers(0, 3), st.booleans(), st.sampled_from(["", "%", " million", "亿", " 万元"]),
       st.booleans(), st.booleans())
def test_any_spelling_of_a_number_is_read(digits: int, places: int, grouped: bool, suffix: str, wide: bool,
                                          negative: bool) -> None:
    value = Fraction(digits, 10**places)
    text = f"{digits // 10**places:{',' if grouped else ''}}"
    if places:
        text += f".{digits % 10**places:0{places}}"
    size = {"": 1, "%": Fraction(1, 100), " million": 10**6, "亿": 10**8, " 万元": 10**4}[suffix]
    text = ("-" if negative else "") + text + suffix
    if wide:
        text = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" and not c.isalpha() else c for c in text)
    assert one(text) == value * size * (-1 if negative else 1)


@settings(max_examples=200)
@given(st.recursive(st.integers(1, 99).map(str), lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(
    lambda t: f"({t[0]} {t[1]} {t[2]})"), max_leaves=8))
def test_expressions_have_the_value_that_fractions_have(text: str) -> None:
    def reference(source: str) -> Fraction:
        source = source.strip()
        if not source.startswith("("):
            return Fraction(source)
        depth = 0
        for place, char in enumerate(source):
            depth += {"(": 1, ")": -1}.get(char, 0)
            if depth == 1 and char in "+-*/" and source[place - 1] == " ":
                a, b = reference(source[1:place]), reference(source[place + 1:-1])
                operation = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}[char]
                return operation(a, b)
        raise AssertionError(source)

    found = list(equations(f"{text} = 1"))
    if text.startswith("("):
        try:
            expected = reference(text)
        except ZeroDivisionError:
            assert compute(found[0].tree) is None
        else:
            assert compute(found[0].tree) == expected


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_no_text_is_an_accident(text: str) -> None:
    assert isinstance(rule.verify(GROWTH, text).correct, bool)
    assert isinstance(rule.verify(PLAIN, "Answer: " + text).correct, bool)


@pytest.mark.parametrize("text", [
    "1" * 5_000_000, "Answer: " + "9" * 19_000, "(" * 19_000 + "1 = 2", "1+" * 9_000 + "1 = 2", "=" * 19_000,
    "1 = " * 5_000, "- " * 9_000 + "= 1", "Answer: 1e999999999", "9e9999999 * 9 = 1\nAnswer: 7%",
    "1,1" * 6_000 + "= 1",
    "\x00\x1b[31mAnswer:\x07 7%", "answer " * 2_800, "(1" * 9_000 + " = 4", "百" * 19_000, "$" * 19_000 + "= 3",
    "1/0 = 3\nAnswer: 7%", "٣ + ٣ = ٦\nAnswer: ١٥%", "((" * 30 + "1" + "))" * 30 + " + 1 = 2", "a" * 19_000 + "=",
    "1 " * 9_000 + "= 1 ", "x" * 19_000 + "1=1",
    "Answer: " + "(" * 380 + "1 + 2", "-" * 390 + "1 + 2 = " + "(" * 380 + "3 = 4",
])
def test_hostile_text_is_wrong_quickly(text: str) -> None:
    start = time.process_time()
    assert not rule.verify(GROWTH, text).correct
    assert not rule.verify(PLAIN, text).correct
    assert time.process_time() - start < 20  # backtracking takes minutes or years


def test_a_number_of_too_many_digits_is_malformed() -> None:
    assert quantities("1" * MAX_DIGITS) is not None
    assert quantities("1" * (MAX_DIGITS + 1)) is None


@pytest.mark.parametrize(("text", "right"), [
    ("**Answer**: 15%", True), ("**Answer:** 15%", True), ("Answer:\n15%", True), ("so \\boxed{15\\%}", True),
    ("Answer: minus 15%", False), ("答案：负15%", False), ("答案：下降15%", False), ("The answer is not 15%", False),
    ("Answer: <15%", False), ("Answer: 15%%", False), ("Answer: 15%²", False), ("Answer:\n\n", False),
])
def test_how_other_models_write_an_answer(text: str, right: bool) -> None:
    assert rule.answers_match("15%", rule.final_answer(normalise(text)), exact=True) is right


def test_a_negative_answer_may_be_told_in_words() -> None:
    for text in ("Answer: minus 15%", "答案：负15%", "Answer: -15%", "Answer: negative 15%"):
        assert rule.answers_match("-15%", rule.final_answer(normalise(text)), exact=True)
    assert not rule.answers_match("20 万元", rule.final_answer(normalise("答案：20 万元%")), exact=True)
