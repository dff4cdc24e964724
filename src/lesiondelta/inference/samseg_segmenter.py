"""Lesions by SAMSEG: whole heads in the patient's space go in, masks and probabilities on its grid come out."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lesiondelta.cohort import CONTRASTS, prior_index
from lesiondelta.errors import CohortError
from lesiondelta.evaluation.instances import lesion_mask
from lesiondelta.images import Affine, Grid, Volume, corners_mm, isotropic_grid, resample
from lesiondelta.inference.samseg_program import THRESHOLD, Lesions, Samseg
from lesiondelta.inference.segmenter import SegmentedVisit, SegmenterFacts, Sidecar, Thresholds, counted
from lesiondelta.inputs.checks import CheckedPatient
from lesiondelta.preprocessing.brain import own_mask
from lesiondelta.preprocessing.preparation import PreparedPatient, PreparedVisit
from lesiondelta.settings import SegmentationSettings

log = logging.getLogger(__name__)

HEAD_MM = 40.0
"""Around the brain, for the head."""


@dataclass(frozen=True)
class SamsegSegmenter:
    """The installed program; see `Segmenter`."""

    program: Samseg
    settings: SegmentationSettings

    @property
    def facts(self) -> SegmenterFacts:
        """Limits are the user's choice, else its own labels, for which it has a fixed threshold."""
        limits = Thresholds(THRESHOLD, 0.0).chosen(self.settings)
        program = self.program
        return SegmenterFacts("samseg", CONTRASTS, 1.0, limits, (), (program.identity,), (program.fingerprint,))

    def check(self, patient: CheckedPatient) -> None:
        """Raise CohortError where an image shows only the brain."""
        for visit in patient.visits:
            for contrast in CONTRASTS:
                if own_mask(visit.images[contrast]) is not None:
                    raise CohortError(
                        f"SAMSEG needs whole heads, and {visit.visit.images[contrast]} shows only the brain: give the "
                        "image from before skull-stripping."
                    )

    def prior_index(self, index: int, visits: int) -> int:
        """The visit shown beside; SAMSEG sees all of them at once."""
        return prior_index(index, visits)

    def sidecar(self, prior: str | None) -> Sidecar:
        """Nothing: it has no prior and no window."""
        return {}

    def segment(self, patient: CheckedPatient, prepared: PreparedPatient, log_file: Path) -> list[SegmentedVisit]:
        """Segment all prepared visits in one run.

        The images are resampled once, as they were given: whole heads, no bias correction (SAMSEG has its own), on the
        patient's grid grown by 40 mm, so that its masks come back by cropping.
        """
        grid = isotropic_grid(corners_mm(prepared.grid), float(prepared.grid.spacing[0]), HEAD_MM)
        given = {visit.label: visit.images for visit in patient.visits}
        heads = [
            [_head(given[visit.label][c], grid, visit.from_patient[c]) for c in CONTRASTS] for visit in prepared.visits
        ]
        log.info("sub-%s: SAMSEG on %d visits, which may take hours; it writes %s", patient.label, len(heads), log_file)
        found = self.program.segment(heads, log_file, threads=self.settings.threads, hours=self.settings.samseg_hours)
        return [self._segmented(v, f, prepared) for v, f in zip(prepared.visits, found, strict=True)]

    def _segmented(self, visit: PreparedVisit, found: Lesions, prepared: PreparedPatient) -> SegmentedVisit:
        """SAMSEG's own labels, unless the user gave a threshold for its probabilities."""
        grid, brain, threshold = prepared.grid, prepared.brain.data, self.settings.threshold
        probability = np.where(brain, resample(found.probability, grid, order="linear").data, 0).astype(np.float32)
        labelled = resample(found.mask, grid, order="nearest").data & brain
        lesion = labelled if threshold is None else probability > threshold
        mask = lesion_mask(lesion.astype(np.float32), 0.5, self.facts.limits.min_lesion_mm3, grid.spacing.tolist())
        return counted(visit, probability, mask, grid)


def _head(image: Volume, grid: Grid, transform: Affine) -> Volume:
    """An image in the patient's space, not below 0: SAMSEG leaves out what is 0 and takes logarithms of the rest."""
    moved = resample(image, grid, transform)
    return moved.with_data(np.maximum(moved.data, 0))
