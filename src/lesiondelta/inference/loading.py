"""Which segmenter the settings name: exported models, averaged, or a program."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lesiondelta.errors import InputError, ModelError
from lesiondelta.inference.model import Model, bundled_model, load_model
from lesiondelta.inference.network_segmenter import NetworkSegmenter
from lesiondelta.inference.samseg_program import find_samseg
from lesiondelta.inference.samseg_segmenter import SamsegSegmenter
from lesiondelta.inference.segmenter import Segmenter
from lesiondelta.settings import PreprocessingSettings, SegmentationSettings, Settings

SAMSEG = Path("samseg")
"""Stands where the folder of a model does."""


def load_models(folders: Sequence[Path]) -> tuple[Model, ...]:
    """Load exported models (none: the bundled one) and make sure that they can be averaged on one grid."""
    models = tuple(load_model(folder) for folder in folders or [bundled_model()])
    for model in models:
        if tuple(model.contrasts) != tuple(models[0].contrasts):
            raise ModelError(
                f"{model.name} needs {model.contrasts} and {models[0].name} {models[0].contrasts}: they cannot be "
                "averaged; give models of one kind."
            )
        if model.description.prior != models[0].description.prior:
            raise ModelError(
                f"{model.name} compares with the {model.description.prior} visit and {models[0].name} with the "
                f"{models[0].description.prior} one: they cannot be averaged; give models of one kind."
            )
        if "FLAIR" not in model.contrasts or "FLAIR" in model.optional:
            raise ModelError(f"{model.name} works without the FLAIR, on whose grid the masks are written.")
        if unknown := set(model.contrasts) - {"T1w", "FLAIR"}:
            raise ModelError(f"{model.name} needs {', '.join(unknown)}; only T1w and FLAIR are read.")
        if model.spacing_mm != models[0].spacing_mm:
            raise ModelError(
                f"{model.name} works at {model.spacing_mm} mm and {models[0].name} at {models[0].spacing_mm} mm: they "
                "cannot be averaged; give models of one spacing."
            )
    return models


def load_segmenter(
    settings: Settings, load: Callable[[tuple[Path, ...]], tuple[Model, ...]] = load_models
) -> Segmenter:
    """Load the exported models that the settings name with `load`, or find the program that is named instead.

    Raises
    ------
    ModelError, DependencyError, InputError
        A model cannot be used, the program is not installed, or it needs other settings.
    """
    named = settings.segmentation.models
    if SAMSEG not in named:
        return NetworkSegmenter(load(named), settings.segmentation)
    if len(named) > 1:
        raise ModelError("samseg is a program, whose masks cannot be averaged with models: give no other with it.")
    return find_samseg_for(settings.preprocessing, settings.segmentation)


def find_samseg_for(preprocessing: PreprocessingSettings, segmentation: SegmentationSettings) -> SamsegSegmenter:
    """The installed SAMSEG; InputError where the user says that the images show only the brain."""
    program = find_samseg()
    if preprocessing.skull_strip == "skip":
        raise InputError("SAMSEG needs whole heads, and --skull-strip skip says that the images are stripped.")
    return SamsegSegmenter(program, segmentation)
