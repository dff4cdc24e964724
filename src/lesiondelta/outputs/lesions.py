"""Tables and maps of lesions over time: how they are written, and what their columns and labels mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lesiondelta.cohort import Change, LesionChange
from lesiondelta.files import write_json, write_text
from lesiondelta.images import Volume, write_volume
from lesiondelta.outputs.derivatives import PatientFiles, Place, own_uri
from lesiondelta.outputs.tables import NOT_AVAILABLE, cell


@dataclass(frozen=True)
class LesionRow:
    """A lesion at a visit; `centre_mm` in the patient's space, RAS+."""

    visit: str
    lesion: int
    volume_mm3: float
    location: str | None
    centre_mm: tuple[float, float, float]
    change: str | None


@dataclass(frozen=True)
class StepRow:
    """What became of lesions from a visit to the next; `centre_mm` in the patient's space, RAS+."""

    prior_visit: str
    visit: str
    step: LesionChange
    location: str | None
    centre_mm: tuple[float, float, float]


Facts = Mapping[str, Any]
COLOURS = {
    Change.NEW: "#ff5a4f",
    Change.ENLARGING: "#ff9f1c",
    Change.SHRINKING: "#46c8ff",
    Change.RESOLVED: "#3d7bff",
    Change.STABLE: "#8fd694",
    Change.POSSIBLE: "#d783ff",
}
UNNAMED_COLOUR = COLOURS[Change.STABLE]
"""Of the first visit's lesions: nothing is known of what they did."""
STEP = 0.05
"""Standard deviations that written differences are rounded to."""
LESION_MAP = "space-orig_seg-lesions_dseg"
LESION_COLUMNS = {
    "session_id": "Visit.",
    "lesion_id": "Number of the lesion; it stays the same over all visits of the patient.",
    "volume_mm3": "Volume in the patient's space.",
    "location": "Category of the McDonald criteria; the spinal cord is out of view.",
    "x_mm": "Centre of mass in the patient's space, towards the patient's right (RAS+).",
    "y_mm": "As x_mm, towards the front.",
    "z_mm": "As x_mm, towards the head.",
    "change": "What became of it since the visit before; n/a at the first visit.",
}
STEP_COLUMNS = {
    "prior_session_id": "The visit before.",
    "session_id": "The visit.",
    "change": f"One of {', '.join(Change)}; possible: only the images show it, no mask does, and nothing counts it.",
    "confidence": "Probability that it changed, as simulated rescans have it; n/a if no images were compared.",
    "later_confidence": "The same, once the visit after is known; n/a if there is none.",
    "evidence": "Strongest difference of the FLAIRs at its place, in standard deviations of unchanged tissue; below 0: "
    "it became darker.",
    "t1w_evidence": "Mean difference of the T1ws there; a lesion that grows becomes darker.",
    "prior_lesion_ids": "Numbers of the lesions at the visit before, joined by +.",
    "lesion_ids": "Numbers of the lesions at the visit, joined by +.",
    "prior_volume_mm3": "Their volume at the visit before.",
    "volume_mm3": "Their volume at the visit.",
    "gained_mm3": "Volume that the images show to have become lesion.",
    "lost_mm3": "Volume that they show to be lesion no more.",
    "lineage": "merged: several lesions are one now; split: one is several; else n/a.",
    "x_mm": "Centre of mass in the patient's space, towards the patient's right (RAS+).",
    "y_mm": "As x_mm, towards the front.",
    "z_mm": "As x_mm, towards the head.",
    "error_mm3": "Half width of the estimated 95 % interval of the difference of volumes.",
    "location": "Of the lesion, at the visit or, if it is gone, at the one before; n/a if several differ in it.",
    "returned": "Whether a new lesion has been there at an earlier visit.",
    "reason": "Why it is called so.",
}


def write_lesion_tables(patient: PatientFiles, lesions: Sequence[LesionRow], steps: Sequence[StepRow]) -> None:
    """Write sub-X_lesions.tsv and sub-X_changes.tsv, each with its data dictionary."""
    rows = [
        (_session(r.visit), r.lesion, r.volume_mm3, r.location, *r.centre_mm, r.change)
        for r in lesions
    ]  # fmt: skip
    _write(patient.table("lesions"), LESION_COLUMNS, rows)
    changed = [
        (
            _session(r.prior_visit), _session(r.visit), r.step.change, r.step.confidence, r.step.later_confidence,
            r.step.evidence, r.step.t1w_evidence, _joined(r.step.prior), _joined(r.step.current),
            r.step.prior_mm3, r.step.current_mm3, r.step.gained_mm3, r.step.lost_mm3, r.step.lineage or None,
            *r.centre_mm, r.step.error_mm3, r.location, str(r.step.returned).lower(), r.step.reason,
        )
        for r in steps
    ]  # fmt: skip
    _write(patient.table("changes"), STEP_COLUMNS, changed)


def write_lesion_maps(place: Place, prior: str | None, lesions: Volume, changes: Volume | None, facts: Facts) -> None:
    """Write the map of a visit's lesions and, where there is a visit before, that of their changes."""
    numbers = np.unique(lesions.data[lesions.data > 0]).tolist()
    _write_map(place, LESION_MAP, lesions, {number: f"lesion {number}" for number in numbers}, facts)
    if changes is not None:
        names = dict(enumerate(map(str, Change), start=1))
        _write_map(place, change_map_name(prior or ""), changes, names, facts)


def write_difference(place: Place, prior: str, z: Volume) -> None:
    """Write the evidence of a step, in the patient's space: `z` is in standard deviations of unchanged tissue."""
    name = difference_name(prior)
    write_volume(place.anat(f"{name}.nii.gz"), z.with_data((np.rint(z.data / STEP) * STEP).astype(np.float32)))
    about = {
        "Description": "FLAIR of this visit less that of the visit before, both brought to one sharpness, offset, gain "
        "and bias field, over the standard deviation of the difference in unchanged tissue at edges as steep.",
        "Units": "standard deviations",
        "Sources": [own_uri(one, "space-patient_FLAIR") for one in (place, replace(place, visit=prior))],
        "PriorSession": f"ses-{prior}",
    }
    write_json(place.anat(f"{name}.json"), about)


def difference_name(prior: str) -> str:
    """Name of the difference of the FLAIRs since a visit."""
    return f"space-patient_desc-differenceFrom{prior}_FLAIR"


def change_map_name(prior: str) -> str:
    """Name of the map of changes since a visit."""
    return f"space-orig_seg-change_desc-from{prior}_dseg"


def map_files(place: Place, priors: Sequence[str]) -> list[Path]:
    """What `write_lesion_maps` and `write_difference` write where the visit before is one of these, or none."""
    names = [LESION_MAP, *map(change_map_name, priors)]
    maps = [place.anat(f"{name}{suffix}") for name in names for suffix in (".nii.gz", ".json", ".tsv")]
    differences = [place.anat(f"{difference_name(one)}{suffix}") for one in priors for suffix in (".nii.gz", ".json")]
    return [*maps, *differences]


def table_files(patient: PatientFiles) -> list[Path]:
    """What `write_lesion_tables` writes."""
    tables = [patient.table(name) for name in ("lesions", "changes")]
    return [*tables, *(table.with_suffix(".json") for table in tables)]


def _write(path: Path, columns: Mapping[str, str], rows: Sequence[tuple[Any, ...]]) -> None:
    lines = [list(columns), *([cell(value) for value in row] for row in rows)]
    write_text(path, "".join("\t".join(line) + "\n" for line in lines))
    write_json(path.with_suffix(".json"), {name: {"Description": meaning} for name, meaning in columns.items()})


def _write_map(place: Place, name: str, volume: Volume, names: Mapping[int, str], facts: Facts) -> None:
    write_volume(place.anat(f"{name}.nii.gz"), volume)
    write_json(place.anat(f"{name}.json"), facts)
    write_text(place.anat(f"{name}.tsv"), "".join(f"{i}\t{n}\n" for i, n in [("index", "name"), *names.items()]))


def _session(visit: str) -> str:
    return f"ses-{visit}" if visit else NOT_AVAILABLE


def _joined(numbers: Sequence[int]) -> str | None:
    return "+".join(map(str, numbers)) or None
