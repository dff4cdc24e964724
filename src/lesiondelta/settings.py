"""Settings: parsed once, frozen, passed explicitly, saved as JSON beside the outputs."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class PreprocessingSettings(BaseModel):
    """How a patient's visits come into one space."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    registration: Literal["elastix", "niimath", "flirt", "none"] = Field(
        "elastix", description="registration engine; `none` where all images already share one space"
    )
    space: Literal["baseline", "midway"] = Field(
        "baseline", description="where the patient's space lies: on the baseline visit, or half-way between all visits"
    )
    brain_extraction: Literal["atlas", "hd-bet", "synthstrip"] = Field("atlas", description="where no mask is given")
    skull_strip: Literal["auto", "force", "skip"] = Field("auto", description="auto: skipped where stripped already")
    spacing_mm: float = Field(1.0, gt=0, description="voxel edge of the patient's space")
    bias_correction: bool = Field(True, description="N4 on every image")
    gate: bool = Field(True, description="refuse misaligned images and visits of different people")
    threads: int = Field(1, ge=1, description="threads of one patient's registration")


class SegmentationSettings(BaseModel):
    """How masks are made from the preprocessed visits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[Path, ...] = Field((), description="exported models, averaged as logits; empty: the bundled one")
    threshold: float | None = Field(None, gt=0, lt=1, description="lesion probability; None: the model's own")
    min_lesion_mm3: float | None = Field(None, ge=0, description="smaller lesions are dropped; None: the model's own")
    overlap: float | None = Field(
        None, ge=0, lt=1, description="share of a window that its neighbour covers; None: each model's own"
    )
    mirroring: bool | None = Field(None, description="None: off on CPU, on with CUDA")
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: int = Field(1, ge=1, description="threads of one patient's segmentation")
    samseg_hours: float = Field(24.0, gt=0, description="time limit of one patient's run of SAMSEG")


class TrackingSettings(BaseModel):
    """What counts as a change of a lesion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tolerance_mm: float = Field(1.0, ge=0, description="lesions that share no voxel are one if they are so near")
    least_growth: float = Field(0.3, ge=0, description="change of volume that counts, as a share of the smaller one")
    error_sd: float = Field(1.96, ge=0, description="standard deviations of the measurement error that must be passed")


class Settings(BaseModel):
    """Everything that decides what `run` writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preprocessing: PreprocessingSettings = PreprocessingSettings()
    segmentation: SegmentationSettings = SegmentationSettings()
    tracking: TrackingSettings = TrackingSettings()
