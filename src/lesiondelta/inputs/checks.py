"""What is looked at before any long work starts: can every image be read, and is it given once."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import nibabel as nib
import numpy as np

from lesiondelta.cohort import Patient, Visit, visit_name
from lesiondelta.errors import CohortError, LesionDeltaError, NoVisitError
from lesiondelta.files import sha256
from lesiondelta.images import Array, Volume, read_image, read_mask, require_same_grid
from lesiondelta.records import VisitContents
from lesiondelta.timings import timed

log = logging.getLogger(__name__)

ROUNDING = 1e-4
"""Share of an image's range: how far its values may lie apart where they are stored in voxels of another type."""
SAMPLE = 4096
"""Voxels that are compared first, about: those of two scans differ, and all of an image take long."""


@dataclass(frozen=True, eq=False)
class CheckedVisit:
    """A visit with its images by contrast and the user's brain mask, as they were read; `contents` are their hashes."""

    visit: Visit
    images: Mapping[str, Volume]
    brain_mask: Volume | None
    contents: VisitContents

    @property
    def label(self) -> str:
        """The visit's label."""
        return self.visit.label


@dataclass(frozen=True, eq=False)
class CheckedPatient:
    """A patient's usable visits, at least one; `problems` says, by label, what is wrong with the others."""

    label: str
    visits: tuple[CheckedVisit, ...]
    problems: Mapping[str, str]


@timed("reading images")
def check_patient(
    patient: Patient,
    contrasts: Sequence[str],
    contents: Sequence[VisitContents] | None = None,
    optional: Sequence[str] = (),
) -> CheckedPatient:
    """Read every image of a patient, once; visits with a bad image, or with one given twice, become problems.

    `contents` are those of `visit_contents`, where they are known; `optional` are the contrasts that may be missing.

    Raises
    ------
    NoVisitError
        No visit is left.
    """
    contents = visit_contents(patient) if contents is None else contents
    problems, read = dict(patient.problems), []
    for visit, hashes in zip(patient.visits, contents, strict=True):
        try:
            read.append(_read(visit, contrasts, hashes, optional))
        except LesionDeltaError as error:
            problems[visit.label] = str(error)
    twice = _given_twice(read)
    usable = [visit for visit in read if visit.label not in twice]
    problems |= twice
    for label, problem in problems.items():
        log.error("%s: %s", visit_name(label), problem)
    if not usable:
        raise NoVisitError(patient.label, problems)
    return CheckedPatient(patient.label, tuple(usable), problems)


def _read(visit: Visit, contrasts: Sequence[str], contents: VisitContents, optional: Sequence[str]) -> CheckedVisit:
    missing = [contrast for contrast in contrasts if contrast not in (*visit.images, *optional)]
    if missing:
        said = f"Visit {visit.label or '(only one)'} has no {' and no '.join(missing)}: add it."
        raise CohortError(visit.absent.get(missing[0], said))
    images = {contrast: read_image(visit.images[contrast]) for contrast in contrasts if contrast in visit.images}
    mask = read_mask(visit.brain_mask) if visit.brain_mask else None
    if mask is not None:
        require_same_grid(mask, images["FLAIR"])
        if not mask.data.any():
            raise CohortError(f"The brain mask {visit.brain_mask} is empty: correct it, or leave it out.")
        mask = images["FLAIR"].with_data(mask.data)
    doubts = (doubt for image in images.values() for doubt in _doubts(image))
    return CheckedVisit(replace(visit, doubts=(*visit.doubts, *doubts)), images, mask, contents)


def _doubts(image: Volume) -> Iterator[str]:
    """What is odd about an image's place in space."""
    along_axes = (np.count_nonzero(image.affine[:3, :3], axis=0) == 1).all()
    if along_axes and not image.affine[:3, 3].any():
        yield (
            f"the header of {image.name} has no origin and no rotation: its geometry was probably lost, and neither "
            "sizes nor sides are assured"
        )


def _given_twice(visits: Sequence[CheckedVisit]) -> dict[str, str]:
    """What is wrong with each visit that has an image whose voxels are also those of another image of the patient."""
    images = [
        (visit.label, visit.visit.images[contrast], _canonical(image))
        for visit in visits
        for contrast, image in visit.images.items()
    ]
    problems: dict[str, str] = {}
    for (label, path, one), (other_label, other_path, other) in combinations(images, 2):
        if _same_voxels(one, other):
            said = f"{path} and {other_path} are the same image: give every visit its own T1w and FLAIR."
            problems |= {label: said, other_label: said}
    return problems


def _canonical(image: Volume) -> Array:
    """Its voxels with the axes nearest to right, front and head, however they are stored; they are not copied."""
    turned: Array = nib.orientations.apply_orientation(image.data, nib.orientations.io_orientation(image.affine))
    return turned


def _same_voxels(one: Array, other: Array) -> bool:
    """Whether two canonical images hold the same values, but for rounding."""
    if one.shape != other.shape:
        return False
    step = max(1, round((one.size / SAMPLE) ** (1 / 3)))
    sparse = (slice(None, None, step),) * 3
    rounding = ROUNDING * float(np.ptp(one[sparse]))
    return all(float(np.abs(a - b).max()) <= rounding for a, b in ((one[sparse], other[sparse]), (one, other)))


def visit_contents(patient: Patient) -> tuple[VisitContents, ...]:
    """The content of every image and brain mask (of a DICOM series, its first file), visit by visit in order."""
    return tuple(
        {"visit": visit.label, **{name: _content(path) for name, path in _inputs(visit).items()}}
        for visit in patient.visits
    )


def _inputs(visit: Visit) -> dict[str, Path]:
    masks = {"brain_mask": visit.brain_mask} if visit.brain_mask else {}
    return {**visit.images, **masks, **({"dicom": visit.dicom[0]} if visit.dicom else {})}


def _content(path: Path) -> str:
    """SHA-256 of a file, or why there is none."""
    try:
        return sha256(path)
    except OSError as error:  # reading the image says it in a sentence
        return f"unreadable ({error.strerror})"


def log_choices(patient: Patient) -> None:
    """Log what the order of a patient's visits rests on, and what was chosen among its files."""
    order = ", ".join(visit_name(visit.label) for visit in patient.visits)
    log.info("sub-%s: visits in the order %s, by %s", patient.label, order, patient.order)
    for note in patient.notes:
        log.info("sub-%s: %s", patient.label, note)
    for caution in patient.cautions:
        log.warning("sub-%s: %s", patient.label, caution)
