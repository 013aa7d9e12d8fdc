"""Intervals and estimators behind every published number. Pure NumPy; knows no stage.

Questions that share operands are not independent, so every bootstrap resamples clusters (operand keys), not rows.
A `Bootstrap` draws its resamples once; whatever is computed from one is paired by construction.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
LEVEL = 0.95


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95% interval and the number of rows behind it."""

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float]:
        """The shape `stage.result` takes."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


class Bootstrap:
    """Percentile bootstrap over clusters of rows (Efron and Tibshirani 1993; resampling clusters, Cameron et al. 2008).

    `keys[i]` names row i's cluster. A resample draws as many clusters as there are, with replacement; statistics are
    ratios of cluster sums, so one matrix product gives all resamples of one.
    """

    def __init__(self, keys: Sequence[Hashable], *, resamples: int = 2000, seed: int = 0) -> None:
        if not len(keys):
            raise ValueError("a bootstrap needs at least one row")
        numbers: dict[Hashable, int] = {}
        self.clusters = np.array([numbers.setdefault(key, len(numbers)) for key in keys])  # (rows,)
        self.num_clusters = len(numbers)
        draws = np.random.default_rng(seed).integers(0, self.num_clusters, (resamples, self.num_clusters))
        offsets = np.arange(resamples)[:, None] * self.num_clusters
        counts = np.bincount((draws + offsets).ravel(), minlength=resamples * self.num_clusters)
        self.weights = counts.reshape(resamples, self.num_clusters).astype(np.float64)  # times each cluster is drawn

    def mean(self, values: ArrayLike, *, where: ArrayLike | None = None) -> Estimate:
        """Mean of `values` (rows,), over the rows where `where` holds.

        Where every row is 0, or every row is 1, resamples cannot differ; the limits are then Wilson's, for as many
        trials as there are clusters.
        """
        mask = self._mask(where)
        found = self.ratio(self._rows(values) * mask, mask)
        if found.value in (0, 1) and not found.low < found.high:
            trials = len(np.unique(self.clusters[mask > 0]))
            found = dataclasses.replace(wilson(found.value * trials, trials), n=found.n)
        return found

    def difference(self, left: ArrayLike, right: ArrayLike, *, where: ArrayLike | None = None) -> Estimate:
        """Paired difference of means: left minus right on the same rows."""
        mask = self._mask(where)
        return self.ratio((self._rows(left) - self._rows(right)) * mask, mask)

    def ratio(self, numerators: ArrayLike, denominators: ArrayLike, *,
              transform: Callable[[Array], Array] | None = None) -> Estimate:
        """transform(sum of numerators / sum of denominators); n counts rows whose denominator is not 0.

        Rows of one cluster say nothing of how clusters differ: the limits are then nan.
        """
        top, bottom = self._rows(numerators), self._rows(denominators)
        n = int(np.count_nonzero(bottom))
        if n == 0:
            return Estimate(math.nan, math.nan, math.nan, 0)
        finish = transform or (lambda values: values)
        point = finish(np.array([top.sum() / bottom.sum()]))[0]
        sums = self.sums(bottom)  # (resamples,)
        drawn = sums > 0  # a rare subset can be absent from a resample
        if not drawn.any() or len(np.unique(self.clusters[bottom != 0])) == 1:
            return Estimate(float(point), math.nan, math.nan, n)
        samples = finish(self.sums(top)[drawn] / sums[drawn])
        low, high = percentile_interval(samples)
        return Estimate(float(point), low, high, n)

    def _mask(self, where: ArrayLike | None) -> Array:
        return np.ones(len(self.clusters)) if where is None else self._rows(where)

    def _rows(self, values: ArrayLike) -> Array:
        rows = np.asarray(values, dtype=np.float64)
        if rows.shape != self.clusters.shape:
            raise ValueError(f"expected {len(self.clusters)} rows, got {rows.shape}")
        return rows

    def sums(self, values: ArrayLike) -> Array:
        """The sum of `values` in every resample, shape (resamples,)."""
        per_cluster = np.bincount(self.clusters, weights=self._rows(values), minlength=self.num_clusters)
        drawn: Array = self.weights @ per_cluster
        return drawn

    def means(self, values: ArrayLike) -> Array:
        """The mean of `values` in every resample, shape (resamples,)."""
        return self.sums(values) / self.sums(np.ones(len(self.clusters)))


def percentile_interval(samples: ArrayLike) -> tuple[float, float]:
    """The central 95% of bootstrap samples."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(np.asarray(samples, dtype=np.float64), [tail, 100 - tail])
    return float(low), float(high)


def unpaired_difference(left: ArrayLike, left_keys: Sequence[Hashable], right: ArrayLike,
                        right_keys: Sequence[Hashable], *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Difference of means of two different sets of rows, each resampled by its own clusters."""
    first = Bootstrap(left_keys, resamples=resamples, seed=seed)
    second = Bootstrap(right_keys, resamples=resamples, seed=seed + 1)
    value = float(np.mean(np.asarray(left, dtype=np.float64)) - np.mean(np.asarray(right, dtype=np.float64)))
    low, high = percentile_interval(first.means(left) - second.means(right))
    return Estimate(value, low, high, len(left_keys) + len(right_keys))


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """1 - C(n-c, k) / C(n, k): the unbiased estimate of Chen et al. 2021, equation 1."""
    if not 0 <= num_correct <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(f"pass@k needs 0 <= correct <= samples and 1 <= k <= samples, got {num_correct} correct of "
                         f"{num_samples}, k={k}")
    if num_samples - num_correct < k:
        return 1.0
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Chance that a positive row scores above a negative one, ties half (Mann-Whitney U); nan with one class only."""
    values = np.asarray(scores, dtype=np.float64)
    positive = np.asarray(labels, dtype=bool)
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        return math.nan
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[group]  # average rank of ties, from 1
    return float((ranks[positive].sum() - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


@dataclasses.dataclass(frozen=True, slots=True)
class CalibrationBin:
    """The rows whose predicted probability falls into one bin."""

    predicted: float  # mean
    observed: float  # share that came true
    low: float  # Wilson interval of `observed`
    high: float
    n: int


def calibration(probabilities: ArrayLike, outcomes: ArrayLike, *, bins: int = 10,
                limits: tuple[float, float] = (0.0, 1.0)) -> tuple[float, list[CalibrationBin]]:
    """Expected calibration error over equal-width bins (Naeini et al. 2015), and the bins that hold rows."""
    predicted = np.asarray(probabilities, dtype=np.float64)
    came_true = np.asarray(outcomes, dtype=np.float64)
    if not len(predicted):
        return math.nan, []
    low, high = limits
    place = np.clip(((predicted - low) / (high - low) * bins).astype(int), 0, bins - 1)
    table = []
    for number in range(bins):
        rows = place == number
        n = int(rows.sum())
        if n:
            share = float(came_true[rows].mean())
            interval = wilson(share * n, n)
            table.append(CalibrationBin(float(predicted[rows].mean()), share, interval.low, interval.high, n))
    error = sum(row.n * abs(row.predicted - row.observed) for row in table) / len(predicted)
    return error, table


def wilson(successes: float, n: int) -> Estimate:
    """Wilson's score interval of a share (Wilson 1927), for rows that are independent."""
    if n < 1:
        return Estimate(math.nan, 0.0, 1.0, 0)
    z = 1.959963984540054
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), n)


def sign_test(losses: int, gains: int) -> float:
    """The chance of at least so many losses among the pairs that changed, were each as likely to be a gain (one-sided
    exact sign test; of right and wrong answers it is McNemar's, 1947)."""
    changed = losses + gains
    return sum(math.comb(changed, count) for count in range(losses, changed + 1)) / 2**changed


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean over runs with Student's t interval; nan limits for a single run."""
    n = len(values)
    mean = float(np.mean(values))
    if n < 2:
        return Estimate(mean, math.nan, math.nan, n)
    half = student_quantile(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def student_quantile(degrees: int, probability: float = (1 + LEVEL) / 2) -> float:
    """The quantile of Student's t above the median, by bisection on its integrated density."""
    if degrees < 1 or not 0.5 < probability < 1:
        raise ValueError(f"needs degrees >= 1 and a probability in (0.5, 1), got {degrees}, {probability}")
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)

    def above_median(limit: float) -> float:
        angles = np.linspace(0.0, math.atan(limit / math.sqrt(degrees)), 2001)  # x = sqrt(d) tan(angle)
        density = scale * math.sqrt(degrees) * np.cos(angles) ** (degrees - 1)
        return float(np.trapezoid(density, angles))

    low, high = 0.0, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if above_median(middle) < probability - 0.5 else (low, middle)
    return (low + high) / 2
