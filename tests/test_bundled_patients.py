"""The patients that the bundled model is trained on (`recipes/bundled_patients.py`)."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from lesiondelta.simulation import mni152_anatomy, simulate_patient


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "recipes")
    yield importlib.import_module("bundled_patients")
    for name in ("bundled_patients", "open_patients"):
        sys.modules.pop(name, None)


def test_no_two_guises_have_the_same_seed(recipe):
    guises = [(label, number) for label in recipe.OPEN_PATIENTS for number in range(len(recipe.guises_of(label)))]
    seeds = {recipe.guise_seed(*guise) for guise in guises}
    assert len(seeds) == len(guises) == 2 * 10 + 7 * 4


def test_what_was_unsure_is_forgotten_when_a_patient_is_made_again(recipe, tmp_path):
    patient = simulate_patient(1, anatomy=mni152_anatomy(1, spacing_mm=2.0))
    unsure = np.ones(patient.visits[0].lesions.data.shape, bool)
    first = recipe.stored(tmp_path, "x", "with a ring", lambda: (patient, unsure))
    assert all(visit.unsure.is_file() for visit in first.visits)
    again = recipe.stored(tmp_path, "x", "with a ring", lambda: pytest.fail("it is there"))
    assert again == first
    other = recipe.stored(tmp_path, "x", "without", lambda: (patient, None))
    assert [visit.unsure for visit in other.visits] == [None, None]


def test_a_ring_about_the_ventricles_leaves_lesions_out(recipe):
    ventricles, lesions = np.zeros((21, 21, 21), bool), np.zeros((21, 21, 21), bool)
    ventricles[10, 10, 10] = lesions[12, 10, 10] = True
    ring = recipe.ring(ventricles, lesions, 1.0)
    assert ring[14, 10, 10]
    assert not ring[15, 10, 10]
    assert not ring[10, 10, 10]
    assert not ring[12, 10, 10]
