"""Solutions as steps, a line each: where a quoted step stands, and which line an equation of the rule's is in."""

from __future__ import annotations

import dataclasses
import re

from data.finance.generator import solution_text
from data.schema import Question, Verdict
from reward.arithmetic import equations, normalise
from reward.rule import MAX_STEPS, before_answer


@dataclasses.dataclass(frozen=True)
class Place:
    """A step in a text: its number from 0, the whole lines before it, and its own with their line breaks."""

    index: int
    prefix: str
    step: str


def steps_of(text: str) -> list[str]:
    """The lines of a text with their line breaks; together they are the text. Blank lines belong to the one before."""
    found: list[str] = []
    for line in re.findall(r"[^\n]*\n|[^\n]+", text):
        if found and not (line.strip() and found[-1].strip()):
            found[-1] += line
        else:
            found.append(line)
    return found


def is_answer(step: str) -> bool:
    """Whether a step states the final answer."""
    clean = normalise(step)
    return len(before_answer(clean)) < len(clean)


def find_step(text: str, step: str, prefix: str) -> Place | str:
    """Where a step that is quoted, with all that stands before it, is in the text; or why it is not there.

    White space may differ, nothing else.
    """
    steps, length = steps_of(text), len(steps_of(step))
    starts = [start for start in range(len(steps) - length + 1)
              if length and _same("".join(steps[start:start + length]), step)]
    if not starts:
        return "quoted step is not in the solution"
    for start in starts:
        before = "".join(steps[:start])
        if _same(before, prefix):
            return Place(start, before, "".join(steps[start:start + length]))
    return "quoted prefix is not what stands before the step"


def _same(one: str, other: str) -> bool:
    return one.split() == other.split()


def quoted(question: Question, verdict: Verdict, text: str) -> Verdict:
    """The rule's verdict with its first wrong step quoted, what stands before it, and the whole right line for it.

    As it was where there is no such step, because the text ends before it goes wrong.
    """
    line = _line_of(text, verdict.first_error)
    if line is None:
        return verdict
    steps = steps_of(text)
    correction = verdict.correction
    if correction == question.answer:  # the rule names the answer alone
        correction = solution_text(question).split("\n")[-1]
    return dataclasses.replace(verdict, prefix="".join(steps[:line]), step=steps[line], correction=correction)


def _line_of(text: str, equation: int | None) -> int | None:
    """The step that holds the equation of this number; where all of them come before the answer, the answer's."""
    if equation is None or equation >= MAX_STEPS:
        return None
    counted = 0
    for place, step in enumerate(steps_of(text)):
        counted += sum(1 for _ in equations(before_answer(normalise(step))))
        if counted > equation or is_answer(step):
            return place
    return None
