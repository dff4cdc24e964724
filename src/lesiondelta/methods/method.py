"""What a method is: a network, what it sees of the prior, and a training recipe."""

from dataclasses import dataclass
from typing import Literal

PriorPolicy = Literal["previous", "random", "baseline"]


@dataclass(frozen=True)
class Recipe:
    """How the weights are learned; the defaults are the paper's (3.3), which are nnU-Net's.

    The loss is Dice + cross-entropy, unless the method's trainer has its own; the gradient norm is clipped at 12.

    Attributes
    ----------
    optimiser : "sgd", "adam", "adamw" or "amsgrad" (Adam with it)
    learning_rate : float
        At epoch 0.
    schedule : str
        "poly": (1 - epoch / epochs)^0.9; "cosine": to 1e-6; "step": a tenth from half of the epochs on; "constant".
    momentum : float
        Nesterov's, of SGD; with the others it is beta 1.
    eps : float
        Of the others' denominators.
    weight_decay : float
    foreground_share : float
        Share of a batch's patches that are centred on a lesion voxel of the current visit, rounded as nnU-Net does:
        one of two at 0.33.
    epochs : int or None
        The most there are, however many the preset has, unless that has a recipe of its own.
    """

    optimiser: Literal["sgd", "adam", "adamw", "amsgrad"] = "sgd"
    learning_rate: float = 0.01
    schedule: Literal["poly", "cosine", "step", "constant"] = "poly"
    momentum: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 3e-5
    foreground_share: float = 0.33
    epochs: int | None = None


@dataclass(frozen=True)
class Method:
    """One row of the comparison.

    Attributes
    ----------
    name : str
        The name of its file and on the command line.
    title, citation : str
        As in tables and reports.
    network : str
        Dotted name of a class with the keyword arguments of PlainConvUNet (with the residual planner, of
        ResidualEncoderUNet); `input_channels` is C, the channels of one visit. What it has no use for it ignores.
    longitudinal : bool
        True: the network is given cat(current, prior), 2C channels; False: the current visit, C channels.
    prior : str
        Partner of a visit in training: the visit before it ("previous"), any other ("random"), the first ("baseline").
    recipe : Recipe
    planner : "plain" or "residual"
        Which of nnU-Net's planners decides the topology.
    deep_supervision : bool
        Whether the network gives, in training, a list of logits: of every resolution (weights 1/2^i, lowest 0,
        renormalised), unless the method's trainer takes them for something else.
    patch_multiple : int
        Every edge of the patch is rounded up to a multiple of this.
    largest_patch : int or None
        No edge of the patch exceeds this.
    labels : "current" or "both"
        The masks that training sees: the current visit's, or cat(current, prior).
    window, weighting, overlap : str, str, float
        Prediction: in windows of the patch's size or of the whole volume at once, how the voxels of a window weigh, and
        the share of a window that its neighbour covers.
    references : "prior" or "all"
        Prediction: a visit is compared with its prior, or with every other visit, the probabilities being averaged.
    mirroring : bool
        Whether predictions are averaged over flips where the device is fast.
    trainer : str
        Dotted name of PairTrainer or of a class derived from it.
    """

    name: str
    title: str
    citation: str
    network: str
    longitudinal: bool
    prior: PriorPolicy = "previous"
    recipe: Recipe = Recipe()
    planner: Literal["plain", "residual"] = "plain"
    deep_supervision: bool = True
    patch_multiple: int = 1
    largest_patch: int | None = None
    labels: Literal["current", "both"] = "current"
    window: Literal["patch", "whole"] = "patch"
    weighting: Literal["gaussian", "uniform"] = "gaussian"
    overlap: float = 0.5
    references: Literal["prior", "all"] = "prior"
    mirroring: bool = True
    trainer: str = "lesiondelta.nnunet.trainer.PairTrainer"
