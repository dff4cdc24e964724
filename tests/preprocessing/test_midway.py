import numpy as np
import pytest
from scipy.linalg import logm

from lesiondelta.errors import RegistrationError
from lesiondelta.images import resample
from lesiondelta.preprocessing import preparation as way_of_one_patient
from lesiondelta.preprocessing.midway import midway
from tests.prepared import prepare
from tests.preprocessing.heads import moved, person, rigid, write_patient
from tests.preprocessing.test_preparation import QUICK, brain_of

AFFINE = rigid(0.2, (30, -62, 8)) @ np.diag([1.04, 0.98, 1.02, 1.0])


def test_two_visits_lie_equally_far_away():
    to_baseline = midway([np.eye(4), AFFINE])
    np.testing.assert_allclose(AFFINE @ to_baseline, np.linalg.inv(to_baseline), atol=1e-6)
    np.testing.assert_allclose(np.linalg.matrix_power(np.linalg.inv(to_baseline), 2), AFFINE, atol=1e-6)


def test_of_several_visits_the_logarithms_add_up_to_zero():
    visits = [np.eye(4), AFFINE, rigid(-0.3, (5, 0, 40), axis=0), rigid(0.1, axis=1)]
    to_baseline = midway(visits)
    np.testing.assert_allclose(sum(logm(visit @ to_baseline) for visit in visits), 0, atol=1e-6)
    anywhere = rigid(0.5, (1, 2, 3))  # the space that the transforms start from does not matter
    np.testing.assert_allclose(midway([v @ anywhere for v in visits]), np.linalg.inv(anywhere) @ to_baseline, atol=1e-5)


def test_one_visit_stays_where_it_is():
    np.testing.assert_array_equal(midway([np.eye(4)]), np.eye(4))


def test_opposite_poses_have_no_half_way():
    with pytest.raises(RegistrationError, match="--space baseline"):
        midway([np.eye(4), rigid(np.pi - 0.01), rigid(-np.pi + 0.01), rigid(np.pi / 2, axis=1)])


def test_half_a_turn_has_no_half_way():
    with pytest.raises(RegistrationError, match="--space baseline"):
        midway([np.eye(4), np.diag([-1.0, -1.0, 1.0, 1.0])])


def test_a_patient_half_way(tmp_path, monkeypatch):
    """Both visits show one brain at the same place, and neither image is left on its own grid."""
    motion = rigid(0.15, (6, -4, 10)) @ np.diag([1.04, 0.97, 1.02, 1.0])
    first = person(0)
    second = {name: moved(image, np.linalg.inv(motion)) for name, image in first.items()}
    known = lambda fixed, moving, *, degrees, **_: motion if degrees == 12 else np.eye(4)  # noqa: E731
    monkeypatch.setitem(way_of_one_patient.ENGINES, "none", known)
    settings = QUICK.model_copy(update={"space": "midway"})
    masks = {0: brain_of(first), 1: resample(brain_of(first), second["FLAIR"].grid, np.linalg.inv(motion), "nearest")}
    prepared = prepare(write_patient(tmp_path, [first, second], masks=masks.items()), settings)
    here, there = (visit.from_patient["FLAIR"] for visit in prepared.visits)
    np.testing.assert_allclose(there @ np.linalg.inv(here), motion, atol=1e-6)
    np.testing.assert_allclose(there, np.linalg.inv(here), atol=1e-6)
    inside = prepared.brain.data
    for contrast in ("T1w", "FLAIR"):
        values = [visit.images[contrast].data[inside] for visit in prepared.visits]
        assert np.corrcoef(*values)[0, 1] > 0.96
    truth = resample(brain_of(first), prepared.grid, here, order="nearest").data
    assert 2 * (truth & inside).sum() / (truth.sum() + inside.sum()) > 0.95
