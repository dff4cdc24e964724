"""An image together with where it lies in the patient's space."""

from dataclasses import dataclass

import numpy as np

from lesiondelta.images import Affine, Array, Volume
from lesiondelta.preprocessing.points import apply, coarse, sample


@dataclass(frozen=True)
class Located:
    """An image, and the `transform` that takes points of the patient's space to the image's own, RAS+ mm."""

    image: Volume
    transform: Affine

    def at(self, points_mm: Array) -> Array:
        """Values at points (N, 3) of the patient's space; 0 outside the field of view."""
        return sample(self.image, apply(self.transform, points_mm))

    def covers(self, points_mm: Array) -> Array:
        """Whether points (N, 3) lie in the field of view."""
        index = apply(np.linalg.inv(self.image.affine) @ self.transform, points_mm)
        inside = (index >= 0) & (index <= np.array(self.image.data.shape) - 1)
        return np.asarray(inside.all(axis=1))

    def coarse(self, spacing_mm: float) -> "Located":
        """The same on coarse cubic voxels."""
        return Located(coarse(self.image, spacing_mm), self.transform)
