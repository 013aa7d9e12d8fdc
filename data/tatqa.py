"""TAT-QA (Zhu et al. 2021, ACL; CC BY 4.0): arithmetic questions over tables and paragraphs of annual reports.

    load("tatqa_dataset_dev.json", seed=0)

Reads the published JSON. A question's evidence is the table rows that hold its operands, with their headings, and the
paragraphs it maps to; its derivation becomes worked steps and a program. The gold answer is what the derivation comes
to; questions whose published answer is another are dropped. Questions that share a table or their operands are never in
two splits.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from data import arithmetic
from data.loading import Loaded, by_split, joined, normal_text, require_rows, split_groups
from data.rows import parse_json, read_text, shown
from data.schema import Document, Question, UserError, content_id

SCALES = ("", "percent", "thousand", "million", "billion")
CONSTANTS = frozenset(Fraction(n) for n in [*range(13), 100, 365])  # divisors and factors that stand in no table
ANSWER = "Answer:"
ROUNDING = "Round to two decimals."
NAMES = {"+": "Sum", "-": "Difference", "*": "Product", "/": "Quotient"}  # of a step
_CELL = re.compile(r"\(?-?\s?[$€£]?\s?\(?-?\s?(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)")
_BRACKETED = re.compile(r"\(\s*([\d.,]+)\s*\)")
_YEAR = re.compile(r"(?:19|20)\d\d")
_FIELDS = ("uid", "question", "answer", "derivation", "answer_type", "scale")


class Unusable(ValueError):
    """A question that is left out; the message is the reason it is counted under."""


# -------------------------------------------------------------------------------------------------------- evidence


def clean(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def amounts(text: str) -> set[Fraction]:
    """The sizes, without signs, of all numbers in a text."""
    return {Fraction(match[1].replace(",", "")) for match in _CELL.finditer(text)}


def is_heading(cells: Sequence[str]) -> bool:
    """A row without an amount: years, units and words only."""
    return not any(amounts(_YEAR.sub("", cell)) for cell in cells[1:] if not re.search(r"[A-Za-z]{3}", cell))


def evidence_rows(table: Sequence[Sequence[str]], wanted: set[Fraction]) -> list[int]:
    """The rows that hold a wanted amount, each with the table's top rows and the heading above it."""
    top = 0
    while top < len(table) and is_heading(table[top]) and (top == 0 or not table[top][0].strip()):
        top += 1
    hits = [index for index in range(top, len(table)) if wanted & set().union(*map(amounts, table[index][1:]), set())]
    found = set(range(top)) | set(hits) if hits else set()
    for index in hits:
        above = next((i for i in range(index - 1, top - 1, -1) if not any(map(str.strip, table[i][1:]))), None)
        if above is not None:
            found.add(above)
    return sorted(found)


def row_text(cells: Sequence[str]) -> str:
    return " | ".join(clean(cell) for cell in cells).strip()


@dataclasses.dataclass(frozen=True, slots=True)
class Evidence:
    """What a question is asked about, as text, and the operands that stand in none of it."""

    text: str
    missing: frozenset[Fraction]


def gather(context: Mapping[str, Any], question: Mapping[str, Any], operands: Iterable[Fraction]) -> Evidence:
    """The table rows and paragraphs of a question. The scale must be said in them, or is added."""
    wanted = {abs(amount) for amount in operands}
    table = [[str(cell) for cell in row] for row in context["table"]["table"]]
    rows = evidence_rows(table, wanted)
    orders = {str(order) for order in question.get("rel_paragraphs") or ()}
    mapping = question.get("mapping")
    if isinstance(mapping, dict) and isinstance(mapping.get("paragraph"), dict):
        orders |= {str(order) for order in mapping["paragraph"]}
    paragraphs = {str(p["order"]): clean(p["text"]) for p in context["paragraphs"]}
    seen = set().union(*(amounts(cell) for row in rows for cell in table[row]), set())
    for order, text in paragraphs.items():  # an operand that no row and no named paragraph holds
        if wanted - seen - set().union(*(amounts(paragraphs.get(o, "")) for o in orders), set()) & amounts(text):
            orders.add(order)
    chosen = [text for order, text in paragraphs.items() if order in orders]
    text = "\n".join([*(row_text(table[row]) for row in rows), *chosen])
    scale = str(question["scale"])
    if scale in arithmetic.SCALES and scale not in text.lower():
        text += f"\nAmounts are in {scale}s." if text else f"Amounts are in {scale}s."
    held = seen | set().union(*map(amounts, chosen), set())
    return Evidence(text, frozenset(wanted - held))


# -------------------------------------------------------------------------------------------------------- questions


def published_answer(question: Mapping[str, Any]) -> Fraction:
    """Raises Unusable where the answer is no number."""
    answer = question["answer"]
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    try:
        return Fraction(str(answer).replace(",", "").lstrip("$"))
    except ValueError as error:
        raise Unusable("the answer is no number") from error


def decimals(amount: Fraction) -> int:
    """How many decimals a published (that is, short) number has."""
    return next((places for places in range(12) if amount * 10**places % 1 == 0), 12)


def scaled(tree: arithmetic.Operation, answer: Fraction, scale: str) -> tuple[arithmetic.Operation, Fraction] | None:
    """The tree, in percent where it must be, and its value in the answer's scale; None where the two disagree.

    They agree where the value, rounded to the answer's decimals, is the answer.
    """
    places = decimals(answer)
    percent = scale == "percent"
    raw = arithmetic.value(tree)
    words = any(number.scale for number in arithmetic.numbers(tree))
    plain = raw / 10 ** arithmetic.SCALES[scale] if words and scale in arithmetic.SCALES else raw
    readings: list[tuple[arithmetic.Tree, Fraction]] = [(tree, raw * 100 if percent else plain)]
    hundred = any(number.value == 100 for number in arithmetic.numbers(tree))
    if percent and (hundred or not arithmetic.has_ratio(tree, CONSTANTS)):
        readings.append((arithmetic.in_percent(tree), raw))  # the operands are in percent already
    for candidate, in_scale in readings:
        if arithmetic.rounded(in_scale, places) == answer:
            assert isinstance(candidate, arithmetic.Operation)
            return candidate, in_scale
    return None


def read_derivation(text: str, answer: Fraction, scale: str) -> tuple[arithmetic.Operation, Fraction]:
    """The derivation that comes to the answer, and its value in the answer's scale. Raises Unusable.

    Where it does not come to it as written, a number in parentheses is read as accountants do: (71) is -71.
    """
    try:
        readings = [arithmetic.parse(text), arithmetic.parse(_BRACKETED.sub(r"(-\1)", text))]
    except ValueError as error:
        raise Unusable("the derivation cannot be read") from error
    for tree in readings:
        if isinstance(tree, arithmetic.Number):
            raise Unusable("the derivation has no operation")
        try:
            found = scaled(tree, answer, scale)
        except ZeroDivisionError as error:
            raise Unusable("the derivation divides by zero") from error
        if found is not None:
            return found
    raise Unusable("the derivation disagrees with the answer")


def result_text(amount: Fraction, tree: arithmetic.Tree, *, scale: str, places: int) -> str:
    """The gold result with its scale: exact for sums, differences and products, else rounded."""
    divides = "/" in arithmetic.operators(tree)
    text = arithmetic.decimal(amount, max(2, places) if divides else 12)
    return text + ("%" if scale == "percent" else f" {scale}" if scale else "")


def kind_of(tree: arithmetic.Operation) -> str:
    """A name for the shape of a derivation."""
    used = arithmetic.operators(tree)
    if tree.operator == "/" and isinstance(tree.left, arithmetic.Operation):
        if tree.left.operator == "-" and tree.left.right == tree.right:
            return "relative_change"
        if used == {"+", "/"} and isinstance(tree.right, arithmetic.Number) and tree.right.value in CONSTANTS:
            return "average"
    less_one = isinstance(tree.right, arithmetic.Number) and tree.right.value in (1, 100)
    if tree.operator == "-" and "/" in used and less_one:
        return "relative_change"
    return {frozenset("-"): "difference", frozenset("+"): "sum", frozenset("/"): "ratio",
            frozenset("*"): "product"}.get(frozenset(used), "several_operations")


def to_question(context: Mapping[str, Any], row: Mapping[str, Any]) -> Question:
    """One published question as ours. Raises Unusable with the reason where it cannot be one."""
    if row["answer_type"] != "arithmetic":
        raise Unusable("not arithmetic")
    scale = str(row["scale"])
    if scale not in SCALES:
        raise Unusable("unknown scale")
    answer = published_answer(row)
    tree, amount = read_derivation(str(row["derivation"]), answer, scale)
    operands = {abs(number.value * (100 if number.percent else 1) / 10 ** arithmetic.SCALES.get(number.scale or "", 0))
                for number in arithmetic.numbers(tree)}
    evidence = gather(context, row, operands)
    if evidence.missing - CONSTANTS:
        raise Unusable("an operand is in neither the table nor the paragraphs")
    working = arithmetic.work(tree, result=result_text(amount, tree, scale=scale, places=decimals(answer)),
                              constants=evidence.missing & CONSTANTS)
    names = [NAMES[operator] for operator in working.operators]
    if scale == "percent":
        names[-1] = "Percentage"
    prompt = f"{evidence.text}\n{clean(row['question'])} {ROUNDING}"
    return Question(
        id=content_id("tatqa", row["uid"]), source="tatqa", kind=kind_of(tree), language="en", prompt=prompt,
        steps=tuple(f"{name}: {line}" for name, line in zip(names, working.lines, strict=True)), answer=working.result,
        operand_key=content_id("tatqa", *sorted(working.facts.values())), facts=working.facts, program=working.program)


# ------------------------------------------------------------------------------------------------------------- file


def checked(path: Path) -> list[dict[str, Any]]:
    """The file's tables with their questions. Raises UserError that names the place of what is missing."""
    contexts = parse_json(read_text(path), where=str(path))
    if not isinstance(contexts, list):
        raise UserError(f"{path}: holds {shown(contexts)}; TAT-QA's file is a list of tables with their questions "
                        "(tatqa_dataset_*.json)")
    for index, context in enumerate(contexts):
        where = f"{path}: table {index}"
        fits = isinstance(context, dict) and isinstance(context.get("table"), dict) and isinstance(
            context["table"].get("table"), list) and "uid" in context["table"] and isinstance(
            context.get("paragraphs"), list) and isinstance(context.get("questions"), list)
        if not fits:
            raise UserError(f"{where}: lacks one of table.uid, table.table, paragraphs, questions; is this TAT-QA's "
                            "published file?")
        for number, row in enumerate(context["questions"]):
            lacking = [name for name in _FIELDS if not isinstance(row, dict) or name not in row]
            if lacking:
                raise UserError(f"{where}, question {number}: lacks {', '.join(lacking)}; files without "
                                "answers (the test set as first published) cannot be used")
        for number, paragraph in enumerate(context["paragraphs"]):
            whole = isinstance(paragraph, dict) and isinstance(paragraph.get("text"), str) and "order" in paragraph
            if not whole:
                raise UserError(f"{where}, paragraph {number}: lacks `order` or `text`")
    return contexts


def document(context: Mapping[str, Any], which: Literal["table", "paragraphs"]) -> Document:
    """A table or its paragraphs as a text to pre-train on."""
    lines = [row_text([str(cell) for cell in row]) for row in context["table"]["table"]] if which == "table" else [
        clean(paragraph["text"]) for paragraph in context["paragraphs"]]
    return Document(id=content_id("tatqa", context["table"]["uid"], which), source="tatqa",
                    segments=(("\n".join(line for line in lines if line), True),))


def load(path: str | Path, *, seed: int = 0) -> Loaded:
    """The questions and texts of a published file, split by table and operands. Raises UserError for another file."""
    path = Path(path)
    contexts = checked(path)
    dropped: collections.Counter[str] = collections.Counter()
    kept: list[Question] = []
    tables: list[str] = []
    seen: set[str] = set()
    for context in contexts:
        for row in context["questions"]:
            try:
                question = to_question(context, row)
                if normal_text(question.prompt) in seen:
                    raise Unusable("the same question twice")
            except Unusable as reason:
                dropped[str(reason)] += 1
                continue
            seen.add(normal_text(question.prompt))
            kept.append(question)
            tables.append(str(context["table"]["uid"]))
    report = require_rows(kept, dropped, where=str(path))
    groups = joined([(f"table {table}", f"operands {question.operand_key}") for table, question in zip(tables, kept)])
    splits = split_groups(groups, seed=seed)
    split_of_table = dict(zip(tables, splits, strict=True))
    texts = [(document(context, which), split_of_table.get(str(context["table"]["uid"]), "train"))
             for context in contexts for which in ("table", "paragraphs")]
    texts = [(text, split) for text, split in texts if text.text.strip()]
    return Loaded(by_split(kept, splits), by_split([t for t, _ in texts], [s for _, s in texts]), report)
