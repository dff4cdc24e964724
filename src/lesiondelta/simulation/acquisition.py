"""Scanners: pose, slices, bias field, noise, and what preprocessing makes of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import ndimage
from scipy.interpolate import make_interp_spline

from lesiondelta.cohort import CONTRASTS
from lesiondelta.images import Array, Volume
from lesiondelta.simulation.fields import distance_mm, smooth_field


@dataclass(frozen=True)
class Acquisition:
    """How a patient is scanned.

    Attributes
    ----------
    mode : "aligned" or "native"
        aligned: as after preprocessing, all images on one brain-masked 1 mm grid. native: as from the scanner.
    sharp_share : float
        Share of visits acquired with 1 mm isotropic voxels; the others have thick slices.
    whole_head : bool
        native only: with skull and scalp, or stripped. Real patients are stripped in any case.
    scanner : int or None
        The number of the one scanner, with one protocol, that takes all images. None: one is drawn for every patient
        and often another between visits, the protocol at every visit.
    slice_mm, noise : float or None
        Of every image, instead of what is drawn.
    residual_mm : float or None
        aligned only: by how far, at most, an image is off its place; None: 0.35 for the FLAIR, 0.7 for the T1w.
    randomised_share : float
        Share of the scanners whose contrast is none that exists (`draw_contrasts`).
    """

    mode: Literal["aligned", "native"] = "aligned"
    sharp_share: float = 0.25
    whole_head: bool = True
    scanner: int | None = None
    slice_mm: float | None = None
    noise: float | None = None
    residual_mm: float | None = None
    randomised_share: float = 0.0


@dataclass(frozen=True)
class Protocol:
    """One image's geometry and quality.

    Attributes
    ----------
    slice_mm, gap_mm, in_plane_mm : float
        Thickness of the slices, the space between two of them, edge of the voxels within them.
    axes : which axis of the head runs along the scan's X, Y and Z; the last one is the slice axis
    tilt_deg : three angles
    noise : float
        Standard deviation in units of white matter.
    bias : float
        Standard deviation of the logarithm of the bias field.
    ghost : float
        Share of the signal that motion throws elsewhere along the phase axis, which is the first of the slice's two.
    ghosts : int
        Into how many parts the ghosts divide the field of view.
    """

    slice_mm: float
    in_plane_mm: float
    axes: tuple[int, int, int]
    tilt_deg: tuple[float, float, float]
    noise: float
    bias: float
    gap_mm: float = 0.0
    ghost: float = 0.0
    ghosts: int = 2

    @property
    def step_mm(self) -> float:
        """From one slice's middle to the next one's."""
        return self.slice_mm + self.gap_mm


FIELDS = {1.5: (1.3, 0.8), 3.0: (0.8, 1.3)}
"""Factors of noise and of the bias field, by field strength in tesla: more signal, and less even."""
MOVED_SHARE, GAP_SHARE = 0.15, 0.3  # of images with ghosts, of thick slices with gaps


def draw_protocols(rng: np.random.Generator, acquisition: Acquisition) -> dict[str, Protocol]:
    """The T1w's and FLAIR's protocols of one visit."""
    if acquisition.scanner is None:
        return _draw_protocols(rng, acquisition)
    fixed = _draw_protocols(np.random.default_rng(acquisition.scanner), acquisition)
    for name, protocol in fixed.items():  # how somebody lay and moved is not the scanner's
        ghost, ghosts = _draw_motion(rng)
        fixed[name] = replace(protocol, tilt_deg=_draw_tilt(rng), ghost=ghost, ghosts=ghosts)
    return fixed


def _draw_protocols(rng: np.random.Generator, acquisition: Acquisition) -> dict[str, Protocol]:
    sharp = rng.random() < acquisition.sharp_share
    noisy, uneven = FIELDS[float(rng.choice(list(FIELDS)))]
    protocols = {}
    for name in CONTRASTS:
        drawn = _draw_protocol(rng, name, sharp, acquisition.mode == "aligned")
        drawn = replace(drawn, noise=drawn.noise * noisy, bias=drawn.bias * uneven)
        if acquisition.slice_mm is not None:
            drawn = replace(drawn, slice_mm=acquisition.slice_mm, gap_mm=0.0)
        protocols[name] = drawn if acquisition.noise is None else replace(drawn, noise=acquisition.noise)
    return protocols


def _draw_tilt(rng: np.random.Generator) -> tuple[float, float, float]:
    x, y, z = rng.uniform(-12, 12, 3).tolist()
    return x, y, z


def _draw_motion(rng: np.random.Generator) -> tuple[float, int]:
    """`ghost` and `ghosts` of one image."""
    return float(rng.uniform(0.01, 0.08)) if rng.random() < MOVED_SHARE else 0.0, int(rng.integers(2, 5))


def _draw_protocol(rng: np.random.Generator, name: str, sharp: bool, corrected: bool) -> Protocol:
    noise = float(np.exp(rng.uniform(np.log(0.01), np.log(0.06))))
    bias = rng.uniform(0.0, 0.08) if corrected else rng.uniform(0.05, 0.2)
    tilt = _draw_tilt(rng)
    ghost, ghosts = _draw_motion(rng)
    if sharp:
        return Protocol(1.0, 1.0, (0, 1, 2), tilt, noise, bias, ghost=ghost, ghosts=ghosts)
    thick = rng.choice([1.5, 2, 3, 4, 5], p=[0.1, 0.15, 0.5, 0.15, 0.1] if name == "FLAIR" else [0.3, 0.2, 0.4, 0.1, 0])
    axes = ((0, 1, 2), (1, 2, 0), (0, 2, 1))[rng.choice(3, p=[0.75, 0.15, 0.1])]
    gap = float(thick * rng.uniform(0.1, 0.3)) if thick > 2 and rng.random() < GAP_SHARE else 0.0
    return Protocol(float(thick), float(rng.uniform(0.7, 1.05)), axes, tilt, noise, bias, gap, ghost, ghosts)


def degrade(rng: np.random.Generator, image: Array, protocol: Protocol, field_mm: float, phase_axis: int = 0) -> Array:
    """Ghosts, bias field and Rician noise; `field_mm` is the voxel size, white matter is 1."""
    if protocol.ghost:
        image = ghosted(image, protocol, phase_axis)
    bias = np.exp(protocol.bias * smooth_field(rng, image.shape, 70 / field_mm))
    real = image * bias + protocol.noise * rng.standard_normal(image.shape, dtype=np.float32)
    imaginary = protocol.noise * rng.standard_normal(image.shape, dtype=np.float32)
    magnitude: Array = np.sqrt(real**2 + imaginary**2)
    return magnitude.astype(np.float32)


def ghosted(image: Array, protocol: Protocol, phase_axis: int) -> Array:
    """An image with a part of its signal thrown to both sides along an axis, round the field of view."""
    step = image.shape[phase_axis] // protocol.ghosts
    thrown = (np.roll(image, step, phase_axis) + np.roll(image, -step, phase_axis)) / 2
    mixed: Array = (1 - protocol.ghost) * image + protocol.ghost * thrown
    return mixed


def aligned(rng: np.random.Generator, image: Volume, protocol: Protocol, residual_mm: float) -> Array:
    """Scan an image and resample it back to its own grid, with a small registration error.

    The slices lie along an axis of the grid, so that every step is one matrix per axis: averaging over the slice,
    then cubic interpolation back. (Tilted slices, as `native` has them, would cost ten times as much.)
    """
    spacing = float(np.linalg.norm(image.affine[:3, 0]))
    shift = rng.uniform(-residual_mm, residual_mm, 3) / np.sqrt(3) / spacing
    scan, back = image.data, []
    for axis, n in enumerate(image.data.shape):
        across = axis == protocol.axes[2]
        thick = max(protocol.slice_mm if across else 1.0, spacing) / spacing
        step = max(protocol.step_mm if across else 1.0, spacing) / spacing
        centers = np.arange(rng.uniform(0, step) - step if step > 1 else 0.0, n - 1 + step, step)
        back.append(cubic(centers, np.arange(n) + shift[axis]))
        if step > 1:
            scan = _along(_box_average(centers, thick, n), scan, axis)
    scan = degrade(rng, scan, protocol, spacing, phase_axis=protocol.axes[0])
    for axis, matrix in enumerate(back):
        scan = _along(matrix, scan, axis)
    return scan


def _along(matrix: Array, data: Array, axis: int) -> Array:
    """Apply a matrix to one axis of an array."""
    return np.moveaxis(np.tensordot(matrix, data, axes=(1, axis)), 0, axis)


def _box_average(centers: Array, width: float, n: int) -> Array:
    """Weights (slices, n) that average n voxels over slices of a width in voxels."""
    voxels = np.arange(n)
    low = np.maximum(centers[:, None] - width / 2, voxels - 0.5)
    high = np.minimum(centers[:, None] + width / 2, voxels + 0.5)
    weights: Array = np.clip(high - low, 0, None) / width
    return weights.astype(np.float32)


def cubic(centers: Array, positions: Array) -> Array:
    """Weights (positions, centers) of cubic spline interpolation, clamped to the range of the centers."""
    spline = make_interp_spline(centers, np.eye(len(centers)), k=3)
    weights: Array = spline(np.clip(positions, centers[0], centers[-1])).astype(np.float32)
    return weights


@dataclass(frozen=True, eq=False)
class Leftovers:
    """What brain extraction leaves outside a person's brain: where (X, Y, Z) bool, and how bright by contrast."""

    where: Array
    brightness: Mapping[str, Array]


def draw_leftovers(rng: np.random.Generator, brain: Array, spacing_mm: float, names: Sequence[str]) -> Leftovers:
    """Patches of a shell of up to 5 mm, the same at every visit; white matter is 1. Some people have none."""
    shape, away = brain.shape, distance_mm(brain, spacing_mm)
    thickness_mm = rng.uniform(1, 5) if rng.random() < 0.7 else 0.0
    patches = smooth_field(rng, shape, 12 / spacing_mm) > rng.uniform(0.0, 1.5)
    fields = {name: smooth_field(rng, shape, 3 / spacing_mm) for name in names}
    brightness = {name: np.clip(rng.uniform(0.3, 1.4) + 0.5 * f, 0.05, 2.5) for name, f in fields.items()}
    return Leftovers((away > 0) & (away <= thickness_mm) & patches, brightness)


def imperfect_mask(rng: np.random.Generator, brain: Array, csf: Array, spacing_mm: float) -> Array:
    """The brain mask as a program would find it: a millimetre too wide or tight here and there, fluid in or out."""
    soft = ndimage.gaussian_filter(brain.astype(np.float32), 1.5 / spacing_mm)
    offset = np.clip(rng.uniform(-0.15, 0.25) + 0.12 * smooth_field(rng, brain.shape, 15 / spacing_mm), -0.35, 0.35)
    mask: Array = (soft > 0.5 + offset) & brain
    if rng.random() < 0.4:  # masks that follow the folds, as those of many public images do
        tissue = ndimage.gaussian_filter((csf < 0.5).astype(np.float32), 0.8) > 0.35
        mask &= tissue | (ndimage.gaussian_filter(brain.astype(np.float32), 5 / spacing_mm) > 0.93)
    return mask
