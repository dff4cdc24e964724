"""Brains from maps of tissue labels."""

import numpy as np
import pytest
from scipy import ndimage

from lesiondelta.errors import ImageError
from lesiondelta.images import Volume
from lesiondelta.simulation import LesionPlan, label_anatomy, mni152_anatomy, simulate_patient


@pytest.fixture(scope="module")
def labels():
    """Somebody's tissues, a lesion among them, stored with the left on the other side than usual."""
    anatomy = mni152_anatomy(5, spacing_mm=2.0)
    data = np.where(anatomy.brain, anatomy.tissues.argmax(axis=0) + 1, 0)
    white = np.argwhere(ndimage.binary_erosion(data == 3, iterations=3))[0]
    data[tuple(white)] = 4
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = data.shape[0] - 1
    return Volume(data[::-1], anatomy.affine @ flip, "labels.nii.gz"), anatomy


def test_tissues_and_regions_lie_where_the_labels_say(labels):
    made, truth = label_anatomy(labels[0]), labels[1]
    shift = np.rint((made.affine[:3, 3] - truth.affine[:3, 3]) / 2).astype(int)
    there = tuple(slice(s, s + n) for s, n in zip(np.maximum(shift, 0), made.brain.shape, strict=True))
    here = tuple(slice(max(-s, 0), max(-s, 0) + n) for s, n in zip(shift, truth.brain[there].shape, strict=True))
    brain = truth.brain[there]
    np.testing.assert_array_equal(made.brain[here], brain)
    assert (
        np.mean(made.tissues.argmax(axis=0)[here][brain] == truth.tissues.argmax(axis=0)[there][brain]) > 0.98
    )  # thin sheets lose their border
    assert np.mean(made.regions[here][brain] == truth.regions[there][brain]) > 0.7
    np.testing.assert_allclose(made.tissues.sum(axis=0)[made.brain], 1, atol=1e-5)


def test_a_patient_is_simulated_from_labels_alone(labels):
    patient = simulate_patient(3, anatomy=label_anatomy(labels[0]), lesions=LesionPlan(count=12))
    visit = patient.visits[0]
    flair, lesions = visit.images["FLAIR"].data, visit.lesions.data
    assert lesions.any()
    assert flair[lesions].mean() > flair[~lesions & (flair > 0)].mean()


def test_labels_that_are_none_are_refused(labels):
    volume, _ = labels
    other, missing = volume.data.copy(), (volume.data == 2) * 2
    other[0, 0, 0] = 9
    for data, found in ((other, r"\[0, 1, 2, 3, 4, 9\]"), (missing, r"\[0, 2\]")):
        with pytest.raises(ImageError, match=rf"labels\.nii\.gz has the labels {found}"):
            label_anatomy(volume.with_data(data))
