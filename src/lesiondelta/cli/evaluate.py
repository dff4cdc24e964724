"""`evaluate`: predicted masks against reference masks."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lesiondelta.cli import console
from lesiondelta.cli.options import Participants
from lesiondelta.errors import OutputError
from lesiondelta.evaluation import Convention, Undefined

if TYPE_CHECKING:
    from lesiondelta.evaluation.tables import MaskFolders, Options


Mapping = Annotated[
    Path | None,
    typer.Option(
        help="TSV that lists masks by path in the two folders: participant_id, session_id, reference, prediction."
    ),
]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="Leave out visits without a prediction, which are an error otherwise.")
]
SmallestLesion = Annotated[float, typer.Option(min=0, help="Ignore lesions smaller than this many mm3 in both masks.")]
UndefinedOption = Annotated[
    Undefined,
    typer.Option(
        help="Give undefined scores of empty masks the best or worst value (penalise), or leave them out (nan)."
    ),
]
ConventionOption = Annotated[
    Convention,
    typer.Option(help="Definitions of the scores: ours, or those of LongiSeg (nnU-Net's fork)."),
]
SecondRater = Annotated[
    Path | None, typer.Option(help="Folder with a second rater's masks, to scale the ISBI 2015 score.")
]
Processes = Annotated[
    int | None, typer.Option("--nprocs", min=1, help="Visits to score in parallel. Default: all cores.")
]


def evaluate(
    reference: Annotated[
        Path, typer.Argument(metavar="REFERENCE", help="Folder with reference masks.", show_default=False)
    ],
    prediction: Annotated[
        Path, typer.Argument(metavar="PREDICTION", help="Folder with predicted masks.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder for the tables.", show_default=False)],
    mapping: Mapping = None,
    participant_label: Participants = None,
    allow_missing: AllowMissing = False,
    min_lesion_volume: SmallestLesion = 3.0,
    undefined: UndefinedOption = "penalise",
    convention: ConventionOption = "lesiondelta",
    second_rater: SecondRater = None,
    nprocs: Processes = None,
) -> None:
    """Score lesion masks against reference masks.

    For example:

      lesiondelta evaluate BIDS/derivatives/reference OUT -o SCORES

      lesiondelta evaluate REFERENCE PREDICTION --mapping MASKS.tsv -o SCORES

    Scores are averaged over the visits of each patient, then over patients.

    Masks are the files sub-X[_ses-Y]_*label-L_mask.nii.gz anywhere in the two folders, or those listed by --mapping.
    If a folder has several masks of a visit, the one with the reference's space entity is used. Reference and
    prediction must share a grid.

    Changes from visit to visit are scored too: new, enlarging, shrinking and resolved lesions. If PREDICTION is the
    output of run, the changes that it calls are scored, at every limit on their confidence; otherwise those that the
    masks show. Visits on different grids need the transforms of run. Visits are ordered by acq_time in
    sub-X_sessions.tsv (or _scans.tsv) of the reference's dataset if all dates differ, otherwise by label. With
    --mapping, they keep the order of its rows.
    """
    from lesiondelta.evaluation.tables import MaskFolders, Options

    options = Options(
        min_lesion_volume, undefined, convention,
        tuple(label.removeprefix("sub-") for label in participant_label or ()), allow_missing,
    )  # fmt: skip
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file: give a folder for the tables.")
    folders = MaskFolders(reference, prediction, mapping, second_rater)
    score_and_print(folders, out, options, nprocs or console.cores())


def score_and_print(folders: "MaskFolders", out: Path, options: "Options | None" = None, processes: int = 1) -> None:
    """Write tables and page, and print the means."""
    from lesiondelta.evaluation.tables import Options
    from lesiondelta.evaluation.tables import evaluate as score_folders
    from lesiondelta.report.scores import write_page

    with (
        console.log_lines(console.print_warning, logging.WARNING, logging.WARNING),
        console.progress("visits", None) as advance,
    ):
        summary, patients = score_folders(
            folders,
            out,
            options or Options(),
            processes=processes,
            progress=lambda done, of: advance(f"{done} of {of} visits"),
        )
    write_page(out / "scores.html", summary, patients, folders.reference, folders.prediction)
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
    if summary["steps"]:
        print_changes(summary)
    for visit in summary["missing_predictions"]:
        console.errors.print(f"[yellow]{visit} has a reference and no prediction: it is in no mean.[/]")
    for visit in summary["predictions_without_reference"]:
        console.errors.print(f"[yellow]{visit} has a prediction and no reference: it is not scored.[/]")
    say_once(summary["change_not_scored"], "Change is not scored from")
    say_once(summary["changes"]["calls_not_used"], "Changes are those of the masks alone from")
    files = (
        "per_visit.tsv, per_patient.tsv, per_step.tsv, changes_per_step.tsv, changes_detection.tsv, froc.tsv and "
        "summary.json"
    )
    console.out.print(f"The page is {out / 'scores.html'}; {files} lie beside it.", soft_wrap=True, markup=False)


def print_changes(summary: dict[str, Any]) -> None:
    """Print how changed lesions are detected, by class."""
    from rich.table import Table

    from lesiondelta.report.change_scores import detection_rows

    table = Table("change", "found", "recall", "right", "precision", "F1", "false per step", box=None)
    for row in detection_rows(summary["changes"]):
        if not row["is_size"]:
            table.add_row(row["title"], *row["cells"])
    console.out.print(f"\n{summary['steps']} steps from a visit to the next", highlight=False)
    console.out.print(table)


def say_once(reasons: dict[str, str], what: str) -> None:
    """Print every reason with all steps that it holds for."""
    for why in sorted(set(reasons.values())):
        steps = "; ".join(step for step, reason in reasons.items() if reason == why)
        console.errors.print(f"{what} {steps}: {why}.", highlight=False, soft_wrap=True, markup=False)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(cls=console.SpacedValues)(evaluate)
