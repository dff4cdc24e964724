"""Exported models: `model.json` and `weights.safetensors`. No pickle, no nnU-Net, nothing is imported by name."""

import hashlib
import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError

from lesiondelta.cohort import prior_index
from lesiondelta.errors import DependencyError, ModelError, short
from lesiondelta.files import parsed_json, sha256, small_content
from lesiondelta.image_range import ImageRange
from lesiondelta.packages import INSTALL

DESCRIPTION, WEIGHTS = "model.json", "weights.safetensors"
LARGEST_ARGUMENT, LONGEST_ARGUMENT, MOST_LAYERS = 4096, 64, 500
"""Of a network: ours have up to 320 features, 6 stages and some 30 layers."""
FEWEST_BYTES = 2
"""Of a number in the weights' file, which is float16 or float32."""
NETWORKS = {
    "SingleVisitUNet": "unet",
    "ConcatenationUNet": "unet",
    "DifferenceWeightingUNet": "unet",
    "DifferenceWeightingResEncUNet": "unet",
    "SingleVisitSwinUNETR": "swinunetr",
    "RecurrentResidualUNet": "simunet",
    "MultitaskNetwork": "denner",
    "DifferenceVNet": "coactseg",
}
"""Classes that a model may have, and the module of `networks` that each is in."""

Triple = tuple[PositiveInt, PositiveInt, PositiveInt]


class Description(BaseModel):
    """What model.json holds."""

    model_config = ConfigDict(frozen=True)

    format: Literal["lesiondelta-model"]
    format_version: Literal[1]
    name: str
    method: str
    contrasts: tuple[str, ...]
    optional: tuple[str, ...] = Field((), description="contrasts that a visit may lack: it was trained for that")
    spacing_mm: float = Field(gt=0)
    patch: Triple | None = Field(description="of the sliding window; None: the whole volume at once")
    weighting: Literal["gaussian", "uniform"] = Field("gaussian", description="of the voxels of a window")
    overlap: float = Field(0.25, ge=0, lt=1, description="share of a window that its neighbour covers")
    mirroring: bool = Field(True, description="whether to average over flips where the device is fast")
    network: dict[str, Any]
    temperature: float = Field(
        1.0, gt=0, description="what logits are divided by, so that probabilities are frequencies"
    )
    threshold: float = Field(gt=0, lt=1, description="of these probabilities")
    min_lesion_mm3: float = Field(ge=0)
    weights_sha256: str
    prior: Literal["previous", "baseline"] = "previous"
    references: Literal["prior", "all"] = Field(
        "prior", description="all: the mean over every other visit as the prior"
    )
    caution: str = Field("", description="what every user of its masks must be told")
    tested: ImageRange = Field(default_factory=ImageRange, description="the worst images that its masks were scored on")
    licence: str = Field("", description="of the weights; empty where it is not stated")
    training: dict[str, Any] = {}


@dataclass(frozen=True, eq=False)
class Model:
    """A network ready to segment, in evaluation mode on the CPU, and its description."""

    network: Any
    description: Description

    @property
    def name(self) -> str:
        """The model's name."""
        return self.description.name

    @property
    def method(self) -> str:
        """The method it was trained with."""
        return self.description.method

    @property
    def contrasts(self) -> tuple[str, ...]:
        """The images of a visit, in the order of the network's channels."""
        return self.description.contrasts

    @property
    def optional(self) -> tuple[str, ...]:
        """Those of them that a visit may lack."""
        return self.description.optional

    @property
    def spacing_mm(self) -> float:
        """Voxel edge it was trained on."""
        return self.description.spacing_mm

    @property
    def threshold(self) -> float:
        """Probability above which a voxel is lesion."""
        return self.description.threshold

    @property
    def min_lesion_mm3(self) -> float:
        """Lesions smaller than this are dropped."""
        return self.description.min_lesion_mm3

    def prior_index(self, index: int, visits: int) -> int:
        """Which of the visits, in time order, visit `index` is compared with."""
        return prior_index(index, visits, self.description.prior)

    def reference_indices(self, index: int, visits: int) -> list[int]:
        """The visits that visit `index` is segmented with, one after another."""
        others = [other for other in range(visits) if other != index]
        return others if self.description.references == "all" and others else [self.prior_index(index, visits)]

    @property
    def overlap(self) -> float:
        """Share of a window that its neighbour covers."""
        return self.description.overlap

    @property
    def caution(self) -> str:
        """What every user of its masks must be told, or nothing."""
        return self.description.caution

    @property
    def sha256(self) -> str:
        """Hash of the weights."""
        return self.description.weights_sha256

    @property
    def identity(self) -> dict[str, str]:
        """Name and hash, for the record."""
        return {"Name": self.name, "SHA256": self.sha256}

    @property
    def fingerprint(self) -> str:
        """Hash of weights and description: a changed threshold or patch is another model."""
        return hashlib.sha256(self.description.model_dump_json().encode()).hexdigest()


def bundled_model() -> Path:
    """The folder of the model that comes with the package; ModelError where it is absent."""
    folder = Path(str(files("lesiondelta"))) / "models" / "bundled"
    if not (folder / DESCRIPTION).is_file():
        raise ModelError(f"The bundled model is not at {folder}: install lesiondelta again, or give a model folder.")
    return folder


def load_model(folder: Path) -> Model:
    """Load an exported model.

    Raises
    ------
    ModelError
        A file is missing or unreadable, is not what its hash says, or does not describe a network of ours. Weights are
        read as safetensors and never unpickled.
    """
    description = read_description(folder)
    weights = folder / WEIGHTS
    with _readable(weights):
        if not weights.is_file():
            raise ModelError(f"{weights} is missing: give the folder of an exported model.")
        found = sha256(weights)
    if found != description.weights_sha256:
        raise ModelError(f"{weights} is not the file that {DESCRIPTION} describes (SHA-256 differs): copy it again.")
    require_consistent(description, folder)
    _require_held(description.network, folder)
    network = build_network(description.network, folder)
    _load_weights(network, weights)
    return Model(network.eval(), description)


def read_description(folder: Path) -> Description:
    """Read only model.json, quickly; ModelError where it is missing, unreadable or foreign."""
    path = folder / DESCRIPTION
    with _readable(path):
        if not path.is_file():
            raise ModelError(f"{folder} is not a model folder: it has no {DESCRIPTION}. Export the model first.")
    try:
        with _readable(path):
            return Description.model_validate(parsed_json(small_content(path)))
    except (ValidationError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise ModelError(f"{path} is not the description of a lesiondelta model ({short(reason)}).") from error


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """ModelError in a sentence where the system does not let `path` be read."""
    try:
        yield
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error}): see to its permissions.") from error


def require_consistent(description: Description, folder: Path) -> None:
    """Raise ModelError where the window or the channels cannot be those of the network, or its output not a mask."""
    kwargs, path = description.network.get("kwargs"), folder / DESCRIPTION
    if not isinstance(kwargs, dict):
        raise ModelError(f"{path} does not describe the network's arguments (network.kwargs): export the model again.")
    for name, value in (
        ("input_channels", len(description.contrasts)),
        ("num_classes", 2),
        ("deep_supervision", False),
    ):
        if kwargs.get(name) != value:
            raise ModelError(
                f"{path} describes a network with {name}={short(kwargs.get(name))}, which must be {value}: "
                "export the model again."
            )
    if not _is_small(kwargs):
        raise ModelError(
            f"{path} describes a network with numbers above {LARGEST_ARGUMENT}, lists of over {LONGEST_ARGUMENT} "
            f"or over {MOST_LAYERS} layers, which none of ours has: export the model again."
        )
    try:
        strides = TypeAdapter(list[Triple]).validate_python(kwargs.get("strides"))
    except ValidationError as error:
        raise ModelError(
            f"{path} describes a network with strides={short(kwargs.get('strides'))}, not three whole numbers for each "
            "stage: export the model again."
        ) from error
    for edge, *factors in zip(description.patch or (), *strides, strict=description.patch is not None):
        if edge % math.prod(factors):
            raise ModelError(f"{folder} describes windows of {description.patch}, which its strides do not divide.")


def _is_small(kwargs: dict[str, Any]) -> bool:
    """Whether a network of these arguments can be built in seconds: layers are made one by one."""

    def small(value: object) -> bool:
        if isinstance(value, list | dict):
            return len(value) <= LONGEST_ARGUMENT and all(
                map(small, value.values() if isinstance(value, dict) else value)
            )
        return not isinstance(value, int | float) or abs(value) <= LARGEST_ARGUMENT

    counts = (value for name, value in kwargs.items() if name.startswith(("n_", "depth", "num_")))
    numbers = (n for value in counts for n in (value if isinstance(value, list) else [value]) if isinstance(n, int))
    return small(kwargs) and sum(numbers) <= MOST_LAYERS


def _require_held(described: dict[str, Any], folder: Path) -> None:
    """Raise ModelError for a network whose numbers the weights' file cannot hold: building it might fill the memory.

    SwinUNETR computes while it is built and has no shapes without numbers: of it, only the arguments are limited.
    """
    from torch import device

    try:
        with device("meta"):  # shapes only
            network = build_network(described, folder)
    except ModelError:
        return  # what is wrong with it is said where it is built in earnest
    numbers = sum(weight.numel() for weight in network.parameters())
    if numbers * FEWEST_BYTES > (folder / WEIGHTS).stat().st_size:
        raise ModelError(
            f"{folder} describes a network of {numbers:,} numbers, more than its {WEIGHTS} holds: export it again."
        )


def build_network(described: dict[str, Any], folder: Path) -> Any:  # noqa: ANN401
    """Build a network from class name and arguments; only our classes, and only the parts of torch named here."""
    from torch import nn

    parts = {part.__name__: part for part in (nn.Conv3d, nn.InstanceNorm3d, nn.LeakyReLU)}
    class_name = str(described.get("class")).rpartition(".")[2]
    if class_name not in NETWORKS:
        raise ModelError(
            f"{folder} describes the network {short(described.get('class'))}, which is none of ours: "
            f"{', '.join(NETWORKS)}."
        )
    try:
        module = importlib.import_module(f"lesiondelta.networks.{NETWORKS[class_name]}")
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise DependencyError(f"{folder} needs the package {package}, not installed here: {INSTALL}.") from error
    kwargs = dict(described["kwargs"])
    for key in ("conv_op", "norm_op", "nonlin", "dropout_op"):
        name = str(kwargs.get(key)).rpartition(".")[2]
        if kwargs.get(key) is not None and name not in parts:
            raise ModelError(f"{folder} describes a network with {key}={short(kwargs[key])}, which is not supported.")
        kwargs[key] = parts.get(name)
    try:
        return getattr(module, class_name)(**kwargs)
    except Exception as error:  # torch and the U-Net raise many kinds for arguments they cannot use
        reason = short(str(error).partition("\n")[0]) or type(error).__name__
        raise ModelError(f"{folder} describes a network that cannot be built ({reason}): export it again.") from error


def _load_weights(network: Any, path: Path) -> None:  # noqa: ANN401
    """Copy the stored tensors, float16 or float32, into the network's parameters, each exactly once."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        stored = load(path.read_bytes())  # a path may hold bytes that are no text
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a safetensors file ({error}).") from error
    targets = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    if set(stored) != set(targets) or any(stored[name].shape != targets[name].shape for name in stored):
        raise ModelError(f"{path} holds other weights than its {DESCRIPTION} describes.")
    for name, target in targets.items():
        if not stored[name].isfinite().all():
            raise ModelError(f"{path} holds weights that are not finite: its training diverged; train again.")
        target.data.copy_(stored[name])
