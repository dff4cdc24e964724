"""Categories of hand-made lesions in a hand-made brain, and of points in the atlas."""

import numpy as np
import pytest

from lesiondelta.atlas import Region, mni152_regions
from lesiondelta.atlas.location import Location, locate


def regions():
    """Along x: ventricle 0-4, white matter 5-24, cortex 25-29; the lowest planes are infratentorial."""
    brain = np.full((30, 6, 12), Region.WHITE, np.uint8)
    brain[:5], brain[25:] = Region.VENTRICLES, Region.CORTEX
    brain[..., :4] = Region.INFRATENTORIAL
    return brain


@pytest.mark.parametrize(
    ("x", "z", "expected"),
    [
        (slice(7, 9), slice(8, 9), Location.PERIVENTRICULAR),  # 7 is 3 voxels from 4
        (slice(8, 10), slice(8, 9), Location.DEEP),
        (slice(22, 24), slice(8, 9), Location.DEEP),
        (slice(23, 25), slice(8, 9), Location.JUXTACORTICAL),
        (slice(26, 28), slice(8, 9), Location.JUXTACORTICAL),  # in the cortex
        (slice(5, 26), slice(8, 9), Location.PERIVENTRICULAR),  # from one to the other
        (slice(12, 13), slice(2, 6), Location.INFRATENTORIAL),  # half of it
        (slice(12, 13), slice(3, 6), Location.DEEP),
    ],
)
def test_the_rules(x, z, expected):
    lesions = np.zeros((30, 6, 12), np.int32)
    lesions[x, 2, z] = 7
    assert locate(lesions, regions(), 1.0) == {7: expected}


def test_distances_are_in_mm():
    lesions = np.zeros((30, 6, 12), np.int32)
    lesions[7, 2, 8] = 1
    assert locate(lesions, regions(), 2.0) == {1: Location.DEEP}


def test_no_lesion():
    assert locate(np.zeros((30, 6, 12), np.int32), regions(), 1.0) == {}


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ((24, -32, 22), Location.PERIVENTRICULAR),
        ((26, -20, 40), Location.DEEP),
        ((4, -26, -32), Location.INFRATENTORIAL),
        ((37, -22, 50), Location.JUXTACORTICAL),
    ],
)
def test_places_in_the_atlas(place, expected):
    atlas = mni152_regions()
    lesions = np.zeros(atlas.data.shape, np.uint8)
    lesions[tuple(np.rint(np.linalg.inv(atlas.affine) @ [*place, 1])[:3].astype(int))] = 1
    assert locate(lesions, atlas.data, 1.0) == {1: expected}
