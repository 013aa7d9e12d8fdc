"""Draw finance questions of a split: `questions("train", count=4000, seed=0)`.

Which split a question belongs to follows from its operands alone (`kinds.split_of`), never from the seed. The drawing
is balanced over kinds and languages, a larger count only appends rows, and an operand tuple comes back with another
wording only after all of its kind and language were used.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from fractions import Fraction

from data.finance.kinds import (
    KINDS,
    Kind,
    Operands,
    evaluate,
    number,
    operand_key,
    operand_space,
    parse_step,
    split_of,
)
from data.finance.wording import ANSWER, COMPANIES, SCALES, UNITS, WORDING
from data.schema import Language, Question, Split, content_id

SYMBOLS = {"*": "×", "/": "/", "+": "+", "-": "-"}
PARAPHRASES = 4  # questions that one operand tuple may give in one language


def result_text(value: Fraction, unit: str, language: Language, scale: str) -> str:
    """A result as a worked step writes it: `15%`, `6 million`, `1.5 dollars`."""
    if unit == "percent":
        return f"{number(value * 100)}%"
    return number(value) + UNITS[language][unit].format(m=scale)


def step_expressions(kind: Kind, facts: dict[str, str]) -> list[str]:
    """The left side of every step as written, `46 - 40`."""
    written = dict(facts)
    sides = []
    for index, (expression, (*_, result)) in enumerate(zip(kind.program, evaluate(kind.program, facts), strict=True)):
        left, operator, right = parse_step(expression)
        sides.append(f"{written.get(left, left)} {SYMBOLS[operator]} {written.get(right, right)}")
        written[f"s{index + 1}"] = number(result)
    return sides


def build_question(kind: Kind, operands: Operands, key: str, *, language: Language, draw: random.Random) -> Question:
    """The question with a drawn wording, company and scale, and its gold solution."""
    wording = WORDING[language][kind.name]
    facts = dict(zip(kind.facts, operands, strict=True))
    template = draw.choice(wording.templates)
    company, scale = draw.choice(COMPANIES[language]), draw.choice(SCALES[language])
    noise = draw.randint(2, 99)
    if "{noise}" in template:
        while str(noise) in operands:
            noise = draw.randint(2, 99)
    prompt = template.format(c=company, m=scale, noise=noise, **facts)
    results = [result_text(row[3], unit, language, scale)
               for row, unit in zip(evaluate(kind.program, facts), kind.units, strict=True)]
    steps = tuple(f"{label}: {left} = {right}" for label, left, right
                  in zip(wording.labels, step_expressions(kind, facts), results, strict=True))
    if "{noise}" in template:
        facts["noise"] = str(noise)
    return Question(id=content_id("finance", prompt), source="finance", kind=kind.name, language=language,
                    prompt=prompt, steps=steps, answer=results[-1], operand_key=key, facts=facts, program=kind.program)


def solution_text(question: Question) -> str:
    """The gold completion: the steps and the answer line."""
    return "\n".join([*question.steps, f"{ANSWER[question.language]} {question.answer}"])


@functools.cache
def split_operands(kind: str, split: Split) -> tuple[tuple[Operands, str], ...]:
    """The operands of a kind that belong to a split, one for each key.

    Operands of the training split that would work out, as a step, the whole of a one-step dev or test question are
    left out.
    """
    rows = {key: operands for operands, key in operand_space(kind) if split_of(key) == split}
    if split == "train":
        rows = {key: operands for key, operands in rows.items() if not _gives_away(KINDS[kind], operands)}
    return tuple((operands, key) for key, operands in rows.items())


@functools.cache
def _held_out() -> frozenset[str]:
    """The keys of one-step dev and test questions: a step of a longer question could be all of one of these."""
    return frozenset(key for name, kind in KINDS.items() if len(kind.program) == 1
                     for _, key in operand_space(name) if split_of(key) != "train")


def _gives_away(kind: Kind, operands: Operands) -> bool:
    facts = dict(zip(kind.facts, operands, strict=True))
    steps = zip(kind.program, evaluate(kind.program, facts), strict=True)
    return any(operand_key(step_operands(expression, facts, left, right)) in _held_out()
               for expression, (left, _, right, _) in steps)


def step_operands(expression: str, facts: dict[str, str], left: Fraction, right: Fraction) -> tuple[str, str]:
    """The two numbers of a step as they stand in it; a percent keeps its sign."""
    name = parse_step(expression)[2]
    return number(left), facts[name] if facts.get(name, "").endswith("%") else number(right)


def _stream(kind: Kind, split: Split, *, language: Language, seed: int) -> Iterator[Question]:
    """Endless only in wording: all operands once, then all of them again, `PARAPHRASES` times."""
    draw = random.Random(f"questions:{seed}:{split}:{language}:{kind.name}")
    rows = list(split_operands(kind.name, split))
    seen: set[str] = set()
    for _ in range(PARAPHRASES):
        draw.shuffle(rows)
        for operands, key in rows:
            question = build_question(kind, operands, key, language=language, draw=draw)
            if question.prompt not in seen:
                seen.add(question.prompt)
                yield question


def questions(
    split: Split, *, count: int, seed: int, languages: Sequence[Language] = ("en", "zh"),
    kinds: Sequence[str] | None = None,
) -> list[Question]:
    """`count` distinct questions of `split`, balanced over `kinds` (default all) and `languages`.

    The same seed gives the same rows, and a larger count starts with them. Raises ValueError for an unknown kind,
    language or split and for a count that the operands cannot give.
    """
    unknown = [k for k in kinds or () if k not in KINDS] + [x for x in languages if x not in WORDING]
    if unknown or split not in ("train", "dev", "test"):
        raise ValueError(f"questions: unknown {unknown or [split]}; kinds are {sorted(KINDS)}, languages "
                         f"{sorted(WORDING)}, splits train, dev, test")
    streams = {(name, language): _stream(KINDS[name], split, language=language, seed=seed)
               for name in dict.fromkeys(kinds or KINDS) for language in dict.fromkeys(languages)}
    found: list[Question] = []
    cells = list(streams)
    draw = random.Random(f"order:{seed}:{split}")
    while len(found) < count:
        draw.shuffle(cells)
        for cell in list(cells):
            question = next(streams[cell], None)
            if question is None:
                raise ValueError(f"questions: {count} questions asked, but {cell[0]} in {cell[1]} ends after "
                                 f"{len(found) // len(cells)}; ask for at most about {len(found)} of split {split!r}")
            found.append(question)
            if len(found) == count:
                break
    return found
