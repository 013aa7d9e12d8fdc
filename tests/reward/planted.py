"""Solutions with one planted first error: of finance questions, and chains of GSM8K's in which a result is slipped and
carried on."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Iterator
from fractions import Fraction

from data import arithmetic
from data.finance import errors
from data.finance.generator import questions
from data.gsm8k import _FACTORS, _PLAIN
from data.schema import Question
from reward.steps import steps_of


@dataclasses.dataclass(frozen=True)
class Planted:
    """A wrong solution whose line `first_error` is the first wrong one."""

    question: Question
    text: str
    first_error: int

    @property
    def prefix(self) -> str:
        return "".join(steps_of(self.text)[:self.first_error])

    @property
    def step(self) -> str:
        return steps_of(self.text)[self.first_error]


def finance(count: int, *, seed: int = 1) -> Iterator[Planted]:
    draw = random.Random(seed)
    for question in questions("train", count=count, seed=seed):
        wrong = errors.corrupt(question, draw)
        yield Planted(question, wrong.text, wrong.first_error)


def number(value: Fraction) -> str | None:
    """A value as GSM8K writes one; None where it has no short decimal."""
    text = f"{float(value):.4f}".rstrip("0").rstrip(".")
    return text if Fraction(text) == value and value > 0 else None


def chain(question: Question, draw: random.Random) -> Planted | None:
    """The gold chain with one result off by a few, and all that hangs on it worked out from the wrong value.

    None where a later line's number cannot be told from others, or the answer comes out right all the same.
    """
    at = draw.randrange(len(question.steps))
    wrong: dict[str, Fraction] = {}
    lines = []
    for place, (line, expression) in enumerate(zip(question.steps, question.program, strict=True)):
        match = _PLAIN.search(line)
        left, sign, right = expression.split()
        if match is None:
            return None
        values = [wrong.get(name, Fraction(match[group].replace(",", ""))) for name, group in ((left, 1), (right, 3))]
        if sign == "/" and values[1] == 0:
            return None
        result = arithmetic.apply(sign, *values)
        if place == at:
            result += draw.choice((1, 2, 10, -1))
        if result != Fraction(match[4].replace(",", "")):
            wrong[f"s{place + 1}"] = result
        texts = [number(value) for value in (*values, result)]
        if None in texts or any(match[4] in part for part in (line[:match.start()], line[match.end():])):
            return None
        lines.append(f"{line[:match.start()]}{texts[0]} {sign} {texts[1]} = {texts[2]}{line[match.end():]}")
    answer = number(wrong.get(f"s{len(lines)}", Fraction(0)))
    if answer is None:
        return None
    return Planted(question, "\n".join([*lines, f"#### {answer}"]), at)


def chains(rows: list[Question], *, seed: int = 0) -> Iterator[Planted]:
    draw = random.Random(seed)
    assert set(_FACTORS.values()) == {"*"}
    for question in rows:
        if question.program and (planted := chain(question, draw)) is not None:
            yield planted


def other_words(step: str) -> str:
    """The step as a careless judge might quote it: other white space."""
    return re.sub(r"\s+", "  ", step).strip()
