"""A labelled cohort becomes training input: every patient prepared once, images and references in its own space."""

import json
import logging
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import numpy as np

from lesiondelta.cohort import Cohort, Patient
from lesiondelta.errors import CohortError
from lesiondelta.files import write_json
from lesiondelta.images import Volume, read_mask, require_same_grid, resample, write_volume
from lesiondelta.nnunet.cohort import TrainingPatient, TrainingVisit
from lesiondelta.pipeline.checks import content, usable_visits, visit_name
from lesiondelta.preprocessing.patient import PreparedPatient, PreparedVisit, prepare_patient
from lesiondelta.settings import PreprocessingSettings

log = logging.getLogger(__name__)

CONTRASTS = ("T1w", "FLAIR")


def prepare_training(
    cohort: Cohort,
    folder: Path,
    settings: PreprocessingSettings,
    processes: int = 1,
    report: Callable[[str], None] | None = None,
) -> list[TrainingPatient]:
    """Prepare every labelled patient under `folder`, or take it from there if its input and settings are the same.

    Training must not go on with less than the cohort: the first patient or visit that cannot be prepared ends it.

    Raises
    ------
    CohortError
        A visit cannot be used or has no reference mask.
    """
    _require_labelled(cohort)
    prepare = partial(_prepared, folder=folder, settings=settings)
    found = {}
    for patient in _run(cohort, prepare, processes):
        found[patient.label] = patient
        if report:
            report(patient.label)
    return [found[patient.label] for patient in cohort.patients]


def _run(cohort: Cohort, prepare: Callable[[Patient], TrainingPatient], processes: int) -> Iterator[TrainingPatient]:
    if processes == 1:
        yield from map(prepare, cohort.patients)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(prepare, patient) for patient in cohort.patients]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _require_labelled(cohort: Cohort) -> None:
    problems = [f"sub-{label}: {why}" for label, why in cohort.problems.items()]
    for patient in cohort.patients:
        problems += [f"sub-{patient.label} {visit_name(label)}: {why}" for label, why in patient.problems.items()]
        problems += [
            f"sub-{patient.label} {visit_name(visit.label)} has no reference mask"
            for visit in patient.visits
            if visit.reference is None
        ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise CohortError(f"The cohort cannot be trained on. {'; '.join(problems[:3])}{more}. Correct or exclude them.")


def _prepared(patient: Patient, folder: Path, settings: PreprocessingSettings) -> TrainingPatient:
    """Prepare one patient; its record, written last, says whether that was done already."""
    record = folder / f"sub-{patient.label}" / "prepared.json"
    references = {visit.label: content(visit.reference) for visit in patient.visits if visit.reference}
    identity = {
        "settings": settings.model_dump(mode="json", exclude={"threads"}),
        "visits": [[visit.label, *(content(path) for path in visit.images.values())] for visit in patient.visits],
        "references": references,
    }
    files = _training_patient(patient, folder)
    if not _same(record, identity):
        record.unlink(missing_ok=True)
        usable = usable_visits(patient, CONTRASTS)
        prepared = prepare_patient(usable, settings, CONTRASTS)
        _require_complete(patient, {**usable.problems, **prepared.failures})
        for visit, raw, target in zip(prepared.visits, usable.visits, files.visits, strict=True):
            for contrast, image in visit.images.items():
                write_volume(target.images[contrast], image)
            write_volume(target.reference, reference_in_patient_space(raw.reference, visit, prepared))
        write_json(record, identity)
    return files


def reference_in_patient_space(path: Path | None, visit: PreparedVisit, prepared: PreparedPatient) -> Volume:
    """Move a reference mask from its FLAIR's grid into the patient's space (nearest neighbour)."""
    if path is None:
        raise CohortError(f"sub-{prepared.label} {visit_name(visit.label)} has no reference mask.")
    reference = read_mask(path)
    grid = visit.grids["FLAIR"]
    require_same_grid(reference, Volume(np.broadcast_to(np.uint8(0), grid.shape), grid.affine, "its FLAIR"))
    return resample(reference, prepared.grid, visit.from_patient["FLAIR"], order="nearest")


def _training_patient(patient: Patient, folder: Path) -> TrainingPatient:
    visits = []
    for visit in patient.visits:
        home = folder / f"sub-{patient.label}" / (f"ses-{visit.label}" if visit.label else "only")
        images = {contrast: home / f"{contrast}.nii.gz" for contrast in CONTRASTS}
        visits.append(TrainingVisit(visit.label or "only", images, home / "reference.nii.gz"))
    return TrainingPatient(patient.label, tuple(visits))


def _require_complete(patient: Patient, problems: dict[str, str]) -> None:
    if problems:
        said = "; ".join(f"{visit_name(label)}: {why}" for label, why in problems.items())
        raise CohortError(f"sub-{patient.label} cannot be prepared for training: {said}")


def _same(record: Path, identity: Mapping[str, object]) -> bool:
    try:
        found: object = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return found == identity
