"""`train`: a labelled cohort becomes a model."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lesiondelta import methods
from lesiondelta.cli import console
from lesiondelta.cli.options import (
    Device,
    Folds,
    Given,
    LabelledCohort,
    Output,
    Participants,
    Processes,
    Seed,
    Threads,
    preprocessing_of,
    takes_settings,
)
from lesiondelta.errors import InputError

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from lesiondelta.cohort import Cohort
    from lesiondelta.nnunet.job import TrainingCallback, TrainingJob, TrainingProgress
    from lesiondelta.nnunet.training_patients import FoldName
    from lesiondelta.settings import PreprocessingSettings

MethodName = Annotated[str, typer.Option(help="Name of a method (docs/methods.md).")]
PresetName = Annotated[str | None, typer.Option(help="Size of network and training: paper (default), small or smoke.")]
PriorOption = Annotated[
    methods.PriorPolicy | None,
    typer.Option(help="Which other visit is the prior (not for denner, which uses all). Default: the method's own."),
]
FoldOption = Annotated[str, typer.Option(help="Fold to hold out (0 to folds - 1), or `all` to hold out none.")]
Epochs = Annotated[
    int | None,
    typer.Option(min=1, help="Number of epochs; coactseg and denner have a maximum. Default: the preset's."),
]
InitialModel = Annotated[Path | None, typer.Option(help="Model folder to take the initial weights from.")]
SelfPriorShare = Annotated[
    float, typer.Option(min=0, max=1, help="Fraction of training pairs in which a visit is its own prior.")
]
TrainingWork = Annotated[
    Path | None,
    typer.Option(help="Folder for preprocessed images, reusable on this cohort. Default: OUT/work."),
]
Gpus = Annotated[int, typer.Option(min=1, help="Number of CUDA devices to split the batch over.")]


@takes_settings("preprocessing")
def train(
    cohort: LabelledCohort,
    out: Output,
    *,
    method: MethodName = "difference_weighting",
    preset: PresetName = None,
    prior: PriorOption = None,
    fold: FoldOption = "0",
    folds: Folds = 5,
    seed: Seed = 0,
    epochs: Epochs = None,
    initial_model: InitialModel = None,
    self_prior_share: SelfPriorShare = 0.0,
    work_dir: TrainingWork = None,
    participant_label: Participants = None,
    given: Given,
    device: Device = "auto",
    gpus: Gpus = 1,
    nprocs: Processes = 1,
    omp_nthreads: Threads = None,
) -> None:
    """Train a method on a labelled longitudinal cohort.

    For example:

      lesiondelta simulate COHORT --patients 12 --visits 3

      lesiondelta train COHORT --preset small -o OUT

    The model is written to OUT/model, for `run --model`. Run the same command again to resume interrupted training.
    The log is OUT/train.log.

    On GPUs, training for 10,000 iterations or more compiles the network (torch.compile). To avoid that, set the
    environment variable nnUNet_compile=false.
    """
    console.require_training()
    from lesiondelta.files import room_for_temporary_files
    from lesiondelta.inputs.bids import read_cohort
    from lesiondelta.nnunet import presets
    from lesiondelta.nnunet.job import TrainingOptions
    from lesiondelta.nnunet.preparation import require_labelled
    from lesiondelta.nnunet.training import plan_job
    from lesiondelta.preprocessing.preparation import require_programs

    threads = omp_nthreads or console.cores()
    chosen, size = _with_prior(methods.load(method), prior), presets.load(preset or "paper")
    settings = preprocessing_of(given, threads // nprocs)
    labelled = read_cohort(cohort, participant_label)
    require_labelled(labelled)
    require_programs(settings)
    work = work_dir or out / "work"
    options = TrainingOptions(_fold(fold), folds, seed, device, threads, gpus, initial_model, self_prior_share)
    size = replace(size, epochs=epochs or size.epochs)
    with room_for_temporary_files(out):
        job = plan_job(labelled.patients, out, chosen, size, options, work / "stored")
        _train(labelled, job, work, settings, nprocs, by_default=preset is None)


def _train(
    labelled: "Cohort", job: "TrainingJob", work: Path, settings: "PreprocessingSettings", nprocs: int, by_default: bool
) -> None:
    """Prepare patients and train; `by_default`: the user has not chosen the preset."""
    from lesiondelta.files import require_writable
    from lesiondelta.nnunet.preparation import prepare_training
    from lesiondelta.nnunet.training import train as train_job

    with console.working_in(job.output, "train.log"):
        require_writable(work)
        if by_default and job.device == "cpu":
            logger.warning(
                "The default preset, paper, takes %d epochs and is meant for a GPU, but there is none here: stop, and "
                "give --preset small for what a CPU can do.",
                job.preset.epochs,
            )
        with console.progress("preparing patients", len(labelled.patients)) as advance:
            patients = prepare_training(
                labelled, work / "prepared", settings, nprocs, lambda label: advance(f"sub-{label}")
            )
        with console.progress("training", job.preset.epochs) as advance:
            model = train_job(patients, job, _shown(advance))
    console.out.print(f"The model is in {model}", soft_wrap=True, markup=False)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(cls=console.SpacedValues)(train)


def _with_prior(method: methods.Method, prior: methods.PriorPolicy | None) -> methods.Method:
    if prior and not method.longitudinal:
        raise InputError(f"{method.name} does not use a prior: leave --prior {prior} out, or choose another method.")
    return replace(method, prior=prior) if prior else method


def _fold(text: str) -> "FoldName":
    if text != "all" and not text.isdigit():
        raise InputError(f"--fold {text} is neither a number nor `all`.")
    return "all" if text == "all" else int(text)


def _shown(advance: console.Advance) -> "TrainingCallback":
    reached = 0.0  # epochs

    def show(progress: "TrainingProgress") -> None:
        nonlocal reached
        done = progress.epoch + progress.iteration / progress.iterations
        dice = "" if progress.dice is None else f", validation Dice {progress.dice:.3f}"
        epoch = f"epoch {progress.epoch + 1} of {progress.epochs}"
        advance(f"{epoch}, loss {progress.train_loss:.3f}{dice}", step=max(0, done - reached))
        reached = max(done, reached)

    return show
