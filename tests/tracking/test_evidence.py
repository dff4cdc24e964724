"""The images decide: evidence is in standard deviations, and only what they show is a change."""

from dataclasses import replace

import numpy as np
import pytest

from lesiondelta.cohort import Change
from lesiondelta.settings import TrackingSettings
from lesiondelta.tracking import VisitImage, track
from lesiondelta.tracking.evidence import box_blur, evidence
from lesiondelta.tracking.places import find_places
from tests.tracking.phantom import SHAPE, THIN, ball, head, nothing, scan, visit

THICK = np.diag([1, 1, 25]) / 12
"""Blur of slices of 5 mm."""
BRAIN = head()[1]


def called(*visits, **settings):
    """What became of every lesion, step by step, without the stable ones."""
    found = track(visits, 1.0, 0.5, TrackingSettings(**settings))
    return [[str(one.change) for one in step if one.change is not Change.STABLE] for step in found.changes]


@pytest.mark.parametrize("scanned", [{}, {"shift": 0.3}, {"noise": 0.1}, {"blur": THICK}])
def test_unchanged_tissue_has_unit_variance(scanned):
    """Whatever noise, misregistration and slices are: the definition of a standard deviation."""
    found = evidence(scan(nothing(), 1), scan(nothing(), 2, **scanned), BRAIN, nothing(), 1.0)
    assert found.z[found.calm].std() == pytest.approx(1.0, abs=0.2)
    assert np.mean(np.abs(found.z[found.calm]) > 3) < 0.03


def test_time_reversed_changes_the_sign_and_nothing_else():
    earlier, later = scan(ball("left", 3), 1), scan(ball("right", 3), 2, blur=THICK)
    lesions = ball("left", 3) | ball("right", 3)
    there, back = (evidence(a, b, BRAIN, lesions, 1.0) for a, b in ((earlier, later), (later, earlier)))
    np.testing.assert_allclose(there.z, -back.z, atol=1e-3)


def test_gain_offset_and_a_gradient_field_change_no_call():
    earlier, later = visit(nothing(), 1), visit(ball("left", 3), 2)
    field = 1 + 0.3 * np.indices(SHAPE)[1] / SHAPE[1]
    brightened = np.where(BRAIN, 1.7 * field * later.image.data + 40, 0).astype(np.float32)
    other = replace(later, image=VisitImage(brightened, THIN))
    assert called(earlier, later) == called(earlier, other) == [["new"]]
    values = [track((earlier, one), 1.0, 0.5, TrackingSettings()).changes[0][0].confidence for one in (later, other)]
    assert values[0] == pytest.approx(values[1], abs=0.02)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("flipped", [(), (0,), (0, 1, 2)])
def test_orientation_changes_nothing(axes, flipped):
    def turned(one):
        return np.ascontiguousarray(np.flip(one.transpose(axes), flipped))

    earlier, later = scan(nothing(), 1), scan(ball("left", 3), 2, blur=THICK)
    straight = evidence(earlier, later, BRAIN, ball("left", 3), 1.0).z
    images = [VisitImage(turned(one.data), one.blur[np.ix_(axes, axes)]) for one in (earlier, later)]
    other = evidence(*images, turned(BRAIN), turned(ball("left", 3)), 1.0).z
    at_lesion = turned(ball("left", 2))
    assert other[at_lesion].mean() == pytest.approx(straight[ball("left", 2)].mean(), rel=0.1)
    assert np.corrcoef(other[turned(BRAIN)], turned(straight)[turned(BRAIN)])[0, 1] > 0.95


def test_the_blur_of_a_box_by_hand():
    """Voxels of 2 x 1 x 6 mm, turned by 90 degrees about z: (edge^2 / 12) along each of their axes."""
    affine = np.array([[0, -1, 0, 0], [2, 0, 0, 0], [0, 0, 6, 0], [0, 0, 0, 1.0]])
    np.testing.assert_allclose(box_blur(affine), np.diag([1 / 12, 4 / 12, 36 / 12]))


@pytest.mark.parametrize("blurs", [(THIN, THICK), (THICK, THIN), (THICK, THICK)])
def test_thicker_slices_are_no_change(blurs):
    lesions = ball("left", 4) | ball("right", 3)
    visits = [visit(lesions, seed, blur=blur) for seed, blur in enumerate(blurs)]
    assert called(*visits) == [[]]


def test_a_mask_that_flickers_is_stable_if_the_images_do_not_differ():
    lesions = ball("left", 4) | ball("right", 3)
    earlier, later = visit(lesions, 1, mask=ball("left", 4)), visit(lesions, 2, mask=ball("left", 2) | ball("right", 3))
    found = track((earlier, later), 1.0, 0.5).changes[0]
    assert [one.change for one in found] == [Change.STABLE, Change.STABLE]
    assert all(one.confidence < 0.5 for one in found)


def test_growth_is_judged_on_the_rim_and_says_how_much():
    earlier, later = visit(ball("left", 3), 1), visit(ball("left", 5), 2)
    (one,) = track((earlier, later), 1.0, 0.5).changes[0]
    rim = np.count_nonzero(ball("left", 5)) - np.count_nonzero(ball("left", 3))
    assert one.change is Change.ENLARGING
    assert one.gained_mm3 == pytest.approx(rim, rel=0.35)
    assert one.lost_mm3 == 0
    assert one.confidence > 0.9
    assert one.evidence > 5
    assert called(later, earlier) == [["shrinking"]]


def test_a_lesion_below_the_threshold_that_the_images_show_is_new_and_has_a_number():
    likely = np.where(ball("left", 3), 0.2, 0.001)
    earlier, later = visit(nothing(), 1), visit(ball("left", 3), 2, mask=nothing(), probability=likely)
    found = track((earlier, later), 1.0, 0.5)
    ((one,),) = found.changes
    assert (one.change, one.prior, one.current) == (Change.NEW, (), (1,))
    assert found.instances[1][ball("left", 1)].all()
    assert not found.instances[0].any()
    assert called(later, earlier) == [["resolved"]]


def test_what_no_probability_supports_is_only_possible():
    earlier, later = visit(nothing(), 1), visit(ball("left", 4), 2, mask=nothing(), probability=np.full(SHAPE, 0.01))
    found = track((earlier, later), 1.0, 0.5)
    assert found.changes == ((),)
    ((place,),) = found.possible
    assert place.sign == 1
    assert ball("left", 4)[tuple(np.rint(place.voxels.mean(axis=0)).astype(int))]


def test_pieces_are_lineage_and_the_lesion_is_judged_like_any_other():
    two = ball((19, 40, 34), 3) | ball((27, 40, 34), 3)
    one = two | ball((23, 40, 34), 1)
    (found,) = track((visit(one, 1, mask=two), visit(one, 2)), 1.0, 0.5).changes[0]
    assert (found.change, found.lineage) == (Change.STABLE, "merged")
    (found,) = track((visit(one, 1), visit(one, 2, mask=two)), 1.0, 0.5).changes[0]
    assert (found.change, found.lineage) == (Change.STABLE, "split")


def test_later_visits_tell_a_lesion_from_an_artefact():
    """Both are new at the second visit; at the third one of them is gone again."""
    both, one = ball("left", 3) | ball("right", 3), ball("left", 3)
    steps = track((visit(nothing(), 1), visit(both, 2), visit(one, 3)), 1.0, 0.5).changes
    lasting, passing = steps[0]
    assert lasting.change is passing.change is Change.NEW
    assert lasting.later_confidence > 0.9
    assert passing.later_confidence < lasting.later_confidence - 0.3
    assert all(found.later_confidence is None for found in steps[1])


def test_a_visit_added_changes_no_earlier_call():
    visits = [visit(nothing(), 1), visit(ball("left", 3), 2), visit(ball("left", 3) | ball("right", 3), 3)]
    alone = track(visits[:2], 1.0, 0.5).changes[0]
    added = track(visits, 1.0, 0.5).changes[0]
    assert [replace(one, later_confidence=None) for one in added] == list(alone)


def test_sensitivity_only_adds_calls():
    faint = np.where(ball("left", 3), 1, 0) * 1.0
    values, brain = head()
    images = [
        VisitImage(
            np.where(brain, 300 * (values + level * faint + np.random.default_rng(n).normal(0, 0.05, SHAPE)), 0), THIN
        )
        for n, level in enumerate((0.0, 0.12))
    ]
    visits = [replace(visit(nothing(), 0), image=images[0]), replace(visit(ball("left", 3), 0), image=images[1])]
    numbers = [len(called(*visits, sensitivity=choice)[0]) for choice in ("low", "default", "high")]
    assert numbers == sorted(numbers)


def test_reversal_exchanges_places():
    earlier, later = visit(ball("left", 3), 1), visit(ball("right", 3), 2)
    found = evidence(earlier.image, later.image, BRAIN, earlier.mask | later.mask, 1.0)
    back = evidence(later.image, earlier.image, BRAIN, earlier.mask | later.mask, 1.0)
    there = find_places(found, earlier.probability, later.probability, 1.0)
    again = find_places(back, later.probability, earlier.probability, 1.0)
    assert sorted((one.sign, len(one.voxels)) for one in there) == sorted((-one.sign, len(one.voxels)) for one in again)
    assert sorted(one.confidence for one in there) == pytest.approx(sorted(one.confidence for one in again), abs=1e-3)
