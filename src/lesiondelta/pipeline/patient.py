"""The way of one patient: check, prepare, segment, judge, write."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lesiondelta.cohort import Patient, Visit
from lesiondelta.errors import LesionDeltaError, NoVisitError
from lesiondelta.files import logged_to
from lesiondelta.formats import records
from lesiondelta.formats.derivatives import EXTRAS, Place, VisitOutput, visit_files, write_visit
from lesiondelta.formats.lesions import map_files, table_files, write_lesion_tables
from lesiondelta.formats.records import VisitResult
from lesiondelta.formats.segmentations import segmentation_files
from lesiondelta.images import Volume
from lesiondelta.inference import Model, choose_device, mirrors
from lesiondelta.inference.samseg import Samseg
from lesiondelta.pipeline.changes import (
    Followed,
    change_figures,
    change_map,
    follow,
    lesion_rows,
    step_rows,
    write_maps,
)
from lesiondelta.pipeline.checks import fingerprint, log_choices, usable_visits, visit_name
from lesiondelta.pipeline.samseg import require_whole_heads, segment_by_samseg
from lesiondelta.pipeline.segmentation import (
    SegmentedVisit,
    Segmenter,
    Thresholds,
    on_own_grid,
    segment,
    thresholds,
)
from lesiondelta.pipeline.store import prepared_patient
from lesiondelta.preprocessing.patient import PreparedPatient, PreparedVisit
from lesiondelta.report.patient import Report, ReportVisit, write_report
from lesiondelta.report.pictures import Panel, write_picture
from lesiondelta.settings import SegmentationSettings, Settings

log = logging.getLogger(__name__)

LARGE_LESIONS_ML = 200.0
BRAIN_ML = (700.0, 2200.0)
LEAST_COVERED = 0.95


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
    patient's run: whatever goes wrong is logged and becomes status `failed`.
    """
    try:
        with logged_to(log_path(out, patient.label)):
            return _guarded(patient, out, settings, models, raw, work)
    except LesionDeltaError as error:  # the log itself cannot be written
        return failed_results(patient, str(error))


def _guarded(
    patient: Patient, out: Path, settings: Settings, models: Sequence[Segmenter], raw: Path | None, work: Path | None
) -> tuple[VisitResult, ...]:
    problems = dict(patient.problems)
    try:
        return _run(patient, out, settings, models, raw, work, problems)
    except LesionDeltaError as error:
        log.error("sub-%s: %s", patient.label, error)
        reason = str(error)
        if isinstance(error, NoVisitError):
            problems.update(error.failures)
    except Exception as error:
        log.exception("sub-%s: a fault in lesiondelta", patient.label)
        reason = f"a fault in lesiondelta ({type(error).__name__}: {error}): see {log_path(out, patient.label)}"
    results = failed_results(replace(patient, problems=problems), reason)
    with suppress(LesionDeltaError):
        records.fail(out, patient.label, results)
    return results


def _run(
    patient: Patient,
    out: Path,
    settings: Settings,
    models: Sequence[Segmenter],
    raw: Path | None,
    work: Path | None,
    problems: dict[str, str],
) -> tuple[VisitResult, ...]:
    """Run a patient; `problems` gains each failed visit's own reason as soon as it is known."""
    contrasts = models[0].contrasts
    identity = fingerprint(patient, settings, models)
    earlier = records.finished_results(out, patient.label, identity)
    if earlier is not None:
        log.info("sub-%s is finished: input, settings and model are the same", patient.label)
        return earlier
    places = {visit.label: Place(out, patient.label, visit.label) for visit in patient.visits}
    _warn_of_replaced(out, patient)
    possible = [f for place in places.values() for f in visit_files(place, contrasts, EXTRAS)]
    labels = list(places)
    possible += [f for n, place in enumerate(places.values()) for f in map_files(place, labels[:n])]
    possible += [f for place in places.values() for f in segmentation_files(place)]
    possible += [*table_files(out, patient.label), report_path(out, patient.label)]
    records.begin(out, patient.label, identity, possible)
    log_choices(patient)

    usable = usable_visits(patient, contrasts)
    problems.update(usable.problems)
    if isinstance(models[0], Samseg):
        require_whole_heads(usable, contrasts)
    prepared = prepared_patient(usable, settings.preprocessing, contrasts, work)
    problems.update(prepared.failures)
    segmented = _segment(usable, prepared, out, settings.segmentation, models)

    limits = thresholds(models, settings.segmentation)
    followed = follow(prepared, segmented, limits, settings.tracking, settings.preprocessing.threads)
    write_lesion_tables(out, patient.label, lesion_rows(followed, segmented), step_rows(followed, segmented))
    results = {label: VisitResult(patient.label, label, "failed", why) for label, why in problems.items()}
    visits = {visit.label: visit for visit in usable.visits}
    baseline = next((visit.dicom[0] for visit in usable.visits if visit.dicom), None)
    for index, seen in enumerate(segmented):
        place = places[seen.prepared.label]
        output = _output(segmented, index, limits, models, settings.segmentation)
        result = _judge(patient.label, segmented, index, prepared, problems, output, models, followed)
        result = replace(result, figures={**result.figures, **_age(visits, segmented, index)})
        write_visit(place, visits[place.visit], output, raw)
        write_maps(place, visits[place.visit], raw, output.orig_mask, segmented, index, followed, baseline)
        _draw(place, result, segmented, index, models[0].prior_index(index, len(segmented)))
        results[place.visit] = result
    write_report(report_path(out, patient.label), _report(patient, segmented, followed, results, settings, models))
    written = [f for seen in segmented for f in visit_files(places[seen.prepared.label], contrasts, seen.extras)]
    seen_labels = [seen.prepared.label for seen in segmented]
    written += [f for n, label in enumerate(seen_labels) for f in map_files(places[label], seen_labels[n - 1 : n])]
    written += [f for label in seen_labels for f in segmentation_files(places[label]) if f.is_file()]
    written += [*table_files(out, patient.label), report_path(out, patient.label)]
    ordered = [results.pop(label) for label in _labels(patient) if label in results]
    records.finish(out, patient.label, identity, written, ordered)
    return tuple(ordered)


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


def log_path(out: Path, patient: str) -> Path:
    """The log file of one patient."""
    return out / "logs" / f"sub-{patient}.log"


def _labels(patient: Patient) -> list[str]:
    return list(dict.fromkeys([*(visit.label for visit in patient.visits), *patient.problems]))


def _output(
    segmented: Sequence[SegmentedVisit],
    index: int,
    limits: Thresholds,
    models: Sequence[Segmenter],
    settings: SegmentationSettings,
) -> VisitOutput:
    seen, prior = segmented[index], segmented[models[0].prior_index(index, len(segmented))].prepared
    probability, mask = on_own_grid(seen, limits.probability)
    facts = {
        "Threshold": limits.probability,
        "SmallestLesion": limits.min_lesion_mm3,
        "SmallestLesionUnits": "mm3",
        "Models": [model.identity for model in models],
    }
    if not isinstance(models[0], Samseg):
        trained = [model for model in models if isinstance(model, Model)]
        facts["PriorSession"] = f"ses-{prior.label}" if prior.label and prior is not seen.prepared else None
        facts["WindowOverlap"] = [m.overlap if settings.overlap is None else settings.overlap for m in trained]
        facts["Mirroring"] = mirrors(settings.mirroring, choose_device(settings.device), trained)
    visit = seen.prepared
    return VisitOutput(mask, probability, seen.mask, visit.images, visit.from_patient, facts, seen.extras)


def _judge(
    patient: str,
    segmented: Sequence[SegmentedVisit],
    index: int,
    prepared: PreparedPatient,
    problems: Mapping[str, str],
    output: VisitOutput,
    models: Sequence[Segmenter],
    followed: Followed,
) -> VisitResult:
    """The status of a visit, and the row of figures for the tables."""
    seen, prior = segmented[index], segmented[models[0].prior_index(index, len(segmented))]
    brain_mm3 = float(prepared.brain.data.sum() * prepared.grid.voxel_volume_mm3)
    reasons = [
        *seen.prepared.warnings,
        *(f"{visit_name(label)} failed: it is not among the visits compared" for label in problems),
        *implausible(seen, brain_mm3, output.orig_mask),
        *uncovered(seen.prepared, prepared.brain),
        *(model.caution for model in models if model.caution),
    ]
    status: records.Status = "flagged" if reasons else "ok" if seen.lesions else "ok-zero-lesions"
    figures: dict[str, float | str] = {
        "prior_session_id": f"ses-{prior.prepared.label}" if prior is not seen else records.NOT_AVAILABLE,
        "lesion_volume_mm3": seen.lesion_volume_mm3,
        "lesions": float(seen.lesions),
        **change_figures(followed, index),
        "brain_volume_mm3": brain_mm3,
        **seen.prepared.quality,
    }
    return VisitResult(
        patient,
        seen.prepared.label,
        status,
        "; ".join(dict.fromkeys(reason.rstrip(".") for reason in reasons)),
        figures,
    )


def _age(visits: Mapping[str, Visit], segmented: Sequence[SegmentedVisit], index: int) -> dict[str, float]:
    """Years since the first of the segmented visits, where all of them have a date."""
    dates = [visits[seen.prepared.label].acquired for seen in segmented]
    known = [date for date in dates if date is not None]
    if len(known) < len(dates):
        return {}
    return {"years_from_first_visit": (known[index] - known[0]).total_seconds() / 86400 / 365.25}


def implausible(seen: SegmentedVisit, brain_mm3: float, own_mask: Volume) -> list[str]:
    """What a reader should look at before believing the mask."""
    found = []
    low, high = BRAIN_ML
    if not low <= brain_mm3 / 1000 <= high:
        found.append(f"the brain mask holds {brain_mm3 / 1000:.0f} ml ({low:.0f}-{high:.0f} ml are usual)")
    if seen.lesion_volume_mm3 / 1000 > LARGE_LESIONS_ML:
        found.append(f"{seen.lesion_volume_mm3 / 1000:.0f} ml of lesions are more than {LARGE_LESIONS_ML:.0f} ml")
    if seen.lesions and not own_mask.data.any():
        found.append("no lesion of the patient's space is left on the FLAIR's own grid")
    return found


def uncovered(visit: PreparedVisit, brain: Volume) -> list[str]:
    """Images that leave out a part of the brain: lesions there are not seen, and volumes do not compare."""
    shares = {name: float((image.data[brain.data] != 0).mean()) for name, image in visit.images.items()}
    return [f"the {name} covers {share:.0%} of the brain" for name, share in shares.items() if share < LEAST_COVERED]


def report_path(out: Path, patient: str) -> Path:
    """The patient's page."""
    return out / f"sub-{patient}.html"


def _report(
    patient: Patient,
    segmented: Sequence[SegmentedVisit],
    followed: Followed,
    results: Mapping[str, VisitResult],
    settings: Settings,
    models: Sequence[Segmenter],
) -> Report:
    acquired = {visit.label: visit.acquired for visit in patient.visits}
    visits = []
    for index, seen in enumerate(segmented):
        label = seen.prepared.label
        result, instances = results[label], followed.tracking.instances[index]
        visits.append(
            ReportVisit(
                label, acquired.get(label), result.status, result.reason, seen.prepared.images["FLAIR"], instances,
                change_map(followed, index), result.figures,
            )
        )  # fmt: skip
    return Report(
        patient=patient.label,
        visits=visits,
        failed={label: result.reason for label, result in results.items() if result.status == "failed"},
        lesions=lesion_rows(followed, segmented),
        steps=step_rows(followed, segmented),
        settings=settings.model_dump(mode="json"),
        method=models[0].method,
        models=[model.identity for model in models],
        cautions=list(dict.fromkeys(model.caution for model in models if model.caution)),
    )


def _draw(place: Place, result: VisitResult, segmented: Sequence[SegmentedVisit], index: int, prior: int) -> None:
    panels = [_panel(segmented[i]) for i in dict.fromkeys((prior, index))]
    seen = segmented[index]
    lesions = f"{seen.lesions} lesion{'' if seen.lesions == 1 else 's'}, {seen.lesion_volume_mm3 / 1000:.2f} ml"
    title = f"{place.stem.replace('_', '  ')}   {result.status}   {lesions}"
    write_picture(place.picture, panels, title, result.reason)


def _panel(seen: SegmentedVisit) -> Panel:
    return Panel(visit_name(seen.prepared.label), seen.prepared.images["FLAIR"], seen.mask)
