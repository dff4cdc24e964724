"""A BIDS dataset as a `Cohort`: which image of which session is used, and in which order the visits come.

The rules, in full:

- Images are `sub-X[/ses-Y]/anat/sub-X[_ses-Y][_entities]_{T1w,FLAIR}.nii[.gz]`; a filter file narrows them. A file
  whose name says another `sub-` or `ses-` than its folder makes the visit unusable. Names that are nearly such
  (`_flair`, `acq-0.7mm`, `.mgz`) are not read: they are named where the image is missing, else in `Visit.doubts`.
- A folder that is meant as `sub-X` or `ses-Y` and called otherwise makes the patient unusable.
- Several of one contrast: those without a contrast agent (`ce-`) come first; of several runs the last one counts, since
  a scanner repeats a scan that was spoiled; any other ambiguity makes the visit unusable and says so.
- Visits are ordered by `acq_time` (`sub-X_sessions.tsv`, else `_scans.tsv`) where every usable visit has a day of its
  own, else by session label in natural order (2 before 10). Dates that contradict the labels then make the patient
  unusable, and days that repeat count for nothing. `Patient.order` says which, and `Patient.cautions` where labels
  decide that are no numbers, or although there is a table, which `bids_tables` could not use.
- A brain mask is `..._desc-brain_mask.nii.gz` beside the images, or at the same place in a folder given for masks.
- A reference is `derivatives/reference/.../sub-X[_ses-Y]_space-orig_label-L_mask.nii.gz`.
- Whatever cannot be used is named in `Patient.problems` and `Cohort.problems`, and a warning names the participants
  of `participants.tsv` that have no folder; nothing disappears silently.
"""

import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from lesiondelta.cohort import CONTRASTS, Cohort, Patient, Visit
from lesiondelta.errors import CohortError
from lesiondelta.files import no_entry
from lesiondelta.inputs.acquisition import contradiction, of_sidecar
from lesiondelta.inputs.bids_names import (
    BidsFile,
    Filters,
    bids_files,
    fits_filter,
    labels_in,
    misnamed,
    natural,
    near_names,
    parse_name,
)
from lesiondelta.inputs.bids_tables import find_table, order_cautions, read_table, time_order, visit_date
from lesiondelta.inputs.sidecars import SidecarsOf, said_of, sidecars_in

log = logging.getLogger(__name__)

DESCRIPTION = "dataset_description.json"
CONVERSION = ".convert"
"""Folder that `lesiondelta convert` makes first, as it writes the description last."""
LABEL = re.compile(r"[a-zA-Z0-9+]+")
LONGEST_LABEL = 50
"""Characters; three labels are in the longest name of an output, and a name holds 255 bytes."""

NO_AGENT = {"none", "no", "n/a", "na"}


def read_cohort(
    folder: Path,
    participants: Sequence[str] | None = None,
    sessions: Sequence[str] | None = None,
    filters: Filters | None = None,
    brain_masks: Path | None = None,
    validate: bool = True,
) -> Cohort:
    """Read the patients of a BIDS dataset.

    Parameters
    ----------
    folder : Path
        The dataset.
    participants, sessions : sequence of str, optional
        Labels to read, with or without `sub-` and `ses-`; None for all.
    filters : mapping of contrast to entities, optional
        See `read_filters`.
    brain_masks : Path, optional
        A folder laid out like the dataset that holds the brain masks; None: beside the images.
    validate : bool
        Whether a `dataset_description.json` is required.

    Raises
    ------
    CohortError
        There is no such dataset, participant or session, or no brain mask in the folder given for them.
    """
    present = _labels(folder, validate)
    if participants is None:
        _warn_of_absent(folder, present)
    selected = [label for label in present if _wanted(label, participants, "sub")]
    problems = {label: why for label, why in _misnamed_patients(folder, present) if _wanted(label, participants, "sub")}
    _require_found(folder, "participant", [*selected, *problems], participants)
    if brain_masks and not brain_masks.is_dir():
        raise CohortError(f"{brain_masks} is not a folder: check --brain-mask-dir.")
    patients = []
    sidecars = lru_cache(maxsize=16)(sidecars_in)  # the folders above a visit's images
    for label in selected:
        if unfit := _unfit(f"sub-{label}"):
            problems[label] = f"{folder / f'sub-{label}'}: {unfit}"
            continue
        try:
            patient = _read_patient(folder, label, sessions, filters or {}, brain_masks)
        except (OSError, CohortError) as error:  # it cannot be entered, or not to its end
            problems[label] = _message(error, folder / f"sub-{label}")
            continue
        if patient.visits or patient.problems:
            patients.append(_with_doubts(patient, folder, sidecars))
        elif sessions is None:
            problems[label] = f"{folder / f'sub-{label}'} holds no session and no image: add {_and(CONTRASTS)}."
    visits = [visit for patient in patients for visit in patient.visits]
    known = {visit.label for visit in visits}.union(*(patient.problems for patient in patients))
    _require_found(folder, "session", known, sessions)
    if brain_masks and visits and not any(visit.brain_mask for visit in visits):
        raise CohortError(f"{brain_masks} holds no sub-*/ses-*/anat/*_desc-brain_mask.nii.gz: check --brain-mask-dir.")
    return Cohort(tuple(patients), problems)


def _labels(folder: Path, validate: bool) -> list[str]:
    if not folder.is_dir():
        raise CohortError(f"{folder} is not a folder: give the root of a BIDS dataset.")
    found = labels_in(folder, "sub")
    if not found:
        near = " ".join(why for _, why in _misnamed_patients(folder, ()))
        raise CohortError(
            f"{folder} is not a BIDS dataset: it holds no sub-* folder. "
            f"{near or 'Give its root, or use `lesiondelta segment`.'}"
        )
    if not (folder / DESCRIPTION).is_file() and (folder / CONVERSION).is_dir():
        raise CohortError(f"{folder} was not converted to its end: run the same `lesiondelta convert` again.")
    if validate and not (folder / DESCRIPTION).is_file():
        raise CohortError(f"{folder} has no {DESCRIPTION}: add it, or pass --skip-bids-validation.")
    return sorted(found, key=natural)


def _misnamed_patients(folder: Path, present: Collection[str]) -> Iterator[tuple[str, str]]:
    """Folders of patients with other names, by the label meant, or by their names where that is taken."""
    taken = set(present)
    for path, meant in misnamed(folder, "sub").items():
        label = path.name if meant in taken or not meant else meant
        taken.add(label)
        yield label, _rename(path, "sub", meant)


def _rename(path: Path, entity: str, label: str) -> str:
    return f"{path} is not a BIDS name: rename it, and its files, to {entity}-{label or 'LABEL'}, or move it elsewhere."


def _unfit(name: str) -> str:
    """Why `sub-X` or `ses-Y` cannot be in names of files, or nothing."""
    label = name.split("-", 1)[1]
    if not LABEL.fullmatch(label):
        return f"{label!r} is not a BIDS label: rename it, and its files, with only the letters a to z and digits."
    if len(label) > LONGEST_LABEL:
        return (
            f"a label of {len(label)} characters is too long: rename it, and its files, with {LONGEST_LABEL} at most."
        )
    return ""


def _warn_of_absent(folder: Path, present: Sequence[str]) -> None:
    path, _ = find_table(folder, "participants.tsv")
    if path is None:
        return
    try:
        listed = read_table(path).column("participant_id")
    except CohortError as error:  # nothing else needs this table
        log.warning("%s", error)
        return
    if listed is None:
        log.warning("%s has no column participant_id, separated by tabs: who is missing is not known", path)
    absent = [name for name in listed or () if name.removeprefix("sub-") not in ("", *present)]
    if absent:
        log.warning("%s lists participants without a folder: %s", path, ", ".join(absent))


def _wanted(label: str, asked: Sequence[str] | None, entity: str) -> bool:
    return asked is None or label in {name.removeprefix(f"{entity}-") for name in asked}


def _require_found(folder: Path, what: str, found: Collection[str], asked: Sequence[str] | None) -> None:
    prefix = {"participant": "sub-", "session": "ses-"}[what]
    absent = [name for name in asked or () if name.removeprefix(prefix) not in found]
    if absent:
        raise CohortError(f"{folder} has no {what} {', '.join(absent)}: check --{what}-label.")


def _read_patient(
    folder: Path,
    label: str,
    sessions: Sequence[str] | None,
    filters: Filters,
    brain_masks: Path | None,
) -> Patient:
    root = folder / f"sub-{label}"
    visits, problems, notes, doubts = [], {}, [], []
    for session in _sessions(root, sessions):
        try:
            visit, remarks = _read_visit(root, session, filters, brain_masks)
            acquired, said = visit_date(root, session, visit.images.values())
            visits.append(replace(visit, acquired=acquired))
            notes += remarks
            doubts += said
        except (OSError, CohortError) as error:
            problems[session] = _message(error, root)
    patient = Patient(label, tuple(visits), problems=problems, notes=tuple(notes))
    try:
        return _in_time_order(patient, root, doubts)
    except CohortError as error:
        return replace(patient, visits=(), problems={**{visit.label: str(error) for visit in visits}, **problems})


def _message(error: OSError | CohortError, place: Path) -> str:
    return str(no_entry(error, place) if isinstance(error, OSError) else error)


def _read_visit(root: Path, session: str, filters: Filters, brain_masks: Path | None) -> tuple[Visit, list[str]]:
    """A visit of the patient in the folder `root`, and notes on what was chosen."""
    folder, place = root.parent, Path(root.name, f"ses-{session}" if session else "", "anat")
    if session and (unfit := _unfit(f"ses-{session}")):
        raise CohortError(f"{folder / place.parent}: {unfit}")
    images, notes = _images(folder / place, filters)
    brain_mask = _brain_mask((brain_masks or folder) / place)
    reference = _reference(folder / "derivatives" / "reference" / place)
    if brain_mask or brain_masks:
        notes.append(f"{place.parent}: brain mask {brain_mask or f'absent from {brain_masks}'}")
    return Visit(session, images, brain_mask=brain_mask, reference=reference), notes


def _with_doubts(patient: Patient, dataset: Path, sidecars: SidecarsOf) -> Patient:
    """The patient with what names and sidecars make doubtful about the images of each visit."""
    visits = [replace(visit, doubts=tuple(_doubts(visit.images, dataset, sidecars))) for visit in patient.visits]
    return replace(patient, visits=tuple(visits))


def _doubts(images: Mapping[str, Path], dataset: Path, sidecars: SidecarsOf) -> Iterator[str]:
    """Which images were acquired with a contrast agent, as no model here has seen one, or as another contrast is.

    And which files beside them may be the image that was meant.
    """
    for contrast, path in images.items():
        fields, file = said_of(path, dataset, sidecars), parse_name(path)
        agent = fields.get("ContrastBolusIngredient") or (file.entities.get("ce") if file else None)
        if agent and str(agent).lower() not in NO_AGENT:
            yield f"the {contrast} was acquired with a contrast agent ({agent})"
        yield from contradiction(contrast, path.name, "sidecar", of_sidecar(fields))
        for other in near_names(path.parent, contrast):
            yield f"{other.name} was not considered as the {contrast}, since that is not the name of a BIDS image"


def _sessions(root: Path, asked: Sequence[str] | None) -> list[str]:
    """Session labels; "" stands for images that lie in no session.

    CohortError for a session whose folder is named otherwise: the visits around it would be compared without it.
    """
    for path, label in misnamed(root, "ses").items():
        if _wanted(label, asked, "ses"):
            raise CohortError(_rename(path, "ses", label))
    labels = [label for label in sorted(labels_in(root, "ses"), key=natural) if _wanted(label, asked, "ses")]
    if (root / "anat").is_dir() and asked is None:
        labels.insert(0, "")
    return labels


def _images(anat: Path, filters: Filters) -> tuple[dict[str, Path], list[str]]:
    files, images, notes = _own_files(anat), {}, []
    missing = [contrast for contrast in CONTRASTS if not _candidates(files, contrast, filters)]
    filtered = [contrast for contrast in missing if _candidates(files, contrast, {})]
    if filtered and filtered == missing:
        names = ", ".join(f.path.name for contrast in filtered for f in _candidates(files, contrast, {}))
        raise CohortError(f"{anat}: none of {names} fits the filter for {_and(filtered)}: correct --bids-filter-file.")
    if missing:
        near = ", ".join(path.name for contrast in missing for path in near_names(anat, contrast))
        remedy = f"{near} may be meant, and is not the name of a BIDS image: rename or convert it" if near else "add it"
        raise CohortError(
            f"{anat} has no {_and(missing)} image: {remedy} or leave the visit out."
            if anat.is_dir()
            else f"{anat.parent} has no images: {anat} does not exist."
        )
    for contrast in CONTRASTS:
        images[contrast], note = _choose(_candidates(files, contrast, filters), contrast)
        notes += note
    return images, notes


def _own_files(anat: Path) -> list[BidsFile]:
    """The images of sub-X[/ses-Y]/anat; CohortError for one whose name says another patient or session."""
    home = anat.parent
    folders = (home.parent.name, home.name) if home.name.startswith("ses-") else (home.name, "")
    sub, ses = (name.partition("-")[2] for name in folders)
    files = bids_files(anat)
    for file in files:
        if file.entities.get("sub", sub) != sub or file.entities.get("ses", ses) != ses:
            raise CohortError(
                f"{file.path} is in the folder of {'/'.join(filter(None, folders))}, and its name says something else: "
                "move it to where it belongs, or rename it."
            )
    return files


def _candidates(files: Sequence[BidsFile], contrast: str, filters: Filters) -> list[BidsFile]:
    return [f for f in files if f.suffix == contrast and fits_filter(f, filters.get(contrast, {}))]


def _choose(candidates: Sequence[BidsFile], contrast: str) -> tuple[Path, list[str]]:
    plain = [file for file in candidates if "ce" not in file.entities] or list(candidates)
    others = [{name: value for name, value in file.entities.items() if name != "run"} for file in plain]
    runs = [int(file.entities.get("run", "0")) for file in plain]
    names = ", ".join(file.path.name for file in plain)
    if len({tuple(sorted(file.entities.items())) for file in plain}) < len(plain):
        raise CohortError(f"{plain[0].path.parent} has one {contrast} image twice ({names}): remove all but one.")
    if any(other != others[0] for other in others) or len(set(runs)) < len(runs):
        raise CohortError(
            f"{plain[0].path.parent} has {len(plain)} {contrast} images ({names}): choose one with --bids-filter-file."
        )
    chosen = max(plain, key=lambda file: int(file.entities.get("run", "0"))).path
    note = f"{chosen.name} chosen out of {len(candidates)} {contrast} images (no contrast agent, last run)"
    return chosen, [note] if len(candidates) > 1 else []


def _brain_mask(anat: Path) -> Path | None:
    masks = [f.path for f in _own_files(anat) if f.suffix == "mask" and f.entities.get("desc") == "brain"]
    if len(masks) > 1:
        names = ", ".join(path.name for path in masks)
        raise CohortError(f"{anat} has {len(masks)} brain masks ({names}): keep the one on the grid of the FLAIR.")
    return masks[0] if masks else None


def _reference(anat: Path) -> Path | None:
    wanted = {"space": "orig", "label": "L"}
    found = [
        f.path
        for f in _own_files(anat)
        if f.suffix == "mask" and {k: v for k, v in f.entities.items() if k not in ("sub", "ses")} == wanted
    ]
    return found[0] if found else None


def _in_time_order(patient: Patient, root: Path, doubts: Sequence[str]) -> Patient:
    """The patient with its visits in the order of time, without dates of days that repeat; see `time_order`.

    `doubts` about the tables are cautions where labels decide the order for want of them, else notes.
    """
    visits = {visit.label: visit for visit in patient.visits}
    dates = {label: visit.acquired for label, visit in visits.items()}
    labels, order = time_order(dates, root)
    ordered = [visits[label] for label in labels]
    days = [time.date() for time in dates.values() if time]
    if len(set(days)) < len(days):
        ordered = [replace(visit, acquired=None) for visit in ordered]
    cautions = order_cautions(labels, order, root, doubts)
    notes = patient.notes if cautions else (*patient.notes, *dict.fromkeys(doubts))
    return replace(patient, visits=tuple(ordered), order=order, notes=notes, cautions=cautions)


def _and(words: Sequence[str]) -> str:
    return " and ".join(words)
