"""What is looked at before any long work starts: images, models, and whether a patient is finished already."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lesiondelta import __version__
from lesiondelta.cohort import CONTRASTS, Patient, Visit, visit_name
from lesiondelta.errors import CohortError, LesionDeltaError, ModelError, NoVisitError, OutputError
from lesiondelta.files import sha256
from lesiondelta.formats.records import read_record
from lesiondelta.images import read_image, read_mask, require_same_grid
from lesiondelta.inference import Model, bundled_model, load_model
from lesiondelta.inference.samseg import Samseg, find_samseg
from lesiondelta.preprocessing import brain, programs
from lesiondelta.preprocessing.patient import PREPARATION
from lesiondelta.settings import PreprocessingSettings, Settings

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


def load_models(folders: Sequence[Path]) -> tuple[Model, ...]:
    """Load exported models (none: the bundled one) and make sure that they can be averaged on one grid."""
    models = tuple(load_model(folder) for folder in folders or [bundled_model()])
    for model in models:
        if tuple(model.contrasts) != tuple(models[0].contrasts):
            raise ModelError(
                f"{model.name} needs {model.contrasts} and {models[0].name} {models[0].contrasts}: they cannot be "
                "averaged; give models of one kind."
            )
        if model.description.prior != models[0].description.prior:
            raise ModelError(
                f"{model.name} compares with the {model.description.prior} visit and {models[0].name} with the "
                f"{models[0].description.prior} one: they cannot be averaged; give models of one kind."
            )
        if "FLAIR" not in model.contrasts:
            raise ModelError(f"{model.name} does not use the FLAIR, on whose grid the masks are written.")
        if unknown := set(model.contrasts) - {"T1w", "FLAIR"}:
            raise ModelError(f"{model.name} needs {', '.join(unknown)}; only T1w and FLAIR are read.")
        if model.spacing_mm != models[0].spacing_mm:
            raise ModelError(
                f"{model.name} works at {model.spacing_mm} mm and {models[0].name} at {models[0].spacing_mm} mm: they "
                "cannot be averaged; give models of one spacing."
            )
    return models


def load_segmenters(
    named: tuple[Path, ...], load: Callable[[tuple[Path, ...]], tuple[Model, ...]] = load_models
) -> tuple[Model, ...] | tuple[Samseg]:
    """Load exported models with `load`, or find the program that is named instead.

    Raises
    ------
    DependencyError
        The program is not installed.
    """
    if Path("samseg") not in named:
        return load(named)
    if len(named) > 1:
        raise ModelError("samseg is a program, whose masks cannot be averaged with models: give it alone.")
    return (find_samseg(),)


def require_programs(settings: PreprocessingSettings) -> None:
    """Raise DependencyError where an external program that the settings name is not installed."""
    if settings.registration in programs.ADVICE:
        programs.require_program(settings.registration, programs.ADVICE[settings.registration])
    if settings.brain_extraction in brain.PROGRAMS and settings.skull_strip != "skip":
        brain.require_extraction(settings.brain_extraction)


def require_same_patient(patient: Patient, out: Path) -> None:
    """Raise OutputError where the label's earlier results come from none of the patient's images: someone else's."""
    earlier = read_record(out, patient.label)
    if not earlier or not earlier.results:
        return
    before = _image_hashes(earlier.fingerprint.get("visits", ()))
    if before and before.isdisjoint(_image_hashes(visit_contents(patient))):
        raise OutputError(
            f"{out} holds results of other images under the label {patient.label}: give --patient, or another folder."
        )


def _image_hashes(contents: Sequence[Mapping[str, str]]) -> set[str]:
    return {visit[contrast] for visit in contents for contrast in CONTRASTS if contrast in visit}


def fingerprint(patient: Patient, settings: Settings, models: Sequence[Model | Samseg]) -> dict[str, Any]:
    """All that decides a patient's results, as plain JSON: program, settings, models and the content of every input."""
    return {
        "lesiondelta": __version__,
        "preparation": PREPARATION,
        "settings": deciding(settings),
        "models": [model.fingerprint for model in models],
        "visits": visit_contents(patient),
        "acquired": [visit.acquired and visit.acquired.isoformat() for visit in patient.visits],
        "problems": dict(patient.problems),
    }


def visit_contents(patient: Patient) -> list[dict[str, str]]:
    """The content of every image and brain mask (of a DICOM series, its first file), visit by visit in order."""
    return [
        {"visit": visit.label, **{name: content(path) for name, path in _inputs(visit).items()}}
        for visit in patient.visits
    ]


def log_choices(patient: Patient) -> None:
    """Log what the order of a patient's visits rests on, and what was chosen among its files."""
    order = ", ".join(visit_name(visit.label) for visit in patient.visits)
    log.info("sub-%s: visits in the order %s, by %s", patient.label, order, patient.order)
    for note in patient.notes:
        log.info("sub-%s: %s", patient.label, note)
    for caution in patient.cautions:
        log.warning("sub-%s: %s", patient.label, caution)


def deciding(settings: Settings) -> dict[str, Any]:
    """The settings that change results: not the numbers of threads, and models by content instead of by folder."""
    speed = {"preprocessing": {"threads"}, "segmentation": {"threads", "models", "samseg_hours"}}
    return settings.model_dump(mode="json", exclude=speed)


def _inputs(visit: Visit) -> dict[str, Path]:
    masks = {"brain_mask": visit.brain_mask} if visit.brain_mask else {}
    return {**visit.images, **masks, **({"dicom": visit.dicom[0]} if visit.dicom else {})}


def content(path: Path) -> str:
    """SHA-256 of a file, or why there is none."""
    try:
        return sha256(path)
    except OSError as error:  # reading the image says it in a sentence
        return f"unreadable ({error.strerror})"
