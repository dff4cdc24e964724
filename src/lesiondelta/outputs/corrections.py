"""Files of masks corrected by hand: where they lie, how they are read, and what is noted beside them.

A reader edits `..._space-orig_label-L_mask.nii.gz` in place (or saves it beside itself as .nii), or saves another mask
as `..._space-orig_label-L_desc-corrected_mask.nii[.gz]`. `pipeline.corrections` says which of these counts.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lesiondelta.errors import CohortError, GeometryError
from lesiondelta.files import entries, sha256, write_json
from lesiondelta.images import Volume, read_mask, require_same_grid
from lesiondelta.outputs.derivatives import AUTOMATIC, MASK, PATIENT_AUTOMATIC, PATIENT_MASK, Place
from lesiondelta.outputs.lesions import LESION_MAP

CORRECTED = "space-orig_label-L_desc-corrected_mask"
SAME_VOXEL = 0.25
"""Share of a voxel's shortest edge: how far the corners of a grid may lie from those of another that it counts as."""


def mask_hashes(place: Place) -> dict[str, str]:
    """Hashes, by file name, of a visit's mask and of its corrected one; "" for one that is not there."""
    paths = [place.anat(f"{name}.nii.gz") for name in (MASK, CORRECTED)]
    return {path.name: sha256(path) if path.is_file() else "" for path in paths}


def editable_masks(place: Place) -> list[Path]:
    """The files that readers may have edited, those that are there; CohortError for one whose ending has capitals."""
    paths = [place.anat(f"{name}{suffix}") for name in (MASK, CORRECTED) for suffix in (".nii", ".nii.gz")]
    there = entries(paths[0].parent) if paths[0].parent.is_dir() else []
    known = {path.name.lower(): path.name for path in paths}
    for path in there:
        if known.get(path.name.lower(), path.name) != path.name:
            raise CohortError(f"{path} would not be read: rename it to {known[path.name.lower()]}.")
    return [path for path in paths if path.is_file()]


def derived_files(place: Place) -> list[Path]:
    """The outputs that readers may edit by mistake, those that are there."""
    names = (AUTOMATIC, PATIENT_MASK, PATIENT_AUTOMATIC, LESION_MAP)
    paths = [*(place.anat(f"{name}.nii.gz") for name in names), place.anat(f"{LESION_MAP}.seg.nrrd")]
    return [path for path in paths if path.is_file()]


def correction_hash(place: Place) -> str | None:
    """SHA-256 of the visit's corrected mask; None where it has none."""
    path = place.anat(f"{CORRECTED}.nii.gz")
    return sha256(path) if path.is_file() else None


def read_correction(path: Path, automatic: Volume) -> Volume:
    """Read a corrected mask, bool, on the grid of the automatic one.

    Programs that write the orientation as a quaternion of 32 bits may turn an image by a thousandth: the voxels are
    the same as long as they lie nearer than a quarter of one.

    Raises
    ------
    ImageError, GeometryError
        It is not a mask, or on another grid.
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


def is_manual(place: Place) -> bool:
    """Whether the mask was left as corrected; beside a correction that could not be used lies the automatic one."""
    try:
        return bool(json.loads(place.anat(f"{MASK}.json").read_text(encoding="utf-8-sig")).get("Manual"))
    except (OSError, ValueError, AttributeError):
        return False


def drawn_on(place: Place) -> str | None:
    """SHA-256 of the FLAIR that the visit's mask was corrected on; None where nobody has noted it yet."""
    try:
        flair = json.loads(place.anat(f"{CORRECTED}.json").read_text(encoding="utf-8-sig"))["FLAIR_SHA256"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return str(flair)


def note_correction(place: Place, flair: str | None, facts: Mapping[str, Any]) -> None:
    """Write the sidecar of a corrected mask; `flair` is the hash of the visit's FLAIR."""
    write_json(place.anat(f"{CORRECTED}.json"), {**facts, "Manual": True, "FLAIR_SHA256": flair})
