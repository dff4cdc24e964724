"""How a model's probabilities become a mask: temperature, threshold and smallest lesion, chosen on labelled patients.

The temperature divides the logits so that probabilities are frequencies (temperature scaling: Guo et al., ICML 2017,
arXiv:1706.04599): it has the least mean negative log-likelihood over the voxels of the brain,

    -mean(y log p + (1 - y) log(1 - p)),  p = sigmoid(logit / T).

Threshold and smallest lesion have the best mean of Dice and lesion F1; of those nearly as good as the best, the one
with the threshold nearest to 0.5 is taken, then the smallest lesion. Every patient counts alike, however many visits
there are.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from lesiondelta.errors import CohortError
from lesiondelta.evaluation.instances import found, lesion_mask, lesions, overlaps
from lesiondelta.images import Array, Grid

THRESHOLDS = tuple(np.round(np.arange(0.1, 0.91, 0.1), 1).tolist())
SMALLEST_MM3 = (3.0, 5.0, 8.0)
ALIKE = 0.01
"""Operating points whose means differ by no more are taken as alike: a guess at what few patients can tell."""
CERTAIN = 1e-6
"""Probabilities are kept this far from 0 and 1."""
LOG_TEMPERATURES = (-1.5, 2.0)


@dataclass(frozen=True, eq=False)
class LabelledVisit:
    """A visit whose lesions are known, and what a model gives them.

    Attributes
    ----------
    patient : str
    probability : (X, Y, Z) float
        Of lesion, at temperature 1; 0 outside the brain.
    reference : (X, Y, Z) bool
    grid : Grid
    """

    patient: str
    probability: Array
    reference: Array
    grid: Grid


@dataclass(frozen=True)
class OperatingPoint:
    """How probabilities of temperature 1 become a mask."""

    temperature: float = 1.0
    threshold: float = 0.5
    min_lesion_mm3: float = 3.0

    def mask(self, visit: LabelledVisit) -> Array:
        """The visit's lesions, (X, Y, Z) bool."""
        return _mask(cooled(visit.probability, self.temperature), visit.grid, self.threshold, self.min_lesion_mm3)


@dataclass(frozen=True)
class Agreement:
    """Dice and lesion F1 with the reference."""

    dsc: float
    lesion_f1: float

    @property
    def mean(self) -> float:
        """What an operating point is chosen by."""
        return (self.dsc + self.lesion_f1) / 2


ByPatient = Mapping[str, Agreement]


@dataclass(frozen=True)
class GridPoint:
    """A threshold and a smallest lesion, and the agreement of every patient at them."""

    threshold: float
    min_lesion_mm3: float
    by_patient: ByPatient

    @property
    def mean(self) -> Agreement:
        """The mean over patients."""
        return mean_agreement(self.by_patient.values())


@dataclass(frozen=True)
class Calibration:
    """The chosen point, the one before, the points that were tried, and the agreement before and after."""

    point: OperatingPoint
    present: OperatingPoint
    grid: tuple[GridPoint, ...]
    before: ByPatient
    after: ByPatient


def calibrate(visits: Sequence[LabelledVisit], present: OperatingPoint) -> Calibration:
    """Choose an operating point; `present` is the one to compare it with.

    Raises
    ------
    CohortError
        There is no lesion in any reference.
    """
    require_lesions(visit.reference for visit in visits)
    temperature = likeliest_temperature(visits)
    grid = agreement_grid(visits, temperature)
    point = best_point(temperature, grid)
    return Calibration(point, present, grid, agreement_at(visits, present), agreement_at(visits, point))


def require_lesions(references: Iterable[Array]) -> None:
    """Raise CohortError where every reference mask is empty."""
    if not any(reference.any() for reference in references):
        raise CohortError("No reference mask has a lesion: a model cannot be calibrated without lesions.")


def cooled(probability: Array, temperature: float) -> Array:
    """Probabilities of the logits over the temperature; 0 stays 0."""
    inside = probability > 0
    changed = np.zeros_like(probability)
    changed[inside] = expit(logit(np.clip(probability[inside], CERTAIN, 1 - CERTAIN)) / temperature)
    return changed


def likeliest_temperature(visits: Sequence[LabelledVisit]) -> float:
    """The temperature of the highest likelihood, to three decimals."""

    def surprise(log_temperature: float) -> float:
        return _over_patients(visits, lambda visit: log_loss(visit, float(np.exp(log_temperature))))

    likeliest = minimize_scalar(surprise, bounds=LOG_TEMPERATURES, method="bounded", options={"xatol": 0.01})
    return round(float(np.exp(likeliest.x)), 3)


def log_loss(visit: LabelledVisit, temperature: float) -> float:
    """The mean negative log-likelihood over the brain's voxels."""
    inside = visit.probability > 0
    p = np.clip(cooled(visit.probability, temperature)[inside], CERTAIN, 1 - CERTAIN)
    return float(-np.where(visit.reference[inside], np.log(p), np.log1p(-p)).mean())


def agreement_grid(visits: Sequence[LabelledVisit], temperature: float) -> tuple[GridPoint, ...]:
    """Every threshold with every smallest lesion."""
    calm = [replace(visit, probability=cooled(visit.probability, temperature)) for visit in visits]
    grid = []
    for threshold, smallest in product(THRESHOLDS, SMALLEST_MM3):
        agreed = [(v, agreement(v, _mask(v.probability, v.grid, threshold, smallest))) for v in calm]
        grid.append(GridPoint(threshold, smallest, _by_patient(agreed)))
    return tuple(grid)


def best_point(temperature: float, grid: Sequence[GridPoint]) -> OperatingPoint:
    """The point that the rule of this module chooses."""
    best = max(point.mean.mean for point in grid)
    good = [point for point in grid if point.mean.mean >= best - ALIKE]
    chosen = min(good, key=lambda point: (round(abs(point.threshold - 0.5), 1), point.min_lesion_mm3))
    return OperatingPoint(temperature, chosen.threshold, chosen.min_lesion_mm3)


def agreement_at(visits: Sequence[LabelledVisit], point: OperatingPoint) -> ByPatient:
    """The agreement of every patient at a point."""
    return _by_patient([(visit, agreement(visit, point.mask(visit))) for visit in visits])


def agreement(visit: LabelledVisit, mask: Array) -> Agreement:
    """Dice and lesion F1 as `metrics.score` has them, without the distances; 1 where neither mask has a lesion."""
    table = overlaps(*(lesions(one, visit.grid.voxel_volume_mm3) for one in (visit.reference, mask)))
    if not len(table.reference) and not len(table.predicted):
        return Agreement(1.0, 1.0)
    dice = 2 * table.shared.sum() / max(table.reference.sum() + table.predicted.sum(), 1)
    matched, right = found(table), found(table.reversed())
    recall, precision = (float(hits.mean()) if hits.any() else 0.0 for hits in (matched, right))
    return Agreement(float(dice), 2 * recall * precision / max(recall + precision, 1e-9))


def mean_agreement(agreements: Iterable[Agreement]) -> Agreement:
    """The mean over patients, or over the visits of one."""
    return Agreement(*np.mean([(one.dsc, one.lesion_f1) for one in agreements], axis=0).tolist())


def _mask(probability: Array, grid: Grid, threshold: float, min_lesion_mm3: float) -> Array:
    return lesion_mask(probability, threshold, min_lesion_mm3, [float(mm) for mm in grid.spacing])


def _over_patients(visits: Sequence[LabelledVisit], value: Callable[[LabelledVisit], float]) -> float:
    """The mean over patients of the mean over each one's visits."""
    values: dict[str, list[float]] = {}
    for visit in visits:
        values.setdefault(visit.patient, []).append(value(visit))
    return float(np.mean([np.mean(own) for own in values.values()]))


def _by_patient(agreements: Sequence[tuple[LabelledVisit, Agreement]]) -> dict[str, Agreement]:
    """The mean over each patient's visits."""
    labels = dict.fromkeys(visit.patient for visit, _ in agreements)
    return {label: mean_agreement(one for visit, one in agreements if visit.patient == label) for label in labels}
