"""What differs between two texts, word by word, and in Chinese, Japanese and Thai letter by letter.

    a, b = differences("EPS is 5 dollars", "EPS is 6 dollars")    # Stretch("EPS is ", False), Stretch("5", True), ...

The shortest edit by Myers' algorithm (1986, "An O(ND) difference algorithm and its variations"), bounded: texts that
differ in more than MOST_EDITS words, or are long, are compared line by line, and if that is too much, all between their
common ends differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import regex

MOST_EDITS = 600
LONGEST_BY_WORD, LONGEST_BY_LINE = 100_000, 1_000_000  # characters
_TOKENS = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"  # written without spaces
    r"|\p{N}+(?:[.,]\p{N}+)*"  # a number with its decimals
    r"|[[\p{L}\p{M}]--[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]]+"
    r"|\s+|\X", regex.VERSION1)
_LINES = regex.compile(r"[^\n]*\n|[^\n]+")


@dataclasses.dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of one of the texts; `differs` where the other text does not have it there."""

    text: str
    differs: bool


def words(text: str) -> list[str]:
    """The units that are compared; joined they are the text."""
    return _TOKENS.findall(text)


def lines(text: str) -> list[str]:
    """The text's lines, each with its end."""
    return _LINES.findall(text)


def differences(left: str, right: str) -> tuple[list[Stretch], list[Stretch]]:
    """Each text in stretches that are in both and stretches that are not; joined they are the text."""
    length = max(len(left), len(right))
    for split in (*((words,) if length <= LONGEST_BY_WORD else ()), *((lines,) if length <= LONGEST_BY_LINE else ())):
        a, b = split(left), split(right)
        kept = common(a, b)
        if kept is not None:
            return _stretches(a, {i for i, _ in kept}), _stretches(b, {j for _, j in kept})
    start, end = _ends(left, right)
    return _middle(left, start, end), _middle(right, start, end)


def common(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]] | None:
    """Pairs of places of a longest common subsequence; None where more than MOST_EDITS insertions and deletions part
    the two."""
    start, end = _ends(a, b)
    inner = _myers(a[start:len(a) - end], b[start:len(b) - end])
    if inner is None:
        return None
    return [*((i, i) for i in range(start)), *((start + i, start + j) for i, j in inner),
            *((len(a) - k, len(b) - k) for k in range(end, 0, -1))]


def _ends(a: Sequence[str], b: Sequence[str]) -> tuple[int, int]:
    """How many items the two share at their beginning and at their end."""
    shorter = min(len(a), len(b))
    start = next((i for i in range(shorter) if a[i] != b[i]), shorter)
    end = next((i for i in range(shorter - start) if a[-1 - i] != b[-1 - i]), shorter - start)
    return start, end


def _myers(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]] | None:
    if abs(len(a) - len(b)) > MOST_EDITS:
        return None
    furthest: dict[int, int] = {1: 0}  # diagonal k = x - y -> the furthest x reached on it
    reached: list[dict[int, int]] = []
    for edits in range(min(len(a) + len(b), MOST_EDITS) + 1):
        reached.append(dict(furthest))
        for k in range(-edits, edits + 1, 2):
            down = k == -edits or (k != edits and furthest.get(k - 1, -1) < furthest.get(k + 1, -1))
            x = furthest[k + 1] if down else furthest[k - 1] + 1
            while x < len(a) and x - k < len(b) and a[x] == b[x - k]:
                x += 1
            furthest[k] = x
            if x >= len(a) and x - k >= len(b):
                return _walked(reached, len(a), len(b))
    return None


def _walked(reached: list[dict[int, int]], x: int, y: int) -> list[tuple[int, int]]:
    """The matches along the way that was found, read backwards."""
    kept: list[tuple[int, int]] = []
    for edits in range(len(reached) - 1, -1, -1):
        before, k = reached[edits], x - y
        down = k == -edits or (k != edits and before.get(k - 1, -1) < before.get(k + 1, -1))
        from_k = k + 1 if down else k - 1
        from_x = before[from_k] if edits else 0
        from_y = from_x - from_k if edits else 0
        while x > from_x and y > from_y:
            x, y = x - 1, y - 1
            kept.append((x, y))
        x, y = from_x, from_y
    return kept[::-1]


def _stretches(tokens: Sequence[str], kept: set[int]) -> list[Stretch]:
    """Neighbours joined; white space between two differences belongs to them."""
    differs = [i not in kept for i in range(len(tokens))]
    for i in range(1, len(tokens) - 1):
        if tokens[i].isspace() and "\n" not in tokens[i] and differs[i - 1] and differs[i + 1]:
            differs[i] = True
    found: list[list[object]] = []
    for token, other in zip(tokens, differs, strict=True):
        if found and found[-1][1] == other:
            found[-1][0] = f"{found[-1][0]}{token}"
        else:
            found.append([token, other])
    return [Stretch(str(text), bool(other)) for text, other in found]


def _middle(text: str, start: int, end: int) -> list[Stretch]:
    cut = (text[:start], False), (text[start:len(text) - end], True), (text[len(text) - end:], False)
    return [Stretch(piece, differs) for piece, differs in cut if piece]
