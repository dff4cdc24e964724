import pytest

from lesiondelta.simulation import Acquisition, Anatomy, LesionPlan, SimulatedPatient, mni152_anatomy, simulate_patient

SEED, LESIONS = 3, 25


@pytest.fixture(scope="session")
def anatomy() -> Anatomy:
    return mni152_anatomy(SEED, spacing_mm=2.0)


@pytest.fixture(scope="session")
def aligned_patient(anatomy) -> SimulatedPatient:
    return simulate_patient(SEED, visits=3, anatomy=anatomy, lesions=LesionPlan(count=LESIONS))


@pytest.fixture(scope="session")
def native_patient(anatomy) -> SimulatedPatient:
    return simulate_patient(
        SEED, visits=3, anatomy=anatomy, lesions=LesionPlan(count=LESIONS), acquisition=Acquisition("native")
    )
