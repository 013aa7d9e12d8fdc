"""Coefficients of agreement and their intervals, from labels alone. NumPy; knows no snapshot.

Labels are codes 0 .. k-1 of `values`, the k numbers (or names) of a scale. What a coefficient leaves undefined, such as
chance agreement where everybody always says the same, is a `Measure` without a value that says why: never 0, never nan.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Level = Literal["nominal", "ordinal", "interval"]
Matrix = NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 1000
NO_VARIATION = "no variation"
NO_OVERLAP = "no overlap"
NO_DATA = "no data"


@dataclasses.dataclass(frozen=True, slots=True)
class Measure:
    """A number with its 95% interval and the count behind it, or the reason why there is none."""

    value: float | None
    n: int = 0
    low: float | None = None
    high: float | None = None
    missing: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return f"n/a ({self.missing})"
        between = "" if self.low is None or self.high is None else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.value:.3f}{between}"


def undefined(why: str, n: int = 0) -> Measure:
    return Measure(None, n, missing=why)


def share(successes: int, n: int) -> Measure:
    """A share of independent trials with Wilson's score interval (Wilson 1927)."""
    if n < 1:
        return undefined(NO_DATA)
    z, part = 1.959963984540054, successes / n
    centre = (part + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(part * (1 - part) / n + z * z / (4 * n * n))
    return Measure(part, n, max(0.0, centre - half), min(1.0, centre + half))


# ------------------------------------------------------------------------------------------------ all raters at once


@dataclasses.dataclass(frozen=True, slots=True)
class Counts:
    """How often each item got each label: `table` (items, k). Items of one cluster are resampled together."""

    table: Matrix
    clusters: NDArray[np.int64]  # (items,) a number for each item
    values: tuple[float, ...]  # (k,) of the scale, in order

    def overlapping(self) -> Counts:
        """The items with two labels or more: the only ones that tell of agreement."""
        kept = self.table.sum(axis=1) >= 2
        return Counts(self.table[kept], self.clusters[kept], self.values)


def count_labels(labels: Mapping[Hashable, Sequence[int]], values: Sequence[float],
                 clusters: Mapping[Hashable, Hashable] | None = None) -> Counts:
    """Counts from item -> the codes it got; `clusters` names each item's cluster (itself if not given)."""
    items = list(labels)
    table = np.zeros((len(items), len(values)))
    for row, item in enumerate(items):
        for code in labels[item]:
            table[row, code] += 1
    numbers: dict[Hashable, int] = {}
    names = [item if clusters is None else clusters[item] for item in items]
    own = np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)
    return Counts(table, own, tuple(float(value) for value in values))


def percent_agreement(counts: Counts) -> Measure:
    """The share of pairs of labels of one item that are the same, over all items; no correction for chance."""
    counts = counts.overlapping()
    if not len(counts.table):
        return undefined(NO_OVERLAP)
    same = (counts.table * (counts.table - 1)).sum(axis=1)
    pairs = counts.table.sum(axis=1) * (counts.table.sum(axis=1) - 1)
    return Measure(float(same.sum() / pairs.sum()), len(counts.table))


def fleiss_kappa(counts: Counts) -> Measure:
    """Fleiss 1971, for nominal labels, over the items with as many labels as most have (two or more).

    It is defined for equally many labels an item; alpha takes all items.
    """
    counts = counts.overlapping()
    if not len(counts.table):
        return undefined(NO_OVERLAP)
    sizes = counts.table.sum(axis=1)
    numbers, frequency = np.unique(sizes, return_counts=True)
    raters = numbers[np.flatnonzero(frequency == frequency.max())[-1]]
    table = counts.table[sizes == raters]
    observed = float(((table * table).sum(axis=1) - raters).mean() / (raters * (raters - 1)))
    expected = float(((table.sum(axis=0) / table.sum()) ** 2).sum())
    if math.isclose(expected, 1.0):
        return undefined(NO_VARIATION, len(table))
    return Measure((observed - expected) / (1 - expected), len(table))


def krippendorff_alpha(counts: Counts, level: Level, *, resamples: int = RESAMPLES, seed: int = 0) -> Measure:
    """Krippendorff's alpha (2004, chapter 11) by the coincidence matrix; any number of raters, any labels missing.

    The interval resamples clusters of items with replacement. Resamples without variation have no alpha and are left
    out; with a single cluster there is no interval.
    """
    counts = counts.overlapping()
    if not len(counts.table):
        return undefined(NO_OVERLAP)
    used = counts.table.any(axis=0)  # labels that nobody gave change nothing
    by_cluster = _coincidences(dataclasses.replace(counts, table=counts.table[:, used]))  # (clusters, k, k)
    values = np.array(counts.values)[used]
    value = float(_alphas(by_cluster.sum(axis=0, keepdims=True), values, level)[0])
    if math.isnan(value):
        return undefined(NO_VARIATION, len(counts.table))
    low, high = _interval(by_cluster, values, level, resamples=resamples, seed=seed)
    return Measure(value, len(counts.table), low, high)


def _coincidences(counts: Counts) -> Matrix:
    """Each cluster's coincidence matrix: an item's pairs of labels, weighted by 1 / (its labels - 1)."""
    table = counts.table
    pairs = table[:, :, None] * table[:, None, :]  # (items, k, k)
    places = np.arange(table.shape[1])
    pairs[:, places, places] -= table
    pairs /= (table.sum(axis=1) - 1)[:, None, None]
    _, numbers = np.unique(counts.clusters, return_inverse=True)
    found = np.zeros((numbers.max() + 1, *pairs.shape[1:]))
    np.add.at(found, numbers, pairs)
    return found


def _alphas(coincidences: Matrix, values: Matrix, level: Level) -> Matrix:
    """1 - observed / expected disagreement of each matrix of (n, k, k); nan where none can be expected."""
    totals = coincidences.sum(axis=1)  # (n, k)
    distance = _distances(totals, values, level)
    observed = (coincidences * distance).sum(axis=(1, 2))
    expected = np.einsum("ni,nij,nj->n", totals, distance, totals) / (totals.sum(axis=1) - 1)  # 0 on the diagonal
    varied = expected > 1e-12
    return np.where(varied, 1 - observed / np.where(varied, expected, 1.0), np.nan)


def _distances(totals: Matrix, values: Matrix, level: Level) -> Matrix:
    """Squared distance (n, k, k) of two labels; of ordinal ones by how many labels lie between, from `totals`."""
    if level == "nominal":
        return np.broadcast_to(1.0 - np.eye(len(values)), (len(totals), len(values), len(values)))
    ranks = np.cumsum(totals, axis=1) - totals / 2  # a label's mean rank
    place = ranks if level == "ordinal" else np.broadcast_to(values, totals.shape)
    return np.asarray((place[:, :, None] - place[:, None, :]) ** 2, dtype=np.float64)


def _interval(by_cluster: Matrix, values: Matrix, level: Level, *, resamples: int,
              seed: int) -> tuple[float | None, float | None]:
    """Percentile bootstrap over clusters. Equal clusters are counted together: a multinomial draw is the same draw."""
    num_clusters, size = len(by_cluster), len(values)
    if num_clusters < 2 or resamples < 1:
        return None, None
    how_many = collections.Counter(each.tobytes() for each in by_cluster)
    kinds = np.frombuffer(b"".join(sorted(how_many))).reshape(len(how_many), -1)
    shares = np.array([how_many[each] for each in sorted(how_many)]) / num_clusters
    draws = np.random.default_rng(seed).multinomial(num_clusters, shares, size=resamples)
    found = _alphas((draws @ kinds).reshape(resamples, size, size), values, level)
    found = found[~np.isnan(found)]
    if not len(found):
        return None, None
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(found, [tail, 100 - tail])
    return float(low), float(high)


# -------------------------------------------------------------------------------------------------------- two raters


def cohen_kappa(first: Sequence[int], second: Sequence[int], values: Sequence[float], *,
                weights: Literal["none", "quadratic"] = "quadratic") -> Measure:
    """Cohen 1968: kappa of two raters' codes of the same items, disagreements weighted by the squared distance of
    their values; `none` weighs all alike (Cohen 1960)."""
    if not len(first):
        return undefined(NO_OVERLAP)
    scale = np.asarray(values, dtype=np.float64)
    joint = np.zeros((len(scale), len(scale)))
    np.add.at(joint, (np.asarray(first), np.asarray(second)), 1.0)
    cost = (scale[:, None] - scale[None, :]) ** 2 if weights == "quadratic" else 1.0 - np.eye(len(scale))
    expected = float((cost * np.outer(joint.sum(axis=1), joint.sum(axis=0))).sum() / joint.sum())
    if expected <= 1e-12:
        return undefined(NO_VARIATION, len(first))
    return Measure(1 - float((cost * joint).sum()) / expected, len(first))


def agreement_of_two(first: Sequence[int], second: Sequence[int]) -> Measure:
    """The share of pairs of labels that are the same, with Wilson's interval."""
    if not len(first):
        return undefined(NO_OVERLAP)
    return share(sum(one == other for one, other in zip(first, second, strict=True)), len(first))
