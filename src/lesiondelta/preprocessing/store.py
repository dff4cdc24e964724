"""Prepared patients on disk, so that another threshold, model or training need not register them again.

WORK/sub-X/prepared.json (written last: without it nothing counts), brain.nii.gz, parts.nii.gz and
[ses-Y/]{T1w,FLAIR}.nii.gz.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lesiondelta import __version__
from lesiondelta.errors import GeometryError, LesionDeltaError, NoVisitError
from lesiondelta.files import alone, require_writable, write_json
from lesiondelta.images import GRID_TOLERANCE_MM, Grid, Volume, read_image, read_labels, read_mask, write_volume
from lesiondelta.inputs.checks import CheckedPatient
from lesiondelta.preprocessing.own_anatomy import with_anatomy
from lesiondelta.preprocessing.preparation import (
    PREPARATION,
    PreparedPatient,
    PreparedVisit,
    prepare_patient,
    with_appearance,
    with_atlas,
)
from lesiondelta.settings import PreprocessingSettings

log = logging.getLogger(__name__)

RECORD, BRAIN, PARTS = "prepared.json", "brain.nii.gz", "parts.nii.gz"


def prepared_patient(
    patient: CheckedPatient,
    settings: PreprocessingSettings,
    contrasts: Sequence[str],
    work: Path | None,
    *,
    atlas: bool = False,
) -> PreparedPatient:
    """Prepare a patient, or read it from `work` if the same input was prepared there with the same settings.

    `atlas`: register the atlas too, and see what the images show. A patient with a failed visit is not kept: its cause
    may be gone.
    """
    if work is None:
        return _prepare(patient, settings, contrasts, atlas)
    folder = work / f"sub-{patient.label}"
    identity = {
        "lesiondelta": __version__,
        "preparation": PREPARATION,
        "settings": settings.model_dump(mode="json", exclude={"threads"}),
        "contrasts": list(contrasts),
        "visits": [visit.contents for visit in patient.visits],
        "doubts": [list(visit.visit.doubts) for visit in patient.visits],
        "atlas": atlas,
    }
    with alone(folder, wait=True, needed=False):  # runs with other settings share it
        try:
            prepared = _read(folder, identity)
            log.info("sub-%s: prepared images are taken from %s", patient.label, folder)
        except (OSError, ValueError, KeyError, LesionDeltaError):
            require_writable(folder)
            (folder / RECORD).unlink(missing_ok=True)
            prepared = _prepare(patient, settings, contrasts, atlas)
            if not prepared.failures:  # what failed is tried again
                _write(folder, prepared, identity)
    return prepared


def _prepare(
    patient: CheckedPatient, settings: PreprocessingSettings, contrasts: Sequence[str], atlas: bool
) -> PreparedPatient:
    prepared = prepare_patient(patient, settings, contrasts)
    if not atlas:
        return prepared
    checked = with_appearance(with_atlas(prepared, settings.threads), refuse=settings.gate)
    if not checked.visits:
        raise NoVisitError(patient.label, checked.failures)
    return with_anatomy(checked) if settings.anatomy == "network" else checked


def image_path(work: Path, patient: str, visit: str, name: str) -> Path:
    """The file of one prepared image."""
    return work / f"sub-{patient}" / (f"ses-{visit}" if visit else "") / f"{name}.nii.gz"


def _write(folder: Path, prepared: PreparedPatient, identity: Mapping[str, Any]) -> None:
    write_volume(folder / BRAIN, prepared.brain)
    if prepared.parts is not None:
        write_volume(folder / PARTS, prepared.parts)
    for visit in prepared.visits:
        for contrast, image in visit.images.items():
            write_volume(image_path(folder.parent, prepared.label, visit.label, contrast), image)
    write_json(folder / RECORD, {"identity": identity, **described(prepared)})


def _read(folder: Path, identity: Mapping[str, Any]) -> PreparedPatient:
    content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    if content["identity"] != identity:
        raise ValueError("another input or other settings")
    label = folder.name.removeprefix("sub-")

    def path_of(visit: str, name: str) -> Path:
        return image_path(folder.parent, label, visit, name)

    return restored(label, content, folder / BRAIN, folder / PARTS, path_of)


def described(prepared: PreparedPatient) -> dict[str, Any]:
    """All of a prepared patient but its images, as plain JSON."""
    return {
        "grid": _plain(prepared.grid),
        "failures": dict(prepared.failures),
        "brain_from": prepared.brain_from,
        "from_atlas": None if prepared.from_atlas is None else prepared.from_atlas.tolist(),
        "parts": prepared.parts is not None,
        "visits": [_description(visit) for visit in prepared.visits],
    }


def restored(
    label: str, content: Mapping[str, Any], brain: Path, parts: Path, path_of: Callable[[str, str], Path]
) -> PreparedPatient:
    """The patient that was `described`, with its images read: `path_of` names those of visits by visit and contrast.

    Raises
    ------
    ImageError, GeometryError
        An image is absent or damaged, or lies on another grid.
    """
    grid = _grid(content["grid"])
    return PreparedPatient(
        label,
        grid,
        _on(grid, read_mask(brain)),
        tuple(_visit(entry, grid, path_of) for entry in content["visits"]),
        content["failures"],
        content["brain_from"],
        None if content["from_atlas"] is None else np.array(content["from_atlas"]),
        _on(grid, read_labels(parts)) if content.get("parts") else None,
    )


def _description(visit: PreparedVisit) -> dict[str, Any]:
    return {
        "label": visit.label,
        "from_patient": {contrast: matrix.tolist() for contrast, matrix in visit.from_patient.items()},
        "grids": {contrast: _plain(grid) for contrast, grid in visit.grids.items()},
        "quality": dict(visit.quality),
        "warnings": list(visit.warnings),
    }


def _visit(entry: Mapping[str, Any], grid: Grid, path_of: Callable[[str, str], Path]) -> PreparedVisit:
    paths = {contrast: path_of(entry["label"], contrast) for contrast in entry["from_patient"]}
    return PreparedVisit(
        label=entry["label"],
        images={contrast: _on(grid, read_image(path)) for contrast, path in paths.items()},
        from_patient={contrast: np.array(matrix) for contrast, matrix in entry["from_patient"].items()},
        grids={contrast: _grid(plain) for contrast, plain in entry["grids"].items()},
        quality=entry["quality"],
        warnings=tuple(entry["warnings"]),
    )


def _on(grid: Grid, volume: Volume) -> Volume:
    """The volume with the grid's own affine, which NIfTI has rounded; GeometryError where it lies on another grid."""
    if volume.grid.distance_mm(grid) > GRID_TOLERANCE_MM:
        raise GeometryError(
            f"{volume.name} is not on the grid that its record names: another run has written it since. Run the "
            "patient again."
        )
    return replace(volume, affine=grid.affine, forms=grid.forms)


def _plain(grid: Grid) -> dict[str, Any]:
    return {"shape": list(grid.shape), "affine": grid.affine.tolist(), "forms": grid.forms}


def _grid(plain: Mapping[str, Any]) -> Grid:
    x, y, z = plain["shape"]
    return Grid((x, y, z), np.array(plain["affine"]), plain.get("forms"))
