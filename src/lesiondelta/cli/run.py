"""`run` for a BIDS dataset and `segment` for loose files and DICOM folders."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lesiondelta import __version__
from lesiondelta.cli import console
from lesiondelta.errors import LesionDeltaError

if TYPE_CHECKING:
    from lesiondelta.cohort import Cohort, Patient
    from lesiondelta.records import VisitResult
    from lesiondelta.settings import Settings

EXIT_FAILED_PATIENT = 1
EXIT_NOTHING_BUILT = 70

SELECTION, METHOD, COMPUTING = "Which images", "How they are processed", "Computing"


class Level(StrEnum):
    """Analysis levels of a BIDS app."""

    participant = "participant"
    group = "group"


class Registration(StrEnum):
    """Registration engines."""

    elastix = "elastix"
    niimath = "niimath"
    flirt = "flirt"
    none = "none"


class Space(StrEnum):
    """Where the patient's space lies."""

    baseline = "baseline"
    midway = "midway"


class BrainExtraction(StrEnum):
    """How the brain is found where no mask is given."""

    atlas = "atlas"
    hd_bet = "hd-bet"
    synthstrip = "synthstrip"


class SkullStrip(StrEnum):
    """Whether the brain is extracted."""

    auto = "auto"
    force = "force"
    skip = "skip"


class Device(StrEnum):
    """Where the network runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


Models = Annotated[
    list[Path] | None,
    typer.Option(
        "--model",
        help="Exported model folders, averaged; `samseg` for FreeSurfer's SAMSEG; the bundled one by default.",
        rich_help_panel=METHOD,
    ),
]
RegistrationOption = Annotated[
    Registration, typer.Option(help="Engine; `none` where all images share one space.", rich_help_panel=METHOD)
]
SpaceOption = Annotated[
    Space,
    typer.Option(help="The patient's space: the baseline's, or half-way between visits.", rich_help_panel=METHOD),
]
BrainOption = Annotated[BrainExtraction, typer.Option(help="Where no brain mask is given.", rich_help_panel=METHOD)]
StripOption = Annotated[
    SkullStrip, typer.Option(help="auto: skipped where the images are stripped already.", rich_help_panel=METHOD)
]
GateOption = Annotated[
    bool,
    typer.Option("--gate/--no-gate", help="Refuse misaligned images and visits of two people.", rich_help_panel=METHOD),
]
BiasOption = Annotated[bool, typer.Option("--bias-correction/--no-bias-correction", help="N4.", rich_help_panel=METHOD)]
ThresholdOption = Annotated[
    float | None, typer.Option(help="Lesion probability; the model's own by default.", rich_help_panel=METHOD)
]
SmallestOption = Annotated[
    float | None,
    typer.Option("--min-lesion-volume", help="In mm3; the model's own by default.", rich_help_panel=METHOD),
]
OverlapOption = Annotated[
    float | None,
    typer.Option(
        help="Share of a window that its neighbour covers; the model's own by default.", rich_help_panel=METHOD
    ),
]
MirrorOption = Annotated[
    bool | None,
    typer.Option(
        "--mirroring/--no-mirroring", help="Average mirrored views; by default on CUDA.", rich_help_panel=METHOD
    ),
]
GrowthOption = Annotated[
    float,
    typer.Option("--least-growth", help="Change of a lesion's volume that counts, as a share.", rich_help_panel=METHOD),
]
ToleranceOption = Annotated[
    float,
    typer.Option("--tolerance", help="In mm: lesions that share no voxel are one if so near.", rich_help_panel=METHOD),
]
DeviceOption = Annotated[Device, typer.Option(help="Where the network runs.", rich_help_panel=COMPUTING)]
Processes = Annotated[int, typer.Option("--nprocs", min=1, help="Patients at a time.", rich_help_panel=COMPUTING)]
Threads = Annotated[
    int | None,
    typer.Option(
        "--omp-nthreads", min=1, help="Threads of one patient; all cores / nprocs.", rich_help_panel=COMPUTING
    ),
]
SamsegHours = Annotated[
    float, typer.Option(help="Time limit of one patient's run of SAMSEG.", rich_help_panel=COMPUTING)
]
WorkDir = Annotated[
    Path | None,
    typer.Option(help="Keep prepared images here, for another model or threshold.", rich_help_panel=COMPUTING),
]
Stop = Annotated[
    bool, typer.Option("--stop-on-first-crash", help="End with the first failure.", rich_help_panel=COMPUTING)
]


ReportsOnly = Annotated[
    bool,
    typer.Option(
        "--reports-only", help="Segment nothing: tables, maps and reports again, as masks corrected by hand have it."
    ),
]
WITH_REPORTS_ONLY = {"bids", "out", "level", "participant_label", "omp_nthreads", "reports_only"}


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"lesiondelta {__version__}")
        raise typer.Exit


def run(
    context: typer.Context,
    bids: Annotated[Path, typer.Argument(help="Root of the BIDS dataset.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Output folder, such as BIDS/derivatives/lesiondelta.")],
    level: Annotated[Level, typer.Argument(help="Analysis level.")],
    participant_label: Annotated[
        list[str] | None, typer.Option(help="Participants, with or without sub-.", rich_help_panel=SELECTION)
    ] = None,
    session_label: Annotated[
        list[str] | None, typer.Option(help="Sessions, with or without ses-.", rich_help_panel=SELECTION)
    ] = None,
    bids_filter_file: Annotated[
        Path | None, typer.Option(help='JSON such as {"t1w": {"acquisition": "mprage"}}.', rich_help_panel=SELECTION)
    ] = None,
    brain_mask_dir: Annotated[
        Path | None,
        typer.Option(help="Folder with sub-X/ses-Y/anat/*_desc-brain_mask.nii.gz.", rich_help_panel=SELECTION),
    ] = None,
    skip_bids_validation: Annotated[
        bool, typer.Option("--skip-bids-validation", help="Take a folder without dataset_description.json.")
    ] = False,
    model: Models = None,
    registration: RegistrationOption = Registration.elastix,
    space: SpaceOption = Space.baseline,
    brain_extraction: BrainOption = BrainExtraction.atlas,
    skull_strip: StripOption = SkullStrip.auto,
    gate: GateOption = True,
    bias_correction: BiasOption = True,
    threshold: ThresholdOption = None,
    min_lesion_volume: SmallestOption = None,
    overlap: OverlapOption = None,
    mirroring: MirrorOption = None,
    least_growth: GrowthOption = 0.3,
    tolerance: ToleranceOption = 1.0,
    device: DeviceOption = Device.auto,
    nprocs: Processes = 1,
    omp_nthreads: Threads = None,
    samseg_hours: SamsegHours = 24.0,
    work_dir: WorkDir = None,
    stop_on_first_crash: Stop = False,
    reports_only: ReportsOnly = False,
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Segment every visit of every patient of a BIDS dataset.

    [dim]Examples[/]

      lesiondelta run BIDS OUT participant

      lesiondelta run BIDS OUT participant --participant-label 01 02 --nprocs 2

      lesiondelta run BIDS OUT group

    participant writes masks, changes and a report (OUT/sub-X.html) of every patient; group writes the cohort's table
    and page (OUT/lesiondelta.tsv, OUT/group.html) again, from all patients in OUT.

    To correct a mask by hand, edit OUT/sub-X/ses-Y/anat/*_space-orig_label-L_mask.nii.gz in ITK-SNAP or Slicer, save
    it, and give `lesiondelta run BIDS OUT participant --reports-only`, without settings: those of the masks are kept.
    Results of `segment` have no dataset: give OUT for BIDS too.

    Exit code: 0 if every patient succeeded, 1 if one failed, 70 if nothing could be started. Finished patients are
    skipped when the command is given again; a changed input, setting or model is not.
    """
    if level is Level.group:
        _write_group(out)
        return
    if reports_only:
        _report_again(context, bids, out, participant_label)
        return
    with nothing_built():
        from lesiondelta.cohort import CONTRASTS
        from lesiondelta.inputs.bids import read_cohort, read_filters

        settings = _settings(
            model, registration, space, brain_extraction, skull_strip, gate, bias_correction, threshold,
            min_lesion_volume, overlap, mirroring, least_growth, tolerance, device,
            omp_nthreads or console.cores() // nprocs, samseg_hours,
        )  # fmt: skip
        filters = read_filters(bids_filter_file) if bids_filter_file else None
        cohort = read_cohort(
            bids, participant_label, session_label, CONTRASTS, filters, brain_mask_dir, not skip_bids_validation
        )
    if run_and_print(cohort, out, settings, bids, work_dir, nprocs, stop_on_first_crash):
        raise typer.Exit(EXIT_FAILED_PATIENT)


def segment(
    out: Annotated[Path, typer.Option("--output", "-o", help="Output folder.", show_default=False)],
    visit: Annotated[
        list[tuple],  # type: ignore[type-arg]  # typer takes no parameters here
        typer.Option(
            parser=console.paths_together,
            metavar="T1W FLAIR | FOLDER",
            help="T1w and FLAIR of a visit (NIfTI files, DICOM folders, or a file of a DICOM series), or one DICOM "
            "folder of both; once a visit, in time order.",
        ),
    ],
    patient: Annotated[str, typer.Option(help="Label in the names of the results.")] = "patient",
    model: Models = None,
    registration: RegistrationOption = Registration.elastix,
    space: SpaceOption = Space.baseline,
    brain_extraction: BrainOption = BrainExtraction.atlas,
    skull_strip: StripOption = SkullStrip.auto,
    gate: GateOption = True,
    bias_correction: BiasOption = True,
    threshold: ThresholdOption = None,
    min_lesion_volume: SmallestOption = None,
    overlap: OverlapOption = None,
    mirroring: MirrorOption = None,
    least_growth: GrowthOption = 0.3,
    tolerance: ToleranceOption = 1.0,
    device: DeviceOption = Device.auto,
    omp_nthreads: Threads = None,
    samseg_hours: SamsegHours = 24.0,
    work_dir: WorkDir = None,
) -> None:
    """Segment the visits of one patient, given as loose files or DICOM folders.

    [dim]Examples[/]

      lesiondelta segment --visit t1_2019.nii.gz flair_2019.nii.gz --visit t1_2021.nii.gz flair_2021.nii.gz -o OUT

      lesiondelta segment --visit STUDY_2019 --visit STUDY_2021 -o OUT

    DICOM series are converted to OUT/sourcedata, and the lesions also written as DICOM SEG. Of a folder with several
    studies, each becomes a visit.
    """
    with nothing_built(), tempfile.TemporaryDirectory(prefix="lesiondelta-") as converted:
        from lesiondelta.cohort import Cohort
        from lesiondelta.inputs.loose import keep_converted, loose_patient
        from lesiondelta.pipeline import RunPlan
        from lesiondelta.pipeline.cohort_run import check_start
        from lesiondelta.pipeline.fingerprint import require_same_patient

        settings = _settings(
            model, registration, space, brain_extraction, skull_strip, gate, bias_correction, threshold,
            min_lesion_volume, overlap, mirroring, least_growth, tolerance, device, omp_nthreads or console.cores(),
            samseg_hours,
        )  # fmt: skip
        loose = loose_patient(visit, patient, Path(converted))
        require_same_patient(loose, out)
        check_start(RunPlan(out, None, settings, work_dir))
        loose = keep_converted(loose, Path(converted), out / "sourcedata")
    if run_and_print(Cohort((loose,)), out, settings, work=work_dir):
        raise typer.Exit(EXIT_FAILED_PATIENT)


def _write_group(out: Path) -> None:
    from lesiondelta.errors import OutputError
    from lesiondelta.pipeline.group import PAGE, write_group
    from lesiondelta.records import FOLDER, any_failed

    with nothing_built():
        if not (out / FOLDER).is_dir():
            raise OutputError(f"{out} holds no results: run the level participant first.")
        results = write_group(out)
    console.out.print(f"{len(results)} visits: {out / PAGE}", soft_wrap=True, markup=False)
    if any_failed(results):
        _print_reasons([result for result in results if result.status == "failed"])
        raise typer.Exit(EXIT_FAILED_PATIENT)


def _report_again(context: typer.Context, bids: Path, out: Path, participants: Sequence[str] | None) -> None:
    from lesiondelta.errors import InputError
    from lesiondelta.outputs.derivatives import require_own_results
    from lesiondelta.pipeline.cohort_run import report_cohort
    from lesiondelta.records import any_failed

    with nothing_built():
        given = {p for p in context.params if str(context.get_parameter_source(p)).endswith("COMMANDLINE")}
        if useless := sorted(given - WITH_REPORTS_ONLY):
            names = ", ".join(f"--{name.replace('_', '-')}" for name in useless)
            raise InputError(
                f"--reports-only keeps the settings that the masks were made with: leave out {names}, or leave it out."
            )
        require_own_results(out, bids)
        with console.log_lines(console.print_warning, logging.WARNING, logging.WARNING):
            results = report_cohort(out, participants)
    _print_results(results, out)
    if any_failed(results):
        raise typer.Exit(EXIT_FAILED_PATIENT)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(cls=console.SpacedValues)(run)
    app.command(cls=console.VisitValues)(segment)


def _settings(
    model: Sequence[Path] | None,
    registration: Registration,
    space: Space,
    brain_extraction: BrainExtraction,
    skull_strip: SkullStrip,
    gate: bool,
    bias_correction: bool,
    threshold: float | None,
    min_lesion_mm3: float | None,
    overlap: float | None,
    mirroring: bool | None,
    least_growth: float,
    tolerance_mm: float,
    device: Device,
    threads: int,
    samseg_hours: float,
) -> "Settings":
    from lesiondelta.settings import Settings

    preprocessing = {
        "registration": registration.value,
        "space": space.value,
        "brain_extraction": brain_extraction.value,
        "skull_strip": skull_strip.value,
        "gate": gate,
        "bias_correction": bias_correction,
        "threads": max(1, threads),
    }
    segmentation = {
        "models": tuple(model or ()),
        "threshold": threshold,
        "min_lesion_mm3": min_lesion_mm3,
        "overlap": overlap,
        "mirroring": mirroring,
        "device": device.value,
        "threads": max(1, threads),
        "samseg_hours": samseg_hours,
    }
    tracking = {"least_growth": least_growth, "tolerance_mm": tolerance_mm}
    parts = {"preprocessing": preprocessing, "segmentation": segmentation, "tracking": tracking}
    return console.parsed(Settings, parts)


def default_settings(models: Sequence[Path]) -> "Settings":
    """The settings of `run` without any other option, on the CPU."""
    from lesiondelta.settings import PreprocessingSettings, SegmentationSettings, Settings

    threads = console.cores()
    return Settings(
        preprocessing=PreprocessingSettings(threads=threads),
        segmentation=SegmentationSettings(models=tuple(models), threads=threads, device="cpu"),
    )


def run_and_print(
    cohort: "Cohort",
    out: Path,
    settings: "Settings",
    raw: Path | None = None,
    work: Path | None = None,
    nprocs: int = 1,
    stop: bool = False,
) -> bool:
    """Run, print what became of every visit, and say whether any failed; exits if nothing can be started."""
    from lesiondelta.pipeline import RunPlan, run_cohort
    from lesiondelta.pipeline.cohort_run import check_start
    from lesiondelta.records import any_failed

    with nothing_built():
        plan = check_start(RunPlan(out, raw, settings, work))
    with console.progress("starting", len(cohort.patients)) as advance:

        def report(patient: "Patient", results: "Sequence[VisitResult]") -> None:
            advance(f"sub-{patient.label} is done")

        with console.log_lines(lambda line: advance(line, step=0)):
            results = run_cohort(cohort, plan, processes=nprocs, stop_on_first_crash=stop, report=report)
    _print_results(results, out)
    return any_failed(results)


@contextmanager
def nothing_built() -> Iterator[None]:
    """Print what is wrong and exit: nothing could be started."""
    try:
        yield
    except LesionDeltaError as error:
        console.print_error(error)
        raise typer.Exit(EXIT_NOTHING_BUILT) from error


COLOURS = {"ok": "green", "ok-zero-lesions": "green", "flagged": "yellow", "failed": "bold red"}


def _print_results(results: "Sequence[VisitResult]", out: Path) -> None:
    from rich.table import Table

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
    _print_reasons(results)  # below the table, whose columns would cut or break a path
    console.out.print(
        f"Reports (sub-*.html), masks, lesiondelta.tsv and group.html are in {out}", soft_wrap=True, markup=False
    )


def _print_reasons(results: "Sequence[VisitResult]") -> None:
    for result in results:
        if result.reason:
            name = f"{result.patient} {result.visit}".strip()
            console.out.print(f"{name}: {result.reason}", soft_wrap=True, markup=False, highlight=False)
