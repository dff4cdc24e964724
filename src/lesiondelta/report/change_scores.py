"""Detection of changes on the page of `evaluate`: a table by class and size, and the FROC curve."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lesiondelta.cohort import Change
from lesiondelta.evaluation.change_tables import ALL, ANY
from lesiondelta.outputs.lesions import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = {ALL: "", "small": ", under 10 mm³", "medium": ", 10 to 100 mm³", "large": ", over 100 mm³"}
INK = "#444c55"


def detection_rows(changes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the page's table shows: a row for each class, and for each size of it that anything is known of."""
    rows = []
    for row in changes["detection"]:
        if row["size"] != ALL and not row["reference"] and not row["called"]:
            continue
        cells = [f"{row['found']} of {row['reference']}", with_interval(row, "recall")]
        cells += [f"{row['right']} of {row['called']}", with_interval(row, "precision"), with_interval(row, "f1")]
        cells.append(with_interval(row, "false_per_step", 2))
        rows.append({"title": row["change"] + SIZES[row["size"]], "is_size": row["size"] != ALL, "cells": cells})
    return rows


def froc_points(changes: Mapping[str, Any]) -> list[list[str]]:
    """The curve of all classes in numbers: limit, recall, false changes a step."""
    return [
        [f"{row['limit']:g}", with_interval(row, "recall"), with_interval(row, "false_per_step", 2)]
        for row in changes["froc"] if row["change"] == ANY
    ]  # fmt: skip


def change_notes(changes: Mapping[str, Any]) -> list[str]:
    """What a reader has to know of where the called changes come from."""
    by_calls, by_masks = changes["steps_by_calls"], changes["steps_by_masks"]
    notes = [
        f"Changes of {step} are those of the masks alone: {why}." for step, why in changes["calls_not_used"].items()
    ]
    if by_calls and by_masks:
        notes.append(
            f"In {by_calls} steps changes are those that a run called, in {by_masks} those of the masks alone: the "
            "means mix both."
        )
    if changes["without_confidence"]:
        notes.append(f"Calls without a confidence are in no FROC curve: {', '.join(changes['without_confidence'])}.")
    return notes


def with_interval(row: Mapping[str, Any], name: str, digits: int = 3) -> str:
    """A mean with its interval; a dash where there is none."""
    if row[name] is None:
        return "-"
    text = f"{row[name]:.{digits}f}"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return text if low is None else f"{text} ({low:.{digits}f} to {high:.{digits}f})"


def froc_figure(rows: Sequence[Mapping[str, Any]]) -> str:
    """Recall against false changes a step as SVG, a line for each class; nothing where there is no recall."""
    known = [row for row in rows if row["recall"] is not None]
    if not known:
        return ""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lesiondelta", "font.size": 10}):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for change in (ANY, *map(str, Change)):
            own = [row for row in known if row["change"] == change]
            if own:
                colour = INK if change == ANY else COLOURS[Change(change)]
                x, y = ([row[name] for row in own] for name in ("false_per_step", "recall"))
                axes.plot(x, y, "o-", color=colour, markersize=4, linewidth=1.6, label=change, clip_on=False)
        axes.set(xlabel="false changes per step", ylabel="recall", ylim=(0, 1))
        axes.set_xlim(0, 1.05 * max(*(row["false_per_step"] for row in known), 0.2))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        return as_svg(figure)


def as_svg(figure: "Figure") -> str:
    """A figure for a page; the same for the same figure."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
