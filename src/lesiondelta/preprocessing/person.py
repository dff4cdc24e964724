"""Whether two aligned images of one contrast show one brain: how far a smooth displacement still has to move it.

An affine optimum exists between any two brains, but between two people the folds do not meet.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lesiondelta.images import Array, Volume, isotropic_grid, resample
from lesiondelta.preprocessing.located import Located
from lesiondelta.preprocessing.points import inside_mm, voxels_mm

WORKING_MM = 4.0
FINE_MM = 2.0
WINDOW_MM = 12.0
"""Sigma of the Gaussian window: the displacement is as smooth as a B-spline on a lattice of 25 to 30 mm."""
ITERATIONS = 10
MAXIMUM_STEP_MM = 2.0
DAMPING = 0.05
"""Share of the mean gradient energy added where an image has no structure."""


@dataclass(frozen=True)
class _Scene:
    """Voxels around a brain: centres (X * Y * Z, 3) in mm, and 1 inside, 0 outside (X, Y, Z)."""

    points: Array
    inside: Array

    def smooth(self, values: Array) -> Array:
        result: Array = ndimage.gaussian_filter(values, WINDOW_MM / WORKING_MM)
        return result

    def standardised(self, values: Array) -> Array:
        """Local mean 0 and deviation 1 in the brain, squashed: bias does not count, lesions no more than folds."""
        inside = self.inside > 0
        weight = np.maximum(self.smooth(self.inside), 1e-3)
        mean = self.smooth(self.inside * values) / weight
        variance = self.smooth(self.inside * values**2) / weight - mean**2
        deviation = np.sqrt(np.maximum(variance, 0)) + 0.1 * values[inside].std() + 1e-9
        return np.where(inside, np.tanh((values - mean) / deviation), 0)


def displacement_mm(fixed: Located, moving: Located, brain: Volume) -> float:
    """Mean displacement in the brain that a smooth field still needs to bring `moving` onto `fixed`.

    Gauss-Newton steps on the squared difference of locally standardised images at 4 mm, each solved within a Gaussian
    window (Lucas and Kanade 1981): no random sampling, about a second. Figures of people and visits: decision 011.
    """
    fixed, moving = fixed.coarse(FINE_MM), moving.coarse(FINE_MM)
    grid = isotropic_grid(inside_mm(brain), WORKING_MM, WINDOW_MM)
    points = voxels_mm(grid)
    seen = fixed.covers(points) & moving.covers(points)
    inside = resample(brain, grid, order="nearest").data & seen.reshape(grid.shape)
    scene = _Scene(points, inside.astype(np.float64))
    target = scene.standardised(fixed.at(points).reshape(grid.shape))
    field = np.zeros((*grid.shape, 3))
    for _ in range(ITERATIONS):
        moved = moving.at(points + field.reshape(-1, 3)).reshape(grid.shape)
        field += _step(scene, target, scene.standardised(moved))
    return float(np.linalg.norm(field[inside], axis=1).mean())


def _step(scene: _Scene, target: Array, moved: Array) -> Array:
    """The displacement (X, Y, Z, 3) in mm that best explains the difference within each voxel's window."""
    mean = (moved + target) / 2
    slope = np.stack([np.gradient(mean, WORKING_MM, axis=a) for a in range(3)], axis=-1) * scene.inside[..., None]
    difference = target - moved
    normal = np.empty((*target.shape, 3, 3))
    for a in range(3):
        for b in range(a, 3):
            normal[..., a, b] = normal[..., b, a] = scene.smooth(slope[..., a] * slope[..., b])
    right = np.stack([scene.smooth(slope[..., a] * difference) for a in range(3)], axis=-1)
    energy = np.trace(normal, axis1=-2, axis2=-1)[scene.inside > 0].mean() / 3
    step: Array = np.linalg.solve(normal + DAMPING * (energy + 1e-12) * np.eye(3), right[..., None])[..., 0]
    length = np.linalg.norm(step, axis=-1, keepdims=True)
    step *= np.minimum(1, MAXIMUM_STEP_MM / np.maximum(length, 1e-9))
    return step
