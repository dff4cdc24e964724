"""A dataset in its owners' layout becomes a BIDS dataset with references, as `compare` and `evaluate` read them.

Images are copied byte for byte (a plain `.nii` is compressed). So is a mask, once it is found to be one and to lie on
the grid of its FLAIR. Masks of change become no references. No date is made up: visits keep their owners' order.
"""

import gzip
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lesiondelta.cohort import CONTRASTS
from lesiondelta.errors import CohortError, ImageError, OutputError
from lesiondelta.files import atomic, write_json, write_text
from lesiondelta.formats.bids import natural
from lesiondelta.formats.datasets import COMMON_SPACE, IMAGES, Dataset, Layout
from lesiondelta.images import GRID_TOLERANCE_MM, Volume, read_image, read_mask, require_same_grid, write_volume

log = logging.getLogger(__name__)

Rater = Literal["rater1", "rater2", "union", "intersection"]
COMBINED = {"union": np.logical_or, "intersection": np.logical_and}
ONLY_VISIT = "1"
HALF_VOXEL = 0.51
"""Of a voxel's diagonal: two conventions for its origin, the centre and the corner, differ by half (decision 063)."""
CHANGE = "change"
NAMES = {
    "reference": "Lesion masks",
    "rater1": "Lesion masks of the first rater",
    "rater2": "Lesion masks of the second rater",
    CHANGE: "Masks of lesion change, brain masks and transforms in a common space: change, not lesions",
}


@dataclass(frozen=True)
class FoundVisit:
    """Images by BIDS name; masks by the owners' name, sorted."""

    label: str
    images: Mapping[str, Path]
    masks: Mapping[str, Path]


@dataclass(frozen=True)
class FoundPatient:
    """Visits in order, further files by the name they get, a table of dates; `test` if the owners keep it for that."""

    label: str
    visits: tuple[FoundVisit, ...]
    others: Mapping[str, Path]
    dates: Path | None
    test: bool


@dataclass(frozen=True)
class Found:
    """A dataset on disk, complete as far as file names tell."""

    dataset: Dataset
    layout: Layout
    root: Path
    patients: tuple[FoundPatient, ...]


@dataclass(frozen=True)
class _File:
    path: Path
    is_: Mapping[str, str | None]


def find(dataset: Dataset, root: Path) -> Found:
    """Find the patients of a dataset.

    Raises
    ------
    CohortError
        The folder is laid out in none of the known ways or in several, or a visit lacks an image or a mask.
    """
    layout, files = _recognise(dataset, root)
    labels = {file.is_["patient"] or "" for file in files if file.is_.get("image") or file.is_.get("mask")}
    patients = tuple(
        _patient(label, [file for file in files if file.is_["patient"] == label])
        for label in sorted(labels, key=natural)
    )
    masks = layout.masks or sorted({name for p in patients for visit in p.visits for name in visit.masks})
    for patient in patients:
        for visit in patient.visits:
            absent = [name for name in CONTRASTS if name not in visit.images]
            absent += [name for name in masks if name not in visit.masks]
            if absent:
                raise CohortError(
                    f"Visit {visit.label} of patient {patient.label} in {root} has no {' and no '.join(absent)} "
                    f"(files are named as {layout.example}): complete it or take the visit away."
                )
    return Found(dataset, layout, root, patients)


def convert(
    found: Found, out: Path, rater: Rater = "rater1", progress: Callable[[str], None] = lambda label: None
) -> None:
    """Write the BIDS dataset; a patient who is complete is left alone, so that a stopped conversion can be taken up.

    Parameters
    ----------
    found : Found
        What to write.
    out : Path
        Folder for the dataset.
    rater : {"rater1", "rater2", "union", "intersection"}
        What becomes the reference where there are masks of two raters; both raters' own are written in any case.
    progress : callable
        Called with the label of every patient done.

    Raises
    ------
    ImageError, GeometryError
        A mask is none, or does not lie on the grid of its FLAIR.
    OutputError
        The folder lies inside the source, holds something else or more patients, or cannot be written.
    """
    _claim(found, out, rater)
    for leftover in out.rglob(".partial-*"):  # of a conversion that was killed
        leftover.unlink(missing_ok=True)
    moved = []
    for patient in found.patients:
        if not _sessions_table(out, patient.label).is_file():
            moved += _write_patient(found, out, patient, rater)
        progress(patient.label)
    if moved:
        log.warning(
            "The headers of %d masks, %s the first, lie within half a voxel of their FLAIR's: voxels are kept, and the "
            "FLAIR's header is taken.", len(moved), moved[0],
        )  # fmt: skip
    rows = [f"sub-{patient.label}\t{len(patient.visits)}" for patient in found.patients]
    write_text(out / ".bidsignore", "protocol/\n")
    write_text(out / "participants.tsv", "\n".join(["participant_id\tvisits", *rows]) + "\n")


def _recognise(dataset: Dataset, root: Path) -> tuple[Layout, list[_File]]:
    if not root.is_dir():
        raise CohortError(f"{root} is not a folder: give that of the {dataset.title} as its owners distribute it.")
    name = root.resolve().name
    paths = {path: f"{name}/{path.relative_to(root).as_posix()}" for path in sorted(root.rglob("*")) if path.is_file()}
    fitting = []
    for layout in dataset.layouts:
        matches = {path: layout.pattern.fullmatch(said) for path, said in paths.items()}
        files = [_File(path, match.groupdict()) for path, match in matches.items() if match]
        if any(file.is_.get("image") for file in files):
            fitting.append((layout, files))
    if len(fitting) > 1:
        raise CohortError(f"{root} holds {' and '.join(layout.name for layout, _ in fitting)}: give the folder of one.")
    if not fitting:
        wanted = "; ".join(f"{layout.example} ({layout.name})" for layout in dataset.layouts)
        there = ", ".join(sorted(path.name for path in root.iterdir())[:5]) or "nothing"
        raise CohortError(f"{root} is no {dataset.title}: looked for files as {wanted}, and found {there}.")
    return fitting[0]


def _patient(label: str, files: Sequence[_File]) -> FoundPatient:
    scans = [file for file in files if file.is_.get("image") or file.is_.get("mask")]
    visits = {file.is_.get("visit") or ONLY_VISIT for file in scans}
    others = [(COMMON_SPACE.get(file.is_["other"] or ""), file) for file in files if file.is_.get("other")]
    return FoundPatient(
        label,
        tuple(
            _visit(visit, [file for file in scans if (file.is_.get("visit") or ONLY_VISIT) == visit])
            for visit in sorted(visits, key=natural)
        ),
        {f"sub-{label}_{name}" if name else str(file.is_["other"]): file.path for name, file in others},
        next((file.path for file in files if file.is_.get("dates")), None),
        any(file.is_.get("test") for file in files),
    )


def _visit(label: str, files: Iterable[_File]) -> FoundVisit:
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for file in files:
        image, mask = file.is_.get("image"), file.is_.get("mask")
        kind, name = (images, IMAGES[image.lower()]) if image else (masks, mask or "")
        if name in kind:
            raise CohortError(f"{kind[name]} and {file.path} are the same {name}: keep one of them.")
        kind[name] = file.path
    return FoundVisit(label, images, dict(sorted(masks.items())))


def _claim(found: Found, out: Path, rater: Rater) -> None:
    """Write the descriptions, once nothing else is found in the folder."""
    if out.resolve().is_relative_to(found.root.resolve()):
        raise OutputError(f"{out} lies inside {found.root}: give a folder elsewhere.")
    made_by = {
        "Name": f"lesiondelta convert {found.dataset.name}",
        "Description": f"{found.layout.name}, reference: {rater if len(found.layout.masks) > 1 else 'as distributed'}",
    }
    description = out / "dataset_description.json"
    _require_empty_or_same(out, description, made_by)
    others = sorted({path.name for path in out.glob("sub-*")} - {f"sub-{patient.label}" for patient in found.patients})
    if others:
        raise OutputError(f"{out} holds {others[0]}, which is not among the patients to convert: give a new folder.")
    title = f"{found.dataset.title}, {found.layout.name}"
    about = {
        "BIDSVersion": "1.10.0",
        "License": found.dataset.licence,
        "HowToAcknowledge": found.dataset.cite,
        "SourceDatasets": [{"URL": found.dataset.source}],
        "GeneratedBy": [made_by],
    }
    write_json(description, {"Name": title, "DatasetType": "raw", **about})
    for folder in _derivatives(found):
        named = {"Name": f"{NAMES[folder]} of the {title}", "DatasetType": "derivative"}
        write_json(out / "derivatives" / folder / "dataset_description.json", named | about)


def _require_empty_or_same(out: Path, description: Path, made_by: Mapping[str, str]) -> None:
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        earlier = dict(json.loads(description.read_text(encoding="utf-8"))["GeneratedBy"][0])
    except (OSError, ValueError, LookupError, TypeError):
        earlier = {}
    if earlier.get("Name") != made_by["Name"]:
        raise OutputError(f"{out} is not empty and was not written by `{made_by['Name'][12:]}`: give a new folder.")
    if earlier != made_by:
        raise OutputError(f"{out} was converted otherwise ({earlier.get('Description')}): give a new folder.")


def _derivatives(found: Found) -> list[str]:
    masks = [visit.masks for patient in found.patients for visit in patient.visits]
    folders = ["reference"] if any(masks) else []
    folders += ["rater1", "rater2"] if any(len(files) > 1 for files in masks) else []
    return folders + ([CHANGE] if any(patient.others for patient in found.patients) else [])


def _write_patient(found: Found, out: Path, patient: FoundPatient, rater: Rater) -> list[Path]:
    """Write a patient, the table of visits last; returns the masks whose header had to be replaced."""
    moved = []
    for visit in patient.visits:
        place = Path(f"sub-{patient.label}", f"ses-{visit.label}", "anat")
        stem = f"sub-{patient.label}_ses-{visit.label}"
        for name, path in visit.images.items():
            _copy(path, out / place / f"{stem}_{name}.nii.gz")
            about = {"Modality": "MR", "SourceFile": path.relative_to(found.root).as_posix(), **found.layout.sidecar}
            write_json(out / place / f"{stem}_{name}.json", about)
        masks = {
            folder: out / "derivatives" / folder / place / f"{stem}_space-orig_label-L_mask.nii.gz" for folder in NAMES
        }
        moved += _write_masks(visit, masks, rater)
    for name, path in patient.others.items():
        _copy(path, out / "derivatives" / CHANGE / f"sub-{patient.label}" / name)
    table = _sessions_table(out, patient.label)
    if patient.dates:
        _copy(patient.dates, table)
    else:
        write_text(table, "".join(f"{row}\n" for row in ["session_id", *(f"ses-{v.label}" for v in patient.visits)]))
    return moved


def _write_masks(visit: FoundVisit, targets: Mapping[str, Path], rater: Rater) -> list[Path]:
    if not visit.masks:
        return []
    flair, files = read_image(visit.images["FLAIR"]), list(visit.masks.values())
    raters = dict(zip(("rater1", "rater2"), files, strict=True)) if len(files) > 1 else {}
    if rater not in COMBINED or not raters:
        raters["reference"] = raters.get(rater, files[0])
    moved = [path for folder, path in raters.items() if _write_mask(path, targets[folder], flair)]
    if "reference" not in raters:
        first, second = (read_mask(targets[folder]) for folder in raters)
        write_volume(targets["reference"], first.with_data(COMBINED[rater](first.data, second.data)))
    return moved


def _write_mask(path: Path, target: Path, flair: Volume) -> bool:
    """Copy a mask that lies on the grid of its FLAIR; True where its voxels do, but its header is half a voxel off."""
    mask = read_mask(path)
    shift_mm = flair.grid.distance_mm(mask.grid)
    if GRID_TOLERANCE_MM < shift_mm <= HALF_VOXEL * np.linalg.norm(flair.grid.spacing):
        write_volume(target, Volume(mask.data, flair.affine))
        return True
    require_same_grid(mask, flair)
    _copy(path, target)
    return False


def _copy(source: Path, target: Path) -> None:
    """Copy the bytes; a plain NIfTI is compressed where the target is."""
    try:
        reading = source.open("rb")
    except OSError as error:
        raise ImageError(
            f"{source} cannot be opened ({error.strerror}): see to its permissions and its disk."
        ) from error
    with reading, atomic(target) as temporary, temporary.open("wb") as writing:
        if target.suffix == ".gz" and source.suffix != ".gz":
            with gzip.GzipFile(filename="", mode="wb", fileobj=writing, mtime=0) as packed:
                shutil.copyfileobj(reading, packed)
        else:
            shutil.copyfileobj(reading, writing)


def _sessions_table(out: Path, label: str) -> Path:
    return out / f"sub-{label}" / f"sub-{label}_sessions.tsv"
