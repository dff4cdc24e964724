"""The lesions of a simulated patient, and what they do from visit to visit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lesiondelta.simulation.anatomy import Anatomy
from lesiondelta.simulation.evolution import Rates, changes_between, draw_sizes
from lesiondelta.simulation.lesions import Lesion, draw_count, draw_lesions
from lesiondelta.simulation.shapes import draw_shapes


@dataclass(frozen=True)
class LesionPlan:
    """What lesions a simulated patient gets.

    Attributes
    ----------
    masks : real masks on the MNI152 grid to take shapes from
    rates : of change between visits
    count : None takes as many as real patients have (3 to 350), for a real patient 1 to 7 besides its own
    """

    masks: Sequence[Path] = ()
    rates: Rates = Rates()  # noqa: RUF009  (frozen)
    count: int | None = None


@dataclass(frozen=True, eq=False)
class Disease:
    """Simulated lesions, and at which visits each real one is there."""

    lesions: tuple[Lesion, ...]
    present: Mapping[int, tuple[bool, ...]]


def draw_disease(rng: np.random.Generator, anatomy: Anatomy, visits: int, plan: LesionPlan) -> Disease:
    """Lesions and their fates; a real patient keeps the real ones and gets a few more.

    Rates are those of all lesions, but that real ones neither grow nor shrink. Where there are masks to take shapes
    from, the others get all the lesions of one of them and a tenth more; of a number that is given, four fifths look
    like real ones.
    """
    rates, count = Rates(0, 0, 0, 0) if rng.random() < plan.rates.quiet else plan.rates, plan.count
    real = [] if anatomy.lesions is None else np.bincount(anatomy.lesions.ravel())[1:].tolist()
    if count is None and real:
        count = int(rng.integers(1, 8))
    shapes = draw_shapes(rng, plan.masks, None if count is None else round(0.8 * count))
    if count is None:
        count = round(1.1 * len(shapes)) if shapes else draw_count(rng)
    come_and_go = replace(rates, enlarging=0, shrinking=0)
    sizes = [draw_sizes(rng, voxels, visits, come_and_go, anatomy.spacing_mm) for voxels in real]
    present = {number: tuple(n > 0 for n in lesion) for number, lesion in enumerate(sizes, start=1)}
    return Disease(draw_lesions(rng, anatomy, visits, rates, count, shapes), present)


def changes_of(disease: Disease, visits: int) -> tuple[Mapping[int, str], ...]:
    """Per pair of consecutive visits, instance number -> change, without lesions absent from both."""
    sizes = {i: tuple(int(p) for p in there) for i, there in disease.present.items()}
    sizes |= {lesion.identity: lesion.voxels for lesion in disease.lesions}
    pairs = [{i: changes_between(s[k], s[k + 1]) for i, s in sizes.items()} for k in range(visits - 1)]
    return tuple({i: change for i, change in pair.items() if change != "absent"} for pair in pairs)
