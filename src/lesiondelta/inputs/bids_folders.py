"""Folders of a BIDS dataset: those of patients and sessions, and those that are meant as such and called otherwise.

A folder of another name is meant as one if its name says so (`Sub-02`, `ses_3`), or if images of T1w or FLAIR lie in
it as they would in a patient or session (`02/anat`, `month6/anat`, `P05/P05_T1w.nii.gz`).
"""

import re
from collections.abc import Collection, Iterator
from itertools import pairwise
from pathlib import Path

from lesiondelta.cohort import CONTRASTS
from lesiondelta.files import entries, no_entry
from lesiondelta.inputs.bids_names import NIFTI, NO_IMAGE, SPELLINGS, looks_like, natural, parse_name

DESCRIPTION = "dataset_description.json"
MEANT = {
    "sub": re.compile(r"(?:sub|subj|subject)(?:-(.*)|[_ .]*(\d.*))", re.IGNORECASE),
    "ses": re.compile(r"(?:ses|sess|session)(?:-(.*)|[_ .]*(\d.*))", re.IGNORECASE),
}
"""Names of folders that are meant as those of a patient or a session, with the label."""
PACKED = {
    entity: re.compile(rf"(?:.*_)?{entity}-([a-zA-Z0-9+]+)\.(?:zip|7z|rar|t[gbx]z2?|tar(?:\.\w+)?)", re.IGNORECASE)
    for entity in MEANT
}
"""Names of archives that hold a patient or a session, with the label."""
DEPTH = {"sub": 2, "ses": 1}
"""How many folders lie between a patient's or session's and its images, at most."""
DATATYPES = {
    "func", "dwi", "fmap", "perf", "eeg", "meg", "ieeg", "pet", "beh", "nirs", "motion", "mrs", "micr",
}  # fmt: skip
"""Folders of BIDS beside `anat`."""
OTHERS = re.compile(
    r"\..*|tpl-.*|derivatives|sourcedata|rawdata|code|docs|logs?|stimuli|phenotype|anat|" + "|".join(DATATYPES),
    re.IGNORECASE,
)
"""Folders that are no patients and no sessions, whatever they hold."""


def packed(folder: Path, entity: str) -> dict[str, str]:
    """Archives of patients or sessions that have no folder: their labels, and what to say of each."""
    archives = {path: PACKED[entity].fullmatch(path.name) for path in entries(folder)}
    labels = {path: match[1] for path, match in archives.items() if match}
    absent = {*labels.values()}.difference(labels_in(folder, entity))
    return {
        label: f"{path} is not read: unpack it, or move it elsewhere"
        for path, label in labels.items()
        if label in absent
    }


def labels_in(folder: Path, entity: str) -> list[str]:
    """Labels of `sub-X` or `ses-Y`; dead links and files without ending are among them, so that they are missed."""
    named = [path for path in entries(folder) if _is_named(path, entity)]
    return [path.name.partition("-")[2] for path in named if "." not in path.name or _is_folder(path)]


def misnamed(folder: Path, entity: str) -> dict[Path, str]:
    """Folders of patients or sessions that are not called `sub-X` or `ses-Y`, with the labels they probably mean."""
    meant = {path: MEANT[entity].fullmatch(path.name) for path in _others(folder, entity)}
    return {
        path: re.sub("[^a-zA-Z0-9]", "", (match[1] or match[2] or "") if match else path.name)
        for path, match in meant.items()
        if match or _holds_image(path, DEPTH[entity])
    }


def misnamed_patients(dataset: Path, present: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """What is meant as a patient and is none: its label, its name where that label is taken, and what to do."""
    taken = set(present)
    for path, meant in misnamed(dataset, "sub").items():
        label = path.name if meant in taken or not meant else meant
        yield label, meant, rename(path, "sub", meant, meant in taken)
        taken.add(label)
    for path in _others(dataset, "sub"):
        for inner in _subfolders(path):
            label = inner.name.partition("-")[2]
            if _is_named(inner, "sub") and label not in taken and _holds_image(inner, DEPTH["sub"]):
                yield label, label, f"{inner} does not lie in {dataset}: move it there, or elsewhere."


def rename(path: Path, entity: str, label: str, taken: bool = False) -> str:
    """What to do about a folder of another name."""
    name = f"{entity}-{label or 'LABEL'}"
    if taken:
        return f"{path} is not a BIDS name, and {name} is there: move its files there, or move it elsewhere."
    return f"{path} is not a BIDS name: rename it, and its files, to {name}, or move it elsewhere."


def doubts_of_patients(dataset: Path, present: Collection[str]) -> Iterator[tuple[str, str]]:
    """Patients whose images may lie elsewhere too, and where: in a folder called similarly, or loose in the dataset."""
    for one, other in pairwise(sorted(present, key=lambda label: natural(label.lower()))):
        if natural(one.lower()) == natural(other.lower()):
            for label, twin in ((one, other), (other, one)):
                yield label, f"sub-{twin} is called nearly the same: rename one, or unite them if they are one patient"
    for _, meant, said in misnamed_patients(dataset, present):
        if meant in present:
            yield meant, said.rstrip(".")
    for path in entries(dataset):
        file = parse_name(path)
        if file and file.suffix in CONTRASTS:
            yield file.entities["sub"], f"{path} is not read: move it to the folder anat of its visit"


def nested(patient: Path) -> list[Path]:
    """Patients and sessions with images that lie in a patient, or in one of its sessions, where nobody looks."""
    inner = [path for path in _subfolders(patient) if _is_named(path, "sub")]
    for session in (path for path in _subfolders(patient) if _is_named(path, "ses")):
        inner += [path for path in _subfolders(session) if _is_named(path, "sub") or _is_named(path, "ses")]
    return [path for path in inner if _holds_image(path, DEPTH["sub"])]


def datatypes(folder: Path) -> list[str]:
    """What a session holds instead of anatomical images; nothing where it has some, or a folder meant for them."""
    names = [path.name for path in entries(folder)] if folder.is_dir() else []
    anatomical = any(name.lower() == "anat" for name in names) or images_beside(folder / "anat", *CONTRASTS)
    return [] if anatomical else [name for name in names if name in DATATYPES]


def images_beside(anat: Path, *contrasts: str) -> list[Path]:
    """Images of a session that lie outside of `anat`: in the folder above, or in one that is spelled `Anat`."""
    places = [anat.parent, *(path for path in _subfolders(anat.parent) if path.name.lower() == "anat" != path.name)]
    return [path for place in places for contrast in contrasts for path in looks_like(place, contrast)]


def dataset_nearby(folder: Path) -> str:
    """What to give instead of a folder without patients, if that can be told."""
    if _is_named(folder.absolute(), "sub") or any(_is_named(path, "ses") for path in _subfolders(folder)):
        return f"It may be a patient of one: give the folder above, {folder.absolute().parent}."
    below = [path.name for path in _subfolders(folder) if any(_is_named(inner, "sub") for inner in _subfolders(path))]
    return f"{' and '.join(below)} in it may be: give that." if below else ""


def _is_named(folder: Path, entity: str) -> bool:
    return folder.name.startswith(f"{entity}-") and folder.name != f"{entity}-"


def _others(folder: Path, entity: str) -> list[Path]:
    """Folders that are not called as those of patients or sessions, and are no datasets of their own."""
    found = [
        path
        for path in entries(folder)
        if _is_folder(path) and not any(_is_named(path, one) for one in (entity, "sub"))
    ]
    return [path for path in found if not OTHERS.fullmatch(path.name) and not (path / DESCRIPTION).exists()]


def _is_folder(path: Path) -> bool:
    """Or a link that leads nowhere."""
    try:
        return path.is_dir() or not path.exists()
    except OSError as error:  # the names around it can be read, and nothing else
        raise no_entry(error, path.parent) from error


def _subfolders(folder: Path) -> list[Path]:
    """None where it cannot be entered."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _holds_image(folder: Path, depth: int) -> bool:
    """Whether a T1w or FLAIR lies in a folder, or so far below, in folders that may be a patient's."""
    try:
        paths = list(folder.iterdir())
    except OSError:
        return False
    loosely = folder.name.lower() == "anat" or any(letter.isdecimal() for letter in folder.name)
    if any(_is_image(path, loosely) for path in paths):
        return True
    inner = [path for path in _subfolders(folder) if not _is_named(path, "sub")] if depth else []
    return any(
        _holds_image(path, depth - 1)
        for path in inner
        if path.name.lower() == "anat" or not OTHERS.fullmatch(path.name)
    )


def _is_image(path: Path, loosely: bool) -> bool:
    """By its BIDS name, or by any name where the folder's has a number, or is `anat`."""
    if not NIFTI.search(path.name) or path.name.startswith("."):
        return False
    if loosely and not NO_IMAGE.search(path.name):
        return any(spelling.search(path.name) for spelling in SPELLINGS.values())
    file = parse_name(path)
    return file is not None and file.suffix in CONTRASTS and not {"space", "desc"} & file.entities.keys()
