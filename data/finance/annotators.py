"""Simulated human annotators of finance answers, and the small file of their pairs that ships with the package.

    python -m tests.data.annotate.simulated OUT.jsonl     lets them work at the annotator's desk, and exports the file

Nobody made these preferences. An annotator is shown a right and a corrupted solution in random order and prefers the
right one, but errs at a stated rate. The file exists so that the path of human pairs runs every time; each row says
`origin: simulated`. Questions are of the train split alone.
"""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Literal

from data.finance.errors import corrupt
from data.finance.generator import questions, solution_text
from data.schema import PreferencePair, Question, content_id

SHIPPED = Path(__file__).parent / "simulated_pairs.jsonl"
COUNT = 570
SEED = 20_260


@dataclasses.dataclass(frozen=True, slots=True)
class Annotator:
    """Prefers the wrong answer with probability `error_rate`."""

    name: str
    error_rate: float


ANNOTATORS = (Annotator("simulated-1", 0.05), Annotator("simulated-2", 0.10), Annotator("simulated-3", 0.20))


def compare(question: Question, annotator: Annotator, draw: random.Random) -> PreferencePair:
    """The annotator's pair for one question. `error_kind` says what is wrong with the rejected side: None where the
    annotator erred and rejected the right one."""
    right, wrong = solution_text(question), corrupt(question, draw)
    errs = draw.random() < annotator.error_rate
    order: Literal["chosen_first", "rejected_first"] = draw.choice(("chosen_first", "rejected_first"))
    pair = PreferencePair(
        id=content_id("simulated", question.id, annotator.name), prompt=[{"role": "user", "content": question.prompt}],
        chosen=right, rejected=wrong.text, origin="simulated", annotator=annotator.name, question_id=question.id,
        operand_key=question.operand_key, language=question.language, question_kind=question.kind,
        error_kind=wrong.error_kind, chosen_from="human", shown_order=order)
    return dataclasses.replace(pair.swap(), error_kind=None) if errs else pair


def simulated_pairs(count: int = COUNT, *, seed: int = SEED) -> list[PreferencePair]:
    """`count` pairs, the annotators in turn; the same seed gives the same pairs."""
    asked = questions("train", count=count, seed=seed)
    return [compare(question, ANNOTATORS[index % len(ANNOTATORS)], random.Random(f"annotate:{seed}:{question.id}"))
            for index, question in enumerate(asked)]
