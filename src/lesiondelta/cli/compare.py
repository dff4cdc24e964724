"""`compare`: methods on one labelled cohort, and the paper's tables."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lesiondelta.cli import console
from lesiondelta.cli.options import (
    Device,
    Folds,
    Given,
    LabelledCohort,
    Output,
    Processes,
    Seed,
    Threads,
    preprocessing_of,
    takes_settings,
)
from lesiondelta.errors import InputError

if TYPE_CHECKING:
    from lesiondelta.cohort import Cohort
    from lesiondelta.comparison.study import Study
    from lesiondelta.methods import ExternalMethod, Method
    from lesiondelta.settings import PreprocessingSettings

PAPERS = "nnunet,swinunetr,samseg,simunet,denner,coactseg,longitudinal_concat,difference_weighting"
SPLITS = ("own", "external")
MethodNames = Annotated[
    str,
    typer.Option(
        help="Names of methods (docs/methods.md), separated by commas. Default: the paper's eight.", show_default=False
    ),
]
PresetName = Annotated[str, typer.Option(help="Size of networks and training: paper, small or smoke.")]
Epochs = Annotated[
    int | None,
    typer.Option(min=1, help="Number of epochs; coactseg and denner have a maximum. Default: the preset's."),
]
Patch = Annotated[int | None, typer.Option(min=16, help="Edge of the cubic patches, in voxels. Default: the preset's.")]
TestList = Annotated[
    Path | None,
    typer.Option(
        help="Text file with the participants to keep for testing, one per line. Default: COHORT/protocol/test.txt."
    ),
]
External = Annotated[
    Path | None, typer.Option(help="Labelled BIDS dataset of another site, for Table 3 of the output.")
]
Overlap = Annotated[
    float | None,
    typer.Option(
        min=0, max=0.9, help="Overlap of sliding windows, as a fraction. Default: each method's own; smoke: 0.1."
    ),
]
PaperScores = Annotated[bool, typer.Option("--paper", help="Beside Table 2, show the scores that the paper reports.")]


@takes_settings("preprocessing")
def compare(
    cohort: LabelledCohort,
    out: Output,
    *,
    methods: MethodNames = PAPERS,
    preset: PresetName = "paper",
    epochs: Epochs = None,
    patch: Patch = None,
    folds: Folds = 5,
    seed: Seed = 0,
    test_list: TestList = None,
    external: External = None,
    overlap: Overlap = None,
    paper: PaperScores = False,
    given: Given,
    device: Device = "auto",
    nprocs: Processes = 1,
    omp_nthreads: Threads = None,
) -> None:
    """Compare methods on one cohort, as in the paper.

    For example:

      lesiondelta compare COHORT --preset small --external COHORT2 -o OUT

    The paper is Rokuss et al. (2024). Every method but samseg is trained in every fold, 35 times in all by default, and
    scored on patients that it has not seen.
    OUT/comparison.md has all tables and figures, OUT/tables each table as Markdown, LaTeX and TSV, and OUT/record.json
    the settings. Run the same command again to resume an interrupted comparison.
    """
    console.require_training()
    from lesiondelta.comparison.opening import open_study
    from lesiondelta.comparison.study import Study
    from lesiondelta.files import room_for_temporary_files
    from lesiondelta.inference.window import choose_device
    from lesiondelta.inputs.bids import read_cohort
    from lesiondelta.nnunet import presets
    from lesiondelta.preprocessing.preparation import require_programs

    chosen, programs = _methods(methods)
    size, threads = presets.load(preset), omp_nthreads or console.cores()
    size = replace(size, epochs=epochs or size.epochs, patch=(patch,) * 3 if patch else size.patch)
    settings = preprocessing_of(given, threads // nprocs)
    cohorts = {folder: read_cohort(folder) for folder in (cohort, external) if folder}
    kept = _kept_for_testing(test_list, cohort, cohorts[cohort])
    require_programs(settings)
    study = Study(
        methods=chosen, cohort=(), test=(), external=(), preset=size, folds=folds, seed=seed, out=out,
        device=choose_device(device).type, threads=threads, processes=nprocs,  # type: ignore[arg-type]
        overlap=size.overlap if overlap is None else overlap,
    )  # fmt: skip
    if external and external.resolve() == cohort.resolve():
        raise InputError(f"--external {external} is the cohort itself: give that of another site.")
    with room_for_temporary_files(out):
        open_study(study, cohorts, kept, settings)
        _compare(study, programs, cohorts, kept, settings, paper=paper)


def _compare(
    study: "Study",
    programs: "tuple[ExternalMethod, ...]",
    cohorts: "Mapping[Path, Cohort]",
    kept: set[str],
    settings: "PreprocessingSettings",
    paper: bool,
) -> None:
    """Prepare the patients of a study that was opened, run it, and write and print the tables."""
    from lesiondelta.comparison.outputs import write_outputs
    from lesiondelta.comparison.programs import Source, with_samseg
    from lesiondelta.comparison.study import run_study

    with console.working_in(study.out, "compare.log"):
        study = _prepared(study, cohorts, kept, settings)
        steps = len(study.methods) * study.folds + (len(study.methods) + len(programs)) * len(study.splits)
        with console.progress("comparing", steps) as advance:
            results = run_study(study, report=advance)
            if programs:
                named = zip(SPLITS, cohorts.values(), strict=False)
                sources = [Source(labelled, study.out / "work" / name, settings) for name, labelled in named]
                of_split = {split: sources[split == "external"] for split in study.splits}
                study, results = with_samseg(study, results, of_split, advance)
        page = write_outputs(study, results, paper=paper)
    console.out.print(page.read_text(encoding="utf-8"), soft_wrap=True, markup=False, highlight=False)
    console.out.print(f"Everything is in {study.out}", soft_wrap=True, markup=False)


def _prepared(
    study: "Study", cohorts: "Mapping[Path, Cohort]", kept: set[str], settings: "PreprocessingSettings"
) -> "Study":
    """The study with its patients prepared."""
    from lesiondelta.nnunet.preparation import prepare_training

    prepared = []
    for name, (folder, labelled) in zip(SPLITS, cohorts.items(), strict=False):
        with console.progress(f"preparing patients of {folder.name}", len(labelled.patients)) as advance:
            report = partial(_advanced, advance)
            work = study.out / "work" / name
            prepared.append(prepare_training(labelled, work, settings, study.processes, report))
    return replace(
        study,
        cohort=tuple(patient for patient in prepared[0] if patient.label not in kept),
        test=tuple(patient for patient in prepared[0] if patient.label in kept),
        external=tuple(prepared[1]) if len(prepared) > 1 else (),
    )


def _methods(names: str) -> "tuple[tuple[Method, ...], tuple[ExternalMethod, ...]]":
    """Those to train, and programs of others."""
    from lesiondelta import methods

    named = [name.strip() for name in names.split(",") if name.strip()]
    programs = tuple(methods.EXTERNAL[name] for name in named if name in methods.EXTERNAL)
    chosen = tuple(methods.load(name) for name in named if name not in methods.EXTERNAL)
    if not chosen or len(set(named)) < len(named):
        raise InputError(f"--methods {names!r} must name methods to train, each once: {', '.join(methods.names())}.")
    return chosen, programs


def _kept_for_testing(test_list: Path | None, folder: Path, cohort: "Cohort") -> set[str]:
    """Who is on the test list: the one given, else the one that `convert` wrote."""
    from lesiondelta.comparison.protocol import read_test_list

    written = folder / "protocol" / "test.txt"
    if test_list is None and written.is_file():
        console.out.print(f"Patients of {written} are kept for testing.", soft_wrap=True, markup=False)
        test_list = written
    return read_test_list(test_list, [patient.label for patient in cohort.patients]) if test_list else set()


def _advanced(advance: console.Advance, label: str) -> None:
    advance(f"sub-{label}")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(cls=console.GroupedOptions)(compare)
