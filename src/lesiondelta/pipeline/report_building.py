"""From a judged patient to what the report shows."""

from collections.abc import Sequence

from lesiondelta.cohort import CONTRASTS
from lesiondelta.outputs.lesions import LesionRow, StepRow
from lesiondelta.pipeline.change_maps import change_map
from lesiondelta.pipeline.judgement import JudgedPatient
from lesiondelta.report.patient_page import Report, ReportVisit


def report_of(judged: JudgedPatient, lesions: Sequence[LesionRow], steps: Sequence[StepRow]) -> Report:
    """What the patient's page shows."""
    tracked, segmented = judged.tracked, judged.tracked.segmented
    prepared, provenance = segmented.prepared, segmented.provenance
    return Report(
        patient=prepared.label,
        visits=[_report_visit(judged, index) for index in range(len(tracked.visits))],
        failed=provenance.problems,
        lesions=lesions,
        steps=steps,
        settings=provenance.settings,
        method=provenance.method,
        models=provenance.models,
        cautions=provenance.cautions,
        contrasts=[name for name in CONTRASTS if name in prepared.visits[0].images],
        brain_from=prepared.brain_from,
    )


def _report_visit(judged: JudgedPatient, index: int) -> ReportVisit:
    visit, lesions = judged.tracked.visits[index], judged.tracked.lesions
    result = judged.results[visit.label]
    return ReportVisit(
        label=visit.label,
        acquired=judged.tracked.segmented.provenance.acquired.get(visit.label),
        status=result.status,
        reason=result.reason,
        flair=visit.segmented.prepared.images["FLAIR"],
        instances=lesions.tracking.instances[index],
        changes=change_map(lesions, index),
        figures=result.figures,
        correction=str(visit.correction or ""),
    )
