"""All that follows from a patient's masks, written again after a reader has corrected them; nothing is segmented."""

import logging
from dataclasses import replace

from lesiondelta import records
from lesiondelta.errors import OutputError
from lesiondelta.outputs.derivatives import PatientFiles
from lesiondelta.outputs.segmentations import segmentation_files
from lesiondelta.pipeline.corrections import require_own_visit, take_all_edits
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
            f"{files.out} holds no finished results of sub-{files.patient}: run it without --reports-only first."
        )
    require_own_visit(files, record.segmented_visits)
    masks = take_all_edits(files, record)
    log.info("sub-%s: what follows from the masks is written again", files.patient)
    segmented = read_segmented(files, record.prepared, record.provenance)
    records.write_record(
        files.out, replace(record, masks=masks)
    )  # if this run is killed, nothing else is as it was left
    judged = judge(follow(files, segmented, record.fingerprint, masks))
    written = write_results(files, judged)
    maybe = [path for label in record.segmented_visits for path in segmentation_files(files.visit(label))]
    kept = {files.out / name for name in record.files}.difference(maybe)
    return finish(files, record.fingerprint, judged, kept.union(written))
