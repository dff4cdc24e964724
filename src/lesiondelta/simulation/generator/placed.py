"""Lesions that are placed in a person besides its own: those of a real patient, or drawn ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lesiondelta.images import Array
from lesiondelta.simulation.fields import smooth_field
from lesiondelta.simulation.generator.label_map import (
    DISTANCE_MM,
    GREY_MATTER,
    GREY_MM,
    INFRATENTORIAL,
    LabelMap,
    solid_tissue,
)
from lesiondelta.simulation.generator.surfaces import ROUGH_MM, ROUGH_SCALE, UNCHANGED, eighths, surfaces_mm
from lesiondelta.simulation.lesions import SITES, draw_count, draw_volumes
from lesiondelta.simulation.shapes import Shape, draw_shapes

SMALL_MM3 = 300.0
"""Real shapes up to this volume are moved into white matter."""
LEFT = 0.4
"""Of a real shape, which must lie where lesions do."""
GREY_RADII = 1.2
"""`GREY_MM` of an ellipsoid, in radii: it has the whole room to grow elsewhere."""
LEAST_GREY = 0.3
"""Of these; some lesions at the cortex enter it a little."""
BESIDE_MM = 6.0
"""Distance to a ventricle within which lesions spread along it."""
OWN_SHARE, REAL_SHARE = 0.8, 0.5
"""Of people who keep their own lesions, and of those whose other lesions have the shapes of real ones."""
Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class PlacedLesion:
    """A lesion in a person.

    Attributes
    ----------
    centre : (3,) int
        Voxel of the map.
    volume_mm3 : float
    form : (x, y, z) or (3, 3)
        Depth in mm of a real one around its middle voxel, or the matrix from millimetres to radii of an ellipsoid.
    along : bool
        It spreads along the ventricle that it is beside.
    """

    centre: Array
    volume_mm3: float
    form: Array
    along: bool = False

    @property
    def is_real(self) -> bool:
        """Whether it has the shape of a real one."""
        return self.form.ndim == 3

    @property
    def radius(self) -> float:
        """In mm, of a ball of the same volume."""
        return float(np.cbrt(self.volume_mm3 * 3 / (4 * np.pi)))

    @property
    def reach(self) -> Array:
        """Half the edges (3,) of the box that it lies in."""
        if self.is_real:
            return np.array(self.form.shape) // 2
        longest = 1 / np.linalg.svd(self.form)[1].min()
        return np.full(3, int(np.ceil((2.5 if self.along else 2.0) * longest + 4)))


@dataclass(frozen=True, eq=False)
class PlacedDepth:
    """A placed lesion on the map's voxels.

    Attributes
    ----------
    start : (3,) int
        First voxel of its box.
    depth : (x, y, z) float32
        In mm under its surface.
    surfaces_mm : `LabelMap.surfaces_mm` of it
    volume_mm3 : what it has
    """

    start: Array
    depth: Array
    surfaces_mm: Array
    volume_mm3: float


@dataclass(frozen=True, eq=False)
class PersonLesions:
    """Whether a person keeps its own lesions, and those that are placed."""

    own: bool
    placed: Sequence[PlacedLesion]

    def centres(self, person: LabelMap) -> list[Array]:
        """Voxels of the map."""
        return [*(person.centres if self.own else ()), *(lesion.centre for lesion in self.placed)]


def draw_lesions(rng: np.random.Generator, person: LabelMap, masks: Sequence[Path]) -> PersonLesions:
    """What a person has: its own lesions or not, and others, which differ in number, size and place."""
    return PersonLesions(rng.random() < OWN_SHARE, _placed(rng, person, masks))


def _placed(rng: np.random.Generator, person: LabelMap, masks: Sequence[Path]) -> list[PlacedLesion]:
    if masks and rng.random() < REAL_SHARE:
        return [_real(person, shape) for shape in draw_shapes(rng, masks, None)]
    sites, placed = _sites(person), []
    for number, volume in draw_volumes(rng, draw_count(rng)):
        centre = person.white[rng.choice(len(person.white), p=sites[number])].astype(int)
        beside = person.to_ventricles[tuple(centre)] * DISTANCE_MM < BESIDE_MM and rng.random() < 0.7
        placed.append(PlacedLesion(centre, volume, _ellipsoid(rng, volume), bool(beside)))
    return placed


def _ellipsoid(rng: np.random.Generator, volume_mm3: float) -> Array:
    axes = np.exp(rng.normal(0, 0.3, 3))
    radii = axes / np.cbrt(axes.prod()) * np.cbrt(volume_mm3 * 3 / (4 * np.pi))
    turned: Array = (np.linalg.qr(rng.standard_normal((3, 3)))[0] / radii).T
    return turned


def _real(person: LabelMap, shape: Shape) -> PlacedLesion:
    centre = (person.from_masks @ [*shape.center_mm, 1])[:3]
    if shape.volume_mm3 < SMALL_MM3:
        centre = person.white[((person.white - centre) ** 2).sum(axis=1).argmin()]
    surface_between = shape.depth_mm - 0.5 * np.sign(shape.depth_mm)  # not on the outermost voxels
    return PlacedLesion(np.rint(centre).astype(int), shape.volume_mm3, surface_between)


def _sites(person: LabelMap) -> list[Array]:
    """For each of `SITES`, the chance that a lesion's middle lies at each of the person's candidates."""
    at = tuple(person.white.T)
    to_ventricles, to_cortex = (one[at] * DISTANCE_MM for one in (person.to_ventricles, person.to_cortex))
    below = np.isin(person.tissue[at], INFRATENTORIAL)
    chances = (
        np.exp(-((to_ventricles / 5) ** 2)) * ~below,
        np.exp(-((to_cortex / 2.5) ** 2)) * (to_ventricles > 10) * ~below,
        np.exp(-to_ventricles / 30) * (to_ventricles > 5) * (to_cortex > 2.5) * ~below,
        below,
    )
    assert len(chances) == len(SITES)
    return [(part + 1e-12) / (part + 1e-12).sum() for part in chances]


def placed_depth(rng: np.random.Generator, lesion: PlacedLesion, person: LabelMap) -> PlacedDepth | None:
    """A lesion in its surroundings: roughened, hardly in grey matter, and as large as it shall be.

    None where too little of a real shape is left.
    """
    box = _box(lesion, person.tissue.shape)
    if any(side.start >= side.stop for side in box):
        return None
    tissue = person.tissue[box]
    solid, grey = solid_tissue(tissue), np.isin(tissue, GREY_MATTER)
    depth = _real_depth(lesion, box) if lesion.is_real else _ellipsoid_depth(lesion, box, person)
    depth -= rng.uniform(LEAST_GREY, 1) * (GREY_MM if lesion.is_real else GREY_RADII * lesion.radius) * grey
    voxels = lesion.volume_mm3
    if lesion.is_real:
        voxels = float(np.count_nonzero((depth > 0) & solid))
        if voxels < LEFT * lesion.volume_mm3:
            return None
    if np.count_nonzero(solid) < voxels:
        return None
    depth += ROUGH_MM * smooth_field(rng, depth.shape, ROUGH_SCALE)
    surfaces = surfaces_mm(np.stack([part[solid] for part in eighths(depth)]), 8 * voxels)
    unchanged = surfaces[UNCHANGED]
    start = np.array([side.start for side in box])
    return PlacedDepth(start, (depth + unchanged).astype(np.float32), surfaces - unchanged, voxels)


def _box(lesion: PlacedLesion, shape: tuple[int, ...]) -> Box:
    """Where in the map a lesion lies."""
    edges = lesion.form.shape if lesion.is_real else 2 * lesion.reach + 1
    starts = lesion.centre - lesion.reach
    x, y, z = (slice(max(int(s), 0), min(int(s + e), n)) for s, e, n in zip(starts, edges, shape, strict=True))
    return x, y, z


def _real_depth(lesion: PlacedLesion, box: Box) -> Array:
    starts = lesion.centre - lesion.reach
    inside = tuple(slice(side.start - s, side.stop - s) for side, s in zip(box, starts, strict=True))
    return lesion.form[inside].astype(np.float32)


def _ellipsoid_depth(lesion: PlacedLesion, box: Box, person: LabelMap) -> Array:
    """Beside a ventricle it lies along the surface that is as far from it everywhere (`lesions._procedural`)."""
    axes = [np.arange(side.start, side.stop) - c for side, c in zip(box, lesion.centre, strict=True)]
    away = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) @ lesion.form.T
    squares = (away**2).sum(axis=-1)
    if lesion.along:
        off = person.to_ventricles[box] * DISTANCE_MM - person.to_ventricles[tuple(lesion.centre)] * DISTANCE_MM
        squares = 0.36 * squares + (1.3 * off / lesion.radius) ** 2
    depth: Array = (lesion.radius * (1 - np.sqrt(squares))).astype(np.float32)
    return depth
