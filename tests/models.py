"""Tiny exported models with random weights, for tests of everything that needs one."""

import importlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from lesiondelta.files import sha256
from lesiondelta.inference.model import NETWORKS
from lesiondelta.nnunet.export import named_weights

KWARGS = {
    "input_channels": 2,
    "num_classes": 2,
    "n_stages": 3,
    "features_per_stage": [4, 8, 16],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[3, 3, 3]] * 3,
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    "n_conv_per_stage": [1, 1, 1],
    "n_conv_per_stage_decoder": [1, 1],
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
    "deep_supervision": False,
}


def build_network(class_name: str = "DifferenceWeightingUNet", seed: int = 0) -> torch.nn.Module:
    parts = {"conv_op": torch.nn.Conv3d, "norm_op": torch.nn.InstanceNorm3d, "nonlin": torch.nn.LeakyReLU}
    torch.manual_seed(seed)
    network = getattr(importlib.import_module(module_of(class_name)), class_name)(**KWARGS | parts)
    for parameter in network.parameters():  # away from the neutral start of the norms
        torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


def module_of(class_name: str) -> str:
    return f"lesiondelta.networks.{NETWORKS[class_name]}"


def export_tiny_model(
    folder: Path,
    class_name: str = "DifferenceWeightingUNet",
    seed: int = 0,
    patch: tuple[int, int, int] | None = (16, 16, 16),
) -> Path:
    """A model folder as `train` exports it."""
    folder.mkdir(parents=True)
    weights = {
        name: p.detach().clone(memory_format=torch.contiguous_format)
        for name, p in named_weights(build_network(class_name, seed)).items()
    }
    save_file(weights, folder / "weights.safetensors")
    description = {
        "format": "lesiondelta-model",
        "format_version": 1,
        "name": "tiny",
        "method": "difference_weighting",
        "contrasts": ["T1w", "FLAIR"],
        "spacing_mm": 1.0,
        "patch": patch and list(patch),
        "network": {"class": f"{module_of(class_name)}.{class_name}", "kwargs": KWARGS},
        "threshold": 0.5,
        "min_lesion_mm3": 3.0,
        "weights_sha256": sha256(folder / "weights.safetensors"),
        "training": {},
    }
    (folder / "model.json").write_text(json.dumps(description))
    return folder
