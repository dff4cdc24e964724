import numpy as np
import pytest

from lesiondelta.errors import RegistrationError
from lesiondelta.images import Volume, read_image, read_itk_transform, read_mask, resample
from lesiondelta.preprocessing import brain
from tests.preprocessing.heads import person


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.mark.parametrize("background", [0.0, -0.002, 0.009])
def test_a_stripped_image_brings_its_mask(background):
    image = person(0)["FLAIR"]
    found = brain.own_mask(image.with_data(np.where(image.data > 0, image.data, background).astype(np.float32)))
    assert found is not None
    assert dice(found.data, image.data > 0) > 0.99


def test_a_noisy_background_is_not_stripped():
    image = person(0)["FLAIR"]
    noise = np.random.default_rng(0).rayleigh(5, image.data.shape).astype(np.float32)
    assert brain.own_mask(image.with_data(image.data + noise)) is None


def test_a_whole_head_with_a_zeroed_background_is_not_stripped():
    image = person(0, skull=True)["T1w"]
    larger = Volume(image.data, np.diag([1.1, 1.1, 1.1, 1.0]) @ image.affine, "head")
    assert brain.own_mask(larger) is None


def test_the_user_can_say_that_it_is_stripped():
    image = person(0)["FLAIR"]
    noise = np.random.default_rng(0).rayleigh(5, image.data.shape).astype(np.float32)
    assert brain.own_mask(image.with_data(image.data + noise), certain=True) is not None


@pytest.mark.parametrize("edge", [5, 60])
def test_what_cannot_be_a_brain_is_refused(edge):
    mask = np.zeros((64, 64, 64), bool)
    mask[:edge, :edge, :edge] = True
    with pytest.raises(RegistrationError, match=r"head.nii.gz has .* litres"):
        brain.require_plausible(Volume(mask, np.diag([3.0, 3.0, 3.0, 1.0])), "head.nii.gz")


def test_rough_mask_leaves_the_scalp_out():
    image = person(0, spacing_mm=3.0, skull=True)["T1w"]
    inside = person(0, spacing_mm=3.0)["T1w"].data > 0
    assert dice(brain.rough_mask(image, *(share * brain.level(image) for share in brain.TISSUE)).data, inside) > 0.9


def test_scraps_of_scalp_are_trimmed_and_a_cut_off_lobe_is_not():
    image, inside = person(0, spacing_mm=3.0, skull=True)["T1w"], person(0, spacing_mm=3.0)["T1w"].data > 0
    scraps = (image.data > 600) & (np.indices(image.data.shape)[0] > 50)
    lobe = np.zeros_like(inside)
    lobe[25:35, 56:57, 20:40] = inside[25:35, 56:57, 20:40]  # a dark sulcus cuts off what lies before it
    head = image.with_data(np.where(lobe, 50, image.data).astype(np.float32))
    trimmed = brain.trimmed(image.with_data(inside | scraps), head, 250).data
    assert scraps.sum() > 500
    assert not (trimmed & scraps).any()
    assert (inside & ~trimmed).sum() < 0.001 * inside.sum()


def test_wide_ventricles_that_open_to_the_outside_stay():
    """A channel of fluid leads from a cavity of 40 mm in the middle to the surface."""
    image, inside = person(0, spacing_mm=2.0)["T1w"], person(0, spacing_mm=2.0)["T1w"].data > 0
    x, y, z = np.argwhere(inside).mean(axis=0).astype(int)
    fluid = np.zeros_like(inside)
    fluid[x - 10 : x + 10, y - 10 : y + 10, z - 10 : z + 10] = True
    fluid[x - 2 : x + 2, y - 2 : y + 2, :z] = True
    head = image.with_data(np.where(fluid, 50, image.data).astype(np.float32))
    lost = inside & ~brain.trimmed(image.with_data(inside), head, 250).data
    assert not lost[x - 10 : x + 10, y - 10 : y + 10, z - 10 : z + 10].any()


def test_noise_does_not_dissolve_the_brain():
    image, inside = person(0, spacing_mm=1.0)["T1w"], person(0, spacing_mm=1.0)["T1w"].data > 0
    noise = np.random.default_rng(0).normal(0, 100, inside.shape)
    noisy = image.with_data((image.data + noise).astype(np.float32))
    clean, kept = (brain.trimmed(image.with_data(inside), head, 250).data for head in (image, noisy))
    assert (clean & ~kept).sum() < 0.002 * inside.sum()


@pytest.mark.slow
@pytest.mark.data
def test_atlas_mask_of_a_real_head(data_folder):
    """Dice 0.95 or more against the data set authors' mask."""
    folder = data_folder / "ljubljana-longitudinal"
    authors = folder / "derivatives" / "reference" / "sub-12"
    reference = read_mask(authors / "sub-12_space-common_label-brain_mask.nii.gz")
    head = read_image(folder / "sub-12" / "ses-1" / "anat" / "sub-12_ses-1_T1w.nii.gz")
    to_flair = read_itk_transform(authors / "study1_FLAIR_to_common_space.txt")
    to_t1w = read_itk_transform(authors / "study1_T1W_intrastudy_to_FLAIR.txt")
    found = resample(brain.extract(head, "atlas"), reference.grid, to_t1w @ to_flair, order="linear")
    assert dice(found.data > 0.5, reference.data) >= 0.95
