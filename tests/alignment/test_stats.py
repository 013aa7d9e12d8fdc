"""Intervals against closed forms and slow twins."""

import dataclasses
import itertools
import math
import statistics

import numpy as np
import pytest

from alignment import stats


def slow_bootstrap(values, keys, *, resamples, seed, where=None):
    """The same draws, one row at a time."""
    names = list(dict.fromkeys(keys))
    draws = np.random.default_rng(seed).integers(0, len(names), (resamples, len(names)))
    where = [True] * len(keys) if where is None else where
    means = []
    for draw in draws:
        rows = [value for cluster in draw for value, key, use in zip(values, keys, where, strict=True)
                if use and key == names[cluster]]
        if rows:
            means.append(statistics.fmean(rows))
    return tuple(np.percentile(means, [2.5, 97.5]))


@pytest.fixture
def rows():
    generator = np.random.default_rng(7)
    keys = [f"k{number // 3}" for number in range(60)]
    return keys, generator.normal(size=60), generator.normal(size=60) + 0.5


def test_mean_equals_the_loop(rows):
    keys, values, _ = rows
    estimate = stats.Bootstrap(keys, resamples=200, seed=3).mean(values)
    assert (estimate.low, estimate.high) == pytest.approx(slow_bootstrap(values, keys, resamples=200, seed=3))
    assert estimate.value == pytest.approx(values.mean()) and estimate.n == 60


def test_a_subset_that_a_resample_can_miss_equals_the_loop(rows):
    keys, values, _ = rows
    where = [key in ("k0", "k1") for key in keys]
    estimate = stats.Bootstrap(keys, resamples=200, seed=3).mean(values, where=where)
    assert (estimate.low, estimate.high) == pytest.approx(
        slow_bootstrap(values, keys, resamples=200, seed=3, where=where))
    assert estimate.n == 6 and estimate.value == pytest.approx(values[:6].mean())


def test_paired_difference_equals_the_loop_on_differences(rows):
    keys, left, right = rows
    estimate = stats.Bootstrap(keys, resamples=200, seed=1).difference(left, right)
    assert (estimate.low, estimate.high) == pytest.approx(slow_bootstrap(left - right, keys, resamples=200, seed=1))
    assert estimate.value == pytest.approx(left.mean() - right.mean())


def test_interval_of_independent_rows_is_the_normal_one():
    values = np.random.default_rng(0).normal(size=2000)
    estimate = stats.Bootstrap(range(2000), resamples=4000, seed=0).mean(values)
    half = 1.96 * values.std() / math.sqrt(2000)
    assert estimate.low == pytest.approx(values.mean() - half, abs=half / 10)
    assert estimate.high == pytest.approx(values.mean() + half, abs=half / 10)


def test_clustering_widens_by_the_root_of_the_cluster_size():
    """Rows repeated 4 times carry no more information than one."""
    values = np.repeat(np.random.default_rng(0).normal(size=300), 4)
    clustered = stats.Bootstrap(np.repeat(np.arange(300), 4).tolist(), seed=0).mean(values)
    naive = stats.Bootstrap(range(1200), seed=0).mean(values)
    assert (clustered.high - clustered.low) / (naive.high - naive.low) == pytest.approx(2, rel=0.1)


def test_pairing_removes_the_variance_that_both_sides_share():
    common = np.random.default_rng(0).normal(size=500) * 10
    left, right = common + 0.3, common + np.random.default_rng(1).normal(size=500) * 0.1
    keys = list(range(500))
    paired = stats.Bootstrap(keys).difference(left, right)
    unpaired = stats.unpaired_difference(left, keys, right, keys)
    assert paired.low > 0.25
    assert unpaired.low < 0 < unpaired.high
    assert paired.value == pytest.approx(unpaired.value)


def test_unpaired_interval_is_the_normal_one():
    generator = np.random.default_rng(5)
    left, right = generator.normal(size=900), generator.normal(size=400)
    estimate = stats.unpaired_difference(left, range(900), right, range(400), resamples=4000)
    half = 1.96 * math.sqrt(left.var() / 900 + right.var() / 400)
    assert estimate.high - estimate.low == pytest.approx(2 * half, rel=0.07)


def test_ratio_transforms_value_and_limits():
    boot = stats.Bootstrap(range(50), seed=0)
    tokens = np.arange(1, 51)
    plain = boot.ratio(tokens * 2.0, tokens)
    assert (plain.value, plain.low, plain.high) == pytest.approx((2, 2, 2))
    assert boot.ratio(tokens * 2.0, tokens, transform=np.exp).value == pytest.approx(math.exp(2))


def test_bootstrap_depends_on_its_seed_alone(rows):
    keys, values, _ = rows
    assert stats.Bootstrap(keys, seed=1).mean(values) == stats.Bootstrap(keys, seed=1).mean(values)
    assert stats.Bootstrap(keys, seed=1).mean(values) != stats.Bootstrap(keys, seed=2).mean(values)


def test_a_share_of_0_or_1_still_has_a_width():
    """Wilson's limits for as many trials as clusters; a difference that is 0 everywhere has none."""
    boot = stats.Bootstrap([f"k{row // 2}" for row in range(40)])
    nothing, everything = boot.mean(np.zeros(40)), boot.mean(np.ones(40))
    assert (nothing.low, nothing.high) == pytest.approx((0, stats.wilson(0, 20).high))
    assert (everything.low, everything.high) == pytest.approx((stats.wilson(20, 20).low, 1))
    assert nothing.n == 40
    same = boot.difference(np.ones(40), np.ones(40))
    assert (same.low, same.high) == (0, 0)


def test_one_cluster_has_no_interval_but_a_share_of_0_or_1():
    one = stats.Bootstrap(["a"] * 4)
    assert math.isnan(one.mean([0.2, 0.4, 0.6, 0.8]).low) and one.mean([0.2, 0.4, 0.6, 0.8]).value == pytest.approx(0.5)
    assert one.mean([1, 1, 1, 1]) == dataclasses.replace(stats.wilson(1, 1), n=4)
    assert math.isnan(stats.Bootstrap(["a", "a", "b"]).mean([1, 0, 1], where=[1, 1, 0]).high)


def test_nothing_to_estimate():
    with pytest.raises(ValueError, match="at least one row"):
        stats.Bootstrap([])
    with pytest.raises(ValueError, match="expected 2 rows"):
        stats.Bootstrap(["a", "b"]).mean([1, 2, 3])
    empty = stats.Bootstrap(["a"]).mean([1], where=[False])
    assert math.isnan(empty.value) and empty.n == 0


@pytest.mark.parametrize(("n", "c", "k"), [(4, 0, 1), (4, 1, 2), (4, 2, 3), (5, 2, 2), (4, 4, 4), (6, 3, 4)])
def test_pass_at_k_equals_enumeration(n, c, k):
    outcomes = [True] * c + [False] * (n - c)
    subsets = list(itertools.combinations(outcomes, k))
    assert stats.pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_refuses_more_than_there_are():
    with pytest.raises(ValueError, match="k=5"):
        stats.pass_at_k(4, 1, 5)


def test_auc_equals_all_pairs():
    generator = np.random.default_rng(2)
    scores = generator.integers(0, 6, 40).astype(float)  # many ties
    labels = generator.random(40) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in scores[labels] for b in scores[~labels]]
    assert stats.auc(scores, labels) == pytest.approx(sum(pairs) / len(pairs))
    assert stats.auc([1, 2, 3], [0, 1, 1]) == 1 and stats.auc([3, 2, 1], [0, 1, 1]) == 0
    assert math.isnan(stats.auc([1, 2], [1, 1]))


def test_calibration_by_hand():
    error, table = stats.calibration([0.25, 0.25, 0.75, 0.75], [0, 1, 1, 1], bins=2)
    assert error == pytest.approx(0.25)
    assert [(row.predicted, row.observed, row.n) for row in table] == [(0.25, 0.5, 2), (0.75, 1.0, 2)]
    assert stats.calibration([1.0, 1.0], [1, 1])[0] == 0
    assert stats.calibration([0.5, 1.0], [0, 1], limits=(0.5, 1.0), bins=5)[0] == pytest.approx(0.25)


def test_wilson_against_published_values():
    """Newcombe 1998, table I: 81/263 -> 0.2553 to 0.3662; 0/20 -> 0 to 0.1611."""
    interval = stats.wilson(81, 263)
    assert (interval.low, interval.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert stats.wilson(0, 20).high == pytest.approx(0.1611, abs=5e-5)
    assert stats.wilson(0, 20).low == 0


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (30, 2.0423),
                                                   (1000, 1.9623)])
def test_student_quantile_against_tables(degrees, quantile):
    assert stats.student_quantile(degrees) == pytest.approx(quantile, abs=1e-4)


def test_interval_over_seeds():
    estimate = stats.over_seeds([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.7764 * math.sqrt(2.5) / math.sqrt(5)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((3, 3 - half, 3 + half), abs=1e-4)
    assert math.isnan(stats.over_seeds([1.0]).low)
