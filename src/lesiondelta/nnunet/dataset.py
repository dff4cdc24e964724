"""From training patients to nnU-Net's preprocessed storage: every visit once, z-scored, in the patient's union box."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lesiondelta.errors import CohortError, GeometryError, OutputError
from lesiondelta.files import alone, require_writable, write_json
from lesiondelta.images import Array, Volume, read_image, read_mask, require_same_grid
from lesiondelta.nnunet.environment import environment
from lesiondelta.nnunet.training_patients import (
    TrainingPatient,
    TrainingVisit,
    content_hash,
    contrasts,
    visit_identifier,
)
from lesiondelta.preprocessing.intensity import nonzero_mask, normalise
from lesiondelta.processes import possible_processes, worker_pool

logger = logging.getLogger(__name__)

NAME = "Dataset001_lesiondelta"
DESCRIPTION = "patients.json"
OUTSIDE, UNSURE = -1, 2  # nnU-Net's labels of what lies outside the brain, and of what the loss ignores
KNOWN = (-1, 0, 1)
"""nnU-Net's name for all labels but the ignored one."""
STORAGE = 2
"""Raise it when a change stores other arrays from the same patients: what was stored is then refused."""
SAMPLES_PER_VISIT = 10_000
SPACING_TOLERANCE = 0.01


@dataclass(frozen=True)
class Stored:
    """What the plan needs to know of one stored visit."""

    identifier: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    cropped_share: float
    lesion_intensities: tuple[Array, ...]


def preprocessed_folder(folder: Path) -> Path:
    """Where nnU-Net looks for fingerprint and plans."""
    return folder / "preprocessed" / NAME


def visits_folder(folder: Path) -> Path:
    """Where the visits are stored."""
    return preprocessed_folder(folder) / "visits"


def places_path(visits: Path, identifier: str) -> Path:
    """Where the places of a visit's lesions are; not in `visits` itself, where nnU-Net wants one kind of file."""
    return visits.parent / "places" / f"{identifier}.npz"


def description(folder: Path) -> dict[str, Any]:
    """What `build` said of the data it stored in `folder`; the first version did not number itself."""
    found: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    return {"storage": 1, **found}


def build(patients: Sequence[TrainingPatient], folder: Path, patch: Sequence[int], workers: int = 1) -> dict[str, Any]:
    """Store the patients in `folder` unless they are there already, and return the description of what is there.

    Where another process is storing into `folder`, wait for it and take what it stored.

    Parameters
    ----------
    patients : sequence of TrainingPatient
    folder : path
    patch : three ints
        Voxels of a typical read, which decide the compression chunks and nothing else.
    workers : int
        Processes that share the work.

    Returns
    -------
    dict with `storage`, `content` (hash), `contrasts` and `patients` (label -> identifiers of the visits in time order)
    """
    names = contrasts(patients)
    content = content_hash(patients)
    if not (folder / DESCRIPTION).is_file():
        with alone(folder, wait=True):
            if not (folder / DESCRIPTION).is_file():
                _store(patients, names, content, folder, patch, workers)
    found = description(folder)
    if found["storage"] != STORAGE:
        raise OutputError(
            f"{folder} holds training data as another version of lesiondelta stored them: choose another folder or "
            "delete it."
        )
    if found["content"] != content or found["contrasts"] != list(names):
        raise CohortError(f"{folder} holds other patients' training data: choose another folder or delete it.")
    return found


def _store(
    patients: Sequence[TrainingPatient],
    names: Sequence[str],
    content: str,
    folder: Path,
    patch: Sequence[int],
    workers: int,
) -> None:
    shutil.rmtree(visits_folder(folder), ignore_errors=True)  # the rest of a build that was interrupted
    require_writable(visits_folder(folder))
    require_writable(places_path(visits_folder(folder), "").parent)
    store = partial(_store_patient, names=names, folder=folder, patch=patch)
    workers = possible_processes(workers)
    with worker_pool(workers) if workers > 1 else nullcontext() as pool:
        visits_of = pool.map(store, patients) if pool else map(store, patients)
        stored = {patient.label: visits for patient, visits in zip(patients, visits_of, strict=True)}
    visits = [visit for patient in stored.values() for visit in patient]
    _require_one_spacing(visits)
    write_json(preprocessed_folder(folder) / "dataset_fingerprint.json", fingerprint(visits, len(names)))
    _write_dataset_json(folder, patients, names)
    found = {
        "storage": STORAGE,
        "content": content,
        "contrasts": list(names),
        "patients": {label: [visit.identifier for visit in patient] for label, patient in stored.items()},
    }
    write_json(folder / DESCRIPTION, found)  # last: it says that the rest is whole


def fingerprint(visits: Sequence[Stored], channels: int) -> dict[str, Any]:
    """nnU-Net's dataset fingerprint of the stored visits.

    Written here and not by nnU-Net's extractor, which reads every file again in a pool of spawned processes, crops each
    visit by itself and orders the axes as (Z, Y, X).
    """
    intensities = [np.concatenate([visit.lesion_intensities[c] for visit in visits]) for c in range(channels)]
    if not intensities[0].size:
        raise CohortError("No reference mask has a lesion voxel: there is nothing to learn.")
    return {
        "spacings": [list(visit.spacing_mm) for visit in visits],
        "shapes_after_crop": [list(visit.shape) for visit in visits],
        "foreground_intensity_properties_per_channel": {str(c): _properties(v) for c, v in enumerate(intensities)},
        "median_relative_size_after_cropping": float(np.median([visit.cropped_share for visit in visits])),
    }


def _store_patient(patient: TrainingPatient, names: Sequence[str], folder: Path, patch: Sequence[int]) -> list[Stored]:
    with environment(folder) as named:
        return _store_visits(patient, names, visits_folder(named), patch)


def _store_visits(patient: TrainingPatient, names: Sequence[str], folder: Path, patch: Sequence[int]) -> list[Stored]:
    loaded = [_read_visit(visit, names) for visit in patient.visits]
    grid = loaded[0][1]
    for _, reference in loaded:
        require_same_grid(grid, reference)
    brain = np.logical_or.reduce([nonzero_mask(images) for images, _ in loaded])
    box = bounding_box(brain)
    share = float(np.prod([axis.stop - axis.start for axis in box]) / brain.size)
    logger.info("storing patient %s: %d visits, %.0f %% of the grid", patient.label, len(loaded), 100 * share)
    stored = []
    for visit, (images, reference) in zip(patient.visits, loaded, strict=True):
        identifier = visit_identifier(patient.label, visit.label)
        labels = np.where(brain | reference.data, reference.data.astype(np.int8), np.int8(OUTSIDE))
        if visit.unsure is not None:
            labels[_read_unsure(visit.unsure, reference) & (labels == 0)] = UNSURE
        labels = labels[box]
        _save(folder / identifier, normalise(images)[:, *box], labels[None], patch)
        raw = images[:, *box][:, labels == 1]
        spacing = tuple(float(s) for s in reference.grid.spacing)
        stored.append(Stored(identifier, labels.shape, spacing, share, tuple(_sample(values) for values in raw)))
    return stored


def _read_visit(visit: TrainingVisit, names: Sequence[str]) -> tuple[Array, Volume]:
    """Images (C, X, Y, Z) float32 and the reference mask, on one grid."""
    reference = read_mask(visit.reference)
    volumes = [read_image(visit.images[name]) for name in names]
    for volume in volumes:
        require_same_grid(reference, volume)
    return np.stack([volume.data for volume in volumes]), reference


def _read_unsure(path: Path, reference: Volume) -> Array:
    unsure = read_mask(path)
    require_same_grid(reference, unsure)
    return unsure.data


def bounding_box(mask: Array) -> tuple[slice, slice, slice]:
    """The smallest box that holds all True voxels of (X, Y, Z)."""
    corners = np.argwhere(mask)
    low, high = corners.min(axis=0), corners.max(axis=0) + 1
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return x, y, z


def _save(path: Path, data: Array, labels: Array, patch: Sequence[int]) -> None:
    """Write one visit as nnU-Net does: data (C, X, Y, Z) float32, labels (1, X, Y, Z) int8; but no pickle."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    blocks, chunks = comp_blosc2_params(data.shape, tuple(patch), data.itemsize)
    label_blocks, label_chunks = comp_blosc2_params(labels.shape, tuple(patch), labels.itemsize)
    places = DefaultPreprocessor._sample_foreground_locations(labels, [1])
    try:
        nnUNetDatasetBlosc2.save_case(
            data,
            labels,
            {},
            str(path),
            chunks=chunks,
            blocks=blocks,
            chunks_seg=label_chunks,
            blocks_seg=label_blocks,
        )
        path.with_name(f"{path.name}.pkl").unlink()
        np.savez(places_path(path.parent, path.name), lesion=np.asarray(places[1]), known=_known_places(labels))
    except (OSError, RuntimeError) as error:  # blosc2's is a RuntimeError
        written = path.parent.resolve() / path.name
        raise OutputError(f"Cannot write {written}: {error}. Check its folder and the free space.") from error


def _known_places(labels: Array) -> Array:
    """Some places (N, 4) inside the brain that the reference knows: nnU-Net draws from them where there are others."""
    places = np.argwhere((labels == 0) | (labels == 1))
    drawn: Array = places[np.random.default_rng(0).integers(0, len(places), SAMPLES_PER_VISIT)]
    return drawn


def _sample(values: Array) -> Array:
    if not values.size:
        return values
    drawn: Array = np.random.default_rng(0).choice(values, SAMPLES_PER_VISIT)
    return drawn


def _properties(values: Array) -> Mapping[str, float]:
    low, median, high = np.percentile(values, (0.5, 50, 99.5))
    figures = {"mean": values.mean(), "median": median, "std": values.std(), "min": values.min(), "max": values.max()}
    figures |= {"percentile_00_5": low, "percentile_99_5": high}
    return {name: float(value) for name, value in figures.items()}


def _require_one_spacing(visits: Sequence[Stored]) -> None:
    first = visits[0]
    for visit in visits:
        if not np.allclose(visit.spacing_mm, first.spacing_mm[0], rtol=SPACING_TOLERANCE):
            raise GeometryError(
                f"{visit.identifier} has voxels of {visit.spacing_mm} mm, {first.identifier} of {first.spacing_mm} mm: "
                "preprocess all training patients to cubic voxels of one size."
            )


def _write_dataset_json(folder: Path, patients: Sequence[TrainingPatient], names: Sequence[str]) -> None:
    """nnU-Net's description of the raw dataset: a list of the files where they lie, nothing is copied."""
    files = {
        visit_identifier(patient.label, visit.label): {
            "images": [str(visit.images[name].resolve()) for name in names],
            "label": str(visit.reference.resolve()),
        }
        for patient in patients
        for visit in patient.visits
    }
    unsure = any(visit.unsure for patient in patients for visit in patient.visits)
    content = {
        "channel_names": {str(index): name for index, name in enumerate(names)},
        "labels": {"background": 0, "lesion": 1} | ({"ignore": UNSURE} if unsure else {}),
        "numTraining": len(files),
        "file_ending": ".nii.gz",
        "dataset": files,
    }
    write_json(folder / "raw" / NAME / "dataset.json", content)
