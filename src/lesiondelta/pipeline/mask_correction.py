"""A mask corrected by hand on the grid of its own FLAIR, brought into the patient's space and put into words."""

from dataclasses import dataclass, replace

import cc3d
import numpy as np
from scipy import ndimage

from lesiondelta.images import Array, Volume, resample
from lesiondelta.inference.segmenter import SegmentedVisit, counted

REACH_MM = 2.0
"""Beside the thickness of a slice: how far around what was removed the reader has seen that there is no lesion."""


@dataclass(frozen=True)
class Correction:
    """What a reader has changed: lesions of the mask that was edited, and the volume, in the patient's space as always.

    `lost`: how many lesions that the reader has drawn lie outside the patient's space, and count nowhere.
    """

    removed: int
    added: int
    redrawn: int
    apart_ml: float
    lost: int = 0

    def __str__(self) -> str:
        """`3 lesions removed, 1 added, -0.40 ml`."""
        counts = {"removed": self.removed, "added": self.added, "redrawn": self.redrawn}
        said = [f"{count} {what}" for what, count in counts.items() if count]
        if said:
            number, what = said[0].split()
            said[0] = f"{number} lesion{'' if number == '1' else 's'} {what}"
        return ", ".join([*said, f"{round(self.apart_ml, 2) + 0.0:+.2f} ml"])

    @property
    def facts(self) -> dict[str, str | int | float]:
        """For the sidecar of the mask."""
        return {
            "Summary": str(self),
            "LesionsRemoved": self.removed,
            "LesionsAdded": self.added,
            "LesionsRedrawn": self.redrawn,
            "VolumeDifference": self.apart_ml,
            "VolumeDifferenceUnits": "ml",
        }


def correct(visit: SegmentedVisit, automatic: Volume, corrected: Volume) -> tuple[SegmentedVisit, Correction]:
    """The visit with its mask as a reader has corrected it.

    Only what the reader has changed changes: on slices of 3 mm the mask of the patient's space is finer than the one
    that was edited. A voxel of it stays as long as the nearest voxel of the automatic mask does; what was added is
    resampled. The reader is sure: what was added has a probability of 1; what was removed, and what lies around it, one
    of 0.

    Parameters
    ----------
    visit : SegmentedVisit
        As the model segmented it.
    automatic, corrected : Volume
        (X, Y, Z) bool on the grid of the visit's own FLAIR.
    """
    place, grid = visit.prepared.from_patient["FLAIR"], visit.mask.grid
    before = resample(automatic, grid, place, order="nearest").data
    after = resample(corrected, grid, place, order="nearest").data
    missed, lost = _missed(corrected.data & ~automatic.data, automatic, visit)
    added = (after & ~before) | missed
    gone = resample(_taken_away(automatic, corrected), grid, place, order="nearest").data
    mask = (visit.mask.data & ~gone) | added
    probability = np.where(gone & ~mask, 0, visit.probability.data)
    probability = np.where(added, 1, probability).astype(np.float32)
    result = replace(counted(visit.prepared, probability, mask, grid), extras=visit.extras)
    apart = (result.lesion_volume_mm3 - visit.lesion_volume_mm3) / 1000
    return result, Correction(*_edited(automatic.data, corrected.data), apart, lost)


def _taken_away(automatic: Volume, corrected: Volume) -> Volume:
    """Voxels whose nearest voxel of the automatic mask, if it is near, is not in the corrected one."""
    if not automatic.data.any():
        return automatic
    spacing = automatic.grid.spacing
    distance, nearest = ndimage.distance_transform_edt(~automatic.data, sampling=spacing, return_indices=True)
    near = distance <= max(spacing) + REACH_MM
    return automatic.with_data(~corrected.data[tuple(nearest)] & near)


def _missed(added: Array, own: Volume, visit: SegmentedVisit) -> tuple[Array, int]:
    """One voxel (X, Y, Z) bool of the patient's space for every added piece that falls between its voxels.

    And how many pieces lie outside of it.
    """
    shape = np.array(visit.mask.data.shape)
    missed, lost = np.zeros(visit.mask.data.shape, bool), 0
    pieces = cc3d.connected_components(added, connectivity=26)
    place = visit.prepared.from_patient["FLAIR"]
    met = np.unique(resample(own.with_data(pieces.astype(np.int32)), visit.mask.grid, place, order="nearest").data)
    to_patient = np.linalg.inv(visit.mask.affine) @ np.linalg.inv(visit.prepared.from_patient["FLAIR"]) @ own.affine
    for number in np.setdiff1d(np.arange(1, int(pieces.max()) + 1), met):
        voxels = np.argwhere(pieces == number)
        there = np.rint(voxels @ to_patient[:3, :3].T + to_patient[:3, 3]).astype(int)
        inside = there[((there >= 0) & (there < shape)).all(axis=1)]
        if len(inside):
            missed[tuple(inside[len(inside) // 2])] = True
        else:
            lost += 1
    return missed, lost


def _edited(before: Array, after: Array) -> tuple[int, int, int]:
    """How many lesions of a mask are removed, added and redrawn."""
    lesions = [cc3d.connected_components(mask, connectivity=26) for mask in (before, after)]
    kept = [np.unique(own[before & after]) for own in lesions]
    removed, added = (int(own.max()) - len(stay) for own, stay in zip(lesions, kept, strict=True))
    touched = np.unique(lesions[1][ndimage.binary_dilation(before ^ after, np.ones((3, 3, 3))) & after])
    return removed, added, len(np.intersect1d(touched, kept[1]))
