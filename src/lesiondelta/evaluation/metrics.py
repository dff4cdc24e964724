"""How well a lesion mask agrees with a reference, for one visit.

Definitions (all in float64):

- Lesions are 26-connected. Those under `min_lesion_mm3` leave both masks before anything is computed.
- DSC = 2 |R and P| / (|R| + |P|).
- HD95 is the linear 95th percentile of the pooled two-way distances in mm between the surfaces; a surface is the
  voxels (their centres) with a 6-neighbour outside the mask, the outside of the image included.
- A reference lesion is found if some predicted lesion overlaps it with IoU > 0.1, a predicted lesion is right if some
  reference lesion does; no lesion is used up. Recall and precision count each from its own side, F1 is their harmonic
  mean.
- Empty masks: both empty gives DSC, F1, recall and precision 1 and HD95 0; one empty gives 0 and the diagonal of the
  image. `undefined="nan"` leaves out what has no value of its own (0/0, a distance to nothing).
"""

import math
from dataclasses import dataclass
from typing import Literal

import cc3d
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from lesiondelta.errors import GeometryError
from lesiondelta.images import Array, Grid

CONNECTIVITY = 26
MIN_LESION_MM3 = 3.0
IOU = 0.1

Undefined = Literal["penalise", "nan"]
Empty = Literal["", "both", "reference", "prediction"]


@dataclass(frozen=True)
class Scores:
    """Agreement of one visit's prediction with its reference; volumes in mm3, HD95 in mm, counts in lesions."""

    dsc: float
    hd95_mm: float
    lesion_f1: float
    lesion_recall: float
    lesion_precision: float
    reference_lesions: int
    predicted_lesions: int
    found_lesions: int
    right_lesions: int
    reference_volume_mm3: float
    predicted_volume_mm3: float
    empty: Empty


def score(
    reference: Array,
    prediction: Array,
    grid: Grid,
    *,
    min_lesion_mm3: float = MIN_LESION_MM3,
    iou: float = IOU,
    undefined: Undefined = "penalise",
) -> Scores:
    """Score a predicted mask (X, Y, Z) bool against a reference on the same grid."""
    if not reference.shape == prediction.shape == grid.shape:
        raise GeometryError(f"Reference {reference.shape}, prediction {prediction.shape} and grid {grid.shape} differ.")
    voxel_mm3 = grid.voxel_volume_mm3
    truth, guess = (lesions(mask, voxel_mm3, min_lesion_mm3) for mask in (reference, prediction))
    empty = _empty(truth, guess)
    found, right = matched_lesions(truth, guess, iou)
    recall, precision = (_share(*counts, empty, undefined) for counts in ((found, truth.max()), (right, guess.max())))
    return Scores(
        dsc=dice(truth > 0, guess > 0, undefined),
        hd95_mm=hd95(truth > 0, guess > 0, grid, undefined),
        lesion_f1=_harmonic(found, int(truth.max()), right, int(guess.max()), undefined),
        lesion_recall=recall,
        lesion_precision=precision,
        reference_lesions=int(truth.max()),
        predicted_lesions=int(guess.max()),
        found_lesions=found,
        right_lesions=right,
        reference_volume_mm3=float(np.count_nonzero(truth) * voxel_mm3),
        predicted_volume_mm3=float(np.count_nonzero(guess) * voxel_mm3),
        empty=empty,
    )


def lesions(mask: Array, voxel_mm3: float, min_lesion_mm3: float = MIN_LESION_MM3) -> Array:
    """Number the lesions of a mask from 1, without those under `min_lesion_mm3`."""
    labels: Array = cc3d.connected_components(np.asarray(mask, dtype=bool), connectivity=CONNECTIVITY)
    volumes_mm3 = np.bincount(labels.ravel()) * voxel_mm3
    kept = volumes_mm3 >= min_lesion_mm3 * (1 - 1e-9)  # 3 voxels of 1 mm3 are 3 mm3, whatever the rounding of affines
    kept[0] = False
    numbers = np.where(kept, np.cumsum(kept), 0)
    renumbered: Array = numbers[labels]
    return renumbered


def dice(reference: Array, prediction: Array, undefined: Undefined = "penalise") -> float:
    """Dice similarity coefficient of two bool masks."""
    both, total = np.count_nonzero(reference & prediction), reference.sum() + prediction.sum()
    if not total:
        return math.nan if undefined == "nan" else 1.0
    return float(2 * both / total)


def hd95(reference: Array, prediction: Array, grid: Grid, undefined: Undefined = "penalise") -> float:
    """95th percentile of the pooled surface distances in mm."""
    a, b = surface_mm(reference, grid), surface_mm(prediction, grid)
    if not len(a) or not len(b):
        if undefined == "nan":
            return math.nan
        return 0.0 if len(a) == len(b) else float(np.linalg.norm(np.array(grid.shape) * grid.spacing))
    distances = np.concatenate([cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]])
    return float(np.percentile(distances, 95))


def surface_mm(mask: Array, grid: Grid) -> Array:
    """Centres (N, 3) in mm of the voxels of a mask that have a 6-neighbour outside it."""
    inner = ndimage.binary_erosion(mask, ndimage.generate_binary_structure(3, 1), border_value=0)
    points: Array = np.argwhere(mask & ~inner) @ grid.affine[:3, :3].T
    return points


def matched_lesions(reference: Array, prediction: Array, iou: float = IOU) -> tuple[int, int]:
    """How many reference lesions are found, and how many predicted ones are right (label maps numbered from 1)."""
    shared = (reference > 0) & (prediction > 0)
    pairs, overlap = np.unique(np.stack([reference[shared], prediction[shared]]), axis=1, return_counts=True)
    sizes_r, sizes_p = np.bincount(reference.ravel()), np.bincount(prediction.ravel())
    union = sizes_r[pairs[0]] + sizes_p[pairs[1]] - overlap
    hits = pairs[:, overlap / union > iou]
    return len(np.unique(hits[0])), len(np.unique(hits[1]))


def _empty(reference: Array, prediction: Array) -> Empty:
    none = (not reference.any(), not prediction.any())
    names: dict[tuple[bool, bool], Empty] = {
        (True, True): "both", (True, False): "reference", (False, True): "prediction", (False, False): "",
    }  # fmt: skip
    return names[none]


def _share(hits: int, total: int, empty: Empty, undefined: Undefined) -> float:
    if total:
        return hits / int(total)
    return math.nan if undefined == "nan" else float(empty == "both")


def _harmonic(found: int, references: int, right: int, predictions: int, undefined: Undefined) -> float:
    if not references and not predictions:
        return math.nan if undefined == "nan" else 1.0
    if not found or not right:
        return 0.0
    recall, precision = found / references, right / predictions
    return 2 * recall * precision / (recall + precision)
