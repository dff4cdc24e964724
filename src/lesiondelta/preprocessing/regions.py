"""The atlas's regions on a person's brain."""

import numpy as np

from lesiondelta.atlas import mni152, mni152_regions
from lesiondelta.errors import RegistrationError
from lesiondelta.images import Affine, Array, Volume, resample
from lesiondelta.preprocessing.elastix import elastix
from lesiondelta.timings import timed

LEAST_OVERLAP = 0.8
"""Dice of the atlas's brain and a person's, below which the registration has failed."""


@timed("atlas")
def atlas_to(t1w: Volume, threads: int = 1) -> Affine:
    """The affine registration of the atlas: its points -> those of a stripped T1w, RAS+ mm."""
    return elastix(mni152("t1w"), t1w, degrees=12, threads=threads)


@timed("atlas")
def regions_of(brain: Volume, from_atlas: Affine) -> Array:
    """The region map on a person's grid; RegistrationError where the atlas's brain does not lie on the person's."""
    to_atlas = np.asarray(np.linalg.inv(from_atlas), np.float64)
    regions = resample(mni152_regions(), brain.grid, to_atlas, order="nearest").data
    overlap = 2 * np.count_nonzero(regions[brain.data]) / (np.count_nonzero(regions) + np.count_nonzero(brain.data))
    if overlap < LEAST_OVERLAP:
        raise RegistrationError(f"The atlas could not be laid upon the brain of {brain.name} (Dice {overlap:.2f}).")
    return regions
