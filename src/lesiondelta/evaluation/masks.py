"""Which predicted mask belongs to which reference: two BIDS-like folders, or a table that names the files."""

import logging
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesiondelta.errors import CohortError
from lesiondelta.files import files_below
from lesiondelta.images import Volume, read_mask, require_same_grid
from lesiondelta.inputs.bids_names import IMAGE, LESION_LABELS, BidsFile, natural, parse_name
from lesiondelta.inputs.bids_order import time_order
from lesiondelta.inputs.bids_tables import UNKNOWN, dates_of, read_table

LOGGER = logging.getLogger(__name__)
WHOSE = re.compile(r"(?:^|_)(sub|ses)-([^_]+)")
"""What the names of files and of folders say about whose mask it is."""
LIKE_MASK = re.compile(r"mask|lesion|label-L(?![a-z0-9])", re.IGNORECASE)
OTHER_MASK = re.compile(
    r"brain|skull|head|change|label-(GM|WM|CSF|SGM|CGM|BS|CBM|ST|NB|B|BG)_|probseg|seg-lesions_", re.IGNORECASE
)
"""In the names of masks that are not of lesions, and of what `run` writes beside its masks."""
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
    def visit(self) -> Visit:
        """Which one it is."""
        return self.participant, self.session

    @property
    def names(self) -> tuple[str, str]:
        """As in the tables."""
        return names(self.visit)


@dataclass(frozen=True)
class Matching:
    """Pairs in the order of participants and of their visits in time, and the visits that have one mask only."""

    pairs: tuple[MaskPair, ...]
    without_prediction: tuple[Visit, ...] = ()
    without_reference: tuple[Visit, ...] = ()
    order: tuple[Visit, ...] = ()

    def gap(self, before: MaskPair, after: MaskPair) -> bool:
        """Whether a visit between the two has no prediction; `order` has all visits with a reference."""
        if not self.without_prediction:
            return False
        between = self.order[self.order.index(before.visit) + 1 : self.order.index(after.visit)]
        return any(visit in self.without_prediction for visit in between)


def match_folders(reference: Path, prediction: Path, participants: Collection[str] = ()) -> Matching:
    """Masks named sub-X[_ses-Y]_..._label-L_mask.nii.gz (or label-lesion) anywhere under two folders, by visit.

    `participants` limits it to some of them. Visits are in the order of their dates where the reference, or the dataset
    that it is a derivative of, has them all (sub-X_sessions.tsv, else _scans.tsv; see `bids_order.time_order`), else
    of their labels. Raises CohortError where a folder holds none, nothing belongs together, or dates contradict the
    labels.
    """
    truths, guesses = (find_masks(folder, participants) for folder in (reference, prediction))
    own = {file.path.resolve() for files in truths.values() for file in files}
    others = {visit: [file for file in files if file.path.resolve() not in own] for visit, files in guesses.items()}
    if not any(others.values()):  # a folder scored against itself: its masks are both
        others = guesses
    guesses = {visit: files for visit, files in others.items() if files}
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
    in_time = _in_time(truths, (reference, reference.parent.parent))
    pairs.sort(key=lambda pair: in_time[pair.visit])
    alone = tuple(visit for visit in guesses if visit not in truths)
    return Matching(tuple(pairs), tuple(missing), alone, tuple(sorted(truths, key=lambda visit: in_time[visit])))


def match_table(table: Path, reference: Path, prediction: Path, participants: Collection[str] = ()) -> Matching:
    """Masks named by a TSV with the columns participant_id, session_id, reference, prediction; paths in the folders.

    The rows of a participant are taken in the order of time; `n/a` stands for a prediction that is missing.
    """
    pairs, missing, order = [], [], []
    for participant, session, truth_name, guess_name in _mapping_rows(table):
        visit = (_label(participant, "sub"), _label(session, "ses"))
        if not visit[0]:
            raise CohortError(f"The mapping {table} has a row without participant_id: name the participant.")
        if participants and visit[0] not in participants:
            continue
        order.append(visit)
        truth = _file(reference, truth_name, table)
        if guess_name.lower() in UNKNOWN:
            missing.append(visit)
        else:
            pairs.append(MaskPair(*visit, truth, _file(prediction, guess_name, table)))
    _require_found(order, participants, f"The mapping {table}")
    if not pairs:
        raise CohortError(f"The mapping {table} names no prediction.")
    named = [" ".join(names(visit)) for visit in order]
    named += [str(path) for pair in pairs for path in (pair.reference, pair.prediction)]
    twice = [name for name, times in Counter(named).items() if times > 1]
    if twice:
        raise CohortError(f"The mapping {table} has {twice[0]} twice: keep one row.")
    participant_order = list(dict.fromkeys(participant for participant, _ in order))
    pairs.sort(key=lambda pair: participant_order.index(pair.participant))
    return Matching(tuple(pairs), tuple(missing), (), tuple(order))


def find_masks(folder: Path, participants: Collection[str] = ()) -> dict[Visit, list[BidsFile]]:
    """All lesion masks under a folder by (participant, session)."""
    if not folder.is_dir():
        raise CohortError(f"{folder} is {'a file' if folder.exists() else 'not there'}: give a folder of lesion masks.")
    found: dict[Visit, list[BidsFile]] = {}
    rests = {path: WHOSE.sub("", path.name) for path in files_below(folder) if IMAGE.search(path.name)}
    paths = [path for path, rest in rests.items() if LIKE_MASK.search(rest)]
    files = {path: _lesion_mask(path) for path in sorted(paths, key=lambda path: natural(path.name))}
    for path, file in files.items():
        if file:
            _require_own_folder(path, folder)
        if file and (not participants or file.entities["sub"] in participants):
            found.setdefault((file.entities["sub"], file.entities.get("ses", "")), []).append(file)
    others = [str(path) for path, file in files.items() if not file and not OTHER_MASK.search(rests[path])]
    if others:
        named = f"{', '.join(others[:5])}{', ...' if len(others) > 5 else ''}"
        LOGGER.warning(
            "not read, as the names are not sub-X[_ses-Y]_..._label-L_mask.nii.gz (%d): %s", len(others), named
        )
    if not found and not participants:
        raise CohortError(f"{folder} holds no lesion mask: files named sub-X[_ses-Y]_..._label-L_mask.nii.gz are read.")
    _require_found(found, participants, str(folder))
    return found


def _require_own_folder(path: Path, root: Path) -> None:
    """Raise CohortError where a mask lies in the folder of somebody else, or of another session."""
    folders = [name for name in path.relative_to(root).parts[:-1] if name.startswith(("sub-", "ses-"))]
    said = {pair for name in folders for pair in WHOSE.findall(name)}
    if said.difference(WHOSE.findall(path.name)):
        raise CohortError(f"{path} is named otherwise than its folder: rename it or move it to its visit.")


def _lesion_mask(path: Path) -> BidsFile | None:
    file = parse_name(path)
    fits = file and file.suffix == "mask" and file.entities.get("label") in LESION_LABELS and "sub" in file.entities
    return file if fits else None


def _require_found(visits: Collection[Visit], participants: Collection[str], where: str) -> None:
    absent = sorted(set(participants) - {participant for participant, _ in visits})
    if absent:
        raise CohortError(f"{where} has no lesion mask of {', '.join(f'sub-{label}' for label in absent)}.")


def _in_time(visits: Collection[Visit], roots: Sequence[Path]) -> dict[Visit, Any]:
    """What each visit is sorted by: its participant, then its place among the participant's in time."""
    keys = {}
    for participant in {participant for participant, _ in visits}:
        sessions = [session for whose, session in visits if whose == participant]
        folders = [root / f"sub-{participant}" for root in roots]
        tables = [dates for folder in folders for dates in dates_of(folder, dict.fromkeys(sessions, ()))]
        order = time_order(sessions, tables, folders[0])
        for caution in order.cautions:
            LOGGER.warning("sub-%s: %s", participant, caution)
        for place, session in enumerate(order.labels):
            keys[participant, session] = (natural(participant), participant, place)
    return keys


def _label(cell: str, entity: str) -> str:
    """The label in a cell of a table, with `sub-` or `ses-` or without; nothing where it says n/a."""
    return "" if cell.lower() in UNKNOWN else re.sub(f"^{entity}-", "", cell, flags=re.IGNORECASE)


def _mapping_rows(table: Path) -> list[tuple[str, ...]]:
    """The cells of the columns of MAPPING, row by row."""
    read = read_table(table)
    columns = [cells for name in MAPPING if (cells := read.column(name))]
    if len(columns) < len(MAPPING):
        raise CohortError(f"The mapping {table} needs a row for each visit and the columns {', '.join(MAPPING)}.")
    return list(zip(*columns, strict=True))


def read_pair(pair: MaskPair) -> tuple[Volume, Volume]:
    """Reference and prediction, bool, on one grid. Raises ImageError or GeometryError that names the file."""
    truth, guess = (read_mask(path) for path in (pair.reference, pair.prediction))
    require_same_grid(truth, guess)
    return truth, guess


def names(visit: Visit) -> tuple[str, str]:
    """Participant and session as in BIDS tables."""
    return f"sub-{visit[0]}", f"ses-{visit[1]}" if visit[1] else "n/a"


def _only(files: Sequence[BidsFile], space: str | None) -> BidsFile:
    """The one mask of a visit: of several, the one in the reference's space, `orig` if that has none.

    Of these the one without `desc`: `run` keeps the automatic mask, and the one corrected by hand, beside it.
    """
    if len(files) == 1:
        return files[0]
    fitting = [file for file in files if file.entities.get("space") == (space or "orig")]
    fitting = [file for file in fitting if "desc" not in file.entities] or fitting
    if len(fitting) != 1:
        names = ", ".join(file.path.name for file in files)
        raise CohortError(f"{files[0].path.parent} holds {len(files)} lesion masks of one visit ({names}): keep one.")
    return fitting[0]


def _file(folder: Path, name: str, table: Path) -> Path:
    path = folder / name
    if not name or not path.is_file():
        raise CohortError(f"The mapping {table} names {path}, which is not a file: correct the row.")
    return path
