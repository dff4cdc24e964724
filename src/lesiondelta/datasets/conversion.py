"""A dataset in its owners' layout becomes a BIDS dataset with references, as `compare` and `evaluate` read them.

Images are copied byte for byte (a plain `.nii` is compressed), once they are found to be whole. So is a mask, once it
is found to be one and to lie on the grid of its FLAIR. Masks of change become no references. No date is made up: visits
keep their owners' order.

`.convert/sub-X.json` says which files of a patient were written and from what: while that holds, the patient is left
alone. `dataset_description.json` is written last: without it `bids.read_cohort` refuses the folder.
"""

import functools
import gzip
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from lesiondelta.datasets import Rater
from lesiondelta.datasets.finding import Found, FoundPatient
from lesiondelta.errors import ImageError, OutputError
from lesiondelta.files import alone, as_text, atomic, contents, sha256, write_json, write_text
from lesiondelta.images import (
    Array,
    Volume,
    corners_mm,
    read_image,
    read_mask,
    require_same_grid,
    require_whole,
    write_volume,
)
from lesiondelta.inputs.bids import CONVERSION
from lesiondelta.inputs.bids_folders import DESCRIPTION

log = logging.getLogger(__name__)

Step = Callable[[Path], object]
"""Writes one file; True where a mask's header had to be replaced."""
COMBINED = {"union": np.logical_or, "intersection": np.logical_and}
ROUNDING_VOXELS = 0.01
CHANGE = "change"
NAMES = {
    "reference": "Lesion masks",
    "rater1": "Lesion masks of the first rater",
    "rater2": "Lesion masks of the second rater",
    CHANGE: "Masks of lesion change, brain masks and transforms in a common space: change, not lesions",
}


def convert(
    found: Found,
    out: Path,
    rater: Rater = "rater1",
    progress: Callable[[str], None] = lambda label: None,
    before_the_end: Callable[[], None] = lambda: None,
) -> None:
    """Write the BIDS dataset; a patient who is complete and whose source is the same is left alone.

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
    before_the_end : callable
        Called when all patients are there; the dataset is whole once it returns.

    Raises
    ------
    ImageError, GeometryError
        An image is damaged, or a mask is none or does not lie on the grid of its FLAIR.
    OutputError
        The folder lies inside the source, holds something else or more patients, is in use or cannot be written.
    """
    made_by = {
        "Name": f"lesiondelta convert {found.dataset.name}",
        "Description": f"{found.layout.name}, reference: {rater if len(found.layout.masks) > 1 else 'as distributed'}",
    }
    _require_empty_or_same(found, out, made_by)
    for caution in found.cautions:
        log.warning("%s", caution)
    with alone(out, wait=False):
        _require_empty_or_same(found, out, made_by)  # another may have written it meanwhile
        write_json(out / CONVERSION / "made_by.json", made_by)
        _delete(out, [DESCRIPTION, *(path.relative_to(out).as_posix() for path in out.rglob(".partial-*"))])
        moved = []
        for patient in found.patients:
            moved += _update(found, out, patient, rater)
            progress(patient.label)
        if moved:
            log.warning(
                "The headers of %d masks, %s the first, lay half a voxel off their FLAIR's: voxels are kept, and the "
                "FLAIR's header is taken.", len(moved), moved[0],
            )  # fmt: skip
        before_the_end()
        _describe(found, out, made_by)


def _require_empty_or_same(found: Found, out: Path, made_by: Mapping[str, str]) -> None:
    if out.resolve().is_relative_to(found.root.resolve()):
        raise OutputError(f"{out} lies inside {found.root}: give a folder elsewhere.")
    there = contents(out)
    earlier = _read(out / CONVERSION / "made_by.json")
    if there and earlier.get("Name") != made_by["Name"]:
        raise OutputError(f"{out} is not empty and was not written by `{made_by['Name'][12:]}`: give a new folder.")
    if there and earlier != made_by:
        raise OutputError(f"{out} was converted otherwise ({earlier.get('Description')}): give a new folder.")
    others = {name for name in there if name.startswith("sub-")} - {
        f"sub-{patient.label}" for patient in found.patients
    }
    if others:
        raise OutputError(f"{out} holds {min(others)}, which is not among the patients to convert: give a new folder.")


def _update(found: Found, out: Path, patient: FoundPatient, rater: Rater) -> list[str]:
    """Write a patient unless it is there already; returns the masks whose header had to be replaced."""
    path = out / CONVERSION / f"sub-{patient.label}.json"
    steps = dict(_steps(found, patient, rater))
    record = {
        "sources": {as_text(source.relative_to(found.root)): _identity(source) for source in _sources(patient)},
        "visits": _visits_table(patient),
        "files": list(steps),
    }
    earlier = _read(path)
    if earlier == {**record, "whole": True} and all((out / name).is_file() for name in steps):
        return []
    _delete(out, earlier.get("files", []))
    write_json(path, {**record, "whole": False})
    for source in _sources(patient):
        require_whole(source)
    moved = [name for name, write in steps.items() if write(out / name)]
    write_json(path, {**record, "whole": True})
    return moved


def _steps(found: Found, patient: FoundPatient, rater: Rater) -> Iterator[tuple[str, Step]]:
    """Every file of a patient, relative to the dataset, and what writes it."""
    folder = f"sub-{patient.label}"
    for visit in patient.visits:
        stem = f"{folder}/ses-{visit.label}/anat/{folder}_ses-{visit.label}"
        for name, path in visit.images.items():
            about = {"Modality": "MR", "SourceFile": as_text(path.relative_to(found.root)), **found.layout.sidecar}
            yield f"{stem}_{name}.nii.gz", functools.partial(_copy_image, path)
            yield f"{stem}_{name}.json", functools.partial(write_json, content=about)
        for kind, paths in _references(list(visit.masks.values()), rater).items():
            write = functools.partial(_write_mask, paths, visit.images[visit.flair], COMBINED.get(rater, np.logical_or))
            yield f"derivatives/{kind}/{stem}_space-orig_label-L_mask.nii.gz", write
    for name, path in patient.others.items():
        yield f"derivatives/{CHANGE}/{folder}/{name}", functools.partial(_copy, path)
    yield f"{folder}/{folder}_sessions.tsv", functools.partial(write_text, text=_visits_table(patient))


def _references(masks: Sequence[Path], rater: Rater) -> dict[str, Sequence[Path]]:
    """Masks to be combined, by the folder of derivatives they make."""
    if len(masks) < 2:
        return {"reference": masks} if masks else {}
    raters = {"rater1": masks[:1], "rater2": masks[1:]}
    return {**raters, "reference": raters.get(rater, masks)}


def _write_mask(paths: Sequence[Path], flair: Path, combine: np.ufunc, target: Path) -> bool:
    """Copy a mask, or combine several; True where voxels lie on the FLAIR's, but a header is half a voxel off."""
    image, masks = read_image(flair), [read_mask(path) for path in paths]
    moved = [_half_a_voxel_off(mask, image) for mask in masks]
    for mask, off in zip(masks, moved, strict=True):
        if not off:
            require_same_grid(mask, image)
    if len(masks) == 1 and not any(moved):
        _copy(paths[0], target)
    else:
        write_volume(target, image.with_data(combine.reduce([mask.data for mask in masks])))
    return any(moved)


def _half_a_voxel_off(mask: Volume, flair: Volume) -> bool:
    """Whether all voxels lie half a voxel off along every axis: centre or corner as the origin (decision 063)."""
    shifts_mm = corners_mm(mask.grid) - corners_mm(flair.grid)
    shifts: Array = shifts_mm @ np.linalg.inv(flair.affine[:3, :3]).T
    constant = np.ptp(shifts, axis=0).max() <= ROUNDING_VOXELS
    return bool(mask.data.shape == flair.data.shape and constant and abs(abs(shifts) - 0.5).max() <= ROUNDING_VOXELS)


def _copy_image(source: Path, target: Path) -> None:
    read_image(source)
    _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    """Copy the bytes; a NIfTI that is not compressed, whatever its name says, is where the target is."""
    with source.open("rb") as reading, atomic(target) as temporary, temporary.open("wb") as writing:
        is_packed = reading.read(2) == b"\x1f\x8b"
        reading.seek(0)
        if target.suffix == ".gz" and not is_packed:
            with gzip.GzipFile(filename="", mode="wb", fileobj=writing, mtime=0) as packed:
                shutil.copyfileobj(reading, packed)
        else:
            shutil.copyfileobj(reading, writing)


def _sources(patient: FoundPatient) -> list[Path]:
    scans = [path for visit in patient.visits for path in (*visit.images.values(), *visit.masks.values())]
    return [*scans, *patient.others.values()]


def _identity(path: Path) -> dict[str, Any]:
    try:
        return {"bytes": path.stat().st_size, "sha256": sha256(path)}
    except OSError as error:
        raise ImageError(f"{path} cannot be opened ({error.strerror}): see to its permissions and its disk.") from error


def _visits_table(patient: FoundPatient) -> str:
    if not any(visit.acquired for visit in patient.visits):
        return "session_id\n" + "".join(f"ses-{visit.label}\n" for visit in patient.visits)
    rows = [(visit.label, visit.acquired.isoformat() if visit.acquired else "n/a") for visit in patient.visits]
    return "session_id\tacq_time\n" + "".join(f"ses-{label}\t{time}\n" for label, time in rows)


def _describe(found: Found, out: Path, made_by: Mapping[str, str]) -> None:
    title = f"{found.dataset.title}, {found.layout.name}"
    about = {
        "BIDSVersion": "1.10.0",
        "License": found.dataset.licence,
        "HowToAcknowledge": found.dataset.cite,
        "SourceDatasets": [{"URL": found.dataset.source}],
        "GeneratedBy": [made_by],
    }
    for folder in NAMES:
        if (out / "derivatives" / folder).is_dir():
            named = {"Name": f"{NAMES[folder]} of the {title}", "DatasetType": "derivative"}
            write_json(out / "derivatives" / folder / DESCRIPTION, named | about)
    rows = [f"sub-{patient.label}\t{len(patient.visits)}" for patient in found.patients]
    write_text(out / ".bidsignore", "protocol/\n")
    write_text(out / "participants.tsv", "\n".join(["participant_id\tvisits", *rows]) + "\n")
    write_json(out / DESCRIPTION, {"Name": title, "DatasetType": "raw", **about})


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _delete(out: Path, names: Iterable[str]) -> None:
    """Delete files of the dataset and the folders that this empties."""
    for name in names:
        try:
            (out / name).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"Cannot delete {out / name}: {error.strerror}. See to its permissions.") from error
        with suppress(OSError):  # not empty, or not there
            for folder in Path(name).parents[:-1]:
                (out / folder).rmdir()
