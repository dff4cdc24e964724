"""Maps of numbered lesions and of what became of them, in the patient's space and on the grid of each visit's FLAIR."""

import numpy as np
from scipy import ndimage

from lesiondelta.cohort import Change
from lesiondelta.images import Array, Grid, Volume, resample
from lesiondelta.inference.segmenter import SegmentedVisit
from lesiondelta.outputs.derivatives import MASK, Place, own_uri, read_sidecar
from lesiondelta.outputs.lesions import write_difference, write_lesion_maps
from lesiondelta.outputs.segmentations import DicomSource, write_segmentations
from lesiondelta.pipeline.corrections import FinalVisit
from lesiondelta.pipeline.tracked_lesions import TrackedLesions
from lesiondelta.timings import timed


@timed("writing maps")
def write_maps(
    place: Place, visit: FinalVisit, tracked: TrackedLesions, index: int, source: DicomSource | None = None
) -> list[str]:
    """Write the numbered lesions of a visit, and what became of them, on the grid of its own FLAIR.

    Its mask there has been written. `source` is the visit's DICOM, where that is what it came as. Returns what could
    not be written, and why.
    """
    segmented = tracked.visits[index]
    lesions = lesions_on_own_grid(visit.own_mask, segmented, tracked.tracking.instances[index])
    lesions = with_unmasked(lesions, segmented, tracked.tracking.instances[index])
    before = before_on_own_grid(lesions.grid, tracked, index)
    changes = changes_on_own_grid(lesions, before, tracked, index) if index else None
    facts = {
        "Type": "Lesion",
        "Sources": [own_uri(place, MASK)],
        "SpatialReference": read_sidecar(place, MASK)["SpatialReference"],
    }
    prior = tracked.visits[index - 1].label if index else None
    write_lesion_maps(place, prior, lesions, changes, facts)
    evidence = tracked.tracking.evidence[index - 1] if index else None
    if prior is not None and evidence is not None:
        write_difference(place, prior, segmented.mask.with_data(evidence))
    labels = with_resolved(lesions, before, tracked, index)
    by_hand = visit.correction is not None
    return write_segmentations(place, labels, _changes_of(labels, tracked, index), source, by_hand=by_hand)


def lesions_on_own_grid(mask: Volume, visit: SegmentedVisit, instances: Array) -> Volume:
    """The numbers of lesions at every voxel of a mask on the grid of the visit's own FLAIR: the nearest lesion's."""
    labels = np.zeros(mask.grid.shape, np.int32)
    voxels = np.argwhere(mask.data)
    if len(voxels) and instances.any():
        to_patient = (
            np.linalg.inv(visit.mask.affine) @ np.linalg.inv(visit.prepared.from_patient["FLAIR"]) @ mask.affine
        )
        there = np.rint(voxels @ to_patient[:3, :3].T + to_patient[:3, 3]).astype(int)
        there = np.clip(there, 0, np.array(instances.shape) - 1)
        nearest = ndimage.distance_transform_edt(instances == 0, return_distances=False, return_indices=True)
        labels[tuple(voxels.T)] = instances[tuple(nearest[(slice(None), *there.T)])]
    return mask.with_data(labels)


def with_unmasked(lesions: Volume, visit: SegmentedVisit, instances: Array) -> Volume:
    """The numbered lesions on a FLAIR's own grid, and those that only images show: each keeps one voxel at least."""
    unmasked = np.where(visit.mask.data, 0, instances)
    if not unmasked.any():
        return lesions
    to_patient = np.linalg.inv(visit.prepared.from_patient["FLAIR"]).astype(np.float64)
    moved = resample(visit.mask.with_data(unmasked), lesions.grid, to_patient, order="nearest").data
    found = np.where(lesions.data > 0, lesions.data, moved).astype(np.int32)
    to_own = np.linalg.inv(lesions.affine) @ visit.prepared.from_patient["FLAIR"] @ visit.mask.affine
    for number in np.setdiff1d(np.unique(unmasked[unmasked > 0]), np.unique(found)):
        centre = np.append(np.argwhere(unmasked == number).mean(axis=0), 1)
        voxel = np.rint(to_own @ centre)[:3].astype(int)
        if np.all(voxel >= 0) and np.all(voxel < found.shape):
            found[tuple(voxel)] = number
    return lesions.with_data(found)


def before_on_own_grid(grid: Grid, tracked: TrackedLesions, index: int) -> Array:
    """The numbers of the lesions of the visit before, on the grid of this visit's FLAIR; 0 for the first visit."""
    if not index:
        return np.zeros(grid.shape, np.int32)
    visit, before = tracked.visits[index], tracked.tracking.before[index - 1]
    to_patient = np.linalg.inv(visit.prepared.from_patient["FLAIR"]).astype(np.float64)
    moved: Array = resample(visit.mask.with_data(before), grid, to_patient, order="nearest").data.astype(np.int32)
    return moved


def changes_on_own_grid(lesions: Volume, before: Array, tracked: TrackedLesions, index: int) -> Volume:
    """`change_map` on the grid of the visit's own FLAIR, where `lesions` has the numbers of those that are there.

    `before` comes from `before_on_own_grid`.
    """
    there, gone = _codes(tracked, index)
    return lesions.with_data(np.where(lesions.data > 0, there[lesions.data], gone[before]))


def with_resolved(lesions: Volume, before: Array, tracked: TrackedLesions, index: int) -> Volume:
    """`lesions`, and where there is none, those that are resolved since the visit before, with their numbers."""
    left = np.where(np.isin(before, list(_resolved(tracked, index))), before, 0)
    return lesions.with_data(np.where(lesions.data > 0, lesions.data, left))


def _resolved(tracked: TrackedLesions, index: int) -> set[int]:
    """Numbers of the lesions that are resolved, without those that another lesion has now."""
    gone = {n for one in tracked.step(index) if one.change is Change.RESOLVED for n in one.prior}
    return gone - set(np.unique(tracked.tracking.instances[index]).tolist())


def _changes_of(labels: Volume, tracked: TrackedLesions, index: int) -> dict[int, Change | None]:
    step = tracked.step(index)
    known = {n: one.change for one in step for n in one.prior} | {n: one.change for one in step for n in one.current}
    return {n: known.get(n) for n in np.unique(labels.data[labels.data > 0]).tolist()}


def change_map(tracked: TrackedLesions, index: int) -> Array:
    """What became of the lesions of a visit and of the one before, in the patient's space.

    1 and on, in the order of `Change`. Lesions that are gone lie where they were, and give way to those that are there.
    """
    if not index:
        return np.zeros(tracked.tracking.instances[0].shape, np.int32)
    there, gone = _codes(tracked, index)
    before, after = tracked.tracking.before[index - 1], tracked.tracking.instances[index]
    codes: Array = np.where(after > 0, there[after], gone[before])
    return codes


def _codes(tracked: TrackedLesions, index: int) -> tuple[Array, Array]:
    """For every number: the label of its change, of lesions that are there, and of those that are gone."""
    before, after = tracked.tracking.before[index - 1], tracked.tracking.instances[index]
    there, gone = np.zeros(int(after.max()) + 1, np.int32), np.zeros(int(before.max()) + 1, np.int32)
    for one in tracked.step(index):
        code = list(Change).index(one.change) + 1
        there[list(one.current)] = code
        gone[list(one.prior)] = 0 if one.current else code
    return there, gone
