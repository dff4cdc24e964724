"""What must hold for any two masks."""

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from lesiondelta.evaluation.instances import detected, found, lesions, overlaps, touched
from lesiondelta.evaluation.metrics import score
from lesiondelta.images import Grid

SPACING = (0.8, 1.0, 3.0)
EXCHANGED = {
    "sensitivity": "ppv",
    "lesion_recall": "lesion_precision",
    "reference_lesions": "predicted_lesions",
    "found_lesions": "right_lesions",
    "reference_volume_mm3": "predicted_volume_mm3",
}
SYMMETRIC = ("dsc", "iou", "hd95_mm", "assd_mm", "nsd", "lesion_f1")


def grid(shape, scale=1.0):
    return Grid(shape, np.diag([*(scale * mm for mm in SPACING), 1.0]))


def blobs(seed: int, level: float, shape=(14, 12, 10)) -> np.ndarray:
    """Some smooth lesions; a high level makes few or none."""
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.2) > level


masks = st.builds(blobs, st.integers(0, 10_000), st.sampled_from((0.1, 0.25, 0.4, 0.9)))
quick = settings(max_examples=60, deadline=None)


def plain(scores):
    return asdict(scores)


def close(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert value == (pytest.approx(b[name]) if isinstance(value, int | float) else b[name]), name


@quick
@given(masks, masks)
def test_exchanging_the_masks(a, b):
    one, other = plain(score(a, b, grid(a.shape))), plain(score(b, a, grid(a.shape)))
    for name in SYMMETRIC:
        assert one[name] == pytest.approx(other[name])
    for name, partner in EXCHANGED.items():
        assert one[name] == pytest.approx(other[partner])
        assert one[partner] == pytest.approx(other[name])
    assert one["volume_difference_mm3"] == pytest.approx(-other["volume_difference_mm3"])
    assert 1 - one["lfpr"] == pytest.approx(other["ltpr"])


@quick
@given(masks, masks, st.permutations((0, 1, 2)), st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_orientation_does_not_matter(a, b, order, flips):
    """Axes in another order and direction, the affine with them."""
    here = grid(a.shape)
    turned = np.eye(4)
    turned[:3, :3] = here.affine[:3, list(order)]
    moved = []
    for mask in (a, b):
        other = mask.transpose(order)
        moved.append(np.flip(other, [axis for axis in range(3) if flips[axis]]))
    turned[:3, :3] *= [-1 if flip else 1 for flip in flips]
    there = Grid(tuple(a.shape[axis] for axis in order), turned)
    close(plain(score(a, b, here)), plain(score(*moved, there)))


@quick
@given(masks, masks, st.integers(1, 4))
def test_padding_does_not_matter(a, b, by):
    """But for the diagonal of the image, the distance where one mask is empty."""
    padded = [np.pad(mask, by) for mask in (a, b)]
    inside, wider = plain(score(a, b, grid(a.shape))), plain(score(*padded, grid(padded[0].shape)))
    if inside["empty"]:
        for name in ("hd95_mm", "assd_mm"):
            inside.pop(name), wider.pop(name)
    close(inside, wider)


@quick
@given(masks, masks, st.floats(1.01, 3))
def test_distances_and_volumes_grow_with_the_voxels(a, b, scale):
    one, larger = (score(a, b, grid(a.shape, s), min_lesion_mm3=0) for s in (1.0, scale))
    assert larger.hd95_mm == pytest.approx(scale * one.hd95_mm)
    assert larger.assd_mm == pytest.approx(scale * one.assd_mm)
    assert larger.reference_volume_mm3 == pytest.approx(scale**3 * one.reference_volume_mm3)
    assert (larger.dsc, larger.lesion_f1) == (one.dsc, one.lesion_f1)


@quick
@given(masks, masks)
def test_more_true_voxels_never_lower_the_overlap(a, b):
    """Every reference voxel added to the prediction."""
    less, more = (score(a, guess, grid(a.shape), min_lesion_mm3=0) for guess in (b, a | b))
    assert more.sensitivity >= less.sensitivity
    assert more.dsc >= less.dsc
    assert more.ltpr >= less.ltpr


@quick
@given(masks)
def test_a_perfect_prediction(a):
    scores = score(a, a, grid(a.shape))
    assert (scores.dsc, scores.hd95_mm, scores.assd_mm, scores.nsd, scores.lesion_f1, scores.lfpr) == (1, 0, 0, 1, 1, 0)


@quick
@given(masks, masks)
def test_a_stricter_rule_finds_no_more(a, b):
    table = overlaps(lesions(a, 1, 0), lesions(b, 1, 0))
    assert not (found(table, 0.5) & ~found(table, 0.1)).any()
    assert not (found(table) & ~touched(table)).any()
    assert not (detected(table) & ~touched(table)).any()
    assert not (found(table) & ~detected(table, outside=1.0)).any()  # IoU > 0.1 covers more than a tenth


@pytest.mark.parametrize("seed", range(40))
def test_a_rotated_header_in_float32_changes_nothing(seed):
    """Three voxels of 1 mm3 stay 3 mm3, ten stay 10, a neighbour stays within 1 mm: NIfTI has affines in float32."""
    truth, guess = np.zeros((12, 12, 12), bool), np.zeros((12, 12, 12), bool)
    truth[1:4, 1, 1] = truth[1:6, 5:7, 5] = truth[1:11, 9, :10] = True
    guess[2:5, 1, 1] = guess[2:7, 5:7, 5] = guess[1:11, 9, 1:11] = True
    affine = np.eye(4, dtype=np.float32)
    affine[:3, :3] = Rotation.random(rng=seed).as_matrix()
    straight, rotated = (score(truth, guess, Grid(truth.shape, a.astype(float))) for a in (np.eye(4), affine))
    assert rotated.by_size == straight.by_size
    for name, value in plain(straight).items():
        if isinstance(value, float):
            assert plain(rotated)[name] == pytest.approx(value, abs=1e-4), name
