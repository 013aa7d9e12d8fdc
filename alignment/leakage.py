"""No evaluation question in a training set: generated rows are known by their operands, real rows by their text.

Reads the rows of what is sealed and of the files or hub datasets a stage names; loads no model.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alignment.identity import digest
from alignment.kinds import Evaluate
from alignment.plan import PlannedStage
from data.files import read_tables
from data.schema import UserError
from data.sources import open_source

ROW_FILES = ("questions.jsonl", "train.jsonl", "dev.jsonl")  # of any artifact: rows that may have been trained on


def check(evaluation: PlannedStage, data: Mapping[str, Any], sealed: Iterable[tuple[PlannedStage, Path]]) -> int:
    """Raises UserError where a question that `evaluation` asks is in what the sealed stages trained on.

    Returns the number of training rows looked at.
    """
    config = evaluation.config
    assert isinstance(config, Evaluate)
    held_out = open_source(dict(data)).questions("test", count=config.questions_drawn, seed=data["seed"])
    marks = {mark for question in held_out for mark in question_marks(question.to_json())}
    looked_at = 0
    for where, row in (found for stage, folder in sealed for found in training_rows(stage, folder)):
        looked_at += 1
        if not marks.isdisjoint(question_marks(row)):
            raise UserError(f"stage {evaluation.name}: an evaluation question is in the training set, {where}. Remove "
                            "the row, or draw another split with data.seed")
    return looked_at


def training_rows(stage: PlannedStage, folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, row) of all that a stage trained on or made to be trained on: none of an evaluation or of a held-out
    split."""
    if stage.kind.makes == "evaluation" or getattr(stage.config, "split", "train") != "train":
        return
    for path in filter(Path.is_file, map(folder.joinpath, ROW_FILES)):
        for number, row in _rows(path):
            yield f"{path}:{number}", row
    dataset = getattr(stage.config, "dataset", None)
    for table in read_tables(dataset) if dataset else ():
        for number, row in enumerate(table.rows if table.split not in ("dev", "test") else (), start=1):
            yield f"{table.name}: row {number}", row


def normal_text(text: str) -> str:
    """A prompt without what does not make it another question: case, white space, compatibility forms."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().casefold()


def question_marks(row: Mapping[str, Any]) -> Iterator[str]:
    """By what a row's question is recognised: its operands where known, and its text."""
    if row.get("operand_key"):
        yield f"operands {row['operand_key']}"
    prompt = row.get("prompt", row.get("messages", row.get("question")))
    turns = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    for text in (turn.get("content") for turn in turns if turn.get("role") == "user"):
        if isinstance(text, str):
            yield f"text {digest(normal_text(text))}"


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                row = json.loads(line)
                if isinstance(row, dict):
                    yield number, row
