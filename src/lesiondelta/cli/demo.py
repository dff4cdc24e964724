"""`demo`: a simulated patient from images to scores."""

from pathlib import Path
from typing import Annotated

import typer

from lesiondelta.cli import console, evaluate, run


def demo(
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything.")] = Path("lesiondelta-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another patient.")] = 0,
    model: run.Models = None,
) -> None:
    """Simulate a patient with two visits, segment it with the bundled model on CPU, and score the masks.

    The patient moves between visits and images, so that registration has something to do. Takes a few minutes.
    """
    from lesiondelta.inputs.bids import read_cohort
    from lesiondelta.pipeline import RunPlan
    from lesiondelta.pipeline.cohort_run import check_start
    from lesiondelta.simulation import Acquisition, write_cohort

    bids, results, scores = out / "bids", out / "results", out / "scores"
    settings = run.default_settings(model or ())
    with run.nothing_built():
        check_start(RunPlan(results, bids, settings))
    with console.progress("simulating a patient", None):
        write_cohort(bids, 1, 2, seed, acquisition=Acquisition(mode="native", whole_head=False))
    if run.run_and_print(read_cohort(bids), results, settings, bids):
        raise typer.Exit(run.EXIT_FAILED_PATIENT)
    console.out.print("\nAgainst the known lesions:", highlight=False)
    evaluate.score_and_print(bids / "derivatives" / "reference", results, scores)
    pictures = sorted((results / "sub-001" / "figures").glob("*.png"))
    shown = ["The report, for a browser:", str(results / "sub-001.html"), "Pictures:", *map(str, pictures)]
    console.out.print("\n".join(shown), soft_wrap=True, markup=False)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(demo)
