"""Lesion identity and change: cases drawn by hand, and properties that hold for any lesions."""

import numpy as np
import pytest
from scipy import ndimage

from lesiondelta.cohort import Change
from lesiondelta.errors import GeometryError
from lesiondelta.settings import TrackingSettings
from lesiondelta.tracking import TrackedVisit, groups_of, name_lesions, track
from lesiondelta.tracking.change import by_slices

SHAPE = (40, 36, 30)
OPPOSITE = {
    Change.NEW: Change.RESOLVED,
    Change.RESOLVED: Change.NEW,
    Change.ENLARGING: Change.SHRINKING,
    Change.SHRINKING: Change.ENLARGING,
    Change.MERGED: Change.SPLIT,
    Change.SPLIT: Change.MERGED,
    Change.STABLE: Change.STABLE,
}
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
        ([(5, 5, 5, 4), (11, 5, 5, 4)], [(5, 5, 5, 10)], ["merged"]),
        ([(5, 5, 5, 10)], [(5, 5, 5, 4), (11, 5, 5, 4)], ["split"]),
    ],
)
def test_each_change(before, after, expected):
    assert changes(boxes(*before), boxes(*after)) == [expected]


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
    merged = name_lesions(labelled(apart, one, apart), 1.0)
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


@pytest.mark.parametrize("slice_mm", [1.0, 5.0])
def test_a_small_lesion_that_is_clearly_there_is_new_in_thick_slices_too(slice_mm):
    visits = [sure(boxes(), slice_mm, residual_mm=0.5), sure(boxes((5, 5, 5, 2)), slice_mm, residual_mm=0.5)]
    assert [one.change for one in track(visits, 1.0, 0.5).changes[0]] == ["new"]
    assert [one.change for one in track(visits[::-1], 1.0, 0.5).changes[0]] == ["resolved"]


def test_grids_that_differ_are_refused():
    with pytest.raises(GeometryError, match="different grids"):
        track([sure(boxes()), sure(np.zeros((3, 3, 3), bool))], 1.0, 0.5)


@pytest.fixture(params=range(6))
def visits(request):
    """Three visits of blobs that grow, shrink, come and go."""
    rng = np.random.default_rng(request.param)
    field = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 2)
    drift = [ndimage.gaussian_filter(rng.standard_normal(SHAPE), 2) for _ in range(3)]
    made = []
    for one in drift:
        values = (field + 0.6 * one) / field.std()
        probability = 1 / (1 + np.exp(-3 * (values - 1.6)))
        made.append(TrackedVisit(probability > 0.5, probability, rng.uniform(1, 4), rng.uniform(0, 1)))
    return made


def test_time_reversed_the_changes_are_the_opposite_ones(visits):
    forward, backward = (track(order, 1.0, 0.5) for order in (visits[:2], visits[1::-1]))

    def facts(tracking, back):
        prior, current = tracking.instances
        return sorted(
            (
                OPPOSITE[c.change] if back else c.change,
                *sorted([(c.prior_mm3, c.current_mm3)[:: -1 if back else 1]]),
                round(c.error_mm3, 3),
                *places(*((current, c.current, prior, c.prior) if back else (prior, c.prior, current, c.current))),
            )
            for c in tracking.changes[0]
        )

    def places(first, in_first, second, in_second):
        return [
            tuple(map(int, np.argwhere(np.isin(m, n)).min(0))) if n else ()
            for m, n in ((first, in_first), (second, in_second))
        ]

    assert facts(forward, False) == facts(backward, True)
    assert len(forward.changes[0]) > 5


@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 1, 0)])
def test_orientation_makes_no_difference(visits, axes):
    def turned(visit):
        mask, probability = (np.flip(a.transpose(axes), 0) for a in (visit.mask, visit.probability))
        return TrackedVisit(mask, probability, visit.slice_mm, visit.residual_mm)

    plain, other = track(visits, 1.0, 0.5), track([turned(v) for v in visits], 1.0, 0.5)
    for one, two in zip(plain.changes, other.changes, strict=True):
        key = [(c.change, c.prior_mm3, c.current_mm3, round(c.error_mm3, 3)) for c in one]
        assert sorted(key) == sorted((c.change, c.prior_mm3, c.current_mm3, round(c.error_mm3, 3)) for c in two)


def test_numbers_and_changes_are_stable_when_a_visit_is_added(visits):
    fewer, more = track(visits[:2], 1.0, 0.5), track(visits, 1.0, 0.5)
    for one, two in zip(fewer.instances, more.instances, strict=False):
        np.testing.assert_array_equal(one, two)
    assert fewer.changes[0] == more.changes[0]


def test_every_lesion_is_in_one_group_and_every_number_once_a_visit(visits):
    found = track(visits, 1.0, 0.5)
    for index, pair in enumerate(found.changes):
        for side, labels in (("prior", found.instances[index]), ("current", found.instances[index + 1])):
            listed = [n for c in pair for n in getattr(c, side)]
            assert sorted(listed) == np.unique(labels[labels > 0]).tolist()
    for visit, labels in zip(visits, found.instances, strict=True):
        pieces, count = ndimage.label(visit.mask, np.ones((3, 3, 3)))
        assert len(np.unique(labels[labels > 0])) == count
        assert all(len(np.unique(labels[pieces == piece])) == 1 for piece in range(1, count + 1))
