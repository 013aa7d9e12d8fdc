"""What every loader of real rows shares: what it kept and why it dropped the rest, languages, and splits.

The module knows no format. Splits are made of whole groups, so that rows which belong together (a table's questions,
the same text twice) never stand on both sides.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from data.schema import Document, Language, Question, Split, UserError

SHARES: tuple[tuple[Split, float], ...] = (("test", 0.2), ("dev", 0.1))  # the rest is train
NUMBER = re.compile(r"[-+]?\s?[$€£¥]?\s?[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
_QUANTITY = re.compile(NUMBER.pattern + r"\s?(?:%|(?:thousand|million|billion|万亿|亿|万)?\s?(?:dollars|元)?)")
T = TypeVar("T")
_HAN = re.compile(r"[\u3400-\u9fff]")


@dataclasses.dataclass(frozen=True, slots=True)
class LoadReport:
    """How many rows a loader kept, and how many it dropped for which reason. Generated sources drop nothing."""

    kept: int
    dropped: dict[str, int]

    def __str__(self) -> str:
        """"kept 612 of 1668 rows; dropped 950 x not arithmetic, ..."."""
        most = sorted(self.dropped.items(), key=lambda item: -item[1])
        reasons = ", ".join(f"{count} x {reason}" for reason, count in most)
        return f"kept {self.kept} of {self.kept + sum(self.dropped.values())} rows; dropped {reasons or 'none'}"


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded:
    """A source's rows by split; each list is in the order of the file."""

    questions: dict[Split, list[Question]]
    documents: dict[Split, list[Document]]
    report: LoadReport


def normal_text(text: str) -> str:
    """A text without what does not make it another one: case, white space, compatibility forms."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().casefold()


def language_of(text: str) -> Language:
    """Chinese where at least a tenth of the characters are Han."""
    return "zh" if len(_HAN.findall(text)) * 10 >= max(1, len(text)) else "en"


def is_quantity(text: str) -> bool:
    """Whether the text is one number with its unit, which the rule can check: `$1,200 million`, `-4.5%`, `6 亿元`."""
    return _QUANTITY.fullmatch(text.strip()) is not None


def joined(keys: Sequence[Iterable[str]]) -> list[str]:
    """The group of each row, given the keys it has: rows that share a key, also through others, share the group."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = key = parent[parent[key]]
        return key

    rows = [sorted(row) for row in keys]
    for row in rows:
        for key in row[1:]:
            first, second = sorted((root(row[0]), root(key)))
            parent[second] = first
    return [root(row[0]) for row in rows]


def split_groups(groups: Sequence[str], *, seed: int, shares: Mapping[Split, float] | None = None) -> list[Split]:
    """The split of each row, whole groups at a time: a fifth of the rows is test, a tenth is dev.

    Which groups these are follows from a hash of the group and the seed. Where there are three groups or more, no
    split is empty.
    """
    wanted = dict(SHARES) if shares is None else dict(shares)
    sizes = collections.Counter(groups)
    order = sorted(sizes, key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).hexdigest())
    where: dict[str, Split] = dict.fromkeys(order, "train")
    place = 0
    for split, share in wanted.items():
        taken, least = 0, share * len(groups)
        while share and place < len(order) - 1 and (taken == 0 or taken + sizes[order[place]] / 2 < least):
            where[order[place]] = split
            taken += sizes[order[place]]
            place += 1
    return [where[group] for group in groups]


def resplit(groups: Sequence[str], published: Sequence[Split | None], *, seed: int) -> list[Split]:
    """Published dev and test rows stay; what is missing of them is split off the others."""
    shares: dict[Split, float] = {split: 0.0 if split in published else share for split, share in SHARES}
    free = [index for index, split in enumerate(published) if split not in ("dev", "test")]
    drawn = split_groups([groups[index] for index in free], seed=seed, shares=shares)
    found: list[Split] = [split or "train" for split in published]
    for index, split in zip(free, drawn, strict=True):
        found[index] = split
    return found


def by_split(rows: Sequence[T], splits: Sequence[Split]) -> dict[Split, list[T]]:
    found: dict[Split, list[T]] = {"train": [], "dev": [], "test": []}
    for row, split in zip(rows, splits, strict=True):
        found[split].append(row)
    return found


def require_rows(kept: Sequence[object], dropped: Mapping[str, int], *, where: str) -> LoadReport:
    """The report. Raises UserError where nothing was kept."""
    report = LoadReport(len(kept), dict(dropped))
    if not kept:
        raise UserError(f"{where}: no row can be used ({report})")
    return report
