"""Worked solutions with one mistake, as models make them: for judges, reward models and tests.

The mistake is made in one step (or in the answer line) and carried on: later steps use the wrong value. The final
answer is wrong in every corruption. `first_error` counts steps from 0, the answer line stands after the last step.
"""

from __future__ import annotations

import dataclasses
import random
from fractions import Fraction

from data.finance.generator import SYMBOLS
from data.finance.kinds import apply, number, parse_step, significant, value_of
from data.finance.wording import ANSWER, SCALES, UNITS
from data.schema import Question

ERROR_KINDS = ("wrong_fact", "wrong_formula", "slipped_digit", "lost_unit", "skipped_step")
_TRIES = 40


@dataclasses.dataclass(frozen=True, slots=True)
class Corruption:
    text: str
    error_kind: str  # one of ERROR_KINDS
    first_error: int  # index of the first wrong line


def _rounded(value: Fraction, percent: bool) -> Fraction:
    """What a person would write down: two decimals, for percent one."""
    unit = Fraction(1, 1000) if percent else Fraction(1, 100)
    return value if significant(value) is not None and value % unit == 0 else round(value / unit) * unit


def _suffix(result: str) -> str:
    """What follows the number of a result, ` million` or `%`."""
    return result.lstrip("-0123456789.")


class _Work:
    """A solution in the making: the values so far, and the lines."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.written = dict(question.facts)
        self.lines: list[str] = []

    def step(self, index: int, *, names: tuple[str, str, str] | None = None, slip: random.Random | None = None,
             suffix: str | None = None) -> bool:
        """Write step `index`, with other operands or operator or a slipped digit; False where it cannot be done."""
        left, operator, right = names or parse_step(self.question.program[index])
        label, gold = self.question.steps[index].split(": ", 1)
        suffix = _suffix(gold.split(" = ")[1]) if suffix is None else suffix
        a, b = self.written.get(left, left), self.written.get(right, right)
        if operator == "/" and value_of(b) == 0:
            return False
        percent = suffix == "%"
        value = _rounded(apply(operator, value_of(a), value_of(b)), percent)
        if slip is not None:
            value = _slipped(value * 100 if percent else value, slip) / (100 if percent else 1)
        if value <= 0 or value > 10**6:
            return False
        self.written[f"s{index + 1}"] = number(value)
        self.lines.append(f"{label}: {a} {SYMBOLS[operator]} {b} = {number(value * 100 if percent else value)}{suffix}")
        return True

    def finish(self, answer: str | None = None) -> str:
        answer = self.lines[-1].split(" = ")[1] if answer is None else answer
        return "\n".join([*self.lines, f"{ANSWER[self.question.language]} {answer}"])


def _slipped(value: Fraction, draw: random.Random) -> Fraction:
    """`value` with one other digit."""
    digits = list(number(value))
    places = [i for i, d in enumerate(digits) if d.isdigit()]
    first = next((i for i in places if digits[i] != "0"), places[0])
    place = draw.choice([i for i in places if i >= first and (digits[i] != "0" or len(places) == 1)] or places)
    old = int(digits[place])
    digits[place] = str(draw.choice([d for d in {(old + 1) % 10, (old - 1) % 10, (old + 2) % 10, (old + 5) % 10}
                                     if d != old and (d or place != first)]))
    return Fraction("".join(digits))


def _wrong_names(work: _Work, index: int, draw: random.Random, *, formula: bool) -> tuple[str, str, str] | None:
    """Step `index` with another operation, or with one fact in place of another, or with a fact misread."""
    question = work.question
    left, operator, right = parse_step(question.program[index])
    if formula:
        if operator in "-/" and draw.random() < 0.3:
            return right, operator, left
        return left, draw.choice([o for o in "+-*/" if o != operator]), right
    known = {name: value_of(text) for name, text in question.facts.items()}
    place = draw.choice([name for name in (left, right) if name in known] or [""])
    others = [name for name, value in known.items() if place and name not in (left, right) and value != known[place]
              and question.facts[name].endswith("%") == question.facts[place].endswith("%")]
    if not place:
        return None
    if not others or draw.random() < 0.2:
        mark = "%" if question.facts[place].endswith("%") else ""
        work.written["misread"] = number(_slipped(value_of(question.facts[place]) * (100 if mark else 1), draw)) + mark
        others = ["misread"]
    other = draw.choice(others)
    return (other, operator, right) if place == left else (left, operator, other)


def _skipped_step(question: Question, draw: random.Random) -> Corruption | None:
    """The last step is never made, or the first one is not and its fact stands in for its result."""
    last = len(question.program) - 1
    work = _Work(question)
    if last == 0:
        return None
    if draw.random() < 0.5:
        return Corruption(work.finish(), "skipped_step", last) if all(work.step(i) for i in range(last)) else None
    left, operator, right = parse_step(question.program[1])
    stand_in = parse_step(question.program[0])[0]
    if stand_in in (left, right) or any("s1" in parse_step(e) for e in question.program[2:]):
        return None
    names = (stand_in if left == "s1" else left, operator, stand_in if right == "s1" else right)
    made = work.step(1, names=names) and all(work.step(i) for i in range(2, last + 1))
    return Corruption(work.finish(), "skipped_step", 0) if made else None


def _lost_unit(question: Question, draw: random.Random) -> Corruption | None:
    """The answer has no unit, or (a currency may be left out) a wrong one; or the last step has another scale."""
    last = len(question.program) - 1
    work, suffix, scales = _Work(question), _suffix(question.answer), SCALES[question.language]
    scale = next((s for s in scales if suffix.strip().startswith(s)), None)
    if scale is not None and draw.random() < 0.5:
        other = suffix.replace(scale, draw.choice([s for s in scales if s != scale]))
        made = all(work.step(i, suffix=other if i == last else None) for i in range(last + 1))
        return Corruption(work.finish(), "lost_unit", last) if made else None
    if not all(work.step(i) for i in range(last + 1)):
        return None
    optional = suffix == UNITS[question.language]["price"]
    wrong = draw.choice(("%", f" {scales[0]}")) if optional else ""
    return Corruption(work.finish(question.answer.removesuffix(suffix) + wrong), "lost_unit", last + 1)


def _attempt(question: Question, error_kind: str, draw: random.Random) -> Corruption | None:
    """One try at a mistake; None where it cannot be made in the drawn place."""
    if error_kind == "skipped_step":
        return _skipped_step(question, draw)
    if error_kind == "lost_unit":
        return _lost_unit(question, draw)
    work = _Work(question)
    at = draw.randrange(len(question.program))
    for index in range(len(question.program)):
        if index != at:
            made = work.step(index)
        elif error_kind == "slipped_digit":
            made = work.step(index, slip=draw)
        else:
            names = _wrong_names(work, index, draw, formula=error_kind == "wrong_formula")
            made = names is not None and work.step(index, names=names)
        if not made:
            return None
    return Corruption(work.finish(), error_kind, at)


def _harmless(question: Question, corruption: Corruption) -> bool:
    """Whether the mistake happened to lead to the right answer, or to a line that is right in another place."""
    lines = corruption.text.split("\n")
    if lines[-1] == f"{ANSWER[question.language]} {question.answer}":
        return True
    if corruption.error_kind == "lost_unit" or corruption.first_error == len(lines) - 1:
        return False
    gold = {_bare(step.split(": ", 1)[1]) for step in question.steps}
    return _bare(lines[corruption.first_error].split(": ", 1)[1]) in gold


def _bare(body: str) -> str:
    """`46 - 40 = 6` of `46 - 40 = 6 million`."""
    return body.removesuffix(_suffix(body.split(" = ")[1]))


def corrupt(question: Question, rng: random.Random, *, error_kind: str | None = None) -> Corruption:
    """One wrong solution of a finance question, of `error_kind` or of a drawn one.

    Raises ValueError where the question has no program, or cannot go wrong in the asked way (a question of one step
    skips none).
    """
    if not question.program:
        raise ValueError(f"corrupt: question {question.id} has no program")
    if error_kind is not None and error_kind not in ERROR_KINDS:
        raise ValueError(f"corrupt: {error_kind!r} is not one of {list(ERROR_KINDS)}")
    for _ in range(_TRIES):
        chosen = error_kind or rng.choice(ERROR_KINDS)
        found = _attempt(question, chosen, rng)
        if found is not None and not _harmless(question, found):
            return found
    raise ValueError(f"corrupt: question {question.id} of kind {question.kind} cannot have the error {error_kind}")
