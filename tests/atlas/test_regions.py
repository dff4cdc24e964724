"""The region map of the MNI152 atlas."""

import numpy as np
import pytest
from recipes.region_map import region_map

from lesiondelta.atlas import Region, mni152, mni152_regions

LANDMARKS = {
    "body of the lateral ventricle": ((20, -30, 20), Region.VENTRICLES),
    "frontal horn": ((8, 20, 6), Region.VENTRICLES),
    "atrium": ((30, -45, 8), Region.VENTRICLES),
    "temporal horn": ((28, -12, -16), Region.VENTRICLES),
    "fourth ventricle": ((0, -46, -32), Region.INFRATENTORIAL),
    "pons": ((4, -24, -32), Region.INFRATENTORIAL),
    "midbrain": ((4, -20, -14), Region.INFRATENTORIAL),
    "cerebellar hemisphere": ((30, -62, -36), Region.INFRATENTORIAL),
    "quadrigeminal cistern": ((0, -40, 2), Region.FLUID),
    "velum interpositum": ((0, -30, 12), Region.FLUID),
    "Sylvian fissure": ((41, -8, 10), Region.FLUID),
    "insula": ((37, 4, 4), Region.CORTEX),
    "motor cortex": ((38, -24, 54), Region.CORTEX),
    "thalamus": ((12, -20, 8), Region.WHITE),
    "putamen": ((26, 4, 4), Region.WHITE),
    "centrum semiovale": ((26, -20, 36), Region.WHITE),
    "corpus callosum": ((0, -14, 26), Region.WHITE),
    "air": ((0, 0, 90), 0),
}


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("name", LANDMARKS)
def test_landmarks_lie_in_their_regions(name, side):
    regions = mni152_regions()
    (x, y, z), expected = LANDMARKS[name]
    voxel = np.rint(np.linalg.inv(regions.affine) @ [side * x, y, z, 1])[:3].astype(int)
    assert regions.data[tuple(voxel)] == expected


def test_the_shipped_map_is_what_the_recipe_makes():
    made = region_map(mni152("grey"), mni152("white"), mni152("brain"))
    np.testing.assert_array_equal(made.data, mni152_regions().data)
    np.testing.assert_allclose(made.affine, mni152_regions().affine)


def test_every_voxel_of_the_brain_has_a_region():
    np.testing.assert_array_equal(mni152_regions().data > 0, mni152("brain").data)


@pytest.mark.parametrize("what", ["t1w", "grey", "white", "brain"])
def test_the_maps_are_those_of_nilearn(what):
    from recipes.atlas_maps import LOADED

    image, ours = LOADED[what](resolution=1), mni152(what)
    np.testing.assert_array_equal(ours.data, np.asarray(image.dataobj, ours.data.dtype))
    np.testing.assert_array_equal(ours.affine, image.affine)


def test_a_coarser_map_lies_in_the_same_place():
    fine, coarse = mni152("brain"), mni152("brain", 2)
    assert coarse.grid.spacing.tolist() == [2, 2, 2]
    assert coarse.data.dtype == bool
    assert 8 * coarse.data.sum() == pytest.approx(fine.data.sum(), rel=0.01)
    centres = [
        (np.argwhere(one.data) @ one.affine[:3, :3].T + one.affine[:3, 3]).mean(axis=0) for one in (fine, coarse)
    ]
    np.testing.assert_allclose(*centres, atol=0.3)
