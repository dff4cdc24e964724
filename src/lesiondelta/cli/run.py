"""`run`: every patient of a BIDS dataset."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from lesiondelta.cli import console
from lesiondelta.cli.executors import ExecutorName, SlurmOptions, executor_for
from lesiondelta.cli.options import (
    COMPUTING,
    SELECTION,
    Given,
    Participants,
    Processes,
    Threads,
    Timings,
    Version,
    WorkDir,
    settings_of,
    takes_settings,
)
from lesiondelta.cli.running import exit_if_failed, nothing_built, print_reasons, print_results, run_and_print

Level = Annotated[
    Literal["participant", "group"], typer.Argument(metavar="LEVEL", help="Analysis level: participant or group.")
]
Sessions = Annotated[
    list[str] | None,
    typer.Option(
        metavar="LABEL",
        help="Use only these sessions. Separate labels by spaces; ses- may be left out.",
        rich_help_panel=SELECTION,
    ),
]
FilterFile = Annotated[
    Path | None,
    typer.Option(
        help='JSON file to choose among several images of a visit: {"t1w": {"acquisition": "mprage"}}.',
        rich_help_panel=SELECTION,
    ),
]
MaskFolder = Annotated[
    Path | None,
    typer.Option(
        help="Folder of brain masks in the FLAIR's space: sub-X/ses-Y/anat/*_desc-brain_mask.nii.gz.",
        rich_help_panel=SELECTION,
    ),
]
Unvalidated = Annotated[
    bool, typer.Option("--skip-bids-validation", help="Accept a dataset without dataset_description.json.")
]
Stop = Annotated[
    bool, typer.Option("--stop-on-first-crash", help="Stop when a patient fails.", rich_help_panel=COMPUTING)
]
ReportsOnly = Annotated[
    bool, typer.Option("--reports-only", help="Rebuild tables and reports from hand-corrected masks.")
]
WITH_REPORTS_ONLY = {"bids", "out", "level", "participant_label", "omp_nthreads", "reports_only"}


@takes_settings("preprocessing", "segmentation", "tracking")
def run(
    context: typer.Context,
    bids: Annotated[Path, typer.Argument(metavar="BIDS", help="Root of the BIDS dataset.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder, such as BIDS/derivatives/lesiondelta.")],
    level: Level,
    *,
    participant_label: Participants = None,
    session_label: Sessions = None,
    bids_filter_file: FilterFile = None,
    brain_mask_dir: MaskFolder = None,
    skip_bids_validation: Unvalidated = False,
    given: Given,
    nprocs: Processes = 1,
    omp_nthreads: Threads = None,
    executor: ExecutorName = "local",
    slurm: SlurmOptions = "",
    work_dir: WorkDir = None,
    stop_on_first_crash: Stop = False,
    reports_only: ReportsOnly = False,
    timings: Timings = False,
    version: Version = False,
) -> None:
    """Segment every visit of every patient of a BIDS dataset.

    For example:

      lesiondelta run BIDS OUT participant --participant-label 01 02 --nprocs 2

      lesiondelta run BIDS OUT participant --executor slurm --slurm mem=8G

      lesiondelta run BIDS OUT group

    With LEVEL participant, this writes each patient's masks, changes and report (OUT/sub-X.html), and the cohort's
    table and page (OUT/lesiondelta.tsv, OUT/group.html). With LEVEL group, it only rebuilds table and page from all
    results in OUT.

    To correct a mask by hand, edit it in ITK-SNAP or Slicer and save it in place. The masks are
    OUT/sub-X/ses-Y/anat/*_space-orig_label-L_mask.nii.gz. Then run with --reports-only, which keeps the settings that
    the masks were made with. For results of `segment`, give OUT in place of BIDS, too.

    Exit code: 0 if every visit was segmented, 1 if any failed, 70 if nothing could be started. A second run skips
    finished patients unless their images, the settings or the model have changed.
    """
    if level == "group":
        return _write_group(out)
    if reports_only:
        return _rebuild_reports(context, bids, out, participant_label)
    with nothing_built():
        from lesiondelta.inputs.bids import read_cohort
        from lesiondelta.inputs.bids_names import read_filters
        from lesiondelta.pipeline.patient_run import RunPlan

        threads = omp_nthreads or (1 if executor == "slurm" else console.cores() // nprocs)
        filters = read_filters(bids_filter_file) if bids_filter_file else None
        valid = not skip_bids_validation
        cohort = read_cohort(bids, participant_label, session_label, filters, brain_mask_dir, valid)
        plan = RunPlan(out, bids, settings_of(given, threads), work_dir)
    with executor_for(executor, slurm, nprocs, threads) as chosen:
        run_and_print(cohort, plan, chosen, stop_on_first_crash, timings)


def _write_group(out: Path) -> None:
    from lesiondelta.errors import OutputError
    from lesiondelta.pipeline.group import PAGE, write_group
    from lesiondelta.records import FOLDER

    with nothing_built():
        if not (out / FOLDER).is_dir():
            raise OutputError(f"{out} holds no results: run the level participant first.")
        results, _ = write_group(out)
    console.out.print(f"{len(results)} visits: {out / PAGE}", soft_wrap=True, markup=False)
    print_reasons([result for result in results if result.status == "failed"])
    exit_if_failed(results)


def _rebuild_reports(context: typer.Context, bids: Path, out: Path, participants: Sequence[str] | None) -> None:
    from lesiondelta.errors import InputError
    from lesiondelta.outputs.derivatives import require_own_results
    from lesiondelta.pipeline.rebuild import report_cohort

    with nothing_built():
        given = {p for p in context.params if str(context.get_parameter_source(p)).endswith("COMMANDLINE")}
        if useless := sorted(given - WITH_REPORTS_ONLY):
            names = ", ".join(f"--{name.replace('_', '-')}" for name in useless)
            raise InputError(
                f"--reports-only keeps the settings that the masks were made with: leave out {names}, or leave it out."
            )
        require_own_results(out, bids)
        with console.log_lines(console.print_warning, logging.WARNING, logging.WARNING):
            results, cautions = report_cohort(out, participants)
    print_results(results, out, cautions)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(cls=console.SpacedValues)(run)
