"""Lesion identity and change: cases drawn by hand."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from lesiondelta.cohort import Change
from lesiondelta.errors import GeometryError
from lesiondelta.settings import TrackingSettings
from lesiondelta.tracking import TrackedVisit, groups_of, name_lesions, track
from lesiondelta.tracking.change import UNSEEN, by_slices

SHAPE = (40, 36, 30)
THIN = 0.01  # slices so thin that they add no error


def boxes(*places):
    """A mask of boxes (x, y, z, edge)."""
    mask = np.zeros(SHAPE, bool)
    for x, y, z, edge in places:
        mask[x : x + edge, y : y + edge, z : z + edge] = True
    return mask


def sure(mask, slice_mm=THIN, **kwargs):
    """A visit that knows its lesions well."""
    return TrackedVisit(mask, np.where(mask, 0.99, 0.01).astype(np.float32), slice_mm, **kwargs)


def changes(*masks, **kwargs):
    found = track([sure(mask) for mask in masks], 1.0, 0.5, TrackingSettings(**kwargs))
    return [[one.change for one in pair] for pair in found.changes]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([], [(5, 5, 5, 4)], ["new"]),
        ([(5, 5, 5, 4)], [], ["resolved"]),
        ([(5, 5, 5, 4)], [(5, 5, 5, 4)], ["stable"]),
        ([(5, 5, 5, 4)], [(5, 5, 5, 5)], ["enlarging"]),
        ([(5, 5, 5, 5)], [(5, 5, 5, 4)], ["shrinking"]),
        ([(5, 5, 5, 10)], [(5, 5, 5, 10), (20, 20, 20, 3)], ["stable", "new"]),
        ([(5, 5, 5, 4), (11, 5, 5, 4)], [(5, 5, 5, 10)], ["enlarging"]),
        ([(5, 5, 5, 10)], [(5, 5, 5, 4), (11, 5, 5, 4)], ["shrinking"]),
    ],
)
def test_each_change(before, after, expected):
    assert changes(boxes(*before), boxes(*after)) == [expected]


def test_numbers_do_not_depend_on_how_a_mask_lies_in_memory():
    mask = boxes((5, 20, 5, 3), (20, 5, 5, 3), (12, 12, 20, 3))
    (one,), (other,) = (track([sure(m)], 1.0, 0.5).instances for m in (mask, np.asfortranarray(mask)))
    np.testing.assert_array_equal(one, other)


def test_a_change_counts_from_30_percent_in_either_direction():
    ten = boxes((5, 5, 5, 10))
    thirteen = ten.copy()
    thirteen[15:18, 5:15, 5:15] = True
    more = thirteen.copy()
    more[18, 5, 5] = True
    assert changes(ten, thirteen) == [["stable"]]
    assert changes(ten, more) == [["enlarging"]]
    assert changes(more, ten) == [["shrinking"]]
    assert changes(ten, more, least_growth=0.5) == [["stable"]]


def test_a_lesion_that_shares_no_voxel_may_be_the_same_within_the_tolerance():
    before, after = boxes((5, 5, 5, 2)), boxes((7, 5, 5, 2))
    assert changes(before, after) == [["stable"]]
    assert changes(before, after, tolerance_mm=0.5) == [["resolved", "new"]]
    apart = boxes((8, 5, 5, 2))
    assert changes(before, apart) == [["resolved", "new"]]
    assert changes(before, apart, tolerance_mm=2.0) == [["stable"]]


def test_the_tolerance_is_in_millimetres():
    visits = [sure(boxes((5, 5, 5, 2))), sure(boxes((8, 5, 5, 2)))]
    settings = TrackingSettings(tolerance_mm=1.0)
    assert [c.change for c in track(visits, 0.5, 0.5, settings).changes[0]] == ["stable"]
    assert [c.change for c in track(visits, 1.0, 0.5, settings).changes[0]] == ["resolved", "new"]


def test_neighbours_that_touch_each_others_outline_stay_two():
    before = boxes((5, 5, 5, 4), (10, 5, 5, 4))
    shifted = boxes((3, 5, 5, 4), (8, 5, 5, 4))  # the second one shares a slab with the first one's place
    groups = groups_of(*labelled(before, shifted), 1.0)
    assert [(g.prior, g.current) for g in groups] == [((1,), (1,)), ((2,), (2,))]


def labelled(*masks):
    return [ndimage.label(mask, np.ones((3, 3, 3)))[0] for mask in masks]


def test_numbers_stay_over_visits_and_lesions_return_under_their_own():
    a, b = (5, 5, 5, 4), (20, 20, 20, 4)
    found = track([sure(boxes(*v)) for v in ([a, b], [a], [a, b], [a, b, (30, 5, 5, 3)])], 1.0, 0.5)
    numbers = [(int(m[6, 6, 6]), int(m[21, 21, 21]), int(m[31, 6, 6])) for m in found.instances]
    assert numbers == [(1, 2, 0), (1, 0, 0), (1, 2, 0), (1, 2, 3)]
    returned = [[one.returned for one in pair if one.change == Change.NEW] for pair in found.changes]
    assert returned == [[], [True], [False]]


def test_after_a_merge_the_larger_share_keeps_its_number_and_after_a_split_too():
    small, large = (5, 5, 5, 3), (9, 5, 5, 6)
    apart, one = boxes(small, large), boxes((5, 5, 5, 10))
    visits = labelled(apart, one, apart)
    merged, before = name_lesions(visits, [np.zeros_like(visits[0])] * 2, 1.0)
    assert all(np.array_equal(a, b) for a, b in zip(before, merged, strict=False))
    of_large = int(merged[0][10, 6, 6])
    assert int(merged[1][6, 6, 6]) == of_large
    assert int(merged[2][10, 6, 6]) == of_large
    assert int(merged[2][6, 6, 6]) == int(merged[0][6, 6, 6])  # the small one is back


def test_a_change_within_the_measurement_error_is_stable_and_says_so():
    small, larger = boxes((5, 5, 5, 3)), boxes((5, 5, 5, 4))
    thick = [sure(small, slice_mm=5.0), sure(larger, slice_mm=5.0)]
    (one,) = track(thick, 1.0, 0.5).changes[0]
    assert (one.change, "measurement error" in one.reason) == (Change.STABLE, True)
    assert one.error_mm3 > 64 - 27
    assert changes(small, larger) == [["enlarging"]]
    settings = TrackingSettings(error_sd=0)
    assert track(thick, 1.0, 0.5, settings).changes[0][0].change == Change.ENLARGING


def test_the_error_by_hand():
    """A cube of 1000 mm3 at both visits; 100 unsure voxels beside it at the first."""
    mask = boxes((5, 5, 5, 10))
    probability = np.where(mask, 0.99, 0.01)
    probability[15, 5:15, 5:15] = 0.4  # logit -0.41, of -1 that are unsure
    visits = [TrackedVisit(mask, probability, 3.0, 0.7), sure(mask)]
    (one,) = track(visits, 1.0, 0.5).changes[0]
    square = (3 * 1000 / (4 * np.pi)) ** (2 / 3)  # of the radius of a ball of 1000 mm3
    slices, pixels = np.pi**2 / 90 * square * 3**4, 14.4 / (2 * np.pi**2) * square * 3
    first = 100**2 + slices + pixels + (3 * 1000 * 0.7 / 70) ** 2
    second = by_slices(1000, THIN, 1.0) ** 2
    assert one.error_mm3 == pytest.approx(1.96 * np.sqrt(first + second), rel=1e-6)


@pytest.mark.parametrize("radius", [1.2, 2.0, 4.0, 6.0])
@pytest.mark.parametrize("slice_mm", [1.0, 3.0, 5.0])
def test_the_error_of_slices_is_that_of_balls_cut_at_random(slice_mm, radius):
    """Of about a radius, since the error swings with it; too large by half, at most, for balls just over a slice."""
    rng, spacing = np.random.default_rng(0), 0.7
    half = np.ceil(1.2 * radius / np.array([spacing, spacing, slice_mm])).astype(int) + 1
    x, y, z = np.meshgrid(*(np.arange(-n, n + 1.0) for n in half), indexing="ij")
    wrong = []
    for own in rng.uniform(0.85, 1.15, 600) * radius:
        i, j, k = rng.uniform(-0.5, 0.5, 3)
        inside = ((x + i) ** 2 + (y + j) ** 2) * spacing**2 + (z + k) ** 2 * slice_mm**2 <= own**2
        wrong.append(inside.sum() * spacing**2 * slice_mm - 4 / 3 * np.pi * own**3)
    assert 0.75 < by_slices(4 / 3 * np.pi * radius**3, slice_mm, spacing) / np.std(wrong) < 1.6


def test_a_lesion_that_doubles_is_enlarging_in_thick_slices_too():
    before, after = boxes((5, 5, 5, 6)), boxes((5, 5, 5, 6), (11, 5, 5, 6))
    (one,) = track([sure(before, slice_mm=5.0), sure(after, slice_mm=5.0)], 1.0, 0.5).changes[0]
    assert one.change == Change.ENLARGING


def test_a_lesion_that_was_nearly_there_is_not_new():
    now = boxes((5, 5, 5, 3))
    before = TrackedVisit(np.zeros(SHAPE, bool), np.where(now, 0.45, 0.01))
    (one,) = track([before, sure(now)], 1.0, 0.5).changes[0]
    assert (one.change, one.prior) == (Change.STABLE, ())
    assert "below the threshold" in one.reason
    (one,) = track([sure(~now & False), sure(now)], 1.0, 0.5).changes[0]
    assert one.change == Change.NEW


@pytest.mark.parametrize(
    ("own_mm", "other_mm", "edge", "change"),
    [
        (1.0, 3.0, 2, "stable"),
        (2.0, 2.9999999, 2, "stable"),
        (1.0, 3.0, 3, "new"),
        (3.0, 3.3, 2, "new"),
        (3.0, 1.0, 2, "new"),
        (1.0, 5.0, 4, "stable"),
    ],
)
def test_a_lesion_that_much_thicker_slices_might_not_show_is_neither_new_nor_resolved(own_mm, other_mm, edge, change):
    """A ball as wide as slices of 3 mm has 14 mm3, of 5 mm 65."""
    there, not_there = sure(boxes((5, 5, 5, edge)), own_mm), sure(boxes(), other_mm)
    (new,) = track([not_there, there], 1.0, 0.5).changes[0]
    (resolved,) = track([there, not_there], 1.0, 0.5).changes[0]
    assert new.change == change
    assert resolved.change == {"new": "resolved"}.get(change, change)
    assert ("much thicker" in new.reason) == ("much thicker" in resolved.reason) == (change == "stable")


@pytest.mark.parametrize("slice_mm", [1.0, 5.0])
def test_a_small_lesion_that_is_clearly_there_is_new_in_thick_slices_too(slice_mm):
    visits = [sure(boxes(), slice_mm, residual_mm=0.5), sure(boxes((5, 5, 5, 2)), slice_mm, residual_mm=0.5)]
    assert [one.change for one in track(visits, 1.0, 0.5).changes[0]] == ["new"]
    assert [one.change for one in track(visits[::-1], 1.0, 0.5).changes[0]] == ["resolved"]


def half_seen(mask, from_x, **kwargs):
    """A visit whose FLAIR begins at a voxel of the first axis."""
    covered = np.zeros(SHAPE, bool)
    covered[from_x:] = True
    return replace(sure(mask & covered, **kwargs), covered=covered)


@pytest.mark.parametrize(
    ("from_x", "expected"), [(3, ["new", "resolved"]), (6, ["new", "resolved"]), (7, ["stable"] * 2)]
)
def test_a_lesion_is_neither_new_nor_resolved_where_the_other_visit_shows_nothing(from_x, expected):
    """An edge of 4 from x = 5 on; at the other visit there is no lesion, and no image below `from_x`."""
    seen, other = sure(boxes((5, 5, 5, 4))), half_seen(boxes(), from_x)
    steps = [track(pair, 1.0, 0.5).changes[0] for pair in ([other, seen], [seen, other])]
    assert [one.change for step in steps for one in step] == expected
    assert [one.reason == UNSEEN for step in steps for one in step] == [from_x == 7] * 2
    certain = TrackingSettings(error_sd=0)
    assert [one.change for one in track([other, seen], 1.0, 0.5, certain).changes[0]] == expected[:1]


def test_what_the_other_visit_does_not_show_is_part_of_the_error():
    """A lesion of 10 x 10 x 10 mm, of which the second visit's image shows 6 mm."""
    whole, cut = boxes((5, 5, 5, 10)), boxes((5, 5, 5, 10))
    cut[:9] = False
    assert changes(whole, cut) == [["shrinking"]]
    (one,) = track([sure(whole), half_seen(whole, 9)], 1.0, 0.5).changes[0]
    assert (one.change, one.current_mm3) == (Change.STABLE, 600)
    assert one.error_mm3 == pytest.approx(1.96 * 400, rel=0.01)


def test_grids_that_differ_are_refused():
    with pytest.raises(GeometryError, match="different grids"):
        track([sure(boxes()), sure(np.zeros((3, 3, 3), bool))], 1.0, 0.5)
