"""Masks of prepared patients, in the patient's space, without size filter: the evaluation has its own."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from lesiondelta.evaluation.masks import MaskPair
from lesiondelta.files import write_json
from lesiondelta.images import Volume, read_image, write_volume
from lesiondelta.inference import Model, lesion_probabilities, load_model
from lesiondelta.nnunet.cohort import TrainingPatient, content_hash

log = logging.getLogger(__name__)

RECORD = "prediction.json"


def predict(
    patients: Sequence[TrainingPatient],
    models: Sequence[Path],
    folder: Path,
    *,
    overlap: float = 0.5,
    device: str = "cpu",
) -> list[MaskPair]:
    """Segment every visit by the mean of the models' logits; a patient done by the same models is left as it is."""
    pairs, loaded = [], [load_model(model) for model in models]
    for patient in patients:
        identity = {
            "models": [model.fingerprint for model in loaded], "patient": content_hash([patient]), "overlap": overlap,
        }  # fmt: skip
        pairs += recorded(patient, folder, identity, partial(_segment, patient, loaded, overlap, device))
    return pairs


def recorded(
    patient: TrainingPatient, folder: Path, identity: Mapping[str, Any], make: Callable[[Mapping[str, Path]], None]
) -> list[MaskPair]:
    """The masks of a patient; `make` writes them, by visit, unless they are there under the same identity."""
    record = folder / f"sub-{patient.label}" / RECORD
    paths = {visit.label: mask_path(folder, patient.label, visit.label) for visit in patient.visits}
    if not _is_done(record, identity, paths):
        record.unlink(missing_ok=True)
        start = perf_counter()
        make(paths)
        write_json(record, {**identity, "seconds": round(perf_counter() - start, 1)})
        log.info("sub-%s is predicted", patient.label)
    return [MaskPair(patient.label, v.label, v.reference, paths[v.label]) for v in patient.visits]


def _segment(
    patient: TrainingPatient, models: Sequence[Model], overlap: float, device: str, paths: Mapping[str, Path]
) -> None:
    images = [[read_image(visit.images[contrast]) for contrast in models[0].contrasts] for visit in patient.visits]
    stacked = [np.stack([image.data for image in visit]) for visit in images]
    threshold = float(np.mean([model.threshold for model in models]))
    probabilities = lesion_probabilities(stacked, models, overlap=overlap, device=device)
    for visit, probability in zip(patient.visits, probabilities, strict=True):
        write_volume(paths[visit.label], Volume(probability > threshold, images[0][0].affine))


def mask_path(folder: Path, patient: str, visit: str) -> Path:
    """Where the mask of a visit lies among the predictions of a split and method."""
    place = folder / f"sub-{patient}" / f"ses-{visit}" / "anat"
    return place / f"sub-{patient}_ses-{visit}_space-patient_label-L_mask.nii.gz"


def seconds(folder: Path, patient: str) -> float:
    """How long the visits of a patient took."""
    return float(json.loads((folder / f"sub-{patient}" / RECORD).read_text(encoding="utf-8"))["seconds"])


def _is_done(record: Path, identity: Mapping[str, Any], paths: Mapping[str, Path]) -> bool:
    """Whether the masks are there, by the models and for the images that `identity` names."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent or damaged
        return False
    return identity.items() <= found.items() and all(path.is_file() for path in paths.values())
