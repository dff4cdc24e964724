"""A run as the commands `run`, `segment` and `demo` show it: progress, a table, reasons, and exit codes."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lesiondelta.cli import console
from lesiondelta.errors import LesionDeltaError

if TYPE_CHECKING:
    from lesiondelta.cohort import Cohort, Patient
    from lesiondelta.pipeline.patient_run import RunPlan
    from lesiondelta.pipeline.workers import Executor
    from lesiondelta.records import VisitResult

EXIT_FAILED_PATIENT = 1
EXIT_NOTHING_BUILT = 70
COLOURS = {"ok": "green", "ok-zero-lesions": "green", "flagged": "yellow", "failed": "bold red"}


@contextmanager
def nothing_built() -> Iterator[None]:
    """Print what is wrong and exit: nothing could be started."""
    try:
        yield
    except LesionDeltaError as error:
        console.print_error(error)
        raise typer.Exit(EXIT_NOTHING_BUILT) from error


def run_and_print(
    cohort: "Cohort",
    plan: "RunPlan",
    executor: "Executor | None" = None,
    stop_on_first_crash: bool = False,
    timings: bool = False,
) -> None:
    """Run, print what became of every visit, and exit with 1 if any failed; with 70 if nothing can be started.

    `executor` is where patients run (None: here), `timings`: print the seconds of each stage, too.
    """
    from lesiondelta.files import room_for_temporary_files
    from lesiondelta.pipeline.cohort_run import check_start, run_cohort

    with ExitStack() as room:
        with nothing_built():
            plan = check_start(plan)
            room.enter_context(room_for_temporary_files(plan.out))
        advance = room.enter_context(console.progress("patients", len(cohort.patients)))

        def report(patient: "Patient", results: "Sequence[VisitResult]") -> None:
            advance(f"sub-{patient.label} is done")

        with console.log_lines(lambda line: advance(line, step=0)):
            results = run_cohort(
                cohort, plan, executor=executor, stop_on_first_crash=stop_on_first_crash, report=report
            )
    if timings:
        print_timings(plan.out, [patient.label for patient in cohort.patients])
    print_results(results, plan.out, plan.cautions)


def print_timings(out: Path, patients: Sequence[str]) -> None:
    """Print the seconds of each stage, summed over patients, as recorded when each was last segmented."""
    from rich.table import Table

    from lesiondelta.outputs.derivatives import PatientFiles
    from lesiondelta.timings import Seconds, read_timings

    recorded = [found for label in patients if (found := read_timings(PatientFiles(out, label).timings))]
    total: dict[str, Seconds] = {}
    for found in recorded:
        for stage, spent in found.items():
            summed = total.setdefault(stage, Seconds())
            summed.wall, summed.processor = summed.wall + spent.wall, summed.processor + spent.processor
    table = Table(f"stage (patients: {len(recorded)})", "seconds", "processor seconds", box=None)
    for stage, spent in sorted(total.items(), key=lambda item: -item[1].wall):
        table.add_row(stage, f"{spent.wall:.1f}", f"{spent.processor:.1f}")
    whole = Seconds(sum(s.wall for s in total.values()), sum(s.processor for s in total.values()))
    table.add_row("all", f"{whole.wall:.1f}", f"{whole.processor:.1f}")
    console.out.print(table)


def print_results(results: "Sequence[VisitResult]", out: Path, cautions: Sequence[str]) -> None:
    """Print the cautions, a table of visits and every reason; exit with 1 if a visit failed."""
    from rich.table import Table

    for caution in cautions:
        console.out.print(f"Note: {caution.rstrip('.')}.", soft_wrap=True, markup=False, highlight=False)
    table = Table("patient", "visit", "status", "lesions", "volume (ml)", box=None)
    for result in results:
        lesions, volume = result.figures.get("lesions"), result.figures.get("lesion_volume_mm3")
        table.add_row(
            result.patient,
            result.visit or "-",
            f"[{COLOURS[result.status]}]{result.status}[/]",
            "-" if lesions is None else f"{lesions:.0f}",
            "-" if volume is None else f"{float(volume) / 1000:.2f}",
        )
    console.out.print(table)
    print_reasons(results)  # below the table, whose columns would cut or break a path
    console.out.print(
        f"Reports (sub-*.html), masks, lesiondelta.tsv and group.html are in {out}", soft_wrap=True, markup=False
    )
    exit_if_failed(results)


def print_reasons(results: "Sequence[VisitResult]") -> None:
    """Print why visits are flagged or failed, a line each."""
    for result in results:
        if result.reason:
            name = f"{result.patient} {result.visit}".strip()
            console.out.print(f"{name}: {result.reason}", soft_wrap=True, markup=False, highlight=False)


def exit_if_failed(results: "Sequence[VisitResult]") -> None:
    """Exit with 1 if a visit failed."""
    from lesiondelta.records import any_failed

    if any_failed(results):
        raise typer.Exit(EXIT_FAILED_PATIENT)
