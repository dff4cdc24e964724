"""All lesions of a patch in one map of depth, and what they do from visit to visit."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lesiondelta.images import Affine, Array
from lesiondelta.simulation.evolution import Rates, draw_sizes
from lesiondelta.simulation.generator.label_map import DEPTH_MM, DISTANCE_MM, INFRATENTORIAL, LabelMap
from lesiondelta.simulation.generator.patch import Place
from lesiondelta.simulation.generator.sampling import box_around, moved, nearest, sampled, smooth_field
from lesiondelta.simulation.lesions import SITES, draw_count, draw_looks, draw_volumes
from lesiondelta.simulation.shapes import Shape, draw_shapes

FAR = -12.0
"""Depth in mm where there is no lesion."""
ABSENT = -100.0
"""Added to the depth of a lesion at a visit at which it is not there."""
SMALL_MM3 = 300.0
"""Real shapes up to this volume are moved into white matter."""
ROUGH_MM = 0.45
"""Standard deviation of what makes surfaces irregular."""
BESIDE_MM = 6.0
"""Distance to a ventricle within which lesions spread along it."""
OWN_SHARE, REAL_SHARE = 0.8, 0.5
"""Of people who keep their own lesions, and of those whose other lesions have the shapes of real ones."""


@dataclass(frozen=True, eq=False)
class DrawnLesion:
    """A lesion that is placed in a person.

    Attributes
    ----------
    centre : (3,) float
        Voxel of the map.
    volume_mm3 : float
    depth : (x, y, z) float32 or None
        Of a real one; None for a tilted ellipsoid.
    turn : (4, 4)
        From millimetres around the centre to radii of the ellipsoid.
    along : bool
        It spreads along the ventricle that it is beside.
    """

    centre: Array
    volume_mm3: float
    depth: Array | None
    turn: Array
    along: bool = False

    @property
    def radius(self) -> float:
        """In mm, of a ball of the same volume."""
        return float(np.cbrt(self.volume_mm3 * 3 / (4 * np.pi)))

    @property
    def reach(self) -> Array:
        """Half the edges of the box that it is drawn in."""
        if self.depth is not None:
            return np.array(self.depth.shape) / 2
        return np.full(3, (2.5 if self.along else 1.5) / np.linalg.svd(self.turn[:3, :3])[1].min() + 4)


@dataclass(frozen=True, eq=False)
class PatchLesions:
    """Lesions of a patch.

    Attributes
    ----------
    depth, owner : (X, Y, Z) float32, int64
        Depth in mm under the surface of the nearest lesion before it changes, and its number from 1.
    change_mm : (2, N + 1)
        By which the surface of a lesion moves at each visit; `ABSENT` where it is not there.
    looks : (N + 1, 4)
        `flair`, `t1w`, `edge_mm`, `halo` (`lesions.Lesion`).
    """

    depth: Tensor
    owner: Tensor
    change_mm: Tensor
    looks: Tensor

    def at(self, visit: int) -> Tensor:
        """Depth at a visit (X, Y, Z)."""
        return self.depth + self.change_mm[visit][self.owner]

    def weight(self, visit: int) -> Tensor:
        """Share of lesion in every voxel, one half at the surface (`lesions.Lesion.weight`)."""
        depth, (edge, halo) = self.at(visit), (self.looks[:, k][self.owner] for k in (2, 3))
        return torch.maximum(torch.sigmoid(3 * depth / edge), halo * torch.sigmoid(depth + 2))


def draw_placed(rng: np.random.Generator, person: LabelMap, masks: Sequence[Path]) -> list[DrawnLesion]:
    """Lesions besides a person's own: those of a real patient, or drawn ones, in number, size and place."""
    if masks and rng.random() < REAL_SHARE:
        return [_real(person, shape) for shape in draw_shapes(rng, masks, None)]
    sites, placed = _sites(person), []
    for number, volume in draw_volumes(rng, draw_count(rng)):
        centre = person.white[rng.choice(len(person.white), p=sites[number])]
        beside = person.to_ventricles[tuple(centre)] * DISTANCE_MM < BESIDE_MM and rng.random() < 0.7
        placed.append(DrawnLesion(centre.astype(float), volume, None, _ellipsoid(rng, volume), beside))
    return placed


def _ellipsoid(rng: np.random.Generator, volume_mm3: float) -> Affine:
    axes = np.exp(rng.normal(0, 0.3, 3))
    radii = axes / np.cbrt(axes.prod()) * np.cbrt(volume_mm3 * 3 / (4 * np.pi))
    matrix = np.eye(4)
    matrix[:3, :3] = (np.linalg.qr(rng.standard_normal((3, 3)))[0] / radii).T
    return matrix


def _real(person: LabelMap, shape: Shape) -> DrawnLesion:
    centre = (person.from_masks @ [*shape.center_mm, 1])[:3]
    if shape.volume_mm3 < SMALL_MM3:
        centre = person.white[((person.white - centre) ** 2).sum(axis=1).argmin()].astype(float)
    return DrawnLesion(centre, shape.volume_mm3, shape.depth_mm, np.eye(4))


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


def patch_lesions(
    rng: np.random.Generator,
    person: LabelMap,
    placed: Sequence[DrawnLesion],
    place: Place,
    to_ventricles: Tensor,
    rates: Rates,
) -> PatchLesions:
    """The lesions of a patch, their fates and looks; `to_ventricles` (X, Y, Z) is the distance in mm."""
    at, device = place.at, place.at.device
    box, keeps = box_around(at, person.tissue.shape), rng.random() < OWN_SHARE
    volumes = [0.0, *(person.volumes_mm3.tolist() if keeps else [])]
    depth = torch.full(at.shape[1:], FAR, device=device)
    owner = torch.zeros(at.shape[1:], dtype=torch.int64, device=device)
    if len(volumes) > 1:
        local = at - torch.tensor([s.start for s in box], dtype=torch.float32, device=device).reshape(3, 1, 1, 1)
        kept = torch.from_numpy(person.depth[box].astype(np.float32) * DEPTH_MM).to(device)
        depth = sampled(kept[None], local)[0]
        owner = nearest(torch.from_numpy(person.owner[box].astype(np.int64)).to(device), local)
    for lesion in placed:
        _drawn_in((depth, owner, to_ventricles), lesion, place, len(volumes))
        volumes.append(lesion.volume_mm3)
    depth = depth + ROUGH_MM * smooth_field(rng, tuple(at.shape[1:]), 4, device) * (depth > FAR)
    brightness, quiet = float(rng.normal(0, 0.10)), rng.random() < rates.quiet
    looks = [(0.0, 0.0, 1.0, 0.0), *(draw_looks(rng, max(v, 1.0), brightness) for v in volumes[1:])]
    changes = [(ABSENT, ABSENT), *(_fate(rng, v, Rates(0, 0, 0, 0) if quiet else rates) for v in volumes[1:])]
    return PatchLesions(
        depth, owner, torch.tensor(changes, device=device).T.contiguous(), torch.tensor(looks, device=device)
    )


def _drawn_in(maps: tuple[Tensor, Tensor, Tensor], lesion: DrawnLesion, place: Place, number: int) -> None:
    """Add a lesion to the maps of depth and owner, in place; the third is the distance to the ventricles."""
    box = place.box(lesion.centre, lesion.reach)
    if any(side.start >= side.stop for side in box):
        return
    depth, owner, to_ventricles = (one[box] for one in maps)
    centre = torch.from_numpy(lesion.centre.astype(np.float32)).to(depth.device).reshape(3, 1, 1, 1)
    away = place.at[:, *box] - centre
    if lesion.depth is None:
        squares = moved(away, lesion.turn).square().sum(dim=0)
        if lesion.along:  # as `lesions._procedural`
            squares = 0.36 * squares + (1.3 * to_ventricles / lesion.radius).square()
        found = lesion.radius * (1 - squares.sqrt())
    else:
        half = torch.tensor([(n - 1) / 2 for n in lesion.depth.shape], device=depth.device).reshape(3, 1, 1, 1)
        shape = torch.from_numpy(np.ascontiguousarray(lesion.depth)).to(depth.device)[None]
        found = torch.where((away.abs() <= half).all(dim=0), sampled(shape, away + half)[0], FAR)
    closer = found > depth
    depth[closer], owner[closer] = found[closer], number


def _fate(rng: np.random.Generator, volume_mm3: float, rates: Rates) -> tuple[float, float]:
    """Movement of a lesion's surface in mm at both visits."""
    voxels = max(round(volume_mm3), 2)
    radius = np.cbrt(volume_mm3 * 3 / (4 * np.pi))
    first, second = (
        ABSENT if not size else float(radius * (np.cbrt(size / voxels) - 1))
        for size in draw_sizes(rng, voxels, 2, rates, 1.0)
    )
    return first, second
