"""Noise, slices and ghosts are measured as they are."""

import numpy as np
import pytest
from scipy import ndimage

from lesiondelta.image_range import ImageRange, beyond
from lesiondelta.images import Volume
from lesiondelta.preprocessing.image_quality import doubts_of_size, ghosting, noise, slice_mm, thickness_mm
from tests.preprocessing.heads import person


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.2])
def test_noise_is_that_which_was_added(share, axis):
    """Whatever axis the slices are stacked along, and though lesions and folds are there."""
    head = person(0, 2.0)["FLAIR"]
    inside = head.data > 0
    level = np.median(head.data[inside])
    noisy = head.data + np.random.default_rng(1).normal(0, share * level, head.data.shape)
    spacing = np.full(3, 0.9)
    spacing[axis] = 3.0
    image = Volume(noisy.astype(np.float32), np.diag([*spacing, 1.0]))
    assert noise(image, inside) == pytest.approx(share, rel=0.15, abs=0.005)


def test_slices_are_the_longest_edge_in_any_orientation():
    affine = np.array([[0, 0, -0.9, 5], [5.5, 0, 0, 5], [0, 0.9, 0, 5], [0, 0, 0, 1]])
    assert slice_mm(Volume(np.zeros((4, 4, 4)), affine)) == pytest.approx(5.5)


def test_nothing_inside_has_no_noise():
    assert noise(Volume(np.ones((4, 4, 4), np.float32), np.eye(4)), np.zeros((4, 4, 4), bool)) is None


def test_z_scores_have_no_noise_in_shares_of_a_brightness():
    head = person(0)["FLAIR"]
    inside = head.data > 0
    scores = np.where(inside, (head.data - head.data[inside].mean()) / head.data[inside].std(), 0)
    assert noise(head.with_data(scores.astype(np.float32)), inside) is None


def test_a_brain_that_changes_its_size_is_doubtful():
    assert doubts_of_size(0.98) == doubts_of_size(1.04) == []
    (doubt,) = doubts_of_size(0.93)
    assert "93% of its volume at the first visit" in doubt


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("slices_mm", [4, 6, 8])
def test_slices_are_as_thick_as_they_were_before_they_were_interpolated(slices_mm, axis):
    """Voxels of 1 mm do not hide it; folds are alike along all axes."""
    folds = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(96, 96, 96)), 1.5)
    sharp = Volume(folds.astype(np.float32), np.eye(4))
    inside = np.linalg.norm(np.indices(folds.shape) - 48, axis=0) < 44
    assert thickness_mm(sharp, inside) == pytest.approx(1.0, abs=0.5)
    assert thickness_mm(sharp.with_data(interpolated(folds, slices_mm, axis)), inside) == approx_mm(slices_mm)


def approx_mm(value):
    """Within a quarter."""
    return pytest.approx(value, rel=0.25)


def interpolated(data, thick, axis):
    """Slices of so many voxels, linearly interpolated back to the voxels that they came from."""
    lines = np.moveaxis(data, axis, 0)
    edges = range(0, len(lines) // thick * thick, thick)
    slices = np.stack([lines[edge : edge + thick].mean(axis=0) for edge in edges])
    where = np.clip((np.arange(len(lines)) + 0.5) / thick - 0.5, 0, len(slices) - 1)
    low = np.minimum(where.astype(int), len(slices) - 2)
    share = (where - low)[:, None, None]
    return np.moveaxis(slices[low] * (1 - share) + slices[low + 1] * share, 0, axis).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1])
def test_ghosts_are_as_bright_as_the_air_that_they_fill(axis):
    """The head smeared evenly along one axis within the slices, in an image turned about two axes and with noise."""
    shape, ghost, level = [120, 120, 30], 0.04, 500.0
    x, y, z = np.indices(shape) - np.array([60, 60, 15])[:, None, None, None]
    brain = x**2 + y**2 + 0 * z < 35**2
    smear = np.zeros(shape)
    beside = np.s_[:, 12:108] if axis == 0 else np.s_[12:108, :]
    smear[beside] = ghost * level
    noise = np.abs(np.random.default_rng(0).normal(0, 5, shape))
    affine = np.array([[0, -2, 0, 9], [2, 0, 0, 8], [0, 0, 5, 7], [0, 0, 0, 1.0]])
    image = Volume((np.where(brain, level, smear) + noise).astype(np.float32), affine)
    assert ghosting(image, brain) == pytest.approx(ghost, rel=0.1)
    clean = Volume((np.where(brain, level, 0) + noise).astype(np.float32), affine)
    assert ghosting(clean, brain) == pytest.approx(0.0, abs=0.002)


def test_images_without_air_have_no_ghosts():
    head = person(0)["FLAIR"]
    assert ghosting(head, head.data > 0) is None


def test_what_lies_outside_the_tested_range_is_said():
    tested = ImageRange(noise=0.1, slice_mm=5.0, ghosting=0.05)
    assert beyond("FLAIR", {"noise": 0.1, "slice_mm": 5.0, "thickness_mm": 5.4, "ghosting": 0.05}, tested) == []
    assert beyond("FLAIR", {}, tested) == []
    assert beyond("FLAIR", {"noise": 1.0, "slice_mm": 9.0, "thickness_mm": 9.0, "ghosting": 1.0}, ImageRange()) == []
    assert beyond("FLAIR", {"noise": 0.15, "slice_mm": 3.0}, tested) == [
        "noise in the FLAIR is 0.15 of white matter, and masks were tested up to 0.1"
    ]
    assert beyond("FLAIR", {"slice_mm": 6.8, "thickness_mm": 6.8}, tested) == [
        "slices of the FLAIR are 6.8 mm apart, and masks were tested up to 5"
    ]
    assert beyond("FLAIR", {"slice_mm": 1.0, "thickness_mm": 6.8, "ghosting": 0.08}, tested) == [
        "the FLAIR is as blurred as slices of 6.8 mm, and masks were tested up to 5",
        "ghosts in the FLAIR, as of motion, have 0.08 of its brightness, and masks were tested up to 0.05",
    ]
