"""Written derivations, `(1,452.4-1,146.2)/1,146.2`, as trees, as values and as worked steps with a program.

For gold derivations of data sources: a strict reader by recursive descent with exact fractions; nothing is evaluated
as code. What models write is read elsewhere, by the reward's rule.
"""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction

MAX_LENGTH = 400  # characters of a derivation
MAX_DEPTH = 20  # of parentheses and signs
SCALES = {"thousand": 3, "million": 6, "billion": 9}
_TOKEN = re.compile(r"""\s*(?: (?P<number>(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+))
                              (?P<percent>\s?%)? (?:\s?(?P<scale>thousand|million|billion)s?\b)?
                         | (?P<operator>[-+*/()]) )\s*""", re.VERBOSE)
_SAME = str.maketrans({"[": "(", "]": ")", "{": "(", "}": ")", "×": "*", "÷": "/", "−": "-", "–": "-", "—": "-",
                       "$": " ", "€": " ", "£": " "})


@dataclasses.dataclass(frozen=True, slots=True)
class Number:
    """`Number("1,452.4")`, `Number("-34", percent=True)`, `Number("60.3", scale="million")`."""

    digits: str  # sign, digits, thousands commas
    percent: bool = False
    scale: str | None = None

    @property
    def text(self) -> str:
        return self.digits + "%" * self.percent + (f" {self.scale}" if self.scale else "")

    @property
    def value(self) -> Fraction:
        plain = Fraction(self.digits.replace(",", ""))
        return plain / 100 if self.percent else plain * 10 ** SCALES.get(self.scale or "", 0)

    def negated(self) -> Number:
        return dataclasses.replace(self, digits=self.digits[1:] if self.digits[0] == "-" else "-" + self.digits)


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    operator: str  # + - * /
    left: Tree
    right: Tree


Tree = Number | Operation


class _Reader:
    """Sums of products of signed atoms."""

    def __init__(self, text: str) -> None:
        self.tokens: list[Number | str] = []
        self.place = 0
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if not match:
                raise ValueError(f"cannot read {text[position:position + 20]!r}")
            self.tokens.append(match["operator"] or Number(match["number"], bool(match["percent"]), match["scale"]))
            position = match.end()

    def next(self) -> Number | str | None:
        return self.tokens[self.place] if self.place < len(self.tokens) else None

    def chain(self, operators: str, depth: int) -> Tree:
        def part() -> Tree:
            return self.atom(depth) if operators == "*/" else self.chain("*/", depth)

        tree = part()
        while isinstance(operator := self.next(), str) and operator in operators:
            self.place += 1
            tree = Operation(operator, tree, part())
        return tree

    def atom(self, depth: int) -> Tree:
        token = self.next()
        self.place += 1
        if depth > MAX_DEPTH:
            raise ValueError("is nested too deep")
        if isinstance(token, Number):
            return token
        if token in ("-", "+"):
            inner = self.atom(depth + 1)
            if token == "+":
                return inner
            return inner.negated() if isinstance(inner, Number) else Operation("-", Number("0"), inner)
        if token == "(":
            tree = self.chain("+-", depth + 1)
            if self.next() == ")":
                self.place += 1
                return tree
            raise ValueError("lacks a closing parenthesis")
        raise ValueError("ends too early" if token is None else f"has {token!r} where a number should be")


def parse(text: str) -> Tree:
    """The tree of a derivation. Raises ValueError that says what cannot be read."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"is longer than {MAX_LENGTH} characters")
    reader = _Reader(text.translate(_SAME).strip())
    tree = reader.chain("+-", 0)
    if reader.next() is not None:
        raise ValueError(f"goes on after its end with {reader.next()!r}")
    return tree


def apply(operator: str, left: Fraction, right: Fraction) -> Fraction:
    """Raises ZeroDivisionError."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    return left * right if operator == "*" else left / right


def value(tree: Tree) -> Fraction:
    """Exact. Raises ZeroDivisionError."""
    return tree.value if isinstance(tree, Number) else apply(tree.operator, value(tree.left), value(tree.right))


def numbers(tree: Tree) -> list[Number]:
    """The leaves, left to right."""
    return [tree] if isinstance(tree, Number) else numbers(tree.left) + numbers(tree.right)


def operators(tree: Tree) -> set[str]:
    return set() if isinstance(tree, Number) else {tree.operator} | operators(tree.left) | operators(tree.right)


def has_ratio(tree: Tree, constants: frozenset[Fraction]) -> bool:
    """Whether something is divided by more than a constant, so that the units of the operands are lost."""
    if isinstance(tree, Number):
        return False
    divides = tree.operator == "/" and (isinstance(tree.right, Operation) or tree.right.value not in constants)
    return divides or has_ratio(tree.left, constants) or has_ratio(tree.right, constants)


def in_percent(tree: Tree) -> Tree:
    """The tree with its result in percent: `34 + 11` as `34% + 11%`, `a / b * 100` as `a / b * 100%`."""
    if isinstance(tree, Number):
        return tree if tree.percent else dataclasses.replace(tree, percent=True)
    if tree.operator in "+-":
        return dataclasses.replace(tree, left=in_percent(tree.left), right=in_percent(tree.right))
    if tree.operator == "*" and (not isinstance(tree.left, Number) or tree.left.value != 100):
        return dataclasses.replace(tree, right=in_percent(tree.right))
    return dataclasses.replace(tree, left=in_percent(tree.left))


def rounded(amount: Fraction, places: int) -> Fraction:
    """Half away from zero, as people round."""
    unit = 10**places
    return Fraction((abs(amount) * unit * 2 + 1) // 2, unit) * (-1 if amount < 0 else 1)


def decimal(amount: Fraction, places: int) -> str:
    """`amount` rounded to `places` decimals, without needless zeros: -12.6, 0.05, 40."""
    exact = rounded(amount, places)
    whole, part = divmod(abs(exact.numerator) * 10**places // exact.denominator, 10**places)
    text = f"{whole}.{part:0{places}d}".rstrip("0").rstrip(".") if places else str(whole)
    return ("-" if exact < 0 else "") + text


@dataclasses.dataclass(frozen=True, slots=True)
class Working:
    """A derivation worked out: one line, one program expression and one operation a step."""

    lines: tuple[str, ...]  # "44.1 - 56.7 = -12.6"
    operators: tuple[str, ...]  # of each line
    program: tuple[str, ...]  # "n1 - n2"
    facts: dict[str, str]  # "n1" -> "44.1"
    result: str  # the last line's right side


def work(tree: Tree, *, result: str, constants: frozenset[Fraction] = frozenset(), places: int = 6) -> Working:
    """The steps of a tree, innermost first. `result` is what the last one comes to, as it shall be written.

    Numbers whose value is in `constants` are written into the program as they are; the others become facts. Results in
    between are exact where `places` decimals suffice. Raises ValueError for a tree without an operation.
    """
    if isinstance(tree, Number):
        raise ValueError("has no operation")
    facts: dict[str, str] = {}
    lines: list[str] = []
    done: list[str] = []
    program: list[str] = []

    def visit(node: Tree, last: bool) -> tuple[str, str]:
        """(name in the program, as written): a sum, difference or share of percentages is a percentage."""
        if isinstance(node, Number):
            if node.value in constants and not node.percent and node.value.denominator == 1 and node.value >= 0:
                return str(node.value), node.text
            known = {text: name for name, text in facts.items()}
            name = known.get(node.text, f"n{len(facts) + 1}")
            facts[name] = node.text
            return name, node.text
        (left, a), (right, b) = visit(node.left, False), visit(node.right, False)
        percent = a.endswith("%") and (b.endswith("%") if node.operator in "+-" else
                                       node.operator == "/" and not b.endswith("%"))
        written = decimal(value(node) * (100 if percent else 1), places) + "%" * percent
        if last:
            written = result
        sign = {"*": "×"}.get(node.operator, node.operator)
        lines.append(f"{a} {sign} {f'({b})' if b.startswith('-') else b} = {written}")
        done.append(node.operator)
        program.append(f"{left} {node.operator} {right}")
        return f"s{len(lines)}", written

    visit(tree, True)
    return Working(tuple(lines), tuple(done), tuple(program), facts, result)
