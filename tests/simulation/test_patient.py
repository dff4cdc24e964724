import numpy as np
import pytest

from lesiondelta.simulation import SimulatedPatient, simulate_patient


@pytest.fixture(scope="module")
def patient() -> SimulatedPatient:
    return simulate_patient(3, visits=2, small=True)


def test_same_seed_same_voxels(patient):
    again = simulate_patient(3, visits=2, small=True)
    for a, b in zip(patient.visits, again.visits, strict=True):
        for name in a.images:
            np.testing.assert_array_equal(a.images[name].data, b.images[name].data)
        np.testing.assert_array_equal(a.instances.data, b.instances.data)


def test_stable_lesions_are_identical(patient):
    before, after = (visit.instances.data for visit in patient.visits)
    stable = [i for i, change in patient.changes[0].items() if change == "stable"]
    assert stable
    for i in stable:
        np.testing.assert_array_equal(before == i, after == i)
