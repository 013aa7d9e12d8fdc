"""Derivations are read strictly, computed exactly and worked out in steps whose program gives the same."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.arithmetic import (
    MAX_DEPTH,
    MAX_LENGTH,
    Number,
    Operation,
    apply,
    decimal,
    in_percent,
    parse,
    rounded,
    value,
    work,
)


@pytest.mark.parametrize(("text", "amount"), [
    ("(1,452.4-1,146.2)/1,146.2", Fraction(3062, 11462)),
    ("44.1-56.7", Fraction(-126, 10)),
    ("-2,235-(-6,986)", Fraction(4751)),
    ("[(166+178)/2] - [(57+44)/2]", Fraction(243, 2)),
    ("34% + 11%", Fraction(45, 100)),
    ("60.3 million + 32,137 thousand ", Fraction(92_437_000)),
    ("126 / 67 - 1", Fraction(59, 67)),
    ("2 + 3 * 4", Fraction(14)),
    ("8 / 4 / 2", Fraction(1)),
    ("10 - 4 - 3", Fraction(3)),
    ("-(1,172 + 1,212)", Fraction(-2384)),
    ("$5,121 +$(-5,946)", Fraction(-825)),
    (".5 × 4", Fraction(2)),
])
def test_values(text: str, amount: Fraction) -> None:
    assert value(parse(text)) == amount


@pytest.mark.parametrize(("text", "message"), [
    ("", "ends too early"), ("1 +", "ends too early"), ("(1 + 2", "closing parenthesis"), ("1 2", "goes on"),
    ("1 + a", "cannot read 'a'"), ("2 ** 3", "where a number should be"), ("1,2,3", "goes on|cannot read"),
    ("__import__('os')", "cannot read"), ("(" * (MAX_DEPTH + 2) + "1", "nested too deep"),
    ("-" * (MAX_DEPTH + 2) + "1", "nested too deep"), ("1+" * MAX_LENGTH + "1", "longer than"),
])
def test_what_is_no_derivation_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_division_by_zero_is_an_error_of_its_own() -> None:
    with pytest.raises(ZeroDivisionError):
        value(parse("1 / (2 - 2)"))


@pytest.mark.parametrize(("amount", "places", "text"), [
    (Fraction(-126, 10), 2, "-12.6"), (Fraction(1, 3), 2, "0.33"), (Fraction(5, 1000), 2, "0.01"),
    (Fraction(-5, 1000), 2, "-0.01"), (Fraction(40), 2, "40"), (Fraction(-1, 1000), 2, "0"),
    (Fraction(1200), 0, "1200"),
])
def test_decimals(amount: Fraction, places: int, text: str) -> None:
    assert decimal(amount, places) == text
    assert rounded(amount, places) == Fraction(text)


def test_steps_facts_and_program() -> None:
    done = work(parse("(44.1-56.7)/56.7"), result="-22.22%")
    assert done.lines == ("44.1 - 56.7 = -12.6", "-12.6 / 56.7 = -22.22%")
    assert done.program == ("n1 - n2", "s1 / n2")
    assert done.facts == {"n1": "44.1", "n2": "56.7"}
    assert done.operators == ("-", "/")


def test_constants_are_no_facts_and_percentages_stay_percentages() -> None:
    done = work(parse("(2.7%+2.0%)/2"), result="2.35%", constants=frozenset({Fraction(2)}))
    assert done.lines == ("2.7% + 2.0% = 4.7%", "4.7% / 2 = 2.35%")
    assert done.program == ("n1 + n2", "s1 / 2")


def test_negative_operands_on_the_right_are_bracketed() -> None:
    assert work(parse("1 - (-2)"), result="3").lines == ("1 - (-2) = 3",)


def test_a_bare_number_is_no_working() -> None:
    with pytest.raises(ValueError, match="no operation"):
        work(parse("1,452.4"), result="x")


@pytest.mark.parametrize(("text", "percent"), [
    ("34 + 11", 45), ("(1 + 2) / 2", Fraction(3, 2)), ("1 / 4 * 100", 25), ("100 * (1 / 4)", 25)])
def test_in_percent_divides_the_value_by_a_hundred(text: str, percent: Fraction) -> None:
    tree = parse(text)
    assert value(tree) == percent
    assert value(in_percent(tree)) == Fraction(percent) / 100


numbers = st.integers(1, 9999).map(lambda n: Number(f"{n:,}"))
trees = st.recursive(numbers, lambda inner: st.builds(Operation, st.sampled_from("+-*"), inner, inner), max_leaves=6)


@settings(max_examples=60, deadline=None)
@given(trees.filter(lambda tree: isinstance(tree, Operation)))
def test_the_program_gives_the_value_of_the_tree(tree: Operation) -> None:
    done = work(tree, result=decimal(value(tree), 0))
    values = {name: Number(text).value for name, text in done.facts.items()}
    for index, expression in enumerate(done.program):
        left, operator, right = expression.split()
        values[f"s{index + 1}"] = apply(operator, values[left], values[right])
    assert values[f"s{len(done.program)}"] == value(tree)
    for line in done.lines:
        left_side, right_side = line.split(" = ")
        assert value(parse(left_side)) == value(parse(right_side))
