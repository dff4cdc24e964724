"""Statistics over patients: intervals, paired tests, and how stable a ranking is. Every value is one patient's mean."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy import stats

from lesiondelta.errors import InputError
from lesiondelta.images import Array

LEAST_PATIENTS = 6
"""Of fewer, no difference can be significant at 0.05 in the signed-rank test (2 / 2^5 = 0.0625)."""
CONFIDENCE = 0.95
SAME = 1e-12
"""Values closer than this are one: what differs is the rounding of float64."""
RESAMPLES = 9999


@dataclass(frozen=True)
class Interval:
    """A mean with its BCa bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Method `first` minus method `second` in one measure, patient by patient.

    `p` is of the two-sided Wilcoxon signed-rank test, `p_holm` after Holm's correction over all pairs of the table;
    `rank_biserial` is the effect size: +1 if `first` is higher in every patient, -1 if lower in every; zeros left out.
    """

    first: str
    second: str
    patients: int
    interval: Interval
    p: float
    p_holm: float
    rank_biserial: float


def require_patients(count: int) -> None:
    """Raise InputError where there are too few patients for an interval or a test."""
    if count < LEAST_PATIENTS:
        raise InputError(
            f"{count} patients are too few to test or to give an interval: at least {LEAST_PATIENTS} are needed."
        )


def mean_interval(values: Sequence[float] | Array, seed: int = 0) -> Interval:
    """Mean over patients with its 95 % interval, bootstrap BCa (Efron 1987); values that are NaN are left out."""
    known = np.asarray(values, dtype=float)
    known = known[~np.isnan(known)]
    require_patients(len(known))
    mean = float(known.mean())
    if np.ptp(known) <= SAME:
        return Interval(mean, mean, mean)
    found = stats.bootstrap(
        (known,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="BCa", rng=seed
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high))


def figures(values: Sequence[float] | Array) -> dict[str, float | int | None]:
    """Mean over patients, standard deviation, interval if there are enough, and how many have a value.

    What there is not is None, as in JSON.
    """
    known = np.asarray(values, dtype=float)
    known = known[~np.isnan(known)]
    low = high = None
    if len(known) >= LEAST_PATIENTS:
        interval = mean_interval(known)
        low, high = number(interval.low), number(interval.high)
    mean = float(known.mean()) if len(known) else None
    sd = float(known.std(ddof=1)) if len(known) > 1 else None
    return {"mean": mean, "sd": sd, "low": low, "high": high, "patients": len(known)}


def number(value: float | None) -> float | None:
    """None for NaN."""
    return None if value is None or math.isnan(value) else float(value)


def difference(first: str, second: str, a: Array, b: Array, seed: int = 0) -> Difference:
    """Compare two methods in the same patients (N,); patients without a value for either are left out."""
    apart = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    apart = np.round(apart[~np.isnan(apart)], 12)  # ties and zeros as they are, without the rounding of float64
    interval = mean_interval(apart, seed)
    p = float(stats.wilcoxon(apart).pvalue) if apart.any() else 1.0
    return Difference(first, second, len(apart), interval, p, p, rank_biserial(apart))


def differences(values: Mapping[str, Array], seed: int = 0) -> list[Difference]:
    """Every pair of methods, with Holm's correction over the pairs; values are (N,), patient by patient."""
    pairs = [difference(a, b, values[a], values[b], seed) for a, b in combinations(values, 2)]
    adjusted = holm([pair.p for pair in pairs])
    return [replace(pair, p_holm=p) for pair, p in zip(pairs, adjusted, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of Holm's step-down procedure (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    stepped = np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * factors)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(p) for p in adjusted]


def rank_biserial(apart: Array) -> float:
    """Matched-pairs rank-biserial correlation of differences (N,): (W+ - W-) / (W+ + W-) (Kerby 2014)."""
    moved = apart[apart != 0]
    if not len(moved):
        return 0.0
    ranks = stats.rankdata(np.abs(moved))
    return float((ranks * np.sign(moved)).sum() / ranks.sum())


def rank_stability(
    values: Mapping[str, Array], *, higher_is_better: bool = True, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, float]:
    """Share of bootstrap samples of patients in which a method's mean is the best; ties are shared out.

    Each method's values are (N,), patient by patient; patients without a value for every method are left out.
    """
    table = np.array([np.asarray(v, dtype=float) for v in values.values()])
    table = table[:, ~np.isnan(table).any(axis=0)]
    require_patients(table.shape[1])
    drawn = np.random.default_rng(seed).integers(0, table.shape[1], (resamples, table.shape[1]))
    means = table[:, drawn].mean(axis=2) * (1 if higher_is_better else -1)
    best = np.isclose(means, means.max(axis=0), rtol=0, atol=1e-12)
    shares = (best / best.sum(axis=0)).mean(axis=1)
    return {name: float(share) for name, share in zip(values, shares, strict=True)}


def correlation(a: Sequence[float] | Array, b: Sequence[float] | Array) -> float:
    """Pearson's correlation; NaN for fewer than two values or where all are equal."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])
