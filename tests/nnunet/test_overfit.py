from dataclasses import replace

import numpy as np
import pytest

from lesiondelta import methods
from lesiondelta.images import read_image, read_mask
from lesiondelta.inference import lesion_probabilities, load_model
from lesiondelta.nnunet import presets
from lesiondelta.nnunet.training import plan_job, train
from tests.synthetic import write_patients

ITERATIONS = {"denner": 80}
"""Of an epoch; 25 for the others. Its squared error begins with some 200 in which nothing is found, on slices of which
lesions are 0.6 %."""


def dice(one, other):
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


@pytest.mark.slow
@pytest.mark.parametrize("name", methods.names())
def test_two_patients_can_be_overfitted(name, tmp_path):
    """With the paper's optimiser; only network and schedule are small."""
    patients = write_patients(tmp_path / "images", (2, 2))
    preset = replace(presets.load("smoke"), epochs=10, iterations_per_epoch=ITERATIONS.get(name, 25))
    job = plan_job(patients, tmp_path / "out", methods.load(name), preset, device="cpu")
    model = load_model(train(patients, job))
    scores = []
    for patient in patients:
        images = [np.stack([read_image(v.images[c]).data for c in model.contrasts]) for v in patient.visits]
        for visit, probability in zip(patient.visits, lesion_probabilities(images, [model], device="cpu"), strict=True):
            scores.append(dice(probability > 0.5, read_mask(visit.reference).data))
    assert np.mean(scores) >= 0.9, scores
