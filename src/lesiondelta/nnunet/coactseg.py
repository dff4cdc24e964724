"""CoactSeg's training (Wu et al. 2023): its patches, its augmentation, its three targets, its loss.

Checked against the authors' code (ycwu1997/CoactSeg, commit 1e4fcea). As there, rotations turn the first two axes (here
X and Y), and sample the nearest neighbour. Deviations:

- the batch is the preset's; theirs is 4 pairs and 4 single visits;
- patches are centred on a lesion of the current visit, theirs on a new lesion (pairs) or any lesion (single visits);
- the jitter is 1/8 of the patch: at 80 voxels, 10 as theirs;
- X and Y are flipped with probability 1/2 each; they always flip one of the two, so every patch is mirrored;
- a patch may cross the upper image borders and is padded there; theirs is moved inwards;
- the gradient norm is clipped at 12, and the last epoch's weights are used, as for all methods here.

Imports nnunetv2: import this module inside `environment` only.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from batchgeneratorsv2.transforms.base.basic_transform import SegOnlyTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from torch import Tensor

from lesiondelta.networks.coactseg import coactseg_loss
from lesiondelta.nnunet.dataset import OUTSIDE
from lesiondelta.nnunet.trainer import PairTrainer

ROTATION = math.radians(20)
PLANE = (0, 1)
JITTER = 1 / 8  # of the patch's edge, to either side
REGULARISED_FROM = 0.5  # of the epochs: iteration 10,000 of 20,000


class Targets(SegOnlyTransform):
    """Masks (2, X, Y, Z), current and prior -> the three heads' masks (1, X, Y, Z): current, prior, new."""

    def _apply_to_segmentation(self, segmentation: Tensor, **_: Any) -> list[Tensor]:  # noqa: ANN401
        current, prior = segmentation.chunk(2)
        return [current, prior, current * (1 - prior)]


class ThreeHeadTrainer(PairTrainer):
    """PairTrainer on the network's three heads, which take the place of nnU-Net's resolutions."""

    @property
    def regularised(self) -> bool:
        """Whether the second half of the epochs has begun."""
        return bool(self.current_epoch >= REGULARISED_FROM * self.num_epochs)

    def _build_loss(self) -> Any:  # noqa: ANN401
        return lambda outputs, targets: coactseg_loss(outputs, targets, regularised=self.regularised)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(  # noqa: N802
        self,
    ) -> tuple[Any, bool, list[int], tuple[int, ...]]:
        """Angles, no 2D augmentation, the size of what is read for a patch, the axes that are flipped."""
        self.inference_allowed_mirroring_axes = PLANE
        return in_plane_angle, False, read_size(self.configuration_manager.patch_size), PLANE

    def get_training_transforms(self, *_: Any, **__: Any) -> ComposeTransforms:  # noqa: ANN401
        """Quarter turns, flips, a rotation and a jittered crop, alike for both visits and both masks."""
        patch_size = self.configuration_manager.patch_size
        margin = [size / 2 - edge * JITTER for size, edge in zip(read_size(patch_size), patch_size, strict=True)]
        return ComposeTransforms(
            [
                Rot90Transform(1, num_rot_per_combination=(0, 1, 2, 3), allowed_axes=set(PLANE)),
                MirrorTransform(PLANE),
                SpatialTransform(
                    patch_size,
                    margin,
                    random_crop=True,
                    p_rotation=1,
                    rotation=in_plane_angle,
                    mode_image="nearest",
                    mode_seg="nearest",
                ),
                RemoveLabelTansform(OUTSIDE, 0),
                Targets(),
            ]
        )

    def get_validation_transforms(self, *_: Any, **__: Any) -> ComposeTransforms:  # noqa: ANN401
        """Only the targets."""
        return ComposeTransforms([RemoveLabelTansform(OUTSIDE, 0), Targets()])


def in_plane_angle(image: Tensor, dim: int) -> float:
    """Radians about axis `dim`: X and Y turn only about Z."""
    return float(np.random.uniform(-ROTATION, ROTATION)) if dim == 2 else 0.0


def read_size(patch: Sequence[int]) -> list[int]:
    """Voxels to read, so that the patch can be turned by ROTATION or by quarters, and moved by JITTER."""
    x, y, z = (int(edge) for edge in patch)
    longer, shorter = max(x, y), min(x, y)
    turned = longer * math.cos(ROTATION) + shorter * math.sin(ROTATION)
    in_plane = math.ceil(max(turned, shorter * math.cos(ROTATION) + longer * math.sin(ROTATION)) + 2 * JITTER * longer)
    return [in_plane, in_plane, math.ceil(z * (1 + 2 * JITTER))]
