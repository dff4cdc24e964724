"""Files of masks corrected by hand: where they lie, how they are read, and what is noted beside them.

A reader edits `..._space-orig_label-L_mask.nii.gz` in place (or saves it beside itself as .nii), or saves another mask
as `..._space-orig_label-L_desc-corrected_mask.nii[.gz]`. `pipeline.corrections` says which of these counts.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lesiondelta.cohort import CONTRASTS, visit_name
from lesiondelta.errors import CohortError, GeometryError
from lesiondelta.files import entries, files_below, sha256, write_json
from lesiondelta.images import Volume, read_mask, require_same_grid
from lesiondelta.inputs.bids_names import parse_name
from lesiondelta.inputs.bids_tables import session_in
from lesiondelta.outputs.derivatives import (
    EXTRAS,
    MASK,
    PATIENT_MASK,
    PatientFiles,
    Place,
    visit_files,
)
from lesiondelta.outputs.lesions import change_map_name, map_files
from lesiondelta.outputs.segmentations import segmentation_files

CORRECTED = "space-orig_label-L_desc-corrected_mask"
IMAGE = re.compile(
    r".*\.(nii(\.gz)?|img(\.gz)?|hdr|mg[hz]|mgh\.gz|nrrd|nhdr|mh[ad]|mif(\.gz)?|mnc|gipl(\.gz)?|vtk|dcm)", re.IGNORECASE
)
"""What readers and their programs save masks as."""
PACKED_MASK = re.compile(
    r".*(mask|seg|label|lesion|corrected|edited|manual).*\.(zip|7z|rar|t?gz|tar(\.\w+)?)", re.IGNORECASE
)
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
    """Raise CohortError where somebody has saved an image, by a name or in a format that nothing reads.

    It lies in the patient's folder, or beside it by the patient's name, and is not one of our outputs. `recorded` names
    those of earlier runs.
    """
    recorded_files = {patient.out / name for name in recorded}
    below = files_below(patient.folder) if patient.folder.is_dir() else []
    beside = entries(patient.out) if patient.out.is_dir() else []
    for path in [*below, *(path for path in beside if path.name.startswith(f"sub-{patient.patient}_"))]:
        if not _may_be_mask(path) or path in recorded_files:
            continue
        place = patient.visit(session_in(path.relative_to(patient.out).as_posix()))
        if path not in _known_files(place, path.name):
            target = place.anat(f"{CORRECTED}.nii.gz")
            raise CohortError(
                f"{path} is not read: if it corrects a mask, save it as {target}, else take it out of {patient.out}."
            )


def _may_be_mask(path: Path) -> bool:
    return bool(IMAGE.fullmatch(path.name) or PACKED_MASK.fullmatch(path.name))


def _known_files(place: Place, name: str) -> list[Path]:
    """What a reader may edit, and all images of a visit that are written at any option.

    `name` is that of the file in question, which says which visit before it is about.
    """
    priors = re.findall("from([^_]*)_", name, re.IGNORECASE)
    return [
        *_editable(place), *visit_files(place, CONTRASTS, EXTRAS), *map_files(place, priors), *segmentation_files(place)
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
    """The images among a visit's outputs that readers may edit by mistake, those that are there."""
    steps = place.anat(f"{change_map_name('*')}.nii.gz")
    priors = [re.sub(".*_desc-from|_dseg.*", "", path.name) for path in steps.parent.glob(steps.name)]
    outputs = [*visit_files(place, CONTRASTS, EXTRAS), *map_files(place, priors), *segmentation_files(place)]
    return [path for path in outputs if _may_be_mask(path) and path not in _editable(place) and path.is_file()]


def needs_a_run(place: Place, path: Path) -> bool:
    """Whether only a run that segments writes this output, since `--reports-only` begins with it."""
    return path in visit_files(place, CONTRASTS, EXTRAS) and path != place.anat(f"{PATIENT_MASK}.nii.gz")


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
