import itertools
import math

import numpy as np
import pytest
from scipy import ndimage

from lesiondelta.errors import GeometryError
from lesiondelta.evaluation.instances import found, lesions, overlaps
from lesiondelta.evaluation.metrics import SIZES, score
from lesiondelta.evaluation.surfaces import bounding_box, surface_distances, surface_mm
from lesiondelta.images import Grid

SHAPE = (16, 16, 16)
UNIT = Grid(SHAPE, np.eye(4))


def grid(*spacing: float) -> Grid:
    return Grid(SHAPE, np.diag([*spacing, 1.0]))


def box(*ranges: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(*r) for r in ranges)] = True
    return mask


def hd95(a, b, on=UNIT):
    return surface_distances(a, b, on).hd95_mm()


def matched_lesions(reference, prediction):
    table = overlaps(reference, prediction)
    return int(found(table).sum()), int(found(table.reversed()).sum())


def test_overlap_by_hand():
    a, b = box((0, 4), (0, 4), (0, 4)), box((2, 6), (0, 4), (0, 2))
    scores = score(a, b, UNIT)  # 64 and 32 voxels share 16
    assert (scores.dsc, scores.iou, scores.sensitivity, scores.ppv) == (2 * 16 / 96, 16 / 80, 16 / 64, 16 / 32)
    assert (scores.reference_volume_mm3, scores.volume_difference_mm3) == (64, -32)


def test_hd95_of_parallel_plates_is_their_distance():
    a, b = box((2, 3), (0, 16), (0, 16)), box((7, 8), (0, 16), (0, 16))
    assert hd95(a, b, grid(1.5, 1, 1)) == pytest.approx(7.5)


def test_hd95_pools_both_ways_and_interpolates_linearly():
    """Ten voxels agree, an eleventh is 4 mm off on one side only: pooled distances are 20 zeros and one 4."""
    a = np.zeros(SHAPE, bool)
    for i in range(10):
        a[i, 0, 0] = True
    b = a.copy()
    b[13, 0, 0] = True
    assert hd95(a, b) == 0  # position 0.95 * 20 = 19 of the sorted distances, counted from 0
    b[14:16, 0, 0] = True  # 4, 5 and 6 mm: position 0.95 * 22 = 20.9, between the 4 at 20 and the 5 at 21
    assert hd95(a, b) == pytest.approx(4.9)


def test_surface_is_6_connected_and_counts_the_image_border():
    cube = box((4, 9), (4, 9), (4, 9))
    assert len(surface_mm(cube, UNIT)) == 5**3 - 3**3
    assert len(surface_mm(np.ones(SHAPE, bool), UNIT)) == 16**3 - 14**3
    notch = cube.copy()
    notch[4, 4, 4] = False  # a missing corner does not expose its diagonal neighbour
    assert not (surface_mm(notch, UNIT) == [5, 5, 5]).all(axis=1).any()


def test_hd95_against_distance_maps():
    """The same definition through scipy's distance transform instead of a tree."""
    rng = np.random.default_rng(0)
    spacing = (0.7, 1.1, 3.0)
    for _ in range(5):
        a, b = (ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.5) > 0.05 for _ in range(2))
        edges = [m & ~ndimage.binary_erosion(m, ndimage.generate_binary_structure(3, 1)) for m in (a, b)]
        maps = [ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges]
        pooled = np.concatenate([maps[1][edges[0]], maps[0][edges[1]]])
        assert hd95(a, b, grid(*spacing)) == pytest.approx(np.percentile(pooled, 95), abs=1e-9)


def test_lesions_are_26_connected_and_small_ones_leave():
    mask = np.zeros(SHAPE, bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = True  # one lesion of 3 mm3 over the corners
    mask[8, 8, 8:10] = True  # 2 mm3
    assert lesions(mask, 1.0).max() == 1
    assert lesions(mask, 1.0, min_lesion_mm3=0).max() == 2
    assert lesions(mask, 1.5).max() == 2  # 2 voxels of 1.5 mm3 are 3 mm3: not under 3
    assert lesions(mask, 0.9).max() == 0


def test_small_lesions_leave_before_any_metric():
    truth = box((0, 4), (0, 4), (0, 4))
    guess = truth.copy()
    guess[10, 10, 10:12] = True
    scores = score(truth, guess, UNIT)
    assert (scores.dsc, scores.hd95_mm, scores.lesion_f1, scores.predicted_lesions) == (1, 0, 1, 1)
    kept = score(truth, guess, UNIT, min_lesion_mm3=0)
    assert (kept.predicted_lesions, kept.lesion_precision) == (2, 0.5)


def test_one_predicted_lesion_may_find_two():
    """Two references of 8 voxels under one prediction of 40: IoU 8/40 = 0.2 each; found 2 of 2, right 1 of 1."""
    truth = box((0, 2), (0, 2), (0, 2)) | box((8, 10), (0, 2), (0, 2))
    guess = box((0, 10), (0, 2), (0, 2))
    scores = score(truth, guess, UNIT)
    assert (scores.found_lesions, scores.right_lesions, scores.lesion_f1) == (2, 1, 1.0)


def test_the_overlap_must_exceed_a_tenth():
    """A reference of 10 in a row, shifted so that the overlap is 1 of a union of 10 (IoU 0.1), then 2 of 10."""
    truth = box((0, 1), (0, 1), (0, 4))
    assert matched_lesions(lesions(truth, 1), lesions(box((0, 1), (0, 1), (3, 10)), 1)) == (0, 0)  # 1 / 10
    assert matched_lesions(lesions(truth, 1), lesions(box((0, 1), (0, 1), (2, 10)), 1)) == (1, 1)  # 2 / 10


def test_f1_by_hand():
    truth = box((0, 2), (0, 2), (0, 2)) | box((5, 7), (0, 2), (0, 2)) | box((10, 12), (0, 2), (0, 2))
    guess = box((0, 2), (0, 2), (0, 2)) | box((0, 2), (10, 12), (0, 2))
    scores = score(truth, guess, UNIT)
    assert (scores.lesion_recall, scores.lesion_precision) == (pytest.approx(1 / 3), 0.5)
    assert scores.lesion_f1 == pytest.approx(0.4)
    assert (scores.reference_volume_mm3, scores.predicted_volume_mm3) == (24, 16)


def test_matching_against_every_pair_written_out():
    rng = np.random.default_rng(1)
    for _ in range(10):
        a, b = (ndimage.label(ndimage.gaussian_filter(rng.normal(size=SHAPE), 1) > 0.15)[0] for _ in range(2))
        found, right = set(), set()
        for i, j in itertools.product(range(1, a.max() + 1), range(1, b.max() + 1)):
            union = np.count_nonzero((a == i) | (b == j))
            if np.count_nonzero((a == i) & (b == j)) / union > 0.1:
                found.add(i)
                right.add(j)
        assert matched_lesions(a, b) == (len(found), len(right))


NONE = np.zeros(SHAPE, bool)
SOME = box((0, 4), (0, 4), (0, 4))
DIAGONAL = 16 * math.sqrt(0.5**2 + 1 + 4)


@pytest.mark.parametrize(
    ("truth", "guess", "empty", "dsc", "distance", "f1"),
    [
        (NONE, NONE, "both", 1, 0, 1),
        (SOME, NONE, "prediction", 0, DIAGONAL, 0),
        (NONE, SOME, "reference", 0, DIAGONAL, 0),
    ],
)
def test_empty_masks_penalised(truth, guess, empty, dsc, distance, f1):
    scores = score(truth, guess, grid(0.5, 1, 2))
    assert (scores.empty, scores.dsc, scores.lesion_f1) == (empty, dsc, f1)
    assert scores.hd95_mm == pytest.approx(distance)
    assert (scores.lesion_recall, scores.lesion_precision) == (f1, f1)


@pytest.mark.parametrize(
    ("truth", "guess", "left_out"),
    [
        (NONE, NONE, {"dsc", "hd95_mm", "lesion_f1", "lesion_recall", "lesion_precision"}),
        (SOME, NONE, {"hd95_mm", "lesion_precision"}),
        (NONE, SOME, {"hd95_mm", "lesion_recall"}),
    ],
)
def test_empty_masks_left_out(truth, guess, left_out):
    scores = score(truth, guess, UNIT, undefined="nan")
    names = ("dsc", "hd95_mm", "lesion_f1", "lesion_recall", "lesion_precision")
    assert {name for name in names if math.isnan(getattr(scores, name))} == left_out


def test_other_shapes_are_refused():
    with pytest.raises(GeometryError):
        score(NONE, np.zeros((4, 4, 4), bool), UNIT)


def test_assd_and_nsd_by_hand():
    """Plates of 256 voxels, 0, 1 and 2 mm from the plates of the other mask."""
    a = box((2, 3), (0, 16), (0, 16)) | box((8, 9), (0, 16), (0, 16))
    b = box((2, 3), (0, 16), (0, 16)) | box((10, 11), (0, 16), (0, 16))
    scores = score(a, b, UNIT)
    assert scores.assd_mm == pytest.approx((0 + 2 + 0 + 2) / 4)
    assert scores.nsd == 0.5
    assert score(a, b, grid(0.5, 1, 1)).nsd == 1  # 1 mm apart: within the tolerance


def test_lesions_by_size():
    """References of 9, 10, 100 and 120 mm3, of which the second and the last are predicted, and a false one of 8."""
    sizes = {9: (0, 0), 10: (4, 0), 100: (0, 4), 120: (8, 4)}
    truth, guess = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    for size, (x, y) in sizes.items():
        lesion = np.zeros(SHAPE, bool)
        block = np.argwhere(np.ones((5, 5, 5)))[:size] if size > 50 else np.argwhere(np.ones((3, 3, 3)))[:size]
        lesion[tuple((block + np.array([x, y, 0])).T)] = True
        truth |= lesion
        if size in (10, 120):
            guess |= lesion
    guess[0:2, 12:14, 12:14] = True
    scores = score(truth, guess, UNIT)
    counted = [(d.reference, d.found, d.predicted, d.right) for d in (scores.by_size[size] for size in SIZES)]
    assert counted == [(1, 0, 1, 0), (2, 1, 1, 1), (1, 1, 1, 1)]
    assert (scores.reference_lesions, scores.predicted_lesions) == (4, 3)


def test_a_touched_lesion_is_a_hit_of_isbi2015():
    """One voxel of overlap: no match at IoU > 0.1, but a hit."""
    truth, guess = box((0, 4), (0, 4), (0, 4)), box((3, 7), (3, 7), (3, 7)) | box((10, 12), (0, 2), (0, 2))
    scores = score(truth, guess, UNIT)
    assert (scores.lesion_recall, scores.ltpr, scores.lfpr) == (0, 1, 0.5)


def test_longiseg_uses_lesions_up():
    """One prediction over two references finds both for us, one for the fork."""
    truth = box((0, 2), (0, 2), (0, 2)) | box((8, 10), (0, 2), (0, 2))
    guess = box((0, 10), (0, 2), (0, 2))
    assert score(truth, guess, UNIT).found_lesions == 2
    assert score(truth, guess, UNIT, convention="longiseg").found_lesions == 1


def test_longiseg_filters_by_faces_and_labels_by_corners():
    mask = np.zeros(SHAPE, bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = True  # three pieces of 1 mm3 by faces
    mask[8, 8, 8:11] = mask[9, 9, 11:14] = True  # two pieces of 3 mm3 by faces, one lesion by corners
    assert score(mask, mask, UNIT).reference_lesions == 2
    assert score(mask, mask, UNIT, convention="longiseg").reference_lesions == 1


@pytest.mark.parametrize(
    ("truth", "guess", "dsc", "distance", "recall", "precision", "f1"),
    [(NONE, NONE, 1, 0, 1, 1, 1), (SOME, NONE, 0, 1000, 0, 1, 0), (NONE, SOME, 0, 1000, 1, 0, 0)],
)
def test_empty_masks_as_longiseg_has_them(truth, guess, dsc, distance, recall, precision, f1):
    scores = score(truth, guess, UNIT, convention="longiseg")
    assert (scores.dsc, scores.hd95_mm, scores.assd_mm) == (dsc, distance, distance)
    assert (scores.lesion_recall, scores.lesion_precision, scores.lesion_f1) == (recall, precision, f1)


def test_longiseg_has_no_surface_at_the_faces_of_the_image():
    assert len(surface_mm(np.ones(SHAPE, bool), UNIT, border=False)) == 0
    slab = box((0, 4), (0, 16), (0, 16))
    assert len(surface_mm(slab, UNIT, border=False)) == 256


def test_bounding_box_has_a_margin_inside_the_image():
    assert bounding_box(box((0, 4), (5, 6), (7, 16)), 1) == (slice(0, 5), slice(4, 7), slice(6, 16))
    assert bounding_box(NONE, 1) == (slice(0, 1), slice(0, 1), slice(0, 1))
