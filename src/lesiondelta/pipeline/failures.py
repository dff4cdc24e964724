"""What becomes of a patient whose run has failed."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from lesiondelta import records
from lesiondelta.cohort import Patient
from lesiondelta.errors import LesionDeltaError
from lesiondelta.outputs.derivatives import PatientFiles
from lesiondelta.pipeline.corrections import removed_masks
from lesiondelta.records import Record, VisitResult

log = logging.getLogger(__name__)


def failed_results(patient: Patient, reason: str) -> tuple[VisitResult, ...]:
    """One failed row for every visit; its own reason where one is known."""
    labels = dict.fromkeys([*(visit.label for visit in patient.visits), *patient.problems]) or [""]
    return tuple(VisitResult(patient.label, label, "failed", patient.problems.get(label, reason)) for label in labels)


def reason_of(error: Exception, files: PatientFiles) -> str:
    """Log what ended a patient's run, and say it in a sentence."""
    if isinstance(error, LesionDeltaError):
        log.error("sub-%s: %s", files.patient, error)
        return str(error)
    log.exception("sub-%s: a fault in lesiondelta", files.patient)
    return f"a fault in lesiondelta ({type(error).__name__}: {error}): see {files.log}"


def record_failure(files: PatientFiles, results: Sequence[VisitResult]) -> None:
    """Remove what can be removed of a failed patient's files, and record how it ended, if that can be written."""
    record = records.read_record(files.out, files.patient) or Record(files.patient, False, None)
    masks = {**record.masks, **removed_masks(record.files)}
    with suppress(LesionDeltaError):
        records.fail(files.out, replace(record, masks=masks), results)
