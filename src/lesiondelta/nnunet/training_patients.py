"""Training input: patients whose visits share one grid, and their folds."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lesiondelta.errors import CohortError, InputError
from lesiondelta.files import sha256

FoldName = int | Literal["all"]


@dataclass(frozen=True)
class TrainingVisit:
    """A visit's images by contrast and its reference mask: NIfTI files on the patient's one grid, brain-masked.

    `unsure`, if any, is a mask of voxels that the reference says nothing of: they are left out of the loss.
    """

    label: str
    images: Mapping[str, Path]
    reference: Path
    unsure: Path | None = None


@dataclass(frozen=True)
class TrainingPatient:
    """A patient with the visits in time order."""

    label: str
    visits: tuple[TrainingVisit, ...]


@dataclass(frozen=True)
class Fold:
    """Labels of the patients on either side."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


def visit_identifier(patient: str, visit: str) -> str:
    """The name under which a visit is stored, such as `sub-001__ses-01`."""
    return f"sub-{patient}__ses-{visit}"


def patient_folds(labels: Sequence[str], folds: int, seed: int) -> list[Fold]:
    """Split patients, seeded; sizes differ by one at most, and the order of `labels` does not matter."""
    if not 2 <= folds <= len(labels):
        raise InputError(f"{len(labels)} patients cannot be split into {folds} folds: take 2 to {len(labels)} folds.")
    shuffled = np.random.default_rng(seed).permutation(sorted(labels)).tolist()
    held_out = [sorted(shuffled[fold::folds]) for fold in range(folds)]
    return [Fold(tuple(p for p in sorted(labels) if p not in part), tuple(part)) for part in held_out]


def choose_fold(labels: Sequence[str], fold: FoldName, folds: int, seed: int) -> Fold:
    """One fold, or "all": every patient trains, and the validation curve is then that of training patients."""
    if fold == "all":
        return Fold(tuple(sorted(labels)), tuple(sorted(labels)))
    if not 0 <= fold < folds:
        raise InputError(f"Fold {fold} does not exist: there are folds 0 to {folds - 1}, and `all`.")
    return patient_folds(labels, folds, seed)[fold]


def contrasts(patients: Sequence[TrainingPatient]) -> tuple[str, ...]:
    """The contrasts all visits have, in the order of the first; CohortError where one lacks any."""
    if not patients:
        raise CohortError("There are no patients to train on.")
    expected = tuple(patients[0].visits[0].images) if patients[0].visits else ()
    for patient in patients:
        if not patient.visits:
            raise CohortError(f"Patient {patient.label} has no visits: leave it out.")
        for visit in patient.visits:
            if set(visit.images) != set(expected):
                raise CohortError(
                    f"Patient {patient.label}, visit {visit.label} has {sorted(visit.images)}, others have "
                    f"{sorted(expected)}: training needs the same contrasts everywhere."
                )
    if len({patient.label for patient in patients}) < len(patients):
        raise CohortError("Two training patients have the same label: give every patient its own.")
    return expected


def content_hash(patients: Sequence[TrainingPatient]) -> str:
    """SHA-256 over labels, order and the content of every file."""
    return hashlib.sha256("\n".join(_content(patients)).encode()).hexdigest()


def _content(patients: Sequence[TrainingPatient]) -> Iterator[str]:
    for patient in sorted(patients, key=lambda p: p.label):
        for visit in patient.visits:
            files = {**visit.images, "reference": visit.reference}
            if visit.unsure is not None:
                files["unsure"] = visit.unsure
            for name, path in files.items():
                if not path.is_file():
                    raise CohortError(f"{path} of patient {patient.label}, visit {visit.label} does not exist.")
                yield f"{patient.label} {visit.label} {name} {sha256(path)}"
