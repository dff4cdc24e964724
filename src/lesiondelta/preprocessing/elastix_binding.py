"""Elastix through the few modules of ITK's Python that it needs.

`itk.elastix_registration_method` loads all 1300, which takes 12 CPU seconds and 1 GB in every process; these take 1.6
seconds and 0.36 GB, and run the same compiled code (decision 010).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lesiondelta.images import Volume, lps_geometry, storable
from lesiondelta.timings import timed


@timed("registration")
def registered(
    fixed: Volume, moving: Volume, settings: Mapping[str, Sequence[str]], *, mask: Volume | None, threads: int
) -> Mapping[str, Sequence[str]]:
    """The transform that elastix finds, as it describes it: in LPS, fixed point -> moving point.

    Raises
    ------
    GeometryError
        The axes of an image are sheared.
    RuntimeError
        Elastix failed.
    """
    from itk import elxParameterObjectPython as parameters
    from itk import itkElastixRegistrationMethodPython as methods

    chosen = parameters.elastixParameterObject.New()
    chosen.AddParameterMap(dict(settings))
    method = methods.itkElastixRegistrationMethodIF3IF3.New()
    method.SetFixedImage(_image(fixed))
    method.SetMovingImage(_image(moving))
    if mask is not None:
        method.SetFixedMask(_image(mask))
    method.SetParameterObject(chosen)
    method.SetNumberOfThreads(threads)
    method.SetLogToConsole(False)
    method.UpdateLargestPossibleRegion()
    found: Mapping[str, Sequence[str]] = method.GetTransformParameterObject().GetParameterMap(0)
    return found


def _image(volume: Volume) -> Any:  # noqa: ANN401  (ITK has no types)
    """An ITK image in LPS, float32 or for masks uint8."""
    from itk import itkMatrixPython as matrices
    from itk import itkPyBufferPython as buffers
    from itk import vnl_matrixPython as numbers

    spacing, direction, origin = lps_geometry(volume)
    data = np.ascontiguousarray(storable(volume.data).T)
    buffer = buffers.itkPyBufferIUC3 if data.dtype == np.uint8 else buffers.itkPyBufferIF3
    image = buffer.GetImageFromArray(data)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(origin.tolist())
    axes = numbers.vnl_matrixD(3, 3)
    for (row, column), value in np.ndenumerate(direction):
        axes.put(row, column, float(value))
    image.SetDirection(matrices.itkMatrixD33(axes))
    return image
