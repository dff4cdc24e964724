"""The registration engines behind one signature, and which of them the settings name."""

from typing import Protocol

import numpy as np

from lesiondelta.images import Affine, Volume
from lesiondelta.preprocessing.elastix import elastix, refine
from lesiondelta.preprocessing.points import Degrees
from lesiondelta.preprocessing.programs import flirt, niimath


class Engine(Protocol):
    """Find the transform between two images: rigid (6) or affine (12), by what lies in a mask on the fixed one."""

    def __call__(
        self, fixed: Volume, moving: Volume, *, degrees: Degrees, threads: int = 1, mask: Volume | None = None
    ) -> Affine:
        """Return (4, 4): fixed point -> moving point, RAS+ mm."""


class Refiner(Protocol):
    """Improve a rigid transform by what lies in a mask."""

    def __call__(self, fixed: Volume, moving: Volume, start: Affine, mask: Volume, threads: int = 1) -> Affine:
        """Return (4, 4): fixed point -> moving point, RAS+ mm."""


def identity(fixed: Volume, moving: Volume, **_: object) -> Affine:
    """For images that share one space already."""
    return np.eye(4)


ENGINES: dict[str, Engine] = {"elastix": elastix, "niimath": niimath, "flirt": flirt, "none": identity}
REFINERS: dict[str, Refiner] = {"elastix": refine}
"""Of the engines that can start from a transform."""
