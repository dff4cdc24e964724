import numpy as np
import pytest
from scipy import ndimage

from lesiondelta.errors import ImageError
from lesiondelta.images import Volume, write_volume
from lesiondelta.simulation.evolution import LARGE_MM3, Rates, changes_between, draw_sizes
from lesiondelta.simulation.lesions import draw_lesions
from lesiondelta.simulation.shapes import draw_shapes, read_shapes

N = 20_000


def test_changes_happen_at_the_stated_rates():
    """Every count lies within 4 binomial standard deviations."""
    rng, rates = np.random.default_rng(0), Rates()
    changes = [changes_between(*draw_sizes(rng, 50, 2, rates, 1.0)) for _ in range(N)]
    for name in ("new", "enlarging", "shrinking", "resolved"):
        rate = getattr(rates, name)
        assert abs(changes.count(name) - N * rate) < 4 * np.sqrt(N * rate * (1 - rate)), name


def test_large_lesions_neither_come_nor_go():
    rng = np.random.default_rng(1)
    sizes = np.array([draw_sizes(rng, int(LARGE_MM3) + 1, 4, Rates(), 1.0) for _ in range(500)])
    assert sizes.min() > 0
    assert len(np.unique(sizes)) > 10


@pytest.mark.parametrize("voxels", [2, 3, 5])
def test_small_lesions_change_by_a_voxel_at_least(voxels):
    rng = np.random.default_rng(2)
    grown = [draw_sizes(rng, voxels, 2, Rates(0, 1, 0, 0), 1.0) for _ in range(20)]
    shrunk = [draw_sizes(rng, voxels, 2, Rates(0, 0, 1, 0), 1.0) for _ in range(20)]
    assert all(after > before for before, after in grown)
    assert all(0 < after < before for before, after in shrunk)


def test_lesions_keep_apart_stay_in_the_brain_and_have_their_sizes(anatomy):
    lesions = draw_lesions(np.random.default_rng(5), anatomy, 2, Rates(), 30)
    assert len(lesions) == 30
    taken = np.zeros(anatomy.brain.shape, int)
    for lesion in lesions:
        largest = np.zeros(anatomy.brain.shape, bool)
        for visit in range(2):
            mask = lesion.mask(visit)
            assert np.count_nonzero(mask) == lesion.voxels[visit]
            largest[lesion.box] |= mask
        taken += ndimage.binary_dilation(largest, np.ones((3, 3, 3)))
        assert anatomy.brain[largest].all()
    touching = sum(np.count_nonzero(lesion.mask(0) & (taken[lesion.box] > 1)) for lesion in lesions)
    assert touching == 0


def test_a_growing_lesion_contains_what_it_was(anatomy):
    lesions = draw_lesions(np.random.default_rng(6), anatomy, 2, Rates(0, 1, 0, 0, quiet=0), 10)
    for lesion in lesions:
        before, after = lesion.mask(0), lesion.mask(1)
        assert after.sum() > before.sum()
        assert not (before & ~after).any()


@pytest.fixture
def mask_file(tmp_path):
    """A box of 5 x 3 x 3 mm at (25, -20, 30) mm, stored LAS, and a speck that is too small."""
    data = np.zeros((100, 120, 100), bool)
    data[23:28, 39:42, 79:82] = True
    data[80, 80, 80] = True
    affine = np.array([[-1.0, 0, 0, 50], [0, 1, 0, -60], [0, 0, 1, -50], [0, 0, 0, 1]])
    path = tmp_path / "sub-01_mask.nii.gz"
    write_volume(path, Volume(data, affine))
    return path


def test_shapes_of_real_masks(mask_file):
    (shape,) = read_shapes(mask_file)
    assert shape.volume_mm3 == 45
    np.testing.assert_array_equal(np.unique(np.argwhere(shape.depth_mm > 0)[:, 0]).size, 5)
    np.testing.assert_allclose(shape.center_mm, [25, -20, 30], atol=1)


def test_a_real_shape_is_placed_where_it_was_found(anatomy, mask_file):
    rng = np.random.default_rng(8)
    shapes = draw_shapes(rng, [mask_file], 1)
    (lesion,) = draw_lesions(rng, anatomy, 2, Rates(0, 0, 0, 0), 1, shapes=shapes)
    where = np.argwhere(lesion.mask(0)).mean(axis=0) + [axis.start for axis in lesion.box]
    place = anatomy.affine[:3, :3] @ where + anatomy.affine[:3, 3]
    assert np.linalg.norm(np.abs(place) - [25, 20, 30]) < 15  # jitter, mirroring, nearest white matter
    assert 0.5 < lesion.voxels[0] * 8 / 45 < 2


def test_masks_of_another_resolution_are_refused(tmp_path):
    path = tmp_path / "mask.nii.gz"
    write_volume(path, Volume(np.ones((4, 4, 4), bool), np.diag([2.0, 2, 2, 1])))
    with pytest.raises(ImageError, match="1 mm grid"):
        read_shapes(path)
