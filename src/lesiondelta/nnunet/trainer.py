"""nnU-Net's trainer, reading pairs, with a checkpoint every epoch from which it ends as if never interrupted.

Deviations:

- patches are drawn by patient, then by visit; nnU-Net draws from all cases;
- a patient's images are cropped to one box that holds all the visits;
- on a CPU with bfloat16 support, convolutions use bfloat16.

Imports nnunetv2: import this module inside `environment` only.
"""

import logging
import math
import pydoc
import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from time import time
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor
from torch._dynamo import OptimizedModule

from lesiondelta.errors import ModelError
from lesiondelta.methods import Recipe
from lesiondelta.nnunet.dataset import visits_folder
from lesiondelta.nnunet.drawn import DrawnBatches
from lesiondelta.nnunet.environment import named_as_text, prints_logged
from lesiondelta.nnunet.export import write_checkpoint
from lesiondelta.nnunet.job import TrainingCallback, TrainingJob, TrainingProgress
from lesiondelta.nnunet.pairs import PairDataset
from lesiondelta.nnunet.planning import CONFIGURATION

logger = logging.getLogger(__name__)


def create_trainer(
    job: TrainingJob,
    plan: dict[str, Any],
    dataset: dict[str, Any],
    patients: dict[str, list[str]],
    progress: TrainingCallback | None = None,
) -> "PairTrainer":
    """A trainer ready to run: at epoch 0, or after the last finished epoch where there is a checkpoint."""
    with prints_logged():
        kind = pydoc.locate(job.method.trainer)
        trainer: PairTrainer = kind(  # type: ignore[operator]
            plan | {"continue_training": False}, CONFIGURATION, job.fold, dataset, torch.device(job.device)
        )
    trainer.configure(job, patients, progress)
    seed_everything(job.seed)
    trainer.initialize()
    if job.checkpoint.is_file():
        trainer.load_checkpoint(str(job.checkpoint))
    trainer.apply_precision()
    return trainer


def seed_everything(*entropy: int) -> None:
    """Seed the three generators that loading, augmentation and initialisation draw from."""
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class PairTrainer(nnUNetTrainer):
    """Differs from nnU-Net's in what it reads, when it saves, and how it reports; the training step is nnU-Net's."""

    def configure(self, job: TrainingJob, patients: dict[str, list[str]], progress: TrainingCallback | None) -> None:
        """Take over the job (nnU-Net inspects the constructor's arguments, which therefore stay as they are)."""
        self.job = job
        self.patients = patients
        self.progress = progress
        self.output_folder = self.output_folder_base = str(job.output)
        self.num_epochs = job.preset.epochs
        self.num_iterations_per_epoch = job.preset.iterations_per_epoch
        self.num_val_iterations_per_epoch = job.preset.validation_iterations
        self.initial_lr = job.method.recipe.learning_rate
        self.weight_decay = job.method.recipe.weight_decay
        self.oversample_foreground_percent = job.method.recipe.foreground_share
        self.enable_deep_supervision = job.method.deep_supervision
        self.iteration, self.iterations_done = 0, 0
        self.commits: list[str | None] = []
        self.board: Any = None

    def initialize(self) -> None:
        """nnU-Net's, and the precision of a training that begins here."""
        super().initialize()
        self.precision = PRECISIONS.get(self.device.type, ("float32",))[0]
        if self.device.type == "cpu" and computes_in_bfloat16():
            self.precision = "mixed bfloat16"

    def apply_precision(self) -> None:
        """Compute in bfloat16 if that is the precision: nnU-Net's mixed precision is only for CUDA."""
        if self.precision == "mixed bfloat16":
            self.network.forward = in_bfloat16(self.network.forward)
            for layer in self.network.modules():
                if isinstance(layer, torch.nn.Conv3d):
                    layer.forward = in_float32_where_flat(layer.forward)  # type: ignore[assignment,method-assign]

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Networks are built with or without it, and stay so: nnU-Net reaches into `decoder`, which not all have."""

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, "Decay"]:
        """The recipe's optimiser and schedule."""
        recipe = self.job.method.recipe
        optimiser: torch.optim.Optimizer
        if recipe.optimiser == "sgd":
            optimiser = torch.optim.SGD(
                self.network.parameters(),
                recipe.learning_rate,
                momentum=recipe.momentum,
                weight_decay=recipe.weight_decay,
                nesterov=True,
            )
        else:
            kind = torch.optim.AdamW if recipe.optimiser == "adamw" else torch.optim.Adam
            optimiser = kind(
                self.network.parameters(),
                recipe.learning_rate,
                betas=(recipe.momentum, 0.999),
                eps=recipe.eps,
                weight_decay=recipe.weight_decay,
                amsgrad=recipe.optimiser == "amsgrad",
            )
        return optimiser, Decay(optimiser, recipe, self.num_epochs)

    # What is read

    def do_split(self) -> tuple[list[str], list[str]]:
        """Patients on either side of the fold."""
        return list(self.job.members.train), list(self.job.members.validation)

    def get_tr_and_val_datasets(self) -> tuple[PairDataset, PairDataset]:
        """Pairs of the training and of the validation patients."""
        train, validation = self.do_split()
        return self._pairs(train), self._pairs(validation)

    def get_dataloaders(self) -> tuple[Any, Any]:
        """nnU-Net's, of which the training's also draws if the job says so."""
        train, validation = super().get_dataloaders()
        drawn, scales = self.job.drawn, self._get_deep_supervision_scales()
        if drawn is not None:
            generator = drawn.generator(self.configuration_manager.patch_size, self.job.seed, self.device)
            train = DrawnBatches(
                train, generator, batch=self.batch_size, share=drawn.share, scales=scales, method=self.job.method
            )
        return train, validation

    def _pairs(self, labels: Sequence[str]) -> PairDataset:
        return PairDataset(
            visits_folder(self.job.data),
            {label: self.patients[label] for label in labels},
            longitudinal=self.job.method.longitudinal,
            labels=self.job.method.labels,
            prior=self.job.method.prior,
            self_prior_share=self.job.self_prior_share,
        )

    def get_training_transforms(self, *args: Any, use_mask_for_norm: list[bool], **kwargs: Any) -> ComposeTransforms:  # noqa: ANN401
        """nnU-Net's augmentation, with every channel of both visits set to 0 outside the brain afterwards."""
        channels = len(use_mask_for_norm) * (2 if self.job.method.longitudinal else 1)
        transforms = super().get_training_transforms(*args, use_mask_for_norm=[True] * channels, **kwargs)
        for transform in transforms.transforms:
            inner = transform.transform if isinstance(transform, RandomTransform) else transform
            if isinstance(inner, GaussianBlurTransform):
                inner.benchmark = False  # it picks the algorithm by the clock, and the two round differently
        return PairTransforms(transforms.transforms) if self.job.method.longitudinal else transforms

    # The course of a training

    def on_train_start(self) -> None:
        """Open TensorBoard once nnU-Net has prepared its loaders."""
        super().on_train_start()
        if self.local_rank == 0:
            from torch.utils.tensorboard import SummaryWriter

            folder = self.job.output / "tensorboard"
            folder.mkdir(exist_ok=True)
            self.board = SummaryWriter(str(named_as_text(folder)), purge_step=self.current_epoch)

    def on_epoch_start(self) -> None:
        """Reseed from (seed, epoch), so that an epoch does not depend on those this process ran before it."""
        super().on_epoch_start()
        self.iteration = 0
        seed_everything(self.job.seed, self.current_epoch, self.local_rank)
        if isinstance(self.dataloader_train, DrawnBatches):
            self.dataloader_train.start(self.current_epoch, self.local_rank)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's step, reported."""
        outputs: dict[str, Any] = super().train_step(batch)
        self.iteration += 1
        self._report(float(outputs["loss"]))
        return outputs

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """nnU-Net's pseudo-Dice, which is NaN where the patches have no lesion and none is found."""
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
            super().on_validation_epoch_end(val_outputs)

    def on_epoch_end(self) -> None:
        """Log, save and report; nnU-Net's plots and its choice of a best checkpoint are left out."""
        self.logger.log("epoch_end_timestamps", time(), self.current_epoch)
        self.current_epoch += 1  # from here on it counts the finished epochs
        self.iterations_done += self.iteration
        last = {key: values[-1] for key, values in self.logger.get_checkpoint().items() if values}
        self.save_checkpoint(str(self.job.checkpoint))
        if self.board is not None:
            for key, name in BOARD_NAMES.items():
                if np.isfinite(last[key]):
                    self.board.add_scalar(name, last[key], self.current_epoch)
            self.board.flush()
        loss, validation, dice = (float(last[key]) for key in ("train_losses", "val_losses", "mean_fg_dice"))
        logger.info(
            "epoch %d of %d: loss %.4f, validation loss %.4f, validation Dice %.3f",
            self.current_epoch, self.num_epochs, loss, validation, dice,
        )  # fmt: skip
        self._report(loss, validation, dice)

    def on_train_end(self) -> None:
        """Stop the loaders and close TensorBoard; the last epoch's checkpoint is the final one."""
        for loader in (self.dataloader_train, self.dataloader_val):
            if hasattr(loader, "_finish"):
                with prints_logged():
                    loader._finish()
        if self.board is not None:
            self.board.close()

    def _report(self, loss: float, validation: float | None = None, dice: float | None = None) -> None:
        if self.progress is not None and self.local_rank == 0:
            epoch = self.current_epoch - (validation is not None)
            state = (epoch, self.num_epochs, self.iteration, self.num_iterations_per_epoch)
            self.progress(TrainingProgress(*state, loss, validation, dice))

    # Checkpoints

    def save_checkpoint(self, filename: str) -> None:
        """Save atomically, and only what `torch.load(weights_only=True)` accepts: tensors, numbers, text."""
        if self.local_rank != 0:
            return
        checkpoint = {
            "network": self.plain_network().state_dict(),
            "optimiser": self.optimizer.state_dict(),
            "grad_scaler": self.grad_scaler.state_dict() if self.grad_scaler is not None else None,
            "history": plain_numbers(self.logger.get_checkpoint()),
            "epochs_done": self.current_epoch,
            "iterations_done": self.iterations_done,
            "precision": self.precision,
            "commits": self.commits,
        }
        write_checkpoint(Path(filename), checkpoint)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Continue after the last finished epoch, in the precision it was computed in."""
        checkpoint = read_checkpoint(filename_or_checkpoint, self.device)
        precision = checkpoint.get("precision", self.precision)
        if precision not in PRECISIONS.get(self.device.type, ("float32",)):
            raise ModelError(
                f"{filename_or_checkpoint} was trained in {precision}, which the device {self.device.type} does not "
                "compute in here: continue on the device it began on, or delete it to train from the start."
            )
        if precision != self.precision:
            logger.info("continuing in %s, as it began; here it would be %s", precision, self.precision)
        self.precision = precision
        self.plain_network().load_state_dict(checkpoint["network"])
        self.optimizer.load_state_dict(checkpoint["optimiser"])
        if self.grad_scaler is not None and checkpoint["grad_scaler"] is not None:
            self.grad_scaler.load_state_dict(checkpoint["grad_scaler"])
        self.logger.load_checkpoint(checkpoint["history"])
        self.current_epoch = checkpoint["epochs_done"]
        self.commits = checkpoint.get("commits", [])
        self.iterations_done = checkpoint.get("iterations_done", self.current_epoch * self.num_iterations_per_epoch)

    def plain_network(self) -> torch.nn.Module:
        """The network without the wrappers of several GPUs and of torch.compile."""
        network = self.network.module if self.is_ddp else self.network
        plain: torch.nn.Module = network._orig_mod if isinstance(network, OptimizedModule) else network
        return plain

    # What nnU-Net prints and draws

    def print_to_log_file(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Log instead of printing."""
        logger.debug(" ".join(str(arg) for arg in args).strip())

    def plot_network_architecture(self) -> None:
        """Leave the drawing out."""

    def _save_debug_information(self) -> None:
        """Leave debug.json out: training.json has the settings."""


class Decay:
    """The recipe's learning rate of an epoch; nnU-Net calls `step` at the start of each."""

    def __init__(self, optimiser: torch.optim.Optimizer, recipe: Recipe, epochs: int) -> None:
        self.optimiser, self.recipe, self.epochs = optimiser, recipe, epochs

    def step(self, epoch: int) -> None:
        """Set the learning rate of `epoch`, which counts from 0."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.recipe, epoch / self.epochs)


def learning_rate(recipe: Recipe, done: float) -> float:
    """The learning rate after this share of the epochs."""
    if recipe.schedule == "poly":
        return float(recipe.learning_rate * (1 - done) ** 0.9)
    if recipe.schedule == "cosine":
        return COSINE_END + (recipe.learning_rate - COSINE_END) * (1 + math.cos(math.pi * done)) / 2
    return recipe.learning_rate * (0.1 if recipe.schedule == "step" and done >= 0.5 else 1)


class PairTransforms(ComposeTransforms):
    """nnU-Net's augmentation of a pair; a prior that is the visit itself stays so.

    Noise and contrast are drawn channel by channel. A single visit, compared with itself, has no difference at all, and
    in training it must not get one.
    """

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:  # noqa: ANN401
        """Augment (2C, X, Y, Z)."""
        current, prior = data_dict["image"].chunk(2)
        same = torch.equal(current, prior)
        augmented: dict[str, Any] = super().apply(data_dict, **params)
        if same:
            augmented["image"] = augmented["image"].chunk(2)[0].repeat(2, 1, 1, 1)
        return augmented


def computes_in_bfloat16() -> bool:
    """Whether this CPU has instructions for it; emulated, it would be slower than float32. Old torch cannot say."""
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def in_bfloat16(forward: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """The same forward pass, its convolutions in bfloat16; weights and logits stay float32."""

    def run(batch: Tensor) -> Any:  # noqa: ANN401
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = forward(batch)
        return [scale.float() for scale in logits] if isinstance(logits, list) else logits.float()

    return run


def in_float32_where_flat(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same convolution of (B, F, X, Y, Z), in float32 where X is 2.

    There oneDNN leaves a third to two thirds of the weights' gradient unwritten in bfloat16 (decision 038).
    """

    def run(features: Tensor) -> Tensor:
        if features.shape[2] != 2:
            return forward(features)
        with torch.autocast("cpu", enabled=False):
            return forward(features.float())

    return run


COSINE_END = 1e-6

PRECISIONS = {"cuda": ("mixed float16",), "cpu": ("float32", "mixed bfloat16")}
"""What a training can be computed in, by device; a CPU without instructions for bfloat16 emulates them."""

BOARD_NAMES = {
    "train_losses": "loss/train",
    "val_losses": "loss/validation",
    "mean_fg_dice": "dice/validation",
    "lrs": "learning_rate",
}


def read_checkpoint(path: str, device: torch.device) -> dict[str, Any]:
    """Load without unpickling code; ModelError for anything that is not one of our checkpoints."""
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        if "epochs_done" in checkpoint:
            return checkpoint
    except torch.OutOfMemoryError:  # the file is sound
        raise
    except Exception as error:  # torch raises many kinds for damaged files
        raise ModelError(f"{path} cannot be read ({error}): delete it to train from the start.") from error
    raise ModelError(f"{path} is not a checkpoint of lesiondelta: delete it to train from the start.")


def plain_numbers(content: Any) -> Any:  # noqa: ANN401
    """NumPy scalars inside dicts and lists as Python numbers."""
    if isinstance(content, dict):
        return {key: plain_numbers(value) for key, value in content.items()}
    if isinstance(content, list):
        return [plain_numbers(value) for value in content]
    return content.item() if isinstance(content, np.generic | np.ndarray) else content
