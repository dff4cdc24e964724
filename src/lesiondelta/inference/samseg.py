"""Lesions by SAMSEG: whole heads in the patient's space go in, masks and probabilities on its grid come out."""

import logging
from pathlib import Path

import numpy as np

from lesiondelta.cohort import Patient
from lesiondelta.errors import CohortError, InputError
from lesiondelta.images import Affine, Grid, Volume, corners_mm, isotropic_grid, read_image, resample
from lesiondelta.inference.samseg_program import Lesions, Samseg
from lesiondelta.inference.segmenter import SegmentedVisit, counted
from lesiondelta.inference.window import lesion_mask
from lesiondelta.preprocessing.brain import own_mask
from lesiondelta.preprocessing.preparation import PreparedPatient, PreparedVisit
from lesiondelta.settings import PreprocessingSettings, SegmentationSettings

log = logging.getLogger(__name__)

HEAD_MM = 40.0
"""Around the brain, for the head."""


def segment_by_samseg(
    patient: Patient, prepared: PreparedPatient, program: Samseg, settings: SegmentationSettings, log_file: Path
) -> list[SegmentedVisit]:
    """Segment all prepared visits in one run.

    The images are resampled once, as they were given: whole heads, no bias correction (SAMSEG has its own), on the
    patient's grid grown by 40 mm, so that its masks come back by cropping.
    """
    grid = isotropic_grid(corners_mm(prepared.grid), float(prepared.grid.spacing[0]), HEAD_MM)
    given = {visit.label: visit.images for visit in patient.visits}
    heads = [
        [_head(given[visit.label][c], grid, visit.from_patient[c]) for c in program.contrasts]
        for visit in prepared.visits
    ]
    log.info("sub-%s: SAMSEG on %d visits, which may take hours; it writes %s", patient.label, len(heads), log_file)
    found = program.segment(heads, log_file, threads=settings.threads, hours=settings.samseg_hours)
    return [_seen(v, f, prepared, program, settings) for v, f in zip(prepared.visits, found, strict=True)]


def require_whole_heads(patient: Patient, contrasts: tuple[str, ...]) -> None:
    """Raise CohortError where an image shows the brain alone."""
    for visit in patient.visits:
        for contrast in contrasts:
            if own_mask(read_image(visit.images[contrast])) is not None:
                raise CohortError(
                    f"SAMSEG needs whole heads, and {visit.images[contrast]} shows the brain alone: give the image "
                    "from before skull-stripping."
                )


def require_not_stripped(settings: PreprocessingSettings) -> None:
    """Raise InputError where the user says that the images show the brain alone."""
    if settings.skull_strip == "skip":
        raise InputError("SAMSEG needs whole heads, and --skull-strip skip says that the images are stripped.")


def _head(path: Path, grid: Grid, transform: Affine) -> Volume:
    """An image in the patient's space, not below 0: SAMSEG leaves out what is 0 and takes logarithms of the rest."""
    moved = resample(read_image(path), grid, transform)
    return moved.with_data(np.maximum(moved.data, 0))


def _seen(
    visit: PreparedVisit, found: Lesions, prepared: PreparedPatient, program: Samseg, settings: SegmentationSettings
) -> SegmentedVisit:
    """SAMSEG's own labels, unless the user gave a threshold for its probabilities."""
    grid, brain = prepared.grid, prepared.brain.data
    probability = np.where(brain, resample(found.probability, grid, order="linear").data, 0).astype(np.float32)
    labelled = resample(found.mask, grid, order="nearest").data & brain
    lesion = labelled if settings.threshold is None else probability > settings.threshold
    smallest = program.min_lesion_mm3 if settings.min_lesion_mm3 is None else settings.min_lesion_mm3
    mask = lesion_mask(lesion.astype(np.float32), 0.5, smallest, grid.spacing.tolist())
    return counted(visit, probability, mask, grid)
