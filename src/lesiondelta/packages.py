"""Packages that training needs and nothing else does: `pip install 'lesiondelta[train]'`."""

from importlib.util import find_spec

from lesiondelta.errors import DependencyError

TRAINING = ("nnunetv2", "batchgeneratorsv2", "blosc2", "monai", "tensorboard")
INSTALL = "pip install 'lesiondelta[train]'"


def require_training() -> None:
    """Raise DependencyError where a package is absent that `train` and `compare` need."""
    missing = [name for name in TRAINING if find_spec(name) is None]
    if missing:
        raise DependencyError(f"Training needs {', '.join(missing)}, not installed here: {INSTALL}.")
