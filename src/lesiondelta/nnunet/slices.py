"""Training on 2D slices of pairs, as Denner et al. 2020 do: which slices, and the trainer that draws them.

Checked against the authors' code (StefanDenn3r/Spatio-temporal-MS-Lesion-Segmentation, commit 04790fd): no
augmentation, no clipping of gradients. Where a preset has a recipe of its own, or fewer than EPOCHS epochs, its epochs
and iterations are everyone's: the batch then counts slices where it counts patches for the others, so that the number
of samples is the same, not the number of voxels. Deviations:

- early stopping watches nnU-Net's pseudo-Dice over all validation slices, where theirs is the soft Dice loss;
- the weights are the last epoch's, as for every method here, not the best epoch's;
- slices are padded to the largest patient's cube, so that patients of any size share a batch.

Imports nnunetv2: import this module inside `environment` only.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lesiondelta.errors import CohortError
from lesiondelta.images import Array
from lesiondelta.networks.denner import STRIDE, centre_pad, multitask_loss
from lesiondelta.nnunet.job import TrainingCallback, TrainingJob
from lesiondelta.nnunet.pairs import PairDataset
from lesiondelta.nnunet.trainer import PairTrainer

logger = logging.getLogger(__name__)

EPOCHS = 100  # each a pass over all slices
PATIENCE = 10  # more epochs than this without a better Dice end the training
AXES = (0, 1, 2)


class Slice(NamedTuple):
    """The plane across a spatial axis at this place, in two stored visits."""

    current: str
    prior: str
    axis: int
    place: int


class Slices(Dataset[dict[str, Tensor]]):
    """Slices of every ordered pair of a patient's visits, in three orientations, where the current visit has a lesion.

    They are read one at a time; a single visit is its own prior.

    Attributes
    ----------
    slices : list of Slice
        All there are, in a fixed order.
    edge : int
        Of every slice, in voxels: the largest patient's, rounded up to a multiple of 32.
    """

    def __init__(self, stored: PairDataset) -> None:
        self.stored = stored
        self.ranges: dict[str, Array] = {}
        self.slices: list[Slice] = []
        longest = 0
        for _, visits in sorted(stored.patients.items()):
            for current in visits:
                data, labels = stored._open(current)[:], stored._open(f"{current}_seg")[0]
                longest = max(longest, *labels.shape)
                self.ranges[current] = intensity_ranges(data)
                priors = [visit for visit in visits if visit != current] or [current]
                places = lesion_planes(data, labels)
                self.slices += [Slice(current, prior, *plane) for prior, plane in product(priors, places)]
        self.edge = STRIDE * math.ceil(longest / STRIDE)

    def __getitem__(self, where: Slice) -> dict[str, Tensor]:
        """`data` (2C, edge, edge), cat(current, prior) in [0, 1], and `target` (edge, edge), the current's lesions."""
        lesions = self._plane(f"{where.current}_seg", where)[0] == 1
        pair = np.concatenate(
            [scaled(self._plane(visit, where), self.ranges[visit]) for visit in (where.current, where.prior)]
        )
        data, target = (torch.from_numpy(array.astype(np.float32)) for array in (pair, lesions))
        return {"data": centre_pad(data, self.edge), "target": centre_pad(target, self.edge)}

    def _plane(self, name: str, where: Slice) -> Array:
        """(F, H, W) of one stored array; only the blocks it touches are decompressed."""
        box = [slice(None)] * 4
        box[where.axis + 1] = slice(where.place, where.place + 1)
        plane: Array = np.asarray(self.stored._open(name)[tuple(box)]).squeeze(where.axis + 1)
        return plane


def lesion_planes(data: Array, labels: Array) -> list[tuple[int, int]]:
    """Axis and index of the planes of data (C, X, Y, Z) that are not empty and hold a lesion (X, Y, Z)."""
    found = []
    for axis in AXES:
        others = tuple(other for other in AXES if other != axis)
        held = (labels == 1).any(axis=others) & (data != 0).any(axis=0).any(axis=others)
        found += [(axis, int(index)) for index in np.flatnonzero(held)]
    return found


def intensity_ranges(data: Array) -> Array:
    """(C, X, Y, Z) -> (C, 2): lowest and highest nonzero voxel, which `networks.denner.scale` maps to 0 and 1."""
    inside = [channel[channel != 0] for channel in data]
    return np.array([(x.min(), x.max()) if x.size else (0, 1) for x in inside], np.float32)


def scaled(plane: Array, ranges: Array) -> Array:
    """(C, H, W) min-max scaled by its volume's (C, 2) ranges; 0 stays 0."""
    low, high = ranges[:, 0, None, None], ranges[:, 1, None, None]
    result: Array = np.where(plane != 0, (plane - low) / np.maximum(high - low, 1e-8), 0)
    return result


def draw(slices: Sequence[Slice], count: int, self_prior_share: float) -> list[Slice]:
    """`count` slices in random order, none a second time before all were drawn; a share has itself as the prior."""
    passes = [np.random.permutation(len(slices)) for _ in range(math.ceil(count / len(slices)))]
    drawn = [slices[index] for index in np.concatenate(passes)[:count]]
    selves = np.random.random(count) < self_prior_share
    return [s._replace(prior=s.current) if itself else s for s, itself in zip(drawn, selves, strict=True)]


def spread(slices: Sequence[Slice], count: int) -> list[Slice]:
    """`count` slices, the middle ones of as many equal parts: the same at every call."""
    return [slices[int((part + 0.5) * len(slices) / count)] for part in range(count)]


class SliceTrainer(PairTrainer):
    """PairTrainer on slices, with the multitask loss; it may stop early."""

    def configure(self, job: TrainingJob, patients: dict[str, list[str]], progress: TrainingCallback | None) -> None:
        """Choose between the method's own schedule and the preset's."""
        super().configure(job, patients, progress)
        self.own_schedule = job.preset.recipe is None and job.preset.epochs >= EPOCHS
        if self.own_schedule:
            self.num_epochs = EPOCHS

    def _build_loss(self) -> Callable[..., Tensor]:
        return multitask_loss

    # What is read

    def get_dataloaders(self) -> tuple[Iterator[dict[str, Tensor]], Iterator[dict[str, Tensor]]]:
        """Endless batches; those of an epoch are drawn at its start, the validation's are always the same."""
        train, validation = (Slices(dataset) for dataset in self.get_tr_and_val_datasets())
        if not train.slices:
            names = ", ".join(sorted(train.stored.patients))
            raise CohortError(f"No visit of {names} has a lesion: there are no slices to train on.")
        if not validation.slices:
            logger.warning("no visit held out has a lesion: the validation is on slices that are trained on")
            validation = train
        if self.own_schedule:
            whole = self.configuration_manager.batch_size  # of all GPUs
            self.num_iterations_per_epoch = math.ceil(len(train.slices) / whole)
            self.num_val_iterations_per_epoch = math.ceil(len(validation.slices) / self.batch_size)
        count = self.num_iterations_per_epoch * self.batch_size
        fixed = spread(validation.slices, self.num_val_iterations_per_epoch * self.batch_size)
        return (
            self._batches(train, lambda: draw(train.slices, count, self.job.self_prior_share)),
            self._batches(validation, lambda: fixed),
        )

    def _batches(self, slices: Slices, epoch: Callable[[], list[Slice]]) -> Iterator[dict[str, Tensor]]:
        while True:
            # its processes draw nothing, so that their number does not matter
            yield from DataLoader(slices, self.batch_size, sampler=epoch(), num_workers=get_allowed_n_proc_DA())

    # The course of a training

    def train_step(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """nnU-Net's step without its clipping."""
        self.optimizer.zero_grad(set_to_none=True)
        loss, _ = self._compute(batch)
        if self.grad_scaler is None:
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        else:
            self.grad_scaler.scale(loss).backward()
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
        self.iteration += 1
        self._report(loss.item())
        return {"loss": np.array(loss.item())}

    def validation_step(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """The loss, and what nnU-Net's pseudo-Dice is made of."""
        loss, logits = self._compute(batch)
        found, target = logits.argmax(dim=1) == 1, batch["target"].to(self.device) > 0
        parts = {"tp_hard": found & target, "fp_hard": found & ~target, "fn_hard": ~found & target}
        return {"loss": loss.cpu().numpy(), **{name: np.array([int(part.sum())]) for name, part in parts.items()}}

    def _compute(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss, and the logits (B, 2, H, W)."""
        data, target = (batch[name].to(self.device, non_blocking=True) for name in ("data", "target"))
        with torch.autocast("cuda") if self.device.type == "cuda" else nullcontext():
            outputs = self.network(data)
        return self.loss(outputs, target, data), outputs[0]

    def run_training(self) -> None:
        """nnU-Net's loop, which `on_epoch_end` may leave."""
        try:
            super().run_training()
        except StoppedEarly:
            self.on_train_end()

    def on_epoch_end(self) -> None:
        """End the training where it does not get better any more."""
        super().on_epoch_end()
        if self.own_schedule and exhausted(self.logger.get_checkpoint()["mean_fg_dice"]):
            raise StoppedEarly

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """A training that had stopped early stays so."""
        super().load_checkpoint(filename_or_checkpoint)
        if self.own_schedule and exhausted(self.logger.get_checkpoint()["mean_fg_dice"]):
            self.num_epochs = self.current_epoch


class StoppedEarly(Exception):  # noqa: N818  (not an error)
    """The last epoch was the last one."""


def exhausted(dice: Sequence[float]) -> bool:
    """Whether more than PATIENCE epochs have passed since the Dice was last as good as ever."""
    best = max(range(len(dice)), key=lambda epoch: (np.nan_to_num(dice[epoch]), epoch))
    return len(dice) - 1 - best > PATIENCE
