"""The sliding window over n visits: every window encodes each visit once and decodes each with its prior."""

import math
from collections.abc import Callable, Sequence
from itertools import combinations, count, product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lesiondelta.errors import InputError, ModelError
from lesiondelta.images import Array
from lesiondelta.inference.backend import WindowNetwork, runnable
from lesiondelta.inference.model import Model
from lesiondelta.preprocessing.intensity import nonzero_mask, normalise
from lesiondelta.settings import Backend
from lesiondelta.timings import timed

WindowCallback = Callable[[int, int], None]
Box = tuple[slice, slice, slice]
References = Sequence[Sequence[int]]
"""For each visit the indices of those it is compared with."""
WORTH_A_GRAPH = 4 * 96**3
"""Voxels of all visits' windows from which on OpenVINO's graphs are made: 3 s, as long as torch takes for them."""
Evaluation = Callable[[WindowNetwork, Sequence[Tensor], References], list[dict[str, Tensor]]]
"""Network, windows (C, x, y, z) of n visits and the index of each one's prior -> per visit (..., x, y, z) by name."""


@timed("network")
def lesion_probabilities(
    visits: Sequence[Array],
    models: Sequence[Model],
    *,
    overlap: float | None = None,
    mirroring: bool | None = None,
    device: str = "auto",
    backend: Backend = "torch",
    progress: WindowCallback | None = None,
) -> list[Array]:
    """Segment all visits of a patient, each with its prior.

    Parameters
    ----------
    visits : sequence of (C, X, Y, Z) float
        In time order, on one grid, 0 outside the brain, not normalised; channels in the order of the models' contrasts.
    models : sequence of Model
        Averaged as logits, each over its temperature.
    overlap : float or None
        Share of a window that its neighbour covers; None: each model's own.
    mirroring : bool or None
        Average the logits over all flips; None: on with CUDA only, for models that want it.
    device : "auto", "cpu", "cuda" or "mps"
    backend : "auto", "torch" or "openvino"
        What computes on a CPU; "auto": OpenVINO where it can hold the network and there are enough windows to
        make up for the seconds that its graphs take to be made.
    progress : callable or None
        Called with (windows done, windows in all).

    Returns
    -------
    list of (X, Y, Z) float32
        Probability of lesion per visit, 0 outside that visit's nonzero voxels.
    """
    if not models or not visits or len({visit.shape for visit in visits}) > 1:
        raise InputError("Give at least one model, and at least one visit, all on one grid.")
    chosen = choose_device(device)
    mirror = mirrors(mirroring, chosen, models)
    tensors = [torch.from_numpy(normalise(visit)) for visit in visits]
    boxes = [_occupied(tensors, model, overlap) for model in models]
    windows, done = sum(map(len, boxes)), count(1)

    def evaluate(network: WindowNetwork, cut: Sequence[Tensor], references: References) -> list[dict[str, Tensor]]:
        logits = window_logits(network, [window.to(chosen) for window in cut], references, mirror)
        if progress is not None:
            progress(next(done), windows)
        return [{"lesion": logit} for logit in logits]

    total = [torch.zeros(tensors[0].shape[1:]) for _ in visits]
    for model, windows_of_model in zip(models, boxes, strict=True):
        references = [model.reference_indices(index, len(visits)) for index in range(len(visits))]
        patch = _patch(model, tensors)
        voxels = len(windows_of_model) * len(visits) * (8 if mirror else 1) * math.prod(patch)
        network = runnable(model, patch, chosen, "torch" if backend == "auto" and voxels < WORTH_A_GRAPH else backend)
        means = _windowed(tensors, model, network, references, evaluate, windows_of_model)
        for mean, sum_over_models in zip(means, total, strict=True):
            sum_over_models += mean.get("lesion", 0) / model.description.temperature  # absent where all is empty
        _require_finite(total, model)
    return [_probability(t / len(models), visit) for t, visit in zip(total, visits, strict=True)]


@timed("network")
def extra_outputs(
    visits: Sequence[Array], model: Model, *, overlap: float | None = None, device: str = "auto"
) -> list[dict[str, Array]]:
    """What the model's network offers beside lesions (`extras`), for all visits of a patient, each with its prior.

    Parameters
    ----------
    visits, overlap, device : as of `lesion_probabilities`

    Returns
    -------
    list of dict of (K, X, Y, Z) float32
        The windows' mean per visit and name, without mirroring, 0 outside that visit's nonzero voxels; empty dicts
        where the network offers nothing.
    """
    if not hasattr(model.network, "extras"):
        return [{} for _ in visits]
    tensors = [torch.from_numpy(normalise(visit)) for visit in visits]
    priors = [[model.prior_index(index, len(visits))] for index in range(len(visits))]
    chosen = choose_device(device)

    def evaluate(network: Any, cut: Sequence[Tensor], references: References) -> list[dict[str, Tensor]]:  # noqa: ANN401
        return window_extras(network, [window.to(chosen) for window in cut], references)

    means = _windowed(tensors, model, model.network.to(chosen), priors, evaluate, _occupied(tensors, model, overlap))
    _require_finite([values for mean in means for values in mean.values()], model)
    return [
        {name: values.numpy() * nonzero_mask(visit) for name, values in mean.items()}
        for mean, visit in zip(means, visits, strict=True)
    ]


def _windowed(
    visits: Sequence[Tensor],
    model: Model,
    network: WindowNetwork,
    references: References,
    evaluate: Evaluation,
    boxes: Sequence[Box],
) -> list[dict[str, Tensor]]:
    """The weighted mean (..., X, Y, Z), over all windows, of what `evaluate` gives for each visit (C, X, Y, Z)."""
    patch = _patch(model, visits)
    weights = torch.zeros(_padded(visits[0].shape[1:], patch))
    window_weights = gaussian_window(patch) if model.description.weighting == "gaussian" else torch.ones(patch)
    sums: list[dict[str, Tensor]] = [{} for _ in visits]
    for box in boxes:
        windows = [_cut(visit, box, patch) for visit in visits]
        for accumulated, outputs in zip(sums, evaluate(network, windows, references), strict=True):
            for name, values in outputs.items():
                if name not in accumulated:
                    accumulated[name] = torch.zeros(*values.shape[:-3], *weights.shape)
                accumulated[name][..., *box] += values.cpu() * window_weights
        weights[box] += window_weights
    inside = _centre(visits[0].shape[1:], weights.shape)
    weights = weights.clamp_min(1e-12)
    return [{name: (values / weights)[..., *inside] for name, values in visit.items()} for visit in sums]


@torch.inference_mode()
def window_extras(
    network: Any,  # noqa: ANN401
    windows: Sequence[Tensor],
    references: References,
) -> list[dict[str, Tensor]]:
    """The network's `extras` (K, x, y, z) for one window of n visits, each with its one reference."""
    states = [network.encode(window[None]) for window in windows]
    found = [network.extras(state, states[prior]) for state, (prior,) in zip(states, references, strict=True)]
    return [{name: values[0].float() for name, values in extras.items()} for extras in found]


@torch.inference_mode()
def window_logits(
    network: WindowNetwork,
    windows: Sequence[Tensor],
    references: References,
    mirroring: bool,
) -> list[Tensor]:
    """Logit of lesion minus logit of background for one window of n visits.

    The softmax of two classes is the sigmoid of this difference, so one number per voxel is enough.

    Parameters
    ----------
    windows : sequence of (C, x, y, z)
    references : sequence of sequences of int
        For each visit the indices of those it is compared with; of several, the probabilities are averaged.

    Returns
    -------
    list of (x, y, z) float32
    """
    axes = [axes for n in range(4) for axes in combinations((2, 3, 4), n)] if mirroring else [()]
    sums = [torch.zeros(window.shape[1:], device=window.device) for window in windows]
    for flip in axes:
        states = [network.encode(torch.flip(window[None], flip)) for window in windows]
        for index, accumulated in enumerate(sums):
            pairs = (network.decode(states[index], states[other]) for other in references[index])
            mean = mean_logit([logits[0, 1] - logits[0, 0] for logits in pairs])
            accumulated += torch.flip(mean, [axis - 2 for axis in flip])
    return [accumulated / len(axes) for accumulated in sums]


def mean_logit(logits: Sequence[Tensor]) -> Tensor:
    """The logit (x, y, z) float32 of the mean of probabilities given as logits."""
    if len(logits) == 1:
        return logits[0].float()
    return torch.stack([one.float() for one in logits]).sigmoid().mean(dim=0).logit(eps=1e-6)


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" takes CUDA, then MPS, then the CPU."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, present in available.items() if present)
    if not available.get(name, False):
        raise InputError(f"There is no {name} device here: use --device auto or cpu.")
    return torch.device(name)


def mirrors(choice: bool | None, device: torch.device, models: Sequence[Model]) -> bool:
    """Whether mirrored views are averaged: the user's choice, else with CUDA only, if all models want it."""
    wanted = all(model.description.mirroring for model in models)
    return device.type == "cuda" and wanted if choice is None else choice


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """First voxels of the windows along one axis: evenly spread, at most (1 - overlap) * window apart (nnU-Net's)."""
    last = max(size - window, 0)
    steps = int(np.ceil(last / (window * (1 - overlap)))) + 1
    return [round(last / max(steps - 1, 1) * step) for step in range(steps)]


def gaussian_window(patch: Sequence[int]) -> Tensor:
    """Weights of a window's voxels: a Gaussian with sigma of 1/8 of the edge around the centre, 1 at most."""
    axes = []
    for edge in patch:
        distance = np.arange(edge) - edge // 2
        axes.append(np.exp(-0.5 * (distance / (edge / 8)) ** 2))
    weights = np.einsum("i,j,k->ijk", *axes).astype(np.float32)
    return torch.from_numpy(weights)


def _patch(model: Model, visits: Sequence[Tensor]) -> Sequence[int]:
    return model.description.patch or tuple(visits[0].shape[1:])


def _occupied(visits: Sequence[Tensor], model: Model, overlap: float | None) -> list[Box]:
    """The model's windows, on the padded grid, in which any visit has a nonzero voxel."""
    patch, share = _patch(model, visits), model.overlap if overlap is None else overlap
    shape = _padded(visits[0].shape[1:], patch)
    boxes: list[Box] = []
    for start in product(*(window_starts(n, edge, share) for n, edge in zip(shape, patch, strict=True))):
        x, y, z = (slice(s, s + edge) for s, edge in zip(start, patch, strict=True))
        if any(bool(_cut(visit, (x, y, z), patch).any()) for visit in visits):
            boxes.append((x, y, z))
    return boxes


def _padded(shape: Sequence[int], patch: Sequence[int]) -> tuple[int, ...]:
    return tuple(max(n, edge) for n, edge in zip(shape, patch, strict=True))


def _centre(shape: Sequence[int], padded: Sequence[int]) -> Box:
    """Where the image lies on the padded grid."""
    x, y, z = (slice((p - n) // 2, (p - n) // 2 + n) for n, p in zip(shape, padded, strict=True))
    return x, y, z


def _cut(visit: Tensor, box: Box, patch: Sequence[int]) -> Tensor:
    """(C, x, y, z) of one window, zero where it reaches beyond the image."""
    inside = _centre(visit.shape[1:], _padded(visit.shape[1:], patch))
    source: list[slice] = []
    padding: list[int] = []
    for axis, place, n in zip(box, inside, visit.shape[1:], strict=True):
        start, stop = axis.start - place.start, axis.stop - place.start
        source.append(slice(max(start, 0), min(stop, n)))
        padding[:0] = [max(-start, 0), max(stop - n, 0)]  # torch pads the last axis first
    return torch.nn.functional.pad(visit[:, source[0], source[1], source[2]], padding)


def _require_finite(values: Sequence[Tensor], model: Model) -> None:
    if not all(value.isfinite().all() for value in values):
        raise ModelError(f"{model.name} gave values that are not finite: do not use it.")


def _probability(logits: Tensor, visit: Array) -> Array:
    probability: Array = torch.sigmoid(logits).numpy()
    return probability * nonzero_mask(visit)
