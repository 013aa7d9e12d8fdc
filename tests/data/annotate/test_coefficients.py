"""The coefficients equal independent implementations, and say "n/a" with the reason where nothing is defined."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.metrics.agreement import AnnotationTask
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import aggregate_raters
from statsmodels.stats.inter_rater import fleiss_kappa as fleiss_of_statsmodels

from data.annotate.coefficients import (
    Level,
    Measure,
    agreement_of_two,
    cohen_kappa,
    count_labels,
    fleiss_kappa,
    krippendorff_alpha,
    percent_agreement,
    share,
)

SIX_DIGITS = 5e-7
SEEDS = range(25)
Ratings = list[list[int | None]]  # [rater][item], None where missing


def alpha(ratings: Ratings, values: Sequence[float], level: Level, **options: int) -> Measure:
    by_item = {item: [code for code in column if code is not None] for item, column in enumerate(zip(*ratings))}
    return krippendorff_alpha(count_labels(by_item, values), level, **{"resamples": 0} | options)


def by_definition(ratings: Ratings, values: Sequence[float], level: Level) -> float:
    """Alpha from its definition, pair by pair: the slow twin."""
    columns = [[code for code in column if code is not None] for column in zip(*ratings)]
    columns = [column for column in columns if len(column) > 1]
    pooled = [code for column in columns for code in column]
    how_many = {code: pooled.count(code) for code in set(pooled)}

    def distance(one: int, other: int) -> float:
        if level == "nominal":
            return float(one != other)
        if level == "interval":
            return (values[one] - values[other]) ** 2
        low, high = min(one, other), max(one, other)
        between = sum(how_many.get(code, 0) for code in range(low, high + 1))
        return (between - (how_many[low] + how_many[high]) / 2) ** 2

    observed = sum(sum(distance(one, other) for one, other in itertools.permutations(column, 2)) / (len(column) - 1)
                   for column in columns) / len(pooled)
    expected = sum(distance(one, other) for one, other in itertools.permutations(pooled, 2)) / (
        len(pooled) * (len(pooled) - 1))
    return 1 - observed / expected


def of_nltk(ratings: Ratings, values: Sequence[float], level: Level) -> float:
    triples = [(rater, item, values[code]) for rater, row in enumerate(ratings) for item, code in enumerate(row)
               if code is not None and sum(other[item] is not None for other in ratings) > 1]
    def squared(one: float, other: float) -> float:
        return float(one != other) if level == "nominal" else (one - other) ** 2
    return float(AnnotationTask(data=triples, distance=squared).alpha())


def random_ratings(seed: int, *, missing: float) -> tuple[Ratings, list[float]]:
    """Raters who agree in part; every third scale is unevenly spaced."""
    draw = np.random.default_rng(seed)
    raters, items, labels = int(draw.integers(2, 6)), int(draw.integers(8, 40)), int(draw.integers(2, 8))
    truth = draw.integers(0, labels, items)
    ratings = [[None if draw.random() < missing else int(truth[item]) if draw.random() < 0.6
                else int(draw.integers(0, labels)) for item in range(items)] for _ in range(raters)]
    values = np.cumsum(draw.integers(1, 4, labels)) if seed % 3 == 0 else np.arange(labels) - labels // 2
    return ratings, [float(value) for value in values]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("level", ["nominal", "interval"])
def test_alpha_is_nltks(seed: int, level: Level) -> None:
    ratings, values = random_ratings(seed, missing=0.3 * (seed % 2))
    assert alpha(ratings, values, level).value == pytest.approx(of_nltk(ratings, values, level), abs=SIX_DIGITS)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_is_its_definition(seed: int, level: Level) -> None:
    ratings, values = random_ratings(seed, missing=0.4)
    assert alpha(ratings, values, level).value == pytest.approx(by_definition(ratings, values, level), abs=SIX_DIGITS)


def test_alpha_of_a_worked_example() -> None:
    """Krippendorff's own example (2011, "Computing Krippendorff's alpha-reliability", section C): 4 observers, 12
    units, missing data."""
    rows = ["1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 ."]
    ratings = [[None if each == "." else int(each) - 1 for each in row.split()] for row in rows]
    found = [alpha(ratings, [1, 2, 3, 4, 5], level).value for level in ("nominal", "ordinal", "interval")]
    assert found == pytest.approx([0.743, 0.815, 0.849], abs=5e-4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=3, max_size=3), min_size=1, max_size=12))
def test_alpha_of_anything_is_its_definition_or_says_why_not(columns: list[list[int | None]]) -> None:
    ratings: Ratings = [list(row) for row in zip(*columns)]
    found = alpha(ratings, [0, 1, 2, 3], "ordinal", resamples=20)
    judged = [[code for code in column if code is not None] for column in columns]
    judged = [column for column in judged if len(column) > 1]
    if not judged:
        assert str(found) == "n/a (no overlap)"
    elif len({code for column in judged for code in column}) == 1:
        assert str(found) == "n/a (no variation)" and found.n == len(judged)
    else:
        assert found.value == pytest.approx(by_definition(ratings, [0, 1, 2, 3], "ordinal"), abs=SIX_DIGITS)
        assert found.low is None or found.low <= found.high


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("weights", ["none", "quadratic"])
def test_cohens_kappa_is_scikit_learns(seed: int, weights: str) -> None:
    ratings, values = random_ratings(seed, missing=0.3)
    values = list(np.arange(len(values)))  # scikit-learn knows places alone
    shared = [(one, other) for one, other in zip(ratings[0], ratings[1]) if one is not None and other is not None]
    first, second = [one for one, _ in shared], [other for _, other in shared]
    expected = cohen_kappa_score(first, second, labels=range(len(values)),
                                 weights=None if weights == "none" else weights)
    assert cohen_kappa(first, second, values, weights=weights).value == pytest.approx(expected, abs=SIX_DIGITS)


def test_quadratic_weights_go_by_the_values() -> None:
    """The places of an uneven scale are not its values."""
    first, second = [0, 1, 2, 2, 0], [0, 2, 2, 1, 1]
    even, uneven = cohen_kappa(first, second, [0, 1, 2]), cohen_kappa(first, second, [0, 1, 10])
    assert even.value != pytest.approx(uneven.value, abs=0.01)
    spread = [[0, 1, 10][code] for code in first], [[0, 1, 10][code] for code in second]
    assert uneven.value == pytest.approx(cohen_kappa_score(*spread, labels=range(11), weights="quadratic"))


@pytest.mark.parametrize("seed", SEEDS)
def test_fleiss_kappa_is_statsmodels(seed: int) -> None:
    ratings, values = random_ratings(seed, missing=0.0)
    counts = count_labels(dict(enumerate(map(list, zip(*ratings)))), values)
    table, _ = aggregate_raters(np.array(ratings).T)
    assert fleiss_kappa(counts).value == pytest.approx(fleiss_of_statsmodels(table), abs=SIX_DIGITS)


def test_fleiss_kappa_takes_the_items_that_as_many_judged_as_most() -> None:
    items = {0: [0, 0, 1], 1: [1, 1, 1], 2: [0, 0, 0], 3: [0, 1], 4: [1]}
    whole = {item: labels for item, labels in items.items() if len(labels) == 3}
    assert fleiss_kappa(count_labels(items, [0, 1])) == fleiss_kappa(count_labels(whole, [0, 1]))
    assert fleiss_kappa(count_labels(items, [0, 1])).n == 3


@pytest.mark.parametrize("seed", range(10))
def test_percent_agreement_is_over_pairs_of_labels(seed: int) -> None:
    ratings, values = random_ratings(seed, missing=0.3)
    columns = {item: [code for code in column if code is not None] for item, column in enumerate(zip(*ratings))}
    pairs = [pair for column in columns.values() for pair in itertools.combinations(column, 2)]
    assert percent_agreement(count_labels(columns, values)).value == pytest.approx(
        sum(one == other for one, other in pairs) / len(pairs))


@pytest.mark.parametrize(("items", "why"), [
    ({}, "no overlap"), ({0: []}, "no overlap"), ({0: [1], 1: [0]}, "no overlap"),
    ({0: [1, 1], 1: [1, 1, 1]}, "no variation"), ({0: [0, 0], 1: [1]}, "no variation")])
def test_what_is_undefined_says_why_and_is_never_0(items: dict[int, list[int]], why: str) -> None:
    counts = count_labels(items, [0, 1])
    for level in ("nominal", "ordinal", "interval"):
        assert str(krippendorff_alpha(counts, level)) == f"n/a ({why})"
    assert str(fleiss_kappa(counts)) == f"n/a ({why})"
    assert str(percent_agreement(counts)) == ("n/a (no overlap)" if why == "no overlap" else "1.000")


def test_two_who_share_nothing_or_never_differ() -> None:
    assert str(cohen_kappa([], [], [0, 1])) == str(agreement_of_two([], [])) == "n/a (no overlap)"
    assert str(cohen_kappa([1, 1], [1, 1], [0, 1])) == "n/a (no variation)"
    assert cohen_kappa([1, 1], [0, 0], [0, 1]).value == 0.0  # defined: what chance alone gives
    assert str(share(0, 0)) == "n/a (no data)"
    assert str(share(5, 10)) == "0.500 [0.237, 0.763]"


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Two raters with a true alpha of 0.64 (each right with 0.8 above chance), 150 items, 200 times."""
    draw, inside = np.random.default_rng(1), 0
    for seed in range(200):
        truth = draw.integers(0, 2, 150)
        ratings = [[int(each) if draw.random() < 0.8 else int(draw.integers(0, 2)) for each in truth] for _ in range(2)]
        found = alpha(ratings, [0, 1], "nominal", resamples=400, seed=seed)
        inside += found.low <= 0.64 <= found.high
    assert 0.9 <= inside / 200 <= 0.99


def test_the_bootstrap_is_over_clusters() -> None:
    """The same labels ten times over, in one cluster each, tell no more than once: the interval stays as wide."""
    ratings, values = random_ratings(4, missing=0.0)
    once = {item: list(column) for item, column in enumerate(zip(*ratings))}
    tenfold = {(item, copy): column for item, column in once.items() for copy in range(10)}
    alone = krippendorff_alpha(count_labels(once, values), "nominal", resamples=2000)
    clustered = krippendorff_alpha(count_labels(tenfold, values, {key: key[0] for key in tenfold}), "nominal",
                                   resamples=2000)
    apart = krippendorff_alpha(count_labels(tenfold, values), "nominal", resamples=2000)
    assert clustered.high - clustered.low == pytest.approx(alone.high - alone.low, rel=0.05)
    assert apart.high - apart.low < 0.5 * (alone.high - alone.low)


def test_the_same_seed_gives_the_same_interval_and_one_cluster_gives_none() -> None:
    ratings, values = random_ratings(7, missing=0.2)
    first, again, other = (alpha(ratings, values, "ordinal", resamples=200, seed=seed) for seed in (1, 1, 2))
    assert first == again != other and first.value == other.value
    single = krippendorff_alpha(count_labels({0: [0, 1], 1: [1, 1]}, [0, 1], {0: "a", 1: "a"}), "nominal")
    assert single.value is not None and single.low is None and not math.isnan(single.value)
