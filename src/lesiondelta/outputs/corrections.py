"""Files of masks corrected by hand: where they lie, how they are read, and what is noted beside them.

A reader edits `..._space-orig_label-L_mask.nii.gz` in place (or saves it beside itself as .nii), or saves another mask
as `..._space-orig_label-L_desc-corrected_mask.nii[.gz]`. `pipeline.corrections` says which of these counts.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lesiondelta.cohort import visit_name
from lesiondelta.errors import CohortError, GeometryError
from lesiondelta.files import files_below, sha256, write_json
from lesiondelta.images import Volume, read_mask, require_same_grid
from lesiondelta.inputs.bids_names import parse_name
from lesiondelta.outputs.derivatives import (
    AUTOMATIC,
    EXTRAS,
    MASK,
    PATIENT_AUTOMATIC,
    PATIENT_MASK,
    PatientFiles,
    Place,
    visit_files,
)
from lesiondelta.outputs.lesions import LESION_MAP, map_files
from lesiondelta.outputs.segmentations import segmentation_files, slicer_path

CORRECTED = "space-orig_label-L_desc-corrected_mask"
LIKE_MASK = re.compile(
    r".*(mask|seg|label|lesion|corrected|edited|manual)"
    r".*\.(nii(\.gz)?|img(\.gz)?|hdr|mg[hz]|nrrd|nhdr|mh[ad]|mnc|gipl(\.gz)?|vtk|dcm)",
    re.IGNORECASE,
)
"""Names under which readers and their programs save masks."""
SAME_VOXEL = 0.25
"""Share of a voxel's shortest edge: how far the corners of a grid may lie from those of another that it counts as."""


def mask_hashes(place: Place) -> dict[str, str]:
    """Hashes, by file name, of a visit's mask and of its corrected one; "" for one that is not there."""
    paths = [place.anat(f"{name}.nii.gz") for name in (MASK, CORRECTED)]
    return {path.name: sha256(path) if path.is_file() else "" for path in paths}


def editable_masks(place: Place) -> list[Path]:
    """The files that readers may have edited, those that are there."""
    return [path for path in _editable(place) if path.is_file()]


def _editable(place: Place) -> list[Path]:
    return [place.anat(f"{name}{suffix}") for name in (MASK, CORRECTED) for suffix in (".nii", ".nii.gz")]


def require_read(patient: PatientFiles, recorded: Collection[str] = ()) -> None:
    """Raise CohortError where somebody has saved a mask by a name or in a format that nothing reads.

    Its name is like that of a mask, and it is not one of our outputs. `recorded` names those of earlier runs.
    """
    recorded_files = {patient.out / name for name in recorded}
    for path in files_below(patient.folder) if patient.folder.is_dir() else []:
        folders = path.relative_to(patient.folder).parts[:-1]
        session = next((name for name in folders if name.startswith("ses-")), "")
        place = patient.visit(session.removeprefix("ses-"))
        suspect = LIKE_MASK.fullmatch(path.name.removeprefix(place.stem)) and path not in recorded_files
        if suspect and path not in _known_files(place, path.name):
            target = place.anat(f"{CORRECTED}.nii.gz")
            raise CohortError(
                f"{path} is not read: if it corrects a mask, save it as {target}, else take it out of {patient.folder}."
            )


def _known_files(place: Place, name: str) -> list[Path]:
    """What a reader may edit, and all masks and maps of a visit that are written at any option.

    `name` is that of the file in question, which says which visit before it is about.
    """
    priors = re.findall("from([^_]*)_", name, re.IGNORECASE)
    return [
        *_editable(place), *visit_files(place, (), EXTRAS), *map_files(place, priors), *segmentation_files(place)
    ]  # fmt: skip


def require_own_visit(patient: PatientFiles, visits: Collection[str]) -> None:
    """Raise CohortError where somebody has put a mask of a visit that has no results; corrections kept earlier may lie.

    `visits` are the labels of those that have.
    """
    masks = files_below(patient.folder, f"*_{MASK}.nii*") + files_below(patient.folder, f"*_{CORRECTED}.nii*")
    for path in sorted(masks):
        file = parse_name(path)
        visit = file.entities.get("ses", "") if file else None
        known = path.with_name(path.name.partition(".")[0] + ".json").is_file() and CORRECTED in path.name
        if visit not in visits and not known:
            have = ", ".join(map(visit_name, visits))
            raise CohortError(
                f"{path} is of no visit of sub-{patient.patient} that has results ({have}): rename or remove it."
            )


def derived_files(place: Place) -> list[Path]:
    """The outputs that readers may edit by mistake, those that are there."""
    names = (AUTOMATIC, PATIENT_MASK, PATIENT_AUTOMATIC, LESION_MAP)
    paths = [*(place.anat(f"{name}.nii.gz") for name in names), slicer_path(place)]
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
