"""Detection of changed lesions in tables: counts of every step, means over patients, and FROC over the confidence."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pandas as pd

from lesiondelta.evaluation.changes import CHANGED
from lesiondelta.evaluation.detection import StepDetection
from lesiondelta.evaluation.metrics import SIZES
from lesiondelta.evaluation.statistics import LEAST_PATIENTS, figures
from lesiondelta.files import write_json

STEP_KEYS = ["participant_id", "from_session_id", "to_session_id"]
COUNTS = ["reference", "found", "called", "right"]
MEASURES = ("recall", "precision", "f1", "false_per_step")
FROC_MEASURES = ("recall", "false_per_step")
ANY, ALL = "any", "all"
LIMITS = (0.999, 0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
"""Least confidence of the calls that count, one point of the curve each."""

Row = dict[str, Any]
StepKey = tuple[str, str, str]
Steps = Mapping[StepKey, StepDetection]

STEP_COLUMNS = {
    "participant_id": "Patient.",
    "from_session_id": "The visit before.",
    "to_session_id": "The visit.",
    "source": "Where the called changes come from: calls, the run's own sub-X_changes.tsv; or masks, both predicted "
    "masks alone.",
}
COUNT_COLUMNS = {
    "change": f"One of {', '.join(CHANGED)}.",
    "size": "By the larger volume at the two visits, of the reference's lesion or of the called one: small (under 10 "
    "mm3), medium, large (over 100 mm3).",
    "reference": "Lesions of the reference that changed so.",
    "found": "Of these, how many a call of the same class touches, or lies no more than 1 mm from.",
    "called": "Lesions that are called so.",
    "right": "Of these, how many touch a lesion of the reference of the same class, or lie no more than 1 mm from it.",
}
MEANINGS = {
    "recall": "Found by reference.",
    "precision": "Right by called.",
    "f1": "Harmonic mean of recall and precision: 0 where nothing is found or right, n/a where the reference has none.",
    "false_per_step": "Called and not right, by steps.",
}


def _described(measures: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """The columns of measures and their intervals, with their meanings."""
    for name in measures:
        yield name, f"{MEANINGS[name]} Of all steps of a patient together, then the mean over patients."
        yield f"{name}_low", f"Lower end of the 95 % BCa bootstrap interval over patients; from {LEAST_PATIENTS} on."
        yield f"{name}_high", "Upper end of it."
        yield f"{name}_patients", "Patients in the mean: those for whom it is not 0 / 0."


TABLES = {
    "changes_per_step": {**STEP_COLUMNS, **COUNT_COLUMNS},
    "changes_detection": {
        **COUNT_COLUMNS,
        "change": f"One of {', '.join(CHANGED)}; or {ANY}: all of these, each right only in its own class.",
        "size": f"{COUNT_COLUMNS['size']} {ALL}: all of these.",
        **dict(_described(MEASURES)),
    },
    "froc": {
        "change": f"One of {', '.join(CHANGED)}; or {ANY}: all of these, each right only in its own class.",
        "limit": "Least confidence of the calls that count.",
        **dict(_described(FROC_MEASURES)),
    },
}
"""Columns of every table and what they mean."""
SUMMARISED = {"changes_detection": "detection", "froc": "froc"}
"""Tables that are in the summary, by their names there."""


def count_table(steps: Steps) -> pd.DataFrame:
    """How many changed lesions there are and are found, are called and are right, by step, class and size."""
    rows = [
        (*key, step.source, str(change), size, *_counts(step, change, size))
        for key, step in steps.items() for change in CHANGED for size in SIZES
    ]  # fmt: skip
    return frame("changes_per_step", rows)


def detection_rows(counts: pd.DataFrame) -> list[Row]:
    """Recall, precision, F1 and false changes by class and size: means over patients, each of all steps together."""
    rows: list[Row] = []
    for change, size in product((ANY, *CHANGED), (ALL, *SIZES)):
        sums = patient_sums(counts, change, size)
        totals = {name: int(sums[name].sum()) for name in COUNTS}
        rows.append({"change": str(change), "size": size, **totals, **_means(sums, MEASURES)})
    return rows


def froc_rows(steps: Steps) -> list[Row]:
    """Recall against false changes a step as the limit on confidence falls, to the least confidence of any call.

    Only steps whose calls have a confidence count.
    """
    graded = {key: step for key, step in steps.items() if step.is_graded}
    if not graded:
        return []
    least = min((one.confidence or 0.0 for step in graded.values() for one in step.called), default=1.0)
    limits = [LIMITS[0], *(limit for above, limit in pairwise(LIMITS) if above > least)]
    counts = [count_table({key: step.at_limit(limit) for key, step in graded.items()}) for limit in limits]
    return [
        {"change": str(change), "limit": limit, **_means(patient_sums(own, change, ALL), FROC_MEASURES)}
        for change in (ANY, *CHANGED) for limit, own in zip(limits, counts, strict=True)
    ]  # fmt: skip


def patient_sums(counts: pd.DataFrame, change: str, size: str) -> pd.DataFrame:
    """A row a patient: the sums of the counts over its steps, and how many steps there are."""
    steps = counts.drop_duplicates(STEP_KEYS).groupby("participant_id", sort=False).size()
    own = counts[counts["change"].isin(CHANGED if change == ANY else [change])]
    own = own[own["size"].isin(SIZES if size == ALL else [size])]
    return own.groupby("participant_id", sort=False)[COUNTS].sum().assign(steps=steps)


def summarise(steps: Steps, counts: pd.DataFrame) -> dict[str, Any]:
    """For summary.json: the means, the curve, and how many steps rest on a run's calls, on masks alone, and why."""
    names = {key: " ".join(key) for key in steps}
    return {
        "steps_by_calls": sum(step.source == "calls" for step in steps.values()),
        "steps_by_masks": sum(step.source == "masks" for step in steps.values()),
        "calls_not_used": {names[key]: step.note for key, step in steps.items() if step.note},
        "without_confidence": [
            names[key] for key, step in steps.items() if step.source == "calls" and not step.is_graded
        ],
        "detection": detection_rows(counts),
        "froc": froc_rows(steps),
    }


def frame(name: str, rows: Sequence[Row | tuple[Any, ...]]) -> pd.DataFrame:
    """Rows of a table with all its columns."""
    return pd.DataFrame(rows, columns=list(TABLES[name]))


def write_dictionaries(out: Path) -> None:
    """Write what the columns mean beside the tables."""
    for name, columns in TABLES.items():
        write_json(out / f"{name}.json", {column: {"Description": meaning} for column, meaning in columns.items()})


def _counts(step: StepDetection, change: str, size: str) -> tuple[int, int, int, int]:
    reference, called = (
        [one.hit for one in side if (one.change, one.size) == (change, size)] for side in (step.reference, step.called)
    )
    return len(reference), sum(reference), len(called), sum(called)


def _means(sums: pd.DataFrame, measures: tuple[str, ...]) -> Row:
    """The means over patients, with their intervals."""
    recall, precision = sums["found"] / sums["reference"], sums["right"] / sums["called"]
    nothing = recall.eq(0) | (precision.eq(0) & recall.notna())
    by_patient = {
        "recall": recall,
        "precision": precision,
        "f1": (2 * recall * precision / (recall + precision)).mask(nothing, 0.0),
        "false_per_step": (sums["called"] - sums["right"]) / sums["steps"],
    }
    row: Row = {}
    for name in measures:
        found = figures(by_patient[name].to_numpy(dtype=float))
        row[name] = found["mean"]
        row |= {f"{name}_{part}": found[part] for part in ("low", "high", "patients")}
    return row
