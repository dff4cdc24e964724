"""From a judged patient to what the report shows."""

from collections.abc import Sequence

import numpy as np

from lesiondelta.cohort import CONTRASTS, Change
from lesiondelta.images import Array
from lesiondelta.outputs.lesions import LesionRow, StepRow
from lesiondelta.pipeline.change_maps import change_map
from lesiondelta.pipeline.judgement import JudgedPatient
from lesiondelta.pipeline.tracked_lesions import TrackedLesions, possible_places
from lesiondelta.report.content import Report, ReportVisit
from lesiondelta.timings import timed


@timed("report")
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
        contrasts={name: sum(name in visit.images for visit in prepared.visits) for name in CONTRASTS},
        brain_from=prepared.brain_from,
        own_anatomy=prepared.parts is not None,
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
        changes=_changes(lesions, index),
        figures=result.figures,
        correction=str(visit.correction or ""),
        before=lesions.tracking.before[index - 1] if index else None,
        difference=lesions.tracking.evidence[index - 1] if index else None,
    )


def _changes(lesions: TrackedLesions, index: int) -> Array:
    """The map of changes, with what is only possible where no lesion is."""
    codes, shown = change_map(lesions, index), np.zeros(lesions.tracking.instances[0].shape, bool)
    for place in possible_places(lesions, index):
        shown[tuple(place.voxels.T)] = True
    labels: Array = np.where(shown & (codes == 0), list(Change).index(Change.POSSIBLE) + 1, codes)
    return labels
