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
from lesiondelta.images import Volume, read_mask, require_same_grid, write_volume
from lesiondelta.inputs.bids import parse_name
from lesiondelta.outputs.derivatives import AUTOMATIC, MASK, PATIENT_AUTOMATIC, PATIENT_MASK, Place
from lesiondelta.outputs.lesions import LESION_MAP

log = logging.getLogger(__name__)

CORRECTED = "space-orig_label-L_desc-corrected_mask"
SAME_VOXEL = 0.25
"""Of a voxel's shortest edge: how far the corners of a grid may lie from those of another that it counts as."""


def take_edits(place: Place, written: Mapping[str, str], flair: str | None) -> dict[str, str]:
    """Keep what a reader has edited since the last run as the visit's correction; a mask edited back ends it.

    `written` has the hashes of masks as they were left, by file name ("": it was not there); `flair` that of the FLAIR
    they belong to, if it is known. Returns the hashes as they are now.

    Raises
    ------
    ImageError, GeometryError
        It is no mask, or not on the grid of the visit's FLAIR. Nothing has been touched then.
    CohortError
        Several files of one visit are edited, or one that nothing is read from. Nothing has been touched then.
    """
    _require_unedited(place, written)
    automatic, kept = place.anat(f"{AUTOMATIC}.nii.gz"), place.anat(f"{CORRECTED}.nii.gz")
    now = {path: sha256(path) for path in _candidates(place)}
    edited = [path for path, said in now.items() if path.suffix == ".nii" or said != written.get(path.name)]
    if not automatic.is_file():  # then what no record knows may be an automatic mask
        edited = [path for path in edited if path.suffix == ".nii" or path.name in written]
    before = read_mask(automatic) if edited and automatic.is_file() else None
    masks = {path: read_correction(path, before) if before is not None else read_mask(path) for path in edited}
    new = {path: mask for path, mask in masks.items() if before is None or not np.array_equal(mask.data, before.data)}
    if len({mask.data.tobytes() for mask in new.values()}) > 1:
        names = " and ".join(str(path) for path in new)
        raise CohortError(f"{names} are both corrections of one mask: keep one of them.")
    if new:
        _keep(place, next(iter(new.values())), flair, in_place=set(new) != {kept})
    elif kept.is_file() and (kept in masks or (masks and _is_manual(place))):
        log.warning("sub-%s: the mask of %s is the automatic one again", place.patient, visit_name(place.visit))
        kept.unlink()
        place.anat(f"{CORRECTED}.json").unlink(missing_ok=True)
    for path in masks:
        if path.suffix == ".nii":
            path.unlink()
    hashes = {path.name: said for path, said in now.items() if path.suffix != ".nii"}
    return {place.anat(f"{MASK}.nii.gz").name: "", **hashes, kept.name: correction_hash(place) or ""}


def edits_of(place: Place) -> dict[str, str]:
    """Hashes, by file name, of a visit's mask and of its corrected one; "" for one that is not there."""
    paths = [place.anat(f"{name}.nii.gz") for name in (MASK, CORRECTED)]
    return {path.name: sha256(path) if path.is_file() else "" for path in paths}


def _candidates(place: Place) -> list[Path]:
    paths = [place.anat(f"{name}{suffix}") for name in (MASK, CORRECTED) for suffix in (".nii", ".nii.gz")]
    return [path for path in paths if path.is_file()]


def _keep(place: Place, mask: Volume, flair: str | None, *, in_place: bool) -> None:
    """Write the corrected mask; one that was edited in place was drawn on the FLAIR that the results belong to."""
    path, sidecar = place.anat(f"{CORRECTED}.nii.gz"), place.anat(f"{CORRECTED}.json")
    if in_place and not _holds(path, mask):
        sidecar.unlink(missing_ok=True)
    write_volume(path, mask)
    if flair and (in_place or not sidecar.is_file()):
        note_correction(place, flair, {})


def _holds(path: Path, mask: Volume) -> bool:
    try:
        return np.array_equal(read_mask(path).data, mask.data)
    except LesionDeltaError:
        return False


def _is_manual(place: Place) -> bool:
    """Whether the mask was left as corrected; beside a correction that could not be used lies the automatic one."""
    try:
        return bool(json.loads(place.anat(f"{MASK}.json").read_text(encoding="utf-8")).get("Manual"))
    except (OSError, ValueError, AttributeError):
        return False


def derived_hashes(place: Place) -> dict[str, str]:
    """Hashes, by file name, of outputs that readers may edit by mistake."""
    return {path.name: sha256(path) for path in _derived(place) if path.is_file()}


def _derived(place: Place) -> list[Path]:
    names = (AUTOMATIC, PATIENT_MASK, PATIENT_AUTOMATIC, LESION_MAP)
    return [*(place.anat(f"{name}.nii.gz") for name in names), place.anat(f"{LESION_MAP}.seg.nrrd")]


def _require_unedited(place: Place, written: Mapping[str, str]) -> None:
    """Raise CohortError where an output has been edited that a run writes anew."""
    for path in _derived(place):
        if path.is_file() and path.name in written and sha256(path) != written[path.name]:
            mask = place.anat(f"{MASK}.nii.gz").name
            raise CohortError(
                f"{path} has been edited, but only {mask} is followed, and this file would be written anew: bring what "
                "was edited into that mask, then remove this one."
            )


def read_correction(path: Path, automatic: Volume) -> Volume:
    """Read a corrected mask, bool, on the grid of the automatic one.

    Programs that write the orientation as a quaternion of 32 bits may turn an image by a thousandth: the voxels are
    the same as long as they lie nearer than a quarter of one.

    Raises
    ------
    ImageError, GeometryError
        It is no mask, or on another grid.
    """
    corrected = read_mask(path)
    try:
        require_same_grid(corrected, automatic, SAME_VOXEL * float(min(automatic.grid.spacing)))
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
