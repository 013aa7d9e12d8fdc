"""Holds a reward to what it must return: a finite number for each completion, and spans that lie in their texts."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

from data.schema import Completion
from reward import RewardError, Scores, Span

SHOWN = 60  # characters of a value in a message


def checked(who: str, returned: object, completions: Sequence[Completion]) -> Scores:
    """What a reward returned, `Scores` or numbers in the completions' order, as `Scores` of floats.

    RewardError names `who`, the completion's question and sample, and the value.
    """
    scores = returned if isinstance(returned, Scores) else Scores(_listed(who, returned))
    total = _listed(who, scores.total)
    for what, values in (("scores", total), ("lists of spans", scores.spans)):
        if len(values) != len(completions) and (what == "scores" or values):
            raise RewardError(f"{who} returned {len(values)} {what} for {len(completions)} completions; return one for "
                              "each, in their order")
    for score, completion in zip(total, completions, strict=True):
        if not _finite(score):
            raise RewardError(f"{who}: the score of {told(completion)} is {shown(score)}; return a finite number")
    spans = [[_span(who, span, completion) for span in found]
             for found, completion in zip(scores.spans, completions, strict=True)] if scores.spans else []
    return Scores([float(score) for score in total], scores.parts, spans)


def _listed(who: str, values: Any) -> list[Any]:
    """Numbers as a list; an array or a tensor becomes one."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise RewardError(f"{who} returned {shown(values)}; return a list of one number for each completion, or Scores")
    return list(values)


def _span(who: str, span: Any, completion: Completion) -> Span:
    if not isinstance(span, tuple) or len(span) != 3:
        raise RewardError(f"{who}: a span of {told(completion)} is {shown(span)}; return Span(start, end, score)")
    start, end, score = span
    length = len(completion.text)
    if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= length):
        raise RewardError(f"{who}: a span of {told(completion)} is {shown(span)}, but the text has {length} "
                          f"characters; spans start at 0 or later, hold a character and end at {length} at most")
    if not _finite(score):
        raise RewardError(f"{who}: a span of {told(completion)} scores {shown(score)}; return a finite number")
    return Span(start, end, float(score))


def _finite(value: Any) -> bool:
    """Whether a value is a finite number that a float can hold."""
    try:
        return isinstance(value, numbers.Real) and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def told(completion: Completion) -> str:
    """Which completion, for a message."""
    return f"question {completion.question_id}, sample {completion.sample} ({shown(completion.text)})"


def shown(value: object) -> str:
    """A value on one line, its start and end if it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN * 2 // 3]} ... {text[-SHOWN // 3:]}"
