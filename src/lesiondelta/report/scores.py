"""The page of `evaluate`: tables and distributions over patients, one HTML file that opens offline."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesiondelta import __version__
from lesiondelta.files import write_text
from lesiondelta.report.change_scores import as_svg, change_notes, detection_rows, froc_figure, froc_points

GROUPS: Mapping[str, Mapping[str, str]] = {
    "Overlap and distance": {
        "dsc": "DSC", "iou": "IoU", "sensitivity": "sensitivity", "ppv": "PPV", "hd95_mm": "HD95 (mm)",
        "assd_mm": "ASSD (mm)", "nsd": "surface within 1 mm",
    },
    "Lesions": {
        "lesion_f1": "lesion F1", "lesion_recall": "lesion recall", "lesion_precision": "lesion precision",
        "lesion_recall_small": "recall, under 10 mm³", "lesion_recall_medium": "recall, 10 to 100 mm³",
        "lesion_recall_large": "recall, over 100 mm³", "lesion_precision_small": "precision, under 10 mm³",
        "lesion_precision_medium": "precision, 10 to 100 mm³", "lesion_precision_large": "precision, over 100 mm³",
        "ltpr": "LTPR (one voxel)", "lfpr": "LFPR (one voxel)", "reference_lesions": "lesions, reference",
        "predicted_lesions": "lesions, prediction",
    },
    "Volume": {
        "reference_volume_mm3": "reference (mm³)", "predicted_volume_mm3": "prediction (mm³)",
        "volume_difference_mm3": "prediction - reference (mm³)",
        "absolute_volume_difference_mm3": "either way (mm³)",
    },
    "Change from visit to visit": {
        "reference_change_mm3": "change of volume, reference (mm³)",
        "predicted_change_mm3": "change of volume, prediction (mm³)",
        "reference_new_lesions": "new lesions, reference", "predicted_new_lesions": "new lesions, prediction",
        "new_lesion_f1": "F1 of new lesions", "new_lesion_dsc": "DSC of new lesions",
        "false_new_lesions": "false new lesions where there are none",
        "false_new_volume_mm3": "their volume (mm³)", "unchanged_lesions": "unchanged lesions",
        "unchanged_seen": "of them predicted at both visits",
        "unchanged_alike": "of them predicted at both visits or at neither",
        "unchanged_predicted_change": "relative change predicted in them",
    },
}  # fmt: skip
SHOWN = {
    "dsc": "DSC", "lesion_f1": "lesion F1", "lesion_recall": "lesion recall", "lesion_precision": "lesion precision",
    "nsd": "surface within 1 mm", "hd95_mm": "HD95 (mm)",
}  # fmt: skip
DOT, BAR = "#2f6fb3", "#c2410c"
RULES = {
    "penalise": "Where both are empty a score has its best value, where one is, its worst.",
    "nan": "Scores without a value of their own are left out.",
}


def write_page(
    path: Path, summary: Mapping[str, Any], patients: pd.DataFrame, reference: Path, prediction: Path
) -> None:
    """Write the page atomically; `summary` and `patients` as `evaluation.tables.evaluate` makes them."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("lesiondelta.report"), autoescape=True, undefined=StrictUndefined)
    measures = summary["measures"]
    shown = [name for name in SHOWN if name in measures]
    page = environment.get_template("scores.html").render(
        summary=summary,
        reference=str(reference),
        prediction=str(prediction),
        notes=_notes(summary),
        groups=[(title, rows) for title, names in GROUPS.items() if (rows := _rows(names, measures))],
        has_intervals=any(figures["low"] is not None for figures in measures.values()),
        figure=_figure(shown, measures, patients),
        patient_columns=[SHOWN[name] for name in shown],
        patient_rows=[
            (row["participant_id"], row["visits"], *(_number(row[name], _digits(name)) for name in shown))
            for row in patients.to_dict("records")
        ],
        detection=detection_rows(summary["changes"]),
        froc=froc_figure(summary["changes"]["froc"]),
        froc_points=froc_points(summary["changes"]),
        volume_correlation=_number(summary["volume_correlation"]),
        change=_change(summary["volume_change"]),
        isbi=_isbi(summary["isbi2015"]),
        rule=RULES[summary["settings"]["undefined"]] if summary["settings"]["convention"] == "lesiondelta" else "",
        version=__version__,
        settings=", ".join(f"{name.replace('_', ' ')} {value}" for name, value in summary["settings"].items() if value),
    )
    write_text(path, page)


def _notes(summary: Mapping[str, Any]) -> list[str]:
    lists = (
        ("missing_predictions", "Visits without a prediction, which are in no mean"),
        ("predictions_without_reference", "Predictions without a reference, which are not scored"),
    )
    notes = [f"{title}: {', '.join(summary[name])}." for name, title in lists if summary[name]]
    skipped = summary["change_not_scored"]
    notes += [f"Change is not scored, {step}: {why}." for step, why in skipped.items()]
    return notes + change_notes(summary["changes"])


def _rows(names: Mapping[str, str], measures: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for name, title in names.items():
        if name in measures:
            figures = measures[name]
            low, high, mean, sd = (_number(figures[key], _digits(name)) for key in ("low", "high", "mean", "sd"))
            interval = "" if figures["low"] is None else f"{low} to {high}"
            rows.append(
                {"title": title, "interval": interval, "patients": str(figures["patients"]), "mean": mean, "sd": sd}
            )
    return rows


def _number(value: float | None, digits: int = 3) -> str:
    """A dash where there is none."""
    return "-" if value is None or np.isnan(value) else f"{value:.{digits}f}"


def _digits(name: str) -> int:
    """After the point: shares have three, millimetres two, lesions and mm3 one."""
    if name.endswith("_mm"):
        return 2
    return 1 if name.endswith(("_mm3", "_lesions", "unchanged_seen", "unchanged_alike")) else 3


def _change(agreement: Mapping[str, Any]) -> str:
    if agreement["bias_mm3"] is None:
        return ""
    text = f"Change of volume, prediction - reference: {_number(agreement['bias_mm3'], 1)} mm³ on average over patients"
    if agreement["lower_limit_mm3"] is not None:
        limits = (_number(agreement[f"{side}_limit_mm3"], 1) for side in ("lower", "upper"))
        text += f", limits of agreement {' to '.join(limits)} mm³"
    return f"{text}; correlation over steps {_number(agreement['correlation'])}."


def _isbi(score: Mapping[str, Any]) -> str:
    if score["mean_over_visits"] is None:
        return ""
    text = f"{_number(score['mean_over_visits'])} of 1 on average over visits, unscaled"
    scaled = _number(score["scaled"], 1)
    return text if score["scaled"] is None else f"{text}; {scaled} where a perfect mask has 100 and the second rater 90"


def _figure(shown: Sequence[str], measures: Mapping[str, Any], patients: pd.DataFrame) -> str:
    """Dots and means as SVG; nothing where no score is defined."""
    if not shown:
        return ""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lesiondelta", "font.size": 10}):
        figure = Figure(figsize=(1.9 * len(shown), 3.0), layout="constrained")
        for axes, name in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
            values, figures = patients[name].dropna().to_numpy(dtype=float), measures[name]
            axes.scatter(_beside(values), values, s=16, color=DOT, alpha=0.75, linewidths=0)
            axes.hlines(figures["mean"], -0.45, 0.45, color=BAR, linewidth=1.6)
            if figures["low"] is not None:
                axes.vlines(0, figures["low"], figures["high"], color=BAR, linewidth=1.6)
            axes.set(title=SHOWN[name], xlim=(-0.7, 0.7), xticks=[])
            axes.set_ylim((-0.03, 1.03) if not name.endswith("_mm") else (0, 1.08 * max(values.max(initial=0), 1)))
            axes.spines[["top", "right", "bottom"]].set_visible(False)
        return as_svg(figure)


def _beside(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Places to the left and right, so that equal values stay apart; the same for the same values."""
    return np.random.default_rng(0).uniform(-0.28, 0.28, len(values))
