"""From a training to an exported model folder: model.json and weights.safetensors, no pickle, no nnU-Net."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from lesiondelta.files import atomic, atomic_folder, sha256, write_json
from lesiondelta.inference.model import DESCRIPTION, WEIGHTS

FORMAT = "lesiondelta-model"
FORMAT_VERSION = 1


def export_model(
    folder: Path,
    network: nn.Module,
    description: Mapping[str, Any],
    *,
    half: bool = False,
) -> Path:
    """Write a model folder; it is whole or absent, and replaces an older one.

    Parameters
    ----------
    folder : path
    network : module
    description : mapping
        `name`, `method`, `contrasts`, `spacing_mm`, `patch`, `network`, `threshold`, `min_lesion_mm3`, `training`.
    half : bool
        Store float16, which halves the file.
    """
    weights = {name: storable(tensor, half) for name, tensor in named_weights(network).items()}
    with atomic_folder(folder, replace=True) as partial:
        (partial / WEIGHTS).write_bytes(save(weights))  # to a full disk, save_file raises an error of its own
        content = {"format": FORMAT, "format_version": FORMAT_VERSION, **description}
        write_json(partial / DESCRIPTION, content | {"weights_sha256": sha256(partial / WEIGHTS)})
    return folder


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write atomically what `torch.load` reads; from memory, as torch has an error of its own for a full disk."""
    packed = io.BytesIO()
    torch.save(content, packed)
    with atomic(path) as temporary:
        temporary.write_bytes(packed.getbuffer())


def named_weights(network: nn.Module) -> dict[str, torch.Tensor]:
    """Every weight once: nnU-Net's networks hold theirs under up to four names, of which the first is kept."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def storable(tensor: torch.Tensor, half: bool) -> torch.Tensor:
    """On the CPU, contiguous, of 16 bits where asked for and floating."""
    stored = tensor.detach().cpu().contiguous()
    return stored.half() if half and stored.is_floating_point() else stored


def network_description(architecture: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Class and keyword arguments of the planned network as plain JSON; classes are dotted names."""
    kwargs = {"input_channels": channels, "num_classes": 2, **architecture["arch_kwargs"], "deep_supervision": False}
    plain: dict[str, Any] = json.loads(json.dumps({"class": architecture["network_class_name"], "kwargs": kwargs}))
    return plain
