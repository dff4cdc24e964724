import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from lesiondelta.errors import RegistrationError
from lesiondelta.images import Volume, read_image, read_itk_transform, read_mask
from lesiondelta.preprocessing.elastix import elastix, euler_matrix, refine
from lesiondelta.preprocessing.points import apply, coarse, dilate, distance_mm, inside_mm, sample
from lesiondelta.preprocessing.registration import ENGINES
from tests.preprocessing.heads import moved, person, rigid


def test_euler_angles_are_itks():
    import SimpleITK as sitk

    theirs = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5).GetMatrix()
    np.testing.assert_allclose(euler_matrix(0.3, -0.2, 0.5), np.reshape(theirs, (3, 3)), atol=1e-12)


def test_sampling_by_hand():
    volume = Volume(np.arange(8, dtype=np.float32).reshape(2, 2, 2), np.diag([2.0, 2.0, 2.0, 1.0]))
    np.testing.assert_allclose(sample(volume, np.array([[1.0, 0, 0], [0, 1, 2], [9, 9, 9]])), [2.0, 2.0, 0.0])


def test_dilation_is_in_mm():
    mask = np.zeros((9, 9, 9), bool)
    mask[4, 4, 4] = True
    near = dilate(Volume(mask, np.diag([1.0, 2.0, 4.0, 1.0])), 3.0).data
    assert (near.any(axis=(1, 2)).sum(), near.any(axis=(0, 2)).sum(), near.any(axis=(0, 1)).sum()) == (7, 3, 1)


def test_a_coarse_copy_stays_in_place():
    head = person(0, 2.0)["FLAIR"]
    copy = coarse(head, 4.0)
    for volume in (head, copy):
        weights = volume.data[volume.data > 50]
        centre = np.average(inside_mm(volume.with_data(volume.data > 50)), axis=0, weights=weights)
        np.testing.assert_allclose(centre, 0, atol=1.5)


@pytest.mark.parametrize("level", [0, 5])
def test_an_image_without_a_head_is_named(level):
    """A mask of lesions, or one value everywhere."""
    head = person(0)["T1w"]
    mask = np.full(head.data.shape, level, np.float32)
    mask[10:12, 10:12, 10:12] = 1
    for pair in (
        (head, Volume(mask, head.affine, "x_FLAIR.nii.gz")),
        (Volume(mask, head.affine, "x_FLAIR.nii.gz"), head),
    ):
        with pytest.raises(RegistrationError, match=r"x_FLAIR\.nii\.gz shows no head"):
            elastix(*pair, degrees=6)


@pytest.mark.slow
@pytest.mark.parametrize(("degrees", "contrast"), [(6, "T1w"), (12, "FLAIR")])
def test_elastix_recovers_a_known_movement(degrees, contrast):
    """An oblique, anisotropic, 62 mm distant image comes back within half a millimetre, twice the same."""
    head = person(0, 2.0)
    truth = rigid(0.15, (12, -9, 62)) @ rigid(0.1, axis=0)
    affine = np.linalg.inv(rigid(0.2)) @ np.diag([-1.5, 1.5, 3.0, 1.0])
    affine[:3, 3] = truth[:3, 3] - affine[:3, :3] @ (np.array((128, 150, 64)) - 1) / 2
    moving = moved(head[contrast], np.linalg.inv(truth), affine, (128, 150, 64))
    found = elastix(head["FLAIR"], moving, degrees=degrees)
    points = inside_mm(head["FLAIR"].with_data(head["FLAIR"].data > 0))
    assert np.linalg.norm(apply(found, points) - apply(truth, points), axis=1).mean() < 0.5
    np.testing.assert_array_equal(found, elastix(head["FLAIR"], moving, degrees=degrees))


@pytest.mark.slow
def test_refining_follows_the_brain_and_not_the_scalp():
    head, skull = person(0, 2.0), person(0, 2.0, skull=True)
    brain = head["FLAIR"].with_data(head["FLAIR"].data > 0)
    truth = rigid(0.03, (1.5, -1, 2))
    scalp = np.where(moved(brain, np.linalg.inv(truth)).data, 0, skull["T1w"].data)  # stays when the brain moves
    moving = head["T1w"].with_data(moved(head["T1w"], np.linalg.inv(truth)).data + scalp)
    points = inside_mm(brain)
    off_mm = [
        np.linalg.norm(apply(found, points) - apply(truth, points), axis=1).mean()
        for found in (np.eye(4), refine(skull["FLAIR"], moving, np.eye(4), brain))
    ]
    assert off_mm[1] < 0.3 < 2 < off_mm[0]


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("engine", ["elastix", "niimath"])
def test_follow_up_lies_where_the_authors_put_it(data_folder, engine):
    """Within 0.5 mm of the data set authors' transforms inside the brain."""
    folder = data_folder / "ljubljana-longitudinal"
    authors = folder / "derivatives" / "reference" / "sub-12"
    brain = read_mask(authors / "sub-12_space-common_label-brain_mask.nii.gz")
    to_first, to_second = (read_itk_transform(authors / f"study{i}_FLAIR_to_common_space.txt") for i in (1, 2))
    images = [read_image(folder / "sub-12" / f"ses-{i}" / "anat" / f"sub-12_ses-{i}_FLAIR.nii.gz") for i in (1, 2)]
    points = inside_mm(brain)[::50]
    found = ENGINES[engine](images[0], images[1], degrees=12)
    expected = apply(to_second, points)
    assert np.linalg.norm(apply(found, apply(to_first, points)) - expected, axis=1).mean() < 0.5


@pytest.mark.parametrize("order", ["C", "F", "reversed", "strided"])
def test_distances_are_those_of_scipy_whatever_the_layout(order):
    mask = np.random.default_rng(1).random((14, 18, 12)) > 0.98
    if order == "F":
        mask = np.asfortranarray(mask)
    elif order != "C":
        mask = mask[::-1, :, ::-1] if order == "reversed" else mask[::2, :, ::3]
    spacing = np.array([0.7, 1.0, 3.2])
    expected = ndimage.distance_transform_edt(~mask, sampling=spacing)
    np.testing.assert_allclose(distance_mm(mask, spacing), expected, rtol=1e-5)
    assert np.isinf(distance_mm(np.zeros_like(mask), spacing)).all()
    assert not distance_mm(np.ones_like(mask), spacing).any()


def test_elastix_loads_few_of_itks_modules():
    """All 1300 take 12 CPU seconds and 1 GB; with sheared axes, masks and all, a registration needs 400."""
    code = """
import sys
import numpy as np
from scipy import ndimage
from lesiondelta.images import Volume
from lesiondelta.preprocessing.elastix import elastix
data = ndimage.gaussian_filter(np.random.default_rng(0).random((24, 26, 22)), 2).astype(np.float32)
mask = Volume(data > 0, np.eye(4))
elastix(Volume(data, np.eye(4)), Volume(data, np.eye(4)), degrees=6, mask=mask)
print(sum(name.startswith("itk.") for name in sys.modules))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(said.stdout) < 600
