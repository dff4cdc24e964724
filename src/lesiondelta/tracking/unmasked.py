"""Lesions that the masks miss and the images show."""

from collections.abc import Sequence

import cc3d
import numpy as np

from lesiondelta.images import Array
from lesiondelta.tracking.places import Place, around
from lesiondelta.tracking.visit import TrackedVisit

TOUCHING = 3**0.5
"""Voxels from middle to middle, within which two are one 26-connected lesion."""


def with_unmasked(
    visits: Sequence[TrackedVisit], called: Sequence[Sequence[Place]], tolerance_voxels: float
) -> tuple[list[Array], list[Array]]:
    """The masks with lesions that became brighter and that they miss; and for every step those that became darker.

    `called` has the places of every step that are called. One that touches no lesion of either visit is a lesion of its
    own: of the later visit from then on if it became brighter. If it became darker it was one of the earlier visit,
    known to this step only: another visit at the end changes nothing of the steps before. A mask that a reader has
    corrected gets nothing, since the reader has looked.
    """
    found = [np.ascontiguousarray(visit.mask, bool).copy() for visit in visits]  # numbers follow the order in memory
    vanished = []
    for index, places in enumerate(called):
        gone = np.zeros(found[index].shape, bool)
        either = found[index] | found[index + 1]
        for place in places:
            box, near = around(place, either.shape, max(tolerance_voxels, TOUCHING))
            side = index + (place.sign > 0)
            if not either[box][near].any() and visits[side].by_hand is None:
                (found[side] if place.sign > 0 else gone)[tuple(place.voxels.T)] = True
        vanished.append(cc3d.connected_components(gone, connectivity=26).astype(np.int32))
    return found, vanished
