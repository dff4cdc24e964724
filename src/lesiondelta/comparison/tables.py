"""The paper's tables from a study's scores.

Table 1 is the cohort; Table 2 cross-validation and test side by side; Table 3 the external cohort; Table 4 as Table 2
without the size filter (Rokuss et al. 2024); Table 5 sizes and times. Means over patients with 95 % BCa intervals, from
six patients on. The best of a column are marked, and the best prior work: neither the method of the paper nor its
ablation, concatenation, is prior work.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lesiondelta.comparison.predictions import prediction_record
from lesiondelta.comparison.rendering import Cell, Table
from lesiondelta.comparison.study import Results, Split, Study
from lesiondelta.errors import InputError
from lesiondelta.evaluation.statistics import differences, mean_interval, rank_stability
from lesiondelta.methods import ExternalMethod, Method

MEASURES = {"dsc": "DSC", "hd95_mm": "HD95 (mm)", "lesion_f1": "F1"}
LOWER_IS_BETTER = ("hd95_mm",)
NOT_PRIOR_WORK = (
    "difference_weighting", "longitudinal_concat", "difference_weighting_random", "difference_weighting_resenc",
    "longitudinal_concat_random",
)  # fmt: skip
SIGNIFICANCE = (
    "split", "measure", "first", "second", "patients", "difference", "low", "high", "p", "p_holm", "rank_biserial",
)  # fmt: skip
TITLES: Mapping[Split, str] = {"cv": "cross-validation", "test": "test", "external": "external"}
PAPER = {  # test scores of the paper's Table 2: DSC, HD95 in mm, F1
    "nnunet": (0.742, 4.95, 0.713),
    "longitudinal_concat": (0.753, 4.59, 0.729),
    "difference_weighting": (0.756, 4.61, 0.733),
    "samseg": (0.455, 15.8, 0.331),
}


def cohort_table(study: Study) -> Table:
    """Table 1: patients and scans by split."""
    rows = []
    for split, patients in study.splits.items():
        visits = [len(patient.visits) for patient in patients]
        spread = f"{min(visits)}-{max(visits)}" if min(visits) < max(visits) else str(min(visits))
        used = f"{study.folds} folds, by patient" if split == "cv" else f"ensemble of {study.folds} folds"
        rows.append((TITLES[split], str(len(patients)), str(sum(visits)), spread, used))
    return Table("Table 1. Cohort", ("split", "patients", "scans", "scans per patient", "models"), tuple(rows))


def score_table(
    title: str, study: Study, results: Results, splits: Sequence[Split], *, filtered: bool = True, paper: bool = False
) -> Table:
    """Tables 2 to 4: methods, grouped into single-visit and longitudinal, by the measures of each split."""
    columns = [(split, measure) for split in splits if split in study.splits for measure in MEASURES]
    cells = {column: _column(study.scored, results, *column, filtered=filtered) for column in columns}
    heading = ["method", *(f"{TITLES[split]}: {MEASURES[measure]}" for split, measure in columns)]
    if paper:
        heading += [f"paper's test: {measure}" for measure in MEASURES.values()]
    rows: list[tuple[str | Cell, ...]] = []
    every: tuple[Method | ExternalMethod, ...] = (*study.absent, *study.scored)
    for group, longitudinal in (("single visit", False), ("longitudinal", True)):
        members = [m for m in every if m.longitudinal == longitudinal]
        rows += [(group,)] if members else []
        for method in members:
            found = [cells[column].get(method.name, "-") for column in columns]
            rows.append((method.title, *found, *(_papers(method.name) if paper else ())))
    notes = [f"{m.title}: {reason}" for m, reason in study.absent.items()]
    return Table(title, tuple(heading), tuple(rows), (*notes, _empty_masks(study, results, splits, filtered)))


def _empty_masks(study: Study, results: Results, splits: Sequence[Split], filtered: bool) -> str:
    """How many visits have a reference or a prediction without a lesion, where scores are the best or the worst."""
    counts = []
    for split in splits:
        for method in study.scored if split in study.splits else ():
            scored = results[split, method.name]
            visits = int((scored.filtered if filtered else scored.unfiltered)["empty_visits"].sum())
            counts += [f"{method.title} {visits} ({TITLES[split]})"] if visits else []
    return f"Visits with an empty mask: {', '.join(counts) or 'none'}."


def size_table(
    study: Study,
    parameters: Mapping[str, int],
    windows: Mapping[str, Sequence[int] | None],
    trainings: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Table:
    """Table 5: sizes, samples and minutes of a training, seconds a visit of a patient predicted by one model; means.

    Parameters
    ----------
    parameters, windows, trainings : by method's name; of every fold, what its model says of the training.
    """
    visits = sum(len(patient.visits) for patient in study.cohort)
    rows, predictions = [], []
    for method in study.scored:
        folder = study.predictions("cv", method)
        predicted = [prediction_record(folder, patient.label) for patient in study.cohort]
        predictions += predicted
        prediction = sum(record["seconds"] for record in predicted) / visits
        folds = trainings.get(method.name, ())
        size = _size(parameters[method.name], windows[method.name], folds) if folds else ("-",) * 4
        rows.append((method.title, *size, f"{prediction:.1f}"))
    notes = (
        f"Trained on {_where([fold for folds in trainings.values() for fold in folds])}, "
        f"predicted on {_where(predictions)}.",
    )
    heading = (
        "method", "parameters", "window", "samples seen per fold", "training, min per fold", "prediction, s per visit",
    )  # fmt: skip
    return Table("Table 5. Size, budget and time", heading, tuple(rows), notes)


def _size(parameters: int, window: Sequence[int] | None, folds: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    samples = np.mean([fold["iterations_done"] * fold["batch"] for fold in folds])
    minutes = np.mean([fold["seconds"] / 60 for fold in folds])
    edges, what = ("x".join(map(str, window)), "patches") if window else ("whole", "slices")
    return f"{parameters:,}", edges, f"{samples:,.0f} {what}", f"{minutes:.1f}"


def _where(records: Sequence[Mapping[str, Any]]) -> str:
    """Device and threads as the records have them; several where they differ."""
    return " or ".join(
        sorted({f"{r['device']} with {r['threads'] or 'an unrecorded number of'} threads" for r in records})
    )


def significance_table(study: Study, results: Results) -> pd.DataFrame:
    """Every pair of methods in every split and measure: difference with interval, p, p after Holm, effect size.

    Holm's correction is over the pairs of one split and measure. Splits of fewer than six patients are left out.
    """
    rows = []
    for split in study.splits:
        for measure in MEASURES:
            try:
                pairs = differences(_values(study.scored, results, split, measure))
            except InputError:  # too few patients
                continue
            rows += [
                {
                    "split": split, "measure": measure, "first": pair.first, "second": pair.second,
                    "patients": pair.patients, "difference": pair.interval.mean, "low": pair.interval.low,
                    "high": pair.interval.high, "p": pair.p, "p_holm": pair.p_holm, "rank_biserial": pair.rank_biserial,
                }
                for pair in pairs
            ]  # fmt: skip
    return pd.DataFrame(rows, columns=SIGNIFICANCE)


def first_places(study: Study, results: Results) -> pd.DataFrame:
    """Share of bootstrap samples of patients in which a method is the best, by split and measure."""
    rows = []
    for split in study.splits:
        for measure in MEASURES:
            values = _values(study.scored, results, split, measure)
            try:
                shares = rank_stability(values, higher_is_better=measure not in LOWER_IS_BETTER)
            except InputError:
                continue
            rows.append({"split": split, "measure": measure, **shares})
    return pd.DataFrame(rows, columns=["split", "measure", *(method.name for method in study.scored)])


def _column(
    methods: Sequence[Method | ExternalMethod], results: Results, split: Split, measure: str, *, filtered: bool
) -> dict[str, Cell]:
    values = _values(methods, results, split, measure, filtered=filtered)
    digits = _digits(measure)
    means = {name: round(float(np.nanmean(value)), digits) for name, value in values.items()}  # as they are shown
    best = min if measure in LOWER_IS_BETTER else max
    first = best(means.values())
    first_prior = best((mean for name, mean in means.items() if name not in NOT_PRIOR_WORK), default=np.nan)
    cells = {}
    for name, value in values.items():
        try:
            interval = mean_interval(value)
            low, high = interval.low, interval.high
        except InputError:
            low, high = np.nan, np.nan
        prior_work = name not in NOT_PRIOR_WORK
        mean = float(np.nanmean(value))
        cells[name] = Cell(mean, low, high, digits, means[name] == first, prior_work and means[name] == first_prior)
    return cells


def _values(
    methods: Sequence[Method | ExternalMethod], results: Results, split: Split, measure: str, *, filtered: bool = True
) -> dict[str, np.ndarray]:
    """(N,) values by method, patient by patient in one order."""
    tables = {m.name: results[split, m.name] for m in methods}
    chosen = {name: scored.filtered if filtered else scored.unfiltered for name, scored in tables.items()}
    return {
        name: table.set_index("participant_id")[measure].sort_index().to_numpy(dtype=float)
        for name, table in chosen.items()
    }


def _papers(name: str) -> tuple[str, ...]:
    known = PAPER.get(name)
    if known is None:
        return ("-",) * len(MEASURES)
    return tuple(f"{value:.{_digits(measure)}f}" for value, measure in zip(known, MEASURES, strict=True))


def _digits(measure: str) -> int:
    return 2 if measure.endswith("_mm") else 3
