"""Tiny patients whose lesions are bright balls, so that a tiny network learns them."""

from pathlib import Path

import numpy as np

from lesiondelta.images import Volume, write_volume
from lesiondelta.nnunet.training_patients import TrainingPatient, TrainingVisit

SHAPE = (44, 52, 40)


def ball(centre, radius, shape=SHAPE):
    """(X, Y, Z) bool."""
    places = np.indices(shape).transpose(1, 2, 3, 0)
    return ((places - np.asarray(centre)) ** 2).sum(axis=-1) <= radius**2


def write_patient(folder: Path, label: str, visits: int, seed: int = 0, radius: int = 17) -> TrainingPatient:
    """Visits with one stable lesion and one that grows; T1w shows them dark, FLAIR bright."""
    rng = np.random.default_rng(seed)
    brain = ball([n // 2 for n in SHAPE], radius)
    centres = rng.integers(-7, 8, (2, 3)) + np.array(SHAPE) // 2
    made = []
    for index in range(visits):
        lesions = ball(centres[0], 4) | ball(centres[1], 2 + index)
        noise = rng.normal(0, 5, (2, *SHAPE))
        flair = np.where(brain, 100 + 80 * lesions + noise[0], 0)
        t1w = np.where(brain, 150 - 60 * lesions + noise[1], 0)
        names = {"T1w": t1w, "FLAIR": flair, "mask": lesions & brain}
        paths = {name: folder / f"sub-{label}_ses-{index + 1:02}_{name}.nii.gz" for name in names}
        for name, data in names.items():
            write_volume(paths[name], Volume(data.astype(np.float32 if name != "mask" else bool), np.eye(4)))
        reference = paths.pop("mask")
        made.append(TrainingVisit(f"{index + 1:02}", paths, reference))
    return TrainingPatient(label, tuple(made))


def write_patients(folder: Path, counts=(2, 1, 3), radius=17) -> list[TrainingPatient]:
    return [write_patient(folder, f"{i + 1:03}", visits, i, radius) for i, visits in enumerate(counts)]
