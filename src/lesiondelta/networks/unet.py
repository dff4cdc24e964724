"""nnU-Net's plain U-Net for two visits: one encoder for both, and a fusion in front of the decoder.

Every network here offers `encode(visit) -> state` and `decode(current, prior) -> logits`, so that n visits cost n
encoder passes, and `forward(pair)` for training, where `pair` is cat(current, prior) along the channels.
"""

from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import Tensor, nn

State = list[Tensor]


def difference_weighting(current: Tensor, prior: Tensor, norm: nn.Module) -> Tensor:
    """Weight the current features by where they differ from the prior's (paper, Eq. 2).

    x' = x_c * InstNorm(x_c - x_p) + x_c

    Parameters
    ----------
    current, prior : (B, F, X, Y, Z) float
        Features of one encoder stage, same shape.
    norm : module
        The stage's instance normalisation.

    Returns
    -------
    (B, F, X, Y, Z) float

    References
    ----------
    Rokuss et al. (2024), arXiv:2409.13416, section 2.2.
    """
    weighted: Tensor = current + current * norm(current - prior)
    return weighted


class DifferenceWeighting(nn.Module):
    """Difference weighting of one stage with `features` channels; adds 2 * `features` parameters (gamma 1, beta 0)."""

    def __init__(self, features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm3d(features, eps=eps, affine=True)

    def forward(self, current: Tensor, prior: Tensor) -> Tensor:
        """(B, F, X, Y, Z) twice -> (B, F, X, Y, Z)."""
        return difference_weighting(current, prior, self.norm)


class VisitUNet:
    """One encoder for each visit, and a decoder that sees what `fuse` makes of both; a base for nnU-Net's U-Nets.

    Parameters are the U-Net's; `input_channels` is C, the channels of one visit.
    """

    encoder: nn.Module
    decoder: nn.Module

    def __init__(self, input_channels: int, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(input_channels, *args, **kwargs)  # type: ignore[call-arg]  # the U-Net's
        self.visit_channels = input_channels

    def encode(self, visit: Tensor) -> State:
        """(B, C, X, Y, Z) -> the features of every stage, bottleneck last."""
        state: State = self.encoder(visit)
        return state

    def fuse(self, current: State, prior: State) -> State:
        """What the decoder sees of the two visits' features."""
        return current

    def decode(self, current: State, prior: State) -> Any:  # noqa: ANN401
        """Two states -> logits (B, K, X, Y, Z), or a list of them, finest first, under deep supervision."""
        return self.decoder(self.fuse(current, prior))

    def forward(self, pair: Tensor) -> Any:  # noqa: ANN401
        """cat(current, prior) (B, 2C, X, Y, Z) -> logits; both visits pass the encoder as one batch."""
        current, prior = pair.chunk(2, dim=1)
        both = self.encode(torch.cat((current, prior)))
        return self.decode([x.chunk(2)[0] for x in both], [x.chunk(2)[1] for x in both])


class SingleVisitUNet(VisitUNet, PlainConvUNet):
    """The planned U-Net on the current visit only; the prior is accepted and ignored."""

    def forward(self, pair: Tensor) -> Any:  # noqa: ANN401
        """(B, C, X, Y, Z), or cat(current, prior) with 2C channels -> logits."""
        return self.decode(self.encode(pair[:, : self.visit_channels]), [])


class DifferenceWeightingVisits(VisitUNet):
    """Difference weighting at every stage, bottleneck included."""

    def __init__(self, input_channels: int, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(input_channels, *args, **kwargs)
        self.fusion = nn.ModuleList(DifferenceWeighting(features) for features in self.encoder.output_channels)  # type: ignore[union-attr]

    def fuse(self, current: State, prior: State) -> State:
        """Eq. 2 at every stage."""
        return [weight(c, p) for weight, c, p in zip(self.fusion, current, prior, strict=True)]


class DifferenceWeightingUNet(DifferenceWeightingVisits, PlainConvUNet):
    """The paper's network."""


class DifferenceWeightingResEncUNet(DifferenceWeightingVisits, ResidualEncoderUNet):
    """The paper's fusion in nnU-Net's U-Net with a residual encoder (Isensee et al. 2024, arXiv:2404.09556)."""


class ConcatenationUNet(SingleVisitUNet):
    """Early fusion: the planned U-Net on 2C channels, cat(current, prior); a state is the visit itself."""

    def __init__(self, input_channels: int, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(2 * input_channels, *args, **kwargs)
        self.visit_channels = input_channels

    def encode(self, visit: Tensor) -> State:
        """The identity: both visits enter the encoder together."""
        return [visit]

    def fuse(self, current: State, prior: State) -> State:
        """Encode both visits at once."""
        state: State = self.encoder(torch.cat((current[0], prior[0]), dim=1))
        return state

    def forward(self, pair: Tensor) -> Any:  # noqa: ANN401
        """cat(current, prior) (B, 2C, X, Y, Z) -> logits."""
        return self.decoder(self.encoder(pair))
