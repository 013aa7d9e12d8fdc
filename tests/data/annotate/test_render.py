"""What a model wrote, on the page: shown well, and inert whatever it is."""

from __future__ import annotations

import html.parser
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.annotate.characters import FIRST_PART, PART, parts, visible
from data.annotate.maths import mathml
from data.annotate.render import rendered

HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[a](javascript:alert(1))", "[a](data:text/html,<b>)",
    "![a](http://evil.example/x.png)", "![a](data:image/svg+xml;base64,AAAA)", "<http://evil.example>",
    "<a href='x'>y</a>", "$\\text{<img src=x onerror=alert(1)>}$", "$\\text{&lt;script&gt;}$",
    "$\\href{javascript:alert(1)}{x}$", "$\\style{color:red}{x}$", "$\\class{a\" onclick=\"b}{x}$",
    "$\\unicode{x3c}script$", "\\[\\rule{9999em}{9999em}\\]", "```\" onclick=\"x\n<b>\n```",
    "|a|\n|:-:|\n|<style>*{display:none}</style>|", "a\u202eb\u2066c\x00\x1b[31m\ufeff\u00ad", "<!-- x -->",
    "&lt;script&gt;", "<svg/onload=alert(1)>", "[x]: javascript:a\n[x]", "<style>@import 'http://evil'</style>",
]
ENDLESS_S = 30.0
"""Processor seconds, many times what the texts made to be slow take: only a cost that grows with the square of a text
reaches it."""
ALLOWED = {
    "p": {"class"}, "br": set(), "strong": set(), "em": set(), "s": set(), "code": {"class"}, "pre": {"tabindex"},
    "hr": set(), "ul": set(), "ol": {"start"}, "li": set(), "blockquote": set(), "h4": set(), "h5": set(), "h6": set(),
    "span": {"class", "title"}, "div": {"class", "tabindex"}, "table": set(), "thead": set(), "tbody": set(),
    "tr": set(), "th": {"class"}, "td": {"class"},
}


class Reader(html.parser.HTMLParser):
    """Every element with its attributes, and the text, as a browser reads them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


def read(markup: str) -> Reader:
    reader = Reader()
    reader.feed(markup)
    reader.close()
    return reader


def check_inert(markup: str) -> None:
    """No element and no attribute but those that neither act nor load nor leave their place."""
    for tag, attributes in read(markup).elements:
        if tag in ALLOWED:
            assert set(attributes) <= ALLOWED[tag], (tag, attributes)
        else:
            assert tag in ("math",) or tag[0] == "m" or tag == "none", tag
            assert not [name for name in attributes if name.startswith("on") or name in (
                "href", "src", "style", "class", "id", "xlink:href", "actiontype")], (tag, attributes)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_inert(text: str) -> None:
    check_inert(rendered(text))
    check_inert(visible(text))
    check_inert(rendered(f"> - **{text}**\n\n| a |\n|---|\n| {text} |"))


@given(st.lists(st.sampled_from([*HOSTILE, *("**", "`", "$", "\\(", "\\)", "\n", "- ", "> ", "|", "<", ">", "&", '"',
                                             "'", "](")]), max_size=14).map("".join))
@settings(max_examples=150, deadline=None)
def test_whatever_is_put_together_is_inert(text: str) -> None:
    check_inert(rendered(text))


def test_the_check_for_inert_text_can_fail() -> None:
    for markup in ("<script>", "<p onclick=x>", "<a href=x>", "<math href=x>", '<td style="a">', "<img>"):
        with pytest.raises(AssertionError):
            check_inert(markup)


def test_what_hides_or_reorders_text_is_seen() -> None:
    shown = read(rendered("5\u202e00\u2069 a\u200bb\x07")).text
    assert all(code in shown for code in ("U+202E", "U+2069", "U+200B", "U+0007"))
    assert "\u202e" not in shown and "\u200b" not in shown
    assert read(visible("\U0001f469\u200d\U0001f4bb 毛利\tn\n")).text == "\U0001f469\u200d\U0001f4bb 毛利\tn\n"


def test_markdown_is_shown_well() -> None:
    page = rendered("# Head\n**Bold** and `code`\nnext line\n\n| a | b |\n|---|--:|\n| x | 1,452.4 |\n\n1. one\n2. two"
                    "\n\n```py\nx < 1\n```")
    assert "<h4>Head</h4>" in page and "<strong>Bold</strong>" in page and "<br />" in page
    assert '<th class="right">b</th>' in page and "<ol>" in page and "x &lt; 1" in page and "style=" not in page


def test_links_and_images_are_told_and_lead_nowhere() -> None:
    page = read(rendered("[the report](https://example.org/r) ![chart](https://example.org/c.png)"))
    assert "the report https://example.org/r" in page.text and "chart https://example.org/c.png" in page.text


def test_a_product_keeps_its_stars_and_money_is_no_formula() -> None:
    assert read(rendered("2*3*4 = 24")).text.strip() == "2*3*4 = 24"
    money = "It cost $5 million, then $6 million; from $5-$6, and ($7/$8)."
    assert read(rendered(money)).text.strip() == money


def test_formulas_of_all_four_kinds_are_mathml() -> None:
    for text in ("$\\frac{a}{b}$", "$$\\frac{a}{b}$$", "\\(\\frac{a}{b}\\)", "\\[\\frac{a}{b}\\]",
                 "\\[\n\\frac{a}{b}\n+ 3\n\\]"):
        assert "<mfrac>" in rendered(text), text
    assert 'display="block"' in rendered("so \\[x\\]") and "<ul>" not in rendered("\\[\na\n+ 3\n- 4\n\\]")


def test_what_is_no_latex_is_shown_as_written() -> None:
    for latex in ("\\frac", "{" * 200, "\\left(", "x" * 5000, "\\newcommand{\\a}{\\a\\a}\\a", "\\begin{matrix}",
                  "^" * 900):
        assert mathml(latex, block=False).startswith('<code class="latex">')


@given(st.text(alphabet="\\{}[]()^_&%$#~abfrx123 lefti ghsqutx'\n", max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_latex_breaks_the_page(latex: str) -> None:
    check_inert(mathml(latex, block=True))


def test_nothing_is_left_out_however_deep_it_is_nested() -> None:
    assert "treasure" in rendered(">" * 60 + " treasure") and "treasure" in rendered("- " * 60 + "treasure")


@pytest.mark.parametrize("unit", ["[", "![", "[a](", "\\[\n", "*a ", "$$a$5 ", "x", "`a``", "&amp", "> ", "- ", "|"])
def test_text_made_to_be_slow_is_quick(unit: str) -> None:
    text = unit * (PART // len(unit))
    begun = time.process_time()
    assert rendered(text)
    assert time.process_time() - begun < ENDLESS_S


def test_a_long_text_is_cut_into_parts_that_are_the_text() -> None:
    draw = random.Random(0)
    pieces = ["word ", "line\n", "paragraph\n\n", "毛利", "\U0001f469\u200d\U0001f4bb"]
    text = "".join(draw.choice(pieces) for _ in range(80_000))
    cut = parts(text)
    assert "".join(part.text for part in cut) == text
    assert all(text[part.start:part.start + len(part.text)] == part.text for part in cut)
    assert len(cut[0].text) <= FIRST_PART and max(len(part.text) for part in cut) <= PART + 64
    assert [part.text for part in parts("short")] == ["short"]


def test_a_part_does_not_split_a_grapheme() -> None:
    woman = "\U0001f469\u200d\U0001f4bb"
    cut = parts("x" * (FIRST_PART - 1) + woman * 6000)
    assert cut[0].text == "x" * (FIRST_PART - 1) + woman
    assert all(part.text.startswith(woman) and part.text.endswith(woman) for part in cut[1:])


def test_code_that_is_cut_goes_on_as_code() -> None:
    text = "```py\n" + "x = 1  # *not emphasis*\n" * 2000 + "```\nafter *this*\n"
    cut = parts(text)
    assert len(cut) > 2 and all("<em>" not in rendered(part.source) for part in cut[:-1])
    assert "<em>this</em>" in rendered(cut[-1].source)


def test_five_megabytes_are_cut_at_once() -> None:
    text = "Revenue 46, cost 31. " * 250_000
    begun = time.process_time()
    cut = parts(text)
    rendered(cut[0].source)
    assert len(text) > 5_000_000 and time.process_time() - begun < ENDLESS_S
