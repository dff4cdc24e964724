"""What became of every visit, and the completion record by which a second run knows that a patient is finished.

A record lies at OUT/.lesiondelta/sub-X.json. It is written first, unfinished, with the files the run is going to write,
so that a later run can clear what an interrupted one left; and last, finished, with the hashes of all that decides the
result. A patient is skipped if its record is finished, every hash is the same and every file is still there. A patient
with a failed visit is never finished: its cause may be gone.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lesiondelta.errors import OutputError
from lesiondelta.files import alone, write_json, write_text
from lesiondelta.outputs.derivatives import MASK

Status = Literal["ok", "ok-zero-lesions", "flagged", "failed"]
RECORDS = ".lesiondelta"
UNENDED = "its run has not come to its end: give the command again, unless it is still running"
NOT_AVAILABLE = "n/a"
COLUMNS = {
    "participant_id": "Patient.",
    "session_id": "Visit.",
    "status": "ok, ok-zero-lesions, flagged (segmented, but look at it: `reason`), failed (not segmented: `reason`).",
    "reason": "Why it is flagged or has failed.",
    "prior_session_id": "The visit that it was segmented with.",
    "years_from_first_visit": "By acq_time; n/a where not all visits have a day of their own.",
    "lesion_volume_mm3": "Of all lesions, in the patient's space, so that visits compare.",
    "lesions": "Number of lesions (26-connected).",
    "*_lesions": "Number of lesions that have done this since the visit before; n/a at the first visit.",
    "correction": "What a reader has changed in the mask by hand; n/a where it is the model's.",
    "brain_volume_mm3": "Of the brain mask, the same for all visits.",
    "*_residual_mm": "How far a registration may still be off.",
}
"""What the columns of the tables of visits mean; * stands for several names."""


@dataclass(frozen=True)
class VisitResult:
    """One row of the cohort table; `figures` are further columns."""

    patient: str
    visit: str
    status: Status
    reason: str = ""
    figures: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """A patient's record: what it was made from (`fingerprint`), what was written (relative paths), how it ended.

    `kept` is what tables and report follow from beside the images in the output folder; `masks` has the hashes of
    masks as they were left, by file name ("": it was not there), and `corrections` those of masks corrected by hand, by
    visit.
    """

    patient: str
    finished: bool
    fingerprint: Mapping[str, Any]
    files: tuple[str, ...]
    results: tuple[VisitResult, ...] = ()
    kept: Mapping[str, Any] = field(default_factory=dict)
    masks: Mapping[str, str] = field(default_factory=dict)
    corrections: Mapping[str, str] = field(default_factory=dict)


def record_path(out: Path, patient: str) -> Path:
    """OUT/.lesiondelta/sub-X.json."""
    return out / RECORDS / f"sub-{patient}.json"


def only_run(out: Path, patient: str) -> AbstractContextManager[None]:
    """Keep other runs off a patient's results; OutputError where one is working on them.

    Else one would take the mask that another has just written for a reader's edit.
    """
    busy = f"Another run is working on sub-{patient} in {out}: wait for its results, which this one leaves alone."
    return alone(out / RECORDS, wait=False, lock=f"sub-{patient}.lock", busy=busy, needed=False)


def write_record(out: Path, record: Record) -> None:
    """Write it atomically."""
    write_json(record_path(out, record.patient), asdict(record))


def read_record(out: Path, patient: str) -> Record | None:
    """Read a patient's record; None where there is none that can be read."""
    try:
        content = json.loads(record_path(out, patient).read_text(encoding="utf-8"))
        results = tuple(VisitResult(**result) for result in content.pop("results"))
        return Record(**{**content, "files": tuple(content["files"]), "results": results})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def finished_results(out: Path, patient: str, fingerprint: Mapping[str, Any]) -> tuple[VisitResult, ...] | None:
    """Results of a finished earlier run on the very same input, settings and models; None if there is none."""
    record = read_record(out, patient)
    same = record is not None and record.finished and record.fingerprint == json.loads(json.dumps(fingerprint))
    return record.results if record and same and all((out / name).is_file() for name in record.files) else None


def results_of(record: Record) -> tuple[VisitResult, ...]:
    """What became of every visit; of a run that has begun and not ended, that it has not."""
    if record.results:
        return record.results
    problems = record.fingerprint.get("problems", {})
    visits = dict.fromkeys([*(visit["visit"] for visit in record.fingerprint.get("visits", ())), *problems])
    return tuple(VisitResult(record.patient, v, "failed", problems.get(v, UNENDED)) for v in visits or [""])


def begin(
    out: Path, patient: str, fingerprint: Mapping[str, Any], files: Iterable[Path], masks: Mapping[str, str]
) -> None:
    """Clear what an earlier run wrote for this patient, its own table too, and record what this one is going to write.

    `masks` has the hashes of masks corrected by hand, which are not cleared, and of others, which are.
    """
    earlier = read_record(out, patient)
    old = earlier.files if earlier else ()
    new = {path.relative_to(out).as_posix() for path in files}
    files_ = tuple(sorted({*old, *new}))
    write_record(out, Record(patient, False, fingerprint, files_, masks={**masks, **_absent(files_)}))
    try:
        for path in (*(out / name for name in old), own_table(out, patient)):
            path.unlink(missing_ok=True)
        for leftover in (out / f"sub-{patient}").rglob(".partial-*"):
            leftover.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot clear the earlier results of sub-{patient} in {out}: {error}.") from error


def finish(out: Path, record: Record) -> None:
    """Write the record of a run that came to its end; it is finished if no visit failed."""
    write_record(out, replace(record, finished=all(result.status != "failed" for result in record.results)))


def fail(out: Path, patient: str, results: Sequence[VisitResult]) -> None:
    """Remove what can be removed of a failed patient's files, and record how it ended.

    The files stay on record, so that a later run clears those that could not be removed.
    """
    earlier = read_record(out, patient)
    files, masks = (earlier.files, earlier.masks) if earlier else ((), {})
    for name in files:
        with suppress(OSError):
            (out / name).unlink(missing_ok=True)
    write_record(out, Record(patient, False, {}, files, tuple(results), masks={**masks, **_absent(files)}))


def _absent(files: Iterable[str]) -> dict[str, str]:
    """Masks that are cleared: one that appears there later is a reader's, whose editor was still open."""
    names = (name.rpartition("/")[2] for name in files)
    return {name: "" for name in names if name.endswith(f"_{MASK}.nii.gz")}


def write_tables(out: Path, table: Path) -> None:
    """Write the cohort table, its data dictionary and every patient's own, from all records in the output folder."""
    results = all_results(out)
    write_table(table, results)
    write_json(table.with_suffix(".json"), {name: {"Description": meaning} for name, meaning in COLUMNS.items()})
    for patient in dict.fromkeys(result.patient for result in results):
        own = [result for result in results if result.patient == patient]
        write_table(own_table(out, patient), own)


def own_table(out: Path, patient: str) -> Path:
    """OUT/sub-X/sub-X_visits.tsv."""
    return out / f"sub-{patient}" / f"sub-{patient}_visits.tsv"


def all_results(out: Path) -> list[VisitResult]:
    """Results of every patient in an output folder, by label."""
    labels = sorted(path.stem.removeprefix("sub-") for path in (out / RECORDS).glob("sub-*.json"))
    return [result for label in labels for result in _results(out, label)]


def _results(out: Path, patient: str) -> tuple[VisitResult, ...]:
    record = read_record(out, patient)
    if record is not None:
        return results_of(record)
    why = f"its record {record_path(out, patient)} cannot be read: give the command again"
    return (VisitResult(patient, "", "failed", why),)


def write_table(path: Path, results: Sequence[VisitResult]) -> None:
    """Write a TSV with one row a visit; what a visit does not have is n/a."""
    columns = list(dict.fromkeys(name for result in results for name in result.figures))
    head = ["participant_id", "session_id", "status", "reason", *columns]
    rows = [
        [f"sub-{r.patient}", f"ses-{r.visit}" if r.visit else NOT_AVAILABLE, r.status, cell(r.reason or None)]
        + [cell(r.figures.get(name)) for name in columns]
        for r in results
    ]
    write_text(path, "".join("\t".join(row) + "\n" for row in [head, *rows]))


def cell(value: float | str | None) -> str:
    """A value as tables write it: what is absent is n/a, and text has no tab and no line break."""
    if value is None:
        return NOT_AVAILABLE
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.split())
