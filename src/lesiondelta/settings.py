"""Settings: parsed once, frozen, passed explicitly, saved as JSON beside the outputs.

The descriptions are the help texts of the command line, and the Literals its choices.
"""

import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator

from lesiondelta.files import is_text

FILE_URI = "file://"
Sensitivity = Literal["low", "default", "high"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Backend = Literal["auto", "torch", "openvino"]


def _stored(path: Path) -> str:
    return str(path) if is_text(path) else path.absolute().as_uri()


def _restored(value: object) -> Path:
    if isinstance(value, str) and value.startswith(FILE_URI):
        return Path(os.fsdecode(unquote_to_bytes(value.removeprefix(FILE_URI))))
    if not isinstance(value, str | Path):
        raise ValueError("not a path")
    return Path(value)


StoredPath = Annotated[Path, PlainValidator(_restored), PlainSerializer(_stored, when_used="json")]
"""A path in JSON: as text, or as a URI if it holds bytes that are no text."""


class PreprocessingSettings(BaseModel):
    """How a patient's visits come into one space."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    registration: Literal["elastix", "niimath", "flirt", "none"] = Field(
        "elastix", description="Registration program. Use none if all images are aligned already."
    )
    space: Literal["baseline", "midway"] = Field(
        "baseline",
        description="Common space of all visits: the first visit's, or midway between all of them.",
    )
    brain_extraction: Literal["network", "atlas", "hd-bet", "synthstrip"] = Field(
        "atlas",
        description="How to extract the brain if there is no brain mask. The network may take scalp on thick slices.",
    )
    anatomy: Literal["atlas", "network"] = Field(
        "atlas",
        description="What locates lesions: an atlas, or a network that sees this brain and gives its volumes too.",
    )
    skull_strip: Literal["auto", "force", "skip"] = Field(
        "auto", description="auto: extract the brain unless the images are skull-stripped; force: always; skip: never."
    )
    spacing_mm: float = Field(1.0, gt=0, description="Voxel edge of the patient's space.")
    bias_correction: bool = Field(True, description="Correct the bias field (N4).")
    gate: bool = Field(True, description="Fail a visit whose images are misaligned or show another person.")
    threads: int = Field(1, ge=1, description="Threads of one patient's registration.")


class SegmentationSettings(BaseModel):
    """How masks are made from the preprocessed visits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[StoredPath, ...] = Field(
        (),
        description="Model folder, or samseg; several models are averaged (--model A B). Default: the bundled model.",
    )
    threshold: float | None = Field(
        None, gt=0, lt=1, description="Probability above which a voxel counts as lesion. Default: the model's own."
    )
    min_lesion_mm3: float | None = Field(
        None, ge=0, description="Drop lesions smaller than this many mm3. Default: the model's own."
    )
    overlap: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Overlap of sliding windows, as a fraction. Default: the model's own.",
    )
    mirroring: bool | None = Field(None, description="Average over mirrored images. Default: only with CUDA.")
    device: DeviceName = Field("auto", description="Where the network runs.")
    backend: Backend = Field(
        "auto", description="What computes the network on a CPU. auto: OpenVINO, or torch for a network it cannot hold."
    )
    threads: int = Field(1, ge=1, description="Threads of one patient's segmentation.")
    samseg_hours: float = Field(24.0, gt=0, description="Time limit of SAMSEG for each patient, in hours.")


class TrackingSettings(BaseModel):
    """What counts as a change of a lesion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tolerance_mm: float = Field(1.0, ge=0, description="Match lesions of two visits that are up to this many mm apart.")
    sensitivity: Sensitivity = Field(
        "default",
        description="Which changes to call: low, those that are all but sure; default, those more likely than not; "
        "high, also those of which half are chance.",
    )
    least_growth: float | None = Field(
        None,
        ge=0,
        description="Least change of an enlarging or shrinking lesion, as a fraction of its smaller volume; by default "
        "whatever the images bear out, and 0.3 where images cannot be compared.",
    )
    error_sd: float = Field(1.96, ge=0, description="Standard deviations of the measurement error to be exceeded.")


class Settings(BaseModel):
    """Everything that decides what `run` writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preprocessing: PreprocessingSettings = PreprocessingSettings()
    segmentation: SegmentationSettings = SegmentationSettings()
    tracking: TrackingSettings = TrackingSettings()
