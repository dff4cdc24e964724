"""MONAI's SwinUNETR on the current visit, with the keyword arguments of nnU-Net's plan.

Deviations:

- the width follows the preset: 48 features in `paper`, as in the comparison of Rokuss et al. (2024), 24 in `small`;
- the authors start from self-supervised weights if available; here weights are MONAI's initial ones;
"""

from collections.abc import Sequence
from typing import Any

from monai.networks.nets import SwinUNETR
from torch import Tensor
from torch.nn import functional

HEADS, DEPTHS, WINDOW = (3, 6, 12, 24), (2, 2, 2, 2), 7
COARSEST = 32  # voxels of the patch in one of the deepest features


class SingleVisitSwinUNETR(SwinUNETR):
    """A Swin transformer as encoder and convolutions as decoder; the prior is accepted and ignored.

    It takes only the width from the plan: its feature size is 1.5 times the features of the plan's first stage, which
    gives the 48 of the paper for nnU-Net's 32. Its resolutions, kernels and blocks are fixed, so every edge of a patch
    must be a multiple of 32. A patch of 32^3, as in the smallest preset, is padded with zeros along one axis, because
    instance normalisation needs more than one voxel at the deepest resolution.

    The weights begin as MONAI's do: nnU-Net's network builder initialises what has a method `initialize`, which
    SwinUNETR hasn't, and the authors' training code leaves MONAI's in place.

    Parameters
    ----------
    input_channels : int
        C, the channels of one visit.
    num_classes : int
        K.
    features_per_stage : sequence of int
        Of the plan; the first is a multiple of 8.
    **plan
        The plan's other arguments, which have no meaning here.

    References
    ----------
    Hatamizadeh et al. (2022), Swin UNETR, arXiv:2201.01266; the code is MONAI's (Apache-2.0), not version 2.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        features_per_stage: Sequence[int],
        **plan: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(
            in_channels=input_channels,
            out_channels=num_classes,
            feature_size=3 * features_per_stage[0] // 2,
            depths=DEPTHS,
            num_heads=HEADS,
            window_size=WINDOW,
            norm_name="instance",
        )
        self.visit_channels = input_channels

    def encode(self, visit: Tensor) -> list[Tensor]:
        """The identity: MONAI's encoder and decoder are one pass."""
        return [visit]

    def decode(self, current: list[Tensor], prior: list[Tensor]) -> Tensor:
        """Two visits (B, C, X, Y, Z) -> logits (B, K, X, Y, Z) of the current one."""
        return self.forward(current[0])

    def forward(self, pair: Tensor) -> Tensor:
        """(B, C, X, Y, Z), or cat(current, prior) with 2C channels -> logits (B, K, X, Y, Z)."""
        visit = pair[:, : self.visit_channels]
        if max(visit.shape[2:]) == COARSEST:
            visit = functional.pad(visit, (0, COARSEST))
        logits: Tensor = super().forward(visit)
        return logits[..., : pair.shape[-1]]
