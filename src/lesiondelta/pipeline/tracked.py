"""A segmented patient with the masks that count, and its lesions followed over all visits."""

import logging
from dataclasses import dataclass

from lesiondelta.files import sha256
from lesiondelta.outputs.corrections import derived_files
from lesiondelta.outputs.derivatives import PatientFiles
from lesiondelta.pipeline.corrections import FinalVisit, final_visit
from lesiondelta.pipeline.segmented import SegmentedPatient
from lesiondelta.pipeline.tracked_lesions import TrackedLesions, track_lesions
from lesiondelta.records import Fingerprint, MaskHashes

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TrackedPatient:
    """A segmented patient, the visits with the masks that count, and the lesions of these masks."""

    segmented: SegmentedPatient
    visits: tuple[FinalVisit, ...]
    lesions: TrackedLesions


def follow(
    files: PatientFiles, segmented: SegmentedPatient, fingerprint: Fingerprint, known: MaskHashes
) -> TrackedPatient:
    """Take in what a reader has corrected, write the masks that count, and follow their lesions over all visits.

    `known` has the hashes of masks as they were seen last.
    """
    flairs, provenance = fingerprint.flairs, segmented.provenance
    visits = tuple(
        final_visit(files.visit(visit.label), visit, flairs.get(visit.label), known) for visit in segmented.visits
    )
    log.info("sub-%s: following lesions over %d visits", files.patient, len(visits))
    masks = [visit.segmented for visit in visits]
    edited = [
        final.segmented.mask.data != automatic.mask.data if final.correction else None
        for final, automatic in zip(visits, segmented.visits, strict=True)
    ]
    lesions = track_lesions(segmented.prepared, masks, provenance.threshold, provenance.settings.tracking, edited)
    return TrackedPatient(segmented, visits, lesions)


def hashes_left(files: PatientFiles, tracked: TrackedPatient) -> dict[str, str]:
    """Hashes, by file name, of the masks as they were left, and of outputs that readers may edit by mistake."""
    masks = {name: digest for visit in tracked.visits for name, digest in visit.hashes.items()}
    derived = [path for visit in tracked.visits for path in derived_files(files.visit(visit.label))]
    return masks | {path.name: sha256(path) for path in derived}
