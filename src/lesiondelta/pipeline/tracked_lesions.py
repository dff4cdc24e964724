"""From the masks of a patient's visits to lesions with numbers, locations and what became of them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lesiondelta.atlas.location import Location, locate
from lesiondelta.cohort import Change, LesionChange
from lesiondelta.errors import RegistrationError
from lesiondelta.images import Array, Volume
from lesiondelta.inference.segmenter import SegmentedVisit
from lesiondelta.outputs.lesions import LesionRow, StepRow
from lesiondelta.preprocessing.own_anatomy import own_regions
from lesiondelta.preprocessing.preparation import PreparedPatient, PreparedVisit
from lesiondelta.settings import TrackingSettings
from lesiondelta.timings import timed
from lesiondelta.tracking import TrackedVisit, Tracking, VisitImage, track
from lesiondelta.tracking.change import UNSEEN
from lesiondelta.tracking.evidence import box_blur
from lesiondelta.tracking.places import Place

log = logging.getLogger(__name__)

ONLY_MASKS = "its FLAIR and that of the visit before share too little tissue: changes are those of the masks alone"
EMPTY = 0.05
"""Of an image's percentile 98: splines leave less in the zeros beside a slab; of a brain only fluid is as dark."""


@dataclass(frozen=True, eq=False)
class TrackedLesions:
    """A patient's lesions over all visits.

    `visits` have the masks that count. `locations` has, by visit, the location of every lesion; by step,
    `earlier_locations` has that of every lesion of `tracking.before`, and `possible_locations` that of every possible
    place, counted from 1. All are empty where the atlas could not be laid upon the brain.
    """

    visits: tuple[SegmentedVisit, ...]
    tracking: Tracking
    locations: tuple[Mapping[int, Location], ...]
    earlier_locations: tuple[Mapping[int, Location], ...]
    possible_locations: tuple[Mapping[int, Location], ...]

    def step(self, index: int) -> tuple[LesionChange, ...]:
        """What became of the lesions from the visit before to this one; nothing for the first."""
        return self.tracking.changes[index - 1] if index else ()


@timed("tracking")
def track_lesions(
    prepared: PreparedPatient,
    visits: Sequence[SegmentedVisit],
    threshold: float,
    settings: TrackingSettings,
    by_hand: Sequence[Array | None] | None = None,
) -> TrackedLesions:
    """Track the lesions of all visits, and find where they lie.

    `threshold` is that of the masks; `by_hand` has, by visit, where a reader has changed the mask (X, Y, Z) bool.
    """
    spacing = float(prepared.grid.spacing[0])
    edited = by_hand or [None] * len(visits)
    followed = [_tracked(visit, prepared.brain, changed) for visit, changed in zip(visits, edited, strict=True)]
    tracking = track(followed, spacing, threshold, settings)
    possible = [_numbered(places, prepared.brain.data.shape) for places in tracking.possible]
    steps, found = len(possible), _locations(prepared, [*tracking.instances, *tracking.before, *possible])
    own, earlier = found[: len(visits)], found[len(visits) : len(visits) + steps]
    return TrackedLesions(tuple(visits), tracking, tuple(own), tuple(earlier), tuple(found[len(visits) + steps :]))


def _numbered(places: Sequence[Place], shape: tuple[int, ...]) -> Array:
    """A map of places by their numbers from 1."""
    labels = np.zeros(shape, np.int32)
    for number, place in enumerate(places, start=1):
        labels[tuple(place.voxels.T)] = number
    return labels


def _locations(prepared: PreparedPatient, instances: Sequence[Array]) -> list[Mapping[int, Location]]:
    nowhere: list[Mapping[int, Location]] = [{} for _ in instances]
    if not any(labels.any() for labels in instances):
        return nowhere
    try:
        regions = own_regions(prepared)
    except RegistrationError as error:
        log.warning("sub-%s: %s Lesions have no location", prepared.label, error)
        return nowhere
    if regions is None:
        return nowhere
    return [locate(labels, regions, float(prepared.grid.spacing[0])) for labels in instances]


def _tracked(visit: SegmentedVisit, brain: Volume, by_hand: Array | None) -> TrackedVisit:
    prepared = visit.prepared
    covered = {name: shown(image, brain) for name, image in prepared.images.items()}
    flair, t1w = (
        _image(prepared, name, covered[name]) if name in prepared.grids else None for name in ("FLAIR", "T1w")
    )
    return TrackedVisit(
        visit.mask.data, visit.probability.data, slice_mm(prepared), residual_mm(prepared), covered["FLAIR"],
        flair, t1w, by_hand,
    )  # fmt: skip


def _image(visit: PreparedVisit, contrast: str, covered: Array) -> VisitImage:
    """An image with the blur of its slices: as thick as it shows them to be, if that is more than its header says.

    It is 0 where it shows nothing.
    """
    affine = np.linalg.inv(visit.from_patient[contrast]) @ visit.grids[contrast].affine
    edges = visit.grids[contrast].spacing
    thickest = int(np.argmax(edges))
    seen = visit.quality.get(f"{contrast}_thickness_mm", edges[thickest])
    affine[:3, thickest] *= max(1.0, seen / edges[thickest])
    return VisitImage(np.where(covered, visit.images[contrast].data, 0), box_blur(affine))


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


def uncompared(tracked: TrackedLesions, index: int) -> list[str]:
    """What to say of a visit, or of lesions, that cannot be compared with the one before."""
    found = []
    if index and tracked.tracking.evidence[index - 1] is None:
        found.append(ONLY_MASKS)
    count = sum(one.reason == UNSEEN for one in tracked.step(index))
    if count:
        lesions, counts = ("1 lesion lies", "it counts") if count == 1 else (f"{count} lesions lie", "they count")
        found.append(f"{lesions} where the FLAIR of this visit or of the one before shows nothing: {counts} as stable")
    return found


def unmasked(tracked: TrackedLesions, index: int) -> int:
    """How many lesions of a visit its mask misses."""
    labels, mask = tracked.tracking.instances[index], tracked.visits[index].mask.data
    return len(np.setdiff1d(np.unique(labels[labels > 0]), np.unique(labels[mask])))


def slice_mm(visit: PreparedVisit) -> float:
    """Of the FLAIR, or what is there instead: its thickest voxel edge."""
    grid = visit.grids["FLAIR"] if "FLAIR" in visit.grids else next(iter(visit.grids.values()))
    return float(max(grid.spacing))


def residual_mm(visit: PreparedVisit) -> float:
    """The largest residual among the visit's registrations."""
    return max((value for name, value in visit.quality.items() if name.endswith("_residual_mm")), default=0.0)


def lesion_rows(tracked: TrackedLesions) -> list[LesionRow]:
    """One row a lesion a visit, in the order of visits and numbers."""
    rows = []
    for index, (visit, labels) in enumerate(zip(tracked.visits, tracked.tracking.instances, strict=True)):
        voxels = np.argwhere(labels > 0)
        owners = labels[tuple(voxels.T)]
        numbers, sizes = np.unique(owners), np.bincount(owners, minlength=1)
        centres = np.stack([np.bincount(owners, axis)[numbers] for axis in voxels.T], axis=1) / sizes[numbers][:, None]
        changes = {number: one.change for one in tracked.step(index) for number in one.current}
        for number, centre in zip(numbers.tolist(), centres, strict=True):
            x, y, z = (visit.mask.affine @ [*centre, 1])[:3].tolist()
            location = tracked.locations[index].get(number)
            volume = float(sizes[number] * visit.mask.grid.voxel_volume_mm3)
            rows.append(LesionRow(visit.label, number, volume, location, (x, y, z), changes.get(number)))
    return rows


def step_rows(tracked: TrackedLesions) -> list[StepRow]:
    """One row for what became of each lesion from a visit to the next, the surest changes first."""
    rows: list[StepRow] = []
    there = [_voxels(labels) for labels in tracked.tracking.instances]
    before_step = [_voxels(labels) for labels in tracked.tracking.before]
    order = {visit.label: number for number, visit in enumerate(tracked.visits)}
    for index, step in enumerate(tracked.tracking.changes, start=1):
        before, after = (tracked.visits[i].label for i in (index - 1, index))
        for one in step:
            side, voxels, located = (
                (one.current, there[index], tracked.locations[index])
                if one.current
                else (one.prior, before_step[index - 1], tracked.earlier_locations[index - 1])
            )
            places = {located.get(number) for number in side}
            centre = _centre_mm(tracked, np.concatenate([voxels[number] for number in side]))
            rows.append(StepRow(before, after, one, next(iter(places)) if len(places) == 1 else None, centre))
        for number, place in enumerate(possible_places(tracked, index), start=1):
            location = tracked.possible_locations[index - 1].get(number)
            rows.append(StepRow(before, after, _possible(tracked, place), location, _centre_mm(tracked, place.voxels)))
    return sorted(rows, key=lambda row: (order[row.visit], -(row.step.confidence or 0.0)))


def possible_places(tracked: TrackedLesions, index: int) -> tuple[Place, ...]:
    """Places of the step to a visit that only the images show."""
    return tracked.tracking.possible[index - 1] if tracked.tracking.possible and index else ()


def _possible(tracked: TrackedLesions, place: Place) -> LesionChange:
    """A place as a change that no mask has."""
    volume = len(place.voxels) * float(tracked.visits[0].mask.grid.voxel_volume_mm3)
    gained, lost = (volume, 0.0) if place.sign > 0 else (0.0, volume)
    why = f"the images show {volume:.0f} mm3 become {'brighter' if place.sign > 0 else 'darker'}, and no mask has it"
    return LesionChange(
        (), (), Change.POSSIBLE, lost, gained, 0.0, why, False, place.sign * place.peak, gained, lost, place.confidence,
        place.later,
    )  # fmt: skip


def _voxels(labels: Array) -> dict[int, Array]:
    """The voxels (N, 3) of every lesion."""
    where = np.argwhere(labels)
    owners = labels[tuple(where.T)]
    order = np.argsort(owners, kind="stable")
    numbers, starts = np.unique(owners[order], return_index=True)
    return dict(zip(numbers.tolist(), np.split(where[order], starts[1:]), strict=True)) if len(where) else {}


def _centre_mm(tracked: TrackedLesions, voxels: Array) -> tuple[float, float, float]:
    x, y, z = (tracked.visits[0].mask.affine @ [*voxels.mean(axis=0), 1])[:3].tolist()
    return x, y, z


def change_figures(tracked: TrackedLesions, index: int) -> dict[str, float | str]:
    """Counts of a visit's changes for the table of visits; empty for the first visit."""
    if not index:
        return {}
    changes = [one.change for one in tracked.step(index)]
    possible = len(possible_places(tracked, index))
    return {f"{one}_lesions": float(possible if one is Change.POSSIBLE else changes.count(one)) for one in Change}
