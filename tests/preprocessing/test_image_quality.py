"""Noise and slices are measured as they are."""

import numpy as np
import pytest

from lesiondelta.images import Volume
from lesiondelta.preprocessing.image_quality import doubts, doubts_of_size, noise, slice_mm
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


def test_what_lies_outside_the_tested_range_is_said():
    assert doubts("FLAIR", 0.1, 5.0) == []
    assert doubts("FLAIR", None, 5.0) == []
    (noisy,) = doubts("FLAIR", 0.15, 3.0)
    assert "noise in the FLAIR is 0.15 of white matter" in noisy
    (thick,) = doubts("FLAIR", 0.02, 6.8)
    assert "slices of the FLAIR are 6.8 mm apart" in thick
