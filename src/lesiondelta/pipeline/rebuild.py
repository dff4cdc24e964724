"""All that follows from masks, written again after a reader has corrected them; nothing is segmented."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lesiondelta import records
from lesiondelta.errors import LesionDeltaError, OutputError
from lesiondelta.files import logged_to
from lesiondelta.outputs.corrections import require_own_visit
from lesiondelta.outputs.derivatives import PatientFiles
from lesiondelta.outputs.segmentations import segmentation_files
from lesiondelta.pipeline.corrections import take_all_edits
from lesiondelta.pipeline.failures import reason_of
from lesiondelta.pipeline.group import write_group
from lesiondelta.pipeline.judgement import judge
from lesiondelta.pipeline.segmented import read_segmented
from lesiondelta.pipeline.tracked import follow
from lesiondelta.pipeline.writing import finish, write_results
from lesiondelta.records import Record, VisitResult

log = logging.getLogger(__name__)


def rebuild(files: PatientFiles, record: Record | None) -> tuple[VisitResult, ...]:
    """Follow, judge and write again what `record` says has been segmented, corrected masks included.

    Raises
    ------
    LesionDeltaError
        A corrected mask cannot be used, or there are no results. Nothing has been changed then.
    """
    if record is None or record.provenance is None or record.fingerprint is None:
        raise OutputError(
            f"{files.out} holds no finished results of sub-{files.patient} that this version can rebuild: run it "
            "without --reports-only first, which keeps masks corrected by hand."
        )
    require_own_visit(files, record.segmented_visits)
    masks = take_all_edits(files, record)
    log.info("sub-%s: what follows from the masks is written again", files.patient)
    segmented = read_segmented(files, record.prepared, record.provenance)
    records.write_record(
        files.out, replace(record, masks=masks)
    )  # if this run is killed, nothing else is as it was left
    judged = judge(follow(files, segmented, record.fingerprint, masks))
    written, judged = write_results(files, judged)
    maybe = [path for label in record.segmented_visits for path in segmentation_files(files.visit(label))]
    kept = {files.out / name for name in record.files}.difference(maybe)
    return finish(files, record.fingerprint, judged, kept.union(written))


def report_cohort(out: Path, participants: Sequence[str] | None = None) -> tuple[list[VisitResult], tuple[str, ...]]:
    """Write again what follows from the masks in `out`, those corrected by hand included, and the cohort's table.

    `participants` are labels with or without sub-; None for all that have results. A patient of whom this fails keeps
    what it has, and has status `failed` in what is returned: the results, and the cautions of what segmented them.

    Raises
    ------
    OutputError
        There are no results of a participant.
    """
    there = records.recorded_patients(out)
    asked = there if participants is None else [name.removeprefix("sub-") for name in participants]
    absent = [label for label in asked if label not in there]
    if absent or not there:
        whom = ", ".join(f"sub-{label}" for label in absent)
        raise OutputError(f"{out} holds no results{f' of {whom}' if whom else ''}: run without --reports-only first.")
    results = [result for label in asked for result in _rebuilt(PatientFiles(out, label))]
    _, cautions = write_group(out)
    return results, cautions


def _rebuilt(files: PatientFiles) -> tuple[VisitResult, ...]:
    try:
        with logged_to(files.log), records.only_run(files.out, files.patient):
            record = records.read_record(files.out, files.patient)
            try:
                return rebuild(files, record)
            except Exception as error:  # logged while the log is open
                return _failed(files, record, reason_of(error, files))
    except LesionDeltaError as error:  # the log itself cannot be written, or another run is at it
        return _failed(files, records.read_record(files.out, files.patient), str(error))


def _failed(files: PatientFiles, record: records.Record | None, reason: str) -> tuple[VisitResult, ...]:
    visits = [result.visit for result in records.results_of(record)] if record else [""]
    return tuple(VisitResult(files.patient, visit, "failed", reason) for visit in visits)
