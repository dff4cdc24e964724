"""When a BIDS patient's visits took place, as `sub-X_sessions.tsv` and `_scans.tsv` say.

Tables are read as people keep them: separated by tabs, commas or semicolons, with blanks or quotes around the entries,
with capitals in the header and in the name of the file. Where a table still does not say when a visit was, its doubts
say why, since labels then decide the order. Dates of two kinds of table are never mixed: one of them may be anonymised.
"""

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

from lesiondelta.cohort import CONTRASTS
from lesiondelta.errors import CohortError, short
from lesiondelta.files import entries, small_content
from lesiondelta.inputs.acquisition import DATED_BY
from lesiondelta.inputs.bids_folders import labels_in
from lesiondelta.inputs.bids_names import NIFTI, SPELLINGS, natural, parse_name

IMAGE_NAME = re.compile(rf"_({'|'.join(CONTRASTS)})$")
"""At the end of a name without its extension."""
LARGEST_TABLE = 2**26
"""Bytes; a table of 10,000 patients and 500 columns has about half."""
UNKNOWN = {"", "n/a", "na", "nan", "none", "null"}
TIME_OF_DAY = re.compile(r"\d\d?:\d\d(:\d\d(\.\d+)?)?")
SCAN = r"(acq(uisition)?|scan(ning)?|visit|session|study|mri?|exam)"
SPAN = r"(day|week|month|year)s?"
DATED = re.compile(
    rf"{SCAN}?_?(date|time|datetime)|(date|time)_of_(the_)?{SCAN}|({SCAN}_?|follow_?up_?|fu_?)?{SPAN}|"
    rf"({SPAN}|time)[_ ]?(since|from|after)(?![_ ]?birth).*",
    re.IGNORECASE,
)
"""A name of a column that says, in place of `acq_time`, when a visit was; dates of birth or of an update do not."""
LONGEST_LIST = 1000
"""Characters of a list of participants."""
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
        text = _decoded(small_content(path, LARGEST_TABLE)).lstrip("\r\n")
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
    except FileNotFoundError as error:
        raise CohortError(f"{path} leads nowhere: get it (`datalad get`), or remove the link.") from error
    except (OSError, ValueError, csv.Error) as error:
        raise CohortError(f"{path} cannot be read ({short(error)}): save it as tab-separated UTF-8 text.") from error
    return Table(path, cells[0] if cells else [], [row for row in cells[1:] if any(row)])


def _decoded(content: bytes) -> str:
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if wide else "utf-8-sig", errors="replace")


def find_table(folder: Path, name: str) -> tuple[Path | None, list[str]]:
    """The table of this name, in capitals if need be, and a doubt for each other one that looks like it."""
    kind = name.rpartition("_")[2].removesuffix("s.tsv")
    like = re.compile(rf"(.*[_-])?{kind}s?\.(tsv|csv|txt|xlsx?|ods)", re.IGNORECASE)
    paths = [path for path in (entries(folder) if folder.is_dir() else []) if like.fullmatch(path.name)]
    paths = [path for path in paths if not path.name.startswith(".")]
    same = sorted((path for path in paths if path.name.lower() == name.lower()), key=lambda path: path.name != name)
    table = same[0] if same else None
    return table, [f"{path} is not read: only {name} is" for path in paths if path != table]


@dataclass(frozen=True)
class Dates:
    """When a patient's sessions took place, as one kind of table says it, and why it does not say more."""

    table: str
    times: Mapping[str, datetime]
    doubts: Sequence[str] = ()
    of_images: Mapping[str, Mapping[str, date]] = field(default_factory=dict)
    """By session, the days of its T1w and FLAIR, where the table has them."""

    @property
    def days(self) -> dict[str, date]:
        """Without the times of day, which those who take dates away sometimes leave."""
        return {session: time.date() for session, time in self.times.items()}


def dates_of(patient: Path, sessions: Mapping[str, Collection[Path]]) -> list[Dates]:
    """The dates that the tables in a patient's folder give to some sessions: of sessions, of each one's scans, of all.

    With each session, its images in use. The FLAIR's date is the visit's, or the T1w's where the FLAIR has none. Where
    the images in use are not known and that contrast is listed twice, all of it have to be of one day.
    """
    if not patient.is_dir():
        return []
    homes = {session: patient / f"ses-{session}" if session else patient for session in sessions}
    return [
        _of_sessions(patient, sessions),
        _of_scans(f"{patient.name}_ses-*_scans.tsv", homes, sessions),
        _of_scans(f"{patient.name}_scans.tsv", dict.fromkeys(sessions, patient), sessions),
    ]


def _of_sessions(patient: Path, sessions: Collection[str]) -> Dates:
    name = sessions_table(patient)
    table, rows, doubts = _rows(patient, name, "session_id")
    rows = [(_session_of(key), text) for key, text in rows]
    known, folders = {key for key, text in rows if _is_known(text)}, labels_in(patient, "ses")
    strange = sorted(known - {*folders}, key=natural)
    if strange and not {key for key, _ in rows}.issuperset(sessions):
        doubts.append(
            f"{table} names {short(', '.join(strange))}, which are no folders ses-* of {patient}: correct session_id"
        )
    doubts += _no_dates(table, [row for row in rows if row[0] in sessions])
    times = {}
    for session in sessions:
        found = _times([row for row in rows if row[0] == session])
        if len({time.date() for time in found}) > 1:
            doubts.append(f"{table} has ses-{session} on several days: keep one row")
        elif found:
            times[session] = min(found)
    return Dates(name, times, doubts)


def _of_scans(name: str, homes: Mapping[str, Path], sessions: Mapping[str, Collection[Path]]) -> Dates:
    """By the tables of scans in the folders given for each session."""
    times, doubts, days = {}, [], {}
    for session, images in sessions.items():
        found, said = _of_scans_in(homes[session], session, {_stem(path.name) for path in images})
        doubts += said
        if dated := next((found[contrast] for contrast in DATED_BY if found.get(contrast)), []):
            times[session] = min(dated)
        days[session] = {contrast: min(several).date() for contrast, several in found.items() if several}
    return Dates(name, times, list(dict.fromkeys(doubts)), days)


def _of_scans_in(home: Path, session: str, used: Collection[str]) -> tuple[dict[str, list[datetime]], list[str]]:
    """Dates, by contrast, of a session's images in use, or of all, by the table in the folder of session or patient."""
    stem = f"{home.parent.name}_{home.name}" if home.name.startswith("ses-") else home.name
    table, rows, doubts = _rows(home, f"{stem}_scans.tsv", "filename")
    if session and home.name != f"ses-{session}":  # one table for all sessions
        rows = [row for row in rows if session_in(row[0]) in (session, "")]
    own = [row for row in rows if _stem(row[0]) in used]
    if not used:
        own = [
            row
            for row in rows
            if IMAGE_NAME.search(_stem(row[0])) and (stem != home.name or session_in(row[0]) == session)
        ]
    if not own and any(_is_known(text) and _may_be_meant(key) for key, text in rows):
        doubts.append(f"{table} does not name {', '.join(sorted(used)) or 'a T1w or FLAIR'}: correct filename")
    doubts += _no_dates(table, own)
    times = {contrast: _times([row for row in own if _stem(row[0]).endswith(f"_{contrast}")]) for contrast in DATED_BY}
    several = next((times[contrast] for contrast in DATED_BY if times[contrast]), [])
    if not used and len({time.date() for time in several}) > 1:
        doubts.append(f"{table} has several images of one contrast, on several days")
        times = {}
    return times, doubts


def said_of_participants(dataset: Path, present: Collection[str]) -> Iterator[str]:
    """What to say of `participants.tsv`: who is listed there and not present, or why that is not known."""
    path, _ = find_table(dataset, "participants.tsv")
    if path is None:
        return
    try:
        listed = read_table(path).column("participant_id")
    except CohortError as error:  # nothing else needs this table
        yield str(error)
        return
    if listed is None:
        yield f"{path} has no column participant_id, separated by tabs: who is missing is not known"
    known = {*present, "", "n/a"}
    absent = dict.fromkeys(name for name in listed or () if name.removeprefix("sub-") not in known)
    if absent:
        yield f"{path} lists participants without a folder: {short(', '.join(absent), LONGEST_LIST)}"


def listed_without_folder(patient: Path) -> Iterator[tuple[str, str]]:
    """Sessions that a patient's tables list and that have no folder, and what to say of each."""
    folders = labels_in(patient, "ses")
    for name, column in ((sessions_table(patient), "session_id"), (f"{patient.name}_scans.tsv", "filename")):
        table, _ = find_table(patient, name)
        labels = (session_in(key) if column == "filename" else _session_of(key) for key in _keys(table, column))
        for label in dict.fromkeys(labels):
            if label not in folders and label.lower() not in UNKNOWN:
                yield label, f"ses-{short(label)} is listed in {table} and has no folder: add it, or correct the table"


def _keys(table: Path | None, column: str) -> list[str]:
    """The cells of a column; none where the table cannot be read, which those who need its dates say."""
    try:
        return (table and read_table(table).column(column)) or []
    except CohortError:
        return []


def _session_of(key: str) -> str:
    return re.sub("^ses-", "", key, flags=re.IGNORECASE)


def session_in(name: str) -> str:
    """The session that a path of an image names, in its folders or in its own name."""
    match = re.search(r"(?:^|[/\\_])ses-([a-zA-Z0-9+]+)", name)
    return match[1] if match else ""


def _may_be_meant(name: str) -> bool:
    """Whether a row may be of a T1w or FLAIR: by its name, or in `anat` by none of BIDS."""
    stem = _stem(name)
    spelled = any(spelling.search(stem) for spelling in SPELLINGS.values())
    return spelled or ("anat" in re.split(r"[/\\]", name) and parse_name(Path(f"{stem}.nii")) is None)


def _rows(folder: Path, name: str, key: str) -> tuple[Path | None, list[Row], list[str]]:
    """A table, the key and `acq_time` of its rows where it has both columns, and doubts where it should have them."""
    path, doubts = find_table(folder, name)
    try:
        table = read_table(path) if path else Table(folder / name, [], [])
    except CohortError as error:
        return path, [], [*doubts, str(error).rstrip(".")]
    keys, times = table.column(key), table.column("acq_time")
    if keys is not None and times is not None:
        return path, list(zip(keys, times, strict=True)), doubts
    dated = any(DATED.fullmatch(cell) for cell in table.header)
    lacking = key if keys is None else "acq_time"
    if table.header and (keys is None or dated):
        columns = ", ".join(map(repr, table.header))
        doubts.append(f"{path} is not used: it needs one column {lacking}, separated by tabs, and has {short(columns)}")
    return path, [], doubts


def _times(rows: Sequence[Row]) -> list[datetime]:
    return [time for _, text in rows if (time := _time(text))]


def _no_dates(table: Path | None, rows: Sequence[Row]) -> list[str]:
    """A doubt about entries that are neither dates nor n/a."""
    wrong = list(dict.fromkeys(text for _, text in rows if _is_known(text) and _time(text) is None))
    more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    said = (
        f"{table}: acq_time {short(repr(wrong[0]))} is not a date such as 2019-05-31T10:30:00: correct it{more}"
        if wrong
        else ""
    )
    return [said] if said else []


def _is_known(text: str) -> bool:
    """Nor is a day, where only the time is left of it."""
    return text.lower() not in UNKNOWN and not TIME_OF_DAY.fullmatch(text)


def _stem(name: str) -> str:
    """The name of a file, without folders of either system and without `.nii.gz`."""
    return NIFTI.sub("", name.replace("\\", "/").rpartition("/")[2])


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        return None


def sessions_table(patient: Path) -> str:
    """The name of a patient's table of sessions."""
    return f"{patient.name}_sessions.tsv"
