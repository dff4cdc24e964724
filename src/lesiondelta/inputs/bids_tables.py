"""When a BIDS patient's visits took place, as `sub-X_sessions.tsv` and `_scans.tsv` say, and the order that follows.

Tables are read as people keep them: separated by tabs, commas or semicolons, with blanks or quotes around the entries,
with capitals in the header and in the name of the file. Where a table still does not say when a visit was, its doubts
say why, since labels then decide the order.
"""

import csv
import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from lesiondelta.cohort import CONTRASTS
from lesiondelta.errors import CohortError
from lesiondelta.files import entries
from lesiondelta.inputs.bids_names import NIFTI, labels_in, natural

IMAGE_NAME = re.compile(rf"_({'|'.join(CONTRASTS)})$")
"""At the end of a name without its extension."""
UNKNOWN = {"", "n/a", "na", "nan", "none", "null"}
DATED = re.compile(r"acq|date|days|scan_?time", re.IGNORECASE)
"""In the name of a column that is probably meant as `acq_time`."""
Row = tuple[str, str]


@dataclass(frozen=True)
class Table:
    """The cells of a table, without blanks and quotes around them."""

    path: Path
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def column(self, name: str) -> list[str] | None:
        """Its cells; None where no column or several have the name, capitals counting only among several."""
        exact, similar = ([i for i, cell in enumerate(c) if cell == name] for c in (self.header, self._small_header))
        found = exact if len(exact) == 1 else similar
        return [row[found[0]] if found[0] < len(row) else "" for row in self.rows] if len(found) == 1 else None

    @property
    def _small_header(self) -> list[str]:
        return [cell.lower() for cell in self.header]


def read_table(path: Path) -> Table:
    """Labels and dates are plain ASCII, so that an old encoding of other columns does no harm.

    In TSV a quote is a character, so that one that is never closed does not swallow the rows after it.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="replace").lstrip("\r\n")
        if "\0" in text:
            raise CohortError(f"{path} is no UTF-8 text: save it as tab-separated UTF-8 text.")
        lines = io.StringIO(text, newline="")
        first = lines.readline()
        separator = next((mark for mark in "\t;," if mark in first), "\t")
        lines.seek(0)
        if separator == "\t":
            read = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE)
        else:
            read = csv.reader(lines, delimiter=separator)
        cells = [[cell.strip(" \t\"'") for cell in row] for row in read]
    except (OSError, csv.Error) as error:
        raise CohortError(f"{path} cannot be read ({error}): save it as tab-separated UTF-8 text.") from error
    return Table(path, cells[0] if cells else [], [row for row in cells[1:] if any(row)])


def find_table(folder: Path, name: str) -> tuple[Path | None, list[str]]:
    """The table of this name, in capitals if need be, and a doubt for each other one that looks like it."""
    kind = name.rpartition("_")[2].removesuffix("s.tsv")
    like = re.compile(rf"(.*[_-])?{kind}s?\.(tsv|csv|txt|xlsx?|ods)", re.IGNORECASE)
    paths = [path for path in (entries(folder) if folder.is_dir() else []) if like.fullmatch(path.name)]
    paths = [path for path in paths if not path.name.startswith(".")]
    same = sorted((path for path in paths if path.name.lower() == name.lower()), key=lambda path: path.name != name)
    table = same[0] if same else None
    return table, [f"{path} is not read: only {name} is" for path in paths if path != table]


def visit_date(patient: Path, session: str, images: Collection[Path] = ()) -> tuple[datetime | None, list[str]]:
    """When a visit was acquired, and why its tables do not say it, as far as they should.

    `images` are those in use. Where they are not known and T1w or FLAIR is listed twice, all have to be of one day.
    """
    time, doubts = _of_sessions(patient, session)
    homes = [patient / f"ses-{session}"] if session else []
    for home in [*homes, patient]:
        if time is None:
            stem = f"{patient.name}_{home.name}" if home != patient else patient.name
            time, said = _of_scans(home, f"{stem}_scans.tsv", session, {_stem(path.name) for path in images})
            doubts += said
    return time, doubts


def session_dates(patient: Path, sessions: Collection[str]) -> tuple[dict[str, datetime], list[str]]:
    """Dates of those sessions of a patient's folder that have one, and doubts, as `visit_date` gives them."""
    found = {label: visit_date(patient, label) for label in sessions if patient.is_dir()}
    dates = {label: time for label, (time, _) in found.items() if time}
    return dates, list(dict.fromkeys(doubt for _, doubts in found.values() for doubt in doubts))


def _of_sessions(patient: Path, session: str) -> tuple[datetime | None, list[str]]:
    table, rows, doubts = _rows(patient, sessions_table(patient), "session_id")
    rows = [(re.sub("^ses-", "", key, flags=re.IGNORECASE), text) for key, text in rows]
    times, said = _times(table, [row for row in rows if row[0] == session])
    strange = sorted({key for key, text in rows if _is_known(text)} - {*labels_in(patient, "ses")}, key=natural)
    if strange and session not in [key for key, _ in rows]:
        said.append(f"{table} names {', '.join(strange)}, which are no folders ses-* of {patient}: correct session_id")
    if len({time.date() for time in times}) > 1:
        said.append(f"{table} has ses-{session} on several days: keep one row")
        times = []
    return min(times, default=None), doubts + said


def _of_scans(home: Path, name: str, session: str, used: Collection[str]) -> tuple[datetime | None, list[str]]:
    table, rows, doubts = _rows(home, name, "filename")
    rows = [(_stem(key), text) for key, text in rows]
    if session and not home.name.startswith("ses-"):  # one table for all sessions
        rows = [row for row in rows if f"_ses-{session}_" in row[0]]
    own = [row for row in rows if (row[0] in used if used else IMAGE_NAME.search(row[0]))]
    if not own and any(_is_known(text) for _, text in rows):
        doubts.append(f"{table} does not name {', '.join(sorted(used)) or 'a T1w or FLAIR'}: correct filename")
    times, said = _times(table, own)
    contrasts = [name.rpartition("_")[2] for name, _ in own]
    if not used and len(set(contrasts)) < len(contrasts) and len({time.date() for time in times}) > 1:
        said.append(f"{table} has several images of one contrast, on several days")
        times = []
    return min(times, default=None), doubts + said


def _rows(folder: Path, name: str, key: str) -> tuple[Path | None, list[Row], list[str]]:
    """A table, the key and `acq_time` of its rows where it has both columns, and doubts where it should have them."""
    path, doubts = find_table(folder, name)
    table = read_table(path) if path else Table(folder / name, [], [])
    keys, times = table.column(key), table.column("acq_time")
    if keys is not None and times is not None:
        return path, list(zip(keys, times, strict=True)), doubts
    dated = any(DATED.search(cell) for cell in table.header)
    lacking = key if keys is None else "acq_time"
    if table.header and (keys is None or dated):
        columns = ", ".join(map(repr, table.header))
        doubts.append(f"{path} is not used: it needs one column {lacking}, separated by tabs, and has {columns}")
    return path, [], doubts


def _times(table: Path | None, rows: Sequence[Row]) -> tuple[list[datetime], list[str]]:
    """The dates in some rows, and doubts about entries that are none; nothing where it says n/a."""
    times = {text: _time(text) for _, text in rows if _is_known(text)}
    return [time for time in times.values() if time], [
        f"{table}: acq_time {text!r} is not a date such as 2019-05-31T10:30:00: correct it"
        for text, time in times.items()
        if time is None
    ]


def _is_known(text: str) -> bool:
    return text.lower() not in UNKNOWN


def _stem(name: str) -> str:
    """The name of a file, without folders of either system and without `.nii.gz`."""
    return NIFTI.sub("", name.replace("\\", "/").rpartition("/")[2])


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        return None


def time_order(dates: Mapping[str, datetime | None], patient: Path) -> tuple[list[str], str]:
    """The sessions of a patient in the order of time, and what that rests on.

    Days decide, as those who take them away sometimes leave the times, and only if every session has one of its own.

    Raises
    ------
    CohortError
        Labels have to decide, and the dates that are known contradict them.
    """
    labels = sorted(dates, key=natural)
    days = {label: time.date() for label in labels if (time := dates[label])}
    if len(set(days.values())) == len(labels) > 1:
        return sorted(labels, key=lambda label: days[label]), "acq_time"
    for (first, day), (second, other) in pairwise(days.items()):
        if day > other:
            raise CohortError(
                f"{patient}: acq_time puts {_named(second)} ({other}) before {_named(first)} ({day}), their labels the "
                "other way round, and not every session has a day of its own, which would decide: complete or correct "
                f"acq_time in {sessions_table(patient)} or _scans.tsv."
            )
    unsure = " (not every visit has an acq_time on a day of its own)" if len(labels) > 1 else ""
    return labels, f"session label, natural order{unsure}"


def order_cautions(labels: Sequence[str], order: str, patient: Path, doubts: Collection[str] = ()) -> tuple[str, ...]:
    """What is doubtful about an order of `time_order` that labels decided: tables that do not date the visits, labels.

    Labels are beyond doubt where they differ only in numbers, as m06 and m12 do.
    """
    if order == "acq_time" or len(labels) < 2:
        return ()
    tables = [f"visits are ordered by session labels, since {doubt}" for doubt in dict.fromkeys(doubts)]
    if len({re.sub(r"\d+", "0", label) for label in labels}) == 1:
        return tuple(tables)
    names = ", ".join(map(_named, labels))
    return (
        f"visits are ordered by session labels, which are not numbers: {names}; give acq_time in "
        f"{sessions_table(patient)}",
        *tables,
    )


def sessions_table(patient: Path) -> str:
    """The name of a patient's table of sessions."""
    return f"{patient.name}_sessions.tsv"


def _named(session: str) -> str:
    return f"ses-{session}" if session else "images outside of sessions"
