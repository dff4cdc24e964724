"""The atlas's brain as scanners show it."""

from functools import cache

import numpy as np

from lesiondelta.atlas import Region, mni152, mni152_regions
from lesiondelta.images import Array, Volume, isotropic_grid, resample

BRIGHTNESS = {  # white matter, grey matter, fluid: medians of real images, white = 1 (decision 014)
    "T1w": (1.0, 0.83, 0.5), "FLAIR": (1.0, 1.08, 0.45), "T2w": (1.0, 1.25, 3.0), "PDw": (1.0, 1.15, 1.25),
    "T1w without contrast": (1.0, 1.0, 0.6), "FLAIR like a T1w": (1.0, 0.94, 0.3),
}  # fmt: skip


@cache
def atlas_brain(spacing_mm: float) -> tuple[Volume, dict[str, Array], Array]:
    """Brain, shares of white and grey matter, and ventricles, in RAS."""
    grid = isotropic_grid(np.array([[-80.0, -114, -80], [80, 82, 90]]), spacing_mm)
    maps = {name: resample(mni152(name), grid, order="linear").data for name in ("white", "grey")}
    fluid = resample(mni152_regions(), grid, order="nearest").data == Region.VENTRICLES
    return Volume(resample(mni152("brain"), grid, order="nearest").data, grid.affine), maps, fluid


def shown(atlas: tuple[Volume, dict[str, Array], Array], name: str) -> Volume:
    """An image of the atlas's brain with the brightnesses of that name, 0 outside."""
    brain, maps, fluid = atlas
    white, grey, water = BRIGHTNESS[name]
    rest = np.clip(1 - maps["white"] - maps["grey"], 0, 1)
    data = 500 * (white * maps["white"] + grey * maps["grey"] + water * rest)
    data[fluid] = 500 * water
    return brain.with_data(np.where(brain.data, data, 0).astype(np.float32))
