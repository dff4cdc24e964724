"""Which predicted mask belongs to which reference: two BIDS-like folders, or a table that names the files."""

import csv
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from lesiondelta.errors import CohortError
from lesiondelta.formats.bids import BidsFile, natural, parse_name
from lesiondelta.images import Volume, read_mask, require_same_grid

LESION_LABELS = ("L", "lesion")
MAPPING = ("participant_id", "session_id", "reference", "prediction")

Visit = tuple[str, str]


@dataclass(frozen=True)
class MaskPair:
    """The two masks of a visit; `participant` and `session` without `sub-` and `ses-`, the latter may be empty."""

    participant: str
    session: str
    reference: Path
    prediction: Path

    @property
    def names(self) -> tuple[str, str]:
        """As in the tables."""
        return names((self.participant, self.session))


@dataclass(frozen=True)
class Matching:
    """Pairs in the order of participants and sessions, and the visits that have one mask only."""

    pairs: tuple[MaskPair, ...]
    without_prediction: tuple[Visit, ...] = ()
    without_reference: tuple[Visit, ...] = ()


def match_folders(reference: Path, prediction: Path, participants: Collection[str] = ()) -> Matching:
    """Masks named sub-X[_ses-Y]_..._label-L_mask.nii.gz (or label-lesion) anywhere under two folders, by visit.

    `participants` limits it to some of them. Raises CohortError where a folder holds none, or nothing belongs together.
    """
    truths, guesses = (find_masks(folder, participants) for folder in (reference, prediction))
    pairs, missing = [], []
    for visit, files in truths.items():
        truth = _only(files, None)
        guess = _only(guesses[visit], truth.entities.get("space")) if visit in guesses else None
        if guess:
            pairs.append(MaskPair(*visit, truth.path, guess.path))
        else:
            missing.append(visit)
    if not pairs:
        raise CohortError(f"No mask of {prediction} belongs to a reference of {reference}: compare their sub-* names.")
    return Matching(tuple(pairs), tuple(missing), tuple(visit for visit in guesses if visit not in truths))


def match_table(table: Path, reference: Path, prediction: Path, participants: Collection[str] = ()) -> Matching:
    """Masks named by a TSV with the columns participant_id, session_id, reference, prediction; paths in the folders."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CohortError(f"The mapping {table} cannot be read: {error}.") from error
    if not rows or not set(MAPPING) <= set(rows[0]):
        raise CohortError(f"The mapping {table} needs a row for each visit and the columns {', '.join(MAPPING)}.")
    pairs = [
        MaskPair(
            (row["participant_id"] or "").removeprefix("sub-"),
            (row["session_id"] or "").removeprefix("ses-").removeprefix("n/a"),
            _file(reference, row["reference"], table),
            _file(prediction, row["prediction"], table),
        )
        for row in rows
    ]
    chosen = [pair for pair in pairs if not participants or pair.participant in participants]
    if not chosen:
        raise CohortError(f"The mapping {table} has none of the participants {', '.join(sorted(participants))}.")
    visits = [(pair.participant, pair.session) for pair in chosen]
    for visit in visits:
        if visits.count(visit) > 1:
            raise CohortError(f"The mapping {table} has {' '.join(names(visit))} twice: keep one row.")
    return Matching(tuple(chosen))


def find_masks(folder: Path, participants: Collection[str] = ()) -> dict[Visit, list[BidsFile]]:
    """All lesion masks under a folder by (participant, session)."""
    found: dict[Visit, list[BidsFile]] = {}
    for path in sorted(folder.rglob("sub-*_mask.nii*"), key=lambda path: natural(path.name)):
        file = parse_name(path)
        if file and file.suffix == "mask" and file.entities.get("label") in LESION_LABELS:
            participant = file.entities["sub"]
            if not participants or participant in participants:
                found.setdefault((participant, file.entities.get("ses", "")), []).append(file)
    if not found:
        whose = f" of {', '.join(sorted(participants))}" if participants else ""
        raise CohortError(
            f"{folder} holds no lesion mask{whose}: files named sub-X[_ses-Y]_..._label-L_mask.nii.gz are read."
        )
    return found


def read_pair(pair: MaskPair) -> tuple[Volume, Volume]:
    """Reference and prediction, bool, on one grid. Raises ImageError or GeometryError that names the file."""
    truth, guess = (read_mask(path) for path in (pair.reference, pair.prediction))
    require_same_grid(truth, guess)
    return truth, guess


def names(visit: Visit) -> tuple[str, str]:
    """Participant and session as in BIDS tables."""
    return f"sub-{visit[0]}", f"ses-{visit[1]}" if visit[1] else "n/a"


def _only(files: Sequence[BidsFile], space: str | None) -> BidsFile:
    """The one mask of a visit: of several, the one in the reference's space, `orig` if that has none."""
    if len(files) == 1:
        return files[0]
    fitting = [file for file in files if file.entities.get("space") == (space or "orig")]
    if len(fitting) != 1:
        names = ", ".join(file.path.name for file in files)
        raise CohortError(f"{files[0].path.parent} holds {len(files)} lesion masks of one visit ({names}): keep one.")
    return fitting[0]


def _file(folder: Path, name: str | None, table: Path) -> Path:
    path = folder / (name or "")
    if not name or not path.is_file():
        raise CohortError(f"The mapping {table} names {path}, which is no file: correct the row.")
    return path
