"""One plan for the whole family: from the single visit's C channels, whatever the method.

Imports nnunetv2: import this module inside `environment` only.
"""

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    ResEncUNetPlanner,
)
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.json_export import recursive_fix_for_json_export

from lesiondelta.methods import Method
from lesiondelta.networks.unet import SingleVisitUNet
from lesiondelta.nnunet.dataset import NAME
from lesiondelta.nnunet.environment import prints_logged
from lesiondelta.nnunet.presets import Preset

CONFIGURATION = "3d_fullres"
SMALL_PATCH = 0.25  # of the median brain; below it nnU-Net computes Dice over the batch, not per sample
UNLIMITED_GB = 1e6


def make_plan(preset: Preset, method: Method) -> dict[str, Any]:
    """Plan `preset` for the data that `environment` points to, then put in the method's network."""
    planner = {"plain": FamilyPlanner, "residual": ResidualPlanner}[method.planner]
    with prints_logged(), _copies_without_modes():
        plan: dict[str, Any] = json.loads(json.dumps(planner(fitted(preset, method)).plan_experiment()))
    plan["configurations"][CONFIGURATION]["architecture"]["network_class_name"] = method.network
    return plan


@contextmanager
def _copies_without_modes() -> Iterator[None]:
    """nnU-Net's planner copies dataset.json together with its mode, which some shares (CIFS, FUSE) refuse."""
    default_experiment_planner.shutil = SimpleNamespace(copy=shutil.copyfile)
    try:
        yield
    finally:
        default_experiment_planner.shutil = shutil


def fitted(preset: Preset, method: Method) -> Preset:
    """The preset with a patch that the method can take; a patch that nnU-Net shall plan is left to it."""
    if preset.patch is None:
        return preset
    multiple = method.patch_multiple
    capped = [min(edge, method.largest_patch or edge) for edge in preset.patch]
    x, y, z = (math.ceil(edge / multiple) * multiple for edge in capped)
    return replace(preset, patch=(x, y, z))


class FamilyPlanner(ExperimentPlanner):
    """nnU-Net's planner with a preset's feature caps, patch, batch and memory; 3D at full resolution only."""

    network: type = SingleVisitUNet

    def __init__(self, preset: Preset) -> None:
        memory = preset.memory_gb if preset.patch is None else UNLIMITED_GB
        super().__init__(NAME, memory, plans_name=f"plans_{preset.name}", suppress_transpose=True)
        self.preset = preset
        self.UNet_class = self.network
        self.UNet_base_num_features = preset.base_features
        self.UNet_max_features_3d = preset.max_features
        self.lowres_creation_threshold = 0  # no cascade

    def determine_reader_writer(self) -> Any:  # noqa: ANN401
        """Name a reader, which plans need; ours has read the images already."""
        return SimpleITKIO

    def generate_data_identifier(self, configuration_name: str) -> str:
        """The one folder of visits, whatever the plan."""
        return "visits"

    def determine_normalization_scheme_and_whether_mask_is_used_for_norm(self) -> tuple[list[str], list[bool]]:
        """Z-score over the brain for every contrast."""
        channels = len(self.dataset_json["channel_names"])
        return ["ZScoreNormalization"] * channels, [True] * channels

    def get_plans_for_configuration(
        self,
        spacing: Any,  # noqa: ANN401
        median_shape: Any,  # noqa: ANN401
        data_identifier: str,
        approximate_n_voxels_dataset: float,
        _cache: dict[str, float],
    ) -> dict[str, Any]:
        """Plan the topology of the preset's patch, or search one within the memory."""
        if len(spacing) == 2:
            return {}  # no 2D network
        bound = median_shape if self.preset.patch is None else np.array(self.preset.patch)
        plan: dict[str, Any] = super().get_plans_for_configuration(
            spacing, bound, data_identifier, approximate_n_voxels_dataset, _cache
        )
        plan["median_image_size_in_voxels"] = median_shape
        if self.preset.batch is not None:
            plan["batch_size"] = self.preset.batch
        return plan

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Drop the absent 2D network, and let Dice be that of the batch where patches are small, as nnU-Net does.

        Nothing is written: trainings that share the folder would overwrite each other's plans.
        """
        plans["configurations"].pop("2d")
        chosen = plans["configurations"][CONFIGURATION]
        share = np.prod(chosen["patch_size"]) / np.prod(np.asarray(chosen["median_image_size_in_voxels"], float))
        chosen["batch_dice"] = bool(share < SMALL_PATCH)
        recursive_fix_for_json_export(plans)

    def static_estimate_VRAM_usage(  # noqa: N802
        self,
        patch_size: Sequence[int],
        input_channels: int,
        output_channels: int,
        arch_class_name: str,
        arch_kwargs: dict[str, Any],
        arch_kwargs_req_import: Sequence[str],
    ) -> float:
        """nnU-Net's count of activations, the encoder's twice where the preset asks for it."""
        network = get_network_from_plans(
            arch_class_name, arch_kwargs, arch_kwargs_req_import, input_channels, output_channels, allow_init=False
        )
        activations: float = network.compute_conv_feature_map_size(patch_size)
        if self.preset.count_encoder_twice:
            activations += network.encoder.compute_conv_feature_map_size(patch_size)
        return activations


class ResidualPlanner(FamilyPlanner, ResEncUNetPlanner):
    """The same with nnU-Net's residual encoder: its blocks a stage, and its way of counting memory."""

    network = ResidualEncoderUNet
