"""`models calibrate`: a model's operating point, chosen on a labelled cohort and written into a copy of the model."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lesiondelta import __version__
from lesiondelta.comparison.predictions import torch_threads
from lesiondelta.errors import ModelError
from lesiondelta.evaluation.calibration import (
    Calibration,
    LabelledVisit,
    OperatingPoint,
    calibrate,
    mean_agreement,
    require_lesions,
)
from lesiondelta.files import atomic_folder, require_new, write_json
from lesiondelta.images import read_image, read_mask
from lesiondelta.inference.archive import CARD, NAMES
from lesiondelta.inference.loading import load_models
from lesiondelta.inference.model import DESCRIPTION, Model, load_model
from lesiondelta.inference.window import lesion_probabilities
from lesiondelta.nnunet.training import source_commit
from lesiondelta.nnunet.training_patients import TrainingPatient, content_hash


def load_one(folder: Path) -> Model:
    """The model that `run` would use; ModelError where the folder holds several, or none that can be used."""
    several = sorted(path.parent for path in folder.glob(f"*/{DESCRIPTION}"))
    if several and not (folder / DESCRIPTION).is_file():
        raise ModelError(
            f"{folder} holds {len(several)} models: calibrate them one by one, beginning with {several[0]}, whose "
            "threshold and smallest lesion `run` takes when it averages them."
        )
    return load_models([folder])[0]


def trained_on(model: Model, labels: Sequence[str]) -> list[str]:
    """The labels that also name patients of the model's training: perhaps the same people."""
    members = {str(label) for label in model.description.training.get("train", ())}
    return [label for label in labels if label in members]


def calibrate_model(
    model: Model,
    patients: Sequence[TrainingPatient],
    device: str,
    threads: int,
    report: Callable[[str], None] = lambda what: None,
) -> Calibration:
    """Segment every visit with its prior, and choose the operating point; patients have been prepared.

    `report` is called once for every patient, and once more for the choice.
    """
    require_lesions(read_mask(visit.reference).data for patient in patients for visit in patient.visits)
    visits: list[LabelledVisit] = []
    with torch_threads(threads):
        for patient in patients:
            visits += _labelled_visits(model, patient, device)
            report(f"sub-{patient.label}")
    described = model.description
    present = OperatingPoint(described.temperature, described.threshold, described.min_lesion_mm3)
    result = calibrate(visits, present)
    report("choosing")
    return result


def _labelled_visits(model: Model, patient: TrainingPatient, device: str) -> Iterator[LabelledVisit]:
    neutral = Model(model.network, model.description.model_copy(update={"temperature": 1.0}))
    images = [np.stack([read_image(v.images[name]).data for name in model.contrasts]) for v in patient.visits]
    probabilities = lesion_probabilities(images, [neutral], device=device, backend="auto")  # as `run` has them
    for visit, probability in zip(patient.visits, probabilities, strict=True):
        reference = read_mask(visit.reference)
        yield LabelledVisit(patient.label, probability, reference.data, reference.grid)


def write_calibrated(source: Path, out: Path, calibration: Calibration, patients: Sequence[TrainingPatient]) -> Path:
    """Write a copy of a model folder with the chosen operating point; the card says so at its top.

    Raises
    ------
    OutputError
        `out` exists, or cannot be written.
    """
    require_new(out)
    description = load_model(source).description.model_dump(mode="json")
    training = {**description["training"], "calibration": _facts(calibration, patients)}
    content = {**description, **asdict(calibration.point), "training": training}
    with atomic_folder(out) as partial:
        for name in (name for name in NAMES if name != DESCRIPTION and (source / name).is_file()):
            shutil.copyfile(source / name, partial / name)
        if (partial / CARD).is_file():
            _note(partial / CARD, calibration, len(patients))
        write_json(partial / DESCRIPTION, content)
        load_model(partial)
    return out


def _note(card: Path, calibration: Calibration, patients: int) -> None:
    """Say above a model's card that what it tells of is another operating point."""
    point = calibration.point
    note = (
        f"> Calibrated again on {patients} patients: temperature {point.temperature:g}, threshold {point.threshold:g}, "
        f"smallest lesion {point.min_lesion_mm3:g} mm3. Scores and operating point below are those before.\n\n"
    )
    card.write_text(note + card.read_text(encoding="utf-8"), encoding="utf-8")


def _facts(calibration: Calibration, patients: Sequence[TrainingPatient]) -> dict[str, Any]:
    """What model.json says of how its operating point was chosen."""
    before, after = mean_agreement(calibration.before.values()), mean_agreement(calibration.after.values())
    return {
        "patients": [patient.label for patient in patients],
        "patients_content": content_hash(patients),
        "before": asdict(before),
        "after": asdict(after),
        "lesiondelta": __version__,
        "commit": source_commit(),
    }
