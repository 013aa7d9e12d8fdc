"""The exact rule: is an answer right, which step is the first wrong one, and what went wrong.

    verify(question, "Change: 46 - 40 = 6 million\\nGrowth: 6 / 40 = 15%\\nAnswer: 15%")

**The answer** is the quantity after a marker (`Answer:`, `The answer is`, `答案：`, `####`, `\\boxed{`) and on its
line, or on the next where the marker ends its own. None, a malformed or hedged one (not, <, a fall of), or two
different ones are wrong. Quantities are equal when their values are, so 1,200 million is 1.2 billion; 15% is not 0.15;
a scale, percent sign or counted unit (times, units) that the gold answer has must be there, a currency need not.
**Tolerance**: none for generated finance questions and for whole-number golds, which are exact; otherwise half a unit
of the gold answer's last digit.
**Steps** are the equations before the answer. With a program each must have its operands and its operation (in any
order that means the same, steps merged or not) and its exact result; a result may be a fraction for a percent and may
leave the scale out. Without a program each equation must hold within half a unit of its last written digit.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from fractions import Fraction

from data.schema import Question, Verdict
from reward.arithmetic import (
    CURRENCIES,
    Equation,
    Quantity,
    Tree,
    compute,
    equations,
    is_expression,
    leaves,
    normalise,
    quantities,
)

MAX_TEXT = 20_000  # characters; a longer answer is wrong
MAX_STEPS = 100
_MARKER = re.compile(r"(?:\bfinal\s{0,3})?\banswer[\s*_]{0,5}(?::|is\b:?)|答案[\s*_]{0,5}(?::|[是为]:?)|####|\\boxed\{",
                     re.IGNORECASE)
_UNSURE = re.compile(r"\bnot\b|n't\b|[<>≠≈~²³^]|下降|减少|降低|\b(?:decreas|declin|drop|fall|fell|loss)", re.IGNORECASE)
_MINUS = re.compile(r"(?:\b(?:minus|negative)\s{1,3}|负\s?)(?=[\d$¥€£.])", re.IGNORECASE)
_CONSTANTS = tuple(Fraction(n) for n in (1, 2, 4, 12, 100))

Canonical = tuple[object, ...]


# ------------------------------------------------------------------------------------------------------ answers


def final_answer(text: str) -> Quantity | None:
    """The one quantity after the answer marker of normalised `text`; None where there is none or no single one."""
    found: list[Quantity] = []
    lines = text.replace("\\%", "%").replace("\\$", "$").split("\n")
    for number, line in enumerate(lines):
        segments = _MARKER.split(line)[1:]
        if segments and not segments[-1].strip(" *_"):  # the answer stands on the next line
            segments[-1] = next((below for below in lines[number + 1:] if below.strip()), "")
        for segment in segments:
            if _UNSURE.search(segment):
                return None
            for part in _MINUS.sub("-", segment).split("="):
                here = quantities(part)
                if here is None:
                    return None
                found += here if len(here) < 2 or not is_expression(part) else []
    distinct = {(q.value, q.percent, q.unit if q.unit not in CURRENCIES else None) for q in found}
    return found[0] if len(distinct) == 1 else None


def before_answer(text: str) -> str:
    """Normalised `text` up to its first answer marker: where its steps are."""
    marker = _MARKER.search(text)
    return text[:marker.start()] if marker else text


def answers_match(gold: str, given: Quantity | None, *, exact: bool) -> bool:
    """Whether `given` is the gold answer, see the module's docstring. A gold that is no single quantity raises."""
    read = quantities(normalise(gold))
    if not read or len(read) != 1:
        raise ValueError(f"the gold answer {gold!r} is not one number with its unit")
    want = read[0]
    if given is None or given.percent != want.percent:
        return False
    if want.unit is not None and want.unit != given.unit and not (want.unit in CURRENCIES and given.unit is None):
        return False
    tolerance = Fraction(0) if exact or not want.digits else want.half_unit
    return abs(given.value - want.value) <= tolerance


# ------------------------------------------------------------------------------------------------- gold programs


def _canonical(tree: Tree) -> Canonical:
    """One form for all orders that mean the same: sums of signed terms, products of factors and divisors."""
    if isinstance(tree, Quantity):
        return ("n", tree.value)
    operator, left, right = tree
    group, invert = ("+", "-") if operator in "+-" else ("*", "/")
    parts: list[tuple[str, Canonical]] = []

    def collect(node: Tree, inverted: bool) -> None:
        if not isinstance(node, Quantity) and node[0] in (group, invert):
            collect(node[1], inverted)
            collect(node[2], inverted ^ (node[0] == invert))
        else:
            parts.append((invert if inverted else group, _canonical(node)))

    collect((operator, left, right), False)
    return (group, *sorted(parts, key=repr))


@dataclasses.dataclass(frozen=True, slots=True)
class _Gold:
    """A question's program in numbers."""

    trees: tuple[tuple[str, Fraction, Fraction], ...]  # each step over the values of its operands
    results: tuple[Quantity, ...]  # as the gold steps write them
    forms: tuple[frozenset[Canonical], ...]  # each step with earlier steps as values or written out
    known: frozenset[Fraction]  # facts and constants
    small: frozenset[Fraction]  # facts and results without their scale word
    scale: int | None  # the scale word of the facts


@functools.lru_cache(maxsize=4096)
def _gold(question_id: str, facts: tuple[tuple[str, str], ...], program: tuple[str, ...],
          steps: tuple[str, ...]) -> _Gold:
    values = {name: read[0] for name, text in facts if (read := quantities(normalise(text)))}
    written: dict[str, list[Tree]] = {name: [value] for name, value in values.items()}
    if len(values) != len(facts) or len(steps) != len(program):
        raise ValueError(f"question {question_id}: the facts are no numbers, or steps and program differ in length")
    trees: list[tuple[str, Fraction, Fraction]] = []
    results: list[Quantity] = []
    forms: list[frozenset[Canonical]] = []
    for index, (expression, step) in enumerate(zip(program, steps, strict=True)):
        match = re.fullmatch(r"\s*(\w+)\s*([-+*/])\s*(\w+)\s*", expression)
        found = list(equations(normalise(step)))
        if match is None or len(found) != 1:
            raise ValueError(f"question {question_id}: cannot read step {index} {step!r} or its program {expression!r}")
        left, right = (written[n] if n in written else [Quantity(Fraction(n))] for n in (match[1], match[3]))
        a, b, value = compute(left[0]), compute(right[0]), compute((match[2], left[0], right[0]))
        if a is None or b is None or value is None:
            raise ValueError(f"question {question_id}: step {index} divides by zero")
        versions: list[Tree] = [(match[2], one, other) for one in left for other in right]
        trees.append((match[2], a, b))
        results.append(found[0].result)
        forms.append(frozenset(_canonical(v) for v in versions))
        written[f"s{index + 1}"] = [Quantity(value), *versions]
    scales = [q.scale for q in results if q.scale is not None]
    known = frozenset(q.value for q in values.values()) | frozenset(_CONSTANTS)
    return _Gold(trees=tuple(trees), results=tuple(results), forms=tuple(forms), known=known,
                 small=known | {q.number for q in results}, scale=scales[0] if scales else None)


def _without_scales(tree: Tree, gold: _Gold) -> Tree:
    """The tree in the scale of the facts: 46 million - 40 million and 46,000,000 - 40,000,000 as 46 - 40."""
    found = {q.scale for q in leaves(tree)} - {None}
    shared = len(found) == 1 and gold.scale in (None, *found)
    size = 10 ** (gold.scale or 0)

    def convert(node: Tree) -> Tree:
        if not isinstance(node, Quantity):
            return (node[0], convert(node[1]), convert(node[2]))
        if node.percent or (node.scale is None and (abs(node.number) < size or node.number in gold.small)):
            return node
        return Quantity(node.number if node.scale is not None and shared else node.value / size)

    return convert(tree)


def _right_result(want: Quantity, given: Quantity) -> bool:
    if given.scale is None and not given.percent and not want.percent:
        return given.number == want.number or given.value == want.value
    return given.value == want.value


# -------------------------------------------------------------------------------------------------------- steps


def _judge_steps(gold: _Gold, found: list[Equation]) -> tuple[list[bool], int]:
    """Each equation against the program, and how many steps of the program were reached before the first error."""
    right: list[bool] = []
    place, reached = 0, None
    for equation in found:
        form = _canonical(_without_scales(equation.tree, gold))
        order = [*range(place, len(gold.forms)), *range(place)]
        index = next((i for i in order if form in gold.forms[i] and _right_result(gold.results[i], equation.result)),
                     None)
        right.append(index is not None)
        if index is None and reached is None:
            reached = place
        place = min(place + 1, len(gold.forms)) if index is None else max(place, index + 1)
    return right, place if reached is None else reached


def _another_way(gold: _Gold, found: list[Equation]) -> bool:
    """Whether every equation holds and uses only facts, constants and results from before it."""
    known = {abs(value) for value in gold.known}
    for equation in found:
        tree = _without_scales(equation.tree, gold)
        other_scale = equation.result.scale not in (None, gold.scale)
        if other_scale and compute(equation.tree) != equation.result.value:
            return False
        if not equation.holds() or not {abs(q.value) for q in leaves(tree)} <= known:
            return False
        known |= {abs(equation.result.value), abs(equation.result.number)}
    return True


def _why(gold: _Gold, equation: Equation, step: int, *, fewer: bool) -> str | None:
    """The kind of a wrong step that stands where `step` should; None when unsure."""
    tree = _without_scales(equation.tree, gold)
    want, given = gold.results[step], equation.result
    if _canonical(tree) in gold.forms[step]:
        same = given.number == want.number or given.value == want.value
        return "lost_unit" if same else "slipped_digit"
    if fewer:
        return "skipped_step" if equation.holds() else None
    if isinstance(tree, Quantity) or not all(isinstance(part, Quantity) for part in tree[1:]):
        return None
    operator, left, right = gold.trees[step]
    wanted, operands = [left, right], [q.value for q in leaves(tree)]
    if sorted(operands) == sorted(wanted):
        return "wrong_formula"
    agrees = [a == b for a, b in zip(operands, wanted, strict=True)]
    if tree[0] == operator and (any(agrees) or (operator in "+*" and set(operands) & set(wanted))):
        return "wrong_fact"
    return None


def _why_alone(equation: Equation) -> str:
    """The kind of an equation that does not hold, where no program tells more."""
    value = compute(equation.tree)
    lost = value is not None and equation.result.number in {value * 10**n for n in (2, -3, -6, -9, -4, -8)}
    return "lost_unit" if lost and value else "slipped_digit"


# ------------------------------------------------------------------------------------------------------ verdict


def verify(question: Question, text: str, *, sample: int = 0) -> Verdict:
    """Judge one completion of `question`. Raises ValueError where the question itself cannot be read.

    `first_error` counts the completion's equations from 0; it is their number where all hold and the answer line is
    wrong. `error_kind` is None when unsure. `correction` is the gold line that belongs in the place of the first error.
    """
    stepwise = bool(question.program)
    exact = stepwise and question.source == "finance"  # generated answers are exact; published ones are rounded
    if len(text) > MAX_TEXT:
        answers_match(question.answer, None, exact=exact)
        return Verdict(question_id=question.id, sample=sample, correct=False, judge="rule")
    clean = normalise(text)
    given = final_answer(clean)
    correct = answers_match(question.answer, given, exact=exact)
    found = list(itertools.islice(equations(before_answer(clean)), MAX_STEPS))
    if not stepwise:
        right = [equation.holds() for equation in found]
        first = right.index(False) if False in right else None
        return Verdict(question_id=question.id, sample=sample, correct=correct, judge="rule", first_error=first,
                       error_kind=None if first is None else _why_alone(found[first]), steps_correct=tuple(right))
    gold = _gold(question.id, tuple(question.facts.items()), question.program, question.steps)
    right, reached = _judge_steps(gold, found)
    if correct and (all(right) or _another_way(gold, found)):
        return Verdict(question_id=question.id, sample=sample, correct=True, judge="rule",
                       steps_correct=(True,) * len(found))
    first = right.index(False) if False in right else len(found)
    kind = None
    if first < len(found) and reached < len(gold.forms):
        kind = _why(gold, found[first], reached, fewer=len(found) - first < len(gold.forms) - reached)
    elif first == len(found) and given is not None:
        want = gold.results[-1]
        if reached < len(gold.forms):
            kind = "skipped_step"
        elif given.number == want.number:
            kind = "lost_unit"
    gold_lines = (*question.steps, question.answer)
    return Verdict(question_id=question.id, sample=sample, correct=correct, judge="rule", first_error=first,
                   error_kind=kind, steps_correct=tuple(right), correction=gold_lines[min(reached, len(gold.forms))])
