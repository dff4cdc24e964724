"""The status of every visit, why it has to be looked at, and the row of figures for the tables."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lesiondelta.cohort import CONTRASTS, visit_name
from lesiondelta.image_range import beyond
from lesiondelta.images import Volume
from lesiondelta.inference.segmenter import SegmentedVisit
from lesiondelta.outputs.tables import NOT_AVAILABLE
from lesiondelta.pipeline.corrections import FinalVisit
from lesiondelta.pipeline.tracked import TrackedPatient
from lesiondelta.pipeline.tracked_lesions import change_figures, uncompared, unmasked
from lesiondelta.preprocessing.preparation import LEAST_COVERED, PreparedVisit
from lesiondelta.records import Provenance, Status, VisitResult

log = logging.getLogger(__name__)

LARGE_LESIONS_ML = 200.0
BRAIN_ML = (700.0, 2200.0)
DAYS_A_YEAR = 365.25


@dataclass(frozen=True, eq=False)
class JudgedPatient:
    """A tracked patient with a result for every visit by label, in time order, those that failed too."""

    tracked: TrackedPatient
    results: Mapping[str, VisitResult]


def judge(tracked: TrackedPatient) -> JudgedPatient:
    """Give every visit a status, and say what a reader has to look at."""
    patient, provenance = tracked.segmented.prepared.label, tracked.segmented.provenance
    found = {visit: VisitResult(patient, visit, "failed", why) for visit, why in provenance.problems.items()}
    for index, visit in enumerate(tracked.visits):
        found[visit.label] = _judge_visit(tracked, index)
    return JudgedPatient(tracked, {visit: found[visit] for visit in provenance.order if visit in found})


def with_missing(judged: JudgedPatient, label: str, missing: Sequence[str]) -> JudgedPatient:
    """The patient with outputs that a visit lacks among its reasons."""
    if not missing:
        return judged
    result = judged.results[label]
    for what in missing:
        log.warning("sub-%s, %s: %s", result.patient, visit_name(label), what)
    reason = "; ".join(one.rstrip(".") for one in (result.reason, *missing) if one)
    return replace(judged, results={**judged.results, label: replace(result, status="flagged", reason=reason)})


def _judge_visit(tracked: TrackedPatient, index: int) -> VisitResult:
    final, visit = tracked.visits[index], tracked.visits[index].segmented
    prepared, provenance = tracked.segmented.prepared, tracked.segmented.provenance
    prior = tracked.visits[provenance.priors[index]].segmented
    brain_mm3 = float(prepared.brain.data.sum() * prepared.grid.voxel_volume_mm3)
    reasons = [
        *_doubts_of_correction(final),
        *visit.prepared.warnings,
        *(f"{visit_name(label)} failed: it is not among the visits compared" for label in provenance.problems),
        *implausible(visit, brain_mm3, final.own_mask),
        *uncovered(visit.prepared, prepared.brain),
        *_untested(visit.prepared, provenance),
        *uncompared(tracked.lesions, index),
        *provenance.doubts,
    ]
    missed = unmasked(tracked.lesions, index)
    status: Status = "flagged" if reasons else "ok" if visit.lesions or missed else "ok-zero-lesions"
    figures: dict[str, float | str] = {
        "contrasts": "+".join(name for name in CONTRASTS if name in visit.prepared.images),
        "prior_session_id": f"ses-{prior.label}" if prior is not visit else NOT_AVAILABLE,
        "lesion_volume_mm3": visit.lesion_volume_mm3,
        "lesions": float(visit.lesions),
        "unmasked_lesions": float(missed),
        **({"correction": str(final.correction)} if final.correction else {}),
        **change_figures(tracked.lesions, index),
        "brain_volume_mm3": brain_mm3,
        **visit.prepared.quality,
        **_age(provenance, [one.label for one in tracked.visits], index),
    }
    reason = "; ".join(dict.fromkeys(reason.rstrip(".") for reason in reasons))
    return VisitResult(prepared.label, visit.label, status, reason, figures)


def _doubts_of_correction(visit: FinalVisit) -> list[str]:
    lost = visit.correction.lost if visit.correction else 0
    outside = f"{lost} lesions drawn by hand lie outside the patient's brain and do not count"
    return [*([visit.unused] if visit.unused else []), *([outside] if lost else [])]


def _age(provenance: Provenance, labels: Sequence[str], index: int) -> dict[str, float]:
    """Years since the first of the segmented visits, where all of them have a date."""
    known = [date for label in labels if (date := provenance.acquired.get(label))]
    if len(known) < len(labels):
        return {}
    return {"years_from_first_visit": (known[index] - known[0]).total_seconds() / 86400 / DAYS_A_YEAR}


def implausible(visit: SegmentedVisit, brain_mm3: float, own_mask: Volume) -> list[str]:
    """What a reader should look at before believing the mask."""
    found = []
    low, high = BRAIN_ML
    if not low <= brain_mm3 / 1000 <= high:
        found.append(f"the brain mask holds {brain_mm3 / 1000:.0f} ml ({low:.0f}-{high:.0f} ml are usual)")
    if visit.lesion_volume_mm3 / 1000 > LARGE_LESIONS_ML:
        found.append(f"{visit.lesion_volume_mm3 / 1000:.0f} ml of lesions are more than {LARGE_LESIONS_ML:.0f} ml")
    if visit.lesions and not own_mask.data.any():
        found.append("no lesion of the patient's space is left on the FLAIR's own grid")
    return found


def _untested(visit: PreparedVisit, provenance: Provenance) -> list[str]:
    """How the image that masks are made for is worse than those that the segmenter was tested with."""
    contrast = "FLAIR" if "FLAIR" in visit.images else next(iter(visit.images))
    own = {name.removeprefix(f"{contrast}_"): value for name, value in visit.quality.items()}
    return beyond(contrast, own, provenance.tested)


def uncovered(visit: PreparedVisit, brain: Volume) -> list[str]:
    """Images that leave out a part of the brain: lesions there are not seen, and volumes do not compare."""
    shares = {name: float((image.data[brain.data] != 0).mean()) for name, image in visit.images.items()}
    said = {name for name in shares if visit.quality.get(f"{name}_coverage", 1.0) < LEAST_COVERED}
    low = {name: share for name, share in shares.items() if share < LEAST_COVERED and name not in said}
    return [f"the {name} covers {share:.0%} of the brain" for name, share in low.items()]
