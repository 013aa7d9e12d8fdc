"""Solutions for a critic to learn from: gold ones, ones with a planted error, and some of their steps in other words.

What is true of each the rule says. Knows no model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from data.finance import errors
from data.finance.generator import solution_text
from data.schema import Question

WRONG, CUT = 0.6, 0.03  # shares of solutions: with a planted error, and ending before the answer
_SUM = re.compile(r": (\S+) ([+×]) (\S+) = ")


def lessons(questions: Sequence[Question], draw: random.Random, *, reworded: float) -> list[str]:
    """One solution a question; `reworded` is the share of steps that say the same in other words."""
    labels = [step.split(": ")[0] for question in questions for step in question.steps]
    return [_lesson(question, labels, draw, reworded) for question in questions]


def _lesson(question: Question, labels: Sequence[str], draw: random.Random, reworded: float) -> str:
    text = errors.corrupt(question, draw).text if draw.random() < WRONG else solution_text(question)
    *steps, answer = text.split("\n")
    steps = [_reworded(step, labels, draw) if draw.random() < reworded else step for step in steps]
    return "\n".join(steps if steps and draw.random() < CUT else [*steps, answer])


def _reworded(step: str, labels: Sequence[str], draw: random.Random) -> str:
    """A step with its terms or factors the other way round, or under another label."""
    if _SUM.search(step) and draw.random() < 0.5:
        return _SUM.sub(r": \3 \2 \1 = ", step)
    return f"{draw.choice(labels)}: {step.split(': ', 1)[-1]}"
