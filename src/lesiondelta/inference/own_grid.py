"""From the patient's space to the grid of a visit's own FLAIR, so that small lesions survive between thick slices."""

import logging

import cc3d
import numpy as np

from lesiondelta.images import Affine, Array, Volume, resample
from lesiondelta.inference.segmenter import SegmentedVisit
from lesiondelta.preprocessing.preparation import PreparedVisit

log = logging.getLogger(__name__)


def on_own_grid(visit: SegmentedVisit, threshold: float) -> tuple[Volume, Volume]:
    """Probabilities and mask on the grid of the visit's own FLAIR.

    Probabilities are resampled, then thresholded. A lesion that this loses between thick slices keeps one voxel, where
    its resampled probability is highest, below the threshold though it is; only lesions outside the FLAIR's field of
    view are lost. What the size filter took out in the patient's space stays out, and no second filter counts the few
    large voxels of a small lesion.
    """
    probability = visit.probability
    dropped = (probability.data > threshold) & ~visit.mask.data
    kept = probability.with_data(np.where(dropped, 0, probability.data))
    mask = _to_flair(kept, visit.prepared).data > threshold
    if visit.mask.data.any():
        _restore_lost(mask, visit)
    own = _to_flair(probability, visit.prepared)
    return own, own.with_data(mask)


def _restore_lost(mask: Array, visit: SegmentedVisit) -> None:
    """Set, in `mask` on the FLAIR's grid, one voxel of every lesion that has none."""
    lesions = cc3d.connected_components(visit.mask.data, connectivity=26)
    owners = _owners(lesions, visit)
    lost = np.setdiff1d(np.arange(1, lesions.max() + 1), owners[mask])
    if not len(lost):
        return
    own = _to_flair(
        visit.probability.with_data(np.where(visit.mask.data, visit.probability.data, 0)), visit.prepared
    ).data
    outside = 0
    for lesion in lost:
        voxels = np.argwhere(owners == lesion)
        if len(voxels):
            mask[tuple(voxels[own[tuple(voxels.T)].argmax()])] = True
            continue
        nearest = _nearest_voxel(np.argwhere(lesions == lesion).mean(axis=0), visit)
        if np.all(nearest >= 0) and np.all(nearest < mask.shape):
            mask[tuple(nearest)] = True
        else:
            outside += 1
    name = f"visit {visit.prepared.label or '(only one)'}"
    log.info("%s: %d lesions between the FLAIR's slices keep one voxel each", name, len(lost) - outside)
    if outside:
        log.warning("%s: %d lesions lie outside the FLAIR's field of view and are not in its mask", name, outside)


def _owners(lesions: Array, visit: SegmentedVisit) -> Array:
    """The lesion that each voxel of the FLAIR's grid is interpolated from, 0 where none.

    There is one at most: the eight voxels that linear interpolation reads touch one another, as two lesions never do.
    """
    labels = _to_flair(visit.mask.with_data(lesions.astype(np.float32)), visit.prepared).data
    share = _to_flair(visit.mask, visit.prepared).data
    owners: Array = np.rint(np.divide(labels, share, out=np.zeros_like(labels), where=share > 1e-6)).astype(int)
    return owners


def _nearest_voxel(patient_voxel: Array, visit: SegmentedVisit) -> Array:
    prepared = visit.prepared
    to_own = np.linalg.inv(prepared.grids["FLAIR"].affine) @ prepared.from_patient["FLAIR"] @ visit.mask.affine
    nearest: Array = np.rint(to_own[:3, :3] @ patient_voxel + to_own[:3, 3]).astype(int)
    return nearest


def _to_flair(volume: Volume, visit: PreparedVisit) -> Volume:
    to_patient: Affine = np.linalg.inv(visit.from_patient["FLAIR"]).astype(np.float64)
    return resample(volume, visit.grids["FLAIR"], to_patient, order="linear")
