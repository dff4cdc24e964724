"""The patients of a dataset in its owners' layout, as far as the names of its files tell."""

import filecmp
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from lesiondelta.cohort import CONTRASTS, Patient, Visit
from lesiondelta.datasets.layouts import BIDS, COMMON_SPACE, IMAGES, Dataset, Layout
from lesiondelta.errors import CohortError
from lesiondelta.files import entries, files_below
from lesiondelta.inputs.bids import read_cohort
from lesiondelta.inputs.bids_names import IMAGE, BidsFile, bids_files, natural

ONLY_VISIT = "1"
BESIDE_REFERENCES = re.compile(r"study\d+_\w+_to_\w+\.txt|sub-\w+_space-common_label-(brain|change)_mask(?i:\.nii\.gz)")
"""Files of a BIDS patient in derivatives/reference or derivatives/change that are kept as they are."""


@dataclass(frozen=True)
class FoundVisit:
    """Images by BIDS name; masks by the owners' name, sorted, on the grid of the image named `flair`."""

    label: str
    images: Mapping[str, Path]
    masks: Mapping[str, Path]
    flair: str = "FLAIR"
    acquired: datetime | None = None


@dataclass(frozen=True)
class FoundPatient:
    """Visits in order, and further files by the name they get; `test` if the owners keep the patient for that."""

    label: str
    visits: tuple[FoundVisit, ...]
    others: Mapping[str, Path]
    test: bool = False


@dataclass(frozen=True)
class Found:
    """A dataset on disk, complete as far as file names tell; `cautions` say what is left out, or doubtful."""

    dataset: Dataset
    layout: Layout
    root: Path
    patients: tuple[FoundPatient, ...]
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True)
class _File:
    path: Path
    is_: Mapping[str, str | None]


def find(dataset: Dataset, root: Path) -> Found:
    """Find the patients of a dataset.

    Raises
    ------
    CohortError
        The folder is laid out in none of the known ways or in several, a visit lacks an image or a mask, or a file
        has a double or, in a BIDS dataset, is where it would be overlooked. In other layouts cautions name such files.
    """
    layout, files = _recognise(dataset, root)
    if layout is BIDS:
        patients, cautions = _bids_patients(root)
    else:
        patients, cautions = _patients(files), _left_out(root, layout, {file.path for file in files})
    masks = layout.masks or sorted({name for p in patients for visit in p.visits for name in visit.masks})
    for patient in patients:
        for visit in patient.visits:
            absent = [name for name in CONTRASTS if layout is not BIDS and name not in visit.images]
            absent += [name for name in masks if name not in visit.masks]
            if absent:
                raise CohortError(
                    f"Visit {visit.label} of patient {patient.label} in {root} has no {' and no '.join(absent)} "
                    f"(files are named as {layout.example}): complete it or take the visit away."
                )
    return Found(dataset, layout, root, patients, cautions)


def _recognise(dataset: Dataset, root: Path) -> tuple[Layout, list[_File]]:
    if not root.is_dir():
        raise CohortError(f"{root} is not a folder: give that of the {dataset.title} as its owners distribute it.")
    paths = _named_from_root(root)
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


def _named_from_root(root: Path) -> dict[Path, str]:
    """All files below a folder, with their paths from its own name on, as layouts have them."""
    name = root.resolve().name
    return {path: f"{name}/{path.relative_to(root).as_posix()}" for path in files_below(root)}


def _left_out(root: Path, layout: Layout, used: Collection[Path]) -> tuple[str, ...]:
    """A caution that names the images which fit no pattern of the layout, if there are any."""
    images = {path: said for path, said in _named_from_root(root).items() if IMAGE.search(path.name)}
    left = [str(path) for path, said in images.items() if path not in used and not layout.beside.fullmatch(said)]
    if not left:
        return ()
    named = f"{', '.join(left[:5])}{', ...' if len(left) > 5 else ''}"
    return (f"not converted, as they are not named as {layout.example} ({len(left)}): {named}",)


def _patients(files: Sequence[_File]) -> tuple[FoundPatient, ...]:
    labels = {file.is_["patient"] or "" for file in files if file.is_.get("image") or file.is_.get("mask")}
    return tuple(
        _patient(label, [file for file in files if file.is_["patient"] == label])
        for label in sorted(labels, key=natural)
    )


def _patient(label: str, files: Sequence[_File]) -> FoundPatient:
    scans = [file for file in files if file.is_.get("image") or file.is_.get("mask")]
    visits = {file.is_.get("visit") or ONLY_VISIT for file in scans}
    tests = {bool(file.is_.get("test")): file.path for file in scans}
    if len(tests) > 1:
        raise CohortError(
            f"Patient {label} is for training ({tests[False]}) and for testing ({tests[True]}): keep one."
        )
    others = [(COMMON_SPACE.get((file.is_["other"] or "").lower()), file) for file in files if file.is_.get("other")]
    return FoundPatient(
        label,
        tuple(
            _visit(visit, [file for file in scans if (file.is_.get("visit") or ONLY_VISIT) == visit])
            for visit in sorted(visits, key=natural)
        ),
        _by_name((f"sub-{label}_{name}" if name else str(file.is_["other"]), file.path) for name, file in others),
        True in tests,
    )


def _by_name(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for name, path in files:
        if name in named and not filecmp.cmp(named[name], path, shallow=False):
            raise CohortError(f"{named[name]} and {path} would both become {name}, and differ: keep one of them.")
        named[name] = path
    return named


def _visit(label: str, files: Iterable[_File]) -> FoundVisit:
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for file in files:
        image, mask = file.is_.get("image"), file.is_.get("mask")
        kind, name = (images, IMAGES[image.lower()]) if image else (masks, (mask or "").lower())
        if name in kind:
            raise CohortError(f"{kind[name]} and {file.path} are the same {name}: keep one of them.")
        kind[name] = file.path
    return FoundVisit(label, images, dict(sorted(masks.items())))


def _bids_patients(root: Path) -> tuple[tuple[FoundPatient, ...], tuple[str, ...]]:
    """As every other command reads the folder, with its cautions; what it would overlook is refused."""
    cohort = read_cohort(root, validate=False)
    absent = [why for p in cohort.patients for visit in p.visits for why in visit.absent.values()]
    of_visits = [said for p in cohort.patients for said in p.problems.values()]
    problems = [*cohort.problems.values(), *of_visits, *absent]
    if problems:
        raise CohortError(problems[0])
    patients = tuple(_bids_patient(root, patient) for patient in cohort.patients)
    taken = {path for patient in patients for visit in patient.visits for path in visit.masks.values()}
    taken |= {path for patient in patients for path in patient.others.values()}
    taken |= {visit.brain_mask for patient in cohort.patients for visit in patient.visits if visit.brain_mask}
    if overlooked := sorted(set(_masks(root)) - taken):
        raise CohortError(
            f"{overlooked[0]} is where nobody looks: lesion masks on the grid of the FLAIR are "
            "derivatives/reference/sub-X/ses-Y/anat/sub-X_ses-Y_space-orig_label-L_mask.nii.gz. Rename it or "
            "take it away."
        )
    cautions = (
        f"sub-{patient.label}: {said}"
        for patient in cohort.patients
        for said in (*patient.cautions, *(doubt for visit in patient.visits for doubt in visit.doubts))
    )
    return patients, tuple(cautions)


def _patients_in(folder: Path) -> list[Path]:
    """The folders `sub-X` in a folder, which need not be there."""
    found = entries(folder) if folder.is_dir() else []
    return [path for path in found if path.name.startswith("sub-") and path.is_dir()]


def _masks(root: Path) -> list[Path]:
    """Everything in a BIDS dataset that could be a mask of lesions."""
    reference = root / "derivatives" / "reference"
    named = [path for patient in _patients_in(root) for path in files_below(patient, "*_mask.nii*")]
    known = [path for patient in _patients_in(reference) for path in files_below(patient, "*.nii*")]
    return [*(path for path in named if path.parent.name == "anat"), *known]


def _bids_patient(root: Path, patient: Patient) -> FoundPatient:
    if len(patient.visits) > 1 and not all(visit.label for visit in patient.visits):
        raise CohortError(f"sub-{patient.label} in {root} has images inside and outside of sessions: give all a ses-*.")
    folders = [root / "derivatives" / name / f"sub-{patient.label}" for name in ("reference", "change")]
    beside = [path for folder in folders for path in sorted(folder.glob("*")) if BESIDE_REFERENCES.fullmatch(path.name)]
    return FoundPatient(
        patient.label, tuple(map(_bids_visit, patient.visits)), _by_name((path.name, path) for path in beside)
    )


def _bids_visit(visit: Visit) -> FoundVisit:
    """Images keep their entities, so that among several the same one is chosen."""
    files = [file for file in bids_files(visit.images["FLAIR"].parent) if file.suffix in IMAGES.values()]
    names = {file.path: _name(file) for file in files}
    if visit.brain_mask:
        names[visit.brain_mask] = "desc-brain_mask"
    masks = {"reference": visit.reference} if visit.reference else {}
    images = _by_name((name, path) for path, name in names.items())
    return FoundVisit(visit.label or ONLY_VISIT, images, masks, names[visit.images["FLAIR"]], visit.acquired)


def _name(file: BidsFile) -> str:
    return "_".join([*(f"{k}-{v}" for k, v in file.entities.items() if k not in ("sub", "ses")), file.suffix])
