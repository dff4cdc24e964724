"""`compare`: methods on one labelled cohort, and the paper's tables."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lesiondelta.cli import console
from lesiondelta.cli.run import (
    BiasOption,
    BrainExtraction,
    BrainOption,
    Device,
    DeviceOption,
    GateOption,
    Processes,
    Registration,
    RegistrationOption,
    SkullStrip,
    Space,
    SpaceOption,
    StripOption,
    Threads,
)
from lesiondelta.errors import InputError

if TYPE_CHECKING:
    from lesiondelta.cohort import Cohort
    from lesiondelta.methods import ExternalMethod, Method


PAPERS = "nnunet,swinunetr,samseg,simunet,denner,coactseg,longitudinal_concat,difference_weighting"


def compare(
    cohort: Annotated[Path, typer.Argument(help="BIDS dataset with derivatives/reference.", show_default=False)],
    out: Annotated[Path, typer.Option("--output", "-o", help="Output folder.", show_default=False)],
    methods: Annotated[str, typer.Option(help="Names with commas between them; by default the paper's.")] = PAPERS,
    preset: Annotated[str, typer.Option(help="paper, small or smoke.")] = "paper",
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the preset's.")] = None,
    patch: Annotated[int | None, typer.Option(min=16, help="Edge of cubic patches, instead of the preset's.")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Number of folds, split by patient.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of folds, first weights, sampling and augmentation.")] = 0,
    test_list: Annotated[
        Path | None,
        typer.Option(
            help="Text file: participants kept for testing, one a line. Default: COHORT/protocol/test.txt, if any."
        ),
    ] = None,
    external: Annotated[Path | None, typer.Option(help="Labelled BIDS dataset of another site, for Table 3.")] = None,
    overlap: Annotated[
        float | None,
        typer.Option(min=0, max=0.9, help="Share of a window that its neighbour covers; each method's own by default."),
    ] = None,
    paper: Annotated[bool, typer.Option(help="Show the paper's own test scores beside Table 2.")] = False,
    registration: RegistrationOption = Registration.elastix,
    space: SpaceOption = Space.baseline,
    brain_extraction: BrainOption = BrainExtraction.atlas,
    skull_strip: StripOption = SkullStrip.auto,
    gate: GateOption = True,
    bias_correction: BiasOption = True,
    device: DeviceOption = Device.auto,
    nprocs: Processes = 1,
    omp_nthreads: Threads = None,
) -> None:
    """Train methods in every fold, predict, score, and write the paper's tables. Called again it goes on.

    [dim]Example[/]

      lesiondelta compare COHORT --preset small --folds 2 --external COHORT2 -o OUT

    OUT/comparison.md gathers the tables; OUT/tables has them in Markdown, LaTeX and TSV, OUT/record.json tells how they
    were made.
    """
    from lesiondelta.comparison.opening import open_study
    from lesiondelta.comparison.outputs import write_outputs
    from lesiondelta.comparison.programs import Source, with_samseg
    from lesiondelta.comparison.study import Study, run_study
    from lesiondelta.files import alone
    from lesiondelta.inference import choose_device
    from lesiondelta.inputs.bids import read_cohort
    from lesiondelta.nnunet import presets
    from lesiondelta.nnunet.preparation import prepare_training
    from lesiondelta.preprocessing.preparation import require_programs
    from lesiondelta.settings import PreprocessingSettings

    chosen, programs = _methods(methods)
    size = presets.load(preset)
    size = replace(size, epochs=epochs or size.epochs, patch=(patch,) * 3 if patch else size.patch)
    threads = omp_nthreads or console.cores()
    options = {
        "registration": registration.value, "space": space.value, "brain_extraction": brain_extraction.value,
        "skull_strip": skull_strip.value, "gate": gate, "bias_correction": bias_correction,
        "threads": max(1, threads // nprocs),
    }  # fmt: skip
    settings = console.parsed(PreprocessingSettings, options)
    cohorts = {folder: read_cohort(folder) for folder in (cohort, external) if folder}
    kept = _kept_for_testing(test_list, cohort, cohorts[cohort])
    require_programs(settings)
    study = Study(
        methods=chosen, cohort=(), test=(), external=(), preset=size, folds=folds, seed=seed, out=out,
        device=choose_device(device.value).type, threads=threads, processes=nprocs, overlap=overlap,
    )  # fmt: skip
    if external and external.resolve() == cohort.resolve():
        raise InputError(f"--external {external} is the cohort itself: give that of another site.")
    open_study(study, cohorts, kept, settings)
    with alone(out, wait=False), console.log_file(out / "compare.log"):
        prepared = []
        for name, (folder, labelled) in zip(("own", "external"), cohorts.items(), strict=False):
            with console.progress(f"preparing patients of {folder.name}", len(labelled.patients)) as advance:
                report = partial(_advanced, advance)
                prepared.append(prepare_training(labelled, out / "work" / name, settings, nprocs, report))
        study = replace(
            study,
            cohort=tuple(patient for patient in prepared[0] if patient.label not in kept),
            test=tuple(patient for patient in prepared[0] if patient.label in kept),
            external=tuple(prepared[1]) if external else (),
        )
        steps = len(chosen) * folds + (len(chosen) + len(programs)) * len(study.splits)
        with console.progress("comparing", steps) as advance:
            results = run_study(study, report=advance)
            if programs:
                given = zip(("own", "external"), cohorts.values(), strict=False)
                sources = [Source(labelled, out / "work" / name, settings) for name, labelled in given]
                of_split = {split: sources[split == "external"] for split in study.splits}
                study, results = with_samseg(study, results, of_split, advance)
        page = write_outputs(study, results, paper=paper)
    console.out.print(page.read_text(encoding="utf-8"), soft_wrap=True, markup=False, highlight=False)
    console.out.print(f"Everything is in {out}", soft_wrap=True, markup=False)


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
    app.command()(compare)
