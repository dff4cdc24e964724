"""What is written once every visit is judged: tables, maps, pictures and the report."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from lesiondelta.cohort import visit_name
from lesiondelta.inference.segmenter import SegmentedVisit
from lesiondelta.outputs.derivatives import EXTRAS, PatientFiles, Place, visit_files
from lesiondelta.outputs.lesions import map_files, table_files, write_lesion_tables
from lesiondelta.outputs.segmentations import DicomSource, segmentation_files
from lesiondelta.pipeline.change_maps import write_maps
from lesiondelta.pipeline.corrections import used_corrections
from lesiondelta.pipeline.judgement import JudgedPatient, with_missing
from lesiondelta.pipeline.report_building import report_of
from lesiondelta.pipeline.segmented import SegmentedPatient
from lesiondelta.pipeline.tracked import hashes_left
from lesiondelta.pipeline.tracked_lesions import lesion_rows, step_rows
from lesiondelta.preprocessing.store import described
from lesiondelta.records import Fingerprint, Provenance, Record, VisitResult, write_record
from lesiondelta.report.patient_page import write_report
from lesiondelta.report.pictures import Panel, write_picture

log = logging.getLogger(__name__)


def write_results(files: PatientFiles, judged: JudgedPatient) -> tuple[list[Path], JudgedPatient]:
    """Write tables, maps, pictures and report.

    Returns all of them but pictures, and the patient with what could not be written among the reasons of its visits.
    """
    tracked, lesions, provenance = judged.tracked, judged.tracked.lesions, judged.tracked.segmented.provenance
    rows, steps = lesion_rows(lesions), step_rows(lesions)
    write_lesion_tables(files, rows, steps)
    for index, visit in enumerate(tracked.visits):
        place = files.visit(visit.label)
        missing = write_maps(place, visit, lesions, index, dicom_source(provenance, visit.label))
        judged = with_missing(judged, visit.label, missing)
        _draw(place, judged.results[visit.label], lesions.visits, index, provenance.priors[index])
    log.info("sub-%s: writing the report", files.patient)
    write_report(files.report, report_of(judged, rows, steps))
    return _written(files, [visit.label for visit in tracked.visits]), judged


def _written(files: PatientFiles, visits: Sequence[str]) -> list[Path]:
    written = [*table_files(files), files.report]
    for before, label in zip(["", *visits], visits, strict=False):
        place = files.visit(label)
        maybe = [*map_files(place, [before] if label != visits[0] else []), *segmentation_files(place)]
        written += [path for path in maybe if path.is_file()]
    return written


def possible_files(files: PatientFiles, visits: Sequence[str], contrasts: Sequence[str]) -> list[Path]:
    """All that a run over these visits may write."""
    possible = [*table_files(files), files.report]
    for index, place in enumerate(map(files.visit, visits)):
        possible += visit_files(place, contrasts, EXTRAS)
        possible += [*map_files(place, visits[:index]), *segmentation_files(place)]
    return possible


def visit_files_of(files: PatientFiles, segmented: SegmentedPatient) -> list[Path]:
    """What has been written for every visit beside what `write_results` returns."""
    return [
        path
        for visit in segmented.visits
        for path in visit_files(
            files.visit(visit.label), list(visit.prepared.images), visit.extras, segmented.prepared.parts is not None
        )
    ]


def finish(
    files: PatientFiles, fingerprint: Fingerprint, judged: JudgedPatient, written: Iterable[Path]
) -> tuple[VisitResult, ...]:
    """Write the record of a patient whose results have been written, and return these."""
    segmented, masks = judged.tracked.segmented, hashes_left(files, judged.tracked)
    labels = [visit.label for visit in judged.tracked.visits]
    results = tuple(judged.results.values())
    write_record(
        files.out,
        Record(
            patient=files.patient,
            finished=all(result.status != "failed" for result in results),
            fingerprint=fingerprint,
            files=tuple(sorted(files.relative(written))),
            results=results,
            provenance=segmented.provenance,
            prepared=described(segmented.prepared),
            masks=masks,
            corrections=used_corrections(files, labels, masks),
        ),
    )
    return results


def dicom_source(provenance: Provenance, visit: str) -> DicomSource | None:
    """The DICOM that a visit came as, if it did."""
    if visit not in provenance.dicom:
        return None
    baseline = next(paths[0] for paths in provenance.dicom.values())
    return DicomSource(provenance.dicom[visit], baseline)


def _draw(place: Place, result: VisitResult, visits: Sequence[SegmentedVisit], index: int, prior: int) -> None:
    visit, panels = visits[index], [_panel(visits[i]) for i in dict.fromkeys((prior, index))]
    lesions = f"{visit.lesions} lesion{'' if visit.lesions == 1 else 's'}, {visit.lesion_volume_mm3 / 1000:.2f} ml"
    title = f"{place.stem.replace('_', '  ')}   {result.status}   {lesions}"
    write_picture(place.picture, panels, title, result.reason)


def _panel(visit: SegmentedVisit) -> Panel:
    return Panel(visit_name(visit.label), visit.prepared.images["FLAIR"], visit.mask)
