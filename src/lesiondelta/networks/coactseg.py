"""CoactSeg (Wu et al. 2023, arXiv:2307.04513): a V-Net of both visits and their difference, with three heads.

y1 sees the lesions of the prior visit, y2 those of the current one, y3 the new ones; only y2 is scored. Checked against
the authors' code (ycwu1997/CoactSeg, commit 1e4fcea). Deviations:

- a visit has C contrasts, theirs only FLAIR: the input has 3C channels;
- every pair has all masks; theirs has only new lesions, or all lesions for a single visit shown twice, and their loss
  tying y1 to y2 there is dropped;
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

ENCODER_CONVOLUTIONS = (1, 2, 3, 3, 3)
DECODER_CONVOLUTIONS = (3, 3, 2)
DROPOUT = 0.5
EPS = 1e-8


def unit(convolution: nn.Module, features: int) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return nn.Sequential(convolution, nn.BatchNorm3d(features), nn.ReLU(inplace=True))


def convolutions(count: int, inputs: int, features: int) -> nn.Sequential:
    """`count` units of 3^3 convolutions, without a residual."""
    widths = [inputs, *[features] * count]
    return nn.Sequential(*(unit(nn.Conv3d(a, b, 3, padding=1), b) for a, b in pairwise(widths)))


class DifferenceVNet(nn.Module):
    """Three heads on one V-Net of [prior, current, current - prior]; every edge must be divisible by 16.

    Parameters
    ----------
    input_channels : int
        C, the channels of one visit.
    num_classes : int
    features_per_stage : sequence of int
        The plan's, of which only the first counts: half of it are the filters of the first stage, 16 at the paper's
        32. Every stage below has twice as many.
    deep_supervision : bool
        Whether `forward` gives the logits of all heads, which training needs.
    **plan
        The rest of nnU-Net's topology, which is not this network's.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        features_per_stage: Sequence[int],
        deep_supervision: bool = False,
        **plan: Any,  # noqa: ANN401
    ) -> None:
        super().__init__()
        first = features_per_stage[0] // 2
        widths = [first * 2**stage for stage in range(len(ENCODER_CONVOLUTIONS))]
        inputs = [3 * input_channels, *widths[1:]]
        steps = list(pairwise(widths))  # (upper, lower)
        self.deep_supervision = deep_supervision
        self.encoder = nn.ModuleList(map(convolutions, ENCODER_CONVOLUTIONS, inputs, widths))
        self.down = nn.ModuleList(unit(nn.Conv3d(a, b, 2, stride=2), b) for a, b in steps)
        self.up = nn.ModuleList(unit(nn.ConvTranspose3d(b, a, 2, stride=2), a) for a, b in reversed(steps))
        self.decoder = nn.ModuleList(map(convolutions, DECODER_CONVOLUTIONS, widths[3:0:-1], widths[3:0:-1]))
        self.branches = nn.ModuleList(convolutions(1, first, first) for _ in range(3))  # f2, f1, f3
        self.fusion = convolutions(1, 3 * first, first)
        self.heads = nn.ModuleList(nn.Conv3d(first, num_classes, 1) for _ in range(3))  # y2, y1, y3
        self.dropout = nn.Dropout3d(DROPOUT)

    def encode(self, visit: Tensor) -> Tensor:
        """The identity: both visits enter the network together."""
        return visit

    def trunk(self, current: Tensor, prior: Tensor) -> Tensor:
        """Two visits (B, C, X, Y, Z) -> the features (B, F, X, Y, Z) that all branches share."""
        x = self.encoder[0](torch.cat((prior, current, current - prior), dim=1))
        skips = []
        for down, block in zip(self.down, self.encoder[1:], strict=True):
            skips.append(x)
            x = block(down(x))
        x = self.dropout(x)
        for up, block in zip(self.up, [*self.decoder, nn.Identity()], strict=True):
            x = block(up(x) + skips.pop())
        features: Tensor = x
        return features

    def decode(self, current: Tensor, prior: Tensor) -> Tensor:
        """Two visits -> logits (B, K, X, Y, Z) of the current visit's lesions, y2."""
        logits: Tensor = self.heads[0](self.dropout(self.branches[0](self.trunk(current, prior))))
        return logits

    def logits(self, current: Tensor, prior: Tensor) -> list[Tensor]:
        """Two visits -> logits (B, K, X, Y, Z) of the lesions of the current visit, of the prior, of the new ones."""
        x = self.trunk(current, prior)
        f2, f1, f3 = (self.dropout(branch(x)) for branch in self.branches)
        new = self.fusion(torch.cat((f2 - f1, f1, f3), dim=1))
        return [head(features) for head, features in zip(self.heads, (f2, f1, new), strict=True)]

    def extras(self, current: Tensor, prior: Tensor) -> dict[str, Tensor]:
        """`new` (B, 1, X, Y, Z): probability of a lesion that the prior visit does not have."""
        return {"new": self.logits(current, prior)[2].softmax(1)[:, 1:]}

    def forward(self, pair: Tensor) -> Tensor | list[Tensor]:
        """cat(current, prior) (B, 2C, X, Y, Z) -> logits of y2, or of y2, y1 and y3 under deep supervision."""
        current, prior = pair.chunk(2, dim=1)
        return self.logits(current, prior) if self.deep_supervision else self.decode(current, prior)


def soft_dice_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """1 - (2 sum(p m) + eps) / (sum(p) + sum(m) + eps), the sums taken over the batch."""
    overlap = 2 * (probability * mask).sum() + EPS
    return 1 - overlap / (probability.sum() + mask.sum() + EPS)


def new_lesion_loss(current: Tensor, prior: Tensor, new: Tensor) -> Tensor:
    """MSE(y1, 0) + MSE(y2, 1) over the voxels of new lesions; 0 where there are none (theirs is NaN).

    Parameters
    ----------
    current, prior : (B, X, Y, Z) float
        Probabilities of lesion, y2 and y1.
    new : (B, X, Y, Z) float
        1 in new lesions, 0 elsewhere.
    """
    errors = prior.square() + (1 - current).square()
    return (errors * new).sum() / new.sum().clamp_min(1)


def coactseg_loss(outputs: Sequence[Tensor], targets: Sequence[Tensor], *, regularised: bool) -> Tensor:
    """Soft Dice of the three heads, and with `regularised` what is known of y1 and y2 in new lesions.

    Parameters
    ----------
    outputs : three of (B, 2, X, Y, Z) float
        Logits of y2, y1, y3; all losses see the softmax's probability of lesion.
    targets : three of (B, 1, X, Y, Z)
        Masks of the current visit's lesions, the prior's, the new ones.
    """
    current, prior, _ = probabilities = [logits.float().softmax(1)[:, 1] for logits in outputs]
    masks = [target[:, 0].to(current.dtype) for target in targets]
    loss = torch.stack([soft_dice_loss(p, mask) for p, mask in zip(probabilities, masks, strict=True)]).sum()
    return loss + new_lesion_loss(current, prior, masks[2]) if regularised else loss
