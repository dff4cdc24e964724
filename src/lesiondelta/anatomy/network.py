"""The anatomy network: parts of the brain on a T1w, a FLAIR or both, of whole heads and of brains alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from safetensors.torch import load, save
from torch import Tensor, nn

from lesiondelta.atlas.parts import Part
from lesiondelta.errors import ModelError
from lesiondelta.files import atomic_folder, sha256, write_json

FEATURES = (12, 24, 48, 64, 64)
WEIGHTS, DESCRIPTION = "weights.safetensors", "anatomy.json"
BUNDLED = Path(__file__).parents[1] / "models" / "anatomy"
DARKEST, BRIGHTEST = 0.02, 0.98
"""Shares of the voxels below those that become 0 and 1."""


def anatomy_network(features: Sequence[int] = FEATURES) -> nn.Module:
    """A U-Net of two input channels (T1w, FLAIR), and of as many outputs as there are `Part`s."""
    stages = len(features)
    network: nn.Module = PlainConvUNet(
        2, stages, list(features), nn.Conv3d, 3, [1] + [2] * (stages - 1), 2, len(Part), 2,
        conv_bias=True, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}, deep_supervision=False,
    )  # fmt: skip
    return network


def standardised(image: Tensor) -> Tensor:
    """An image (X, Y, Z) between its darkest and its brightest voxels; 0 throughout where all are alike."""
    values = image.flatten()[::7].sort().values
    low, high = (float(values[int(share * (len(values) - 1))]) for share in (DARKEST, BRIGHTEST))
    if high <= low:
        return torch.zeros_like(image)
    return ((image - low) / (high - low)).clamp(-0.5, 2.0)


def read_anatomy_network(folder: Path = BUNDLED) -> nn.Module:
    """The network with its weights, ready to be used; ModelError where the folder does not hold them as written."""
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if sha256(folder / WEIGHTS) != description["weights_sha256"]:
            raise ModelError(f"{folder / WEIGHTS} has been changed or is damaged: install lesiondelta again.")
        network = anatomy_network(description["features"])
        weights = {name: value.float() for name, value in load((folder / WEIGHTS).read_bytes()).items()}
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder} holds no anatomy network that can be read ({error}).") from error
    own = {name: weight.shape for name, weight in network.named_parameters()}
    if own != {name: weight.shape for name, weight in weights.items()}:
        raise ModelError(f"The weights in {folder} are those of another network: install lesiondelta again.")
    network.load_state_dict(weights, strict=False)  # modules are shared, and known by several names
    return network.eval()


def write_anatomy_network(folder: Path, network: nn.Module, training: Mapping[str, Any]) -> None:
    """Write the weights in half precision; `training` says how they were made."""
    weights = {name: weight.detach().half().contiguous() for name, weight in network.named_parameters()}
    with atomic_folder(folder, replace=True) as partial:
        (partial / WEIGHTS).write_bytes(save(weights))
        content = {"features": [*FEATURES], "training": dict(training)}
        write_json(partial / DESCRIPTION, content | {"weights_sha256": sha256(partial / WEIGHTS)})
