"""People as maps of tissue labels, compact enough that all of them stay in memory while a network trains."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntEnum
from pathlib import Path

import cc3d
import nibabel as nib
import numpy as np
from scipy import ndimage

from lesiondelta.errors import ImageError
from lesiondelta.files import sha256
from lesiondelta.images import Affine, Array, Volume, read_labels
from lesiondelta.preprocessing.regions import atlas_to
from lesiondelta.simulation.anatomy import from_masks, require_cubic
from lesiondelta.simulation.fields import distance_mm, smooth_field
from lesiondelta.simulation.generator.surfaces import ROUGH_MM, ROUGH_SCALE, SIZES, UNCHANGED, eighths, surfaces_mm

DISTANCE_MM, DEPTH_MM = 0.25, 0.05
"""Steps that distances (uint8) and depths (int8) are kept in."""
DEEPEST, FARTHEST = 127, -128
"""Of depths that are kept: 6 mm; those of voxels farther away are not known."""
MARGIN = 20
"""Voxels around the brain."""
HULL_MM = 5
"""Half the width of sulci that belong to the brain, as brain extraction leaves it; fluid beyond is outside."""
CANDIDATES = 20_000
"""Voxels of white matter that lesions are placed at."""
GREY_MM = 1.5
"""By how much less deep lesions are in grey matter, which they hardly enter."""
TERRITORY_MM = 6.0
"""Around a lesion, within which it may grow."""
RIM_MM, RIM_REACH_MM = 3.0, 8.0
"""Distance to the ventricles of half a rim's voxels, and of all of them, at most."""
VERSION = 3
"""Of what `prepared` keeps."""


class Tissue(IntEnum):
    """What differs in brightness."""

    OUTSIDE = 0
    VENTRICLE = 1
    FLUID = 2
    CORTEX = 3
    DEEP_GREY = 4
    WHITE = 5
    CEREBELLAR_CORTEX = 6
    CEREBELLAR_WHITE = 7
    BRAIN_STEM = 8
    CHOROID = 9


FREESURFER = {
    Tissue.VENTRICLE: (4, 5, 14, 15, 43, 44, 72),
    Tissue.FLUID: (24, 30, 62),
    Tissue.CORTEX: (3, 42),
    Tissue.DEEP_GREY: (10, 11, 12, 13, 17, 18, 26, 29, 49, 50, 51, 52, 53, 54, 58),
    Tissue.WHITE: (2, 41, 25, 57, 85),
    Tissue.CEREBELLAR_CORTEX: (8, 47),
    Tissue.CEREBELLAR_WHITE: (7, 46),
    Tissue.BRAIN_STEM: (16, 28, 60),
    Tissue.CHOROID: (31, 63, 136, 137, 163, 164),
}
LESION, LATERAL = (25, 57), (4, 43)
FLUIDS = (Tissue.VENTRICLE, Tissue.FLUID, Tissue.CHOROID)
WHITE_MATTER = (Tissue.WHITE, Tissue.CEREBELLAR_WHITE, Tissue.BRAIN_STEM)
GREY_MATTER = (Tissue.CORTEX, Tissue.DEEP_GREY, Tissue.CEREBELLAR_CORTEX)
INFRATENTORIAL = (Tissue.CEREBELLAR_CORTEX, Tissue.CEREBELLAR_WHITE, Tissue.BRAIN_STEM)


@dataclass(frozen=True, eq=False)
class LabelMap:
    """One person on a 1 mm grid in RAS order, cut to the brain and a margin.

    Attributes
    ----------
    tissue : (X, Y, Z) uint8
        `Tissue`; lesions are white matter.
    to_ventricles, to_cortex, between : (X, Y, Z) uint8
        Distance to the ventricles, the cortex, and the farther of both lateral ventricles, in `DISTANCE_MM`.
    depth, owner : (X, Y, Z) int8, int16
        Depth under the roughened surface of the nearest of the person's own lesions, in `DEPTH_MM`, and its number
        from 1.
    rim : (X, Y, Z) bool
        What the map has as lesions but is a rim or cap of the ventricles, as most people have.
    centres, volumes_mm3 : (N, 3), (N,)
        Voxel and volume of every own lesion.
    surfaces_mm : (N, sizes)
        By which the surface of every own lesion moves for each of `surfaces.SIZES`.
    tips : (4, 3)
        Voxels of the tips of the frontal and the occipital horns.
    white : (M, 3) int16
        Voxels in which lesions may be placed.
    from_masks : (4, 4)
        From points of lesion masks on the grid of MNI152 (mm) to voxels.
    shares : (10,)
        Of the brain's volume, by tissue.
    """

    tissue: Array
    to_ventricles: Array
    to_cortex: Array
    between: Array
    depth: Array
    owner: Array
    rim: Array
    centres: Array
    volumes_mm3: Array
    surfaces_mm: Array
    tips: Array
    white: Array
    from_masks: Affine
    shares: Array


def prepared(path: Path, folder: Path) -> LabelMap:
    """`label_map` of a file, kept in a folder until the file changes."""
    kept = folder / f"{path.name.partition('.')[0]}-{VERSION}-{sha256(path)[:12]}.npz"
    if not kept.is_file():
        made = label_map(read_labels(path))
        folder.mkdir(parents=True, exist_ok=True)
        partial = kept.with_name(f".partial-{kept.name}")
        np.savez_compressed(partial, allow_pickle=False, **{one.name: getattr(made, one.name) for one in fields(made)})
        partial.replace(kept)
    with np.load(kept, allow_pickle=False) as found:
        return LabelMap(**found)


def label_map(labels: Volume, register: Callable[[Volume], Affine] = atlas_to) -> LabelMap:
    """A person from FreeSurfer's labels on a 1 mm grid; `register` is that of `label_anatomy`.

    Raises
    ------
    ImageError
        White matter, cortex or a lateral ventricle is missing.
    GeometryError
        The voxels are not cubes along the axes.
    RegistrationError
        The atlas could not be registered to the brain.
    """
    data, affine = canonical(labels)
    tissue = tissues_of(data)
    sides = _sides(np.isin(data, LATERAL), data)
    if not all(one.any() for one in (*sides, tissue == Tissue.WHITE, tissue == Tissue.CORTEX)):
        raise ImageError(f"{labels.name} lacks white matter (2, 41), cortex (3, 42) or lateral ventricles (4, 43).")
    to_ventricles = _distance(np.isin(tissue, (Tissue.VENTRICLE, Tissue.CHOROID)))
    rim = _rims(np.isin(data, LESION), to_ventricles)
    own = cc3d.connected_components(np.isin(data, LESION) & ~rim, connectivity=26)
    depth, owner, surfaces = _depths(own, tissue)
    inside = tissue > 0
    white = np.argwhere(np.isin(tissue, WHITE_MATTER) & (own == 0))
    rng = np.random.default_rng(0)
    numbers = np.arange(1, own.max() + 1)
    return LabelMap(
        tissue=tissue,
        to_ventricles=_kept(to_ventricles),
        to_cortex=_kept(_distance(tissue == Tissue.CORTEX)),
        between=_kept(np.maximum(*(_distance(side) for side in sides))),
        depth=depth,
        owner=owner,
        rim=rim,
        centres=np.array(ndimage.center_of_mass(own > 0, own, numbers)).reshape(-1, 3),
        volumes_mm3=_volumes(own),
        surfaces_mm=surfaces,
        tips=np.array([tip for side in sides for tip in _tips(side)]),
        white=white[rng.permutation(len(white))[:CANDIDATES]].astype(np.int16),
        from_masks=np.linalg.inv(affine) @ from_masks(register(_like_t1w(tissue, affine, labels.name))),
        shares=np.bincount(tissue[inside], minlength=len(Tissue)) / np.count_nonzero(inside),
    )


def canonical(labels: Volume, brain_only: bool = True) -> tuple[Array, Affine]:
    """Labels in RAS order with their affine, `MARGIN` voxels around the brain, or around all that is labelled."""
    image = nib.as_closest_canonical(nib.Nifti1Image(labels.data.astype(np.int16), labels.affine))
    require_cubic(image.affine, labels.name)
    data = np.asarray(image.dataobj)
    shown = (data > 0) & (data < 500) if brain_only else data > 0
    box = ndimage.find_objects(shown.astype(np.uint8))[0]
    affine = np.array(image.affine, np.float64)
    affine[:3, 3] += affine[:3, :3] @ [axis.start - MARGIN for axis in box]
    return np.pad(data[box], MARGIN), affine


def tissues_of(data: Array) -> Array:
    """The classes of all labels; fluid is what lies within the hull of the rest, whether the map labels it or not."""
    classes = np.zeros(int(data.max()) + 1, np.uint8)
    for kind, labels in FREESURFER.items():
        classes[[label for label in labels if label < len(classes)]] = kind
    tissue: Array = classes[data]
    solid = (tissue > 0) & (tissue != Tissue.FLUID)
    near = _distance(solid) <= HULL_MM
    hull = ndimage.binary_fill_holes(_distance(~near) > HULL_MM - 1)
    tissue[~solid] = np.where(hull[~solid], Tissue.FLUID, Tissue.OUTSIDE)
    return tissue


def _sides(lateral: Array, data: Array) -> list[Array]:
    """The lateral ventricles, which some maps do not tell apart."""
    middle = np.median(np.nonzero(data)[0])
    left = np.arange(len(data)) < middle
    return [lateral & side[:, None, None] for side in (left, ~left)]


def solid_tissue(tissue: Array) -> Array:
    """Where lesions can be (X, Y, Z) bool."""
    solid: Array = ~np.isin(tissue, (Tissue.OUTSIDE, *FLUIDS))
    return solid


def _rims(marked: Array, to_ventricles: Array) -> Array:
    """The pieces (X, Y, Z) of what a map has as lesions that hug the ventricles.

    FreeSurfer marks what is dark on T1w. In most people more than half of it lies in such pieces. In what Tabriz's
    experts call no lesion, 88 and 90 % does; in what they call lesions, 0 to 4 %, and at Ljubljana 0 to 6 % but for
    patients who have small lesions only.
    """
    pieces = cc3d.connected_components(marked, connectivity=26)
    numbers = np.arange(1, pieces.max() + 1)
    close = np.asarray(ndimage.median(to_ventricles, pieces, numbers)) <= RIM_MM
    close &= np.asarray(ndimage.maximum(to_ventricles, pieces, numbers)) <= RIM_REACH_MM
    hugging: Array = np.isin(pieces, numbers[close])
    return hugging


def _depths(own: Array, tissue: Array) -> tuple[Array, Array, Array]:
    """Signed depth and number of the nearest lesion, and `LabelMap.surfaces_mm`."""
    if not own.any():
        return np.full(own.shape, FARTHEST, np.int8), np.zeros(own.shape, np.int16), np.zeros((0, len(SIZES)))
    outside, (x, y, z) = ndimage.distance_transform_edt(own == 0, return_indices=True)
    depth = np.where(own > 0, ndimage.distance_transform_edt(own > 0) - 0.5, 0.5 - outside).astype(np.float32)
    depth += ROUGH_MM * smooth_field(np.random.default_rng(0), own.shape, ROUGH_SCALE)
    depth -= GREY_MM * np.isin(tissue, GREY_MATTER)
    owner, volumes = own[x, y, z].astype(np.int16), _volumes(own)
    may_hold = solid_tissue(tissue) & (outside < TERRITORY_MM)
    order = np.argsort(owner[may_hold], kind="stable")
    starts = np.searchsorted(owner[may_hold][order], np.arange(2, len(volumes) + 1))
    territories = np.split(np.stack([part[may_hold][order] for part in eighths(depth)]), starts, axis=1)
    surfaces = np.stack([surfaces_mm(one, 8 * voxels) for one, voxels in zip(territories, volumes, strict=True)])
    unchanged = surfaces[:, UNCHANGED]
    depth += unchanged[owner - 1]
    return np.clip(np.rint(depth / DEPTH_MM), FARTHEST, DEEPEST).astype(np.int8), owner, surfaces - unchanged[:, None]


def _volumes(own: Array) -> Array:
    """Voxels of every lesion."""
    return np.bincount(own.ravel(), minlength=own.max() + 1)[1:].astype(float)


def _distance(inside: Array) -> Array:
    """In mm, of every voxel."""
    return distance_mm(inside, 1.0, step=1)


def _tips(side: Array) -> tuple[Array, Array]:
    """The foremost and the hindmost voxel of a lateral ventricle."""
    voxels = np.argwhere(side)
    return voxels[voxels[:, 1].argmax()], voxels[voxels[:, 1].argmin()]


def _kept(distance: Array) -> Array:
    return np.clip(np.rint(distance / DISTANCE_MM), 0, 255).astype(np.uint8)


def _like_t1w(tissue: Array, affine: Affine, name: str) -> Volume:
    """What the atlas can be registered to."""
    brightness = np.array([0, 0.3, 0.3, 0.65, 0.75, 1, 0.65, 1, 0.95, 0.5], np.float32)
    return Volume(brightness[tissue], affine, name)
