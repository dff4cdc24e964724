import numpy as np
from scipy import ndimage

from lesiondelta.simulation.acquisition import _box_average, cubic
from lesiondelta.simulation.fields import distance_mm, enlarge, rigid, sample_at, sample_slabs, smooth_field


def test_field_has_mean_0_and_deviation_1_and_the_width_asked_for():
    rng = np.random.default_rng(0)
    wide, narrow = smooth_field(rng, (40, 30, 20), 12), smooth_field(rng, (40, 30, 20), 2)
    for field in (wide, narrow):
        assert field.shape == (40, 30, 20)
        assert abs(field.mean()) < 1e-4
        assert abs(field.std() - 1) < 1e-3
    assert np.abs(np.diff(wide, axis=0)).mean() < 0.4 * np.abs(np.diff(narrow, axis=0)).mean()


def test_rigid_keeps_its_centre_and_all_lengths():
    matrix = rigid(np.array([1.0, 2, 3]), np.array([10.0, -20, 30]), np.zeros(3))
    np.testing.assert_allclose(matrix @ [1, 2, 3, 1], [1, 2, 3, 1])
    np.testing.assert_allclose(matrix[:3, :3].T @ matrix[:3, :3], np.eye(3), atol=1e-12)


def test_sampling_agrees_with_scipy():
    rng = np.random.default_rng(1)
    image = rng.standard_normal((9, 8, 7)).astype(np.float32)
    at = rng.uniform(0.5, 5.5, (3, 4, 5, 6)).astype(np.float32)
    expected = ndimage.map_coordinates(image, at, order=1)
    np.testing.assert_allclose(sample_at(image[None], at)[0], expected, atol=1e-5)


def test_slabs_are_means_of_thin_samples():
    rng = np.random.default_rng(2)
    image = rng.standard_normal((12, 11, 10)).astype(np.float32)
    pull = np.array([[0.5, 0.1, 0, 2], [0, 0.6, 0.2, 1], [0.1, 0, 1.5, 2.5], [0, 0, 0, 1]])
    thick = sample_slabs(image, pull, (4, 5, 3), parts=3)
    for offset in (-1 / 3, 0, 1 / 3):
        index = np.indices((4, 5, 3)) + np.array([0, 0, offset])[:, None, None, None]
        at = np.einsum("ab,bxyz->axyz", pull[:3, :3], index) + pull[:3, 3][:, None, None, None]
        thick = thick - ndimage.map_coordinates(image, at, order=1) / 3
    np.testing.assert_allclose(thick, 0, atol=1e-5)


def test_enlarging_a_ramp_gives_a_ramp():
    ramp = np.linspace(0, 1, 5)[:, None, None] * np.ones((1, 3, 3))
    np.testing.assert_allclose(enlarge(ramp, (9, 3, 3))[:, 0, 0], np.linspace(0, 1, 9), atol=1e-6)


def test_distance_is_in_mm():
    inside = np.zeros((41, 9, 9), bool)
    inside[:11] = True
    distance = distance_mm(inside, spacing_mm=2.0)
    assert abs(distance[30, 4, 4] - 40) <= 4


def test_slices_average_and_come_back():
    """Averaging keeps constants, and cubic interpolation reproduces a straight line."""
    centers = np.arange(-1.5, 30, 3.0)
    np.testing.assert_allclose(_box_average(centers, 3, 30)[1:-1].sum(axis=1), 1, atol=1e-6)
    line = cubic(centers, np.arange(29.0)) @ (2 * centers + 1)
    np.testing.assert_allclose(line, 2 * np.arange(29.0) + 1, atol=1e-3)
