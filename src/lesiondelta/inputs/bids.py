"""A BIDS dataset as a `Cohort`: which image of which session is used, and in which order the visits come.

The rules, in full:

- Images are `sub-X[/ses-Y]/anat/sub-X[_ses-Y][_entities]_{T1w,FLAIR}.nii[.gz]`; a filter file narrows them. A file
  whose name says another `sub-` or `ses-` than its folder makes the visit unusable. Names that are nearly such
  (`_flair`, `acq-0.7mm`, `.mgz`, `rsub-X_FLAIR`) and images outside of `anat` are not read: they are named where the
  image is missing, else in `Visit.doubts`; but for what SPM makes of the image in use.
- A folder that is meant as `sub-X` or `ses-Y` and called otherwise makes the patient unusable; see `bids_folders`.
- A session that holds other data (`func`, `eeg`) and no `anat` is left out, with a note.
- Several of one contrast: those without a contrast agent (`ce-gad`, `acq-postGd`) come first; of several runs the last
  one counts, since a scanner repeats a scan that was spoiled; any other ambiguity makes the visit unusable and says so.
  Images that are not of the magnitude (`part-phase`) are not used.
- Visits are ordered by `acq_time` of the first kind of table (`sub-X_sessions.tsv`, then `_scans.tsv`) that gives every
  usable visit a day of its own, else by session label in natural order (2 before 10). Dates that contradict the labels
  then make the patient unusable, and days that repeat count for nothing. `Patient.order` says which, and
  `Patient.cautions` where labels decide that are no numbers or may be dates, or although there is a table, which
  `bids_tables` could not use; and where two tables, or dates and numbers, contradict each other.
- By a table of scans, a visit's day is that of its FLAIR (of the T1w where the FLAIR has none). A T1w of another day is
  a caution; T1ws that run against the order of the FLAIRs are exchanged, and make the patient unusable.
- A brain mask is `..._desc-brain_mask.nii.gz` beside the images, or at the same place in a folder given for masks;
  those in the space of a template are not.
- A reference is `derivatives/reference/.../sub-X[_ses-Y]_space-orig_label-{L,lesion}_mask.nii.gz`.
- Whatever cannot be used is named in `Patient.problems` and `Cohort.problems`; a warning names the participants of
  `participants.tsv` that have no folder, those that are packed (`sub-02.zip`), and those without a session asked for;
  `Patient.cautions` the sessions that tables list and that have no folder, or that are packed. Nothing disappears
  silently.
"""

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from lesiondelta.cohort import CONTRASTS, Cohort, Patient, Visit
from lesiondelta.errors import CohortError
from lesiondelta.files import no_entry
from lesiondelta.inputs.bids_folders import (
    DESCRIPTION,
    dataset_nearby,
    datatypes,
    doubts_of_patients,
    images_beside,
    labels_in,
    misnamed,
    misnamed_patients,
    nested,
    packed,
    rename,
)
from lesiondelta.inputs.bids_images import brain_mask_in, doubts_of_images, images_in, joined, reference_in
from lesiondelta.inputs.bids_names import Filters, natural
from lesiondelta.inputs.bids_order import time_order
from lesiondelta.inputs.bids_tables import dates_of, listed_without_folder, said_of_participants
from lesiondelta.inputs.sidecars import SidecarsOf, sidecars_in

log = logging.getLogger(__name__)

CONVERSION = ".convert"
"""Folder that `lesiondelta convert` makes first, as it writes the description last."""
LABEL = re.compile(r"[a-zA-Z0-9+]+")
LONGEST_LABEL = 50
"""Characters; three labels are in the longest name of an output, and a name holds 255 bytes."""


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
    selected = [label for label in present if _wanted(label, participants, "sub")]
    _warn_of_absent(folder, present, participants)
    problems, doubts = _misplaced(folder, present, participants)
    _require_found(folder, "participant", [*selected, *problems], participants)
    if brain_masks and not brain_masks.is_dir():
        raise CohortError(f"{brain_masks} is not a folder: check --brain-mask-dir.")
    patients, without = [], []
    sidecars = lru_cache(maxsize=16)(sidecars_in)  # the folders above a visit's images
    for label in selected:
        try:
            patient = _read_patient(folder, label, sessions, filters or {}, brain_masks)
        except (OSError, CohortError) as error:  # it cannot be entered, or not to its end
            problems[label] = _message(error, folder / f"sub-{label}")
            continue
        if patient.visits or patient.problems:
            patient = replace(patient, cautions=(*patient.cautions, *doubts.get(label, ())))
            patients.append(_with_doubts(patient, folder, sidecars))
        elif patient.notes:
            without.append(f"sub-{label}")
        elif sessions is None:
            problems[label] = f"{folder / f'sub-{label}'} holds no session and no image: add {joined(CONTRASTS)}."
    if without:
        log.warning("left out, as they hold no anatomical images: %s", ", ".join(without))
    known = {visit.label for patient in patients for visit in patient.visits}
    _require_found(folder, "session", known.union(*(patient.problems for patient in patients)), sessions)
    _warn_of_lacking([label for label in selected if label not in problems], patients, sessions)
    _require_brain_masks(brain_masks, patients)
    return Cohort(tuple(patients), problems)


def _warn_of_lacking(labels: Sequence[str], patients: Sequence[Patient], sessions: Sequence[str] | None) -> None:
    """Name the sessions asked for that some of these participants lack; those who lack all are not in `patients`."""
    there = {patient.label: {visit.label for visit in patient.visits} | {*patient.problems} for patient in patients}
    for session in dict.fromkeys(name.removeprefix("ses-") for name in sessions or ()):
        for label in labels:
            if session not in there.get(label, ()):
                log.warning("sub-%s has no session %s", label, session)


def _require_brain_masks(folder: Path | None, patients: Sequence[Patient]) -> None:
    visits = [visit for patient in patients for visit in patient.visits]
    if folder and visits and not any(visit.brain_mask for visit in visits):
        raise CohortError(f"{folder} holds no sub-*/ses-*/anat/*_desc-brain_mask.nii.gz: check --brain-mask-dir.")


def _labels(folder: Path, validate: bool) -> list[str]:
    if not folder.is_dir():
        raise CohortError(f"{folder} is not a folder: give the root of a BIDS dataset.")
    found = labels_in(folder, "sub")
    if not found:
        near = dataset_nearby(folder) or " ".join(why for _, _, why in misnamed_patients(folder, ()))
        raise CohortError(
            f"{folder} is not a BIDS dataset: it holds no sub-* folder. "
            f"{near or 'Give its root, or use `lesiondelta segment`.'}"
        )
    if not (folder / DESCRIPTION).is_file() and (folder / CONVERSION).is_dir():
        raise CohortError(f"{folder} was not converted to its end: run the same `lesiondelta convert` again.")
    if validate and not (folder / DESCRIPTION).is_file():
        raise CohortError(f"{folder} has no {DESCRIPTION}: add it, or pass --skip-bids-validation.")
    return sorted(found, key=natural)


def _misplaced(
    folder: Path, present: Collection[str], participants: Sequence[str] | None
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Patients that cannot be read, as their images lie elsewhere, and doubts about others, by label."""
    problems = {
        label: why for label, _, why in misnamed_patients(folder, present) if _wanted(label, participants, "sub")
    }
    doubts: dict[str, list[str]] = {}
    for label, said in doubts_of_patients(folder, present):
        if label in present:
            doubts.setdefault(label, []).append(said)
        elif _wanted(label, participants, "sub"):
            problems[label] = f"{said}."
    return problems, doubts


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


def _warn_of_absent(folder: Path, present: Sequence[str], participants: Sequence[str] | None) -> None:
    for said in said_of_participants(folder, present) if participants is None else ():
        log.warning("%s", said)
    for label, said in packed(folder, "sub").items():
        if _wanted(label, participants, "sub"):
            log.warning("%s", said)


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
    if unfit := _unfit(root.name):
        raise CohortError(f"{root}: {unfit}")
    visits, problems, notes = {}, {}, []
    for session in _sessions(root, sessions):
        try:
            if sessions is None and (others := datatypes(root / f"ses-{session}" if session else root)):
                notes.append(
                    f"{_place(root, session)}: left out, as it holds {joined(others)}, and no anatomical images"
                )
                continue
            visits[session], remarks = _read_visit(root, session, filters, brain_masks)
            notes += remarks
        except (OSError, CohortError) as error:
            problems[session] = _message(error, root)
    unread = (*listed_without_folder(root), *packed(root, "ses").items())
    cautions = dict.fromkeys(said for session, said in unread if _wanted(session, sessions, "ses"))
    patient = Patient(label, (), problems=problems, notes=tuple(notes), cautions=tuple(cautions))
    try:
        return _in_time_order(patient, visits, root) if visits else patient
    except CohortError as error:
        return replace(patient, problems={**{session: str(error) for session in visits}, **problems})


def _place(root: Path, session: str) -> Path:
    return Path(root.name, f"ses-{session}" if session else "")


def _message(error: OSError | CohortError, place: Path) -> str:
    return str(no_entry(error, place) if isinstance(error, OSError) else error)


def _read_visit(root: Path, session: str, filters: Filters, brain_masks: Path | None) -> tuple[Visit, list[str]]:
    """A visit of the patient in the folder `root`, and notes on what was chosen."""
    folder, place = root.parent, _place(root, session) / "anat"
    if session and (unfit := _unfit(f"ses-{session}")):
        raise CohortError(f"{folder / place.parent}: {unfit}")
    images, absent, notes = images_in(folder / place, filters)
    brain_mask, remarks = brain_mask_in((brain_masks or folder) / place)
    reference, others = reference_in(folder / "derivatives" / "reference" / place)
    if brain_mask or brain_masks:
        notes.append(f"{place.parent}: brain mask {brain_mask or f'absent from {brain_masks}'}")
    visit = Visit(session, images, brain_mask=brain_mask, reference=reference, absent=absent)
    return visit, [*notes, *remarks, *others]


def _with_doubts(patient: Patient, dataset: Path, sidecars: SidecarsOf) -> Patient:
    """The patient with what names and sidecars make doubtful about the images of each visit."""
    visits = [
        replace(visit, doubts=tuple(doubts_of_images(visit.images, dataset, sidecars))) for visit in patient.visits
    ]
    return replace(patient, visits=tuple(visits))


def _sessions(root: Path, asked: Sequence[str] | None) -> list[str]:
    """Session labels; "" stands for images that lie in no session.

    CohortError for a session whose folder is named otherwise: the visits around it would be compared without it.
    """
    for path, label in misnamed(root, "ses").items():
        if _wanted(label, asked, "ses"):
            raise CohortError(rename(path, "ses", label, label in labels_in(root, "ses")))
    if astray := nested(root):
        raise CohortError(f"{joined(map(str, astray))} cannot be read there: move it to its patient, or elsewhere.")
    labels = [label for label in sorted(labels_in(root, "ses"), key=natural) if _wanted(label, asked, "ses")]
    anat = root / "anat"
    outside = anat.is_dir() or anat.is_symlink() or images_beside(anat, *CONTRASTS) or (not labels and datatypes(root))
    if asked is None and outside:
        labels.insert(0, "")
    return labels


def _in_time_order(patient: Patient, visits: Mapping[str, Visit], root: Path) -> Patient:
    """The patient with these visits in the order of time; see `time_order`."""
    order = time_order(
        visits, dates_of(root, {label: [*visit.images.values()] for label, visit in visits.items()}), root
    )
    return replace(
        patient,
        visits=tuple(replace(visits[label], acquired=order.times.get(label)) for label in order.labels),
        order=order.basis,
        notes=(*patient.notes, *order.doubts),
        cautions=(*order.cautions, *patient.cautions),
    )
