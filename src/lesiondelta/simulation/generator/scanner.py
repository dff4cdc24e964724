"""Images of a patch as a scanner takes them and `run` resamples them."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from lesiondelta.cohort import CONTRASTS
from lesiondelta.images import Affine
from lesiondelta.simulation.acquisition import Acquisition, Protocol, cubic, draw_protocols
from lesiondelta.simulation.fields import rotation
from lesiondelta.simulation.generator.sampling import (
    Shape,
    along,
    blurred,
    lattice_points,
    moved,
    normal,
    sampled,
    smooth_field,
)

PARTS_MM = 1.0
"""A slice is the mean of planes so far apart."""
THICK = (4.0, 8.0)
"""Slices in mm of the share of visits that come from clinics with thick ones."""
THICK_SHARE, SAME_SLICES = 0.3, 0.35
"""Of visits; and of visits whose T1w lies on the FLAIR's slices."""
SHARPENED, EDGE_PIXELS = {"FLAIR": 3.2, "T1w": 0.3}, 1.0
"""By how much scanners' filters raise what a Gaussian of so many pixels takes away within slices, at most."""
RESIDUAL_MM, RESIDUAL_DEG = {"FLAIR": 0.35, "T1w": 0.7}, 0.5
"""By how far images are off their place at most."""


@dataclass(frozen=True)
class Scan:
    """How an image is taken.

    Attributes
    ----------
    phase : the share of a step by which its slices lie off the patch's middle
    sharpened : by how much the scanner's filter raises edges within slices
    """

    protocol: Protocol
    phase: float = 0.0
    sharpened: float = 0.0


def draw_scans(rng: np.random.Generator) -> dict[str, Scan]:
    """The T1w's and the FLAIR's of a visit (`acquisition.draw_protocols`), slices of 1 to 8 mm."""
    phases = dict(zip(CONTRASTS, rng.uniform(-0.5, 0.5, 2).tolist(), strict=True))
    protocols = draw_protocols(rng, Acquisition(sharp_share=0.3, randomised_share=0.0))
    if rng.random() < THICK_SHARE:
        slice_mm = float(rng.uniform(*THICK))
        gap = slice_mm * float(rng.uniform(0, 0.3)) * (rng.random() < 0.5)
        protocols["FLAIR"] = replace(
            protocols["FLAIR"], slice_mm=slice_mm, gap_mm=gap, axes=(0, 1, 2), in_plane_mm=float(rng.uniform(0.8, 1.0))
        )
    if rng.random() < SAME_SLICES:
        flair = protocols["FLAIR"]
        protocols["T1w"] = replace(
            protocols["T1w"], slice_mm=flair.slice_mm, gap_mm=flair.gap_mm, in_plane_mm=flair.in_plane_mm,
            axes=flair.axes, tilt_deg=flair.tilt_deg,
        )  # fmt: skip
        phases["T1w"] = phases["FLAIR"]
    return {
        name: Scan(protocols[name], phase, float(rng.uniform(0, SHARPENED[name]))) for name, phase in phases.items()
    }


def scanned(rng: np.random.Generator, image: Tensor, inner: Shape, scan: Scan, residual_mm: float) -> Tensor:
    """Acquire a patch of 1 mm voxels (X, Y, Z), and bring its middle, of shape `inner`, back to its place.

    1. Slices, tilted about the patch's middle, are means over their thickness; the outermost are wider than the patch.
    2. Edges within slices are raised; ghosts, bias field and Rician noise (`acquisition.degrade`).
    3. Cubic splines along the slice axis to 1 mm, then linear interpolation on the patch's own voxels, off by a
       registration error of up to `residual_mm` and half a degree.
    """
    shape, device, protocol = tuple(image.shape), image.device, scan.protocol
    middle = (np.array(shape) - 1) / 2
    grid, to_image = _grid(shape, scan)
    slices = torch.zeros(grid, device=device)
    points = moved(lattice_points(grid, device), to_image)
    parts = max(1, round(protocol.slice_mm / PARTS_MM))
    through = torch.from_numpy((to_image[:3, 2] / protocol.step_mm).astype(np.float32)).to(device).reshape(3, 1, 1, 1)
    for part in range(parts):
        away = ((part + 0.5) / parts - 0.5) * protocol.slice_mm
        slices += sampled(image[None], points + away * through)[0] / parts
    edges = slices - blurred(slices[None], EDGE_PIXELS, axes=2)[0]
    slices = _degraded(rng, (slices + scan.sharpened * edges).clamp(min=0), protocol)
    count = grid[2]
    fine = max(2, int((count - 1) * protocol.step_mm) + 1)
    centres = np.arange(count, dtype=float)
    if protocol.step_mm > 1 and count > 3:
        matrix = cubic(centres, np.arange(fine) / protocol.step_mm)
        slices = along(torch.from_numpy(matrix).to(device), slices, 2)
        to_image = to_image @ np.diag([1, 1, 1 / protocol.step_mm, 1])
    off = np.eye(4)
    off[:3, :3] = Rotation.from_euler("xyz", rng.uniform(-RESIDUAL_DEG, RESIDUAL_DEG, 3), degrees=True).as_matrix()
    off[:3, 3] = middle - off[:3, :3] @ middle + rng.uniform(-residual_mm, residual_mm, 3) / np.sqrt(3)
    start = np.eye(4)
    start[:3, 3] = [(n - m) // 2 for n, m in zip(shape, inner, strict=True)]
    back = np.linalg.inv(to_image) @ off @ start
    return sampled(slices[None], moved(lattice_points(inner, device), back))[0]


def _grid(shape: Shape, scan: Scan) -> tuple[Shape, Affine]:
    """Shape of a scan that covers a patch, and the matrix from its voxels to the patch's."""
    protocol = scan.protocol
    spacing = np.maximum([protocol.in_plane_mm, protocol.in_plane_mm, protocol.step_mm], 0.7)
    axes = rotation(np.array(protocol.tilt_deg))[:3, :3][:, list(protocol.axes)]
    extent = np.array(shape)[list(protocol.axes)]
    x, y, z = (int(n) + more for n, more in zip(np.ceil(extent / spacing), (0, 0, 1), strict=True))
    to_image = np.eye(4)
    to_image[:3, :3] = axes * spacing
    phase = np.array([0.0, 0.0, scan.phase])
    to_image[:3, 3] = (np.array(shape) - 1) / 2 - to_image[:3, :3] @ ((np.array([x, y, z]) - 1) / 2 + phase)
    return (x, y, z), to_image


def _degraded(rng: np.random.Generator, image: Tensor, protocol: Protocol) -> Tensor:
    """`acquisition.degrade` on a device."""
    shape = tuple(image.shape)
    if protocol.ghost:
        step = image.shape[0] // protocol.ghosts
        thrown = (torch.roll(image, step, 0) + torch.roll(image, -step, 0)) / 2
        image = (1 - protocol.ghost) * image + protocol.ghost * thrown
    bias = torch.exp(protocol.bias * smooth_field(rng, shape, 70 / protocol.in_plane_mm, image.device))
    real = image * bias + protocol.noise * normal(rng, shape, image.device)
    return torch.hypot(real, protocol.noise * normal(rng, shape, image.device))
