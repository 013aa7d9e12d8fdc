"""No evaluation question in a training set: generated rows are known by their operands, real rows by their text.

Reads the rows of what is sealed, of the data source, and of the files or hub datasets a stage names; loads no model.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alignment.identity import digest
from alignment.kinds import Evaluate, Pretrain
from alignment.plan import PlannedStage
from data.files import read_tables
from data.schema import Question, UserError
from data.sources import Source, open_source

ROW_FILES = ("questions.jsonl", "train.jsonl", "dev.jsonl")  # of any artifact: rows that may have been trained on
CHANCE = 20  # letters: a shorter question may stand in a document by chance


def check(evaluation: PlannedStage, data: Mapping[str, Any], sealed: Iterable[tuple[PlannedStage, Path]]) -> int:
    """Raises UserError where a question that `evaluation` asks is in what the sealed stages trained on.

    Returns the number of training rows looked at.
    """
    config = evaluation.config
    assert isinstance(config, Evaluate)
    source = open_source(dict(data))
    held_out = HeldOut.of(source.questions("test", count=config.questions_drawn, seed=data["seed"]))
    sealed = list(sealed)
    learnt = {stage.inputs["completions"] for stage, _ in sealed if getattr(stage.config, "from_verdicts", False)
              or stage.kind.makes == "process_reward"}
    rows = [training_rows(stage, folder, learnt=stage.name in learnt) for stage, folder in sealed]
    if data.get("source", "finance") != "finance" and any(stage.kind.reads_data for stage, _ in sealed):
        rows.append(source_rows(source))  # the generator's splits are apart by construction
    looked_at = 0
    for where, row in itertools.chain.from_iterable(rows):
        looked_at += 1
        if held_out.meets(row):
            raise UserError(f"stage {evaluation.name}: an evaluation question is in the training set, {where}. Remove "
                            "the row, or draw another split with data.seed")
    return looked_at


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The questions of an evaluation, to be recognised by their operands, by their text, or within a document."""

    marks: frozenset[str]
    starts: Mapping[str, list[str]]  # the first letters of a text -> the texts that start so

    @classmethod
    def of(cls, questions: Iterable[Question]) -> HeldOut:
        starts: dict[str, list[str]] = {}
        questions = list(questions)
        for text in (normal_text(question.prompt) for question in questions):
            if len(text) >= CHANCE:
                starts.setdefault(text[:CHANCE], []).append(text)
        return cls(frozenset(mark for question in questions for mark in question_marks(question.to_json())), starts)

    def meets(self, row: Mapping[str, Any]) -> bool:
        """Whether the row is one of the questions, or a document that holds one."""
        if not self.marks.isdisjoint(question_marks(row)):
            return True
        text = normal_text(row["text"]) if isinstance(row.get("text"), str) else ""
        return any(text.startswith(question, place) for place in range(len(text) - CHANCE + 1)
                   for question in self.starts.get(text[place:place + CHANCE], ()))


def source_rows(source: Source) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, row) of all that a data source gives for training."""
    for question in source.questions("train", count=None, seed=0):
        yield f"data.path={source.path}: {question.prompt[:60]!r}", question.to_json()
    for document in source.domain_documents(sys.maxsize, seed=0, split="train"):
        yield f"data.path={source.path}: {document.text[:60]!r}", {"text": document.text}


def training_rows(stage: PlannedStage, folder: Path, *,
                  learnt: bool = False) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, row) of all that a stage trained on or made to be trained on: none of an evaluation, and none of a
    held-out split unless another stage has `learnt` from it."""
    if stage.kind.makes == "evaluation" or (getattr(stage.config, "split", "train") != "train" and not learnt):
        return
    for path in filter(Path.is_file, map(folder.joinpath, ROW_FILES)):
        for number, row in _rows(path):
            yield f"{path}:{number}", row
    dataset = getattr(stage.config, "dataset", None)
    for table in read_tables(dataset) if dataset else ():
        left_out = table.split in ("dev", "test") and not isinstance(stage.config, Pretrain)  # which reads all
        for number, row in enumerate(() if left_out else table.rows, start=1):
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
