"""The lesions of two masks and what they share: one labelling and one table of overlaps serve every lesion metric."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cc3d
import numpy as np

from lesiondelta.images import Array

CONNECTIVITY: Literal[26] = 26
MIN_LESION_MM3 = 3.0
IOU = 0.1
VOLUME_TOLERANCE = 1e-5
"""Relative. NIfTI keeps affines in float32, so that three rotated voxels of 1 mm3 may hold 2.9999998 mm3."""

Connectivity = Literal[6, 26]


def lesions(
    mask: Array, voxel_mm3: float, min_lesion_mm3: float = MIN_LESION_MM3, connectivity: Connectivity = CONNECTIVITY
) -> Array:
    """Number the lesions of a mask from 1, without those under `min_lesion_mm3`."""
    labels: Array = cc3d.connected_components(np.asarray(mask, dtype=bool), connectivity=connectivity)
    volumes_mm3 = np.bincount(labels.ravel()) * voxel_mm3
    kept = at_least(volumes_mm3, min_lesion_mm3)
    kept[0] = False
    numbers = np.where(kept, np.cumsum(kept), 0).astype(labels.dtype)
    renumbered: Array = numbers[labels]
    return renumbered


def lesion_mask(probability: Array, threshold: float, min_lesion_mm3: float, spacing_mm: Sequence[float]) -> Array:
    """Where the probability exceeds the threshold, without lesions (26-connected) smaller than `min_lesion_mm3`."""
    mask: Array = probability > threshold
    voxels = min_lesion_mm3 / float(np.prod(spacing_mm))
    if voxels <= 1 or not mask.any():
        return mask
    instances = cc3d.connected_components(mask, connectivity=26)
    sizes = np.bincount(instances.ravel())
    kept = sizes >= voxels - 1e-6
    kept[0] = False
    filtered: Array = kept[instances]
    return filtered


def at_least(volumes_mm3: Array, limit_mm3: float) -> Array:
    """Which volumes are not under the limit, whatever the rounding of affines."""
    reached: Array = volumes_mm3 >= limit_mm3 * (1 - VOLUME_TOLERANCE)
    return reached


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Sizes of the lesions of two masks, and the voxels that pairs of them share.

    Attributes
    ----------
    reference, predicted : (R,) and (P,) int
        Voxels of each lesion.
    pairs : (N, 2) int
        Indices from 0 of the reference and the predicted lesion, for pairs that share a voxel; sorted.
    shared : (N,) int
        The voxels they share.
    """

    reference: Array
    predicted: Array
    pairs: Array
    shared: Array

    @property
    def iou(self) -> Array:
        """Intersection over union of each pair."""
        union = self.reference[self.pairs[:, 0]] + self.predicted[self.pairs[:, 1]] - self.shared
        ratio: Array = self.shared / union
        return ratio

    def reversed(self) -> "Overlaps":
        """The same with the roles of reference and prediction exchanged."""
        order = np.lexsort((self.pairs[:, 0], self.pairs[:, 1]))
        return Overlaps(self.predicted, self.reference, self.pairs[order, ::-1], self.shared[order])


def overlaps(reference: Array, prediction: Array) -> Overlaps:
    """Table of two label maps numbered from 1, in one pass over the voxels that both call lesion."""
    in_reference, predicted = (np.bincount(labels.ravel(), minlength=1)[1:] for labels in (reference, prediction))
    both = (reference > 0) & (prediction > 0)
    width = len(predicted) + 1
    keys, shared = np.unique(reference[both].astype(np.int64) * width + prediction[both], return_counts=True)
    pairs = np.stack([keys // width, keys % width], axis=1) - 1
    return Overlaps(in_reference, predicted, pairs, shared)


def found(table: Overlaps, iou: float = IOU) -> Array:
    """Which reference lesions some predicted lesion overlaps with more than `iou`, (R,) bool; none is used up."""
    hit = np.zeros(len(table.reference), bool)
    hit[table.pairs[table.iou > iou, 0]] = True
    return hit


def found_once(table: Overlaps, iou: float = IOU) -> Array:
    """Which reference lesions are found if each takes its best predicted lesion away from the later ones, (R,) bool.

    The matching of the longitudinal nnU-Net fork (LongiSeg): lesions come in the order of their labels, and the best
    partner left is used up if its IoU exceeds `iou`.
    """
    hit, taken = np.zeros(len(table.reference), bool), np.zeros(len(table.predicted), bool)
    ratios = table.iou
    for lesion in range(len(table.reference)):
        rows = np.flatnonzero(table.pairs[:, 0] == lesion)
        if len(rows):
            left = np.where(taken[table.pairs[rows, 1]], 0, ratios[rows])
            best = rows[left.argmax()]
            hit[lesion] = left.max() > iou
            taken[table.pairs[best, 1]] |= hit[lesion]
    return hit


def touched(table: Overlaps) -> Array:
    """Which reference lesions share a voxel with a predicted one, (R,) bool: a hit in the ISBI 2015 challenge."""
    hit = np.zeros(len(table.reference), bool)
    hit[table.pairs[:, 0]] = True
    return hit


def detected(table: Overlaps, covered: float = 0.1, outside: float = 0.7, share: float = 0.65) -> Array:
    """Which reference lesions count as detected in the MSSEG and MSSEG-2 challenges, (R,) bool.

    More than `covered` of the lesion is predicted; and of the predicted lesions that cover it, the largest overlaps
    first until `share` of what is covered is reached, none lies by more than `outside` of its voxels in no reference
    lesion at all (Commowick et al. 2018, Scientific Reports 8, 13650; defaults of animaSegPerfAnalyzer).
    """
    inside = np.bincount(table.pairs[:, 1], table.shared, minlength=len(table.predicted))
    beyond = 1 - inside / np.maximum(table.predicted, 1) > outside
    hit = np.zeros(len(table.reference), bool)
    for lesion in np.unique(table.pairs[:, 0]):
        rows = np.flatnonzero(table.pairs[:, 0] == lesion)
        rows = rows[np.argsort(-table.shared[rows], kind="stable")]
        before = np.cumsum(table.shared[rows]) - table.shared[rows]
        total = table.shared[rows].sum()
        needed = rows[before < share * total]
        hit[lesion] = total > covered * table.reference[lesion] and not beyond[table.pairs[needed, 1]].any()
    return hit
