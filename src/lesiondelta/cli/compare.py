"""`compare`: methods on one labelled cohort, and the paper's tables."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

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


def compare(
    cohort: Annotated[Path, typer.Argument(help="BIDS dataset with derivatives/reference.", show_default=False)],
    out: Annotated[Path, typer.Option("--output", "-o", help="Output folder.", show_default=False)],
    methods: Annotated[
        str, typer.Option(help="Names with commas between them.")
    ] = "nnunet,samseg,longitudinal_concat,difference_weighting",
    preset: Annotated[str, typer.Option(help="paper, small or smoke.")] = "paper",
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the preset's.")] = None,
    patch: Annotated[int | None, typer.Option(min=16, help="Edge of cubic patches, instead of the preset's.")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Number of folds, split by patient.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of folds, first weights, sampling and augmentation.")] = 0,
    test_list: Annotated[
        Path | None, typer.Option(help="Text file: participants kept for testing, one a line.")
    ] = None,
    external: Annotated[Path | None, typer.Option(help="Labelled BIDS dataset of another site, for Table 3.")] = None,
    overlap: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of a window that its neighbour covers, in prediction.")
    ] = 0.5,
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
    from lesiondelta import methods as known
    from lesiondelta.comparison.outputs import write_outputs
    from lesiondelta.comparison.programs import Source, with_samseg
    from lesiondelta.comparison.protocol import read_test_list
    from lesiondelta.comparison.study import Study, run_study
    from lesiondelta.files import require_writable
    from lesiondelta.formats.bids import read_cohort
    from lesiondelta.inference import choose_device
    from lesiondelta.nnunet import presets
    from lesiondelta.pipeline.checks import require_programs
    from lesiondelta.pipeline.training import prepare_training, require_labelled
    from lesiondelta.settings import PreprocessingSettings

    named = [name.strip() for name in methods.split(",") if name.strip()]
    chosen = tuple(known.load(name) for name in named if name not in known.EXTERNAL)
    if not chosen or len(set(named)) < len(named):
        raise InputError(f"--methods {methods!r} must name methods to train, each once: {', '.join(known.names())}.")
    size = presets.load(preset)
    size = replace(size, epochs=epochs or size.epochs, patch=(patch,) * 3 if patch else size.patch)
    threads = omp_nthreads or console.cores()
    options = {
        "registration": registration.value, "space": space.value, "brain_extraction": brain_extraction.value,
        "skull_strip": skull_strip.value, "gate": gate, "bias_correction": bias_correction,
        "threads": max(1, threads // nprocs),
    }  # fmt: skip
    settings = console.parsed(PreprocessingSettings, options)
    chosen_device = choose_device(device.value).type
    cohorts = {"own": read_cohort(cohort)} | ({"external": read_cohort(external)} if external else {})
    for labelled in cohorts.values():
        require_labelled(labelled)
    require_programs(settings)
    kept = read_test_list(test_list, [patient.label for patient in cohorts["own"].patients]) if test_list else set()
    require_writable(out)
    with console.log_file(out / "compare.log"):
        prepared = {}
        for name, labelled in cohorts.items():
            with console.progress(f"preparing patients ({name})", len(labelled.patients)) as advance:
                prepared[name] = prepare_training(
                    labelled, out / "work" / name, settings, nprocs, lambda label: advance(f"sub-{label}")
                )
        study = Study(
            chosen,
            tuple(patient for patient in prepared["own"] if patient.label not in kept),
            tuple(patient for patient in prepared["own"] if patient.label in kept),
            tuple(prepared.get("external", ())),
            size, folds, seed, out, chosen_device, threads, nprocs, overlap=overlap,
        )  # fmt: skip
        with console.progress("comparing", len(chosen) * folds + len(named) * len(study.splits)) as advance:
            results = run_study(study, report=advance)
            if "samseg" in named:
                sources = {name: Source(given, out / "work" / name, settings) for name, given in cohorts.items()}
                of_split = {split: sources["external" if split == "external" else "own"] for split in study.splits}
                study, results = with_samseg(study, results, of_split, advance)
        page = write_outputs(study, results, paper=paper)
    console.out.print(page.read_text(encoding="utf-8"), soft_wrap=True, markup=False, highlight=False)
    console.out.print(f"Everything is in {out}", soft_wrap=True, markup=False)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(compare)
