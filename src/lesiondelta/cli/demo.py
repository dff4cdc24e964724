"""`demo`: a simulated patient from images to scores."""

from pathlib import Path
from typing import Annotated

import typer

from lesiondelta.cli import console, evaluate
from lesiondelta.cli.running import nothing_built, run_and_print


def demo(
    out: Annotated[Path, typer.Option("--output", "-o", help="Output folder.")] = Path("lesiondelta-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives another patient.")] = 0,
    model: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Model folder; repeat the option for several. Default: the bundled model."),
    ] = None,
) -> None:
    """Simulate, segment and score a patient.

    For example:

      lesiondelta demo -o DEMO

    The patient has two visits, and the position of the head differs in every image, so that registration is needed. The
    bundled model segments both visits on the CPU, which takes a few minutes. DEMO gets masks, report and scores.
    """
    from lesiondelta.evaluation.tables import MaskFolders
    from lesiondelta.inputs.bids import read_cohort
    from lesiondelta.pipeline.cohort_run import check_start
    from lesiondelta.pipeline.patient_run import RunPlan
    from lesiondelta.settings import PreprocessingSettings, SegmentationSettings, Settings
    from lesiondelta.simulation import Acquisition, CohortPlan, write_cohort

    bids, results, scores = out / "bids", out / "results", out / "scores"
    threads = console.cores()
    settings = Settings(
        preprocessing=PreprocessingSettings(threads=threads),
        segmentation=SegmentationSettings(models=tuple(model or ()), threads=threads, device="cpu"),
    )
    plan = RunPlan(results, bids, settings)
    with nothing_built():
        check_start(plan)
    with console.progress("simulating a patient", None):
        write_cohort(bids, CohortPlan(1, 2, seed, Acquisition(mode="native", whole_head=False)))
    run_and_print(read_cohort(bids), plan)
    console.out.print("\nAgainst the known lesions:", highlight=False)
    evaluate.score_and_print(MaskFolders(bids / "derivatives" / "reference", results), scores)
    pictures = sorted((results / "sub-001" / "figures").glob("*.png"))
    shown = ["The report, for a browser:", str(results / "sub-001.html"), "Pictures:", *map(str, pictures)]
    console.out.print("\n".join(shown), soft_wrap=True, markup=False)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(demo)
