"""What two masks say became of their lesions, wherever they lie."""

import itertools

import numpy as np
import pytest

from lesiondelta.evaluation.changes import changed_lesions, common_grid
from lesiondelta.evaluation.steps import IN_PLACE
from lesiondelta.images import Volume
from lesiondelta.preprocessing.located import Located
from tests.evaluation.changed import FRESH, GONE, GROWN, OLD, PLAIN, SMALL, THICK, TILTED, TRUTH, Pose, turned
from tests.evaluation.test_metrics import NONE, box

BY_HAND = [("enlarging", 64), ("new", 8), ("new", 64), ("resolved", 18)]


def changes(before, after, poses=(PLAIN, PLAIN), least=3.0):
    """(class, volume) of every changed lesion, sorted."""
    step = tuple(Located(pose.volume(mask), pose.transform) for pose, mask in zip(poses, (before, after), strict=True))
    return sorted((str(one.change), round(one.volume_mm3, 4)) for one in changed_lesions(step, least))


def test_by_hand():
    assert changes(*TRUTH) == BY_HAND


@pytest.mark.parametrize("poses", list(itertools.product((PLAIN, TILTED, THICK), repeat=2)), ids=str)
def test_wherever_the_visits_lie(poses):
    """Axes in any order, flipped, oblique, twice as thick: the same lesions of the same volumes, which fill voxels."""
    assert changes(*TRUTH, poses) == BY_HAND


def test_exchanging_the_visits_exchanges_the_changes():
    assert changes(*reversed(TRUTH)) == [("new", 18), ("resolved", 8), ("resolved", 64), ("shrinking", 64)]


def test_in_one_space_thick_slices_need_no_transform():
    """Voxels of 1 x 1 x 2 mm hold 2 mm3; lesions are found on a grid of 1 mm around them."""
    thick = Pose(np.eye(4), thick=2)
    places = [Located(thick.volume(mask), IN_PLACE[0]) for mask in TRUTH]
    assert common_grid(places).spacing.tolist() == [1, 1, 1]
    assert common_grid([Located(PLAIN.volume(OLD), IN_PLACE[0])]).shape == (16, 16, 16)
    assert changes(*TRUTH, (thick, thick)) == BY_HAND


def test_a_transform_that_scales_scales_volumes():
    """The visit is stored 10 % larger in every direction: in the patient's space nothing changed."""
    larger = Pose(np.diag([1.1, 1.1, 1.1, 1]))
    assert changes(OLD, OLD, (PLAIN, larger)) == []
    assert changes(NONE, OLD, (PLAIN, larger)) == [("new", 18)]


def test_growth_by_30_percent_is_none_and_more_has_to_exceed_what_slices_explain():
    """27 to 35 voxels is 29.6 %; 3 to 4 is 33 %, and might be chance."""
    cube = box((1, 4), (1, 4), (1, 4))
    more = cube | box((4, 5), (1, 4), (1, 4))  # 36
    assert changes(cube, more) == [("enlarging", 36)]
    more[4, 1, 1] = False
    assert changes(cube, more) == []
    assert changes(box((2, 5), (2, 3), (2, 3)), box((2, 6), (2, 3), (2, 3))) == []


def test_small_lesions_are_left_out_by_their_larger_volume():
    """A lesion that grew from two voxels is enlarging; one of two voxels that comes is not counted."""
    speck, grown = box((2, 4), (2, 3), (2, 3)), box((2, 5), (2, 5), (2, 5))
    assert changes(speck, grown) == [("enlarging", 27)]
    assert changes(NONE, speck) == []
    assert changes(NONE, speck, least=2.0) == [("new", 2)]


def test_what_the_other_visit_does_not_show_is_not_new():
    """The visit before ends below z = 8; its faces bound the view, half a voxel beyond its centres."""
    low = Volume(np.zeros((16, 16, 9), bool), PLAIN.volume(NONE).affine)
    before = Located(low, np.eye(4))

    def new(lesion):
        return len(changed_lesions((before, Located(PLAIN.volume(lesion), np.eye(4))), 3.0))

    assert new(box((2, 4), (2, 4), (7, 9))) == 1
    assert new(box((2, 4), (2, 4), (8, 10))) == 0  # half of it lies beyond
    assert new(box((2, 4), (2, 4), (8, 11))) == 0
    assert new(box((2, 4), (2, 4), (6, 10))) == 1  # a quarter


def test_what_a_lesion_gains_beyond_the_other_visits_view_is_no_growth():
    """12 mm3 of 24 are beyond it: they might have been there. The same growth in view is one."""
    before = np.zeros((16, 16, 9), bool)
    before[2:4, 2:4, 6:9] = True
    for after, found in ((box((2, 4), (2, 4), (6, 12)), 0), (box((2, 4), (2, 4), (3, 9)), 1)):
        step = (Volume(before, PLAIN.volume(NONE).affine), PLAIN.volume(after))
        assert len(changed_lesions((Located(step[0], np.eye(4)), Located(step[1], np.eye(4))), 3.0)) == found


def test_what_thick_slices_may_miss_is_not_new():
    """Slices of 3 mm beside those of 1 mm: a ball of 3 mm has 14 mm3."""
    thick = Volume(np.zeros((16, 16, 6), bool), PLAIN.volume(NONE).affine @ np.diag([1, 1, 3.0, 1]))
    for after, found in ((SMALL, 0), (GONE, 1)):
        step = Located(thick, np.eye(4)), Located(PLAIN.volume(after), np.eye(4))
        assert len(changed_lesions(step, 3.0)) == found


def test_no_lesion_is_lost_between_the_voxels_of_the_common_grid():
    """Lesions of one voxel of 0.4 mm: most centres of 1 mm voxels miss them, and they stay as they are."""
    fine = np.diag([0.4, 0.4, 0.4, 1])
    mask = np.zeros((40, 40, 40), bool)
    mask[2::5, 3::5, 4::5] = True
    visits = [Located(Volume(mask, turn @ fine), turn) for turn in (np.eye(4), turned(20, 0, (3, 4, 5)))]
    assert changed_lesions((visits[0], visits[1]), 0.0) == []


def test_without_any_lesion():
    assert changes(NONE, NONE) == []
    assert changes(NONE, NONE, (PLAIN, TILTED)) == []
    assert changes(NONE, FRESH, (TILTED, PLAIN)) == [("new", 64)]
    assert changes(GROWN, NONE, (TILTED, PLAIN)) == [("resolved", 64)]


def test_places_are_in_the_space_of_each_mask():
    step = Located(TILTED.volume(OLD), TILTED.transform), Located(PLAIN.volume(GROWN), PLAIN.transform)
    (lesion,) = changed_lesions(step, 3.0)
    centre = TILTED.transform @ [-8 + 2, -6 + 2, 3 + 2.5, 1]  # of OLD: (2, 2, 2.5) on the patient's grid
    np.testing.assert_allclose(lesion.places[0].mean(axis=0), centre[:3], atol=1e-9)
    np.testing.assert_allclose(lesion.places[1].mean(axis=0), [-8 + 2.5, -6 + 2.5, 3 + 3.5])
    assert [len(place) for place in lesion.places] == [18, 64]
