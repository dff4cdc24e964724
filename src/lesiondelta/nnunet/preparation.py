"""A labelled cohort becomes training input: every patient prepared once, images and references in its own space."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from lesiondelta.cohort import CONTRASTS, Cohort, Patient, Visit, visit_name
from lesiondelta.errors import CohortError
from lesiondelta.images import Volume, read_mask, require_same_grid, resample, write_volume
from lesiondelta.inputs.checks import check_patient, log_choices
from lesiondelta.nnunet.training_patients import TrainingPatient, TrainingVisit
from lesiondelta.preprocessing.preparation import PreparedPatient, PreparedVisit
from lesiondelta.preprocessing.store import image_path, prepared_patient
from lesiondelta.processes import possible_processes, worker_pool
from lesiondelta.settings import PreprocessingSettings

log = logging.getLogger(__name__)

Warned = tuple[TrainingPatient, list[str]]


def prepare_training(
    cohort: Cohort,
    work: Path,
    settings: PreprocessingSettings,
    processes: int = 1,
    report: Callable[[str], None] | None = None,
) -> list[TrainingPatient]:
    """Prepare every labelled patient under `work`, or take it from there if its input and settings are the same.

    Training must not continue with less than the cohort: the first patient or visit that cannot be prepared ends it.

    Raises
    ------
    CohortError
        A visit cannot be used or has no reference mask.
    """
    require_labelled(cohort)
    for labelled in cohort.patients:
        log_choices(labelled)
    found = {}
    for patient, warnings in _run(cohort, partial(_prepare, work=work, settings=settings), processes):
        found[patient.label] = patient
        for warning in warnings:
            log.warning("sub-%s %s", patient.label, warning)
        log.info("sub-%s is prepared", patient.label)
        if report:
            report(patient.label)
    return [found[patient.label] for patient in cohort.patients]


def _run(cohort: Cohort, prepare: Callable[[Patient], Warned], processes: int) -> Iterator[Warned]:
    if possible_processes(processes) == 1:
        yield from map(prepare, cohort.patients)
        return
    with worker_pool(processes) as pool:
        futures = [pool.submit(prepare, patient) for patient in cohort.patients]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def require_labelled(cohort: Cohort) -> None:
    """Raise CohortError where a patient or visit cannot be used, or has no reference mask."""
    problems = [f"sub-{label}: {why}" for label, why in cohort.problems.items()]
    for patient in cohort.patients:
        problems += [f"sub-{patient.label} {visit_name(label)}: {why}" for label, why in patient.problems.items()]
        problems += [
            f"sub-{patient.label} {visit_name(visit.label)}: {why}"
            for visit in patient.visits
            for why in visit.absent.values()
        ]
        unlabelled = [visit for visit in patient.visits if visit.reference is None]
        problems += [f"sub-{patient.label} {visit_name(visit.label)} has no reference mask" for visit in unlabelled]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise CohortError(f"The cohort cannot be trained on: {'; '.join(problems[:3])}{more}. Correct or exclude them.")


def _prepare(patient: Patient, work: Path, settings: PreprocessingSettings) -> Warned:
    checked = check_patient(patient, CONTRASTS)
    prepared = prepared_patient(checked, settings, CONTRASTS, work, atlas=True)
    problems = {**checked.problems, **prepared.failures}
    if problems:
        said = "; ".join(f"{visit_name(label)}: {why}" for label, why in problems.items())
        raise CohortError(f"sub-{patient.label} cannot be prepared for training: {said}")
    raw = {visit.label: visit for visit in patient.visits}
    visits = [_training_visit(raw[visit.label], visit, prepared, work) for visit in prepared.visits]
    warnings = [f"{visit_name(visit.label)}: {warning}" for visit in prepared.visits for warning in visit.warnings]
    return TrainingPatient(patient.label, tuple(visits)), warnings


def _training_visit(raw: Visit, visit: PreparedVisit, prepared: PreparedPatient, work: Path) -> TrainingVisit:
    images = {contrast: image_path(work, prepared.label, visit.label, contrast) for contrast in CONTRASTS}
    reference = image_path(work, prepared.label, visit.label, "reference")
    if raw.reference is None:
        raise CohortError(f"sub-{prepared.label} {visit_name(visit.label)} has no reference mask.")
    write_volume(reference, reference_in_patient_space(raw.reference, visit, prepared))
    return TrainingVisit(visit.label or "only", images, reference)


def reference_in_patient_space(path: Path, visit: PreparedVisit, prepared: PreparedPatient) -> Volume:
    """Move a reference mask from its FLAIR's grid into the patient's space (nearest neighbour)."""
    reference, grid = read_mask(path), visit.grids["FLAIR"]
    require_same_grid(reference, Volume(np.broadcast_to(np.uint8(0), grid.shape), grid.affine, "its FLAIR", grid.forms))
    return resample(replace(reference, affine=grid.affine), prepared.grid, visit.from_patient["FLAIR"], order="nearest")
