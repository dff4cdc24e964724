"""How well two predicted masks of a patient tell what changed between the visits; all masks lie on one grid.

A lesion is new if it shares no voxel with the prior visit's mask, before any size filter: lesions that grow are not new
(MSSEG-2, Commowick et al. 2021). An unchanged lesion is a piece of both visits' reference together whose volume differs
by 30 % at most.
"""

import math
from dataclasses import dataclass

import cc3d
import numpy as np

from lesiondelta.errors import GeometryError
from lesiondelta.evaluation.instances import CONNECTIVITY, MIN_LESION_MM3, detected, lesions, overlaps
from lesiondelta.images import Array, Grid

UNCHANGED = 0.3
"""Largest change of volume, as a share of the larger one."""


@dataclass(frozen=True)
class ChangeScores:
    """Agreement on what changed from a visit to the next; volumes in mm3, counts in lesions.

    Detection and segmentation of new lesions, `new_lesion_f1` and `new_lesion_dsc`, are NaN where the reference has
    none; `false_new_lesions` and `false_new_volume_mm3` are NaN where it has some. Of the unchanged lesions,
    `unchanged_seen` counts those that the prediction touches at both visits, `unchanged_alike` these and those that it
    touches at neither; `unchanged_predicted_change` is how much its own volume in those that it touches changed, as a
    share of the larger one, on average.
    """

    reference_change_mm3: float
    predicted_change_mm3: float
    reference_new_lesions: int
    predicted_new_lesions: int
    new_lesion_f1: float
    new_lesion_dsc: float
    false_new_lesions: float
    false_new_volume_mm3: float
    unchanged_lesions: int
    unchanged_seen: int
    unchanged_alike: int
    unchanged_predicted_change: float


def score_change(
    reference: tuple[Array, Array],
    prediction: tuple[Array, Array],
    grid: Grid,
    *,
    min_lesion_mm3: float = MIN_LESION_MM3,
) -> ChangeScores:
    """Score the step between two visits, each given as (prior, current) masks (X, Y, Z) bool on one grid."""
    shapes = {mask.shape for mask in (*reference, *prediction)}
    if shapes != {grid.shape}:
        raise GeometryError(f"The masks of two visits have the shapes {sorted(shapes)}: resample them to one grid.")
    voxel_mm3 = grid.voxel_volume_mm3
    truth, guess = (
        (lesions(prior, voxel_mm3, min_lesion_mm3) > 0, lesions(current, voxel_mm3, min_lesion_mm3) > 0)
        for prior, current in (reference, prediction)
    )
    new_truth, new_guess = (new_lesions(*pair, voxel_mm3, min_lesion_mm3) for pair in (reference, prediction))
    table = overlaps(new_truth, new_guess)
    unchanged, seen, alike, change = _unchanged(*truth, *guess)
    any_new = len(table.reference) > 0
    volume = table.predicted.sum() * voxel_mm3
    return ChangeScores(
        reference_change_mm3=_growth(*truth) * voxel_mm3,
        predicted_change_mm3=_growth(*guess) * voxel_mm3,
        reference_new_lesions=len(table.reference),
        predicted_new_lesions=len(table.predicted),
        new_lesion_f1=_f1(detected(table), detected(table.reversed())) if any_new else math.nan,
        new_lesion_dsc=2 * table.shared.sum() / (table.reference.sum() + table.predicted.sum())
        if any_new
        else math.nan,
        false_new_lesions=math.nan if any_new else float(len(table.predicted)),
        false_new_volume_mm3=math.nan if any_new else float(volume),
        unchanged_lesions=unchanged,
        unchanged_seen=seen,
        unchanged_alike=alike,
        unchanged_predicted_change=change,
    )


def new_lesions(prior: Array, current: Array, voxel_mm3: float, min_lesion_mm3: float = MIN_LESION_MM3) -> Array:
    """Label map, numbered from 1, of the current visit's lesions that share no voxel with the prior's mask."""
    labels = lesions(current, voxel_mm3, min_lesion_mm3)
    known = np.bincount(labels[prior], minlength=labels.max() + 1) > 0
    known[0] = True
    return lesions(~known[labels], voxel_mm3, min_lesion_mm3)


def _growth(prior: Array, current: Array) -> int:
    """Voxels."""
    return int(np.count_nonzero(current)) - int(np.count_nonzero(prior))


def _f1(found: Array, right: Array) -> float:
    """Harmonic mean of the shares of new lesions found, and of predicted ones that are right."""
    if not found.any() or not right.any():
        return 0.0
    recall, precision = float(found.mean()), float(right.mean())
    return 2 * recall * precision / (recall + precision)


def _unchanged(
    prior: Array, current: Array, guessed_prior: Array, guessed_current: Array
) -> tuple[int, int, int, float]:
    pieces = cc3d.connected_components(prior | current, connectivity=CONNECTIVITY)
    count = int(pieces.max()) + 1
    before, after, guessed_before, guessed_after = (
        np.bincount(pieces[mask], minlength=count)[1:] for mask in (prior, current, guessed_prior, guessed_current)
    )
    same = _relative_change(before, after) <= UNCHANGED
    seen = same & (guessed_before > 0) & (guessed_after > 0)
    alike = same & ((guessed_before > 0) == (guessed_after > 0))
    touched = same & ((guessed_before > 0) | (guessed_after > 0))
    change = _relative_change(guessed_before[touched], guessed_after[touched])
    mean_change = float(change.mean()) if len(change) else math.nan
    return int(same.sum()), int(seen.sum()), int(alike.sum()), mean_change


def _relative_change(before: Array, after: Array) -> Array:
    change: Array = np.abs(after - before) / np.maximum(np.maximum(before, after), 1)
    return change
