"""The state of a patient's run: what became of every visit, and the record by which a second run knows what is done.

A record lies at OUT/.lesiondelta/sub-X.json. It is written first, unfinished, with the files the run is going to write,
so that a later run can clear what an interrupted one left; and last, finished, with the hashes of all that decides the
result. A patient is skipped if its record is finished, every hash is the same and every file is still there. A patient
with a failed visit is never finished: its cause may be gone.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from lesiondelta.cohort import CONTRASTS
from lesiondelta.errors import OutputError
from lesiondelta.files import alone, write_json
from lesiondelta.image_range import ImageRange
from lesiondelta.settings import Settings, StoredPath

Status = Literal["ok", "ok-zero-lesions", "flagged", "failed"]
FOLDER = ".lesiondelta"
UNENDED = "its run has not come to its end: give the command again, unless it is still running"
VisitContents = Mapping[str, str]
"""`visit` is its label; the other names (T1w, FLAIR, brain_mask, dicom: a series' first file) have a SHA-256."""
MaskHashes = Mapping[str, str]
"""SHA-256 of masks by file name; "" where there is none."""


@dataclass(frozen=True)
class VisitResult:
    """One row of the cohort table; `figures` are further columns."""

    patient: str
    visit: str
    status: Status
    reason: str = ""
    figures: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fingerprint:
    """All that decides a patient's results: program, settings, models and the content of every input.

    `preparation` is the number of `preprocessing.preparation.PREPARATION`; of the visits, `acquired` has the ISO dates,
    `doubts` what their names, sidecars and headers make doubtful.
    """

    lesiondelta: str
    preparation: int
    settings: Mapping[str, Any]
    models: tuple[str, ...]
    visits: tuple[VisitContents, ...]
    acquired: tuple[str | None, ...]
    problems: Mapping[str, str]
    doubts: tuple[tuple[str, ...], ...] = ()

    @property
    def flairs(self) -> dict[str, str]:
        """The hash of every visit's FLAIR."""
        return {visit["visit"]: visit["FLAIR"] for visit in self.visits if "FLAIR" in visit}


def image_hashes(visits: Iterable[VisitContents]) -> set[str]:
    """The hashes of all images."""
    return {visit[contrast] for visit in visits for contrast in CONTRASTS if contrast in visit}


@dataclass(frozen=True)
class Provenance:
    """What a patient's masks came from.

    Attributes
    ----------
    order : labels of all visits, in time order, those that failed (`problems`) too
    acquired : label of each segmented visit -> date, where it is known
    dicom : label -> files of the FLAIR's series, of visits from DICOM
    priors : for each segmented visit the index of the one that it was segmented with
    threshold, min_lesion_mm3 : probability above which a voxel is lesion, and the smallest lesion that counts
    cautions : what a reader of any results of the segmenter has to be told
    doubts : what is unsure about all visits of this patient
    tested : the worst images that the segmenter's masks were scored on
    """

    order: tuple[str, ...]
    acquired: Mapping[str, datetime | None]
    dicom: Mapping[str, tuple[StoredPath, ...]]
    problems: Mapping[str, str]
    priors: tuple[int, ...]
    threshold: float
    min_lesion_mm3: float
    method: str
    models: tuple[Mapping[str, str], ...]
    cautions: tuple[str, ...]
    settings: Settings
    doubts: tuple[str, ...] = ()
    tested: ImageRange = field(default_factory=ImageRange)


@dataclass(frozen=True)
class Record:
    """A patient's record: what it was made from, what was written (relative paths), how it ended.

    `provenance` and `prepared` (see `preprocessing.store.described`) are what tables and report follow from, beside the
    images in the output folder; `masks` has the hashes of masks as they were left, and `corrections` those of masks
    corrected by hand, by visit.
    """

    patient: str
    finished: bool
    fingerprint: Fingerprint | None
    files: tuple[str, ...] = ()
    results: tuple[VisitResult, ...] = ()
    provenance: Provenance | None = None
    prepared: Mapping[str, Any] = field(default_factory=dict)
    masks: MaskHashes = field(default_factory=dict)
    corrections: Mapping[str, str] = field(default_factory=dict)

    @property
    def segmented_visits(self) -> list[str]:
        """Labels of the visits that have results."""
        return [result.visit for result in self.results if result.status != "failed"]

    def is_done(self, out: Path, fingerprint: Fingerprint) -> bool:
        """Whether it is of a finished run on the very same input, settings and models, whose files are all there."""
        return self.finished and self.fingerprint == fingerprint and all((out / name).is_file() for name in self.files)


def record_path(out: Path, patient: str) -> Path:
    """OUT/.lesiondelta/sub-X.json."""
    return out / FOLDER / f"sub-{patient}.json"


def recorded_patients(out: Path) -> list[str]:
    """Labels of all patients that have a record, sorted."""
    return sorted(path.stem.removeprefix("sub-") for path in (out / FOLDER).glob("sub-*.json"))


def only_run(out: Path, patient: str) -> AbstractContextManager[None]:
    """Keep other runs off a patient's results; OutputError where one is working on them.

    Else one would take the mask that another has just written for a reader's edit.
    """
    busy = f"Another run is working on sub-{patient} in {out}: wait for its results, which this one leaves alone."
    return alone(out / FOLDER, wait=False, lock=f"sub-{patient}.lock", busy=busy, needed=False)


@cache
def _json() -> TypeAdapter[Record]:
    return TypeAdapter(Record)


def write_record(out: Path, record: Record) -> None:
    """Write it atomically."""
    write_json(record_path(out, record.patient), _json().dump_python(record, mode="json"))


def read_record(out: Path, patient: str) -> Record | None:
    """Read a patient's record; None where there is none that can be read."""
    try:
        return _json().validate_json(record_path(out, patient).read_bytes())
    except (OSError, ValueError):
        return None


def results_of(record: Record) -> tuple[VisitResult, ...]:
    """What became of every visit; of a run that has begun and not ended, that it has not."""
    if record.results:
        return record.results
    begun = record.fingerprint
    visits = dict.fromkeys([*(visit["visit"] for visit in begun.visits), *begun.problems]) if begun else {}
    problems = begun.problems if begun else {}
    return tuple(VisitResult(record.patient, v, "failed", problems.get(v, UNENDED)) for v in visits or [""])


def any_failed(results: Sequence[VisitResult]) -> bool:
    """Whether a visit failed."""
    return any(result.status == "failed" for result in results)


def all_results(out: Path) -> tuple[list[VisitResult], tuple[str, ...]]:
    """Results of every patient in an output folder, by label, and the cautions of what segmented them."""
    records = {label: read_record(out, label) for label in recorded_patients(out)}
    results = [result for label, record in records.items() for result in _results(out, label, record)]
    known = (record.provenance.cautions for record in records.values() if record and record.provenance)
    return results, tuple(dict.fromkeys(caution for cautions in known for caution in cautions))


def _results(out: Path, patient: str, record: Record | None) -> tuple[VisitResult, ...]:
    if record is not None:
        return results_of(record)
    why = f"its record {record_path(out, patient)} cannot be read: give the command again"
    return (VisitResult(patient, "", "failed", why),)


def begin(out: Path, record: Record, cleared: Iterable[Path]) -> None:
    """Record what a run is going to write, then clear what an earlier one has written.

    Raises
    ------
    OutputError
        A file cannot be removed.
    """
    write_record(out, record)
    try:
        for path in cleared:
            path.unlink(missing_ok=True)
        for leftover in (out / f"sub-{record.patient}").rglob(".partial-*"):
            leftover.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot clear the earlier results of sub-{record.patient} in {out}: {error}.") from error


def fail(out: Path, begun: Record, results: Sequence[VisitResult]) -> None:
    """Remove what can be removed of a failed patient's files, and record how it ended.

    The files stay on record, so that a later run clears those that could not be removed.
    """
    for name in begun.files:
        with suppress(OSError):
            (out / name).unlink(missing_ok=True)
    write_record(out, Record(begun.patient, False, None, begun.files, tuple(results), masks=begun.masks))
