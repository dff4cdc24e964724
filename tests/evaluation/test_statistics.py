import itertools
import math

import numpy as np
import pytest
from scipy import stats

from lesiondelta.errors import InputError
from lesiondelta.evaluation.statistics import (
    correlation,
    difference,
    differences,
    holm,
    mean_interval,
    rank_biserial,
    rank_stability,
    require_patients,
)

A = np.array([0.71, 0.65, 0.80, 0.55, 0.62, 0.90, 0.77, 0.58])
B = A - np.array([0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, -0.08])


def test_five_patients_are_too_few():
    with pytest.raises(InputError, match="5 patients are too few"):
        difference("a", "b", A[:5], B[:5])
    with pytest.raises(InputError, match="at least 6"):
        rank_stability({"a": A[:5], "b": B[:5]})
    require_patients(6)


def test_the_signed_rank_test_counted_out():
    """Exact two-sided p: of the 2^8 signs of ranks 1 to 8, those at least as far from 18 as the rank sum 28."""
    found = difference("a", "b", A, B)
    ranks = np.arange(1, 9)
    sums = [
        sum(r for r, plus in zip(ranks, signs, strict=True) if plus) for signs in itertools.product((0, 1), repeat=8)
    ]
    expected = np.mean([abs(total - 18) >= abs(28 - 18) for total in sums])
    assert found.p == pytest.approx(expected)
    assert found.rank_biserial == pytest.approx((28 - 8) / 36)
    assert found.interval.mean == pytest.approx((A - B).mean())


def test_equal_methods_do_not_differ():
    found = difference("a", "b", A, A)
    assert (found.p, found.rank_biserial, found.interval.low, found.interval.high) == (1, 0, 0, 0)


def test_a_patient_without_a_value_is_left_out():
    with_gap = A.copy()
    with_gap[0] = math.nan
    assert difference("a", "b", with_gap, B) == difference("a", "b", A[1:], B[1:])


def test_holm_by_hand():
    """0.01 x 4, 0.02 x 3, 0.03 x 2 and 0.04 x 1, never falling, never above 1."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_pairs_share_one_correction():
    values = {"a": A, "b": B, "c": A - 0.1}
    found = differences(values)
    assert [(pair.first, pair.second) for pair in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [pair.p_holm for pair in found] == pytest.approx(holm([pair.p for pair in found]))


def test_the_interval_is_scipys_and_covers():
    """Of 200 samples of 20 patients, about 95 % of the intervals hold the true mean."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        values = rng.normal(0.6, 0.1, 20)
        found = mean_interval(values)
        hits += found.low <= 0.6 <= found.high
    assert 178 <= hits <= 198
    reference = stats.bootstrap((A,), np.mean, method="BCa", n_resamples=9999, rng=0).confidence_interval
    assert (mean_interval(A).low, mean_interval(A).high) == (reference.low, reference.high)


def test_equal_values_have_an_interval_of_no_width():
    found = mean_interval([0.5] * 6)
    assert (found.low, found.mean, found.high) == (0.5, 0.5, 0.5)


def test_rank_biserial_by_hand():
    assert rank_biserial(np.array([1.0, 2.0, 3.0])) == 1
    assert rank_biserial(np.array([-1.0, 2.0, -3.0, 0.0])) == pytest.approx((2 - 4) / 6)


def test_the_share_of_first_places():
    better, worse = A, A - 0.2
    assert rank_stability({"x": better, "y": worse}) == {"x": 1, "y": 0}
    assert rank_stability({"x": better, "y": worse}, higher_is_better=False) == {"x": 0, "y": 1}
    assert rank_stability({"x": A, "y": A.copy()}) == {"x": 0.5, "y": 0.5}
    close = rank_stability({"x": A, "y": B})
    assert 0.5 < close["x"] < 1
    assert sum(close.values()) == pytest.approx(1)


def test_correlation_needs_two_different_values():
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert math.isnan(correlation([1], [2]))
    assert math.isnan(correlation([1, 1], [2, 3]))


def test_the_rounding_of_float64_makes_no_ties_and_no_differences():
    nearly = np.array([0.9] * 7 + [0.8999999999999999])
    found = mean_interval(nearly)
    assert found.low == found.high == pytest.approx(0.9)
    apart = np.array([0.1] * 7 + [-0.1])
    exact, noisy = difference("a", "b", apart, 0 * A), difference("a", "b", A, A - apart)
    assert (noisy.p, noisy.rank_biserial) == (exact.p, exact.rank_biserial)
