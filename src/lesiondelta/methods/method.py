"""What a method of the nnU-Net family is: a network, what it sees of the prior, and a training recipe."""

from dataclasses import dataclass
from typing import Literal

PriorPolicy = Literal["previous", "random", "baseline"]


@dataclass(frozen=True)
class Recipe:
    """How the weights are learned; the defaults are the paper's (3.3), which are nnU-Net's.

    The loss is Dice + cross-entropy with deep supervision (weights 1/2^i, lowest resolution 0, renormalised), the
    learning rate decays as (1 - epoch / epochs)^0.9, the gradient norm is clipped at 12.

    Attributes
    ----------
    optimiser : "sgd" or "adamw"
    learning_rate : float
        At epoch 0.
    momentum : float
        Nesterov's, of SGD; with AdamW it is beta 1.
    weight_decay : float
    foreground_share : float
        Share of a batch's patches that are centred on a lesion voxel of the current visit (rounded up).
    """

    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.99
    weight_decay: float = 3e-5
    foreground_share: float = 0.33


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
        Dotted name of a class with PlainConvUNet's keyword arguments; `input_channels` is C, the channels of one visit.
    longitudinal : bool
        True: the network is given cat(current, prior), 2C channels; False: the current visit, C channels.
    prior : str
        Partner of a visit in training: the visit before it ("previous"), any other ("random"), the first ("baseline").
    recipe : Recipe
    """

    name: str
    title: str
    citation: str
    network: str
    longitudinal: bool
    prior: PriorPolicy = "previous"
    recipe: Recipe = Recipe()
