"""How well a lesion mask agrees with a reference, for one visit.

Definitions (all in float64):

- Lesions are 26-connected. Those under `min_lesion_mm3` leave both masks before anything is computed.
- DSC = 2 |R and P| / (|R| + |P|), IoU = |R and P| / |R or P|, sensitivity = |R and P| / |R|, PPV = |R and P| / |P|.
- A surface is the voxels (their centres) with a 6-neighbour outside the mask, the outside of the image included. HD95
  is the linear 95th percentile of the pooled two-way distances in mm between the surfaces, ASSD their mean, NSD the
  share of them within 1 mm.
- A reference lesion is found if some predicted lesion overlaps it with IoU > 0.1, a predicted lesion is right if some
  reference lesion does; no lesion is used up. Recall and precision count each from its own side, F1 is their harmonic
  mean. They are counted by size too: small under 10 mm3, large over 100 mm3, medium between.
- LTPR is the share of reference lesions with a predicted voxel, LFPR that of predicted lesions without a reference
  voxel, as in the ISBI 2015 challenge (Carass et al. 2017, NeuroImage 148, 77-102).
- Empty masks: both empty gives the best value of everything, one empty the worst (of distances, the diagonal of the
  image). `undefined="nan"` leaves out what has no value of its own (0/0, a distance to nothing).

`convention="longiseg"` decides as the longitudinal nnU-Net fork does (github.com/MIC-DKFZ/LongiSeg): the size filter is
6-connected, each lesion can be matched once, the faces of the image bound no surface, a share of nothing is 1, and a
distance to nothing 1000 mm. Its NSD is not reproduced: it weighs the surface by area.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lesiondelta.errors import GeometryError
from lesiondelta.evaluation import Convention, Undefined
from lesiondelta.evaluation.instances import (
    IOU,
    MIN_LESION_MM3,
    VOLUME_TOLERANCE,
    Overlaps,
    at_least,
    found,
    found_once,
    lesions,
    overlaps,
    touched,
)
from lesiondelta.evaluation.surfaces import SurfaceDistances, bounding_box, surface_distances
from lesiondelta.images import Array, Grid

NSD_MM = 1.0
SMALL_MM3, LARGE_MM3 = 10.0, 100.0
SIZES = ("small", "medium", "large")
LONGISEG_DISTANCE_MM = 1000.0

Empty = Literal["", "both", "reference", "prediction"]


@dataclass(frozen=True)
class Detection:
    """Lesions of the reference and those found, of the prediction and those right."""

    reference: int
    found: int
    predicted: int
    right: int


@dataclass(frozen=True)
class Scores:
    """Agreement of one visit's prediction with its reference; volumes in mm3, distances in mm, counts in lesions.

    `volume_difference_mm3` is prediction - reference; `by_size` counts lesions by their own size.
    """

    dsc: float
    iou: float
    sensitivity: float
    ppv: float
    hd95_mm: float
    assd_mm: float
    nsd: float
    lesion_f1: float
    lesion_recall: float
    lesion_precision: float
    ltpr: float
    lfpr: float
    reference_lesions: int
    predicted_lesions: int
    found_lesions: int
    right_lesions: int
    reference_volume_mm3: float
    predicted_volume_mm3: float
    volume_difference_mm3: float
    absolute_volume_difference_mm3: float
    by_size: Mapping[str, Detection]
    empty: Empty


def score(
    reference: Array,
    prediction: Array,
    grid: Grid,
    *,
    min_lesion_mm3: float = MIN_LESION_MM3,
    undefined: Undefined = "penalise",
    convention: Convention = "lesiondelta",
) -> Scores:
    """Score a predicted mask (X, Y, Z) bool against a reference on the same grid."""
    if not reference.shape == prediction.shape == grid.shape:
        raise GeometryError(f"Reference {reference.shape}, prediction {prediction.shape} and grid {grid.shape} differ.")
    box, voxel_mm3 = bounding_box(reference | prediction, margin=1), grid.voxel_volume_mm3
    longiseg = convention == "longiseg"
    truth, guess = (_lesions(mask[box], voxel_mm3, min_lesion_mm3, longiseg) for mask in (reference, prediction))
    table = overlaps(truth, guess)
    matched = found_once if longiseg else found
    is_found, is_right = matched(table, IOU), matched(table.reversed(), IOU)
    share = _Share(_empty(table), "longiseg" if longiseg else undefined)
    both, in_truth, in_guess = int(table.shared.sum()), int(table.reference.sum()), int(table.predicted.sum())
    recall, precision = (share(int(hits.sum()), len(hits)) for hits in (is_found, is_right))
    apart = surface_distances(truth > 0, guess > 0, grid, border=not longiseg)
    return Scores(
        dsc=share(2 * both, in_truth + in_guess),
        iou=share(both, in_truth + in_guess - both),
        sensitivity=share(both, in_truth),
        ppv=share(both, in_guess),
        **_distances(apart, share, grid),
        lesion_f1=_harmonic(recall, precision, share),
        lesion_recall=recall,
        lesion_precision=precision,
        ltpr=share(int(touched(table).sum()), len(is_found)),
        lfpr=1 - share(int(touched(table.reversed()).sum()), len(is_right)),
        reference_lesions=len(is_found),
        predicted_lesions=len(is_right),
        found_lesions=int(is_found.sum()),
        right_lesions=int(is_right.sum()),
        reference_volume_mm3=in_truth * voxel_mm3,
        predicted_volume_mm3=in_guess * voxel_mm3,
        volume_difference_mm3=(in_guess - in_truth) * voxel_mm3,
        absolute_volume_difference_mm3=abs(in_guess - in_truth) * voxel_mm3,
        by_size=_by_size(table, is_found, is_right, voxel_mm3),
        empty=share.empty,
    )


@dataclass(frozen=True)
class _Share:
    """Part of a whole; where there is nothing to share, what the rule for empty masks says."""

    empty: Empty
    rule: Literal["penalise", "nan", "longiseg"]

    def __call__(self, part: int, whole: int) -> float:
        if whole:
            return part / whole
        return {"penalise": float(self.empty == "both"), "nan": math.nan, "longiseg": 1.0}[self.rule]

    def distance_mm(self, diagonal_mm: float) -> float:
        """Between surfaces of which one or both are missing."""
        if self.rule == "nan":
            return math.nan
        if self.empty == "both":
            return 0.0
        return LONGISEG_DISTANCE_MM if self.rule == "longiseg" else diagonal_mm


def _lesions(mask: Array, voxel_mm3: float, min_lesion_mm3: float, longiseg: bool) -> Array:
    if not longiseg:
        return lesions(mask, voxel_mm3, min_lesion_mm3)
    return lesions(lesions(mask, voxel_mm3, min_lesion_mm3, connectivity=6) > 0, voxel_mm3, 0)


def _empty(table: Overlaps) -> Empty:
    none = (not len(table.reference), not len(table.predicted))
    names: dict[tuple[bool, bool], Empty] = {
        (True, True): "both", (True, False): "reference", (False, True): "prediction", (False, False): "",
    }  # fmt: skip
    return names[none]


def _distances(apart: SurfaceDistances, share: _Share, grid: Grid) -> dict[str, float]:
    if share.empty:
        far = share.distance_mm(float(np.linalg.norm(np.array(grid.shape) * grid.spacing)))
        near = share(0, 0) if share.empty == "both" else 0.0
        return {"hd95_mm": far, "assd_mm": far, "nsd": near}
    return {"hd95_mm": apart.hd95_mm(), "assd_mm": apart.assd_mm(), "nsd": apart.nsd(NSD_MM)}


def _harmonic(recall: float, precision: float, share: _Share) -> float:
    if share.empty:
        return share(0, 0) if share.empty == "both" else 0.0
    return 2 * recall * precision / (recall + precision) if recall and precision else 0.0


def _by_size(table: Overlaps, is_found: Array, is_right: Array, voxel_mm3: float) -> dict[str, Detection]:
    classes = [size_class(voxels * voxel_mm3) for voxels in (table.reference, table.predicted)]
    counted = {}
    for number, name in enumerate(SIZES):
        in_reference, in_prediction = (of == number for of in classes)
        counted[name] = Detection(
            int(in_reference.sum()), int((in_reference & is_found).sum()),
            int(in_prediction.sum()), int((in_prediction & is_right).sum()),
        )  # fmt: skip
    return counted


def size_class(volumes_mm3: Array) -> Array:
    """0 under 10 mm3, 2 over 100 mm3, 1 between, whatever the rounding of affines."""
    large = volumes_mm3 > LARGE_MM3 * (1 + VOLUME_TOLERANCE)
    classes: Array = np.where(~at_least(volumes_mm3, SMALL_MM3), 0, np.where(large, 2, 1))
    return classes
