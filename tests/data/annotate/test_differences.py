"""Differences between two answers, by word and by letter."""

from __future__ import annotations

import itertools
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.annotate.differences import MOST_EDITS, common, differences, words


def marked(left: str, right: str) -> tuple[list[str], list[str]]:
    """What differs on each side."""
    a, b = differences(left, right)
    return [each.text for each in a if each.differs], [each.text for each in b if each.differs]


def test_words_and_whole_numbers_differ() -> None:
    assert marked("EPS is 1,452.4 dollars", "EPS is 1,453.4 dollars a share") == (["1,452.4"], ["1,453.4", " a share"])
    assert marked("the same", "the same") == ([], [])
    assert marked("", "new") == ([], ["new"])


def test_chinese_differs_by_letter() -> None:
    assert marked("毛利率为四成", "净利率为五成") == (["毛", "四"], ["净", "五"])
    assert words("毛利é 12.5%") == ["毛", "利", "é", " ", "12.5", "%"]


def test_a_grapheme_is_not_split() -> None:
    woman, man = "\U0001f469\u200d\U0001f4bb", "\U0001f468\u200d\U0001f4bb"
    assert marked(f"ok {woman}", f"ok {man}") == ([woman], [man])
    assert marked("cafe\u0301", "cafe") == (["cafe\u0301"], ["cafe"])


def test_the_space_between_two_differences_belongs_to_them() -> None:
    assert marked("one two three", "four five three") == (["one two"], ["four five"])


def longest(a: list[str], b: list[str]) -> int:
    """The length of a longest common subsequence, by the table."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_the_edit_is_the_shortest() -> None:
    draw = random.Random(0)
    for _ in range(400):
        a, b = ([draw.choice("abc") for _ in range(draw.randrange(14))] for _ in range(2))
        kept = common(a, b)
        assert kept is not None and len(kept) == longest(a, b)
        assert all(a[i] == b[j] for i, j in kept)
        assert all(i < x and j < y for (i, j), (x, y) in itertools.pairwise(kept))


@given(st.text(max_size=60), st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_the_stretches_are_the_text(left: str, right: str) -> None:
    a, b = differences(left, right)
    assert "".join(each.text for each in a) == left and "".join(each.text for each in b) == right
    assert "".join(each.text for each in a if not each.differs).split() == "".join(
        each.text for each in b if not each.differs).split()


@pytest.mark.parametrize(("left", "right"), [
    ("a b " * 15_000, "b a " * 15_000), ("x" * 60_000, "y" * 60_000), ("a\n" * 30_000, "b\n" * 30_000),
    ("a " * 30_000, "a\n" * 30_000), ("毛" * 60_000, "利" * 60_000)])
def test_texts_made_to_be_slow_are_quick(left: str, right: str) -> None:
    begun = time.process_time()
    a, _ = differences(left, right)
    assert "".join(each.text for each in a) == left
    assert time.process_time() - begun < 60  # a quadratic comparison takes many minutes


def test_too_many_edits_are_told_line_by_line() -> None:
    left = "".join(f"left{i} " for i in range(MOST_EDITS)) + "\nkept line\nend"
    right = "".join(f"right{i} " for i in range(MOST_EDITS)) + "\nkept line\nend"
    a, b = differences(left, right)
    assert [each.text for each in a if not each.differs] == [each.text for each in b if not each.differs] == [
        "kept line\nend"]
