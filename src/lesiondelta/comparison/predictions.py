"""Masks of prepared patients, in the patient's space, without size filter: the evaluation has its own."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from lesiondelta import __version__
from lesiondelta.evaluation.masks import MaskPair
from lesiondelta.files import sha256, write_json
from lesiondelta.images import Volume, read_image, write_volume
from lesiondelta.inference.model import Model, load_model
from lesiondelta.inference.window import choose_device, lesion_probabilities, mirrors
from lesiondelta.nnunet.training import source_commit
from lesiondelta.nnunet.training_patients import TrainingPatient, content_hash

log = logging.getLogger(__name__)

RECORD = "prediction.json"
PREDICTION = 1
"""Raise it when a change makes other masks from the same models and images: what was predicted is then redone."""


def predict(
    patients: Sequence[TrainingPatient],
    models: Sequence[Path],
    folder: Path,
    *,
    overlap: float = 0.5,
    device: str = "cpu",
    threads: int = 1,
) -> list[MaskPair]:
    """Segment every visit by the mean of the models' logits; a patient done by the same models is left as it is."""
    pairs, loaded = [], [load_model(model) for model in models]
    settings = {
        "lesiondelta": __version__, "prediction": PREDICTION, "models": [model.fingerprint for model in loaded],
        "overlap": overlap, "mirroring": mirrors(None, choose_device(device), loaded), "device": device,
    }  # fmt: skip
    for patient in patients:
        pairs += recorded(patient, folder, settings, threads, partial(_segment, patient, loaded, overlap, device))
    return pairs


def recorded(
    patient: TrainingPatient,
    folder: Path,
    settings: Mapping[str, Any],
    threads: int,
    make: Callable[[Mapping[str, Path]], None],
) -> list[MaskPair]:
    """The masks of a patient; `make` writes them, by visit, unless they are there, by the same settings and images."""
    record = folder / f"sub-{patient.label}" / RECORD
    identity = {**settings, "patient": content_hash([patient])}
    paths = {visit.label: mask_path(folder, patient.label, visit.label) for visit in patient.visits}
    if not _is_done(record, identity, paths):
        record.unlink(missing_ok=True)
        start = perf_counter()
        with torch_threads(threads):
            make(paths)
        made = {"seconds": round(perf_counter() - start, 1), "threads": threads, "commit": source_commit()}
        write_json(record, {**identity, **made, "masks": _hashes(paths)})
        log.info("sub-%s is predicted", patient.label)
    return [MaskPair(patient.label, v.label, v.reference, paths[v.label]) for v in patient.visits]


def _segment(
    patient: TrainingPatient, models: Sequence[Model], overlap: float, device: str, paths: Mapping[str, Path]
) -> None:
    images = [[read_image(visit.images[contrast]) for contrast in models[0].contrasts] for visit in patient.visits]
    stacked = [np.stack([image.data for image in visit]) for visit in images]
    threshold = float(np.mean([model.threshold for model in models]))
    probabilities = lesion_probabilities(stacked, models, overlap=overlap, device=device, backend="auto")
    for visit, probability in zip(patient.visits, probabilities, strict=True):
        write_volume(paths[visit.label], Volume(probability > threshold, images[0][0].affine))


def mask_path(folder: Path, patient: str, visit: str) -> Path:
    """Where the mask of a visit lies among the predictions of a split and method."""
    place = folder / f"sub-{patient}" / f"ses-{visit}" / "anat"
    return place / f"sub-{patient}_ses-{visit}_space-patient_label-L_mask.nii.gz"


def prediction_record(folder: Path, patient: str) -> dict[str, Any]:
    """How the masks of a patient were made: settings, commit, threads, and the seconds it took."""
    found: dict[str, Any] = json.loads((folder / f"sub-{patient}" / RECORD).read_text(encoding="utf-8"))
    return found


def _is_done(record: Path, identity: Mapping[str, Any], paths: Mapping[str, Path]) -> bool:
    """Whether the masks are there as they were written, by the models and for the images that `identity` names."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        return bool(identity.items() <= found.items() and found["masks"] == _hashes(paths))
    except (OSError, ValueError, KeyError):  # absent or damaged
        return False


def _hashes(paths: Mapping[str, Path]) -> dict[str, str]:
    return {visit: sha256(path) for visit, path in paths.items()}


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """PyTorch uses so many threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
