"""The shipped simulated pairs are what the command makes, err as stated, and never touch a held-out question."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from data.finance.annotators import ANNOTATORS, COUNT, SHIPPED, simulated_pairs
from data.finance.generator import questions, solution_text
from data.finance.kinds import split_of
from data.rows import read_rows, write_rows
from data.schema import PreferencePair
from reward.rule import verify


@pytest.fixture(scope="module")
def pairs() -> list[PreferencePair]:
    return read_rows(SHIPPED, PreferencePair)


def within(errors: int, count: int, rate: float) -> bool:
    """Whether so many errors are within three and a half standard deviations of the stated rate."""
    return abs(errors - rate * count) <= 3.5 * math.sqrt(count * rate * (1 - rate))


def test_the_shipped_file_is_what_the_annotators_decide(tmp_path: Path) -> None:
    """And what the desk exports when they work at it: tests/data/annotate/test_simulated.py."""
    write_rows(tmp_path / "out.jsonl", simulated_pairs())
    assert (tmp_path / "out.jsonl").read_bytes() == SHIPPED.read_bytes(), (
        f"the generator has changed; run `python -m tests.data.annotate.simulated {SHIPPED}`")
    assert SHIPPED.stat().st_size < 400_000


def test_everything_says_simulated_and_is_of_the_train_split(pairs: list[PreferencePair]) -> None:
    assert len(pairs) == COUNT and {pair.origin for pair in pairs} == {"simulated"}
    assert {pair.annotator for pair in pairs} == {annotator.name for annotator in ANNOTATORS}
    assert all(pair.annotator.startswith("simulated-") for pair in pairs)
    assert {split_of(str(pair.operand_key)) for pair in pairs} == {"train"}
    assert {pair.language for pair in pairs} == {"en", "zh"}


def test_error_rates_are_as_stated_by_the_rule(pairs: list[PreferencePair]) -> None:
    asked = {question.id: question for question in questions("train", count=COUNT, seed=20_260)}
    for annotator in ANNOTATORS:
        own = [pair for pair in pairs if pair.annotator == annotator.name]
        right = [verify(asked[str(pair.question_id)], pair.chosen).correct for pair in own]
        assert within(right.count(False), len(own), annotator.error_rate), annotator
        assert [pair.error_kind is None for pair in own] == [not correct for correct in right]
        for pair, correct in zip(own, right, strict=True):
            question = asked[str(pair.question_id)]
            assert solution_text(question) in (pair.chosen, pair.rejected)
            assert verify(question, pair.rejected).correct is not correct


def test_the_interval_can_fail() -> None:
    assert not within(30, 190, 0.05) and within(10, 190, 0.05) and not within(10, 190, 0.20)


def test_sides_are_shown_in_random_order(pairs: list[PreferencePair]) -> None:
    first = sum(pair.shown_order == "chosen_first" for pair in pairs)
    assert within(first, len(pairs), 0.5)


def test_all_kinds_of_error_are_there(pairs: list[PreferencePair]) -> None:
    kinds = [pair.error_kind for pair in pairs if pair.error_kind]
    assert min(kinds.count(kind) for kind in set(kinds)) >= 30 and len(set(kinds)) == 5


def test_the_same_seed_gives_the_same_pairs_and_another_gives_others() -> None:
    assert simulated_pairs(30) == simulated_pairs(30)
    assert simulated_pairs(30, seed=1) != simulated_pairs(30)
