from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib import colors, image

from lesiondelta import methods
from lesiondelta.comparison import figures
from lesiondelta.comparison.predictions import mask_path
from lesiondelta.comparison.study import Scored, Study
from lesiondelta.images import Volume, write_volume
from lesiondelta.nnunet import presets
from lesiondelta.nnunet.training_patients import TrainingPatient, TrainingVisit

METHODS = tuple(methods.load(name) for name in ("nnunet", "difference_weighting"))
SHAPE = (30, 36, 20)


def write(path, data):
    write_volume(path, Volume(data, np.eye(4), "made up"))
    return path


@pytest.fixture
def study(tmp_path):
    """Five patients; the masks of nnU-Net are right, those of difference weighting lie beside the lesion."""
    lesion, beside = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    lesion[5:9, 20:24, 12], beside[20:24, 20:24, 12] = True, True
    brain = np.zeros(SHAPE, np.float32)
    brain[2:-2, 2:-2] = 100
    made = Study(METHODS, (), (), (), presets.load("smoke"), 2, 0, tmp_path)
    patients = []
    for label in "12345":
        visits = tuple(
            TrainingVisit(
                v, {"FLAIR": write(tmp_path / f"{label}{v}.nii.gz", brain)}, write(tmp_path / "r.nii.gz", lesion)
            )
            for v in ("a", "b")
        )
        patients.append(TrainingPatient(label, visits))
        for method, mask in zip(METHODS, (lesion, beside), strict=True):
            write(mask_path(made.predictions("cv", method), label, "b"), mask)
    return replace(made, cohort=tuple(patients))


@pytest.fixture
def results():
    """Averaged over the methods: 0.5, 0.2, 0.8, 0.4, 0.6."""
    frame = pd.DataFrame({"participant_id": [f"sub-{n}" for n in "12345"], "dsc": [0.6, 0.1, 0.9, 0.5, 0.7]})
    other = frame.assign(dsc=[0.4, 0.3, 0.7, 0.3, 0.5])
    return {("cv", m.name): Scored(f, f) for m, f in zip(METHODS, (frame, other), strict=True)}


def test_the_median_and_the_worst_patient_are_chosen(study, results):
    chosen = figures.choose_patients(study, results, "cv")
    assert {why: patient.label for why, patient in chosen.items()} == {"median": "1", "worst": "2"}


def test_of_four_patients_the_better_median(study, results):
    chosen = figures.choose_patients(replace(study, cohort=study.cohort[:4]), results, "cv")
    assert {why: patient.label for why, patient in chosen.items()} == {"median": "1", "worst": "2"}


def test_of_two_patients_both(study, results):
    chosen = figures.choose_patients(replace(study, cohort=study.cohort[:2]), results, "cv")
    assert {why: patient.label for why, patient in chosen.items()} == {"median": "1", "worst": "2"}


def test_found_missed_and_false_lesions_have_their_colours(study, results, tmp_path):
    figures.write_masks(tmp_path / "figure.png", study, results, "cv")
    picture = image.imread(tmp_path / "figure.png")[..., :3]
    height, width = picture.shape[:2]
    columns = np.linspace(0, width, 6).astype(int)
    assert height > 300

    def shows(column, colour):
        part = picture[: int(0.9 * height), columns[column] : columns[column + 1]]
        over_grey = 0.8 * np.array(colors.to_rgb(colour))  # drawn at 0.8 over black to white
        return bool((np.abs(part - over_grey - 0.1) < 0.12).all(axis=-1).any())

    assert [shows(2, c) for c in figures.LEGEND] == [True, False, False]
    assert [shows(3, c) for c in figures.LEGEND] == [True, False, False]
    assert [shows(4, c) for c in figures.LEGEND] == [False, True, True]
    assert not any(shows(column, c) for column in (0, 1) for c in figures.LEGEND)


def test_the_patients_right_is_on_the_left(study, results, tmp_path):
    """The lesion lies at low x, which in RAS is the patient's left."""
    figures.write_masks(tmp_path / "figure.png", study, results, "cv")
    picture = image.imread(tmp_path / "figure.png")[..., :3]
    width = picture.shape[1]
    column = picture[: picture.shape[0] // 2, 2 * width // 5 : 3 * width // 5]
    yellow = np.abs(column - 0.8 * np.array(colors.to_rgb(figures.BOTH)) - 0.1).max(axis=-1) < 0.12
    assert np.argwhere(yellow)[:, 1].mean() > column.shape[1] / 2
