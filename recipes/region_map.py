"""Derive the region map of the MNI152 atlas and write it into the package.

    python recipes/region_map.py [--picture FILE]

Everything follows from the grey and white matter maps that nilearn ships and from the boxes below, in MNI152 mm and
symmetric in x. Ventricles are the fluid that hangs together with their middle, where boxes cut them off the fissures
and cisterns they touch in an average of 152 brains. Cerebellum and brain stem are what a watershed of the fluid, from
a few boxes well inside and outside, gives them; the upper end of the brain stem is a plane through the posterior
commissure and the mammillary bodies. The picture shows the outlines: look at it.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from lesiondelta.atlas import REGIONS, Region, mni152
from lesiondelta.images import Array, Volume, write_volume

FLUID = 0.4  # share of a voxel that is neither grey nor white matter, above which it counts as fluid
EVERYWHERE = (-200, 200)


@dataclass(frozen=True)
class Box:
    """Open intervals in mm: of |x| (left and right alike), y and z."""

    x: tuple[int, int] = (-1, 200)
    y: tuple[int, int] = EVERYWHERE
    z: tuple[int, int] = EVERYWHERE


AROUND_VENTRICLES = Box((-1, 40), (-75, 42), (-25, 32))
NOT_VENTRICLES = (
    Box((-1, 6), z=(26, 200)),  # interhemispheric fissure above the corpus callosum
    Box((-1, 6), y=(26, 200)),  # and before it
    Box((-1, 18), (-200, -22), (-200, 9)),  # quadrigeminal cistern
    Box((-1, 10), (-200, -18), (-200, 20)),  # velum interpositum
    Box((-1, 24), z=(-200, -4)),  # basal cisterns
    Box((24, 200), (-10, 200), (-10, 200)),  # Sylvian fissure
)
IN_VENTRICLES = ((20, -30, 20), (-20, -30, 20), (28, -12, -16), (-28, -12, -16))  # bodies, temporal horns

INFRATENTORIAL = (
    Box((-1, 40), (-75, -55), (-48, -28)),  # cerebellar hemispheres
    Box((-1, 8), (-62, -55), (-200, -5)),  # vermis
    Box((-1, 6), (-32, -20), (-200, -20)),  # pons
    Box((-1, 5), (-200, -35), (-200, -55)),  # medulla
)
SUPRATENTORIAL = (
    Box(z=(12, 200)),
    Box(y=(-4, 200)),
    Box((40, 200), (-38, 200), (-40, 200)),  # temporal lobes
    Box((20, 60), (-30, 200), (-35, 200)),
    Box(y=(-200, -90), z=(-12, 200)),  # occipital lobes
    Box((15, 200), (-200, -50), (0, 200)),
)
MIDBRAIN = Box((-1, 14), (-36, -12), (-200, -8))  # infratentorial below the plane
DIENCEPHALON = Box((-1, 30), (-36, 200))  # supratentorial above the plane
POSTERIOR_COMMISSURE, MAMMILLARY_BODIES = (-25, -2), (-10, -15)  # (y, z)

CORTEX_MM = 8.0  # from the surface or a fissure; grey matter farther in belongs to the deep nuclei
DEEP_NUCLEI = Box((-1, 34), (-36, 26), (-16, 20))


def main() -> None:
    """Write the map, and a picture if asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    regions = region_map(mni152("grey"), mni152("white"), mni152("brain"))
    write_volume(REGIONS, regions)
    for region in Region:
        print(f"{region.name}: {np.count_nonzero(regions.data == region) / 1000:.0f} ml")
    if given.picture:
        draw(given.picture, regions)


def region_map(grey: Volume, white: Volume, brain: Volume) -> Volume:
    """Labels of `Region` (uint8) on the atlas's 1 mm grid, from shares of tissue and the brain mask."""
    places = _places(brain)
    csf = np.clip(brain.data - grey.data - white.data, 0, 1)
    fluid = brain.data & (csf > FLUID)
    below = infratentorial(places, csf, grey.data, brain.data)
    inner = ventricles(brain, places, fluid) & ~below
    labels = np.where(brain.data, Region.WHITE, 0).astype(np.uint8)
    outer = (fluid & ~inner) | ~brain.data
    near_surface = ndimage.distance_transform_edt(~outer) < CORTEX_MM
    labels[brain.data & (grey.data > 0.5) & near_surface & ~_inside(DEEP_NUCLEI, places)] = Region.CORTEX
    labels[fluid] = Region.FLUID
    labels[inner] = Region.VENTRICLES
    labels[below] = Region.INFRATENTORIAL
    return Volume(labels, brain.affine, "regions")


def ventricles(brain: Volume, places: Sequence[Array], fluid: Array) -> Array:
    """The lateral ventricles and the third."""
    candidates = fluid & _inside(AROUND_VENTRICLES, places) & ~_any(NOT_VENTRICLES, places)
    pieces, _ = ndimage.label(candidates)
    voxels = [np.rint(np.array(point) - brain.affine[:3, 3]).astype(int) for point in IN_VENTRICLES]
    taken: Array = np.isin(pieces, [pieces[tuple(voxel)] for voxel in voxels]) & candidates
    return taken


def infratentorial(places: Sequence[Array], csf: Array, grey: Array, brain: Array) -> Array:
    """Cerebellum and brain stem with their fluid."""
    above = _above_midbrain(places)
    markers = np.zeros(brain.shape, np.int16)
    markers[_any(INFRATENTORIAL, places)] = 1
    markers[_any(SUPRATENTORIAL, places) | (above & _inside(DIENCEPHALON, places))] = 2
    markers[~above & _inside(MIDBRAIN, places)] = 1
    markers[~brain] = 0
    height = np.where(brain, csf * 240 + grey * 10, 250).astype(np.uint8)
    basin = ndimage.watershed_ift(height, markers, np.ones((3, 3, 3))) == 1
    smooth = (ndimage.gaussian_filter(basin.astype(np.float32), 1.5) > 0.5) & brain
    pieces, _ = ndimage.label(smooth)
    filled: Array = ndimage.binary_fill_holes(pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()) & brain
    return filled


def _above_midbrain(places: Sequence[Array]) -> Array:
    """Where a point lies above the plane that ends the brain stem."""
    (y, z), (front, low) = POSTERIOR_COMMISSURE, MAMMILLARY_BODIES
    above: Array = (z - low) * (places[1] - y) + (front - y) * (places[2] - z) > 0
    return above


def _places(brain: Volume) -> list[Array]:
    """|x|, y and z in mm of every voxel, to be broadcast."""
    axes = [np.arange(n) + offset for n, offset in zip(brain.data.shape, brain.affine[:3, 3], strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    return [np.abs(x), y, z]


def _inside(box: Box, places: Sequence[Array]) -> Array:
    x, y, z = ((place > low) & (place < high) for place, (low, high) in zip(places, (box.x, box.y, box.z), strict=True))
    inside: Array = x & y & z
    return inside


def _any(boxes: Sequence[Box], places: Sequence[Array]) -> Array:
    inside: Array = np.logical_or.reduce([_inside(box, places) for box in boxes])
    return inside


def draw(path: Path, regions: Volume) -> None:
    """Outlines on the T1w in 24 slices."""
    import matplotlib.pyplot as plt

    t1w, offset = mni152("t1w").data, regions.affine[:3, 3].astype(int)
    slices = [(2, z) for z in (-50, -36, -26, -18, -11, -5, 0, 6, 14, 22, 30, 45)]
    slices += [(1, y) for y in (30, 10, -5, -15, -30, -45, -60, -82)] + [(0, x) for x in (0, 8, 20, 35)]
    figure, axes = plt.subplots(4, 6, figsize=(24, 18))
    for panel, (axis, mm) in zip(axes.flat, slices, strict=True):
        index = mm - offset[axis]
        panel.imshow(t1w.take(index, axis).T, cmap="gray", origin="lower")
        shown = regions.data.take(index, axis).T
        for region, colour in zip(Region, ("red", "deepskyblue", "gold", "none", "lime"), strict=True):
            if colour != "none" and (shown == region).any():
                panel.contour(shown == region, [0.5], colors=colour, linewidths=0.7)
        panel.set_title(f"{'xyz'[axis]} = {mm}")
        panel.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=60)


if __name__ == "__main__":
    main()
