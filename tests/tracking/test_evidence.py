"""The images decide: evidence is in standard deviations, and only what they show is a change."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from lesiondelta.cohort import Change
from lesiondelta.settings import TrackingSettings
from lesiondelta.tracking import VisitImage, track
from lesiondelta.tracking.calls import BY_HAND, LIMITS, NOT_COMPARED, compare_images
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


def test_sensitivity_chooses_the_confidence_that_is_called():
    visits = [visit(nothing(), 1), visit(ball("left", 3), 2)]
    found = compare_images(visits, 1.0)[0]
    (place,) = [place for place in found.places if place.sign > 0]
    unsure = replace(place, confidence=0.7)
    assert [unsure.called(LIMITS[choice]) for choice in ("low", "default", "high")] == [False, True, True]
    assert [replace(place, confidence=0.3).called(LIMITS[c]) for c in ("low", "default", "high")] == [
        False,
        False,
        True,
    ]
    faint = visit(nothing(), 2, probability=np.where(ball("left", 3), 0.04, 0.001))
    brighter = faint.image.data + np.where(ball("left", 3), 300 * 0.02, 0).astype(np.float32)
    visits[1] = replace(faint, image=replace(faint.image, data=brighter))
    confidence = track(visits, 1.0, 0.5, TrackingSettings(sensitivity="high")).changes[0][0].confidence
    numbers = [len(called(*visits, sensitivity=choice)[0]) for choice in ("low", "default", "high")]
    assert numbers == [int(confidence >= limit) for limit in (0.9, 0.5, 0.2)]
    assert numbers == [0, 1, 1]


def fading(*probabilities):
    """A lesion below the threshold that darkens from visit to visit."""
    visits = []
    for seed, (size, likely) in enumerate(probabilities):
        lesion = ball("left", size) if size else nothing()
        visits.append(
            visit(lesion, seed, mask=lesion & (likely > 0.5), probability=np.where(ball("left", 4), likely, 0.001))
        )
    return visits


def test_a_later_visit_changes_no_number_and_no_call_of_what_masks_miss():
    """At the second visit the lesion is below the threshold, at the third it is gone: that is the third step's."""
    visits = fading((4, 0.95), (3, 0.2), (0, 0.005))
    pair, three = (track(visits[:n], 1.0, 0.5) for n in (2, 3))
    for one, other in zip(pair.changes[0], three.changes[0], strict=True):
        assert replace(other, later_confidence=None) == one
    assert all(np.array_equal(a, b) for a, b in zip(pair.instances, three.instances, strict=False))
    new = [visit(nothing(), 1), visit(ball("right", 3), 2), visit(ball("right", 3), 3)]
    new = [
        replace(one, probability=np.maximum(one.probability, more.probability))
        for one, more in zip(new, fading((3, 0.2), (3, 0.2), (0, 0.005)), strict=True)
    ]
    pair, three = (track(new[:n], 1.0, 0.5) for n in (2, 3))
    assert [one.current for one in pair.changes[0]] == [one.current for one in three.changes[0]]


def test_what_only_images_show_to_be_gone_is_a_lesion_of_its_step():
    earlier, later = fading((3, 0.2), (0, 0.005))
    found = track((earlier, later), 1.0, 0.5)
    ((one,),) = found.changes
    assert (one.change, one.current) == (Change.RESOLVED, ())
    assert not any(labels.any() for labels in found.instances)
    assert (found.before[0][ball("left", 1)] == one.prior[0]).all()


def covering(one, stop):
    """The visit, whose image ends at a height."""
    shown = np.arange(SHAPE[2]) < stop
    return replace(one, image=replace(one.image, data=np.where(shown, one.image.data, 0).astype(np.float32)))


def test_a_third_visit_that_does_not_show_a_place_says_nothing_of_it():
    visits = [visit(nothing(), 1), visit(ball("left", 3), 2), covering(visit(nothing(), 3), 28)]
    found = track(visits, 1.0, 0.5).changes[0]
    assert [(one.change, one.later_confidence) for one in found] == [(Change.NEW, None)]


def test_a_lesion_that_stays_is_surer():
    visits = [visit(ball("left", 3) if n else nothing(), n) for n in range(3)]
    (one,) = track(visits, 1.0, 0.5).changes[0]
    assert one.later_confidence >= one.confidence


def test_what_was_not_compared_is_said_to_be_so():
    """At the border of the brain no evidence is looked for: it has none, rather than evidence of nothing."""
    rim = ball((36, 40, 63), 1) & BRAIN & ~ndimage.binary_erosion(BRAIN, iterations=2)
    assert rim.sum() > 3
    (one,) = track((visit(nothing(), 1), visit(rim, 2)), 1.0, 0.5).changes[0]
    assert (one.change, one.reason, one.confidence, one.evidence) == (Change.STABLE, NOT_COMPARED, None, None)


@pytest.mark.parametrize("blur", [THIN, THICK])
def test_a_lesion_that_an_image_cuts_does_not_shrink(blur):
    whole = visit(ball("left", 6), 1, blur=blur)
    cut = covering(visit(ball("left", 6), 2, blur=blur), 34)
    cut = replace(
        cut,
        mask=cut.mask & (np.arange(SHAPE[2]) < 34),
        probability=np.where(np.arange(SHAPE[2]) < 34, cut.probability, 0.001),
    )
    assert called(whole, cut) == called(cut, whole) == [[]]


def test_one_step_that_cannot_be_compared_leaves_the_others_alone():
    lesions = ball("left", 4) | ball("right", 3)
    earlier, later = visit(lesions, 1, mask=ball("left", 4)), visit(lesions, 2)
    slab = covering(visit(lesions, 3), 6)
    pair, three = (track(visits, 1.0, 0.5) for visits in ((earlier, later), (earlier, later, slab)))
    assert pair.changes[0] == three.changes[0]
    assert [one is None for one in three.evidence] == [False, True]
    assert all(one.confidence is None for one in three.changes[1])


def test_what_a_reader_draws_or_erases_counts_whatever_the_images_show():
    drawn, kept = ball("left", 3), ball("right", 3)
    before, after = visit(kept, 1), visit(kept, 2)
    edited = replace(after, mask=kept | drawn, probability=np.maximum(after.probability, drawn), by_hand=drawn)
    one, other = sorted(track((before, edited), 1.0, 0.5).changes[0], key=lambda found: found.current)
    assert (other.change, other.reason, other.confidence) == (Change.NEW, BY_HAND, 1.0)
    assert one.change is Change.STABLE
    erased = replace(after, mask=nothing(), probability=np.full(SHAPE, 0.001, np.float32), by_hand=kept)
    (found,) = track((before, erased), 1.0, 0.5).changes[0]
    assert (found.change, found.reason) == (Change.RESOLVED, BY_HAND)


def test_a_mask_that_a_reader_has_seen_gets_no_lesion_from_the_images():
    earlier, later = fading((0, 0.005), (3, 0.2))
    assert called(earlier, later) == [["new"]]
    assert called(earlier, replace(later, by_hand=ball("front", 2))) == [[]]


def test_a_place_beside_a_lesion_joins_none():
    """A diagonal neighbour of two lesions would make one of them."""
    two = ball((20, 40, 34), 2) | ball((27, 40, 34), 2)
    bridge = ball((23, 40, 34), 1) | ball((24, 40, 34), 1)
    likely = np.where(two, 0.95, np.where(bridge, 0.2, 0.001))
    earlier, later = visit(two, 1), visit(two | bridge, 2, mask=two, probability=likely)
    found = track((earlier, later), 1.0, 0.5, TrackingSettings(tolerance_mm=0)).changes[0]
    assert all(len(one.prior) == len(one.current) == 1 for one in found)
    assert all(one.lineage == "" for one in found)


def test_a_place_belongs_to_the_same_lesion_in_both_directions():
    a, b, q, p = (ball(centre, 4) for centre in ((20, 40, 34), (22, 43, 34), (30, 46, 34), (14, 38, 34)))
    earlier, later = visit(a | q, 1), visit(b | p, 2)
    there = sorted(str(one.change) for one in track((earlier, later), 1.0, 0.5).changes[0])
    opposite = {"new": "resolved", "resolved": "new", "enlarging": "shrinking", "shrinking": "enlarging"}
    back = sorted(opposite.get(str(one.change), "stable") for one in track((later, earlier), 1.0, 0.5).changes[0])
    assert there == back


def test_the_rim_is_what_the_threshold_of_the_masks_leaves_out():
    lesion = ball("left", 5)
    earlier = visit(
        ball("left", 3),
        1,
        mask=ball("left", 3),
        probability=np.where(ball("left", 3), 0.95, np.where(lesion, 0.1, 0.001)),
    )
    later = visit(lesion, 2)
    (one,) = track((earlier, later), 1.0, 0.2).changes[0]
    assert one.change is Change.ENLARGING


def test_reversal_exchanges_places():
    earlier, later = visit(ball("left", 3), 1), visit(ball("right", 3), 2)
    found = evidence(earlier.image, later.image, BRAIN, earlier.mask | later.mask, 1.0)
    back = evidence(later.image, earlier.image, BRAIN, earlier.mask | later.mask, 1.0)
    there = find_places(found, earlier.probability, later.probability, 1.0)
    again = find_places(back, later.probability, earlier.probability, 1.0)
    assert sorted((one.sign, len(one.voxels)) for one in there) == sorted((-one.sign, len(one.voxels)) for one in again)
    assert sorted(one.confidence for one in there) == pytest.approx(sorted(one.confidence for one in again), abs=1e-3)
