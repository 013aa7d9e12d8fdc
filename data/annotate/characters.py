"""Text made safe to look at: markup escaped, what would hide or reorder text made visible, long text cut into parts.

A control, format or direction character is shown by its code point (`U+202E`), in an element whose class says that it
stands for one character, so that a place in the page can be told as a place in the text. The module knows no Markdown.
"""

from __future__ import annotations

import dataclasses
import html
import unicodedata

import regex

PART = 16_000  # characters of the parts after the first, which stays small enough to be read at once
FIRST_PART = 6_000
_LEEWAY = 0.5  # a part may end that share of its size early, to end at a paragraph or a line
# all that has no look of its own; a zero-width joiner does, in emoji and in some scripts
_HIDDEN = regex.compile(r"(?![\n\t\u200d])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cs}\p{Cn}]")
_FENCE = regex.compile(r"^ {0,3}(`{3,}|~{3,})", regex.MULTILINE)


def visible(text: str) -> str:
    """Escaped HTML of a text, with what cannot be seen made visible."""
    return _HIDDEN.sub(_shown, html.escape(text))


def _shown(found: regex.Match[str]) -> str:
    char = found[0]
    name = unicodedata.name(char, "CONTROL CHARACTER").lower()
    return f'<span class="char" title="{html.escape(name)}">U+{ord(char):04X}</span>'


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a text: code points [start, start + len(text)). `fence` is the code fence that is open before it."""

    start: int
    text: str
    fence: str = ""

    @property
    def source(self) -> str:
        """The part as Markdown on its own: a code block that was cut goes on as one."""
        return f"{self.fence}\n{self.text}" if self.fence else self.text


def parts(text: str, *, first: int = FIRST_PART, size: int = PART) -> list[Part]:
    """The text cut at paragraphs, else at lines, else where a grapheme ends; up to twice `first` it is one part."""
    if len(text) <= 2 * first:
        return [Part(0, text)]
    found: list[Part] = []
    start, fence = 0, ""
    while start < len(text):
        wanted = size if found else first
        end = len(text) if len(text) - start <= wanted else _cut(text, start, start + wanted)
        found.append(Part(start, text[start:end], fence))
        fence = _open_fence(text[start:end], fence)
        start = end
    return found


def _cut(text: str, start: int, limit: int) -> int:
    earliest = limit - int(_LEEWAY * (limit - start))
    for mark in ("\n\n", "\n"):
        place = text.rfind(mark, earliest, limit)
        if place > 0:
            return place + len(mark)
    whole = [found.end() for found in regex.finditer(r"\X", text[limit - 32:limit + 32])]
    return next((limit - 32 + end for end in whole if end >= 32), limit)


def _open_fence(text: str, fence: str) -> str:
    """The fence that is open after a text that began within `fence` ("" = within none)."""
    for found in _FENCE.finditer(text):
        marks = found[1]
        if not fence:
            fence = marks
        elif marks[0] == fence[0] and len(marks) >= len(fence):
            fence = ""
    return fence
