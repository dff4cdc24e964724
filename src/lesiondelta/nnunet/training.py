"""`train`: patients to an exported model folder. Called again it continues, or returns at once when complete."""

import json
import logging
import math
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lesiondelta import __version__
from lesiondelta.cohort import Patient
from lesiondelta.errors import CohortError, InputError, ModelError, OutputError
from lesiondelta.evaluation.instances import MIN_LESION_MM3
from lesiondelta.files import sha256, write_json
from lesiondelta.inference.model import load_model
from lesiondelta.inference.window import choose_device
from lesiondelta.methods import Method, Recipe
from lesiondelta.nnunet import dataset
from lesiondelta.nnunet.environment import environment, require_text_name
from lesiondelta.nnunet.job import TrainingCallback, TrainingJob, TrainingOptions
from lesiondelta.nnunet.loaders import loader_processes
from lesiondelta.nnunet.presets import Preset
from lesiondelta.nnunet.ranks import run_in_ranks
from lesiondelta.nnunet.training_patients import TrainingPatient, choose_fold
from lesiondelta.processes import possible_processes

logger = logging.getLogger(__name__)

WORTH_COMPILING = 10_000  # iterations: torch.compile takes a minute or two, more than a short training wins
DEFAULT_PATCH = (128, 128, 128)  # only for compression, where the plan chooses the patch
THRESHOLD = 0.5


def plan_job(
    patients: Sequence[Patient | TrainingPatient],
    output: Path,
    method: Method,
    preset: Preset,
    options: TrainingOptions | None = None,
    data: Path | None = None,
) -> TrainingJob:
    """What shall be trained; raises what can be known before the patients are prepared.

    Parameters
    ----------
    patients : sequence of Patient or TrainingPatient
        Their labels and numbers of visits are looked at.
    output : path
        Holds training.json, checkpoint.pth (every epoch), tensorboard/, model/ and, unless `data` is given, data/.
    method, preset : Method, Preset
        Change single options with `dataclasses.replace`. A preset's recipe takes the place of nnU-Net's; a method with
        another keeps it, but not its own number of epochs, so that methods see equal numbers of samples.
    options : TrainingOptions or None
    data : path or None
        Where the stored patients are, or shall be: trainings of several methods and folds share it.

    Raises
    ------
    CohortError
        A longitudinal method, no self-priors, and a patient with a single visit.
    InputError
        A fold that does not exist, an absent device, or GPUs that cannot share the batch.
    ModelError
        `initial_weights` is not an exported model.
    OutputError
        `output` holds a training with other settings, or neither it nor a link to it can have a name in UTF-8.
    """
    options = options or TrainingOptions()
    if preset.recipe is None:
        preset = replace(preset, epochs=min(preset.epochs, method.recipe.epochs or preset.epochs))
    elif method.recipe == Recipe():
        method = replace(method, recipe=preset.recipe)
    if method.longitudinal and options.self_prior_share == 0:
        _require_priors(patients)
    if method.trainer != Method.trainer:
        _require_sure(patients, method)
    members = choose_fold([patient.label for patient in patients], options.fold, options.folds, options.seed)
    chosen = choose_device(options.device).type
    _require_gpus(options.gpus, chosen, preset.batch)
    if options.initial_weights is not None:
        _require_same_network(options.initial_weights, method)
    job = TrainingJob(
        data or output / "data", output, method, preset, options.fold, members, options.seed, options.self_prior_share,
        options.initial_weights, chosen, options.threads, options.gpus, options.drawn,
    )  # fmt: skip
    _require_same_settings(job.settings, _settings(job))
    for folder in (job.data, job.output):
        require_text_name(folder)
    return job


def train(patients: Sequence[TrainingPatient], job: TrainingJob, progress: TrainingCallback | None = None) -> Path:
    """Train what `plan_job` planned for these patients, and return the exported model's folder.

    `progress` is called after every iteration and epoch (not with several GPUs).

    Raises
    ------
    CohortError, OutputError
        The planned or the stored patients, or the training in the job's folder, are not these.
    """
    _require_planned(patients, job)
    workers = 1 if job.device == "cpu" else job.threads  # without a GPU, storing is a small part of it all
    stored = dataset.build(patients, job.data, job.preset.patch or DEFAULT_PATCH, workers)
    settings = {**_settings(job), "patients_content": stored["content"], "storage": stored["storage"]}
    _require_same_settings(job.settings, settings)
    if not job.settings.is_file():
        write_json(job.settings, {**settings, "commit": source_commit()})
    if not (job.model / "model.json").is_file():
        _remove_partial(job.output)
        _run(job, progress)
    return job.model


def _require_priors(patients: Sequence[Patient | TrainingPatient]) -> None:
    single = [patient.label for patient in patients if len(patient.visits) == 1]
    if single:
        raise CohortError(
            f"Patients with a single visit have no prior to train with: {', '.join(single)}. "
            "Leave them out, or give a self-prior share above 0."
        )


def _require_sure(patients: Sequence[Patient | TrainingPatient], method: Method) -> None:
    unsure = [one.label for one in patients if any(getattr(visit, "unsure", None) for visit in one.visits)]
    if unsure:
        raise InputError(
            f"{method.name} cannot leave voxels out of its loss, as masks of {', '.join(unsure)} ask for: train "
            "another method, or give these patients without what is unsure."
        )


def _require_planned(patients: Sequence[TrainingPatient], job: TrainingJob) -> None:
    planned = {*job.members.train, *job.members.validation}
    different = sorted(planned ^ {patient.label for patient in patients})
    if different:
        raise CohortError(f"The training was planned with other patients: {', '.join(different)} are in one of both.")
    if job.method.longitudinal and job.self_prior_share == 0:
        _require_priors(patients)


def _require_gpus(gpus: int, device: str, batch: int | None) -> None:
    from torch.cuda import device_count

    if gpus > 1 and (device != "cuda" or gpus > device_count()):
        raise InputError(f"{gpus} GPUs are asked for, {device_count()} are here: lower the number.")
    if gpus > 1 and possible_processes(gpus) == 1:
        raise InputError(f"{gpus} GPUs need shared memory, and there is none: use one, or give the container some.")
    if batch is not None and gpus > batch:
        raise InputError(f"{gpus} GPUs cannot share a batch of {batch}: use fewer GPUs or a larger batch.")


def _require_same_network(folder: Path, method: Method) -> None:
    found, expected = type(load_model(folder).network).__name__, method.network.rpartition(".")[2]
    if found != expected:
        raise ModelError(
            f"{folder} holds the weights of a {found}, which do not fit {method.name}'s {expected}: give another model."
        )


def _settings(job: TrainingJob) -> dict[str, Any]:
    start = sha256(job.initial_weights / "weights.safetensors") if job.initial_weights is not None else None
    return {**job.identity(), "initial_weights_sha256": start}


def _require_same_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to continue a training that had others."""
    if not path.is_file():
        return
    found = {"storage": 1, **json.loads(path.read_text(encoding="utf-8"))}  # the first version did not say
    different = [name for name in settings if found.get(name) != settings[name]]
    if different:
        raise OutputError(
            f"{path.parent} holds a training with another {', '.join(different)}: give another folder, or delete it."
        )


def _remove_partial(folder: Path) -> None:
    """Delete what a killed run was writing."""
    for path in folder.glob(".partial-*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _run(job: TrainingJob, progress: TrainingCallback | None) -> None:
    with _explained(job), environment(job.data):
        from lesiondelta.nnunet.planning import CONFIGURATION, make_plan

        plan = make_plan(job.preset, job.method)
    if job.gpus == 1:
        run_job(job, plan, progress)
        return
    _require_gpus(job.gpus, job.device, plan["configurations"][CONFIGURATION]["batch_size"])
    run_in_ranks(run_job, (job, plan), job.gpus)


def run_job(job: TrainingJob, plan: dict[str, Any], progress: TrainingCallback | None = None) -> None:
    """Train from the last checkpoint on, then export."""
    import torch

    from lesiondelta.nnunet.export import export_model

    on_cpu, before = job.device == "cpu", torch.get_num_threads()
    torch.set_num_threads(job.threads)
    torch.backends.cudnn.benchmark = not on_cpu
    processes = loader_processes(job, plan, channels=len(dataset.description(job.data)["contrasts"]))
    compiled = job.device == "cuda" and job.preset.epochs * job.preset.iterations_per_epoch >= WORTH_COMPILING
    try:
        with _explained(job), environment(job.data, loader_processes=processes, compile_network=compiled) as data:
            trainer = build_trainer(replace(job, data=data), plan, progress)
            if trainer.current_epoch < trainer.num_epochs:
                trainer.commits = _with_present(trainer.commits)
                trainer.run_training()
    finally:
        torch.set_num_threads(before)
    if trainer.local_rank == 0:
        description = _description(job, plan, trainer)
        export_model(job.model, trainer.plain_network(), description)


@contextmanager
def _explained(job: TrainingJob) -> Iterator[None]:
    """Say in a sentence that a GPU or a disk is too small; nnU-Net and TensorBoard write files of their own."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{job.method.name} with the preset {job.preset.name} does not fit into the GPU's memory: take a larger "
            "GPU, share the batch among more of them with --gpus, or give a smaller preset."
        ) from error
    except OSError as error:
        raise OutputError(
            f"A file of the training in {job.output} cannot be read or written ({error}): check the free space."
        ) from error


def build_trainer(job: TrainingJob, plan: dict[str, Any], progress: TrainingCallback | None) -> Any:  # noqa: ANN401
    """The trainer as `run_job` has it: from the job's checkpoint if there is one, else from its initial weights."""
    from lesiondelta.nnunet.trainer import create_trainer

    raw = json.loads((job.data / "raw" / dataset.NAME / "dataset.json").read_text(encoding="utf-8"))
    stored = dataset.description(job.data)
    trainer = create_trainer(job, plan, raw, stored["patients"], progress)
    if job.initial_weights is not None and trainer.current_epoch == 0:
        _load_weights(trainer.plain_network(), job.initial_weights)
    if trainer.current_epoch > 0 and not trainer.commits:  # a checkpoint of an earlier version, which kept the first
        trainer.commits = [json.loads(job.settings.read_text(encoding="utf-8")).get("commit")]
    return trainer


def _load_weights(network: Any, folder: Path) -> None:  # noqa: ANN401
    """Start from an exported model; ModelError where it does not fit."""
    try:
        network.load_state_dict(load_model(folder).network.state_dict())
    except RuntimeError as error:
        raise ModelError(
            f"The weights of {folder} do not fit the planned network: start from a model of the same preset."
        ) from error


def _description(job: TrainingJob, plan: Mapping[str, Any], trainer: Any) -> dict[str, Any]:  # noqa: ANN401
    from lesiondelta.nnunet.export import network_description
    from lesiondelta.nnunet.planning import CONFIGURATION

    history = trainer.logger.get_checkpoint()
    chosen = plan["configurations"][CONFIGURATION]
    contrasts = dataset.description(job.data)["contrasts"]
    # with fold "all" the validation patients are those that were trained on
    dice = float(history["mean_fg_dice"][-1]) if job.fold != "all" else math.nan
    seconds = np.subtract(history["epoch_end_timestamps"], history["epoch_start_timestamps"]).sum()
    return {
        "name": f"{job.method.name}-{job.preset.name}-fold{job.fold}",
        "method": job.method.name,
        "contrasts": contrasts,
        "spacing_mm": float(chosen["spacing"][0]),
        "patch": [int(n) for n in chosen["patch_size"]] if job.method.window == "patch" else None,
        "weighting": job.method.weighting,
        "overlap": job.method.overlap,
        "mirroring": job.method.mirroring,
        "network": network_description(chosen["architecture"], len(contrasts)),
        "threshold": THRESHOLD,
        "min_lesion_mm3": MIN_LESION_MM3,
        "prior": "baseline" if job.method.prior == "baseline" else "previous",
        "references": job.method.references,
        "training": {
            **job.identity(),
            "epochs_done": len(history["mean_fg_dice"]),
            "iterations_done": trainer.iterations_done,
            "seconds": round(float(seconds), 3),
            "batch": chosen["batch_size"],
            "batch_dice": chosen["batch_dice"],
            "last_validation_dice": dice if math.isfinite(dice) else None,
            "initial_weights": job.initial_weights.name if job.initial_weights else None,
            "device": job.device,
            "threads": job.threads,
            "precision": trainer.precision,
            "versions": {"lesiondelta": __version__, "nnunetv2": version("nnunetv2"), "torch": version("torch")},
            "commit": trainer.commits[-1],
            "commits": trainer.commits,
        },
    }


def _with_present(commits: Sequence[str | None]) -> list[str | None]:
    """The commits that trained, in order, with the one that trains from here on."""
    present = source_commit()
    return [*commits] if commits and commits[-1] == present else [*commits, present]


def source_commit() -> str | None:
    """The commit of the source this runs from, `-dirty` behind it if files differ; None for an installed package."""
    if Path(__file__).parents[2].name != "src":
        return None
    folder = str(Path(__file__).parent)
    command = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
