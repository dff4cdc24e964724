"""What is looked at before any long work starts: can every image be read, and is it given once."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lesiondelta.cohort import Patient, Visit, visit_name
from lesiondelta.errors import CohortError, LesionDeltaError, NoVisitError
from lesiondelta.files import sha256
from lesiondelta.images import read_image, read_mask, require_same_grid

log = logging.getLogger(__name__)


def usable_visits(patient: Patient, contrasts: Sequence[str]) -> Patient:
    """Read every image of a patient; visits with a bad one, or one given twice, move to the patient's problems.

    Raises
    ------
    NoVisitError
        No visit is left.
    """
    problems, usable, twice = dict(patient.problems), [], _given_twice(patient, contrasts)
    for visit in patient.visits:
        try:
            _check(visit, contrasts)
            if visit.label in twice:
                raise CohortError(twice[visit.label])
            usable.append(visit)
        except LesionDeltaError as error:
            problems[visit.label] = str(error)
    for label, problem in problems.items():
        log.error("%s: %s", visit_name(label), problem)
    if not usable:
        raise NoVisitError(patient.label, problems)
    return replace(patient, visits=tuple(usable), problems=problems)


def _check(visit: Visit, contrasts: Sequence[str]) -> None:
    images = {contrast: read_image(visit.images[contrast]) for contrast in contrasts}
    if visit.brain_mask:
        mask = read_mask(visit.brain_mask)
        require_same_grid(mask, images["FLAIR"])
        if not mask.data.any():
            raise CohortError(f"The brain mask {visit.brain_mask} is empty: correct it, or leave it out.")


def _given_twice(patient: Patient, contrasts: Sequence[str]) -> dict[str, str]:
    """What is wrong with the visits of which an image, by its content, is also another image of the patient."""
    images: dict[str, list[tuple[str, Path]]] = {}
    for visit in patient.visits:
        for path in (visit.images[contrast] for contrast in contrasts):
            images.setdefault(content(path), []).append((visit.label, path))
    problems = {}
    for same in images.values():
        paths = " and ".join(str(path) for _, path in same)
        for label, _ in same if len(same) > 1 else ():
            problems[label] = f"{paths} are the same image: give every visit its own T1w and FLAIR."
    return problems


def visit_contents(patient: Patient) -> list[dict[str, str]]:
    """The content of every image and brain mask (of a DICOM series, its first file), visit by visit in order."""
    return [
        {"visit": visit.label, **{name: content(path) for name, path in _inputs(visit).items()}}
        for visit in patient.visits
    ]


def _inputs(visit: Visit) -> dict[str, Path]:
    masks = {"brain_mask": visit.brain_mask} if visit.brain_mask else {}
    return {**visit.images, **masks, **({"dicom": visit.dicom[0]} if visit.dicom else {})}


def content(path: Path) -> str:
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
