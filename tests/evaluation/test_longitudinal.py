import math

import numpy as np
import pytest

from lesiondelta.errors import GeometryError
from lesiondelta.evaluation.instances import detected, lesions, overlaps
from lesiondelta.evaluation.longitudinal import new_lesions, score_change
from lesiondelta.images import Grid
from tests.evaluation.test_metrics import NONE, UNIT, box

OLD = box((0, 3), (0, 3), (0, 3))  # 27
GROWN = box((0, 4), (0, 4), (0, 4))  # 64
NEW = box((10, 13), (10, 13), (10, 13))  # 27
OTHER = box((6, 9), (0, 3), (12, 15))


def test_a_grown_lesion_is_not_new():
    assert new_lesions(OLD, GROWN | NEW, 1.0).max() == 1
    assert (new_lesions(OLD, GROWN | NEW, 1.0) > 0).sum() == 27


def test_a_lesion_grown_from_one_too_small_to_count_is_not_new():
    speck = box((0, 2), (0, 1), (0, 1))  # 2 mm3, under the filter
    assert score_change((speck, OLD), (speck, OLD), UNIT).reference_new_lesions == 0


def test_what_touches_a_prior_lesion_by_a_face_only_is_one_lesion_with_it():
    beside = box((3, 5), (0, 3), (0, 3))
    assert new_lesions(OLD, OLD | beside, 1.0).max() == 0  # one 26-connected lesion that shares voxels with the prior
    assert new_lesions(OLD, beside, 1.0).max() == 1


def test_change_by_hand():
    scores = score_change((OLD, GROWN | NEW), (OLD, OLD | NEW | OTHER), UNIT)
    assert (scores.reference_change_mm3, scores.predicted_change_mm3) == (64 + 27 - 27, 54)
    assert (scores.reference_new_lesions, scores.predicted_new_lesions) == (1, 2)
    assert scores.new_lesion_f1 == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert scores.new_lesion_dsc == pytest.approx(2 * 27 / (27 + 54))
    assert math.isnan(scores.false_new_lesions)


def test_patients_without_new_lesions_are_scored_apart():
    scores = score_change((OLD, OLD), (OLD, OLD | OTHER), UNIT)
    assert math.isnan(scores.new_lesion_f1)
    assert math.isnan(scores.new_lesion_dsc)
    assert (scores.false_new_lesions, scores.false_new_volume_mm3) == (1, 27)
    assert score_change((OLD, OLD), (OLD, OLD), UNIT).false_new_lesions == 0


def test_unchanged_lesions():
    """Two unchanged references: one predicted at both visits with 27 and 18 voxels, one at the current alone."""
    smaller = box((0, 3), (0, 3), (0, 2))
    scores = score_change((OLD | NEW, OLD | NEW), (OLD, smaller | NEW), UNIT)
    assert (scores.unchanged_lesions, scores.unchanged_seen, scores.unchanged_alike) == (2, 1, 1)
    nothing = score_change((OLD | NEW, OLD | NEW), (NONE, NONE), UNIT)
    assert (nothing.unchanged_lesions, nothing.unchanged_seen, nothing.unchanged_alike) == (2, 0, 2)
    assert scores.unchanged_predicted_change == pytest.approx((9 / 27 + 27 / 27) / 2)
    grown = score_change((OLD, GROWN), (OLD, GROWN), UNIT)
    assert grown.unchanged_lesions == 0
    assert math.isnan(grown.unchanged_predicted_change)


def test_visits_on_other_grids_are_refused():
    small = np.zeros((4, 4, 4), bool)
    with pytest.raises(GeometryError, match="resample them to one grid"):
        score_change((NONE, small), (NONE, small), UNIT)
    with pytest.raises(GeometryError):
        score_change((NONE, NONE), (NONE, NONE), Grid((4, 4, 4), np.eye(4)))


def table(truth, guess):
    return overlaps(lesions(truth, 1), lesions(guess, 1))


def test_detection_needs_a_tenth_of_the_lesion():
    line = box((0, 1), (0, 1), (0, 10))
    assert not detected(table(line, box((0, 1), (0, 3), (9, 10)))).any()  # 1 of 10 is not more than a tenth
    assert detected(table(line, box((0, 1), (0, 1), (7, 10)))).all()


def test_a_detection_that_lies_mostly_outside_does_not_count():
    """The predicted block of 48 covers the lesion of 8 and lies outside by 40 / 48 > 0.7."""
    lesion = box((0, 2), (0, 2), (0, 2))
    assert not detected(table(lesion, box((0, 2), (0, 2), (0, 12)))).any()
    assert detected(table(lesion, box((0, 2), (0, 2), (0, 6)))).all()  # outside by 16 / 24


def test_small_overlaps_of_a_large_detection_are_forgiven():
    """65 % of what is covered comes from a good detection; the bad one after it is not looked at."""
    lesion = box((0, 2), (0, 2), (0, 10))  # 40
    good = box((0, 2), (0, 2), (0, 7))  # 28 inside
    bad = box((0, 2), (0, 16), (9, 10))  # 4 inside, 28 outside
    assert detected(table(lesion, good | bad)).all()
    assert not detected(table(lesion, bad)).any()
