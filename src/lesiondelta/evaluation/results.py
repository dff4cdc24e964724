"""What `run` wrote beside a predicted mask: the way to the patient's space, numbered lesions, and called changes."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lesiondelta.cohort import Change
from lesiondelta.errors import GeometryError, OutputError
from lesiondelta.evaluation.changes import CHANGED, ChangedLesion, lesion_points, size_mm3
from lesiondelta.evaluation.instances import at_least
from lesiondelta.images import Affine, Array, Grid, Volume, read_itk_transform, read_labels, require_same_grid
from lesiondelta.inputs.bids_names import parse_name
from lesiondelta.outputs.derivatives import AUTOMATIC, MASK, PATIENT_AUTOMATIC, PATIENT_MASK, PatientFiles, Place
from lesiondelta.outputs.lesions import LESION_MAP, change_map_name
from lesiondelta.outputs.tables import NOT_AVAILABLE
from lesiondelta.preprocessing.points import apply

OWN_GRID, MASKS = (MASK, AUTOMATIC), (MASK, AUTOMATIC, PATIENT_MASK, PATIENT_AUTOMATIC)
AGAIN = "run the patient again"
SINGULAR = 1e-3
IDS, VOLUMES = ("prior_lesion_ids", "lesion_ids"), ("prior_volume_mm3", "volume_mm3")
COLUMNS = ("prior_session_id", "session_id", "change", "confidence", *IDS, *VOLUMES, "x_mm", "y_mm", "z_mm")
"""Columns of sub-X_changes.tsv that are read here."""

Row = Mapping[str, str]


@dataclass(frozen=True)
class RunStep:
    """The files of two visits that one run has written: the visit before, and the visit."""

    places: tuple[Place, Place]
    masks: tuple[Path, Path]

    @property
    def transforms(self) -> tuple[Path, ...]:
        """What takes points of the patient's space to those of either FLAIR, if the masks are on their grids."""
        own = all(_is_one_of(OWN_GRID, *of) for of in zip(self.masks, self.places, strict=True))
        return tuple(place.transform("orig", ".txt") for place in self.places) if own else ()

    @property
    def table(self) -> Path:
        """Where the changes of all steps are."""
        return PatientFiles(self.places[1].out, self.places[1].patient).table("changes")

    @property
    def change_map(self) -> Path:
        """What is there only if the visit was compared with this one before."""
        return self.places[1].anat(f"{change_map_name(self.places[0].visit)}.nii.gz")


def run_step(before: Path, after: Path) -> RunStep | None:
    """The step between two masks; None where they are not named and placed as a run does it for one patient."""
    places = _place_of(before), _place_of(after)
    if places[0] is None or places[1] is None:
        return None
    same = (places[0].out, places[0].patient) == (places[1].out, places[1].patient)
    return RunStep((places[0], places[1]), (before, after)) if same else None


def _place_of(mask: Path) -> Place | None:
    """The visit of a run that a mask belongs to."""
    file, folders = parse_name(mask), mask.parents
    depth = 3 if file and "ses" in file.entities else 2
    if file is None or len(folders) <= depth:
        return None
    place = Place(folders[depth], file.entities["sub"], file.entities.get("ses", ""))
    return place if _is_one_of(MASKS, mask, place) else None


def _is_one_of(names: Sequence[str], mask: Path, place: Place) -> bool:
    return mask in (place.anat(f"{name}.nii.gz") for name in names)


def read_transform(path: Path) -> Affine:
    """Read a transform that a run wrote; GeometryError that names the file where it is not one."""
    try:
        transform = read_itk_transform(path)
    except (OSError, ValueError, KeyError) as error:
        raise GeometryError(f"{path} cannot be read as an affine transform of ITK: {AGAIN}.") from error
    if not np.isfinite(transform).all() or abs(np.linalg.det(transform[:3, :3])) < SINGULAR:
        raise GeometryError(f"{path} holds a transform that cannot be inverted: {AGAIN}.")
    return transform


def read_calls(step: RunStep, masks: tuple[Volume, Volume], min_lesion_mm3: float) -> list[ChangedLesion] | str:
    """The changes that a run called, without those of small lesions; or why they cannot be held against these masks.

    Raises
    ------
    OutputError, ImageError, GeometryError
        The table, a map or a transform is damaged.
    """
    maps = [place.anat(f"{LESION_MAP}.nii.gz") for place in step.places]
    for place, own in zip(step.places, step.masks, strict=True):
        if not _is_one_of([MASK], own, place):
            return f"{own} is not the mask that {step.table} is about, {place.anat(f'{MASK}.nii.gz').name}"
    for path in (step.table, step.change_map, *maps):
        if not path.is_file():
            return f"{path} is not there"
    volumes = [read_labels(path) for path in maps]
    try:
        for volume, mask in zip(volumes, masks, strict=True):
            require_same_grid(volume, mask)
    except GeometryError as error:
        return str(error).rstrip(".")
    before, after = (
        _Side(place, volume.grid, lesion_points(volume.data, volume.grid))
        for place, volume in zip(step.places, volumes, strict=True)
    )
    calls = [_called(row, (before, after)) for row in _rows(step) if Change(row["change"]) in CHANGED]
    return [one for one in calls if at_least(np.array(one.volume_mm3), min_lesion_mm3)]


@dataclass(frozen=True, eq=False)
class _Side:
    """The numbered lesions of one of the two visits: the points of each, in mm of its FLAIR's space."""

    place: Place
    grid: Grid
    points: Mapping[int, Array]


def _rows(step: RunStep) -> list[Row]:
    """The rows of a step."""
    try:
        with step.table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OutputError(f"{step.table} cannot be read ({error}): {AGAIN}.") from error
    sessions = [f"ses-{place.visit}" for place in step.places]
    own: list[Row] = []
    for number, row in enumerate(rows, start=2):
        if not _is_whole(row):
            raise OutputError(f"{step.table}, line {number}, is damaged or of an earlier version: {AGAIN}.")
        if [row["prior_session_id"], row["session_id"]] == sessions:
            own.append(row)
    return own


def _is_whole(row: Row) -> bool:
    try:
        Change(row["change"])
        numbers = [row[name] for name in (*VOLUMES, "x_mm", "y_mm", "z_mm")]
        numbers += [row["confidence"]] if row["confidence"] != NOT_AVAILABLE else []
        ids = [number for name in IDS for number in _numbers(row[name])]
        return bool(np.isfinite([float(number) for number in numbers]).all()) and min(ids, default=1) > 0
    except (KeyError, TypeError, ValueError):
        return False


def _numbers(joined: str) -> list[int]:
    return [] if joined == NOT_AVAILABLE else [int(number) for number in joined.split("+")]


def _called(row: Row, sides: tuple[_Side, _Side]) -> ChangedLesion:
    """A row with its places: the voxels of its lesions at both visits, or its centre where a map has none of them."""
    places = []
    for side, ids in zip(sides, IDS, strict=True):
        numbers = _numbers(row[ids])
        found = [side.points[number] for number in numbers if number in side.points]
        if numbers and not found:
            found = [_centre(row, side)]
        places.append(np.concatenate([np.zeros((0, 3)), *found]))
    confidence = None if row["confidence"] == NOT_AVAILABLE else float(row["confidence"])
    size = size_mm3([float(row[name]) for name in VOLUMES])
    return ChangedLesion(Change(row["change"]), size, (places[0], places[1]), confidence)


def _centre(row: Row, side: _Side) -> Array:
    """Where a lesion is whose map has no voxel of it, being too small for that grid or beyond it: (1, 3) in mm."""
    transform = read_transform(side.place.transform("orig", ".txt"))
    centre = np.array([[float(row[f"{axis}_mm"]) for axis in "xyz"]])
    voxel = np.rint(apply(np.linalg.inv(side.grid.affine) @ transform, centre))
    return apply(side.grid.affine, voxel)
