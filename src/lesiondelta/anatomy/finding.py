"""Where the parts of a brain lie in a person's images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from lesiondelta.atlas.parts import Part
from lesiondelta.cohort import CONTRASTS
from lesiondelta.errors import ImageError
from lesiondelta.images import Affine, Array, Grid, Volume, corners_mm, isotropic_grid, require_same_grid, resample

if TYPE_CHECKING:  # torch is imported where it is needed: reports do without
    from torch import Tensor, nn

Box = tuple[slice, ...]
SPACING_MM = 2.0
SHAPE = (80, 96, 80)
"""Voxels that the network sees at once, as in training: 160 x 192 x 160 mm, which hold a brain and some of the head."""
STRIDE = 24
"""Voxels from one first box to the next above it."""
MULTIPLE = 16
"""The sides of a box are multiples of so many voxels, as the network halves them four times."""
LARGEST = 128
"""Voxels along a side: no brain is as long as 256 mm."""
BORDER = 2
"""Width in voxels of the rim around the brain in which probabilities are kept; beyond it all is outside."""
STEPS, NEAR = 4, 3
"""How often the box is moved to where the brain was seen, and by how many voxels it may be off."""


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The parts of a brain.

    Attributes
    ----------
    shares : (8, X, Y, Z) float32
        Probability of every `Part`, on voxels of 2 mm along the world's axes.
    affine : (4, 4)
        From these voxels to RAS+ mm.
    """

    shares: Array
    affine: Affine

    def brain(self, grid: Grid) -> Array:
        """The brain on a grid (X, Y, Z) bool: one piece without holes."""
        filled: Array = ndimage.binary_fill_holes(largest(self._on(1 - self.shares[Part.OUTSIDE], grid) > 0.5))
        return filled

    def parts(self, grid: Grid) -> Array:
        """The most probable `Part` of the voxels of a grid (X, Y, Z) uint8."""
        best, parts = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.uint8)
        for part in Part:
            share = self.share(part, grid)
            parts[share > best] = part
            best = np.maximum(best, share)
        return parts

    def volumes_ml(self) -> dict[Part, float]:
        """Of every part, by the sum of its probabilities."""
        return {part: float(self.shares[part].sum()) * SPACING_MM**3 / 1000 for part in Part if part != Part.OUTSIDE}

    def share(self, part: Part, grid: Grid) -> Array:
        """Probability of a part on a grid (X, Y, Z) float32; 0 where the network did not look."""
        return self._on(self.shares[part], grid)

    def _on(self, share: Array, grid: Grid) -> Array:
        return resample(Volume(share, self.affine, "anatomy"), grid, order="linear").data


def find_anatomy(images: Mapping[str, Volume], network: "nn.Module | None" = None) -> Anatomy:
    """Find the parts of the brain in a T1w, a FLAIR or both, which lie on one grid and may be skull-stripped.

    The network sees a box of 2 mm voxels, as large as in training. Boxes above one another are tried first. The one
    with most brain is then moved until the brain is in its middle, and made larger if the brain does not fit.

    Raises
    ------
    ImageError
        No brain was seen.
    GeometryError
        The images lie on different grids.
    """
    network = network or _bundled()
    grid, channels = _coarse(images)
    tried = [(box, _seen(network, channels, box)) for box in _first_boxes(grid.shape)]
    box, shares = min(tried, key=lambda one: float(one[1][Part.OUTSIDE].sum()))
    brain = _brain(shares, images)
    for _ in range(STEPS):
        moved = _around(brain, box)
        if max(abs(a.start - b.start) + abs(a.stop - b.stop) for a, b in zip(moved, box, strict=True)) <= NEAR:
            break
        box, shares = moved, _seen(network, channels, moved)
        brain = _brain(shares, images)
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [side.start for side in box]
    away = ~ndimage.binary_dilation(brain, iterations=BORDER)
    shares[:, away] = 0
    shares[Part.OUTSIDE, away] = 1
    return Anatomy(shares, affine)


def largest(inside: Array) -> Array:
    """The largest piece of a mask (X, Y, Z) bool."""
    pieces, count = ndimage.label(inside)
    if count < 2:
        return inside
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    piece: Array = pieces == sizes.argmax()
    return piece


def _brain(shares: Array, images: Mapping[str, Volume]) -> Array:
    """Where the network sees brain: the largest piece (X, Y, Z) bool; ImageError where it sees none."""
    inside = shares[Part.OUTSIDE] < 0.5
    if not inside.any():
        names = " and ".join(sorted(image.name for image in images.values()))
        raise ImageError(f"No brain was found in {names}: look at it, or give a brain mask.")
    return largest(inside)


@cache
def _bundled() -> "nn.Module":
    from lesiondelta.anatomy.network import read_anatomy_network

    return read_anatomy_network()


def _coarse(images: Mapping[str, Volume]) -> "tuple[Grid, Tensor]":
    """A grid of 2 mm that holds the images, and the two channels on it (2, X, Y, Z)."""
    import torch

    first, *others = images.values()
    for other in others:
        require_same_grid(first, other)
    grid = isotropic_grid(corners_mm(first.grid), SPACING_MM)
    channels = np.zeros((len(CONTRASTS), *grid.shape), np.float32)
    for name, image in images.items():
        sigma = 0.5 * np.sqrt(np.maximum(SPACING_MM**2 - image.grid.spacing**2, 0)) / image.grid.spacing
        smooth = ndimage.gaussian_filter(image.data.astype(np.float32, copy=False), sigma)
        channels[CONTRASTS.index(name)] = resample(image.with_data(smooth), grid, order="linear").data
    return grid, torch.from_numpy(channels)


def _first_boxes(shape: Sequence[int]) -> Iterator[Box]:
    """Boxes of `SHAPE`, one above the other, in the middle of the image."""
    spare = max(shape[2] - SHAPE[2], 0)
    for low in range(spare, -1, -STRIDE) if spare else [(shape[2] - SHAPE[2]) // 2]:
        starts = [(n - size) // 2 for n, size in zip(shape[:2], SHAPE[:2], strict=True)]
        yield tuple(slice(start, start + size) for start, size in zip((*starts, low), SHAPE, strict=True))


def _around(brain: Array, box: Box) -> Box:
    """The box about a brain seen in another, as large as in training, or larger where the brain needs it."""
    sides = []
    for axis, (side, size) in enumerate(zip(box, SHAPE, strict=True)):
        across = np.flatnonzero(brain.any(axis=tuple(other for other in range(3) if other != axis)))
        low, high = int(across[0]), int(across[-1]) + 1
        cut = (low == 0) + (high == brain.shape[axis])
        need = high - low + cut * MULTIPLE
        wide = min(max(size, MULTIPLE * int(np.ceil(need / MULTIPLE))), LARGEST)
        middle = side.start + (low + high) // 2
        sides.append(slice(middle - wide // 2, middle - wide // 2 + wide))
    return tuple(sides)


def _seen(network: "nn.Module", channels: "Tensor", box: Box) -> Array:
    """Probabilities (8, X, Y, Z) in a box, which may reach beyond the image."""
    import torch

    from lesiondelta.anatomy.network import standardised

    wide = [0] * 6
    for axis, (side, n) in enumerate(zip(box, channels.shape[1:], strict=True)):
        wide[4 - 2 * axis], wide[5 - 2 * axis] = -side.start, side.stop - n
    cut = torch.nn.functional.pad(channels, wide)
    with torch.inference_mode():
        logits = network(torch.stack([standardised(one) for one in cut])[None])
        shares: Array = torch.softmax(logits, dim=1)[0].numpy()
    return shares
