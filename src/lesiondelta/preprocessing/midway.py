"""The space half-way between the visits, in which no visit is moved, scaled or blurred more than another."""

from collections.abc import Sequence

import numpy as np
from scipy.linalg import expm, logm

from lesiondelta.errors import RegistrationError
from lesiondelta.images import Affine

TOLERANCE = 1e-8
MOST_STEPS = 50
REAL = 1e-6
TOO_FAR = "The visits lie too far apart for a half-way space: look at their registration, or use --space baseline."


def midway(transforms: Sequence[Affine]) -> Affine:
    """Half-way space of visits: (4, 4), its points -> points of the space that `transforms` start from, RAS+ mm.

    `transforms` take points of one space to each visit's. From the space returned, the logarithms of the transforms to
    the visits add up to zero: for two visits each lies half of the affine away.

    Raises
    ------
    RegistrationError
        The transforms are too far apart to have a mean.
    """
    to_given = np.eye(4)
    for _ in range(MOST_STEPS):
        step = np.mean([_logarithm(transform @ to_given) for transform in transforms], axis=0)
        if np.abs(step).max() < TOLERANCE:
            return to_given
        to_given = to_given @ expm(-step)
    raise RegistrationError(TOO_FAR)


def _logarithm(transform: Affine) -> Affine:
    found = logm(transform)
    if np.abs(np.imag(found)).max() > REAL:  # half a turn: no way between is the shorter one
        raise RegistrationError(TOO_FAR)
    return np.real(found)
