"""The kinds of finance question: what each one computes and which operands it may have.

A kind is a row of `KINDS`: its facts, its program (one binary operation a step), the unit of every step and a function
that lists all its operands. The lists are built backwards from short results, so that every result can be written
exactly with few digits. The module knows no wording (`wording.py`) and draws no questions (`generator.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Literal

from data.schema import Split, content_id

Unit = Literal["money", "percent", "price", "times", "units"]
Operands = tuple[str, ...]  # the facts' numbers as written, in the order of `Kind.facts`
MAGNITUDES = (-1, 0, 1)  # operands are written as 4.6, 46 and 460
MOST = 2500  # operand tuples kept for a kind
remembered = functools.lru_cache(maxsize=2**16)  # few numbers are written and read again and again


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """`Kind("net_margin", ("profit", "revenue"), ("profit / revenue",), ("percent",), _net_margin)`."""

    name: str
    facts: tuple[str, ...]
    program: tuple[str, ...]  # expressions over the facts, s1, s2, ... and small constants
    units: tuple[Unit, ...]  # of each step's result
    operands: Callable[[], Iterable[Operands]]


# ---------------------------------------------------------------------------------------------- numbers and splits


def number(value: Fraction | int) -> str:
    """`value` as a plain decimal: 4.6, 46, 460. It must terminate."""
    return _decimal(value.numerator, value.denominator)


@remembered
def _decimal(numerator: int, denominator: int) -> str:
    text = f"{Decimal(numerator) / Decimal(denominator):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@remembered
def value_of(text: str) -> Fraction:
    """The exact value of a number as written; "5%" is 1/20."""
    return Fraction(text[:-1]) / 100 if text.endswith("%") else Fraction(text)


@remembered
def significant(value: Fraction) -> int | None:
    """How many significant digits `value` needs, trailing zeros not counted; None where it does not terminate."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return None if rest != 1 else len(number(abs(value)).replace(".", "").strip("0")) or 1


def operand_key(operands: Iterable[str]) -> str:
    """The id of the sorted values alone: kind, wording, company, language and order do not matter."""
    return _key(tuple(operands))


@remembered
def _key(operands: Operands) -> str:
    return content_id(*[text for *_, text in sorted(map(_magnitude, operands))])


@remembered
def _magnitude(operand: str) -> tuple[float, bool, str]:
    """What operands are sorted by, and the text of the value: "46.0" and "46" are one."""
    value, is_percent = Fraction(operand.rstrip("%")), operand.endswith("%")
    return float(value), is_percent, number(value) + "%" * is_percent


@remembered
def split_of(key: str) -> Split:
    """Two buckets of ten are the test split, one is the dev split, the rest is for training."""
    bucket = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % 10
    return "test" if bucket < 2 else "dev" if bucket == 2 else "train"


@remembered
def parse_step(expression: str) -> tuple[str, str, str]:
    """One step of a program as (left, operator, right)."""
    match = re.fullmatch(r"(\w+) ([-+*/]) (\w+)", expression)
    assert match, expression
    return match[1], match[2], match[3]


def apply(operator: str, left: Fraction, right: Fraction) -> Fraction:
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    return left * right if operator == "*" else left / right


def evaluate(program: Sequence[str], facts: dict[str, str]) -> list[tuple[Fraction, str, Fraction, Fraction]]:
    """The (left, operator, right, result) of every step, exactly."""
    values = {name: value_of(text) for name, text in facts.items()}
    done = []
    for index, expression in enumerate(program):
        left, operator, right = parse_step(expression)
        a, b = (values[name] if name in values else Fraction(name) for name in (left, right))
        values[f"s{index + 1}"] = result = apply(operator, a, b)
        done.append((a, operator, b, result))
    return done


# ---------------------------------------------------------------------------------------------- the operand lists


def _short(value: Fraction, digits: int = 2, *, places: int = 2) -> bool:
    needed = significant(value)
    return needed is not None and needed <= digits and value.numerator * 10**places % value.denominator == 0


def _percent(part: int, whole: int, *, low: int = 1, high: int = 90) -> bool:
    """Whether part / whole is a whole or half number of percent within bounds."""
    return part * 200 % whole == 0 and low * whole <= part * 100 <= high * whole


def _scaled(values: Sequence[int], magnitudes: Sequence[int] = MAGNITUDES) -> Iterator[Operands]:
    for magnitude in magnitudes:
        yield tuple(_shifted(value, magnitude) for value in values)


@remembered
def _shifted(value: int, magnitude: int) -> str:
    return number(value * Fraction(10) ** magnitude)


def _growth() -> Iterator[Operands]:
    for old in range(10, 99):
        for new in range(old + 1, 100):
            if _percent(new - old, old, high=100):
                yield from _scaled((new, old))


def _net_margin() -> Iterator[Operands]:
    for revenue in [*range(10, 100), *range(100, 1000, 50)]:
        for profit in range(1, min(100, revenue)):
            if significant(Fraction(revenue)) in (1, 2) and _percent(profit, revenue, high=60):
                yield from _scaled((profit, revenue), (-1, 0) if revenue > 99 else MAGNITUDES)


def _gross_margin() -> Iterator[Operands]:
    for revenue in range(10, 100):
        for cost in range(2, revenue):
            if _percent(revenue - cost, revenue, low=2):
                yield from _scaled((revenue, cost))


def _eps() -> Iterator[Operands]:
    for shares in [*range(2, 10), *range(10, 100, 5)]:
        for profit in [*range(2, 100), *range(100, 1000, 10)]:
            eps = Fraction(profit, shares)
            if eps != 1 and _short(eps) and Fraction(1, 5) <= eps < 50:
                yield from _scaled((profit, shares), (0, 1) if profit < 100 else (0,))


def _pe_ratio() -> Iterator[Operands]:
    for tenths in [*range(2, 10), *range(10, 80, 10)]:
        eps = Fraction(tenths, 10)
        for shares in [*range(2, 10), *range(10, 100, 10)]:
            for ratio in range(4, 41):
                price, profit = eps * ratio, eps * shares
                if price <= 99 and _short(price) and _short(profit):
                    yield number(price), number(profit), number(shares)


def _dividend_yield() -> Iterator[Operands]:
    for cents in [*range(2, 100), *range(100, 500, 10)]:
        for price in [*range(2, 100), *range(100, 1000, 10)]:
            if _percent(cents * 4, price * 100, high=20):
                yield number(Fraction(cents, 100)), number(price)


def _net_debt() -> Iterator[Operands]:
    draw = random.Random("net_debt")
    for _ in range(1500):
        total = draw.randint(12, 99)
        short = draw.randint(2, total - 2)
        cash = draw.randint(2, total - 2)
        yield from _scaled((short, total - short, cash))


def _simple_interest() -> Iterator[Operands]:
    for hundreds in [*range(1, 10), *range(10, 65, 5)]:
        for rate in range(1, 10):
            for years in range(2, 10):
                for principal in (hundreds * 100, hundreds * 10):
                    interest = Fraction(principal * rate, 100)
                    if _short(interest, places=1) and _short(interest * years, 3, places=1):
                        yield number(principal), f"{rate}%", number(years)


def _purchase_cost() -> Iterator[Operands]:
    for shares in [*range(10, 100, 10), *range(100, 1000, 100)]:
        for price in [*range(2, 13), 15, 20, 25, 30, 40, 50]:
            for fee in range(5, 50, 5) if shares < 100 else range(10, 100, 10):
                most = 1000 if shares < 100 else 10000
                if shares * price < most and significant(Fraction(shares * price + fee)) in (2, 3):
                    yield number(shares), number(price), number(fee)


def _current_ratio() -> Iterator[Operands]:
    draw = random.Random("current_ratio")
    for liabilities in [*range(2, 31), *range(35, 70, 5)]:
        for twentieths in [*range(16, 81, 2), 25, 35, 15]:
            total = Fraction(liabilities * twentieths, 20)
            if total.denominator == 1 and 4 <= total < 100:
                for cash in draw.sample(range(1, int(total)), min(5, int(total) - 1)):
                    yield from _scaled((cash, int(total) - cash, liabilities))


def _dividend_per_share() -> Iterator[Operands]:
    for profit in [*range(2, 100), *range(100, 1000, 20)]:
        for payout in (10, 20, 25, 30, 40, 50, 60, 70, 75, 80):
            paid = Fraction(profit * payout, 100)
            if _short(paid, places=1) and significant(Fraction(profit)) in (1, 2):
                for shares in [*range(2, 10), *range(10, 100, 10)]:
                    if paid != shares and _short(paid / shares) and paid / shares >= Fraction(1, 10):
                        yield number(profit), f"{payout}%", number(shares)


def _break_even() -> Iterator[Operands]:
    draw = random.Random("break_even")
    for margin in [*range(2, 10), *range(10, 60, 5)]:
        for fixed in [*range(20, 100, 4), *range(100, 1000, 20), *range(1000, 10000, 200)]:
            units = Fraction(fixed, margin)
            if units.denominator == 1 and units >= 4 and significant(units) in (1, 2) and _short(Fraction(fixed)):
                for variable in draw.sample(range(2, 100 - margin), 4):
                    yield number(fixed), number(margin + variable), number(variable)


def _depreciation() -> Iterator[Operands]:
    draw = random.Random("depreciation")
    for years in range(2, 11):
        for loss in range(4, 98):
            if _short(Fraction(loss, years), places=1) and loss != years:
                for salvage in draw.sample(range(1, 100 - loss), min(3, 99 - loss)):
                    cost, rest = loss + salvage, salvage
                    yield number(cost), number(rest), number(years)
                    yield number(cost * 10), number(rest * 10), number(years)


def _market_cap() -> Iterator[Operands]:
    for shares in [*range(2, 10), *range(10, 100, 10)]:
        for price in range(2, 100):
            if significant(Fraction(shares * price)) in (1, 2, 3) and shares != price:
                yield number(price), number(shares)
                if shares < 10 and price % 10:
                    yield number(Fraction(price, 10)), number(shares)


def _return_on_equity() -> Iterator[Operands]:
    draw = random.Random("return_on_equity")
    for equity in range(5, 90):
        for profit in range(1, equity):
            if _percent(profit, equity, low=2, high=60):
                for liabilities in draw.sample(range(2, 101 - equity), min(3, 99 - equity)):
                    if equity + liabilities < 100:
                        yield from _scaled((profit, equity + liabilities, liabilities))


def _after_tax_profit() -> Iterator[Operands]:
    draw = random.Random("after_tax_profit")
    for profit in range(2, 95):
        for rate in (5, 10, 15, 20, 25, 30, 40):
            tax = Fraction(profit * rate, 100)
            if _short(tax, places=1) and _short(profit - tax, places=1):
                for cost in draw.sample(range(2, 100 - profit), min(6, 98 - profit)):
                    for magnitude in (1, 10):
                        yield number((profit + cost) * magnitude), number(cost * magnitude), f"{rate}%"


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("revenue_growth", ("new", "old"), ("new - old", "s1 / old"), ("money", "percent"), _growth),
        Kind("net_margin", ("profit", "revenue"), ("profit / revenue",), ("percent",), _net_margin),
        Kind("gross_margin", ("revenue", "cost"), ("revenue - cost", "s1 / revenue"), ("money", "percent"),
             _gross_margin),
        Kind("eps", ("profit", "shares"), ("profit / shares",), ("price",), _eps),
        Kind("pe_ratio", ("price", "profit", "shares"), ("profit / shares", "price / s1"), ("price", "times"),
             _pe_ratio),
        Kind("dividend_yield", ("dividend", "price"), ("dividend * 4", "s1 / price"), ("price", "percent"),
             _dividend_yield),
        Kind("net_debt", ("short", "long", "cash"), ("short + long", "s1 - cash"), ("money", "money"), _net_debt),
        Kind("simple_interest", ("principal", "rate", "years"), ("principal * rate", "s1 * years"), ("money", "money"),
             _simple_interest),
        Kind("purchase_cost", ("shares", "price", "fee"), ("shares * price", "s1 + fee"), ("price", "price"),
             _purchase_cost),
        Kind("current_ratio", ("cash", "receivables", "liabilities"), ("cash + receivables", "s1 / liabilities"),
             ("money", "times"), _current_ratio),
        Kind("dividend_per_share", ("profit", "payout", "shares"), ("profit * payout", "s1 / shares"),
             ("money", "price"), _dividend_per_share),
        Kind("break_even", ("fixed", "price", "variable"), ("price - variable", "fixed / s1"), ("price", "units"),
             _break_even),
        Kind("depreciation", ("cost", "salvage", "years"), ("cost - salvage", "s1 / years"), ("money", "money"),
             _depreciation),
        Kind("market_cap", ("price", "shares"), ("price * shares",), ("money",), _market_cap),
        Kind("return_on_equity", ("profit", "assets", "liabilities"), ("assets - liabilities", "profit / s1"),
             ("money", "percent"), _return_on_equity),
        Kind("after_tax_profit", ("revenue", "cost", "rate"), ("revenue - cost", "s1 * rate", "s1 - s2"),
             ("money", "money", "money"), _after_tax_profit),
    )
}


@functools.cache
def operand_space(kind: str) -> tuple[tuple[Operands, str], ...]:
    """All operands of a kind with their key, at most `MOST`, in a fixed random order."""
    found = list(dict.fromkeys(KINDS[kind].operands()))
    random.Random(kind).shuffle(found)
    return tuple((operands, operand_key(operands)) for operands in found[:MOST])
