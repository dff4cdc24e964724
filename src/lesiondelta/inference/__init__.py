"""Sliding-window segmentation of n visits with an exported model."""

from lesiondelta.inference.model import Model, bundled_model, load_model
from lesiondelta.inference.window import choose_device, extra_outputs, lesion_mask, lesion_probabilities, mirrors

__all__ = [
    "Model",
    "bundled_model",
    "choose_device",
    "extra_outputs",
    "lesion_mask",
    "lesion_probabilities",
    "load_model",
    "mirrors",
]
