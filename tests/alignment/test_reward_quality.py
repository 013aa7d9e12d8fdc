"""What is said of a reward model, against counting by hand."""

import math

import numpy as np
import pytest

from alignment.reward_quality import Pair, Sampled, best_of, draw_pairs, margins, measure, ranked_right
from alignment.stats import Bootstrap


def sampled_set(correct, *, logprob=None, length=None, error_kind=None):
    correct = np.array(correct, dtype=bool)
    return Sampled(keys=[f"k{row}" for row in range(len(correct))], correct=correct,
                   logprob=np.zeros(correct.shape) if logprob is None else np.array(logprob, dtype=float),
                   length=np.full(correct.shape, 10.0) if length is None else np.array(length, dtype=float),
                   error_kind=np.full(correct.shape, None) if error_kind is None else error_kind)


@pytest.fixture
def many():
    """300 questions, 8 samples each, about 40% right."""
    return sampled_set(np.random.default_rng(0).random((300, 8)) < 0.4)


def test_pairs_are_one_a_question_with_both_sides_right():
    correct = np.array([[1, 0, 0], [1, 1, 1], [0, 0, 0], [0, 1, 0]], dtype=bool)
    pairs = draw_pairs(correct, seed=1)
    assert [pair.question for pair in pairs] == [0, 3]
    assert all(correct[pair.question, pair.right] and not correct[pair.question, pair.wrong] for pair in pairs)
    assert draw_pairs(correct, seed=1, limit=1) == pairs[:1]


def test_the_choice_of_a_pair_varies_with_the_seed_and_reaches_every_sample(many):
    assert draw_pairs(many.correct, seed=1) == draw_pairs(many.correct, seed=1)
    assert draw_pairs(many.correct, seed=1) != draw_pairs(many.correct, seed=2)
    assert {pair.wrong for pair in draw_pairs(many.correct, seed=1)} == set(range(8))


def test_ties_count_half():
    values = np.array([[2.0, 1.0], [1.0, 1.0], [0.0, 3.0]])
    pairs = [Pair(0, 0, 1), Pair(1, 0, 1), Pair(2, 0, 1)]
    assert margins(values, pairs).tolist() == [1, 0, -3]
    assert ranked_right(margins(values, pairs)).tolist() == [1, 0.5, 0]


def test_best_of_takes_the_top_and_shares_a_tie():
    correct = np.array([[1, 0], [0, 1], [1, 0]], dtype=bool)
    assert best_of(np.array([[2.0, 1.0], [2.0, 1.0], [1.0, 1.0]]), correct).tolist() == [1, 0, 0.5]


def test_a_perfect_model(many):
    scores = many.correct * 60.0
    headline, detail = measure(scores, many, draw_pairs(many.correct, seed=0), resamples=200, seed=0)
    assert headline["accuracy"].value == headline["auc"].value == 1
    assert headline["calibration_error"].value == pytest.approx(0, abs=1e-9)
    assert headline["best_of"].value == pytest.approx(headline["oracle"].value)
    assert headline["over_likelihood"].low > 0.3  # all likelihoods equal: a coin
    assert headline["likelihood_accuracy"].value == 0.5
    assert detail["best_of_curve"]["1"]["value"] == pytest.approx(many.correct[:, 0].mean())


def test_a_model_that_knows_nothing(many):
    scores = np.random.default_rng(1).normal(size=many.correct.shape)
    headline, _ = measure(scores, many, draw_pairs(many.correct, seed=0), resamples=200, seed=0)
    assert headline["accuracy"].low < 0.5 < headline["accuracy"].high
    assert headline["best_of_gain"].low < 0 < headline["best_of_gain"].high
    assert headline["auc"].low < 0.5 < headline["auc"].high
    assert headline["best_of_mean"].value == pytest.approx(many.correct.mean())
    assert headline["calibration_error"].value > 0.05  # sure of itself without reason


def test_the_stronger_baseline_is_reported():
    """Right samples are longer and, per token, likelier; in sum they are less likely."""
    correct = np.array([[1, 0]] * 50)
    sampled = sampled_set(correct, logprob=[[-12, -10]] * 50, length=[[20, 10]] * 50)
    headline, detail = measure(np.zeros((50, 2)), sampled, draw_pairs(sampled.correct, seed=0), resamples=100, seed=0)
    assert (detail["likelihood_variant"], headline["likelihood_accuracy"].value) == ("mean", 1)
    assert (detail["length_variant"], headline["length_accuracy"].value) == ("longer", 1)
    assert headline["over_length"].value == -0.5


def test_accuracy_by_kind_of_error():
    correct = np.array([[1, 0]] * 6, dtype=bool)
    kinds = np.array([[None, "slip"]] * 4 + [[None, None]] * 2, dtype=object)
    scores = np.array([[1, 0]] * 3 + [[0, 1]] * 3, dtype=float)
    _, detail = measure(scores, sampled_set(correct, error_kind=kinds), draw_pairs(correct, seed=0), resamples=100,
                        seed=0)
    assert detail["by_error"]["slip"]["value"] == 0.75 and detail["by_error"]["slip"]["n"] == 4
    assert detail["by_error"]["unknown"]["value"] == 0


def test_auc_interval_is_that_of_resampled_questions(many):
    """The linearised interval against recomputing the AUC in each resample."""
    scores = many.correct * 0.7 + np.random.default_rng(3).normal(size=many.correct.shape)
    headline, _ = measure(scores, many, draw_pairs(many.correct, seed=0), resamples=400, seed=0)
    boot = Bootstrap(many.keys, resamples=400, seed=0)
    areas = []
    for weights in boot.weights.astype(int):
        rows = np.repeat(np.arange(len(weights)), weights)
        right, wrong = scores[rows][many.correct[rows]], scores[rows][~many.correct[rows]]
        areas.append(np.searchsorted(np.sort(wrong), right).mean() / len(wrong))
    low, high = np.percentile(areas, [2.5, 97.5])
    assert (headline["auc"].low, headline["auc"].high) == pytest.approx((low, high), abs=0.003)


def test_calibration_interval_holds_the_error_of_resamples(many):
    scores = np.random.default_rng(1).normal(size=many.correct.shape) * 3
    error = measure(scores, many, draw_pairs(many.correct, seed=0), resamples=400, seed=0)[0]["calibration_error"]
    assert error.low < error.value < error.high and not math.isnan(error.low)
