import numpy as np
import pytest

from lesiondelta.images import Grid, Volume
from lesiondelta.inference.own_grid import on_own_grid
from lesiondelta.inference.segmenter import SegmentedVisit
from lesiondelta.pipeline.judgement import implausible, uncovered
from lesiondelta.preprocessing.preparation import PreparedVisit

PATIENT = Grid((40, 40, 36), np.eye(4))


def seen(probability: np.ndarray, own: Grid, from_patient: np.ndarray, threshold: float = 0.5) -> SegmentedVisit:
    grids, transforms = {"FLAIR": own}, {"FLAIR": from_patient}
    visit = PreparedVisit("1", {}, transforms, grids, {})
    mask = Volume(probability > threshold, PATIENT.affine)
    return SegmentedVisit(visit, Volume(probability.astype(np.float32), PATIENT.affine), mask, lesions=1)


def thick(shift_mm: float = 0.0) -> Grid:
    """An LPS grid of 0.7 x 0.7 x 3 mm over the same space."""
    affine = np.diag([-0.7, -0.7, 3.0, 1])
    affine[:3, 3] = [39, 39, shift_mm]
    return Grid((56, 56, 12), affine)


def blob(centre, radius_mm: float) -> np.ndarray:
    """A probability that falls linearly from 1 at the centre to 0.5 at the radius."""
    points = np.stack(np.meshgrid(*[np.arange(n) for n in PATIENT.shape], indexing="ij"), axis=-1)
    return np.clip(1 - 0.5 * np.linalg.norm(points - centre, axis=-1) / radius_mm, 0, 1)


@pytest.mark.parametrize("height_mm", [15.0, 16.0, 16.5, 17.0])
def test_small_lesions_survive_slices_of_3_mm_wherever_they_lie(height_mm):
    """A ball of 1.6 mm radius (17 mm3) meets a slice even where it lies between two; its mask is on the ball."""
    visit = seen(blob((20, 20, height_mm), 1.6), thick(), np.eye(4))
    _, mask = on_own_grid(visit, 0.5)
    assert mask.data.any()
    points = np.argwhere(mask.data) @ mask.affine[:3, :3].T + mask.affine[:3, 3]
    assert np.linalg.norm(points - (20, 20, height_mm), axis=1).max() < 2.5


def test_volume_and_place_are_kept_through_a_rotation():
    angle = 0.3
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    rotation[:3, 3] = [9, -3, 1]
    own = Grid((70, 70, 14), thick().affine @ np.diag([1, 1, 1, 1]) + np.pad([[15.0], [15], [-3]], ((0, 1), (3, 0))))
    visit = seen(blob((20, 18, 15), 6), own, rotation)
    _, mask = on_own_grid(visit, 0.5)
    assert mask.data.sum() * own.voxel_volume_mm3 == pytest.approx(visit.lesion_volume_mm3, rel=0.05)
    centre = own.affine[:3, :3] @ np.argwhere(mask.data).mean(axis=0) + own.affine[:3, 3]
    np.testing.assert_allclose(centre, (rotation @ [20, 18, 15, 1])[:3], atol=0.3)


def test_what_the_size_filter_dropped_stays_out_but_stays_in_the_probabilities():
    probability = np.maximum(blob((10, 10, 15), 5), 0)
    probability[30, 30, 15] = 0.9  # one voxel
    visit = seen(probability, PATIENT, np.eye(4))
    mask = visit.mask.data.copy()
    mask[30, 30, 15] = False
    filtered = SegmentedVisit(visit.prepared, visit.probability, visit.mask.with_data(mask), 1)
    own_probability, own_mask = on_own_grid(filtered, 0.5)
    assert not own_mask.data[30, 30, 15]
    assert own_probability.data[30, 30, 15] == pytest.approx(0.9)
    np.testing.assert_array_equal(own_mask.data, mask)


@pytest.mark.parametrize("apart", [3.6, 5.0])
def test_a_lesion_between_two_thick_slices_keeps_one_voxel(apart):
    """Of 3 x 3 x 3 mm, where its resampled probability is highest; without any, next to its centroid."""
    probability = np.zeros(PATIENT.shape)
    probability[19:22, 19:22, 14:17] = 0.95
    probability[20, 20, 14:17] = 0.99
    probability[5:12, 5:12, 5:30] = 0.9  # a large lesion, not changed
    own = Grid((40, 40, 7), np.diag([1, 1, apart, 1]) + np.pad([[0.0], [0], [15 - apart * 1.5]], ((0, 1), (3, 0))))
    visit = seen(probability, own, np.eye(4))
    _, mask = on_own_grid(visit, 0.5)
    (small,) = np.argwhere(mask.data[15:]).tolist()
    assert small in ([5, 20, 1], [5, 20, 2])
    assert mask.data[5:12, 5:12].sum() == mask.data[:15].sum() > 49


def test_a_lesion_outside_the_flair_is_not_restored(caplog):
    probability = np.zeros(PATIENT.shape)
    probability[19:22, 19:22, 30:33] = 0.95
    with caplog.at_level("WARNING"):
        _, mask = on_own_grid(seen(probability, Grid((40, 40, 5), np.diag([1.0, 1, 5, 1])), np.eye(4)), 0.5)
    assert not mask.data.any()
    assert "1 lesions lie outside" in caplog.text


def test_implausible_results_are_flagged():
    whole = seen(np.ones(PATIENT.shape), PATIENT, np.eye(4))
    nothing = Volume(np.zeros(PATIENT.shape, bool), PATIENT.affine)
    assert implausible(whole, 1.4e6, whole.mask) == []
    assert "brain mask holds 300 ml" in implausible(whole, 3e5, whole.mask)[0]
    assert "left on the FLAIR's own grid" in implausible(whole, 1.4e6, nothing)[0]
    huge = Volume(np.ones((60, 60, 60), bool), PATIENT.affine)
    large = SegmentedVisit(whole.prepared, whole.probability, huge, 1)
    assert "216 ml of lesions" in implausible(large, 1.4e6, huge)[0]


def test_a_visit_that_leaves_out_part_of_the_brain_says_so():
    brain = Volume(np.ones((10, 10, 10), bool), np.eye(4))
    whole, part = (Volume(np.ones((10, 10, 10), np.float32), np.eye(4)) for _ in range(2))
    part.data[:, :, 8:] = 0
    visit = PreparedVisit("1", {"T1w": whole, "FLAIR": part}, {}, {}, {})
    assert uncovered(visit, brain) == ["the FLAIR covers 80% of the brain"]
