"""`evaluate`: predicted masks against reference masks."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lesiondelta.cli import console


class Undefined(StrEnum):
    """What becomes of scores that an empty mask leaves undefined."""

    penalise = "penalise"
    nan = "nan"


def evaluate(
    reference: Annotated[Path, typer.Argument(help="Folder with reference masks.", show_default=False)],
    prediction: Annotated[Path, typer.Argument(help="Folder with predicted masks.", show_default=False)],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder for the tables.", show_default=False)],
    min_lesion_volume: Annotated[float, typer.Option(min=0, help="Smaller lesions are left out, in mm3.")] = 3.0,
    undefined: Annotated[
        Undefined, typer.Option(help="Empty masks: penalise (1 or 0, HD95 0 or the image diagonal), or leave out.")
    ] = Undefined.penalise,
) -> None:
    """Score lesion masks: DSC, HD95, lesion F1; averaged over visits, then over patients.

    [dim]Example[/]

      lesiondelta evaluate BIDS/derivatives/reference OUT -o SCORES

    Masks are sub-X[_ses-Y]_..._label-L_mask.nii.gz anywhere under the two folders, on the same grid.
    """
    from lesiondelta.evaluation.tables import evaluate as score_folders

    summary = score_folders(reference, prediction, out, min_lesion_mm3=min_lesion_volume, undefined=undefined.value)
    print_summary(summary, out)


def print_summary(summary: dict[str, Any], out: Path) -> None:
    """Print the means over patients."""
    from rich.table import Table

    table = Table("measure", "mean", "sd", box=None)
    for name, figures in summary["measures"].items():
        table.add_row(name, *("-" if figures[k] is None else f"{figures[k]:.3f}" for k in ("mean", "sd")))
    console.out.print(f"{summary['visits']} visits of {summary['patients']} patients", highlight=False)
    console.out.print(table)
    for visit in summary["missing_predictions"]:
        console.errors.print(f"[yellow]{visit} has a reference and no prediction: it is in no mean.[/]")
    console.out.print(f"per_visit.tsv, per_patient.tsv and summary.json are in {out}", soft_wrap=True, markup=False)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(evaluate)
