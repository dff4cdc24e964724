"""Rigid and affine registration by itk-elastix: mutual information, pyramids in mm, one fixed seed.

Elastix's images have rectangular axes, so sheared ones are resampled first. The start is folded into the moving image's
affine, so every transform below is found from the identity and composed in plain matrices.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from lesiondelta.errors import RegistrationError
from lesiondelta.images import RAS_TO_LPS, Affine, Array, Volume, corners_mm, isotropic_grid, resample
from lesiondelta.preprocessing.elastix_binding import registered
from lesiondelta.preprocessing.points import Degrees, coarse, coarse_mask

SMOOTHING_MM = (6.0, 3.0, 1.5, 0.75)
"""Gaussian sigma of the pyramid's levels."""
COARSE_MM = 2.0
SAMPLES = 2048
ITERATIONS = 250
SEED = 1


def elastix(fixed: Volume, moving: Volume, *, degrees: Degrees, threads: int = 1, mask: Volume | None = None) -> Affine:
    """Rigid (6), or rigid and then affine (12), from the centres of gravity on.

    A rigid transform joins two contrasts of one visit, which needs the full detail. An affine one joins two images of
    one contrast, for which copies at 2 mm are as accurate and five times quicker.

    Returns
    -------
    (4, 4) fixed point -> moving point, RAS+ mm
    """
    transform = between_centres(fixed, moving)
    if degrees == 12:
        fixed, moving = coarse(fixed, COARSE_MM), coarse(moving, COARSE_MM)
        mask = mask and coarse_mask(mask, COARSE_MM)
    sigmas_mm = [sigma for sigma in SMOOTHING_MM if degrees == 6 or sigma >= COARSE_MM / 2]
    for kind in ("EulerTransform", "AffineTransform")[: 1 if degrees == 6 else 2]:
        transform = _improved(transform, fixed, moving, _settings(kind, sigmas_mm), threads, mask)
    return transform


def refine(fixed: Volume, moving: Volume, start: Affine, mask: Volume, threads: int = 1) -> Affine:
    """Improve a rigid transform by what lies in a mask, at full detail; scalp and neck, which move, have no say.

    Returns
    -------
    (4, 4) fixed point -> moving point, RAS+ mm
    """
    return _improved(start, fixed, moving, _settings("EulerTransform", SMOOTHING_MM[-2:]), threads, mask)


def between_centres(fixed: Volume, moving: Volume) -> Affine:
    """The shift that lays one centre of gravity on the other."""
    transform = np.eye(4)
    transform[:3, 3] = centre_mm(moving) - centre_mm(fixed)
    return transform


def centre_mm(volume: Volume) -> Array:
    """Centre of gravity in RAS+ mm; air and the brightest voxels do not pull.

    Raises
    ------
    RegistrationError
        Nearly all voxels are alike.
    """
    bright = np.clip(volume.data - np.percentile(volume.data, 10), 0, np.percentile(volume.data, 99))
    if not bright.any():
        raise RegistrationError(
            f"{volume.name} shows no head, nearly all of its voxels are alike: look at it, it may be a mask of lesions."
        )
    centre: Array = volume.affine[:3, :3] @ ndimage.center_of_mass(bright) + volume.affine[:3, 3]
    return centre


def _settings(kind: str, smoothing_mm: Sequence[float]) -> dict[str, Sequence[str]]:
    levels = len(smoothing_mm)
    schedule = [f"{sigma}" for sigma in smoothing_mm for _ in range(3)]
    return {
        "Transform": [kind],
        "Registration": ["MultiResolutionRegistration"],
        "Metric": ["AdvancedMattesMutualInformation"],
        "NumberOfHistogramBins": ["32"],
        "Optimizer": ["AdaptiveStochasticGradientDescent"],
        "AutomaticParameterEstimation": ["true"],
        "AutomaticScalesEstimation": ["true"],
        "AutomaticTransformInitialization": ["false"],
        "MaximumNumberOfIterations": [f"{ITERATIONS}"],
        "NumberOfResolutions": [f"{levels}"],
        "FixedImagePyramid": ["FixedGenericImagePyramid"],
        "MovingImagePyramid": ["MovingGenericImagePyramid"],
        "FixedImagePyramidSmoothingSchedule": schedule,
        "MovingImagePyramidSmoothingSchedule": schedule,
        "FixedImagePyramidRescaleSchedule": ["1"] * len(schedule),
        "MovingImagePyramidRescaleSchedule": ["1"] * len(schedule),
        "ImageSampler": ["RandomCoordinate"],
        "NumberOfSpatialSamples": [f"{SAMPLES}"],
        "NewSamplesEveryIteration": ["true"],
        "MaximumNumberOfSamplingAttempts": ["8"],
        "RandomSeed": [f"{SEED}"],
        "Interpolator": ["LinearInterpolator"],
        "ResampleInterpolator": ["FinalBSplineInterpolator"],
        "Resampler": ["DefaultResampler"],
        "WriteResultImage": ["false"],
        "ErodeMask": ["false"],
    }


def _improved(
    transform: Affine,
    fixed: Volume,
    moving: Volume,
    settings: dict[str, Sequence[str]],
    threads: int,
    mask: Volume | None,
) -> Affine:
    """The transform and the change that elastix finds from there."""
    moving = Volume(moving.data, np.linalg.inv(transform) @ moving.affine, moving.name)
    try:
        result = registered(
            _rectangular(fixed), _rectangular(moving), settings, mask=mask and _rectangular(mask), threads=threads
        )
    except RuntimeError as error:
        raise RegistrationError(
            f"{moving.name} could not be registered to {fixed.name} ({_reason(error)}): look at both images."
        ) from error
    return transform @ _matrix(result)


def _rectangular(volume: Volume) -> Volume:
    """The volume itself, or where its axes are sheared a copy on cubic voxels."""
    directions = volume.affine[:3, :3] / volume.grid.spacing
    if np.abs(directions.T @ directions - np.eye(3)).max() < 1e-4:
        return volume
    grid = isotropic_grid(corners_mm(volume.grid), float(volume.grid.spacing.min()))
    return resample(volume, grid, order="nearest" if volume.data.dtype == np.bool_ else "linear")


def _reason(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def _matrix(result: Mapping[str, Sequence[str]]) -> Affine:
    values = np.array(result["TransformParameters"], dtype=np.float64)
    centre = np.array(result["CenterOfRotationPoint"], dtype=np.float64)
    lps = np.eye(4)
    lps[:3, :3] = euler_matrix(*values[:3]) if len(values) == 6 else values[:9].reshape(3, 3)
    lps[:3, 3] = values[-3:] + centre - lps[:3, :3] @ centre
    return RAS_TO_LPS @ lps @ RAS_TO_LPS


def euler_matrix(x: float, y: float, z: float) -> Array:
    """ITK's Euler angles in radians: Rz Rx Ry, (3, 3)."""
    cos, sin = np.cos([x, y, z]), np.sin([x, y, z])
    around_x = np.array([[1, 0, 0], [0, cos[0], -sin[0]], [0, sin[0], cos[0]]])
    around_y = np.array([[cos[1], 0, sin[1]], [0, 1, 0], [-sin[1], 0, cos[1]]])
    around_z = np.array([[cos[2], -sin[2], 0], [sin[2], cos[2], 0], [0, 0, 1]])
    matrix: Array = around_z @ around_x @ around_y
    return matrix
