"""What computes a network in the sliding window: torch, or on a CPU two graphs of OpenVINO.

One graph is the encoder, the other turns two visits' features into logits, so that n visits cost n encoders here too.
They are made from the network when it is first needed, in a few seconds, and compute in float32: their logits differ
from torch's by rounding alone (decision 054).
"""

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lesiondelta.errors import DependencyError, ModelError
from lesiondelta.inference.model import Model
from lesiondelta.settings import Backend

log = logging.getLogger(__name__)


class WindowNetwork(Protocol):
    """What the sliding window needs of a network; a state is what its `encode` gives."""

    def encode(self, visit: Tensor) -> Any:  # noqa: ANN401
        """(1, C, X, Y, Z) -> state."""

    def decode(self, current: Any, prior: Any) -> Tensor:  # noqa: ANN401
        """Two states -> logits (1, 2, X, Y, Z)."""


def runnable(model: Model, patch: Sequence[int], device: torch.device, backend: Backend) -> WindowNetwork:
    """What the sliding window calls for a model: its network on the device, or the graphs made of it.

    Raises
    ------
    DependencyError, ModelError
        OpenVINO was asked for by name, and is not installed, or cannot hold this network, or is not for this device.
    """
    if backend == "torch" or (backend == "auto" and (device.type != "cpu" or find_spec("openvino") is None)):
        return on_device(model, device)
    if find_spec("openvino") is None:
        raise DependencyError("OpenVINO is not installed: pip install openvino, or choose --backend torch.")
    if device.type != "cpu":
        raise ModelError(f"OpenVINO computes on the CPU, not on {device.type}: choose --device cpu or --backend torch.")
    found = _compiled(model, tuple(patch), torch.get_num_threads())
    if isinstance(found, CompiledNetwork):
        return found
    if backend == "openvino":
        raise ModelError(f"{model.name} cannot be a graph of OpenVINO ({found}): choose --backend torch.")
    log.info("%s runs in torch, as OpenVINO cannot hold it: %s", model.name, found)
    return on_device(model, device)


def on_device(model: Model, device: torch.device) -> WindowNetwork:
    """The network itself."""
    network: WindowNetwork = model.network.to(device)
    return network


@dataclass(frozen=True, eq=False)
class CompiledNetwork:
    """Stands for a network in the sliding window, for one size of windows: `encode` and `decode`, (1, C, X, Y, Z)."""

    encoder: Any
    decoder: Any
    takes_prior: bool

    def encode(self, visit: Tensor) -> list[Tensor]:
        """The features of every stage."""
        return [torch.from_numpy(features) for features in self.encoder([visit.contiguous().numpy()]).values()]

    def decode(self, current: Sequence[Tensor], prior: Sequence[Tensor]) -> Tensor:
        """Two visits' features -> logits (1, 2, X, Y, Z)."""
        states = [*current, *prior] if self.takes_prior else current
        return torch.from_numpy(self.decoder([features.numpy() for features in states])[0])


_graphs: WeakKeyDictionary[nn.Module, dict[tuple[tuple[int, ...], int], CompiledNetwork | str]] = WeakKeyDictionary()
"""Of the networks that live, by size of windows and threads."""


def _compiled(model: Model, patch: tuple[int, ...], threads: int) -> CompiledNetwork | str:
    """The graphs of a model for windows (x, y, z), made once, or why there are none."""
    if model.description.patch is None:
        return "its windows have no fixed size"
    made = _graphs.setdefault(model.network, {})
    if (patch, threads) not in made:
        made[patch, threads] = _compile(model, patch, threads)
    return made[patch, threads]


def _compile(model: Model, patch: tuple[int, ...], threads: int) -> CompiledNetwork | str:
    try:
        from openvino import Core

        example = torch.zeros(1, len(model.contrasts), *_example_size(model, patch))
        with torch.no_grad():
            state = model.network.to("cpu").encode(example)
        features = _listed(state)
        encoder = _graph(_Encoder(model.network), example)
        decoder = _graph(
            _Decoder(model.network, len(features), one_tensor=isinstance(state, Tensor)), (*features, *features)
        )
        encoder.reshape([1, len(model.contrasts), *patch])
        shapes = [list(output.shape) for output in encoder.outputs]
        takes_prior = len(decoder.inputs) == 2 * len(features)
        decoder.reshape(dict(enumerate(shapes * 2 if takes_prior else shapes)))
        settings = {
            "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32",
        }  # fmt: skip
        core = Core()
        encoder, decoder = (core.compile_model(graph, "CPU", settings) for graph in (encoder, decoder))
    except Exception as error:  # OpenVINO has exceptions of many kinds for what it does not know; torch can do all
        log.debug("%s is no graph of OpenVINO", model.name, exc_info=True)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[0] if lines else type(error).__name__
    return CompiledNetwork(encoder, decoder, takes_prior)


def _graph(part: nn.Module, example: Tensor | tuple[Tensor, ...]) -> Any:  # noqa: ANN401
    """A traced part of a network as a graph.

    By OpenVINO's reader of TorchScript alone: `openvino.convert_model`, which calls it, reports its use over the
    internet unless the user has forbidden it.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    reader = FrontEndManager().load_by_framework("pytorch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: that it is deprecated, and that shapes are taken as they are
        traced = TorchScriptPythonDecoder(part, example_input=example)  # `load` keeps no reference to it
    graph = reader.convert(reader.load(traced))
    graph.validate_nodes_and_infer_types()
    return graph


def _example_size(model: Model, patch: tuple[int, ...]) -> list[int]:
    """Edges of the window that the network is traced with.

    U-Nets are convolutional throughout, so that a small one will do; other networks may take numbers from its size.
    """
    from lesiondelta.networks.unet import VisitUNet

    if not isinstance(model.network, VisitUNet):
        return list(patch)
    strides = model.description.network["kwargs"]["strides"]
    return [min(edge, 2 * math.prod(steps)) for edge, *steps in zip(patch, *strides, strict=True)]


def _listed(state: Tensor | list[Tensor]) -> list[Tensor]:
    """A network's state, which may be one tensor, as a list."""
    return [state] if isinstance(state, Tensor) else list(state)


class _Encoder(nn.Module):
    """The features of one visit."""

    def __init__(self, network: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.network = network

    def forward(self, visit: Tensor) -> tuple[Tensor, ...]:
        return tuple(_listed(self.network.encode(visit)))


class _Decoder(nn.Module):
    """Logits of the features of the current visit, then of the prior's."""

    def __init__(self, network: Any, stages: int, *, one_tensor: bool) -> None:  # noqa: ANN401
        super().__init__()
        self.network, self.stages, self.one_tensor = network, stages, one_tensor

    def forward(self, *features: Tensor) -> Tensor:
        current, prior = list(features[: self.stages]), list(features[self.stages :])
        logits: Tensor = self.network.decode(*((current[0], prior[0]) if self.one_tensor else (current, prior)))
        return logits
