"""The paper's tables from a study's scores, in Markdown, LaTeX and TSV.

Table 1 is the cohort; Table 2 cross-validation and test side by side; Table 3 the external cohort; Table 4 as Table 2
without the size filter (Rokuss et al. 2024). Means over patients with 95 % BCa intervals, from six patients on. The
best method of a column is bold; the best prior work is underlined: neither the method of the paper nor its ablation,
concatenation, is prior work.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
import pandas as pd

from lesiondelta.comparison.predictions import seconds
from lesiondelta.comparison.study import Results, Split, Study
from lesiondelta.errors import InputError
from lesiondelta.evaluation.statistics import differences, mean_interval, rank_stability
from lesiondelta.methods import ExternalMethod, Method

Form = Literal["md", "tex", "tsv"]

MEASURES = {"dsc": "DSC", "hd95_mm": "HD95 (mm)", "lesion_f1": "F1"}
LOWER_IS_BETTER = ("hd95_mm",)
NOT_PRIOR_WORK = ("difference_weighting", "longitudinal_concat")
TITLES: Mapping[Split, str] = {"cv": "cross-validation", "test": "test", "external": "external"}
PAPER = {  # test scores of the paper's Table 2: DSC, HD95 in mm, F1
    "nnunet": (0.742, 4.95, 0.713),
    "longitudinal_concat": (0.753, 4.59, 0.729),
    "difference_weighting": (0.756, 4.61, 0.733),
    "samseg": (0.455, 15.8, 0.331),
}


@dataclass(frozen=True)
class Cell:
    """A mean over patients; the interval is NaN where there are too few."""

    mean: float
    low: float = np.nan
    high: float = np.nan
    best: bool = False
    best_prior_work: bool = False

    def text(self, form: Form, digits: int) -> str:
        """As it stands in a table."""
        mean = f"{self.mean:.{digits}f}"
        bold, under = {
            "md": ("**{}**", "<u>{}</u>"),
            "tex": (r"\textbf{{{}}}", r"\underline{{{}}}"),
            "tsv": ("{}",) * 2,
        }[form]
        marked = bold.format(mean) if self.best else under.format(mean) if self.best_prior_work else mean
        if np.isnan(self.low):
            return marked
        to = "--" if form == "tex" else "-"
        return f"{marked} ({self.low:.{digits}f}{to}{self.high:.{digits}f})"


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading ("group: column" or "column"); a row with one cell is a group's title."""

    title: str
    heading: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


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
    title: str, study: Study, results: Results, splits: Sequence[Split], form: Form, *, filtered: bool = True,
    paper: bool = False,
) -> Table:  # fmt: skip
    """Tables 2 to 4: methods, grouped into single-visit and longitudinal, by the measures of each split."""
    columns = [(split, measure) for split in splits if split in study.splits for measure in MEASURES]
    cells = {column: _column(study.scored, results, *column, filtered=filtered) for column in columns}
    heading = ("method", *(f"{TITLES[split]}: {MEASURES[measure]}" for split, measure in columns))
    if paper:
        heading += tuple(f"paper's test: {title}" for title in MEASURES.values())
    rows: list[tuple[str, ...]] = []
    every: tuple[Method | ExternalMethod, ...] = (*study.absent, *study.scored)
    for group, longitudinal in (("single visit", False), ("longitudinal", True)):
        members = [m for m in every if m.longitudinal == longitudinal]
        rows += [(group,)] if members else []
        for method in members:
            texts = [_text(cells[column].get(method.name), form, _digits(column[1])) for column in columns]
            rows.append((method.title, *texts, *(_papers(method.name) if paper else ())))
    return Table(title, heading, tuple(rows), tuple(f"{m.title}: {reason}" for m, reason in study.absent.items()))


def size_table(study: Study, parameters: Mapping[str, int], training: Mapping[str, float]) -> Table:
    """Table 5: parameters, minutes of a training, seconds a visit of a patient predicted by one model; means.

    Parameters
    ----------
    parameters, training : by method's name; `training` in seconds, mean over folds.
    """
    visits = sum(len(patient.visits) for patient in study.cohort)
    rows = []
    for method in study.scored:
        folder, trained = study.predictions("cv", method), method.name in parameters
        predicting = sum(seconds(folder, patient.label) for patient in study.cohort) / visits
        size = (f"{parameters[method.name]:,}", f"{training[method.name] / 60:.1f}") if trained else ("-", "-")
        rows.append((method.title, *size, f"{predicting:.1f}"))
    title = f"Table 5. Size and time ({study.device}, {study.threads} threads)"
    return Table(title, ("method", "parameters", "training, min per fold", "prediction, s per visit"), tuple(rows))


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
    return pd.DataFrame(rows)


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
    return pd.DataFrame(rows)


def rendered(table: Table, form: Form) -> str:
    """Markdown, LaTeX (booktabs) or TSV."""
    width = len(table.heading)
    if form == "tsv":
        rows = [table.heading, *(row for row in table.rows if len(row) > 1)]
        return "".join("\t".join(row) + "\n" for row in rows)
    if form == "md":
        lines = [f"**{table.title}**", "", _md(table.heading), _md(("---",) * width)]
        lines += [_md((f"*{row[0]}*",) + ("",) * (width - 1)) if len(row) == 1 else _md(row) for row in table.rows]
        return "\n".join([*lines, *(f"\n{note}" for note in table.notes)]) + "\n"
    body = [
        rf"\multicolumn{{{width}}}{{l}}{{\textit{{{_tex(row[0])}}}}} \\" if len(row) == 1 else _tex_row(row)
        for row in table.rows
    ]
    columns = "l" + "r" * (width - 1)
    begin = [r"\begin{table}", rf"\caption{{{_tex(table.title)}}}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    end = [r"\bottomrule", r"\end{tabular}", *(rf"\par\footnotesize {_tex(note)}" for note in table.notes)]
    return "\n".join([*begin, *_tex_heading(table.heading), r"\midrule", *body, *end, r"\end{table}"]) + "\n"


def _column(
    methods: Sequence[Method | ExternalMethod], results: Results, split: Split, measure: str, *, filtered: bool
) -> dict[str, Cell]:
    values = _values(methods, results, split, measure, filtered=filtered)
    means = {name: float(np.nanmean(value)) for name, value in values.items()}
    best = min if measure in LOWER_IS_BETTER else max
    prior_work = [name for name in means if name not in NOT_PRIOR_WORK]
    first = best(means, key=lambda name: means[name])
    first_prior = best(prior_work, key=lambda name: means[name]) if prior_work else None
    cells = {}
    for name, value in values.items():
        try:
            interval = mean_interval(value)
            low, high = interval.low, interval.high
        except InputError:
            low, high = np.nan, np.nan
        cells[name] = Cell(means[name], low, high, name == first, name == first_prior)
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


def _text(cell: Cell | None, form: Form, digits: int) -> str:
    return "-" if cell is None else cell.text(form, digits)


def _papers(name: str) -> tuple[str, ...]:
    known = PAPER.get(name)
    if known is None:
        return ("-",) * len(MEASURES)
    return tuple(f"{value:.{_digits(measure)}f}" for value, measure in zip(known, MEASURES, strict=True))


def _digits(measure: str) -> int:
    return 2 if measure.endswith("_mm") else 3


def _md(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _tex(text: str) -> str:
    return text.replace("%", r"\%").replace("_", r"\_").replace("&", r"\&")


def _tex_heading(heading: Sequence[str]) -> list[str]:
    """Columns, and above them their groups where they have some."""
    names = [_tex(name.rpartition(": ")[2]) for name in heading]
    spans, rules, at = [], [], 1
    for group, members in groupby(heading, key=lambda name: name.rpartition(": ")[0]):
        width = len(list(members))
        spans.append(rf"\multicolumn{{{width}}}{{c}}{{{_tex(group)}}}" if group else " & " * (width - 1))
        rules += [rf"\cmidrule(lr){{{at}-{at + width - 1}}}"] if group else []
        at += width
    above = [" & ".join(spans) + r" \\", "".join(rules)] if rules else []
    return [*above, " & ".join(names) + r" \\"]


def _tex_row(row: Sequence[str]) -> str:
    """The first cell is a name; the others are made for LaTeX already."""
    return " & ".join((_tex(row[0]), *row[1:])) + r" \\"
