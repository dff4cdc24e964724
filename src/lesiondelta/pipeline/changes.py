"""From the masks of a patient's visits to lesions with numbers, places and what became of them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lesiondelta.atlas.location import Location, locate
from lesiondelta.cohort import Change
from lesiondelta.errors import RegistrationError
from lesiondelta.images import Array, Volume, resample
from lesiondelta.inference.segmenter import SegmentedVisit, Thresholds
from lesiondelta.outputs.derivatives import MASK, Place, own_uri, read_sidecar
from lesiondelta.outputs.lesions import LesionRow, StepRow, write_lesion_maps
from lesiondelta.outputs.segmentations import DicomSource, write_segmentations
from lesiondelta.preprocessing.preparation import PreparedPatient, PreparedVisit
from lesiondelta.preprocessing.regions import atlas_to, regions_of
from lesiondelta.settings import TrackingSettings
from lesiondelta.tracking import TrackedVisit, Tracking, track
from lesiondelta.tracking.change import UNSEEN

log = logging.getLogger(__name__)

EMPTY = 0.05
"""Of an image's percentile 98: splines leave less in the zeros beside a slab; of a brain only fluid is as dark."""


@dataclass(frozen=True, eq=False)
class Followed:
    """A patient's lesions over all visits.

    `locations` has, by visit, the location of every lesion; it is empty where the atlas could not be laid upon the
    brain.
    """

    tracking: Tracking
    locations: tuple[Mapping[int, Location], ...]


def follow(
    prepared: PreparedPatient,
    segmented: Sequence[SegmentedVisit],
    limits: Thresholds,
    settings: TrackingSettings,
    threads: int = 1,
) -> Followed:
    """Track the lesions of all visits, and find where they lie."""
    spacing = float(prepared.grid.spacing[0])
    visits = [_tracked(seen, prepared.brain) for seen in segmented]
    tracking = track(visits, spacing, limits.probability, settings)
    if not any(seen.lesions for seen in segmented):
        return Followed(tracking, tuple({} for _ in segmented))
    try:
        first = segmented[0].prepared.images
        t1w = first["T1w"] if "T1w" in first else first["FLAIR"]
        regions = regions_of(prepared.brain, atlas_to(t1w, threads))
    except RegistrationError as error:
        log.warning("sub-%s: %s Lesions have no location", prepared.label, error)
        return Followed(tracking, tuple({} for _ in segmented))
    return Followed(tracking, tuple(locate(labels, regions, spacing) for labels in tracking.instances))


def _tracked(seen: SegmentedVisit, brain: Volume) -> TrackedVisit:
    visit = seen.prepared
    covered = shown(visit.images["FLAIR"], brain)
    return TrackedVisit(seen.mask.data, seen.probability.data, slice_mm(visit), residual_mm(visit), covered)


def shown(image: Volume, brain: Volume) -> Array:
    """Where an image in the patient's space has data, (X, Y, Z) bool.

    Not beyond its field of view, in zeros that pad it, nor where it was stripped of what is brain at another visit; all
    of these are 0 there, while fluid that is as dark lies inside the rest. Outside `brain` every image is 0, whatever
    it shows: that counts as shown.
    """
    values = np.abs(image.data)
    data = values > EMPTY * np.percentile(values[brain.data], 98)
    found: Array = ndimage.binary_fill_holes(data) | ~brain.data
    return found


def unseen(followed: Followed, index: int) -> list[str]:
    """What to say of lesions that a visit cannot be compared by with the one before."""
    count = sum(one.reason == UNSEEN for one in followed.tracking.changes[index - 1]) if index else 0
    if not count:
        return []
    lesions, counts = ("1 lesion lies", "it counts") if count == 1 else (f"{count} lesions lie", "they count")
    return [f"{lesions} where the FLAIR of this visit or of the one before shows nothing: {counts} as stable"]


def slice_mm(visit: PreparedVisit) -> float:
    """Of the FLAIR, or what is there instead: its thickest voxel edge."""
    grid = visit.grids["FLAIR"] if "FLAIR" in visit.grids else next(iter(visit.grids.values()))
    return float(max(grid.spacing))


def residual_mm(visit: PreparedVisit) -> float:
    """The largest residual among the visit's registrations."""
    return max((value for name, value in visit.quality.items() if name.endswith("_residual_mm")), default=0.0)


def lesion_rows(followed: Followed, segmented: Sequence[SegmentedVisit]) -> list[LesionRow]:
    """One row a lesion a visit, in the order of visits and numbers."""
    rows = []
    for index, (seen, labels) in enumerate(zip(segmented, followed.tracking.instances, strict=True)):
        numbers = np.unique(labels[labels > 0])
        sizes = np.bincount(labels.ravel(), minlength=1)
        centres = ndimage.center_of_mass(labels > 0, labels, numbers)
        step = followed.tracking.changes[index - 1] if index else ()
        changes = {number: one.change for one in step for number in one.current}
        for number, centre in zip(numbers.tolist(), centres, strict=True):
            x, y, z = (seen.mask.affine @ [*centre, 1])[:3].tolist()
            place = followed.locations[index].get(number)
            volume = float(sizes[number] * seen.mask.grid.voxel_volume_mm3)
            rows.append(LesionRow(seen.prepared.label, number, volume, place, (x, y, z), changes.get(number)))
    return rows


def step_rows(followed: Followed, segmented: Sequence[SegmentedVisit]) -> list[StepRow]:
    """One row for what became of each lesion from a visit to the next."""
    rows = []
    for index, step in enumerate(followed.tracking.changes, start=1):
        before, after = (segmented[i].prepared.label for i in (index - 1, index))
        for one in step:
            side, visit = (one.current, index) if one.current else (one.prior, index - 1)
            places = {followed.locations[visit].get(number) for number in side}
            rows.append(StepRow(before, after, one, next(iter(places)) if len(places) == 1 else None))
    return rows


def change_figures(followed: Followed, index: int) -> dict[str, float | str]:
    """Counts of a visit's changes for the table of visits; empty for the first visit."""
    if not index:
        return {}
    changes = [one.change for one in followed.tracking.changes[index - 1]]
    return {f"{change.value}_lesions": float(changes.count(change)) for change in Change}


def write_maps(
    place: Place,
    mask: Volume,
    segmented: Sequence[SegmentedVisit],
    index: int,
    followed: Followed,
    source: DicomSource | None = None,
    *,
    by_hand: bool = False,
) -> None:
    """Write the numbered lesions of a visit, and what became of them, on the grid of its own FLAIR.

    `mask` is the one that counts there, and has been written; `by_hand`: a reader has corrected it. `source` is the
    visit's DICOM, where that is what it came as.
    """
    seen = segmented[index]
    lesions = lesions_on_own_grid(mask, seen, followed.tracking.instances[index])
    changes = changes_on_own_grid(lesions, seen, followed, index) if index else None
    facts = {
        "Type": "Lesion",
        "Sources": [own_uri(place, MASK)],
        "SpatialReference": read_sidecar(place, MASK)["SpatialReference"],
    }
    write_lesion_maps(place, segmented[index - 1].prepared.label if index else None, lesions, changes, facts)
    labels = with_resolved(lesions, seen, followed, index)
    write_segmentations(place, labels, _changes_of(labels, followed, index), source, by_hand=by_hand)


def lesions_on_own_grid(mask: Volume, seen: SegmentedVisit, instances: Array) -> Volume:
    """The numbers of lesions at every voxel of a mask on the grid of the visit's own FLAIR: the nearest lesion's."""
    labels = np.zeros(mask.grid.shape, np.int32)
    voxels = np.argwhere(mask.data)
    if len(voxels) and instances.any():
        to_patient = np.linalg.inv(seen.mask.affine) @ np.linalg.inv(seen.prepared.from_patient["FLAIR"]) @ mask.affine
        there = np.rint(voxels @ to_patient[:3, :3].T + to_patient[:3, 3]).astype(int)
        there = np.clip(there, 0, np.array(instances.shape) - 1)
        nearest = ndimage.distance_transform_edt(instances == 0, return_distances=False, return_indices=True)
        labels[tuple(voxels.T)] = instances[tuple(nearest[(slice(None), *there.T)])]
    return mask.with_data(labels)


def changes_on_own_grid(lesions: Volume, seen: SegmentedVisit, followed: Followed, index: int) -> Volume:
    """`change_map` on the grid of the visit's own FLAIR, where `lesions` has the numbers of those that are there."""
    there, gone = _codes(followed, index)
    before = seen.mask.with_data(gone[followed.tracking.instances[index - 1]])
    to_patient = np.linalg.inv(seen.prepared.from_patient["FLAIR"]).astype(np.float64)
    own = resample(before, lesions.grid, to_patient, order="nearest").data.astype(np.int32)
    return lesions.with_data(np.where(lesions.data > 0, there[lesions.data], own))


def with_resolved(lesions: Volume, seen: SegmentedVisit, followed: Followed, index: int) -> Volume:
    """`lesions`, and where there is none, those that are resolved since the visit before, with their numbers."""
    gone = _resolved(followed, index)
    if not gone:
        return lesions
    before = followed.tracking.instances[index - 1]
    to_patient = np.linalg.inv(seen.prepared.from_patient["FLAIR"]).astype(np.float64)
    left = seen.mask.with_data(np.where(np.isin(before, list(gone)), before, 0))
    own = resample(left, lesions.grid, to_patient, order="nearest").data.astype(np.int32)
    return lesions.with_data(np.where(lesions.data > 0, lesions.data, own))


def _resolved(followed: Followed, index: int) -> set[int]:
    """Numbers of the lesions that are resolved, without those that another lesion has now."""
    if not index:
        return set()
    gone = {n for one in followed.tracking.changes[index - 1] if one.change is Change.RESOLVED for n in one.prior}
    return gone - set(np.unique(followed.tracking.instances[index]).tolist())


def _changes_of(labels: Volume, followed: Followed, index: int) -> dict[int, Change | None]:
    step = followed.tracking.changes[index - 1] if index else ()
    known = {n: one.change for one in step for n in one.prior} | {n: one.change for one in step for n in one.current}
    return {n: known.get(n) for n in np.unique(labels.data[labels.data > 0]).tolist()}


def change_map(followed: Followed, index: int) -> Array:
    """What became of the lesions of a visit and of the one before, in the patient's space.

    1 and on, in the order of `Change`. Lesions that are gone lie where they were, and give way to those that are there.
    """
    if not index:
        return np.zeros(followed.tracking.instances[0].shape, np.int32)
    there, gone = _codes(followed, index)
    before, after = followed.tracking.instances[index - 1 : index + 1]
    codes: Array = np.where(after > 0, there[after], gone[before])
    return codes


def _codes(followed: Followed, index: int) -> tuple[Array, Array]:
    """For every number: the label of its change, of lesions that are there, and of those that are gone."""
    before, after = followed.tracking.instances[index - 1 : index + 1]
    there, gone = np.zeros(int(after.max()) + 1, np.int32), np.zeros(int(before.max()) + 1, np.int32)
    for one in followed.tracking.changes[index - 1]:
        code = list(Change).index(one.change) + 1
        there[list(one.current)] = code
        gone[list(one.prior)] = 0 if one.current else code
    return there, gone
