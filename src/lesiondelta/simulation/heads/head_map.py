"""People as label maps of the whole head."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from scipy import ndimage

from lesiondelta.atlas.parts import Part
from lesiondelta.images import Array, Volume
from lesiondelta.simulation.generator.label_map import LESION, Tissue, canonical, tissues_of

DURA_VOXELS = 2
"""How thick the meninges are drawn at most, between bone and fluid, which the maps don't tell apart."""


class Material(IntEnum):
    """What differs in brightness beyond the `Tissue`s, whose numbers go before."""

    LESION = 10
    OUTER_FLUID = 11
    DURA = 12
    BONE = 13
    MARROW = 14
    SOFT = 15
    SKIN = 16
    MUCOSA = 17
    VESSEL = 18
    EYE = 19
    CORD = 20
    DIENCEPHALON = 21


OUTER = {
    Material.OUTER_FLUID: (24,),
    Material.BONE: (515,),
    Material.MARROW: (516,),
    Material.SOFT: (507,),
    Material.SKIN: (511,),
    Material.MUCOSA: (509,),
    Material.VESSEL: (502, 514),
    Material.EYE: (506, 508, 530),
    Material.CORD: (512,),
}
"""FreeSurfer's numbers and those of SynthSeg's maps."""
DIENCEPHALON = (28, 60)
"""As bright as the brain stem, and above the tentorium."""
PARTS = {
    Tissue.VENTRICLE: Part.VENTRICLES,
    Tissue.CHOROID: Part.VENTRICLES,
    Tissue.FLUID: Part.FLUID,
    Tissue.CORTEX: Part.CORTEX,
    Tissue.DEEP_GREY: Part.DEEP_GREY,
    Tissue.WHITE: Part.WHITE,
    Tissue.CEREBELLAR_CORTEX: Part.CEREBELLUM,
    Tissue.CEREBELLAR_WHITE: Part.CEREBELLUM,
    Tissue.BRAIN_STEM: Part.BRAIN_STEM,
    Material.LESION: Part.WHITE,
    Material.DIENCEPHALON: Part.DEEP_GREY,
}


@dataclass(frozen=True, eq=False)
class HeadMap:
    """One person on a grid of 1 mm in RAS order.

    Attributes
    ----------
    materials : (X, Y, Z) uint8
        `Tissue` inside the brain, its lesions included as `Material.LESION`, and `Material` outside; 0 is air.
    whole : bool
        Whether the map shows more than the brain.
    box : (2, 3)
        First and last voxel of the brain along each axis.
    """

    materials: Array
    whole: bool
    box: Array


def head_map(labels: Volume) -> HeadMap:
    """A person from FreeSurfer's labels; GeometryError where the voxels are not cubes along the axes."""
    data, _ = canonical(labels, brain_only=False)
    brain = np.where(data < 500, data, 0)
    materials = tissues_of(brain)
    inside = materials > 0
    materials[np.isin(data, LESION)] = Material.LESION
    materials[np.isin(data, DIENCEPHALON)] = Material.DIENCEPHALON
    for material, numbers in OUTER.items():
        materials[~inside & np.isin(data, numbers)] = material
    bone = ~inside & np.isin(materials, (Material.BONE, Material.MARROW))
    fluid = materials == Material.OUTER_FLUID
    materials[fluid & ndimage.binary_dilation(bone, iterations=DURA_VOXELS)] = Material.DURA
    places = np.argwhere(inside)
    return HeadMap(materials, bool((data >= 500).any()), np.stack([places.min(0), places.max(0)]))


def parts_table() -> Array:
    """The `Part` of every `Tissue` and `Material` (22,) int64."""
    table = np.zeros(max(Material) + 1, np.int64)
    for material, part in PARTS.items():
        table[material] = part
    return table
