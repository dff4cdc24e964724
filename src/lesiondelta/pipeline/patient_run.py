"""The way of one patient: check, prepare, segment, judge, write."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lesiondelta import records
from lesiondelta.cohort import Patient, visit_name
from lesiondelta.errors import LesionDeltaError, NoVisitError
from lesiondelta.files import logged_to
from lesiondelta.inference import Model, choose_device, mirrors
from lesiondelta.inference.samseg import require_whole_heads, segment_by_samseg
from lesiondelta.inference.samseg_program import Samseg
from lesiondelta.inference.segmenter import SegmentedVisit, Segmenter, on_own_grid, segment, thresholds
from lesiondelta.inputs.checks import log_choices, usable_visits
from lesiondelta.outputs.derivatives import EXTRAS, Place, VisitOutput, visit_files, write_visit
from lesiondelta.outputs.lesions import map_files, table_files
from lesiondelta.outputs.segmentations import segmentation_files
from lesiondelta.pipeline.checks import fingerprint
from lesiondelta.pipeline.group import TABLE, write_group
from lesiondelta.pipeline.results import (
    Made,
    Told,
    corrections,
    finished,
    flair_hashes,
    log_path,
    reason_of,
    report_again,
    report_path,
    take_corrections,
    write_results,
)
from lesiondelta.preprocessing.preparation import PreparedPatient
from lesiondelta.preprocessing.store import prepared_patient
from lesiondelta.records import VisitResult
from lesiondelta.settings import SegmentationSettings, Settings

log = logging.getLogger(__name__)


def run_patient(
    patient: Patient,
    out: Path,
    settings: Settings,
    models: Sequence[Segmenter],
    raw: Path | None = None,
    work: Path | None = None,
) -> tuple[VisitResult, ...]:
    """Segment every visit of a patient, write the results under `out`, and say what became of each visit.

    `raw` is the dataset the images belong to, `work` keeps prepared images for another run. This is the border of one
    patient's run: whatever goes wrong is logged and becomes status `failed`. So is a patient whom another run is
    working on: this one cannot say how that ends, and touches nothing.
    """
    try:
        with logged_to(log_path(out, patient.label)), records.only_run(out, patient.label):
            return _without_fault(patient, out, settings, models, raw, work)
    except LesionDeltaError as error:  # the log itself cannot be written, or another run is at it
        return failed_results(patient, str(error))


def _without_fault(
    patient: Patient, out: Path, settings: Settings, models: Sequence[Segmenter], raw: Path | None, work: Path | None
) -> tuple[VisitResult, ...]:
    problems = dict(patient.problems)
    labels = [visit.label for visit in patient.visits]
    try:
        taken = take_corrections(out, patient.label, labels)
        earlier = _earlier(patient, out, settings, models)
    except Exception as error:  # a corrected mask is of no use: what lies there stays untouched
        return failed_results(patient, reason_of(error, out, patient.label))
    if earlier is not None:
        return earlier
    try:
        return _run(patient, out, settings, models, raw, work, problems, taken)
    except Exception as error:
        reason = reason_of(error, out, patient.label)
        if isinstance(error, NoVisitError):
            problems.update(error.failures)
    results = failed_results(replace(patient, problems=problems), reason)
    with suppress(LesionDeltaError):
        take_corrections(out, patient.label, labels)  # what was saved meanwhile
    with suppress(LesionDeltaError):
        records.fail(out, patient.label, results)
    return results


def _earlier(
    patient: Patient, out: Path, settings: Settings, models: Sequence[Segmenter]
) -> tuple[VisitResult, ...] | None:
    """The results of a run that is finished, with what has been corrected since; None where there is none."""
    earlier = records.finished_results(out, patient.label, fingerprint(patient, settings, models))
    record = records.read_record(out, patient.label)
    if earlier is None or record is None:
        return None
    log.info("sub-%s is finished: input, settings and model are the same", patient.label)
    if corrections(out, record) == record.corrections:
        return earlier
    log.warning("sub-%s: masks have been corrected by hand since: tables and report follow", patient.label)
    return report_again(out, patient.label, settings.preprocessing.threads)


def _run(
    patient: Patient,
    out: Path,
    settings: Settings,
    models: Sequence[Segmenter],
    raw: Path | None,
    work: Path | None,
    problems: dict[str, str],
    taken: Mapping[str, str],
) -> tuple[VisitResult, ...]:
    """Run a patient; `problems` gains each failed visit's own reason as soon as it is known."""
    contrasts = models[0].contrasts
    identity = fingerprint(patient, settings, models)
    places = {visit.label: Place(out, patient.label, visit.label) for visit in patient.visits}
    _warn_of_replaced(out, patient)
    possible = [f for place in places.values() for f in visit_files(place, contrasts, EXTRAS)]
    labels = list(places)
    possible += [f for n, place in enumerate(places.values()) for f in map_files(place, labels[:n])]
    possible += [f for place in places.values() for f in segmentation_files(place)]
    possible += [*table_files(out, patient.label), report_path(out, patient.label)]
    records.begin(out, patient.label, identity, possible, taken)
    if (out / TABLE).is_file():  # of what it says of this patient nothing is left
        write_group(out)
    log_choices(patient)

    usable = usable_visits(patient, contrasts)
    problems.update(usable.problems)
    if isinstance(models[0], Samseg):
        require_whole_heads(usable, contrasts)
    prepared = prepared_patient(usable, settings.preprocessing, contrasts, work)
    problems.update(prepared.failures)
    segmented = _segment(usable, prepared, out, settings.segmentation, models)

    made = Made(prepared, segmented, _told(patient, usable, prepared, problems, settings, models))
    outputs = [_output(made, index, models, settings.segmentation) for index in range(len(segmented))]
    visits = {visit.label: visit for visit in usable.visits}
    for seen, output in zip(segmented, outputs, strict=True):
        write_visit(places[seen.prepared.label], visits[seen.prepared.label], output, raw)
    flairs, threads = flair_hashes(identity), settings.preprocessing.threads
    written = write_results(out, patient.label, made, flairs, taken, threads)
    files = [*written.files]
    files += [f for s in segmented for f in visit_files(places[s.prepared.label], contrasts, s.extras)]
    records.finish(out, finished(out, patient.label, identity, files, written, made))
    return written.results


def _segment(
    usable: Patient,
    prepared: PreparedPatient,
    out: Path,
    settings: SegmentationSettings,
    models: Sequence[Segmenter],
) -> list[SegmentedVisit]:
    if isinstance(models[0], Samseg):
        log_file = out / "logs" / f"sub-{usable.label}_samseg.log"
        return segment_by_samseg(usable, prepared, models[0], settings, log_file)
    return segment(prepared, [model for model in models if isinstance(model, Model)], settings)


def _warn_of_replaced(out: Path, patient: Patient) -> None:
    """A visit is segmented with its prior: a run over other visits replaces the patient's results as a whole."""
    earlier = records.read_record(out, patient.label)
    kept = earlier.results if earlier else ()
    replaced = {result.visit for result in kept if result.status != "failed"} - set(_labels(patient))
    if replaced:
        names = ", ".join(visit_name(label) for label in sorted(replaced))
        log.warning("sub-%s: earlier results of %s are removed, this run is without them", patient.label, names)


def failed_results(patient: Patient, reason: str) -> tuple[VisitResult, ...]:
    """One failed row for every visit; its own reason where one is known."""
    labels = _labels(patient) or [""]
    return tuple(VisitResult(patient.label, label, "failed", patient.problems.get(label, reason)) for label in labels)


def _told(
    patient: Patient,
    usable: Patient,
    prepared: PreparedPatient,
    problems: Mapping[str, str],
    settings: Settings,
    models: Sequence[Segmenter],
) -> Told:
    labels = [visit.label for visit in prepared.visits]
    acquired = {visit.label: visit.acquired for visit in usable.visits if visit.label in labels}
    limits = thresholds(models, settings.segmentation)
    return Told(
        order=_labels(patient),
        dicom={v.label: [str(path.resolve()) for path in v.dicom] for v in usable.visits if v.dicom},
        acquired={label: date.isoformat() if date else None for label, date in acquired.items()},
        problems=dict(problems),
        priors=[models[0].prior_index(index, len(labels)) for index in range(len(labels))],
        probability=limits.probability,
        min_lesion_mm3=limits.min_lesion_mm3,
        method=models[0].method,
        models=[model.identity for model in models],
        cautions=list(dict.fromkeys([*patient.cautions, *(model.caution for model in models if model.caution)])),
        settings=settings.model_dump(mode="json"),
    )


def _labels(patient: Patient) -> list[str]:
    return list(dict.fromkeys([*(visit.label for visit in patient.visits), *patient.problems]))


def _output(made: Made, index: int, models: Sequence[Segmenter], settings: SegmentationSettings) -> VisitOutput:
    told, seen = made.told, made.segmented[index]
    prior = made.segmented[told.priors[index]].prepared
    probability, mask = on_own_grid(seen, told.probability)
    facts = {
        "Threshold": told.probability,
        "SmallestLesion": told.min_lesion_mm3,
        "SmallestLesionUnits": "mm3",
        "Models": told.models,
    }
    if not isinstance(models[0], Samseg):
        trained = [model for model in models if isinstance(model, Model)]
        facts["PriorSession"] = f"ses-{prior.label}" if prior.label and prior is not seen.prepared else None
        facts["WindowOverlap"] = [m.overlap if settings.overlap is None else settings.overlap for m in trained]
        facts["Mirroring"] = mirrors(settings.mirroring, choose_device(settings.device), trained)
    visit = seen.prepared
    return VisitOutput(
        mask, probability, seen.mask, seen.probability, made.prepared.brain, visit.images, visit.from_patient, facts,
        seen.extras,
    )  # fmt: skip
