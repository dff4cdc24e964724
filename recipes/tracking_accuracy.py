"""How well tracking names what simulated lesions do.

    python recipes/tracking_accuracy.py OUT [--patients N] [--segmented N]

Patients are simulated from the atlas with three, four or five visits; some of their neighbours are joined from a visit
on, or until one. Their lesions are tracked as they are and as `tracking_masks` spoils them. Each
patient's first visit is then spoiled as often as the patient has visits: there every change is false. What a user gets
is measured on `--segmented` other patients by the bundled model, by its masks alone and with the images: a visit with
slices of 1 mm and one of 3 mm, once changing and once not. Writes README.md, tables and a picture.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage
from tracking_masks import MASKS, NOTHING, segmented
from tracking_page import MASKS_ALONE, WITH_IMAGES, Example, write_page

from lesiondelta.cohort import LesionChange
from lesiondelta.images import Array, Volume
from lesiondelta.simulation import Rates, mni152_anatomy
from lesiondelta.simulation.lesions import draw_count, draw_lesions
from lesiondelta.tracking import Group, TrackedVisit, track
from lesiondelta.tracking.change import LEAST_GROWTH, classify

FIRST_SEED, SEGMENTED_SEED = 8000, 8100
SHOWN = "rescanned, noisy outlines"
RATES = Rates(new=0.08, enlarging=0.08, shrinking=0.08, resolved=0.05, quiet=0)
NEAREST, FARTHEST = 3.0, 12.0  # voxels between lesions that are joined
JOINED = 4  # pairs a patient
MARGIN = 14  # voxels kept around all lesions
GROWTH = LEAST_GROWTH
HALF = 14  # voxels to either side in a picture
Maps = tuple[Array, Array]


@dataclass(frozen=True, eq=False)
class Patient:
    """A simulated patient: for each visit, the lesions' numbers (X, Y, Z) int, cut to the lesions.

    At visits at which a pair is joined, both have the number of one; `joined` has, by the other's number, that one's.
    """

    lesions: tuple[Volume, ...]
    joined: dict[int, int]


def main() -> None:
    """Simulate, track, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--patients", type=int, default=12)
    parser.add_argument("--segmented", type=int, default=6, help="patients whose masks are the bundled model's")
    given = parser.parse_args()
    rows: list[dict[str, object]] = []
    examples: list[Example] = []
    for seed in range(FIRST_SEED, FIRST_SEED + given.patients):
        patient, rng = simulated(seed), np.random.default_rng(seed)
        still = Patient(patient.lesions[:1] * len(patient.lesions), {})
        for kind, masks in MASKS.items():
            for cohort, one in (("changing", patient), ("unchanged", still)):
                visits = [masks(rng, lesions) for lesions in one.lesions]
                steps = list(compared(one, visits, 0.5))
                facts = {"cohort": cohort, "masks": kind, "patient": seed}
                rows += [facts | {"step": index} | row for index, step in enumerate(steps) for row in step.rows()]
                if one is patient and kind == SHOWN:
                    examples += [example for step in steps for example in step.examples()]
        print(f"{seed}: {len(rows)} rows", flush=True)
    for seed in range(SEGMENTED_SEED, SEGMENTED_SEED + given.segmented):
        for cohort, rates in (("changing", RATES), ("unchanged", NOTHING)):
            lesions, visits, threshold = segmented(seed, rates)
            without = [replace(visit, image=None) for visit in visits]
            for kind, tracked in ((MASKS_ALONE, without), (WITH_IMAGES, visits)):
                facts = {"cohort": cohort, "masks": kind, "patient": seed}
                (step,) = compared(Patient(tuple(lesions), {}), tracked, threshold)
                rows += [facts | {"step": 0} | row for row in step.rows()]
        print(f"{seed}: {len(rows)} rows", flush=True)
    write_page(given.out, pd.DataFrame(rows), examples, (FIRST_SEED, SEGMENTED_SEED))


def simulated(seed: int) -> Patient:
    """A patient of 3 to 5 visits, with some neighbours joined at some of them."""
    rng, visits, anatomy = np.random.default_rng(seed), 3 + seed % 3, mni152_anatomy(seed)
    lesions = draw_lesions(rng, anatomy, visits, RATES, draw_count(rng))
    numbers = [np.zeros(anatomy.brain.shape, np.int32) for _ in range(visits)]
    for visit, labels in enumerate(numbers):
        for lesion in lesions:
            labels[lesion.box][lesion.mask(visit)] = lesion.identity
    box = ndimage.find_objects(np.any([labels > 0 for labels in numbers], axis=0).astype(np.uint8))[0]
    box = tuple(slice(max(s.start - MARGIN, 0), s.stop + MARGIN) for s in box)
    affine = anatomy.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [s.start for s in box]
    cut = [labels[box] for labels in numbers]
    joined = join(rng, cut)
    return Patient(tuple(Volume(labels, affine) for labels in cut), joined)


def join(rng: np.random.Generator, numbers: Sequence[Array]) -> dict[int, int]:
    """Join some neighbours in place, every other pair from a visit on, the others until one."""
    pairs = list(neighbours(numbers))
    chosen = [pairs[index] for index in rng.permutation(len(pairs))[:JOINED]]
    for place, (one, other) in enumerate(chosen):
        step = int(rng.integers(1, len(numbers)))
        for labels in numbers[step:] if place % 2 == 0 else numbers[:step]:
            labels[bridge(labels == one, labels == other) & (labels == 0)] = one
            labels[labels == other] = one
    return {other: one for one, other in chosen}


def neighbours(numbers: Sequence[Array]) -> Iterator[tuple[int, int]]:
    """Pairs of lesions, each in one pair at most, that never change, have over 5 voxels and are near each other."""
    sizes = np.array([np.bincount(labels.ravel(), minlength=max(n.max() for n in numbers) + 1) for labels in numbers])
    still = [n for n in np.flatnonzero((sizes.min(0) == sizes.max(0)) & (sizes[0] > 5)).tolist() if n]
    used: set[int] = set()
    for one in still:
        away = ndimage.distance_transform_edt(numbers[0] != one) if one not in used else np.zeros(numbers[0].shape)
        for other in still:
            if other > one and not {one, other} & used and NEAREST < away[numbers[0] == other].min() <= FARTHEST:
                used |= {one, other}
                yield one, other


def bridge(one: Array, other: Array) -> Array:
    """A tube of 3 voxels between the nearest voxels of two lesions."""
    a, b = np.argwhere(one), np.argwhere(other)
    apart = np.linalg.norm(a[:, None] - b[None], axis=2)
    first, second = np.unravel_index(apart.argmin(), apart.shape)
    tube = np.zeros(one.shape, bool)
    for share in np.linspace(0, 1, 40):
        tube[tuple(np.rint(a[first] * (1 - share) + b[second] * share).astype(int))] = True
    wide: Array = ndimage.binary_dilation(tube)
    return wide


@dataclass(frozen=True, eq=False)
class Step:
    """What truly happened from a visit to the next, and what tracking says.

    The maps (X, Y, Z) int of both visits have the indices, from 1, of the list beside them.
    """

    true: Sequence[str]
    true_maps: Maps
    found: Sequence[LesionChange]
    found_maps: Maps

    def rows(self) -> Iterator[dict[str, object]]:
        """One row for each true change with what it is called, and one for each call with what is true."""
        found_of, true_of = self.matched()
        for change, index in zip(self.true, found_of, strict=True):
            yield {"side": "true", "true": change, **(calls(self.found[index - 1]) if index else MISSED)}
        for one, index in zip(self.found, true_of, strict=True):
            yield {"side": "called", "true": self.true[index - 1] if index else "nothing there", **calls(one)}

    def matched(self) -> tuple[list[int], list[int]]:
        """For every true change the index of the call that shares most voxels with it, and the other way round."""
        shared = np.zeros((len(self.true) + 1, len(self.found) + 1), int)
        for maps in zip(self.true_maps, self.found_maps, strict=True):
            np.add.at(shared, tuple(labels.ravel() for labels in maps), 1)
        shared[0] = shared[:, 0] = 0  # an argmax of 0 is none
        return shared.argmax(axis=1)[1:].tolist(), shared.argmax(axis=0)[1:].tolist()

    def examples(self) -> Iterator[Example]:
        """Every true change as a picture: the slice in which it is largest, at both visits."""
        found_of, _ = self.matched()
        boxes = ndimage.find_objects(np.maximum(*self.true_maps), max_label=len(self.true))
        for index, (change, box, call) in enumerate(zip(self.true, boxes, found_of, strict=True), 1):
            if box is not None:
                level = box[2].start + int((np.maximum(*self.true_maps)[box] == index).sum(axis=(0, 1)).argmax())
                middle = [(s.start + s.stop) // 2 for s in box[:2]]
                here = (*(slice(max(m - HALF, 0), m + HALF + 1) for m in middle), level)
                true, found = ([maps[here] > 0 for maps in both] for both in (self.true_maps, self.found_maps))
                name = calls(self.found[call - 1])["called"] if call else "not seen"
                yield Example(change, str(name), true, found)


MISSED = {"called": "not seen", "without": "not seen", "inside": None}


def calls(one: LesionChange) -> dict[str, object]:
    """What tracking calls a change, what it would without the measurement error, and whether this error covers it."""
    apart = one.current_mm3 - one.prior_mm3
    without, _ = classify(Group(one.prior, one.current), (one.prior_mm3, one.current_mm3), 0.0, GROWTH)
    return {
        "called": "within error" if one.reason.startswith("within the measurement error") else str(one.change),
        "without": str(without),
        "inside": abs(apart) <= one.error_mm3 if len(one.prior) == len(one.current) == 1 else None,
    }


def compared(patient: Patient, visits: Sequence[TrackedVisit], threshold: float) -> Iterator[Step]:
    """Track the visits, and lay what was found beside what is true."""
    found = track(visits, 1.0, threshold)
    for index, changes in enumerate(found.changes):
        both = slice(index, index + 2)
        before, after = (lesions.data for lesions in patient.lesions[both])
        sides = [[one.prior for one in changes], [one.current for one in changes]]
        first, second = (indices(of, labels) for of, labels in zip(sides, found.instances[both], strict=True))
        yield Step(*true_changes(before, after, patient.joined), changes, (first, second))


def true_changes(before: Array, after: Array, joined: Mapping[int, int]) -> tuple[list[str], Maps]:
    """What every lesion does, by its exact volume; and the maps of their indices."""
    there = [set(np.unique(labels[labels > 0]).tolist()) for labels in (before, after)]
    first_of = {other: one for other, one in joined.items() if other not in there[0] & there[1]}
    firsts = sorted({first_of.get(number, number) for number in there[0] | there[1]})
    members = [[first, *(other for other, one in first_of.items() if one == first)] for first in firsts]
    maps = indices(members, before), indices(members, after)
    volumes = [np.bincount(labels.ravel(), minlength=len(firsts) + 1)[1:].tolist() for labels in maps]
    return [change_of(*one) for one in zip(*volumes, strict=True)], maps


def change_of(before: int, after: int) -> str:
    """The change by its definition (decision 080), from volumes that are exact."""
    if not before or not after:
        return "resolved" if before else "new"
    if max(before, after) <= (1 + GROWTH) * min(before, after):
        return "stable"
    return "enlarging" if after > before else "shrinking"


def indices(members: Sequence[Sequence[int]], labels: Array) -> Array:
    """Where the numbers of a map are members, the index from 1 of whose they are."""
    of = np.zeros(max([int(labels.max()), *(max(m, default=0) for m in members)]) + 1, int)
    for index, numbers in enumerate(members, 1):
        of[list(numbers)] = index
    found: Array = of[labels]
    return found


if __name__ == "__main__":
    main()
