"""What images show, against what their names say: how bright grey matter and fluid are beside white matter.

In a T1w image white matter is brighter than grey, and fluid is dark; in a FLAIR fluid is dark, and white matter no
brighter than grey; in a T2w image fluid is brightest. The atlas says where each of them lies. Decision 014 has the
figures that the limits rest on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage

from lesiondelta.atlas import Region, mni152, mni152_regions
from lesiondelta.images import Affine, Array, Volume
from lesiondelta.preprocessing.image_quality import is_standardised
from lesiondelta.preprocessing.located import Located
from lesiondelta.preprocessing.points import apply, coarse_mask, inside_mm, sample
from lesiondelta.timings import timed

POINTS_MM = 3.0
"""Distance of the points of the brain that are looked at."""
TISSUES = {"white": 0.9, "grey": 0.75, "fluid": 0.9}
"""Shares of tissue in the atlas above which a place counts."""
LEAST_POINTS, ENOUGH_POINTS = 100, 100_000
LEAST_SPREAD = 0.2
"""From the darkest to the brightest percent inside a brain, over its median: real images have 0.79 and more."""


@dataclass(frozen=True)
class Limits:
    """What certainly is wrong, and what is doubtful; contrast is that of white and grey matter."""

    t1w_contrast: tuple[float, float]
    flair_contrast: tuple[float, float]
    apart: tuple[float, float]
    """Contrast of the T1w less that of the FLAIR."""
    fluid: tuple[float, float]


LIMITS = Limits((-0.03, 0.05), (0.10, 0.06), (-0.05, 0.05), (1.5, 1.1))
BY_EXTENT = Limits((-np.inf, -np.inf), (np.inf, np.inf), (-0.03, -0.03), (1.25, 1.25))
"""Where the atlas is laid upon the brain only by its length, width and height."""


@dataclass(frozen=True)
class Appearance:
    """Medians of an image: `contrast` is (white - grey) / white matter, `fluid` that of the ventricles over white.

    Where a constant was added to its values (`has_offset`), or they are z-scores, both count from the darkest value.
    """

    contrast: float
    fluid: float
    has_offset: bool = False


@timed("appearance")
def measure(images: Mapping[str, Located], brain: Volume, from_atlas: Affine) -> dict[str, Appearance]:
    """How each image, located in the space of the brain mask, shows the atlas's tissues; nothing if they are few."""
    mask = coarse_mask(brain, POINTS_MM)
    points = inside_mm(mask)
    deep = ndimage.binary_erosion(mask.data)[mask.data]  # nothing of what masks leave at the border
    in_atlas = apply(np.linalg.inv(from_atlas), points)
    places = {name: sample(_map(name), in_atlas) > share for name, share in TISSUES.items()}
    if min(np.count_nonzero(place) for place in places.values()) < LEAST_POINTS:
        return {}
    return {name: _appearance(image.at(points), places, deep) for name, image in images.items()}


def by_extent(brain: Volume) -> Affine:
    """Where the atlas lies if its brain is as long, wide and high as this one, and in its place."""
    (low, high), (own_low, own_high) = atlas_box(), _box(brain)
    scales = (own_high - own_low) / (high - low)
    transform = np.diag([*scales, 1.0])
    transform[:3, 3] = (own_low + own_high) / 2 - scales * (low + high) / 2
    return transform


def extent_mm(brain: Volume) -> Array:
    """Size of a brain along the axes of the world, without the outermost percent at either end."""
    low, high = _box(brain)
    size: Array = high - low
    return size


@cache
def atlas_box() -> tuple[Array, Array]:
    """Lowest and highest corner of the atlas's brain, as of `extent_mm`."""
    return _box(mni152("brain"))


def contradictions(
    found: Mapping[str, Appearance], names: Mapping[str, str], limits: Limits = LIMITS
) -> tuple[list[str], list[str]]:
    """What certainly is not as the names (by contrast, of files) say, in sentences, and what may not be.

    Only the first thing that is certain is said, or else the first that is doubtful, since the others follow from it;
    that a constant was added is said in any case.
    """
    offsets = [
        f"a constant seems to be added to the values of {names[contrast]}: give it as it was scanned."
        for contrast, one in found.items()
        if one.has_offset
    ]
    findings = list(_findings(found, names, limits))
    certain = [sentence for value, limit, _, sentence in findings if value > limit]
    doubtful = [sentence for value, _, limit, sentence in findings if value > limit]
    return certain[:1], [*([] if certain else doubtful[:1]), *offsets]


def _findings(
    found: Mapping[str, Appearance], names: Mapping[str, str], limits: Limits
) -> Iterator[tuple[float, float, float, str]]:
    """Values that speak for a sentence, the more the higher, and above which it is certain, and doubtful."""
    for contrast, one in found.items():
        said = f"{names[contrast]} was given as {contrast}, but shows fluid brighter than white matter, as a T2w does"
        yield one.fluid, *limits.fluid, f"{said}: give the {contrast}."
    if {"T1w", "FLAIR"} <= set(found):
        said = (
            f"T1w and FLAIR seem to be exchanged: beside white matter, grey matter is brighter in {names['T1w']} than "
            f"in {names['FLAIR']}. Exchange the two."
        )
        apart = found["FLAIR"].contrast - found["T1w"].contrast
        yield apart, -limits.apart[0], np.inf, said
        said = f"{names['T1w']} and {names['FLAIR']} show nearly the same contrast: give one T1w and one FLAIR."
        yield apart, np.inf, -limits.apart[1], said
    if "T1w" in found:
        said = f"{names['T1w']} was given as T1w, but shows white matter no brighter than grey: give the T1w."
        yield -found["T1w"].contrast, -limits.t1w_contrast[0], -limits.t1w_contrast[1], said
    if "FLAIR" in found:
        said = f"{names['FLAIR']} was given as FLAIR, but shows white matter brighter than grey: give the FLAIR."
        yield found["FLAIR"].contrast, *limits.flair_contrast, said


def _appearance(values: Array, places: Mapping[str, Array], deep: Array) -> Appearance:
    darkest, middle, brightest = (float(value) for value in np.percentile(values[deep], (1, 50, 99)))
    scored = is_standardised(values)
    has_offset = not scored and brightest - darkest < LEAST_SPREAD * middle
    if scored or has_offset:  # the darkest values take the place of 0
        values = values - darkest
    white, grey, fluid = (float(np.median(values[places[name]])) for name in ("white", "grey", "fluid"))
    return Appearance((white - grey) / max(white, 1e-6), fluid / max(white, 1e-6), has_offset)


def _box(mask: Volume) -> tuple[Array, Array]:
    points = inside_mm(mask)
    low, high = np.percentile(points[:: max(1, len(points) // ENOUGH_POINTS)], (1, 99), axis=0)
    return low, high


@cache
def _map(tissue: str) -> Volume:
    """The atlas's share of a tissue where it certainly is: white matter and cortex of the cerebrum, the ventricles."""
    regions = mni152_regions()
    if tissue == "fluid":
        return regions.with_data(ndimage.binary_erosion(regions.data == Region.VENTRICLES).astype(np.float32))
    share, region = mni152(tissue), Region.WHITE if tissue == "white" else Region.CORTEX
    return share.with_data(np.where(regions.data == region, share.data, 0))
