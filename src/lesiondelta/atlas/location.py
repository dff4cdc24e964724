"""Where in the brain a lesion lies, in the categories of the McDonald criteria."""

from collections.abc import Mapping
from enum import StrEnum

import numpy as np

from lesiondelta.atlas import Region
from lesiondelta.images import Array

PERIVENTRICULAR_MM = 3.0
"""A lesion this near to a ventricle counts as touching it: an affine registration to the atlas is no better."""
JUXTACORTICAL_MM = 1.0
ROUNDING = 1e-9


class Location(StrEnum):
    """Thompson et al. (2018), Lancet Neurology 17, 162-173, without the spinal cord, which brain MRI does not show."""

    PERIVENTRICULAR = "periventricular"
    JUXTACORTICAL = "juxtacortical"
    DEEP = "deep white matter"
    INFRATENTORIAL = "infratentorial"


def locate(instances: Array, regions: Array, spacing_mm: float) -> Mapping[int, Location]:
    """The location of every lesion.

    One with half of its voxels in cerebellum and brain stem is infratentorial; else one that comes near a ventricle
    is periventricular, and one that touches the cortex (or lies in it) juxtacortical, whatever else it reaches.

    Parameters
    ----------
    instances : (X, Y, Z) int
        0, and a number for each lesion.
    regions : (X, Y, Z) uint8
        `Region`s on the same grid.
    spacing_mm : float
        Edge of the cubic voxels. Distances are those between centres of voxels.
    """
    numbers = np.unique(instances[instances > 0])
    if not len(numbers):
        return {}
    voxels = np.argwhere(instances > 0)
    labels = instances[tuple(voxels.T)]
    infratentorial = regions[tuple(voxels.T)] == Region.INFRATENTORIAL
    below = np.bincount(labels, infratentorial)[numbers] >= 0.5 * np.bincount(labels)[numbers]
    near_ventricle, near_cortex = (
        np.isin(numbers, labels[_near(voxels, regions == region, limit_mm / spacing_mm)])
        for region, limit_mm in ((Region.VENTRICLES, PERIVENTRICULAR_MM), (Region.CORTEX, JUXTACORTICAL_MM))
    )
    ways = np.select([below, near_ventricle, near_cortex], [3, 0, 1], 2)
    return {int(number): tuple(Location)[way] for number, way in zip(numbers, ways, strict=True)}


def _near(voxels: Array, region: Array, reach: float) -> Array:
    """Which voxels (N, 3) have one of a region (X, Y, Z) bool no further away than `reach`, in voxels; (N,) bool."""
    margin = int(reach + ROUNDING)
    offsets = np.indices((2 * margin + 1,) * 3).reshape(3, -1).T - margin
    padded, near = np.pad(region, margin), np.zeros(len(voxels), bool)
    for offset in offsets[np.linalg.norm(offsets, axis=1) <= reach + ROUNDING]:
        near |= padded[tuple((voxels + margin + offset).T)]
    return near
