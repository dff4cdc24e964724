"""Smooth random fields, rotations and distances: what every other file here draws with."""

import numpy as np
from scipy import ndimage

from lesiondelta.images import Affine, Array


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Array:
    """A random field of mean 0 and standard deviation 1 whose structures are about `scale` voxels wide.

    White noise on a coarse lattice, interpolated by cubic B-splines, one small matrix per axis.
    """
    field, bases = lattice(rng, shape, scale)
    for axis, basis in enumerate(bases):
        field = np.moveaxis(np.tensordot(basis, field, axes=(1, axis)), 0, axis)
    field -= field.mean()
    field /= field.std() + 1e-6
    return np.ascontiguousarray(field)


def lattice(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> tuple[Array, list[Array]]:
    """Knots of a random field, and for each axis the weights (voxels, knots) that interpolate them."""
    bases = [_spline_basis(n, scale) for n in shape]
    return rng.standard_normal([basis.shape[1] for basis in bases], dtype=np.float32), bases


def _spline_basis(n: int, scale: float) -> Array:
    """Cubic B-spline weights (n, knots) of knots `scale` voxels apart."""
    positions = np.arange(n) / scale
    knots = np.arange(-1, int(np.ceil(n / scale)) + 2)
    t = np.abs(positions[:, None] - knots[None, :])
    inner = 2 / 3 - t**2 + t**3 / 2
    outer = np.clip(2 - t, 0, None) ** 3 / 6
    weights: Array = np.where(t < 1, inner, outer).astype(np.float32)
    return weights


def rotation(angles_deg: Array) -> Affine:
    """The (4, 4) rotation about X, then Y, then Z."""
    x, y, z = np.deg2rad(angles_deg)
    matrix = np.eye(4)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    matrix[:3, :3] = about_z @ about_y @ about_x
    return matrix


def rigid(center_mm: Array, angles_deg: Array, shift_mm: Array) -> Affine:
    """Rotate about a centre, then shift: a (4, 4) matrix in mm."""
    matrix = rotation(angles_deg)
    matrix[:3, 3] = center_mm + shift_mm - matrix[:3, :3] @ center_mm
    return matrix


def random_rigid(rng: np.random.Generator, center_mm: Array, angle_deg: float, shift_mm: float) -> Affine:
    """A rigid motion with every angle and every shift uniform within the limits given."""
    return rigid(center_mm, rng.uniform(-angle_deg, angle_deg, 3), rng.uniform(-shift_mm, shift_mm, 3))


def distance_mm(inside: Array, spacing_mm: float, step: int = 2) -> Array:
    """Distance in mm of every voxel to the set `inside`; computed on every `step`-th voxel, which is 8 times faster."""
    coarse = ndimage.distance_transform_edt(~inside[::step, ::step, ::step]) * (spacing_mm * step)
    return enlarge(coarse.astype(np.float32), inside.shape)


def enlarge(coarse: Array, shape: tuple[int, ...]) -> Array:
    """Linear interpolation of a coarse array to a finer shape, corners on corners."""
    field = coarse
    for axis, n in enumerate(shape):
        m = coarse.shape[axis]
        position = np.minimum(np.arange(n) * (m - 1) / max(n - 1, 1), m - 1)
        low = np.minimum(position.astype(int), max(m - 2, 0))
        share = (position - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(field.ndim)])
        field = np.take(field, low, axis) * (1 - share) + np.take(field, np.minimum(low + 1, m - 1), axis) * share
    return field.astype(np.float32)


def sample_at(maps: Array, at: Array) -> Array:
    """Linear interpolation of maps (C, X, Y, Z) at voxel indices `at` (3, ...), 0 outside; torch is 20 times scipy."""
    import torch

    source = torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float32))[None]
    ends = np.array(maps.shape[1:], dtype=np.float32) - 1
    points = np.stack([2 * at[axis] / ends[axis] - 1 for axis in (2, 1, 0)], axis=-1).astype(np.float32)
    sampled = torch.nn.functional.grid_sample(source, torch.from_numpy(points)[None], align_corners=True)
    values: Array = sampled[0].numpy()
    return values


def sample_slabs(data: Array, pull: Affine, shape: tuple[int, int, int], parts: int, filled: float = 1.0) -> Array:
    """Linear interpolation on a grid whose voxel (i, j, k) lies at `pull` (4, 4) of it in `data`, 0 outside.

    Every voxel is the mean over `parts` places along its third axis, in the middle share `filled` of it: a thick slice.
    """
    import torch

    scale = 2 / (np.array(data.shape, dtype=np.float64) - 1)
    rows = (pull[:3] * scale[:, None] - [[0, 0, 0, 1]])[::-1]  # torch: x last, -1 and 1 at the outer voxels
    i, j, k = (torch.arange(n, dtype=torch.float32) for n in shape)
    points = torch.empty((*shape, 3), dtype=torch.float32)
    for axis, (a, b, c, d) in enumerate(rows.tolist()):
        points[..., axis] = a * i[:, None, None] + b * j[None, :, None] + (c * k + d)[None, None, :]
    source = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))[None, None]
    step = torch.tensor(filled * rows[:, 2] / parts, dtype=torch.float32)
    points -= step * ((parts - 1) / 2)
    total = torch.zeros(shape)
    for _ in range(parts):
        total += torch.nn.functional.grid_sample(source, points[None], align_corners=True)[0, 0]
        points += step
    averaged: Array = (total / parts).numpy()
    return averaged
