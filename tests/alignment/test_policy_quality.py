"""What is said of a policy's answers, against counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from alignment.policy_quality import Answers, Marking, passes
from tests.alignment.fake_run import made_up_questions


def answers(greedy, sampled, *, drills=(True, False, True, True)):
    count = len(greedy)
    return Answers(
        greedy=np.array(greedy, dtype=bool), sampled=np.array(sampled, dtype=bool),
        truncated=np.zeros(count, dtype=bool),
        length=np.arange(count) + 1.0, errors=["slip" if n % 2 else None for n in range(count)],
        text_logprob=np.array([-10.0, -20.0]), text_tokens=np.array([10.0, 5.0]), text_bytes=np.array([30.0, 10.0]),
        drills=np.array(drills), cloze=np.zeros(0, dtype=bool))


@pytest.fixture
def marking():
    return Marking(made_up_questions(4), num_texts=2, drills=[0, 0, 1, 1], num_cloze=0, resamples=200, seed=0)


FIRST = answers([1, 1, 0, 0], [[1, 0], [1, 1], [0, 0], [0, 0]])
SECOND = answers([1, 0, 0, 0], [[1, 1], [0, 0], [0, 0], [0, 0]], drills=(True, True, True, True))


def test_the_headline(marking):
    found = {name: estimate.value for name, estimate in marking.headline(FIRST).items()}
    assert found["greedy"] == 0.5 and found["sampled"] == 3 / 8 and found["pass_at_2"] == 0.5
    assert found["perplexity"] == pytest.approx(math.exp(30 / 15))
    assert found["bits_per_byte"] == pytest.approx(30 / math.log(2) / 40)
    assert found["drills"] == 0.75 and found["length"] == 2.5 and "cloze" not in found


def test_the_detail(marking):
    found = marking.detail(FIRST)
    assert found["pass_at_k"]["1"]["value"] == 3 / 8 and found["pass_at_k"]["2"]["value"] == 0.5
    assert found["errors"] == {"unknown": 1, "slip": 1}  # of the two wrong ones; the right ones' do not count
    assert {label: row["greedy"]["value"] for label, row in found["by_language"].items()} == {"en": 0.5, "zh": 0.5}
    assert sum(row["greedy"]["n"] for row in found["by_kind"].values()) == 4


def test_a_difference_is_left_minus_right_question_by_question(marking):
    headline, detail = marking.difference(FIRST, SECOND)
    assert headline["greedy"].value == 0.25 and headline["sampled"].value == 1 / 8
    assert headline["drills"].value == -0.25
    assert detail["by_language"]["zh"]["greedy"]["value"] == 0.5
    same, by_group = marking.difference(FIRST, FIRST)
    assert {(row.low, row.value, row.high) for row in same.values()} == {(0, 0, 0)}
    assert by_group["by_language"]["en"]["greedy"]["value"] == 0


def test_pass_at_k_of_every_question():
    assert passes(FIRST.sampled).tolist() == [1, 1, 0, 0]
    assert passes(FIRST.sampled, 1).tolist() == [0.5, 1, 0, 0]
