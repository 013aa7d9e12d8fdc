"""The base corpus: splits, exact drills, variety, determinism."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest

from data import general
from data.finance import kinds
from data.schema import Document

EXPRESSION = re.compile(r" ([\d.]+%?) ([-+×/]) ([\d.]+%?) =")
MEAN = re.compile(r" \(([\d.]+) \+ ([\d.]+)\) / 2 =")


def operands_of(text: str) -> tuple[str, ...]:
    if match := MEAN.fullmatch(text):
        return (match[1], match[2], "2")
    match = EXPRESSION.fullmatch(text)
    assert match, text
    return (match[1], match[3])


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_drills_hold_operands_of_their_split_alone(split: kinds.Split) -> None:
    for document in general.drills(150, seed=0, split=split):
        for text, trained in document.segments[::2]:
            assert not trained
            assert kinds.split_of(kinds.operand_key(operands_of(text))) == split, text


def test_drill_results_are_exact() -> None:
    for document in general.drills(200, seed=1):
        for (left, _), (right, trained) in zip(document.segments[::2], document.segments[1::2]):
            assert trained
            assert right.endswith("\n")
            written = re.match(r" ([\d.]+%?)", right)
            assert written
            if match := MEAN.fullmatch(left):
                expected = (Fraction(match[1]) + Fraction(match[2])) / 2
            else:
                match = EXPRESSION.fullmatch(left)
                assert match
                a, b = kinds.value_of(match[1]), kinds.value_of(match[3])
                expected = kinds.apply({"×": "*"}.get(match[2], match[2]), a, b)
            assert kinds.value_of(written[1]) == expected, (left, right)


def test_drills_cover_every_step_of_every_kind() -> None:
    drilled = {text for document in general.drills(4000, seed=0) for text, _ in document.segments[::2]}
    for name, kind in kinds.KINDS.items():
        for step in range(len(kind.program)):
            wanted = {f" {left} =" for left, _ in general._kind_expressions(name)[step, "train"]}
            assert len(wanted & drilled) > min(50, len(wanted) // 3), (name, step)


def test_general_text_says_nothing_of_finance_and_varies() -> None:
    texts = [document.text for document in general.general_documents(600, seed=0)]
    assert len(set(texts)) == len(texts)
    assert not any(re.search(r"\d|[{}]|profit|revenue|利润|营收", text) for text in texts)
    assert any("一" <= char <= "鿿" for char in texts[1])
    assert texts[0].isascii()
    assert not any(re.search(r"\b[Aa] [aeiou]", text) for text in texts)


def test_general_splits_differ_in_combinations() -> None:
    train, test = (({d.text for d in general.general_documents(1500, seed=0, split=s)}) for s in ("train", "test"))
    assert not train & test


@pytest.mark.parametrize("make", [general.general_documents, general.drills])
def test_documents_are_deterministic_append_and_go_through_json(make) -> None:  # type: ignore[no-untyped-def]
    short, long = make(20, seed=4, split="train"), make(60, seed=4, split="train")
    assert long[:20] == short
    assert make(20, seed=5, split="train") != short
    assert len({document.id for document in long}) == 60
    assert Document.from_json(short[0].to_json()) == short[0]
