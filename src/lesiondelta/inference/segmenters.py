"""Which segmenter the settings name: exported models, averaged, or a program."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lesiondelta.errors import ModelError
from lesiondelta.inference.model import Model, bundled_model, load_model
from lesiondelta.inference.samseg_program import Samseg, find_samseg


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
        if "FLAIR" not in model.contrasts:
            raise ModelError(f"{model.name} does not use the FLAIR, on whose grid the masks are written.")
        if unknown := set(model.contrasts) - {"T1w", "FLAIR"}:
            raise ModelError(f"{model.name} needs {', '.join(unknown)}; only T1w and FLAIR are read.")
        if model.spacing_mm != models[0].spacing_mm:
            raise ModelError(
                f"{model.name} works at {model.spacing_mm} mm and {models[0].name} at {models[0].spacing_mm} mm: they "
                "cannot be averaged; give models of one spacing."
            )
    return models


def load_segmenters(
    named: tuple[Path, ...], load: Callable[[tuple[Path, ...]], tuple[Model, ...]] = load_models
) -> tuple[Model, ...] | tuple[Samseg]:
    """Load exported models with `load`, or find the program that is named instead.

    Raises
    ------
    DependencyError
        The program is not installed.
    """
    if Path("samseg") not in named:
        return load(named)
    if len(named) > 1:
        raise ModelError("samseg is a program, whose masks cannot be averaged with models: give it alone.")
    return (find_samseg(),)
