"""False changes in real heads in whom nothing changed: `python recipes/evidence_rescans.py WORK docs/results/evidence`.

The second visit of each open patient is the first one's images, moved (6 mm, 5 degrees), cut into slices elsewhere,
with noise and a bias field added; `run` treats both as it treats anybody's. Every change is false. WORK keeps dataset
and results. Writes rescans.md and rescans.tsv.
"""

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from evidence_confidence import interval

from lesiondelta.cohort import Change
from lesiondelta.files import write_json
from lesiondelta.images import Affine, Volume, read_image, resample, write_volume
from lesiondelta.inputs.bids import read_cohort
from lesiondelta.outputs.derivatives import PatientFiles
from lesiondelta.pipeline.cohort_run import check_start, run_cohort
from lesiondelta.pipeline.patient_run import RunPlan
from lesiondelta.pipeline.segmented import SegmentedPatient, read_segmented
from lesiondelta.pipeline.tracked_lesions import track_lesions
from lesiondelta.preprocessing.elastix import euler_matrix
from lesiondelta.records import read_record
from lesiondelta.settings import Sensitivity, Settings, TrackingSettings
from lesiondelta.simulation.fields import smooth_field
from lesiondelta.tracking import TrackedVisit, Tracking, track

DATA = Path(os.environ.get("LESIONDELTA_DATA", Path(__file__).parents[2] / "shared" / "data"))
HEADS = {
    "04": "ljubljana-longitudinal/sub-04/ses-1/anat", "20": "ljubljana-longitudinal/sub-20/ses-2/anat",
    "12": "ljubljana-longitudinal/sub-12/ses-1/anat",
    **{name: f"tabriz/sub-{name}/anat" for name in ("T01", "T02", "T04", "T05", "T06", "T07", "T08")},
}  # fmt: skip
SHIFT_MM, TURN = (6.0, -4.0, 1.0), (0.02, -0.02, 0.08)
NOISE, BIAS, BIAS_MM = 0.03, 0.1, 70.0
"""Shares of the head's brightness, and over which the bias field changes."""


def moved(image: Volume, seed: int) -> Volume:
    """The image of the same head, otherwise laid, on the same kind of grid, with noise and a bias field."""
    rng = np.random.default_rng(seed)
    pose: Affine = np.eye(4)
    pose[:3, :3], pose[:3, 3] = euler_matrix(*TURN), SHIFT_MM
    found = resample(image, image.grid, pose).data
    level = float(np.percentile(image.data, 90))
    field = np.exp(BIAS * smooth_field(rng, found.shape, BIAS_MM / float(image.grid.spacing.max())))
    noisy = np.abs(found * field + rng.normal(0, NOISE * level, found.shape))
    return replace(image, data=np.where(found > 0, noisy, 0).astype(np.float32))


def dataset(data: Path, work: Path, people: list[str]) -> Path:
    """A BIDS dataset of both visits of everybody."""
    raw = work / "raw"
    for number, person in enumerate(people):
        for contrast in ("T1w", "FLAIR"):
            source = next((data / HEADS[person]).glob(f"*_{contrast}.nii.gz"))
            for visit in ("1", "2"):
                path = raw / f"sub-{person}" / f"ses-{visit}" / "anat" / f"sub-{person}_ses-{visit}_{contrast}.nii.gz"
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    image = read_image(source)
                    write_volume(path, image if visit == "1" else moved(image, number))
    write_json(raw / "dataset_description.json", {"Name": "rescans", "BIDSVersion": "1.10.0"})
    return raw


def false_changes(patient: SegmentedPatient, threshold: float) -> Iterator[dict[str, Any]]:
    """A row for every way of tracking."""
    masks = [TrackedVisit(v.mask.data, v.probability.data, 3.0) for v in patient.visits]
    yield counted(patient, "masks alone", track(masks, float(patient.prepared.grid.spacing[0]), threshold))
    for choice in get_args(Sensitivity):
        settings = TrackingSettings(sensitivity=choice)
        yield counted(patient, choice, track_lesions(patient.prepared, patient.visits, threshold, settings).tracking)


def counted(patient: SegmentedPatient, name: str, found: Tracking) -> dict[str, Any]:
    """What is called."""
    changes = [one.change for one in found.changes[0]]
    more, less = {Change.NEW, Change.ENLARGING}, {Change.SHRINKING, Change.RESOLVED}
    return {
        "participant_id": f"sub-{patient.prepared.label}", "tracked": name, "lesions": patient.visits[0].lesions,
        "new or enlarging": sum(one in more for one in changes),
        "shrinking or resolved": sum(one in less for one in changes),
    }  # fmt: skip


def main() -> None:
    """Move, run, count, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--people", nargs="+", choices=list(HEADS), default=list(HEADS))
    parser.add_argument("--data", type=Path, default=DATA)
    given = parser.parse_args()
    raw, out = dataset(given.data, given.work, given.people), given.work / "out"
    run_cohort(read_cohort(raw, participants=given.people), check_start(RunPlan(out, raw, Settings())))
    rows: list[dict[str, Any]] = []
    for person in given.people:
        record = read_record(out, person)
        if record is None or record.provenance is None or len(record.segmented_visits) < 2:
            print(f"sub-{person}: {[result.reason for result in record.results] if record else 'nothing'}")
            continue
        patient = read_segmented(PatientFiles(out, person), record.prepared, record.provenance)
        rows += false_changes(patient, record.provenance.threshold)
    table = pd.DataFrame(rows)
    given.folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(given.folder / "rescans.tsv", sep="\t", index=False)
    (given.folder / "rescans.md").write_text(page(table, given.people), encoding="utf-8")
    print(page(table, given.people))


def page(table: pd.DataFrame, asked: list[str]) -> str:
    """rescans.md."""
    lines = ["| tracked by | false new or enlarging a step | false shrinking or resolved a step |", "|---|---|---|"]
    for name in table.tracked.unique():
        own = table[table.tracked == name]
        shown = [interval(own[column].to_numpy(float)) for column in ("new or enlarging", "shrinking or resolved")]
        lines.append(f"| {name} | {shown[0]} | {shown[1]} |")
    refused = [f"sub-{name}" for name in asked if f"sub-{name}" not in set(table.participant_id)]
    left_out = f"\nNot among them: {', '.join(refused)}, of whom `run` refused a visit." if refused else ""
    return f"""# Real heads rescanned

```
python recipes/evidence_rescans.py WORK docs/results/evidence --people {" ".join(asked)}
```

{table.participant_id.nunique()} open patients (Ljubljana, CC-BY; Tabriz, MIT), whose second visit is the first one's
images, moved, cut into slices elsewhere, with noise ({NOISE:.0%}) and a bias field ({BIAS:.0%}): every change is false.
Means over patients, with 95 % bootstrap intervals where they are six or more; [rescans.tsv](rescans.tsv) has a row for
each.{left_out}

{chr(10).join(lines)}
"""


if __name__ == "__main__":
    main()
