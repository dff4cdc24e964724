"""A patient's own anatomy: the parts of the brain in the patient's space, and their volumes at every visit."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lesiondelta.anatomy.finding import Anatomy, find_anatomy
from lesiondelta.atlas import Region
from lesiondelta.atlas.parts import Part
from lesiondelta.errors import ImageError
from lesiondelta.images import Affine, Array, Volume
from lesiondelta.preprocessing.points import distance_mm
from lesiondelta.preprocessing.preparation import NO_ATLAS, NOT_CHECKED, PreparedPatient, PreparedVisit
from lesiondelta.preprocessing.regions import LEAST_OVERLAP, regions_of

RESCAN_ERRORS = {"tissue_mm3": 0.056, "ventricles_mm3": 0.208}
"""Standard deviation of the difference of two scans' volumes, as a share of them (docs/results/anatomy)."""
TISSUE = (Part.CORTEX, Part.DEEP_GREY, Part.WHITE, Part.CEREBELLUM, Part.BRAIN_STEM)
REGIONS = {
    Part.VENTRICLES: Region.VENTRICLES,
    Part.FLUID: Region.FLUID,
    Part.CORTEX: Region.CORTEX,
    Part.DEEP_GREY: Region.WHITE,
    Part.WHITE: Region.WHITE,
    Part.CEREBELLUM: Region.INFRATENTORIAL,
    Part.BRAIN_STEM: Region.INFRATENTORIAL,
}


def with_anatomy(prepared: PreparedPatient) -> PreparedPatient:
    """The patient with the parts of the brain, those of all visits together, and their volumes at every visit.

    A visit whose images do not show the brain to the network where the patient's is has no volumes, and a warning says
    so. The patient's space has the size of another visit's brain: volumes are those before the registration.
    """
    seen, visits = [], []
    for visit in prepared.visits:
        try:
            anatomy = _on_brain(visit, prepared.brain)
        except ImageError as error:
            visits.append(replace(visit, warnings=(*visit.warnings, str(error))))
            continue
        size = abs(float(np.linalg.det(_reference(visit)[:3, :3])))
        volumes = {name: size * volume for name, volume in volumes_mm3(anatomy).items()}
        seen.append(anatomy)
        visits.append(replace(visit, quality={**visit.quality, **volumes}))
    if not seen:
        return replace(prepared, visits=tuple(visits))
    located = [replace(v, warnings=tuple(NOT_CHECKED if w == NO_ATLAS else w for w in v.warnings)) for v in visits]
    return replace(prepared, visits=tuple(located), parts=common_parts(seen, prepared.brain))


def _on_brain(visit: PreparedVisit, brain: Volume) -> Anatomy:
    """What the network sees of a visit; ImageError where that is not the patient's brain."""
    anatomy = find_anatomy(visit.images)
    own = anatomy.brain(brain.grid)
    overlap = 2 * np.count_nonzero(own & brain.data) / (np.count_nonzero(own) + np.count_nonzero(brain.data))
    if overlap < LEAST_OVERLAP:
        names = " and ".join(sorted(image.name for image in visit.images.values()))
        raise ImageError(
            f"the anatomy network does not see the brain of {names} where it is (Dice {overlap:.2f}): no volumes"
        )
    return anatomy


def _reference(visit: PreparedVisit) -> Affine:
    """From points of the patient's space to those of the image that the visit was registered by."""
    return visit.from_patient["FLAIR" if "FLAIR" in visit.from_patient else next(iter(visit.from_patient))]


def volumes_mm3(anatomy: Anatomy) -> dict[str, float]:
    """Of the brain's tissue, without fluid, and of the ventricles."""
    volumes = anatomy.volumes_ml()
    return {
        "tissue_mm3": 1000 * sum(volumes[part] for part in TISSUE),
        "ventricles_mm3": 1000 * volumes[Part.VENTRICLES],
    }


def common_parts(seen: Sequence[Anatomy], brain: Volume) -> Volume:
    """The part of every voxel of a brain that is most probable by all visits (X, Y, Z) uint8; 0 outside the brain."""
    best, parts = np.zeros(brain.data.shape, np.float32), np.zeros(brain.data.shape, np.uint8)
    for part in Part:
        if part == Part.OUTSIDE:
            continue
        share = sum(anatomy.share(part, brain.grid) for anatomy in seen) * brain.data
        parts[share > best] = part
        best = np.maximum(best, share)
    return replace(brain.with_data(parts), name="parts of the brain")


def own_regions(prepared: PreparedPatient) -> Array | None:
    """The regions that lesions are located by: the patient's own, or else the atlas's; None where neither is known.

    Raises
    ------
    RegistrationError
        The atlas does not lie on the brain.
    """
    if prepared.parts is not None:
        return regions_of_parts(prepared.parts)
    return None if prepared.from_atlas is None else regions_of(prepared.brain, prepared.from_atlas)


def regions_of_parts(parts: Volume) -> Array:
    """The atlas's regions by a person's own parts (X, Y, Z) uint8; the fourth ventricle is infratentorial."""
    table = np.zeros(len(Part), np.uint8)
    for part, region in REGIONS.items():
        table[part] = region
    regions: Array = table[parts.data]
    below, above = (
        distance_mm(np.isin(parts.data, group), parts.grid.spacing)
        for group in ((Part.CEREBELLUM,), (Part.WHITE, Part.DEEP_GREY))
    )
    regions[(parts.data == Part.VENTRICLES) & (below < above)] = Region.INFRATENTORIAL
    return regions
