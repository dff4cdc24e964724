"""Visits as they come from the scanner: every image on its own grid, in another pose each time."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from lesiondelta.images import Affine, Array, Grid, Volume, corners_mm
from lesiondelta.simulation.acquisition import Protocol, degrade
from lesiondelta.simulation.fields import random_rigid, rotation, sample_slabs

POSE_DEG, POSE_MM = 8.0, 12.0  # of the head between visits
MOTION_DEG, MOTION_MM = 0.8, 1.0  # of the head between the images of one visit
CHOICES = 20  # voxels among which a lesion's own one is chosen
Wanted = tuple[int, Array, Array, int]
STORED = ((1, 1, 1), (-1, -1, 1), (-1, 1, 1), (1, -1, -1))  # signs of the stored axes


def draw_poses(rng: np.random.Generator, brain: Grid) -> dict[str, Affine]:
    """For every image of a visit, the matrix from the scanner's points to the anatomy's."""
    center = corners_mm(brain).mean(axis=0)
    pose = random_rigid(rng, center, POSE_DEG, POSE_MM)
    return {name: pose @ random_rigid(rng, center, MOTION_DEG, MOTION_MM) for name in ("T1w", "FLAIR")}


def scan_grid(rng: np.random.Generator, brain: Grid, to_patient: Affine, protocol: Protocol, least_mm: float) -> Grid:
    """The grid of a scan that covers the brain, with air around it in plane; its slices follow the tilt."""
    inverse = np.linalg.inv(to_patient)
    corners = corners_mm(brain) @ inverse[:3, :3].T + inverse[:3, 3]
    axes = rotation(np.array(protocol.tilt_deg))[:3, :3][:, list(protocol.axes)] * STORED[rng.integers(len(STORED))]
    points = corners @ axes
    extent = points.max(axis=0) - points.min(axis=0)
    extent[:2] = max(extent[0], extent[1]) + rng.uniform(5, 30)
    extent[2] += rng.uniform(-12, 4)
    spacing = np.maximum([protocol.in_plane_mm, protocol.in_plane_mm, protocol.step_mm], least_mm)
    shape = np.ceil(extent / spacing).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = axes @ ((points.max(axis=0) + points.min(axis=0)) / 2 - spacing * (shape - 1) / 2)
    x, y, z = shape.tolist()
    return Grid((x, y, z), affine)


def slice_average(image: Volume, grid: Grid, to_image: Affine, filled: float = 1.0) -> Array:
    """Average an image over the slices of a grid; `to_image` takes the grid's points to the image's.

    `filled` is the share of the way from slice to slice that a slice is thick; the rest is gap.
    """
    fine_mm = float(np.linalg.norm(image.affine[:3, 0]))
    parts = max(round(filled * float(grid.spacing[2]) / fine_mm), 1)
    return sample_slabs(image.data, np.linalg.inv(image.affine) @ to_image @ grid.affine, grid.shape, parts, filled)


def scan(rng: np.random.Generator, image: Volume, grid: Grid, to_patient: Affine, protocol: Protocol) -> Volume:
    """Acquire one image; values are whole numbers as scanners store them."""
    averaged = slice_average(image, grid, to_patient, protocol.slice_mm / protocol.step_mm)
    stored = np.rint(degrade(rng, averaged, protocol, float(grid.spacing[0])) * rng.uniform(200, 900))
    return Volume(np.clip(stored, 0, 32767).astype(np.int16), grid.affine, image.name)


def reference_on(instances: Volume, grid: Grid, to_patient: Affine) -> Array:
    """Instance map on a scan's grid.

    Every lesion takes the voxels that it fills most, as many as its volume needs and at least one: a plain threshold
    on thick slices would lose the small lesions and shrink the others. Every lesion has one voxel to itself, so that
    none is lost to its neighbours; of the others, the lesion that fills more gets it.
    """
    labels = np.zeros(grid.shape, np.int32)
    best = np.zeros(grid.shape, np.float32)
    wanted = list(_shares(instances, grid, to_patient))
    own = dict(_own_voxels(wanted))
    for identity, voxel in own.items():
        labels[voxel], best[voxel] = identity, np.inf
    for identity, voxels, shares, count in wanted:
        others = (voxels != own[identity]).any(axis=1) if identity in own else np.ones(len(voxels), bool)
        others &= np.cumsum(others) <= count - (identity in own)
        at, filled = tuple(voxels[others].T), shares[others]
        labels[at] = np.where(filled > best[at], identity, labels[at])
        best[at] = np.maximum(filled, best[at])
    return labels


def _own_voxels(wanted: Sequence[Wanted]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """One voxel for every lesion, no two the same: as many lesions as can be, then as full as can be."""
    columns: dict[tuple[int, ...], int] = {}
    places = [[columns.setdefault(tuple(v), len(columns)) for v in voxels[:CHOICES]] for _, voxels, _, _ in wanted]
    worth = np.zeros((len(wanted), len(columns)), np.float32)
    for row, (lesion, place) in enumerate(zip(wanted, places, strict=True)):
        worth[row, place] = len(wanted) + lesion[2][:CHOICES]
    voxels = list(columns)
    for row, column in zip(*linear_sum_assignment(worth, maximize=True), strict=True):
        if worth[row, column]:
            yield wanted[row][0], voxels[column]


def _shares(instances: Volume, grid: Grid, to_patient: Affine) -> Iterator[Wanted]:
    """Every lesion's number, the voxels (N, 3) it lies in, the fullest first; how full; how many its volume needs."""
    for identity, box in enumerate(ndimage.find_objects(instances.data), start=1):
        if box is None:
            continue
        part = _part(instances, box)
        window, offset = _window(part.grid, grid, to_patient)
        if window is None:
            continue
        share = slice_average(part.with_data((part.data == identity).astype(np.float32)), window, to_patient)
        order = np.argsort(-share, axis=None, kind="stable")[: np.count_nonzero(share > 0)]
        volume = np.count_nonzero(part.data == identity) * instances.grid.voxel_volume_mm3
        voxels = np.stack(np.unravel_index(order, share.shape), axis=1) + offset
        yield identity, voxels, share.ravel()[order], max(round(volume / grid.voxel_volume_mm3), 1)


def _part(volume: Volume, box: tuple[slice, ...]) -> Volume:
    """A box of a volume with two voxels around it (zeros beyond the border)."""
    data = np.pad(volume.data[box], 2)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [axis.start - 2 for axis in box]
    return Volume(data, affine, volume.name)


def _window(part: Grid, grid: Grid, to_patient: Affine) -> tuple[Grid | None, list[int]]:
    """The part of a scan's grid that may hold a box of the anatomy, and its first voxel."""
    to_voxel = np.linalg.inv(to_patient @ grid.affine)
    corners = corners_mm(part) @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, None)
    high = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, grid.shape)
    if (high <= low).any():
        return None, []
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    x, y, z = (high - low).tolist()
    return Grid((x, y, z), affine), low.tolist()
