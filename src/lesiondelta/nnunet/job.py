"""One training: what decides its result, and what it reports while it runs."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lesiondelta.methods import Method
from lesiondelta.nnunet.drawn import DrawnPairs
from lesiondelta.nnunet.presets import Preset
from lesiondelta.nnunet.training_patients import Fold, FoldName
from lesiondelta.settings import DeviceName


@dataclass(frozen=True)
class TrainingProgress:
    """Sent after every iteration, and once more at the end of an epoch with the validation's figures.

    `dice` is nnU-Net's pseudo-Dice over the validation patches.
    """

    epoch: int
    epochs: int
    iteration: int
    iterations: int
    train_loss: float
    validation_loss: float | None = None
    dice: float | None = None


TrainingCallback = Callable[[TrainingProgress], None]


@dataclass(frozen=True)
class TrainingOptions:
    """How a method is trained on a cohort.

    Attributes
    ----------
    fold : int or "all"
        The fold held out; "all" trains on every patient.
    seed : int
        For the folds, the first weights, sampling and augmentation. On CPU, runs of one seed and one number of threads
        end in identical weights, however often they were interrupted.
    gpus : int
        CUDA devices that share the batch.
    initial_weights : path or None
        An exported model folder to start from.
    self_prior_share : float
        Share of pairs whose prior is the visit itself; 0 needs patients with two visits or more.
    drawn : DrawnPairs or None
        Training pairs drawn beside the stored patients.
    """

    fold: FoldName = "all"
    folds: int = 5
    seed: int = 0
    device: DeviceName = "auto"
    threads: int = 1
    gpus: int = 1
    initial_weights: Path | None = None
    self_prior_share: float = 0.0
    drawn: DrawnPairs | None = None


@dataclass(frozen=True)
class TrainingJob:
    """Everything a training needs to know; picklable, so that it reaches the processes of several GPUs."""

    data: Path
    output: Path
    method: Method
    preset: Preset
    fold: FoldName
    members: Fold
    seed: int
    self_prior_share: float = 0.0
    initial_weights: Path | None = None
    device: str = "cpu"
    threads: int = 1
    gpus: int = 1
    drawn: DrawnPairs | None = None

    @property
    def settings(self) -> Path:
        """The settings it was started with."""
        return self.output / "training.json"

    @property
    def checkpoint(self) -> Path:
        """Written at the end of every epoch."""
        return self.output / "checkpoint.pth"

    @property
    def model(self) -> Path:
        """The exported model folder."""
        return self.output / "model"

    def identity(self) -> dict[str, Any]:
        """The settings that decide the weights, as plain JSON: two runs that differ in them must not be mixed."""
        preset = asdict(self.preset) | {"patch": list(self.preset.patch) if self.preset.patch else None}
        del preset["recipe"], preset["overlap"]  # the method has the one, training needs nothing of the other
        drawn = {} if self.drawn is None else {"drawn": self.drawn.identity()}
        return {
            "method": asdict(self.method),
            "preset": preset,
            "fold": self.fold,
            "train": list(self.members.train),
            "validation": list(self.members.validation),
            "seed": self.seed,
            "self_prior_share": self.self_prior_share,
            **drawn,
        }
