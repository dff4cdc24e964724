"""`train`: a labelled cohort becomes a model."""

import logging
from dataclasses import replace
from enum import StrEnum
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

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from lesiondelta.methods import Method
    from lesiondelta.nnunet.job import TrainingCallback, TrainingProgress
    from lesiondelta.nnunet.training_patients import FoldName


class Prior(StrEnum):
    """Which visit a visit is compared with: the one before it, any other, or the first."""

    previous = "previous"
    random = "random"
    baseline = "baseline"


def train(
    cohort: Annotated[Path, typer.Argument(help="BIDS dataset with derivatives/reference.", show_default=False)],
    out: Annotated[Path, typer.Option("--output", "-o", help="Output folder.", show_default=False)],
    method: Annotated[str, typer.Option(help="One of docs/methods.md; a name that does not exist lists them.")] = (
        "difference_weighting"
    ),
    preset: Annotated[str | None, typer.Option(help="paper (the default), small or smoke.")] = None,
    prior: Annotated[
        Prior | None,
        typer.Option(help="Partner of a visit; the method's own by default (denner trains on every pair anyway)."),
    ] = None,
    fold: Annotated[str, typer.Option(help="The fold held out (0 to folds - 1), or `all` to train on everyone.")] = "0",
    folds: Annotated[int, typer.Option(min=2, help="Number of folds, split by patient.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of folds, first weights, sampling and augmentation.")] = 0,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Instead of the preset's; at most the method's own, where it has any.")
    ] = None,
    initial_model: Annotated[Path | None, typer.Option(help="Exported model to start from.")] = None,
    self_prior_share: Annotated[float, typer.Option(min=0, max=1, help="Visits seen as their own prior.")] = 0.0,
    work_dir: Annotated[
        Path | None, typer.Option(help="Prepared patients, shared by trainings on one cohort; OUT/work by default.")
    ] = None,
    participant_label: Annotated[list[str] | None, typer.Option(help="Participants to train on.")] = None,
    registration: RegistrationOption = Registration.elastix,
    space: SpaceOption = Space.baseline,
    brain_extraction: BrainOption = BrainExtraction.atlas,
    skull_strip: StripOption = SkullStrip.auto,
    gate: GateOption = True,
    bias_correction: BiasOption = True,
    device: DeviceOption = Device.auto,
    gpus: Annotated[int, typer.Option(min=1, help="CUDA devices that share the batch.")] = 1,
    nprocs: Processes = 1,
    omp_nthreads: Threads = None,
) -> None:
    """Train a method on a labelled longitudinal cohort. The same command continues an interrupted training.

    [dim]Example[/]

      lesiondelta simulate COHORT --patients 12 --visits 3 --seed 0

      lesiondelta train COHORT --method difference_weighting --preset small -o OUT

    The model is written to OUT/model; use it with `lesiondelta run ... --model OUT/model`. OUT/train.log tells its
    course. On GPUs, networks of long trainings are compiled (torch.compile) unless the environment says
    nnUNet_compile=false.
    """
    from lesiondelta import methods
    from lesiondelta.files import alone, require_writable
    from lesiondelta.inputs.bids import read_cohort
    from lesiondelta.nnunet import presets, training
    from lesiondelta.nnunet.preparation import prepare_training, require_labelled
    from lesiondelta.preprocessing.preparation import require_programs
    from lesiondelta.settings import PreprocessingSettings

    chosen, size = _with_prior(methods.load(method), prior), presets.load(preset or "paper")
    size = replace(size, epochs=epochs) if epochs else size
    options = {
        "registration": registration.value, "space": space.value, "brain_extraction": brain_extraction.value,
        "skull_strip": skull_strip.value, "gate": gate, "bias_correction": bias_correction,
        "threads": max(1, (omp_nthreads or console.cores()) // nprocs),
    }  # fmt: skip
    settings = console.parsed(PreprocessingSettings, options)
    labelled = read_cohort(cohort, participant_label)
    require_labelled(labelled)
    require_programs(settings)
    work = work_dir or out / "work"
    job = training.plan_job(
        labelled.patients, out, chosen, size, fold=_fold(fold), folds=folds, seed=seed, device=device.value, gpus=gpus,
        threads=omp_nthreads or console.cores(), initial_weights=initial_model, self_prior_share=self_prior_share,
        data=work / "stored",
    )  # fmt: skip
    with alone(out, wait=False), console.log_file(out / "train.log"):
        require_writable(work)
        if preset is None and job.device == "cpu":
            logger.warning(
                "The default preset, paper, is %d epochs of work for a GPU, and here is none: stop it and give "
                "--preset small for what a CPU can do.",
                job.preset.epochs,
            )
        with console.progress("preparing patients", len(labelled.patients)) as advance:
            patients = prepare_training(
                labelled, work / "prepared", settings, nprocs, lambda label: advance(f"sub-{label}")
            )
        with console.progress("training", job.preset.epochs) as advance:
            model = training.train(patients, job, _shown(advance))
    console.out.print(f"The model is in {model}", soft_wrap=True, markup=False)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(cls=console.SpacedValues)(train)


def _with_prior(method: "Method", prior: Prior | None) -> "Method":
    if prior and not method.longitudinal:
        raise InputError(f"{method.name} sees no prior: leave --prior {prior} out, or take another method.")
    return replace(method, prior=prior.value) if prior else method


def _fold(text: str) -> "FoldName":
    if text != "all" and not text.isdigit():
        raise InputError(f"--fold {text} is neither a number nor `all`.")
    return "all" if text == "all" else int(text)


def _shown(advance: console.Advance) -> "TrainingCallback":
    reached = 0.0  # epochs

    def show(progress: "TrainingProgress") -> None:
        nonlocal reached
        now = progress.epoch + progress.iteration / progress.iterations
        dice = "" if progress.dice is None else f", validation Dice {progress.dice:.3f}"
        epoch = f"epoch {progress.epoch + 1} of {progress.epochs}"
        advance(f"{epoch}, loss {progress.train_loss:.3f}{dice}", step=max(0, now - reached))
        reached = max(now, reached)

    return show
