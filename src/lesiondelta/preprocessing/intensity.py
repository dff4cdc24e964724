"""Intensities: N4 bias correction, and the z-score over a visit's own nonzero mask."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy import ndimage

from lesiondelta.errors import ImageError
from lesiondelta.images import Array, Volume, to_sitk
from lesiondelta.timings import timed

N4_SPACING_MM = 4.0
N4_ITERATIONS = (20, 20, 20)


def nonzero_mask(images: Array) -> Array:
    """(C, X, Y, Z) -> (X, Y, Z) bool: where any channel is not 0, holes filled; nnU-Net's definition."""
    mask: Array = ndimage.binary_fill_holes((images != 0).any(axis=0))
    return mask


def normalise(images: Array) -> Array:
    """Z-score every channel over the visit's own nonzero mask and leave 0 outside.

    Equals nnU-Net's ZScoreNormalization with `use_mask_for_norm`. The mask is the visit's own and never a union over
    visits, whose extra zeros would shift the mean.

    Parameters
    ----------
    images : (C, X, Y, Z) float

    Returns
    -------
    (C, X, Y, Z) float32
    """
    mask = nonzero_mask(images)
    result = np.zeros(images.shape, np.float32)
    for channel, image in zip(result, images, strict=True):
        inside = image[mask].astype(np.float32)
        if inside.size:
            channel[mask] = (inside - inside.mean()) / max(inside.std(), 1e-8)
    return result


@timed("resampling and bias field")
def side_by_side(make: Callable[[str], Volume], contrasts: Sequence[str], threads: int) -> dict[str, Volume]:
    """The image that `make` gives for each contrast, on threads."""
    with ThreadPoolExecutor(threads) as pool:
        return dict(zip(contrasts, pool.map(make, contrasts), strict=True))


def correct_bias(image: Volume, mask: Volume) -> Volume:
    """N4 within the mask (same grid): the field is found on a shrunken copy and divided out at full resolution.

    Raises
    ------
    ImageError
        N4 finds no field, as in an image of a few slices.
    """
    import SimpleITK as sitk

    source, inside = to_sitk(image.with_data(np.where(mask.data, image.data, 0))), to_sitk(mask)
    shrink = [max(1, round(N4_SPACING_MM / edge)) for edge in image.grid.spacing]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(N4_ITERATIONS)
    n4.SetNumberOfThreads(1)  # its sums depend on how many there are
    try:
        n4.Execute(sitk.Shrink(source, shrink), sitk.Shrink(inside, shrink))
        field = np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(source)).T)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ImageError(
            f"N4 finds no bias field in {image.name} ({reason}): look at the image, or give --no-bias-correction."
        ) from error
    return image.with_data((image.data / field).astype(np.float32))
