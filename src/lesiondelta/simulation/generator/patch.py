"""A part of a person that is drawn at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lesiondelta.images import Affine, Array
from lesiondelta.simulation.generator.label_map import DISTANCE_MM, LabelMap, Tissue
from lesiondelta.simulation.generator.sampling import box_around, nearest, sampled

BENT = 5.0
"""By how many voxels a patch is bent at most."""
FAR_TIP = 25.0
"""Millimetres from a horn's tip, beyond which nothing of its cap is seen."""


@dataclass(frozen=True, eq=False)
class Place:
    """Where a patch lies: `at` (3, X, Y, Z) are its voxels in the map, about `matrix` (4, 4) of their indices."""

    at: Tensor
    matrix: Affine

    def box(self, centre: Array, reach: Array) -> tuple[slice, ...]:
        """The part of the patch that holds all voxels within `reach` (3,) of a voxel of the map, and some more."""
        inverse = np.linalg.inv(self.matrix)
        middle, half = (inverse @ [*centre, 1])[:3], np.abs(inverse[:3, :3]) @ (reach + BENT)
        return tuple(
            slice(min(max(int(m - h), 0), n), min(max(int(m + h) + 2, 0), n))
            for m, h, n in zip(middle, half, self.at.shape[1:], strict=True)
        )


@dataclass(frozen=True, eq=False)
class Patch:
    """Part of a person: tissue (X, Y, Z) int64, distances in mm (X, Y, Z), and its own rim (X, Y, Z), 0 to 1.

    `to_tips` has, of the tips of the frontal and the occipital horns, the distance (X, Y, Z), None of those far away.
    """

    tissue: Tensor
    to_ventricles: Tensor
    to_cortex: Tensor
    between: Tensor
    rim: Tensor
    to_tips: Sequence[Tensor | None]

    def shares(self, *tissues: Tissue) -> Tensor:
        """The voxels of some tissues as 0 and 1."""
        chosen = torch.tensor([float(tissue in tissues) for tissue in Tissue], device=self.tissue.device)
        return chosen[self.tissue]


def cut_patch(person: LabelMap, at: Tensor) -> Patch:
    """The part of a person whose voxels lie at `at` (3, X, Y, Z) of the map."""
    box = box_around(at, person.tissue.shape)
    start = torch.tensor([s.start for s in box], dtype=torch.float32, device=at.device).reshape(3, 1, 1, 1)
    tissue = nearest(torch.from_numpy(person.tissue[box].astype(np.int64)).to(at.device), at - start)
    kept = np.stack([one[box] for one in (person.to_ventricles, person.to_cortex, person.between)])
    maps = np.concatenate([kept * np.float32(DISTANCE_MM), person.rim[None][:, *box]])
    ventricles, cortex, between, rim = sampled(torch.from_numpy(maps).to(at.device), at - start)
    return Patch(tissue, ventricles, cortex, between, rim, [_to_tip(at, tip) for tip in person.tips.tolist()])


def _to_tip(at: Tensor, tip: Sequence[float]) -> Tensor | None:
    away = at - torch.tensor(tip, device=at.device).reshape(3, 1, 1, 1)
    if float(away.abs().amin(dim=(1, 2, 3)).max()) > FAR_TIP:
        return None
    return away.square().sum(dim=0).sqrt()
