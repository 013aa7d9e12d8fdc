r"""LaTeX in Markdown, `$x$`, `$$x$$`, `\(x\)` and `\[x\]`, as MathML that a browser shows without a script.

latex2mathml makes the elements, but its own way of writing them lets markup through: here each element and attribute is
one of a list, and all text is escaped. What it cannot read, or is too long or defines macros, is shown as it was
written. Sums of money stay text: a `$` opens only where no neighbour is a digit or a space on the wrong side.
"""

from __future__ import annotations

import html
from xml.etree.ElementTree import Element

import regex
from latex2mathml import exceptions
from latex2mathml.converter import Converter
from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from mdit_py_plugins.dollarmath import dollarmath_plugin

from data.annotate.characters import visible

LONGEST = 2_000  # characters of one formula
DEEPEST = 40  # braces within braces
_UNREADABLE: tuple[type[Exception], ...] = (  # what the library raises for LaTeX that it cannot read
    *(error for error in vars(exceptions).values() if isinstance(error, type) and issubclass(error, Exception)),
    LookupError, ValueError, TypeError, AttributeError, StopIteration, RuntimeError, RecursionError)
_MACROS = regex.compile(r"\\(?:new|renew|provide)command|\\(?:g|e|x)?def\b|\\let\b|\\DeclareMathOperator")
_ELEMENTS = frozenset(("math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "mfrac", "msqrt", "mroot", "msub",
                       "msup", "msubsup", "munder", "mover", "munderover", "mtable", "mtr", "mtd", "mstyle", "mpadded",
                       "mphantom", "menclose", "mmultiscripts", "mprescripts", "none", "merror"))
_ATTRIBUTES = frozenset(("display", "displaystyle", "scriptlevel", "stretchy", "fence", "form", "separator", "accent",
                         "accentunder", "linethickness", "movablelimits", "largeop", "mathvariant", "minsize",
                         "maxsize", "width", "height", "depth", "lspace", "rspace", "voffset", "columnalign",
                         "rowspacing", "columnspacing", "columnlines", "rowlines", "notation"))
_VALUE = regex.compile(  # none that leaves its place: a few em at most
    r"[a-z\- ]{1,40}|(?:-?0?\.|\d\.)\d{1,4}(?:em|ex)?|\d{1,3}%?|\dem|(?:\d(?:\.\d+)?em ?){1,12}")


def mathml(latex: str, *, block: bool) -> str:
    """Safe HTML of a formula, with the LaTeX as its label; as written where it cannot be read."""
    if len(latex) <= LONGEST and _depth(latex) <= DEEPEST and not _MACROS.search(latex):
        try:
            element = Converter(display="block" if block else "inline").convert_to_element(latex)
            return _written(element, label=latex)
        except _UNREADABLE:
            pass
    return f'<code class="latex">{visible(latex)}</code>'


def _depth(latex: str) -> int:
    depth = deepest = 0
    for found in regex.finditer(r"\\left|\\right|\\sqrt|\\frac|[{}^_]", latex):
        depth += {"{": 1, "\\left": 1, "}": -1, "\\right": -1}.get(found[0], 0)
        deepest = max(deepest, depth)
    return max(deepest, len(regex.findall(r"(?:[\^_]|\\sqrt|\\frac)(?=\s*(?:[\^_\\]))", latex)))


def _written(element: Element, label: str = "") -> str:
    """An element and all in it; one that is not of the list gives its content alone."""
    inside = visible(html.unescape(element.text or "")) + "".join(
        _written(child) + visible(html.unescape(child.tail or "")) for child in element)
    if element.tag not in _ELEMENTS:
        return inside
    kept = "".join(f' {name}="{html.escape(value)}"' for name, value in element.attrib.items()
                   if name in _ATTRIBUTES and _VALUE.fullmatch(value))
    named = f' alttext="{visible_attribute(label)}"' if label else ""
    return f"<{element.tag}{kept}{named}>{inside}</{element.tag}>"


def visible_attribute(text: str) -> str:
    """A text within an attribute's quotes: without control characters, which no mark-up can show there."""
    return html.escape(regex.sub(r"[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Cn}]", "\N{REPLACEMENT CHARACTER}",
                                 " ".join(text.split())))


# ------------------------------------------------------------------------------------------------- rules for Markdown


def add_maths(markdown: MarkdownIt) -> None:
    """Teach a parser the four ways of writing a formula; it makes tokens `math_inline`, `math_inline_double` and
    `math_block`, which its renderer shows."""
    dollarmath_plugin(markdown, allow_labels=False, allow_space=False, allow_digits=False, allow_blank_lines=False,
                      double_inline=True)
    markdown.inline.ruler.before("escape", "math_bracket", _inline_bracket)
    markdown.block.ruler.before("fence", "math_bracket_block", _block_bracket,
                                {"alt": ["paragraph", "reference", "blockquote", "list"]})


def _inline_bracket(state: StateInline, silent: bool) -> bool:
    opening = state.src[state.pos:state.pos + 2]
    if opening not in (r"\(", r"\["):
        return False
    closing = r"\)" if opening == r"\(" else r"\]"
    end = state.src.find(closing, state.pos + 2, state.pos + 2 + LONGEST)
    if end <= state.pos + 2:
        return False
    if not silent:
        token = state.push("math_inline" if opening == r"\(" else "math_inline_double", "math", 0)
        token.content, token.markup = state.src[state.pos + 2:end], opening
    state.pos = end + 2
    return True


def _block_bracket(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    r"""Lines from one that is begun by `\[` to one that is ended by `\]`: a sum in several lines is no list."""
    begin = state.bMarks[start_line] + state.tShift[start_line]
    if not state.src.startswith(r"\[", begin):
        return False
    for line in range(start_line, min(end_line, start_line + 60)):
        text = state.src[state.bMarks[line] + state.tShift[line]:state.eMarks[line]].rstrip()
        if not text:
            return False
        if text.endswith(r"\]"):
            if silent:
                return True
            token = state.push("math_block", "math", 0)
            token.block, token.markup, token.map = True, r"\[", [start_line, line + 1]
            token.content = state.src[begin + 2:state.eMarks[line]].rstrip().removesuffix(r"\]").strip()
            state.line = line + 1
            return True
    return False
