import numpy as np
import pytest

from lesiondelta.anatomy.finding import Anatomy
from lesiondelta.atlas.parts import Part
from lesiondelta.errors import ImageError, RegistrationError
from lesiondelta.images import Volume, corners_mm, isotropic_grid, read_image, read_itk_transform, read_mask, resample
from lesiondelta.preprocessing import brain
from lesiondelta.preprocessing.points import litres
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
    found = resample(brain.extract({"T1w": head}, "atlas"), reference.grid, to_t1w @ to_flair, order="linear")
    assert dice(found.data > 0.5, reference.data) >= 0.95


def ball(radius_mm):
    """An anatomy whose white matter is a ball around the origin."""
    points = np.indices((90, 100, 90)) * 2.0 - np.array([90, 100, 90])[:, None, None, None]
    shares = np.zeros((len(Part), 90, 100, 90), np.float32)
    shares[Part.WHITE] = (points**2).sum(axis=0) <= radius_mm**2
    shares[Part.OUTSIDE] = 1 - shares[Part.WHITE]
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = -90, -100, -90
    return Anatomy(shares, affine)


def test_the_network_s_brain_lies_on_the_image_s_grid(monkeypatch):
    shown = []
    monkeypatch.setattr(brain, "find_anatomy", lambda images: shown.append(sorted(images)) or ball(65))
    affine = np.array([[0, -2.0, 0, 80], [-2, 0, 0, 90], [0, 0, 4, -80], [0, 0, 0, 1]])
    images = {name: Volume(np.ones((90, 80, 40), np.float32), affine, name) for name in ("T1w", "FLAIR")}
    found = brain.extract(images, "network")
    assert shown == [["FLAIR", "T1w"]]
    points = np.argwhere(found.data) @ affine[:3, :3].T + affine[:3, 3]
    assert litres(found) == pytest.approx(4 / 3 * np.pi * 65**3 / 1e6, rel=0.02)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=0.5)


@pytest.mark.parametrize(("shift", "doubtful"), [(0, False), (8, True)])
def test_a_brain_that_a_flair_alone_shows_must_be_confirmed(monkeypatch, shift, doubtful):
    """A ball with scalp beside it, which the network does not take for brain; or a network that sees another ball."""
    x, y, z = np.indices((40, 40, 40)) - 20
    ball = x**2 + y**2 + z**2 < 15**2
    scalp = np.zeros_like(ball)
    scalp[34:38, 15:25, 15:25] = True
    mask = Volume(ball | scalp, np.eye(4), "flair")

    class Seen:
        def brain(self, grid):
            return np.roll(ball, shift, axis=1)

    monkeypatch.setattr(brain, "find_anatomy", lambda images: Seen())
    found, doubts = brain.confirmed(mask, Volume(ball.astype(np.float32), np.eye(4), "flair"))
    assert not (found.data & scalp & ~ball)[37:].any()
    assert (found.data[ball].mean() > 0.99) is not doubtful
    assert bool(doubts) is doubtful
    assert not doubts or "flair is doubtful" in doubts[0]


def test_a_brain_that_the_network_does_not_see_is_flagged(monkeypatch):
    def nothing(images):
        raise ImageError("no brain was seen")

    monkeypatch.setattr(brain, "find_anatomy", nothing)
    mask = Volume(np.ones((5, 5, 5), bool), np.eye(4))
    found, doubts = brain.confirmed(mask, Volume(np.ones((5, 5, 5), np.float32), np.eye(4), "flair"))
    assert found.data.all()
    assert "found by the atlas alone" in doubts[0]


def test_what_the_network_sees_may_be_no_brain(monkeypatch):
    monkeypatch.setattr(brain, "find_anatomy", lambda images: ball(40))
    image = Volume(
        np.ones((80, 80, 80), np.float32), np.array([[2.0, 0, 0, -80], [0, 2, 0, -80], [0, 0, 2, -80], [0, 0, 0, 1]])
    )
    with pytest.raises(RegistrationError, match=r"0\.27 litres"):
        brain.extract({"FLAIR": image}, "network")


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("shown", [("T1w", "FLAIR"), ("FLAIR",)])
def test_the_network_finds_a_real_brain(data_folder, shown):
    """Dice 0.94 or more against the data set authors' mask."""
    folder = data_folder / "ljubljana-longitudinal"
    authors = folder / "derivatives" / "reference" / "sub-12"
    reference = read_mask(authors / "sub-12_space-common_label-brain_mask.nii.gz")
    anat = folder / "sub-12" / "ses-1" / "anat"
    flair, t1w = (read_image(anat / f"sub-12_ses-1_{name}.nii.gz") for name in ("FLAIR", "T1w"))
    to_flair = read_itk_transform(authors / "study1_FLAIR_to_common_space.txt")
    grid = isotropic_grid(corners_mm(flair.grid), 1.0, 20)
    to_t1w = read_itk_transform(authors / "study1_T1W_intrastudy_to_FLAIR.txt")
    images = {"FLAIR": resample(flair, grid, order="linear"), "T1w": resample(t1w, grid, to_t1w, "linear")}
    found = brain.extract({name: images[name] for name in shown}, "network")
    assert dice(found.data, resample(reference, grid, np.linalg.inv(to_flair), "nearest").data) >= 0.94
