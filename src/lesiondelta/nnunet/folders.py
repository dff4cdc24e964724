"""Model folders of nnU-Net and of its longitudinal fork: from them to ours, and back.

LongiSeg (MIC-DKFZ/LongiSeg), the fork of the paper's authors, keeps nnU-Net's layout: `plans.json`, `dataset.json` and
`fold_K/checkpoint_final.pth`. Its networks hold the U-Net under `backbone.` and the norms of difference weighting
under `skip_diff_weighting.norm_STAGE`; concatenation is the U-Net with twice the channels, and nnU-Net's own is the
U-Net only. Their arrays are (Z, Y, X) where ours are (X, Y, Z), so that the axes of every kernel are turned round.
"""

import logging
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lesiondelta import methods
from lesiondelta.cohort import CONTRASTS
from lesiondelta.errors import ModelError
from lesiondelta.evaluation.instances import MIN_LESION_MM3
from lesiondelta.files import (
    atomic_folder,
    parsed_json,
    require_new,
    require_writable,
    sha256,
    small_content,
    write_json,
)
from lesiondelta.inference.model import DESCRIPTION, Description, Model, build_network, require_consistent
from lesiondelta.nnunet.export import FORMAT, FORMAT_VERSION, export_model, network_description, write_checkpoint
from lesiondelta.nnunet.training import THRESHOLD

LOGGER = logging.getLogger(__name__)
CHECKPOINT, CONFIGURATION = "checkpoint_final.pth", "3d_fullres"
TRAINERS = {
    "nnunet": "nnUNetTrainer",
    "longitudinal_concat": "LongiSegTrainer",
    "difference_weighting": "LongiSegTrainerDiffWeighting",
    "difference_weighting_resenc": "LongiSegTrainerDiffWeighting",
}
"""Methods that both sides have, and who trains them there."""
BACKBONES = {
    "PlainConvUNet": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "ResidualEncoderUNet": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
}
READERS = ("SimpleITKIO", "NibabelIO", "NibabelIOWithReorient")  # all give (Z, Y, X)
_SCALAR, _ARRAY = np.float64(0).__reduce__()[0], np.array(0).__reduce__()[0]  # what NumPy unpickles its own with
ALLOWED: list[Any] = [
    np.dtype, np.ndarray, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType, np.dtypes.BoolDType,
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]  # fmt: skip
"""What a checkpoint may hold beside tensors and plain Python: NumPy's numbers, of which nnU-Net's log is made."""

UNHASHED = {"format": FORMAT, "format_version": FORMAT_VERSION, "weights_sha256": ""}
"""Completes a description before its weights are written."""


def trained_folds(source: Path) -> list[str]:
    """The finished folds of a model folder: "0", ..., "all"; ModelError where it is none."""
    if (source / DESCRIPTION).is_file():
        raise ModelError(f"{source} is a model of lesiondelta already: give it to --model as it is.")
    missing = [name for name in ("plans.json", "dataset.json") if not (source / name).is_file()]
    if missing:
        raise ModelError(
            f"{source} is not a model folder of nnU-Net: it has no {' and no '.join(missing)}. Give the folder that is "
            "named TRAINER__PLANS__CONFIGURATION."
        )
    found = sorted(path.parent.name.removeprefix("fold_") for path in source.glob(f"fold_*/{CHECKPOINT}"))
    if not found:
        raise ModelError(f"{source} has no fold_K/{CHECKPOINT}: finish its training first.")
    return found


def import_fold(source: Path, fold: str, folder: Path, contrasts: Sequence[str] | None = None) -> Path:
    """Write one fold of a model folder as a model of ours.

    Parameters
    ----------
    source : Path
        With plans.json and dataset.json; `fold` is one of its `trained_folds`, `folder` is written.
    contrasts : sequence of str or None
        What the channels are; None: by their names in dataset.json.

    Raises
    ------
    ModelError
        A file is damaged or would run code, or the model is of a kind that the pipeline here does not feed: other
        channels, labels, normalisation, voxels or networks.
    """
    path = source / f"fold_{fold}" / CHECKPOINT
    checkpoint = _read_checkpoint(path)
    plans, dataset = (_read(source / name) for name in ("plans.json", "dataset.json"))
    try:
        configuration = str(checkpoint["init_args"]["configuration"])
        chosen = _inherited(plans["configurations"], configuration)
        order = _axes(plans)
        channels = _contrasts(dataset, contrasts, source)
        _require_usable(plans, dataset, chosen, source)
        weights, method = _named_as_ours(checkpoint["network_weights"], len(channels), chosen, path)
        description: dict[str, Any] = {
            "name": f"{source.name}-fold_{fold}",
            "method": method,
            "contrasts": channels,
            "spacing_mm": float(np.mean(chosen["spacing"])),
            "patch": _turned(chosen["patch_size"], order),
            "overlap": 0.5,
            "mirroring": sorted(checkpoint.get("inference_allowed_mirroring_axes") or ()) == [0, 1, 2],
            "network": _network(method, chosen["architecture"], len(channels), order),
            "threshold": THRESHOLD,
            "min_lesion_mm3": MIN_LESION_MM3,
            "caution": "an imported model, not validated with this preprocessing: check every lesion",
            "training": {
                "imported_from": source.name,
                "trainer": str(checkpoint["trainer_name"]),
                "plans": str(plans["plans_name"]),
                "configuration": configuration,
                "checkpoint_sha256": sha256(path),
            },
        }
        require_consistent(Description.model_validate(UNHASHED | description), source)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{source} is not laid out as nnU-Net 2.4 and later do it ({type(error).__name__}: {error}): train or "
            "convert it with a current version."
        ) from error
    network = build_network(description["network"], source)
    try:
        network.load_state_dict({name: _turned_kernel(weight, order) for name, weight in weights.items()})
    except RuntimeError as error:
        raise ModelError(f"The weights in {path} do not fit the network of {source / 'plans.json'}.") from error
    return export_model(folder, network, description)


def export_folder(model: Model, folder: Path) -> Path:
    """Write a model as a model folder of nnU-Net (`nnunet`) or LongiSeg (longitudinal), `fold_all`.

    Raises
    ------
    ModelError
        The method has no counterpart there.
    OutputError
        The folder exists, or cannot be written.
    """
    if model.method.removesuffix("_random") not in TRAINERS or model.description.patch is None:
        raise ModelError(
            f"{model.name} is of {model.method}; nnU-Net and LongiSeg know {', '.join(TRAINERS)}: export it as a zip."
        )
    require_new(folder)
    LOGGER.warning(
        "nnU-Net takes the likelier class and keeps every lesion; %s here has threshold %g and minimum size %g mm3",
        model.name, model.description.threshold, model.description.min_lesion_mm3,
    )  # fmt: skip
    require_writable(folder.parent)
    with atomic_folder(folder) as partial:
        _write_folder(model, partial)
    return folder


def _write_folder(model: Model, folder: Path) -> None:
    order = (2, 1, 0)
    channels = {str(index): name for index, name in enumerate(model.contrasts)}
    checkpoint = {
        "network_weights": _named_as_theirs(model, order),
        "trainer_name": TRAINERS[model.method.removesuffix("_random")],
        "init_args": {"configuration": CONFIGURATION, "fold": "all"},
        "inference_allowed_mirroring_axes": (0, 1, 2) if model.description.mirroring else None,
    }
    write_json(folder / "dataset.json", {
        "channel_names": channels, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz",
        "numTraining": 0, "licence": model.description.licence,
    })  # fmt: skip
    write_json(folder / "plans.json", _plans(model, order))
    write_checkpoint(folder / "fold_all" / CHECKPOINT, checkpoint)


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint; ModelError where it is damaged, or holds anything but tensors and numbers."""
    try:
        with torch.serialization.safe_globals(ALLOWED):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist: give a fold whose training is finished.") from error
    except Exception as error:  # torch raises many kinds for damaged files
        refused = re.search(r"GLOBAL (\S+)", str(error))  # its advice to switch the protection off is not passed on
        holds = f"holds {refused[1]}" if refused else "holds objects"
        raise ModelError(
            f"{path} is damaged, or {holds} that could run code, and was not opened: get it from its makers again."
        ) from error
    if not isinstance(checkpoint, dict) or "network_weights" not in checkpoint:
        raise ModelError(f"{path} is not a checkpoint of nnU-Net: it has no network_weights.")
    return checkpoint


def _axes(plans: Mapping[str, Any]) -> tuple[int, int, int]:
    """For X, Y and Z the number of the axis in arrays of a model folder; its reader gives (Z, Y, X)."""
    transposed = [int(axis) for axis in plans["transpose_forward"]]
    x, y, z = (transposed.index(axis) for axis in (2, 1, 0))
    return x, y, z


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = parsed_json(small_content(path).decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error
    return content


def _inherited(configurations: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration with what it takes over from others."""
    own = dict(configurations[name])
    parent = own.pop("inherits_from", None)
    return {**_inherited(configurations, parent), **own} if parent else own


def _contrasts(dataset: Mapping[str, Any], given: Sequence[str] | None, source: Path) -> list[str]:
    """The contrast of every channel."""
    names = [str(name) for _, name in sorted(dataset["channel_names"].items(), key=lambda item: int(item[0]))]
    given_by_user = given is not None
    if given is None:
        known = {contrast.lower(): contrast for contrast in CONTRASTS} | {"t1": "T1w"}
        given = [known.get(name.lower().removesuffix(".nii.gz"), name) for name in names]
    if len(given) != len(names) or sorted(given) != sorted(CONTRASTS):
        told = f", and --contrasts says {', '.join(given)}" if given_by_user else ""
        raise ModelError(
            f"The channels of {source} are {', '.join(names)}{told}; the pipeline gives {' and '.join(CONTRASTS)}: if "
            "that is what they are, say which comes first with --contrasts."
        )
    return list(given)


def _require_usable(
    plans: Mapping[str, Any], dataset: Mapping[str, Any], chosen: Mapping[str, Any], source: Path
) -> None:
    """Raise ModelError for what would be segmented wrongly without a word."""
    spacing, labels = np.array(chosen["spacing"], float), dataset["labels"]
    reasons = {
        f"its labels are {labels}, not background 0 and one lesion 1": sorted(labels.values(), key=str) != [0, 1],
        f"its voxels measure {spacing.tolist()} mm, and are not cubes": len(spacing) != 3 or np.ptp(spacing) > 0.05,
        f"it normalises by {chosen['normalization_schemes']}, not each image by its z-score in the brain": (
            set(chosen["normalization_schemes"]) != {"ZScoreNormalization"} or not all(chosen["use_mask_for_norm"])
        ),
        f"its images are read by {plans['image_reader_writer']}": plans["image_reader_writer"] not in READERS,
        "it is a cascade": bool(chosen.get("previous_stage")),
    }
    for reason, applies in reasons.items():
        if applies:
            raise ModelError(f"The model in {source} cannot be used here: {reason}. Train it again with `train`.")


def _named_as_ours(
    weights: Mapping[str, Tensor], channels: int, chosen: Mapping[str, Any], path: Path
) -> tuple[dict[str, Tensor], str]:
    """Weights by the names that our networks have, and the method they belong to."""
    ours = OrderedDict()
    for name, weight in weights.items():
        name = name.removeprefix("module.").removeprefix("_orig_mod.").removeprefix("backbone.")
        if name.startswith("skip_diff_weighting.norm_"):
            stage, _, part = name.removeprefix("skip_diff_weighting.norm_").partition(".")
            name = f"fusion.{stage}.norm.{part}"
        ours[name] = weight
    first = next((weight for name, weight in ours.items() if name.startswith("encoder.") and weight.ndim == 5), None)
    residual = "n_blocks_per_stage" in chosen["architecture"]["arch_kwargs"]
    seen = 0 if first is None else first.shape[1]
    if any(name.startswith("fusion.") for name in ours) and seen == channels:
        return ours, "difference_weighting_resenc" if residual else "difference_weighting"
    if not residual and seen in (channels, 2 * channels) and not any(name.startswith("skip_") for name in ours):
        return ours, "nnunet" if seen == channels else "longitudinal_concat"
    raise ModelError(
        f"{path} holds a network of {seen} input channels, which is none of {', '.join(TRAINERS)} on {channels} "
        "contrasts."
    )


def _named_as_theirs(model: Model, order: Sequence[int]) -> "OrderedDict[str, Tensor]":
    longitudinal = methods.load(model.method).longitudinal
    theirs = OrderedDict()
    for name, weight in model.network.state_dict().items():
        if name.startswith("fusion."):
            _, stage, _, part = name.split(".")
            name = f"skip_diff_weighting.norm_{stage}.{part}"
        elif longitudinal:
            name = f"backbone.{name}"
        theirs[name] = _turned_kernel(weight, order)
    return theirs


def _turned(values: Sequence[int], order: Sequence[int]) -> list[int]:
    return [int(values[axis]) for axis in order]


def _turned_kernel(weight: Tensor, order: Sequence[int]) -> Tensor:
    return weight.permute(0, 1, *(2 + axis for axis in order)).contiguous() if weight.ndim == 5 else weight


def _turned_kwargs(kwargs: Mapping[str, Any], order: Sequence[int]) -> dict[str, Any]:
    """Arguments of a U-Net whose axes are turned; numbers that stand for all three axes stay."""
    turned = dict(kwargs)
    for key in ("kernel_sizes", "strides"):
        turned[key] = [_turned([stage] * 3 if isinstance(stage, int) else stage, order) for stage in kwargs[key]]
    return turned


def _network(method: str, architecture: Mapping[str, Any], channels: int, order: Sequence[int]) -> dict[str, Any]:
    named = {"network_class_name": methods.load(method).network, "arch_kwargs": architecture["arch_kwargs"]}
    described = network_description(named, channels)
    return described | {"kwargs": _turned_kwargs(described["kwargs"], order)}


def _plans(model: Model, order: Sequence[int]) -> dict[str, Any]:
    """What nnU-Net's predictor and LongiSeg's need to know."""
    description, name = model.description, "ResidualEncoderUNet" if "resenc" in model.method else "PlainConvUNet"
    kwargs = _turned_kwargs(description.network["kwargs"], order)
    for key in ("input_channels", "num_classes", "deep_supervision"):
        kwargs.pop(key)
    spacing, channels = [model.spacing_mm] * 3, len(model.contrasts)
    patch = _turned(description.patch or (), order)
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    labels = resampling | {"is_seg": True, "order": 1}
    return {
        "dataset_name": model.name, "plans_name": "lesiondelta", "experiment_planner_used": "lesiondelta",
        "original_median_spacing_after_transp": spacing,
        "original_median_shape_after_transp": patch,
        "image_reader_writer": "NibabelIOWithReorient", "label_manager": "LabelManager",
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {},
        "configurations": {
            CONFIGURATION: {
                "data_identifier": "lesiondelta", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
                "patch_size": patch, "spacing": spacing,
                "median_image_size_in_voxels": patch,
                "normalization_schemes": ["ZScoreNormalization"] * channels, "use_mask_for_norm": [True] * channels,
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": resampling, "resampling_fn_seg_kwargs": labels,
                "resampling_fn_probabilities_kwargs": resampling | {"order": 1}, "batch_dice": False,
                "architecture": {
                    "network_class_name": BACKBONES[name], "arch_kwargs": kwargs,
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
            }
        },
    }  # fmt: skip
