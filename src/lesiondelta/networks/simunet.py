"""A 3D recurrent residual U-Net (R2U-Net) on registered pairs, in nnU-Net's plan.

Deviations:

- written from memory of the papers, with two recurrences as in public R2U-Net code; no SimU-Net code was found;
- SimU-Net labels liver lesions in both CT scans of a pair; here, as in the comparison of Rokuss et al. (2024), it runs
  in nnU-Net's framework and segments only the current visit;
"""

from collections.abc import Sequence
from typing import Any

from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from torch import Tensor, nn

from lesiondelta.networks.unet import ConcatenationUNet

STEPS = 2
PART_NAMES = ("conv_bias", "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs", "nonlin", "nonlin_kwargs")


class RecurrentUnit(nn.Module):
    """One layer f that is applied three times: h = f(x), then twice h = f(x + h)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, X, Y, Z) -> the same shape."""
        h: Tensor = self.layer(x)
        for _ in range(STEPS):
            h = self.layer(x + h)
        return h


class RecurrentResidualBlock(nn.Module):
    """p = conv1(x); out = p + RU(RU(p)).

    Parameters
    ----------
    conv_op : type
    inputs, features : int
    kernel : int or sequence of int
        Of the recurrent units; conv1 has 1.
    **parts
        Bias, normalisation, dropout and activation of the recurrent units, as nnU-Net's plan names them.
    """

    def __init__(
        self,
        conv_op: type[nn.Conv3d],
        inputs: int,
        features: int,
        kernel: int | Sequence[int],
        **parts: Any,  # noqa: ANN401
    ) -> None:
        super().__init__()
        self.projection = conv_op(inputs, features, 1)
        self.units = nn.Sequential(
            *(RecurrentUnit(ConvDropoutNormReLU(conv_op, features, features, kernel, 1, **parts)) for _ in range(2))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, X, Y, Z) -> (B, features, X, Y, Z)."""
        projected: Tensor = self.projection(x)
        out: Tensor = projected + self.units(projected)
        return out


class RecurrentResidualUNet(ConcatenationUNet):
    """nnU-Net's U-Net on cat(current, prior) with one recurrent residual block a stage, in encoder and decoder.

    A stage begins with max pooling over the plan's stride; upsampling, skips, logits of every resolution and first
    weights are nnU-Net's. The plan's numbers of convolutions per stage have no meaning here.

    References
    ----------
    Szeskin et al. (2023), Medical Image Analysis 83, 102675, doi:10.1016/j.media.2022.102675 (SimU-Net).
    Alom et al. (2018), arXiv:1802.06955 (R2U-Net).
    """

    def __init__(self, input_channels: int, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(input_channels, *args, **kwargs)
        encoder: Any = self.encoder
        parts = {name: getattr(encoder, name) for name in PART_NAMES}
        features, kernels = list(encoder.output_channels), list(encoder.kernel_sizes)
        inputs = [2 * input_channels, *features[:-1]]
        encoder.stages = nn.Sequential(
            *(
                nn.Sequential(nn.MaxPool3d(stride), RecurrentResidualBlock(encoder.conv_op, i, f, kernel, **parts))
                for stride, i, f, kernel in zip(encoder.strides, inputs, features, kernels, strict=True)
            )
        )
        self.decoder.stages = nn.ModuleList(
            RecurrentResidualBlock(encoder.conv_op, 2 * f, f, kernel, **parts)
            for f, kernel in zip(features[-2::-1], kernels[-2::-1], strict=True)
        )
