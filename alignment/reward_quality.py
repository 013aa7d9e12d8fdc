"""How good a reward model is on samples of a policy: pairs ranked right, calibration, best-of-n, and its baselines.

Pure NumPy on arrays of (questions, samples); knows no model. A trained reward model is only worth its cost if it
ranks better than two things that need no training: the likelihood of the completion under the policy, and its length.
"""

from __future__ import annotations

import collections
import dataclasses
import random
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignment.stats import Bootstrap, Estimate, auc, calibration

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Sampled:
    """What is known of num_samples completions of each question, without any reward model. Arrays are (Q, N)."""

    keys: list[Hashable]  # (Q,) operand keys: the bootstrap's clusters
    correct: NDArray[np.bool_]
    logprob: Array  # sum over tokens under the untrained policy
    length: Array  # tokens
    error_kind: NDArray[np.object_]  # str, None where correct or unknown


@dataclasses.dataclass(frozen=True)
class Pair:
    """One right and one wrong sample of one question."""

    question: int
    right: int
    wrong: int


def draw_pairs(correct: NDArray[np.bool_], *, seed: int, limit: int | None = None) -> list[Pair]:
    """One pair for every question that has both a right and a wrong sample, chosen at random; at most `limit`."""
    pairs = []
    for question, row in enumerate(correct):
        right, wrong = np.flatnonzero(row), np.flatnonzero(~row)
        if len(right) and len(wrong):
            draw = random.Random(f"{seed}/{question}")
            pairs.append(Pair(question, int(draw.choice(right)), int(draw.choice(wrong))))
    return pairs[:limit]


def margins(values: Array, pairs: Sequence[Pair]) -> Array:
    """Value of the right side minus value of the wrong side, (pairs,)."""
    return np.array([values[pair.question, pair.right] - values[pair.question, pair.wrong] for pair in pairs])


def ranked_right(margin: Array) -> Array:
    """1 where the right side is above, 0.5 for a tie, 0 where it is below."""
    return (margin > 0) + 0.5 * (margin == 0)


def baselines(sampled: Sampled, pairs: Sequence[Pair]) -> dict[str, tuple[str, Array]]:
    """The stronger variant of each untrained ranking: name -> (variant, ranked right per pair)."""
    variants = {
        "likelihood": {"sum": sampled.logprob, "mean": sampled.logprob / np.maximum(sampled.length, 1)},
        "length": {"shorter": -sampled.length, "longer": sampled.length},
    }
    strongest = {}
    for name, rules in variants.items():
        ranked = {variant: ranked_right(margins(values, pairs)) for variant, values in rules.items()}
        best = max(ranked, key=lambda variant: float(ranked[variant].mean()))
        strongest[name] = (best, ranked[best])
    return strongest


def measure(scores: Array, sampled: Sampled, pairs: Sequence[Pair], *, resamples: int,
            seed: int) -> tuple[dict[str, Estimate], dict[str, Any]]:
    """Headline numbers by metric name (alignment/metrics.py), and the detail behind them as JSON.

    scores: (Q, N), a reward model's; ranked within a question only, except by `auc`.
    """
    by_pair = Bootstrap([sampled.keys[pair.question] for pair in pairs], resamples=resamples, seed=seed)
    margin = margins(scores, pairs)
    right = ranked_right(margin)
    untrained = baselines(sampled, pairs)
    confidence = 1 / (1 + np.exp(-np.abs(np.clip(margin, -50, 50))))
    error, bins = calibration(confidence, right, limits=(0.5, 1.0))
    by_question = Bootstrap(sampled.keys, resamples=resamples, seed=seed)
    best, mean = best_of(scores, sampled.correct), sampled.correct.mean(1)
    area = auc(scores.ravel(), sampled.correct.ravel())
    headline = {
        "accuracy": by_pair.mean(right),
        "likelihood_accuracy": by_pair.mean(untrained["likelihood"][1]),
        "length_accuracy": by_pair.mean(untrained["length"][1]),
        "over_likelihood": by_pair.difference(right, untrained["likelihood"][1]),
        "over_length": by_pair.difference(right, untrained["length"][1]),
        "best_of": by_question.mean(best),
        "best_of_mean": by_question.mean(mean),
        "best_of_gain": by_question.difference(best, mean),
        "best_of_likelihood": by_question.mean(best_of(sampled.logprob, sampled.correct)),
        "oracle": by_question.mean(sampled.correct.any(1)),
        "calibration_error": calibration_interval(confidence, right, by_pair, error),
        "auc": auc_interval(scores, sampled.correct, by_question, area),
    }
    kinds = np.array([str(sampled.error_kind[pair.question, pair.wrong] or "unknown") for pair in pairs])
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if size < scores.shape[1]] + [scores.shape[1]]
    detail = {
        "by_error": {kind: by_pair.mean(right, where=kinds == kind).to_json()
                     for kind, _ in collections.Counter(kinds.tolist()).most_common()},
        "calibration": [dataclasses.asdict(row) for row in bins],
        "likelihood_variant": untrained["likelihood"][0],
        "length_variant": untrained["length"][0],
        "best_of_curve": {str(size): by_question.mean(best_of(scores[:, :size], sampled.correct[:, :size])).to_json()
                          for size in sizes},
        "best_of_likelihood_curve": {
            str(size): by_question.mean(best_of(sampled.logprob[:, :size], sampled.correct[:, :size])).to_json()
            for size in sizes},
    }
    return headline, detail


def best_of(scores: Array, correct: NDArray[np.bool_]) -> Array:
    """(Q,) correctness of each question's highest-scored sample; samples that tie for it share."""
    top = scores == scores.max(1, keepdims=True)
    shares: Array = (correct & top).sum(1) / top.sum(1)
    return shares


def calibration_interval(confidence: Array, right: Array, boot: Bootstrap, value: float) -> Estimate:
    """Percentile interval of the expected calibration error. Biased upwards, as the error itself is on few rows."""
    place = np.clip(((confidence - 0.5) / 0.5 * 10).astype(int), 0, 9)
    total = np.zeros(len(boot.weights))
    rows = boot.sums(np.ones(len(right)))
    for number in np.unique(place):
        total += np.abs(boot.sums((confidence - right) * (place == number)))
    low, high = np.percentile(total / rows, [2.5, 97.5])
    return Estimate(value, float(low), float(high), len(right))


def auc_interval(scores: Array, correct: NDArray[np.bool_], boot: Bootstrap, value: float) -> Estimate:
    """Percentile interval of the pooled AUC, linearised over questions (DeLong et al. 1988): resampling questions
    weights each sample's placement among the other class."""
    if np.isnan(value):
        return Estimate(value, value, value, correct.size)
    flat, labels = scores.ravel(), correct.ravel()
    positive, negative = np.sort(flat[labels]), np.sort(flat[~labels])
    below = (np.searchsorted(negative, flat, "left") + np.searchsorted(negative, flat, "right")) / 2 / len(negative)
    above = 1 - (np.searchsorted(positive, flat, "left") + np.searchsorted(positive, flat, "right")) / 2 / len(positive)
    influence = np.where(labels, (below - value) / len(positive), (above - value) / len(negative))
    per_question = influence.reshape(correct.shape).sum(1)
    low, high = np.percentile(value + boot.sums(per_question), [2.5, 97.5])
    return Estimate(value, float(max(0.0, low)), float(min(1.0, high)), correct.size)
