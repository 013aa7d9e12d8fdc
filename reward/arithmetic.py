"""Read quantities and arithmetic from text, exactly and within limits.

A quantity is a number with its percent sign, scale word and unit: `$1,200 million`, `(4.5%)`, `６ 亿元`, `12 倍`. An
expression is read into a tree by recursive descent and computed with fractions; nothing is ever evaluated as code.
The limits below hold for text of any origin.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from fractions import Fraction

MAX_DIGITS = 24  # of one number
MAX_TOKENS = 60  # of one expression
MAX_DEPTH = 12  # of parentheses and signs
MAX_LEFT, MAX_RIGHT = 400, 120  # characters looked at on either side of an equals sign

SCALES = {
    "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "mn": 6, "bn": 9, "k": 3, "m": 6, "b": 9,
    "百": 2, "千": 3, "万": 4, "十万": 5, "百万": 6, "千万": 7, "亿": 8, "十亿": 9, "百亿": 10, "千亿": 11, "万亿": 12,
}
UNITS = {
    "dollars": "USD", "dollar": "USD", "usd": "USD", "us$": "USD", "$": "USD", "美元": "USD",
    "yuan": "CNY", "rmb": "CNY", "cny": "CNY", "元": "CNY", "人民币": "CNY", "¥": "CNY",
    "euros": "EUR", "euro": "EUR", "eur": "EUR", "欧元": "EUR", "€": "EUR", "pounds": "GBP", "gbp": "GBP", "£": "GBP",
    "times": "times", "time": "times", "x": "times", "倍": "times",
    "units": "units", "unit": "units", "件": "units", "个": "units",
    "shares": "shares", "share": "shares", "股": "shares", "years": "years", "year": "years", "年": "years",
}
CURRENCIES = frozenset({"USD", "CNY", "EUR", "GBP"})

_TRANSLATE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {
    ord(a): b for a, b in {"−": "-", "–": "-", "—": "-", "×": "*", "∗": "*", "✕": "*", "·": "*", "÷": "/", "⁄": "/",
                           "￥": "¥", "＄": "$", "\u3000": " ", "\xa0": " ", "【": "(", "】": ")", "；": ";"}.items()}


def _words(names: dict[str, object]) -> str:
    """An alternation, longest first; Latin words end at a word's end."""
    return "|".join(re.escape(n) + (r"(?![A-Za-z])" if n[-1].isascii() and n[-1].isalpha() else "")
                    for n in sorted(names, key=len, reverse=True))


_QUANTITY = re.compile(rf"""
    (?P<sign>-\s?)? (?P<before>us\$|[$¥€£])? \s? (?P<inner>-\s?)? (?P<hundred>百分之)?
    (?P<digits>\.?\d[\d.,]*)
    (?P<exponent>e[+-]?\d+)?
    (?:\s?(?P<percent>%|percent(?![a-z])|per\s?cent(?![a-z]))
      | (?:[ ]?(?P<scale>{_words(dict.fromkeys(SCALES))}))?
        (?:[ ]?(?P<unit>(?!x\s*[\d($¥€£.])(?:{_words(dict.fromkeys(UNITS))})))? )
""", re.VERBOSE | re.IGNORECASE)
_LED = re.compile(r"[a-z][a-z ]{0,20}\s", re.IGNORECASE)  # words before a result
_GOES_ON = re.compile(r"\)?\s?[-+*/x]\s?[\d($¥€£.]", re.IGNORECASE)  # a result that is the start of an expression
_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+")


@dataclasses.dataclass(frozen=True, slots=True)
class Quantity:
    """`Quantity(Fraction(6), digits=0, scale=6)` is "6 million"; `digits` counts the written decimals."""

    number: Fraction  # as written, without percent and scale
    digits: int = 0
    percent: bool = False
    scale: int | None = None  # a power of ten; None = no scale word
    unit: str | None = None  # a value of UNITS

    @property
    def value(self) -> Fraction:
        return self.number / 100 if self.percent else self.number * 10 ** (self.scale or 0)

    @property
    def half_unit(self) -> Fraction:
        """Half a unit of the last written digit, in the size of `value`."""
        exponent = (-2 if self.percent else self.scale or 0) - self.digits
        return Fraction(10) ** exponent / 2


def normalise(text: str) -> str:
    """Full-width forms to ASCII, signs to + - * /, control characters to spaces; newlines stay."""
    text = re.sub(r"(?<![０-９])，|，(?![０-９])", ", ", text)  # a Chinese comma groups full-width digits alone
    text = text.translate(_TRANSLATE)
    return re.sub(r"[^\S\n]|[\x00-\x09\x0b-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2060\ufeff]", " ", text)


def _quantity(match: re.Match[str], *, signed: bool) -> Quantity | None:
    digits = match["digits"].rstrip(".,")
    if not _NUMBER.fullmatch(digits) or match["exponent"] or len(digits) > MAX_DIGITS or not digits.isascii():
        return None
    number = Fraction(digits.replace(",", ""))
    if signed and (match["sign"] or match["inner"]):
        number = -number
    unit = match["unit"] or match["before"]
    return Quantity(number, digits=len(digits.partition(".")[2]), percent=bool(match["percent"] or match["hundred"]),
                    scale=SCALES[match["scale"].lower()] if match["scale"] else None,
                    unit=UNITS[unit.lower()] if unit else None)


def _end(match: re.Match[str]) -> int:
    """Where a quantity ends: a full stop or comma after its bare number is not a part of it."""
    number = match["digits"]
    return match.end() - (len(number) - len(number.rstrip(".,")) if match.end() == match.end("digits") else 0)


def quantities(text: str) -> list[Quantity] | None:
    """Every quantity of normalised `text` in order; (4.5) counts as -4.5. None where one is malformed, as 1.2.3 is."""
    found = []
    for match in _QUANTITY.finditer(text):
        quantity = _quantity(match, signed=match.start() == 0 or not text[match.start() - 1].isalnum())
        if quantity is None:
            return None
        start, end = match.start(), _end(match)
        if (quantity.percent or quantity.unit or quantity.scale) and text[end:end + 2].lstrip(" ").startswith("%"):
            return None  # 15%% and 20 million% are no quantities
        if text[start - 1:start] == "(" and text[end:end + 1] == ")" and quantity.number > 0:
            percent = quantity.percent or text[end + 1:end + 2] == "%"
            quantity = dataclasses.replace(quantity, number=-quantity.number, percent=percent)
        found.append(quantity)
    return found


# -------------------------------------------------------------------------------------------------- expressions

Tree = Quantity | tuple[str, "Tree", "Tree"]
Token = str | Quantity  # an operator, a parenthesis, "?" for anything else


def _tokens(text: str) -> list[Token]:
    found: list[Token] = []
    place = 0
    while place < len(text):
        char = text[place]
        match = _QUANTITY.match(text, place) if char in "$¥€£.百uU" or char.isdigit() else None
        if match:
            found.append(_quantity(match, signed=False) or "?")
            place = _end(match)
            continue
        if not char.isspace():
            is_times = char in "xX" and bool(found) and not isinstance(found[-1], str)
            found.append("*" if is_times else char if char in "+-*/()" else "?")
        place += 1
    return found


class _Reader:
    """Recursive descent over tokens: sums of products of signed atoms."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens, self.place = tokens, 0

    def _next(self) -> Token | None:
        return self.tokens[self.place] if self.place < len(self.tokens) else None

    def level(self, operators: str, depth: int) -> Tree:
        read = self.atom if operators == "*/" else lambda d: self.level("*/", d)
        tree = read(depth)
        while (operator := self._next()) in tuple(operators):
            self.place += 1
            tree = (str(operator), tree, read(depth))
        return tree

    def atom(self, depth: int) -> Tree:
        token = self._next()
        self.place += 1
        if depth > MAX_DEPTH:
            raise ValueError("too deep")
        if isinstance(token, Quantity):
            return token
        if token == "-":
            inner = self.atom(depth + 1)
            return dataclasses.replace(inner, number=-inner.number) if isinstance(inner, Quantity) else (
                "-", Quantity(Fraction(0)), inner)
        if token == "(":
            tree = self.level("+-", depth + 1)
            if self._next() == ")":
                self.place += 1
                return tree
        raise ValueError("not an expression")


def parse_expression(tokens: list[Token]) -> Tree | None:
    """The tree of all `tokens`; None where they are no expression."""
    reader = _Reader(tokens)
    try:
        tree = reader.level("+-", 0)
    except ValueError:
        return None
    return tree if reader.place == len(tokens) else None


def compute(tree: Tree, *, scaled: bool = True) -> Fraction | None:
    """The exact value, with scale words or (`scaled=False`) without; None for a division by zero."""
    if isinstance(tree, Quantity):
        return tree.value if scaled or tree.percent else tree.number
    left, right = compute(tree[1], scaled=scaled), compute(tree[2], scaled=scaled)
    if left is None or right is None or (tree[0] == "/" and right == 0):
        return None
    if tree[0] == "+":
        return left + right
    if tree[0] == "-":
        return left - right
    return left * right if tree[0] == "*" else left / right


def leaves(tree: Tree) -> list[Quantity]:
    return [tree] if isinstance(tree, Quantity) else leaves(tree[1]) + leaves(tree[2])


def is_expression(text: str) -> bool:
    """Whether the whole of normalised `text` is one expression."""
    return len(text) <= MAX_LEFT and parse_expression(_tokens(text)) is not None


@dataclasses.dataclass(frozen=True, slots=True)
class Equation:
    """`46 - 40 = 6 million` as found in a text."""

    tree: Tree
    result: Quantity

    def holds(self) -> bool:
        """Whether the result is right within half a unit of its last digit, with or without the scale words."""
        for scaled in (True, False):
            value = compute(self.tree, scaled=scaled)
            if value is None:
                return False
            written = self.result.value if scaled or self.result.percent else self.result.number
            unit = self.result.half_unit / (1 if scaled or self.result.percent else 10 ** (self.result.scale or 0))
            if abs(value - written) <= unit:
                return True
        return False


def _left_tree(text: str) -> Tree | None:
    """The longest expression at the end of `text`."""
    tokens = _tokens(text[-MAX_LEFT:])
    start = len(tokens)
    while start and tokens[start - 1] != "?" and len(tokens) - start < MAX_TOKENS:
        start -= 1
    trees = (parse_expression(tokens[i:]) for i in range(start, len(tokens)))
    return next((tree for tree in trees if tree is not None), None)


def _right_number(text: str) -> Quantity | None:
    """The number at the start of `text` (`= about 6 million`), unless an operation follows it."""
    text = text[:MAX_RIGHT].lstrip()
    match = _QUANTITY.match(text) or _LED.match(text)
    if match is not None and match.re is _LED:
        match = _QUANTITY.match(text, match.end())
    if match is None or _GOES_ON.match(text, _end(match)):
        return None
    return _quantity(match, signed=True)


def _line_equations(line: str) -> list[Equation]:
    parts = line.split("=")
    found: list[Equation] = []
    result: Quantity | None = None
    for left, right in zip(parts[-2::-1], parts[:0:-1], strict=True):  # from the last equals sign to the first
        number = _right_number(right)
        if number is not None or not is_expression(right):
            result = number  # otherwise the chain goes on, and its number stands further right
        tree = _left_tree(left)
        if result is not None and tree is not None and not isinstance(tree, Quantity):
            found.append(Equation(tree, result))
    return found[::-1]


def equations(text: str) -> Iterator[Equation]:
    """Every `expression = number` of normalised `text` whose left side has an operation, in order.

    A chain `(46 - 40) / 40 = 6 / 40 = 15%` gives an equation for each of its expressions, with the number at its end.
    """
    for line in text.split("\n"):
        if "=" in line:
            yield from _line_equations(line)
