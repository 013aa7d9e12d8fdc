"""Markdown of models and importers as inert HTML: `rendered("**5%** of $x$")`.

Nothing in it can run, load or lead anywhere: no HTML passes, links and images are shown as text with their address,
and no attribute but a class, a title or a number is written. Line breaks stay breaks, and `2*3*4` stays a product.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from data.annotate.characters import visible
from data.annotate.maths import add_maths, mathml

DEEPEST = 20  # levels of quotes, lists and emphasis within one another
MOST_BRACKETS = 1_000  # in one part; a parser of Markdown takes time with the square of them
MOST_MARKS = 4_000
_ALIGNED = {"text-align:left": "left", "text-align:center": "center", "text-align:right": "right"}


def rendered(text: str, *, breaks: bool = True) -> str:
    """Safe HTML of a Markdown text, such as one of `characters.parts`; as written where it is no honest Markdown:
    nested so deep that the parser would leave text out, or made of so many marks that it would take seconds.
    `breaks` keeps line breaks, as models mean them; documents are wrapped anywhere."""
    parser = _parser(breaks)
    if text.count("[") <= MOST_BRACKETS and sum(text.count(mark) for mark in "*_`$~\\") <= MOST_MARKS:
        tokens = parser.parse(text)
        if all(token.level < DEEPEST for token in _all(tokens)):
            return str(parser.renderer.render(tokens, parser.options, {}))
    return f'<p class="written">{visible(text)}</p>'


def _all(tokens: Sequence[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from _all(token.children or ())



class _Inert(RendererHTML):
    """Writes tokens without anything that acts."""

    def text(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return visible(tokens[idx].content)

    def code_inline(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f"<code>{visible(tokens[idx].content)}</code>"

    def code_block(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f'<pre tabindex="0"><code>{visible(tokens[idx].content)}</code></pre>\n'

    def fence(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        language = tokens[idx].info.strip()[:40]
        named = f'<span class="code-language">{visible(language)}</span>' if language else ""
        return f'<pre tabindex="0">{named}<code>{visible(tokens[idx].content)}</code></pre>\n'

    def link_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return '<span class="link">'

    def link_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        depth, place = 1, idx
        while depth:
            place -= 1
            depth += {"link_close": 1, "link_open": -1}.get(tokens[place].type, 0)
        href = str(tokens[place].attrs.get("href", ""))
        inside = "".join(token.content for token in tokens[place + 1:idx])
        address = "" if inside == href else f' <span class="address">{_address(href)}</span>'
        return f"</span>{address}"

    def image(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        token = tokens[idx]
        return (f'<span class="image">{visible(token.content)} '
                f'<span class="address">{_address(str(token.attrs.get("src", "")))}</span></span>')

    def math_inline(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return mathml(tokens[idx].content, block=False)

    def math_inline_double(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return mathml(tokens[idx].content, block=True)

    def math_block(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f'<p class="formula">{mathml(tokens[idx].content, block=True)}</p>\n'

    def heading_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f"<{_heading(tokens[idx])}>"

    def heading_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f"</{_heading(tokens[idx])}>\n"

    def table_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return '<div class="wide" tabindex="0"><table>\n'

    def table_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return "</table></div>\n"

    def th_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return _cell(tokens[idx])

    def td_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return _cell(tokens[idx])


def _heading(token: Token) -> str:
    """The page's own headings are above a text's."""
    return f"h{min(6, int(token.tag[1:]) + 3)}"


def _cell(token: Token) -> str:
    side = _ALIGNED.get(str(token.attrs.get("style", "")))
    return f'<{token.tag} class="{side}">' if side else f"<{token.tag}>"


def _address(href: str) -> str:
    """An address as text, cut short: a data URL can be megabytes."""
    return visible(href if len(href) <= 120 else href[:120] + "…")


def _product(state: StateInline, silent: bool) -> bool:
    """A star between two digits multiplies them."""
    at = state.pos
    if state.src[at] != "*" or not 0 < at < len(state.src) - 1:
        return False
    if not (state.src[at - 1].isdigit() and state.src[at + 1].isdigit()):
        return False
    if not silent:
        state.pending += "*"
    state.pos += 1
    return True


@functools.cache
def _parser(breaks: bool) -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": breaks, "maxNesting": DEEPEST + 1}, renderer_cls=_Inert)
    parser.enable(["table", "strikethrough"])
    parser.disable(["html_block", "html_inline", "reference"])
    parser.inline.ruler.before("emphasis", "product", _product)
    add_maths(parser)
    for name in ("math_inline", "math_inline_double", "math_block"):
        parser.add_render_rule(name, getattr(_Inert, name))
    return parser
