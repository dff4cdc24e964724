"""Random fields, warps and interpolation in torch, drawn by NumPy: a CPU and a GPU draw the same but for rounding."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lesiondelta.images import Array
from lesiondelta.simulation.fields import lattice

Shape = tuple[int, ...]


def smooth_field(rng: np.random.Generator, shape: Shape, scale: float, device: torch.device) -> Tensor:
    """`fields.smooth_field` on a device: (X, Y, Z), mean 0 and standard deviation 1."""
    knots, bases = lattice(rng, shape, scale)
    field = torch.from_numpy(knots).to(device)
    for axis, basis in enumerate(bases):
        field = along(torch.from_numpy(basis).to(device), field, axis)
    field = field - field.mean()
    return field / (field.std(correction=0) + 1e-6)


def along(matrix: Tensor, data: Tensor, axis: int) -> Tensor:
    """Apply a matrix (M, N) to one axis of N voxels of an array."""
    return torch.movedim(torch.tensordot(matrix, data, dims=([1], [axis])), 0, axis).contiguous()


def normal(rng: np.random.Generator, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Standard normal values."""
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).to(device)


def lattice_points(shape: Shape, device: torch.device) -> Tensor:
    """Indices of all voxels (3, X, Y, Z) float."""
    axes = [torch.arange(n, dtype=torch.float32, device=device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def moved(points: Tensor, matrix: Array) -> Tensor:
    """Points (3, ...) through an affine (4, 4)."""
    affine = torch.from_numpy(np.asarray(matrix[:3], np.float32)).to(points.device)
    turned: Tensor = torch.tensordot(affine[:, :3], points, dims=([1], [0]))
    return turned + affine[:, 3].reshape(3, *[1] * (points.ndim - 1))


def sampled(data: Tensor, at: Tensor) -> Tensor:
    """Linear interpolation of maps (C, X, Y, Z) at voxel indices (3, ...): (C, ...), the outermost voxels beyond."""
    ends = torch.tensor([n - 1 for n in data.shape[1:]], dtype=torch.float32, device=data.device)
    points = (2 * at / ends.reshape(3, *[1] * (at.ndim - 1)) - 1).flip(0)
    grid = torch.movedim(points, 0, -1).reshape(1, -1, 1, 1, 3)
    values = functional.grid_sample(data[None], grid, padding_mode="border", align_corners=True)
    return values.reshape(data.shape[0], *at.shape[1:])


def nearest(data: Tensor, at: Tensor) -> Tensor:
    """The values of a map (X, Y, Z) at the voxels nearest to indices (3, ...)."""
    x, y, z = (a.round().long().clamp(0, n - 1) for a, n in zip(at, data.shape, strict=True))
    return data[x, y, z]


def box_around(at: Tensor, shape: Shape) -> tuple[slice, ...]:
    """The part of a map (X, Y, Z) that indices (3, ...) lie in."""
    flat = at.reshape(3, -1)
    low, high = flat.min(dim=1).values.floor().int().tolist(), flat.max(dim=1).values.ceil().int().tolist()
    return tuple(slice(min(max(a, 0), n - 2), max(min(b + 1, n), 2)) for a, b, n in zip(low, high, shape, strict=True))


def blurred(data: Tensor, sigma: float, axes: int = 3) -> Tensor:
    """Gaussian smoothing of maps (C, X, Y, Z) along their first axes by a standard deviation in voxels."""
    for axis, n in enumerate(data.shape[1 : axes + 1], start=1):
        places = torch.arange(n, dtype=torch.float32, device=data.device)
        weights = torch.exp(-0.5 * ((places[:, None] - places) / sigma) ** 2)
        data = along(weights / weights.sum(dim=1, keepdim=True), data, axis)
    return data
