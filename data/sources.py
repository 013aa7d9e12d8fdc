"""Where questions and documents come from: the finance generator, TAT-QA, GSM8K, or files of your own.

    source = open_source({"source": "finance", "path": None, "languages": ["en", "zh"], "kinds": None, "seed": 0})
    source.questions("train", count=800, seed=1)

Dev and test rows are drawn with the config's seed, whatever seed is asked, so that every run is judged alike; training
rows are drawn with the seed asked. Nothing is read before rows are asked for. The module knows no stage.
"""

from __future__ import annotations

import abc
import functools
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from data import files, gsm8k, tatqa
from data.finance import generator, textbook
from data.finance.kinds import KINDS
from data.general import drills, general_documents
from data.loading import Loaded, LoadReport, language_of
from data.problems import everyday_problems
from data.schema import Document, Question, Split, UserError

T = TypeVar("T")
SOURCES = ("finance", "tatqa", "gsm8k", "file")
LANGUAGES = ("en", "zh")


class Source(abc.ABC):
    """Questions and documents of one kind of data. `count=None` means all there are."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.name: str = config["source"]
        self.path: str | None = config.get("path")
        self.languages: list[str] = list(config.get("languages") or LANGUAGES)
        self.kinds: list[str] | None = list(config["kinds"]) if config.get("kinds") is not None else None
        self.seed: int = config.get("seed", 0)
        unknown = [language for language in self.languages if language not in LANGUAGES]
        if unknown:
            raise UserError(f"data.languages={self.languages}: {unknown[0]!r} is unknown; use en, zh or both")

    def _seed(self, seed: int, split: Split) -> int:
        return seed if split == "train" else self.seed

    def _in_languages(self, draw: Callable[..., list[Document]], count: int, seed: int, split: Split) -> list[Document]:
        """Generated texts come in English and Chinese in turn: draw enough, keep what was asked for."""
        if set(self.languages) == set(LANGUAGES):
            return draw(count, seed=self._seed(seed, split), split=split)
        drawn = draw(2 * count, seed=self._seed(seed, split), split=split)
        return [document for document in drawn if language_of(document.text) in self.languages][:count]

    @abc.abstractmethod
    def questions(self, split: Split, *, count: int | None, seed: int) -> list[Question]:
        """`count` questions in a drawn order (fewer where a finite source has fewer); more only appends."""

    @abc.abstractmethod
    def domain_documents(self, count: int, *, seed: int, split: Split = "train") -> list[Document]:
        """Texts of the source's own domain, at most `count`."""

    def general_documents(self, count: int, *, seed: int, split: Split = "train") -> list[Document]:
        """Generated non-finance texts, for replay and to measure forgetting."""
        return self._in_languages(general_documents, count, seed, split)

    def drills(self, count: int, *, seed: int, split: Split = "train") -> list[Document]:
        """Generated arithmetic."""
        return drills(count, seed=self._seed(seed, split), split=split)

    def problems(self, count: int, *, seed: int, split: Split = "train") -> list[Document]:
        """Generated everyday word problems: numbers found by name in a text, then worked."""
        return self._in_languages(everyday_problems, count, seed, split)

    @property
    @abc.abstractmethod
    def report(self) -> LoadReport:
        """What the loader kept and dropped; reads the files."""

    @abc.abstractmethod
    def files(self) -> list[Path]:
        """The local files whose bytes the rows come from. Raises UserError where one is missing."""


class Finance(Source):
    """The generator: nothing to read, nothing dropped."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        unknown = [kind for kind in self.kinds or () if kind not in KINDS]
        if unknown:
            raise UserError(f"data.kinds={self.kinds}: {unknown[0]!r} is unknown; the kinds are {', '.join(KINDS)}")

    def questions(self, split: Split, *, count: int | None, seed: int) -> list[Question]:
        """`count=None`: as many as there are without asking any operands twice in one language."""
        names = self.kinds or list(KINDS)
        if count is None:
            fewest = min(len(generator.split_operands(name, split)) for name in names)
            count = fewest * len(names) * len(self.languages)
        try:
            return generator.questions(split, count=count, seed=self._seed(seed, split), languages=self.languages,  # type: ignore[arg-type]
                                       kinds=self.kinds)
        except ValueError as error:
            raise UserError(f"data source finance: {error}") from error

    def domain_documents(self, count: int, *, seed: int, split: Split = "train") -> list[Document]:
        return self._in_languages(textbook.passages, count, seed, split)

    @property
    def report(self) -> LoadReport:
        return LoadReport(0, {})

    def files(self) -> list[Path]:
        return []


class Finite(Source):
    """Rows that were loaded from files or the hub."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        if not self.path:
            raise UserError(f"data.path={self.path}: data source {self.name!r} reads a file; say which one with "
                            "data.path=FILE")
        self.place: str = self.path

    @functools.cached_property
    def loaded(self) -> Loaded:
        loaders: dict[str, Callable[[], Loaded]] = {
            "tatqa": lambda: tatqa.load(Path(self.place).expanduser(), seed=self.seed),
            "gsm8k": lambda: gsm8k.load(self.place, seed=self.seed),
            "file": lambda: files.load(self.place, seed=self.seed, languages=self.languages),
        }
        if self.name != "file" and "en" not in self.languages:
            raise UserError(f"data.languages={self.languages}: {self.name} is in English; use data.languages=[en]")
        loaded = loaders[self.name]()
        found = {question.kind for rows in loaded.questions.values() for question in rows}
        unknown = sorted(set(self.kinds or ()) - found)
        if unknown:
            raise UserError(f"data.kinds={self.kinds}: {self.place} has no question of kind {unknown[0]!r}; it has "
                            f"{', '.join(sorted(found))}")
        return loaded

    def _draw(self, rows: list[T], count: int | None, seed: int, what: str) -> list[T]:
        order = list(rows)
        random.Random(f"{what}:{seed}").shuffle(order)
        return order if count is None else order[:count]

    def questions(self, split: Split, *, count: int | None, seed: int) -> list[Question]:
        rows = [q for q in self.loaded.questions[split] if self.kinds is None or q.kind in self.kinds]
        return self._draw(rows, count, self._seed(seed, split), "questions")

    def domain_documents(self, count: int, *, seed: int, split: Split = "train") -> list[Document]:
        return self._draw(self.loaded.documents[split], count, self._seed(seed, split), "documents")

    @property
    def report(self) -> LoadReport:
        return self.loaded.report

    def files(self) -> list[Path]:
        if self.name == "tatqa" and not Path(self.place).expanduser().is_file():
            raise UserError(f"data.path={self.place}: there is no such file; give TAT-QA's published JSON "
                            "(tatqa_dataset_*.json)")
        return files.local_files(self.place)


def open_source(config: Mapping[str, Any]) -> Source:
    """The source of a config's `data` group. Raises UserError for a key that cannot be."""
    name = config.get("source")
    if name not in SOURCES:
        raise UserError(f"data.source={name}: is unknown; use one of {', '.join(SOURCES)}")
    return Finance(config) if name == "finance" else Finite(config)
