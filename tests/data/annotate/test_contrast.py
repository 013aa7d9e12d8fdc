"""Contrast of the pages' colours by WCAG 2.2 (1.4.3: text 4.5 to 1; 1.4.11: edges and focus 3 to 1), light and dark."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import data.annotate

STATIC = Path(data.annotate.__file__).parent / "static"
CSS = "\n".join((STATIC / name).read_text(encoding="utf-8") for name in ("desk.css", "text.css"))
GROUNDS = ("page", "card", "raised")
TEXTS = [(text, ground) for ground in GROUNDS for text in ("ink", "soft", "accent-ink", "good", "bad", "warn")]
TEXTS += [("soft", "bad-soft"), ("ink", "bad-soft"), ("ink", "accent-soft"), ("soft", "accent-soft"),
          ("accent-ink", "accent-soft"), ("good", "good-soft"), ("bad", "bad-soft"), ("warn", "warn-soft"),
          ("on-mark", "mark"), ("ink", "cap"), ("soft", "cap"), ("on-accent", "accent"), ("on-accent", "accent-ink"),
          ("page", "ink")]
EDGES = [(edge, ground) for ground in GROUNDS for edge in ("edge", "accent")]


def colours(selector: str) -> dict[str, str]:
    """The custom properties of the first block of that selector."""
    found = re.search(re.escape(selector) + r"\s*\{(.*?)\}", CSS, re.DOTALL)
    assert found is not None, selector
    return dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})\b", found[1]))


LIGHT, DARK = colours(":root"), colours(':root[data-theme="dark"]')


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb."""
    channels = [int(colour[place:place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_formula() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_can_be_read(theme: dict[str, str]) -> None:
    poor = {f"{text} on {ground}": round(contrast(theme[text], theme[ground]), 2) for text, ground in TEXTS
            if contrast(theme[text], theme[ground]) < 4.5}
    assert poor == {}


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_edges_and_focus_can_be_seen(theme: dict[str, str]) -> None:
    poor = {f"{edge} on {ground}": round(contrast(theme[edge], theme[ground]), 2) for edge, ground in EDGES
            if contrast(theme[edge], theme[ground]) < 3}
    assert poor == {}


def test_every_rule_that_sets_text_and_ground_is_among_those_checked() -> None:
    for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", CSS):
        text, ground = (re.search(rf"(?:^|[;\s]){name}:\s*var\(--([\w-]+)\)", body)
                        for name in ("color", "background(?:-color)?"))
        if text and ground:
            assert (text[1], ground[1]) in TEXTS, selector.strip()


def test_the_colours_are_named_and_the_two_dark_blocks_are_one() -> None:
    assert colours(':root[data-theme="auto"]') == DARK
    named = re.sub(r":root[^{]*\{.*?\}", "", CSS, flags=re.DOTALL)
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b", named) == []


def test_focus_is_shown_and_motion_can_be_off() -> None:
    assert re.search(r":focus-visible \{ outline: 3px solid var\(--accent\)", CSS)
    assert "prefers-reduced-motion: reduce" in CSS
    assert re.findall(r"font-size:\s*[\d.]+px", CSS) == []  # sizes in rem grow with the reader's own
