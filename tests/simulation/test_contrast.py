"""What is bright on FLAIR without being a lesion."""

import numpy as np

from lesiondelta.simulation import Anatomy
from lesiondelta.simulation.contrast import choroid_plexus, midline, normal_variants, ventricular_caps


def plexus(anatomy: Anatomy, seed: int) -> np.ndarray:
    return choroid_plexus(np.random.default_rng(seed), anatomy)


def test_choroid_plexus_lies_in_the_ventricles(anatomy):
    assert (anatomy.to_ventricles_mm[plexus(anatomy, 1) > 0] <= 2.0).all()


def test_choroid_plexus_fills_a_part_of_the_ventricles_that_differs_between_people(anatomy):
    inside = (anatomy.to_ventricles_mm <= 2.0).sum()
    shares = [(plexus(anatomy, seed) > 0).sum() / inside for seed in range(8)]
    assert 0 < min(shares) < max(shares) / 2 < 0.15


def test_choroid_plexus_can_be_as_bright_as_a_lesion_and_hardly_visible(anatomy):
    brightness = [np.median(found[found > 0]) for found in (plexus(anatomy, seed) for seed in range(12))]
    assert min(brightness) < 0.6
    assert max(brightness) > 1.2


def test_caps_are_brightest_at_the_ends_of_the_ventricles(anatomy):
    caps = ventricular_caps(np.random.default_rng(1), anatomy)
    along = np.argwhere(anatomy.to_ventricles_mm <= 2.0)[:, 1]
    brightest = np.argwhere(caps == caps.max())[0, 1]
    assert min(abs(brightest - along.min()), abs(brightest - along.max())) <= 2


def test_caps_fade_within_two_centimetres_of_the_horns(anatomy):
    caps = ventricular_caps(np.random.default_rng(1), anatomy)
    assert caps[anatomy.to_ventricles_mm > 20].max() < 0.01


def test_the_variants_of_one_person_are_the_same_for_one_seed(anatomy):
    first, second = (normal_variants(np.random.default_rng(5), anatomy) for _ in range(2))
    assert np.array_equal(first, second)


def test_septum_and_fornix_are_bright_in_the_middle_alone(anatomy):
    bright = midline(np.random.default_rng(1), anatomy)
    middle = np.median(np.nonzero(anatomy.to_ventricles_mm <= anatomy.spacing_mm)[0])
    assert bright.max() > 0.1
    assert np.abs(np.argwhere(bright > bright.max() / 2)[:, 0] - middle).max() * anatomy.spacing_mm < 8


def test_septum_and_fornix_are_not_bright_in_everybody(anatomy):
    brightest = [midline(np.random.default_rng(seed), anatomy).max() for seed in range(12)]
    assert 0 in brightest
    assert max(brightest) > 0.4
