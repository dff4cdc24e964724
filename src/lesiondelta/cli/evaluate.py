"""`evaluate`: predicted masks against reference masks."""

import logging
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lesiondelta.cli import console
from lesiondelta.errors import OutputError


class Undefined(StrEnum):
    """What becomes of scores that an empty mask leaves undefined."""

    penalise = "penalise"
    nan = "nan"


class Convention(StrEnum):
    """Whose definitions are followed in the corners."""

    lesiondelta = "lesiondelta"
    longiseg = "longiseg"


def evaluate(
    reference: Annotated[Path, typer.Argument(help="Folder with reference masks.", show_default=False)],
    prediction: Annotated[Path, typer.Argument(help="Folder with predicted masks.", show_default=False)],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder for the tables.", show_default=False)],
    mapping: Annotated[
        Path | None,
        typer.Option(help="TSV that names the masks: participant_id, session_id, reference, prediction."),
    ] = None,
    participant_label: Annotated[list[str] | None, typer.Option(help="These participants alone.")] = None,
    allow_missing: Annotated[bool, typer.Option(help="Leave visits without a prediction out of every mean.")] = False,
    min_lesion_volume: Annotated[float, typer.Option(min=0, help="Smaller lesions are left out, in mm3.")] = 3.0,
    undefined: Annotated[
        Undefined, typer.Option(help="Empty masks: penalise (best or worst value), or leave out.")
    ] = Undefined.penalise,
    convention: Annotated[
        Convention, typer.Option(help="longiseg: decide as the longitudinal nnU-Net fork does.")
    ] = Convention.lesiondelta,
    second_rater: Annotated[
        Path | None, typer.Option(help="Folder with another rater's masks, which scales the ISBI 2015 score.")
    ] = None,
    nprocs: Annotated[int, typer.Option(min=1, help="Visits scored at the same time.")] = os.cpu_count() or 1,
) -> None:
    """Score lesion masks, visit by visit; averaged over visits, then over patients.

    [dim]Examples[/]

      lesiondelta evaluate BIDS/derivatives/reference OUT -o SCORES

      lesiondelta evaluate REFERENCE PREDICTION --mapping MASKS.tsv -o SCORES

    Masks are sub-X[_ses-Y]_..._label-L_mask.nii.gz anywhere under the two folders, or what the mapping names, on the
    same grid. What changed from visit to visit is scored where a patient's visits share one grid; their order is that
    of acq_time in sub-X_sessions.tsv, else _scans.tsv, of the reference's dataset if all have a day of their own, else
    of labels; in a mapping, of rows.
    """
    from lesiondelta.evaluation.tables import Options

    options = Options(
        min_lesion_volume, undefined.value, convention.value,
        tuple(label.removeprefix("sub-") for label in participant_label or ()), allow_missing,
    )  # fmt: skip
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file: give a folder for the tables.")
    score_and_print(reference, prediction, out, options, mapping=mapping, second_rater=second_rater, processes=nprocs)


def score_and_print(reference: Path, prediction: Path, out: Path, *options: Any, **more: Any) -> None:  # noqa: ANN401
    """Write tables and page, and print the means; arguments as of `evaluation.tables.evaluate`."""
    from lesiondelta.evaluation.tables import evaluate as score_folders
    from lesiondelta.report.scores import write_page

    with (
        console.log_lines(console.print_warning, logging.WARNING, logging.WARNING),
        console.progress("visits", None) as advance,
    ):
        summary, patients = score_folders(
            reference, prediction, out, *options, **more, progress=lambda done, of: advance(f"{done} of {of} visits")
        )
    write_page(out / "scores.html", summary, patients, reference, prediction)
    print_summary(summary, out)


def print_summary(summary: dict[str, Any], out: Path) -> None:
    """Print the means over patients."""
    from rich.table import Table

    table = Table("measure", "mean", "95 % interval", "sd", "patients", box=None)
    for name, figures in summary["measures"].items():
        interval = "-" if figures["low"] is None else f"{figures['low']:.3f} to {figures['high']:.3f}"
        mean, sd = ("-" if figures[k] is None else f"{figures[k]:.3f}" for k in ("mean", "sd"))
        table.add_row(name, mean, interval, sd, str(figures["patients"]))
    console.out.print(f"{summary['visits']} visits of {summary['patients']} patients", highlight=False)
    console.out.print(table)
    for visit in summary["missing_predictions"]:
        console.errors.print(f"[yellow]{visit} has a reference and no prediction: it is in no mean.[/]")
    for visit in summary["predictions_without_reference"]:
        console.errors.print(f"[yellow]{visit} has a prediction and no reference: it is not scored.[/]")
    for why in sorted(set(summary["change_not_scored"].values())):
        steps = [step for step, reason in summary["change_not_scored"].items() if reason == why]
        console.errors.print(f"Change is not scored from {'; '.join(steps)}: {why}.", highlight=False, soft_wrap=True)
    files = "per_visit.tsv, per_patient.tsv, per_step.tsv and summary.json"
    console.out.print(f"The page is {out / 'scores.html'}; {files} lie beside it.", soft_wrap=True, markup=False)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(cls=console.SpacedValues)(evaluate)
