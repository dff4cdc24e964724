"""Masks corrected by hand: where they are found, and how they are kept.

A reader edits `..._space-orig_label-L_mask.nii.gz` in place (or saves it beside itself as .nii), or saves another mask
as `..._space-orig_label-L_desc-corrected_mask.nii[.gz]`. Either way it is kept under the second name, which no run ever
removes, and `..._desc-automatic_mask` stays what the model made. Taking the corrected mask away takes the correction
back.
"""

import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lesiondelta.cohort import visit_name
from lesiondelta.errors import CohortError, GeometryError, LesionDeltaError
from lesiondelta.files import sha256, write_json
from lesiondelta.formats.bids import parse_name
from lesiondelta.formats.derivatives import AUTOMATIC, MASK, Place
from lesiondelta.images import Volume, read_mask, require_same_grid, write_volume

log = logging.getLogger(__name__)

CORRECTED = "space-orig_label-L_desc-corrected_mask"


def take_edits(place: Place, written: Mapping[str, str]) -> None:
    """Keep what a reader has edited since the last run as the visit's correction; a mask edited back ends it.

    `written` has the hashes of masks as they were left, by file name.

    Raises
    ------
    ImageError, GeometryError
        It is no mask, or not on the grid of the visit's FLAIR. Nothing has been touched then.
    CohortError
        Several files of one visit are edited.
    """
    automatic, kept = place.anat(f"{AUTOMATIC}.nii.gz"), place.anat(f"{CORRECTED}.nii.gz")
    paths = [path for path in _candidates(place) if _is_edited(path, written)]
    if not paths or not automatic.is_file():
        return
    before = read_mask(automatic)
    edited = {path: read_correction(path, before) for path in paths}
    new = {path: mask for path, mask in edited.items() if not np.array_equal(mask.data, before.data)}
    if len({mask.data.tobytes() for mask in new.values()}) > 1:
        names = " and ".join(str(path) for path in new)
        raise CohortError(f"{names} are both corrections of one mask: keep one of them.")
    if set(new) != {kept}:  # another FLAIR may be the one it was drawn on
        place.anat(f"{CORRECTED}.json").unlink(missing_ok=True)
    if new:
        write_volume(kept, next(iter(new.values())))
    elif kept.is_file():
        log.warning("sub-%s: the mask of %s is the automatic one again", place.patient, visit_name(place.visit))
        kept.unlink()
    for path in edited:
        if path.suffix == ".nii":
            path.unlink()


def _candidates(place: Place) -> list[Path]:
    paths = [place.anat(f"{name}{suffix}") for name in (MASK, CORRECTED) for suffix in (".nii", ".nii.gz")]
    return [path for path in paths if path.is_file()]


def _is_edited(path: Path, written: Mapping[str, str]) -> bool:
    return path.suffix == ".nii" or sha256(path) != written.get(path.name)


def read_correction(path: Path, automatic: Volume) -> Volume:
    """Read a corrected mask, bool, on the grid of the automatic one.

    Raises
    ------
    ImageError, GeometryError
        It is no mask, or on another grid.
    """
    corrected = read_mask(path)
    try:
        require_same_grid(corrected, automatic)
    except GeometryError as error:
        raise GeometryError(
            f"{path} is not on the grid of the FLAIR that it corrects ({str(error).partition(':')[0]}): save it with "
            "that FLAIR as the reference image."
        ) from error
    return automatic.with_data(corrected.data)


def correction_hash(place: Place) -> str | None:
    """SHA-256 of the visit's corrected mask; None where it has none."""
    path = place.anat(f"{CORRECTED}.nii.gz")
    return sha256(path) if path.is_file() else None


def require_own_visit(out: Path, patient: str, visits: Collection[str]) -> None:
    """Raise CohortError where somebody has put a mask of a visit that has no results; corrections kept earlier may lie.

    `visits` are the labels of those that have.
    """
    folder = out / f"sub-{patient}"
    for path in sorted([*folder.rglob(f"*_{MASK}.nii*"), *folder.rglob(f"*_{CORRECTED}.nii*")]):
        file = parse_name(path)
        visit = file.entities.get("ses", "") if file else None
        known = path.with_name(path.name.partition(".")[0] + ".json").is_file() and CORRECTED in path.name
        if visit not in visits and not known:
            have = ", ".join(map(visit_name, visits))
            raise CohortError(f"{path} is of no visit of sub-{patient} that has results ({have}): rename or remove it.")


def drawn_on(place: Place) -> str | None:
    """SHA-256 of the FLAIR that the visit's mask was corrected on; None where nobody has noted it yet."""
    try:
        said = json.loads(place.anat(f"{CORRECTED}.json").read_text(encoding="utf-8"))["FLAIR_SHA256"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return str(said)


def note_correction(place: Place, flair: str | None, facts: Mapping[str, Any]) -> None:
    """Write the sidecar of a corrected mask; `flair` is the hash of the visit's FLAIR."""
    write_json(place.anat(f"{CORRECTED}.json"), {**facts, "Manual": True, "FLAIR_SHA256": flair})


def usable_correction(place: Place, automatic: Volume, flair: str | None) -> tuple[Volume | None, str]:
    """The corrected mask of a visit, bool on the grid of the automatic one, or why the one that lies there is not used.

    `flair` is the hash of the visit's FLAIR.
    """
    path = place.anat(f"{CORRECTED}.nii.gz")
    if not path.is_file():
        return None, ""
    if flair is not None and drawn_on(place) not in (None, flair):
        return None, (
            f"its FLAIR has changed since the mask was corrected by hand: {path} is not used (if it is still right, "
            f"remove the .json of the same name)"
        )
    try:
        return read_correction(path, automatic), ""
    except LesionDeltaError as error:
        return None, f"the corrected mask is not used: {error}"
