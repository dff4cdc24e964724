"""`segment`: one patient, from loose files or DICOM folders."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from lesiondelta.cli import console
from lesiondelta.cli.options import Given, Output, Threads, Timings, WorkDir, settings_of, takes_settings
from lesiondelta.cli.running import nothing_built, run_and_print


def visit_paths(text: str) -> tuple[Path, ...]:
    """The paths of one `--visit`; an empty one, as of a variable that is not set, would be the current folder."""
    if "" in text.split(console.TOGETHER):
        raise typer.BadParameter("a path is empty: give the image or folder (is a variable of the shell not set?).")
    return console.paths_together(text)


VisitOption = Annotated[
    list[tuple],  # type: ignore[type-arg]  # typer takes no parameters here
    typer.Option(
        parser=visit_paths,
        metavar="T1W FLAIR | FLAIR | FOLDER",
        help="One visit: its T1w, then its FLAIR (a NIfTI file, a DICOM folder, or any file of a DICOM series), or one "
        "DICOM folder with both, or a FLAIR file only, for a model that can do without the T1w. Repeat the option for "
        "each visit (NIfTI: oldest first).",
    ),
]


@takes_settings("preprocessing", "segmentation", "tracking")
def segment(
    out: Output,
    visit: VisitOption,
    *,
    patient: Annotated[
        str, typer.Option(help="Label of the patient, which names the results (sub-LABEL).")
    ] = "patient",
    given: Given,
    omp_nthreads: Threads = None,
    work_dir: WorkDir = None,
    timings: Timings = False,
) -> None:
    """Segment one patient's visits: loose files or DICOM folders.

    For example:

      lesiondelta segment -o OUT --visit T1_A FLAIR_A --visit T1_B FLAIR_B

      lesiondelta segment -o OUT --visit STUDY_2019 --visit STUDY_2021

    DICOM series are converted to NIfTI in OUT/sourcedata, and the lesions are also written as DICOM SEG. In a folder
    with several studies, each study is a visit. DICOM visits are sorted by date.
    """
    from lesiondelta.files import room_for_temporary_files

    with (
        nothing_built(),
        room_for_temporary_files(out),
        tempfile.TemporaryDirectory(prefix="lesiondelta-") as converted,
    ):
        from lesiondelta.cohort import Cohort
        from lesiondelta.inputs.loose import keep_converted, loose_patient
        from lesiondelta.pipeline.cohort_run import check_start
        from lesiondelta.pipeline.fingerprint import require_same_patient
        from lesiondelta.pipeline.patient_run import RunPlan

        plan = RunPlan(out, None, settings_of(given, omp_nthreads or console.cores()), work_dir)
        loose = loose_patient(visit, patient, Path(converted))
        require_same_patient(loose, out)
        check_start(plan)
        loose = keep_converted(loose, Path(converted), out / "sourcedata")
    run_and_print(Cohort((loose,)), plan, timings=timings)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(cls=console.VisitValues)(segment)
