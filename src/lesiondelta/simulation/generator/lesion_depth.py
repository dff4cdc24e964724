"""All lesions of a patch in one map of depth, and what they do from visit to visit."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lesiondelta.images import Array
from lesiondelta.simulation.evolution import Rates, draw_sizes
from lesiondelta.simulation.generator.label_map import DEPTH_MM, FARTHEST, LabelMap
from lesiondelta.simulation.generator.patch import Place
from lesiondelta.simulation.generator.placed import PersonLesions, PlacedDepth, placed_depth
from lesiondelta.simulation.generator.sampling import box_around, nearest, sampled
from lesiondelta.simulation.generator.surfaces import surface_mm
from lesiondelta.simulation.lesions import draw_looks

FAR = -12.0
"""Depth in mm where there is no lesion."""
ABSENT = -100.0
"""Added to the depth of a lesion at a visit at which it is not there."""


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


def patch_lesions(
    rng: np.random.Generator, person: LabelMap, lesions: PersonLesions, place: Place, rates: Rates
) -> PatchLesions:
    """The lesions of a patch, their fates and looks."""
    device = place.at.device
    depth = torch.full(place.at.shape[1:], FAR, device=device)
    owner = torch.zeros(place.at.shape[1:], dtype=torch.int64, device=device)
    known: list[tuple[float, Array]] = []  # volume and surfaces
    if lesions.own and len(person.volumes_mm3):
        depth, owner = _own(person, place)
        known = list(zip(person.volumes_mm3.tolist(), person.surfaces_mm, strict=True))
    for lesion in lesions.placed:
        if all(side.start < side.stop for side in place.box(lesion.centre, lesion.reach)):
            found = placed_depth(rng, lesion, person)
            if found is not None:
                known.append((found.volume_mm3, found.surfaces_mm))
                _draw_in(depth, owner, found, place, len(known))
    brightness, quiet = float(rng.normal(0, 0.10)), rng.random() < rates.quiet
    looks = [(0.0, 0.0, 1.0, 0.0), *(draw_looks(rng, max(volume, 1.0), brightness) for volume, _ in known)]
    changes = [(ABSENT, ABSENT), *(_fate(rng, *one, Rates(0, 0, 0, 0) if quiet else rates) for one in known)]
    return PatchLesions(
        depth, owner, torch.tensor(changes, device=device).T.contiguous(), torch.tensor(looks, device=device)
    )


def _own(person: LabelMap, place: Place) -> tuple[Tensor, Tensor]:
    """Depth and owner (X, Y, Z) of a person's own lesions."""
    at, device = place.at, place.at.device
    box = box_around(at, person.tissue.shape)
    local = at - torch.tensor([s.start for s in box], dtype=torch.float32, device=device).reshape(3, 1, 1, 1)
    depth = np.where(person.depth[box] == FARTHEST, np.float32(FAR), person.depth[box].astype(np.float32) * DEPTH_MM)
    kept = torch.from_numpy(depth.astype(np.float32)).to(device)
    owner = torch.from_numpy(person.owner[box].astype(np.int64)).to(device)
    return sampled(kept[None], local)[0], nearest(owner, local)


def _draw_in(depth: Tensor, owner: Tensor, lesion: PlacedDepth, place: Place, number: int) -> None:
    """Add a lesion to the maps of depth and owner, in place."""
    shape = np.array(lesion.depth.shape)
    box = place.box(lesion.start + (shape - 1) / 2, shape / 2)
    if any(side.start >= side.stop for side in box):
        return
    start, last = (
        torch.from_numpy(one.astype(np.float32)).to(depth.device).reshape(3, 1, 1, 1)
        for one in (lesion.start, shape - 1)
    )
    at = place.at[:, *box] - start
    inside = ((at >= 0) & (at <= last)).all(dim=0)
    found = torch.where(inside, sampled(torch.from_numpy(lesion.depth).to(depth.device)[None], at)[0], FAR)
    closer = found > depth[box]
    depth[box][closer], owner[box][closer] = found[closer], number


def _fate(rng: np.random.Generator, volume_mm3: float, surfaces_mm: Array, rates: Rates) -> tuple[float, float]:
    """Movement of a lesion's surface in mm at both visits, by which its volume becomes what is drawn."""
    voxels = max(round(volume_mm3), 2)
    first, second = (
        surface_mm(surfaces_mm, size / voxels) if size else ABSENT for size in draw_sizes(rng, voxels, 2, rates, 1.0)
    )
    return first, second
