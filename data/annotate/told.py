"""A decision in a few words of either language: `told({"outcome": "prefer", ...}, "en")` is "A much better"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data.annotate.words import words
from data.schema import Language


def told(decision: Mapping[str, Any], language: Language) -> str:
    """What was decided, by slots; a rewrite or a reason is not repeated."""
    w, outcome = words(language), decision["outcome"]
    if outcome == "prefer":
        return _filled(w["outcome.prefer"], str(decision["preferred"]).upper(), w[f"strength.{decision['strength']}"])
    if outcome == "ranked":
        order = " > ".join(" = ".join(slot.upper() for slot in sorted(group)) for group in decision["ranking"])
        return _filled(w["outcome.ranked"], order)
    if outcome == "rated":
        means = "  ".join(f"{slot.upper()} {sum(given.values()) / len(given):.1f}"
                          for slot, given in sorted(decision["ratings"].items()) if given)
        return f"{w['outcome.rated']} {means}"
    if outcome == "stepped":
        wrong = [label["step"] for label in decision["steps"] if label["rating"] == -1]
        return _filled(w["outcome.stepped"], str(wrong[0] + 1)) if wrong else w["outcome.no_error"]
    return w[f"outcome.{outcome}"]


def _filled(word: str, *values: str) -> str:
    """The word with its `{}` filled in; values are never read as a format."""
    head, *tails = word.split("{}")
    return head + "".join(value + tail for value, tail in zip(values, tails, strict=True))
