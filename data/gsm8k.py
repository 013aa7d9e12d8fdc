"""GSM8K (Cobbe et al. 2021; MIT): grade-school word problems with worked solutions.

    load("train.jsonl", seed=0)        load("folder with train.jsonl and test.jsonl")        load("openai/gsm8k")

Steps are the solution's lines without the calculator's marks (`<<48/2=24>>`); the answer is the number after `####`. A
program is made of the marks where every line is one plain operation. A published test split stays the test split.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from data import arithmetic
from data.files import MARKER, Table, read_tables
from data.loading import Loaded, by_split, is_quantity, normal_text, require_rows, resplit
from data.schema import Document, Question, Split, UserError, content_id

MARK = re.compile(r"<<[^<>]*>>")
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_PLAIN = re.compile(rf"(?<![\d.,/*+x×%-])(?<![/*+x×-]\s)\$?({_NUMBER})\s?([-+*/x×])\s?\$?({_NUMBER})\s?=\s?"
                    rf"\$?({_NUMBER})"
                    r"(?![\d%])(?![.,]\d)(?!\s?(?:thousand|million|billion|[kmbKMB]\b|percent))")
_FACTORS = {"x": "*", "×": "*"}


class Unusable(ValueError):
    """A row that is left out; the message is the reason it is counted under."""


def clean_steps(solution: str) -> tuple[str, ...]:
    """The lines of a solution, without marks and without the answer line."""
    lines = (re.sub(r"\s+", " ", MARK.sub("", line)).strip() for line in solution.partition("####")[0].split("\n"))
    return tuple(line for line in lines if line)


def program_of(steps: Sequence[str], marks: Sequence[Sequence[str]], *,
               answer: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """(program, facts) where every line is one operation as its mark says, each operand a fact or a result so far.

    ((), {}) where the program would not be certain, or does not come to the answer.
    """
    facts: dict[str, str] = {}
    program: list[str] = []
    results: dict[Fraction | None, str] = {}
    for index, (step, inside) in enumerate(zip(steps, marks, strict=True)):
        match = _PLAIN.search(step)
        if not match or step.count("=") != 1 or len(inside) != 1 or "%" in step:
            return (), {}
        left, sign, right, result = (text.replace(",", "") for text in match.groups())
        operator = _FACTORS.get(sign, sign)
        if inside[0].replace(" ", "").replace(",", "") != f"{left}{operator}{right}={result}":
            return (), {}
        names = []
        for text in (left, right):
            known: dict[Fraction | None, str] = {Fraction(written): name for name, written in facts.items()}
            known.update(results)
            name = known.get(Fraction(text), f"n{len(facts) + 1}")
            if name not in results.values():
                facts.setdefault(name, text)
            names.append(name)
        if Fraction(right) == 0 or arithmetic.apply(operator, Fraction(left), Fraction(right)) != Fraction(result):
            return (), {}
        program.append(f"{names[0]} {operator} {names[1]}")
        results[Fraction(result)] = f"s{index + 1}"
    reached = "".join(answer.split()).replace(",", "").lstrip("$")
    return (tuple(program), facts) if results.get(_fraction(reached)) == f"s{len(steps)}" else ((), {})


def _fraction(text: str) -> Fraction | None:
    return Fraction(text) if re.fullmatch(r"-?\d+(?:\.\d+)?", text) else None


def to_question(row: dict[str, Any]) -> Question:
    """One published row as ours. Raises Unusable with the reason where it cannot be one."""
    text, solution = row["question"], row["answer"]
    answer = solution.rpartition("####")[2].strip() if "####" in solution else ""
    if not answer:
        raise Unusable("no answer after ####")
    if not is_quantity(answer):
        raise Unusable("the answer is no number")
    steps = clean_steps(solution)
    if not steps:
        raise Unusable("no worked steps")
    if MARKER.search("\n".join(steps)):
        raise Unusable("a step has an answer marker")
    lines = [line for line in solution.partition("####")[0].split("\n") if MARK.sub("", line).strip()]
    marks = [[mark[2:-2] for mark in MARK.findall(line)] for line in lines]
    program, facts = program_of(steps, marks, answer=answer)
    return Question(
        id=content_id("gsm8k", text), source="gsm8k", kind=f"steps_{min(len(steps), 8)}", language="en",
        prompt=text.strip(), steps=steps, answer=answer, operand_key=content_id("gsm8k", normal_text(text)),
        facts=facts, program=program)


def solution_document(question: Question) -> Document:
    """A problem and its solution as running text to pre-train on."""
    return Document(id=content_id("gsm8k document", question.id), source="gsm8k",
                    segments=(("\n".join([question.prompt, *question.steps]), True),))


def load(place: str, *, seed: int = 0) -> Loaded:
    """The problems of a file, a folder or a hub data set. Raises UserError for rows of another form.

    With a published test split only dev is split off the training rows; else test is, too.
    """
    tables = read_tables(place, config="main")
    dropped: collections.Counter[str] = collections.Counter()
    kept: list[Question] = []
    published: list[Split | None] = []
    seen: set[str] = set()
    for table in tables:
        check_columns(table)
        for row in table.rows:
            try:
                question = to_question(row)
                if question.operand_key in seen:
                    raise Unusable("the same question twice")
            except Unusable as reason:
                dropped[str(reason)] += 1
                continue
            seen.add(question.operand_key)
            kept.append(question)
            published.append(table.split)
    report = require_rows(kept, dropped, where=str(place))
    splits = resplit([question.operand_key for question in kept], published, seed=seed)
    found = by_split(kept, splits)
    return Loaded(found, {split: [solution_document(q) for q in rows] for split, rows in found.items()}, report)


def check_columns(table: Table) -> None:
    """Raises UserError unless every row has a question and an answer that are text."""
    for number, row in enumerate(table.rows, start=1):
        for name in ("question", "answer"):
            if not isinstance(row.get(name), str):
                raise UserError(f"{table.name}: row {number}: field {name!r} is {row.get(name)!r}; GSM8K's rows have a "
                                "`question` and an `answer`, both text")
