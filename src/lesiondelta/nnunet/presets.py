"""How large a network and how long a training: the presets of `train` and `compare`."""

from dataclasses import dataclass

from lesiondelta.errors import InputError
from lesiondelta.methods import Recipe

SHORT = Recipe(optimiser="adamw", learning_rate=1.5e-3, momentum=0.9, weight_decay=1e-4, foreground_share=0.5)
"""For hundreds of iterations (decisions 037 and 051)."""


@dataclass(frozen=True)
class Preset:
    """Size of network and training.

    Attributes
    ----------
    epochs, iterations_per_epoch, validation_iterations : int
    patch : three ints or None
        Voxels; rounded up where the topology demands it. None: nnU-Net plans it within `memory_gb`.
    batch : int or None
        Patches per iteration; None: planned.
    base_features, max_features : int
        Channels of the first stage, doubled at every stage up to the cap.
    memory_gb : float
        GPU memory the plan aims at; used only where patch or batch is None.
    count_encoder_twice : bool
        Count the encoder's activations twice in that plan, as two visits pass it.
    overlap : float or None
        Of the windows that `compare` predicts with, unless the user says; None: each method's own.
    recipe : Recipe or None
        Takes the place of nnU-Net's. With one, the preset's epochs and iterations are those of every method.
    """

    name: str
    epochs: int
    iterations_per_epoch: int
    validation_iterations: int
    patch: tuple[int, int, int] | None
    batch: int | None
    base_features: int = 32
    max_features: int = 320
    memory_gb: float = 8.0
    count_encoder_twice: bool = False
    overlap: float | None = None
    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        if min(self.epochs, self.iterations_per_epoch, self.validation_iterations) < 1:
            raise InputError(f"Preset {self.name}: epochs and iterations must be 1 or more.")
        if (self.batch is not None and self.batch < 1) or (self.patch is not None and min(self.patch) < 8):
            raise InputError(f"Preset {self.name}: the batch must be 1 or more, every edge of the patch 8 or more.")


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("paper", 1000, 250, 50, patch=(128, 160, 128), batch=2),
        Preset("small", 60, 50, 5, patch=(64, 64, 64), batch=2, base_features=16, max_features=256, recipe=SHORT),
        Preset("smoke", 2, 4, 1, patch=(32, 32, 32), batch=2, base_features=8, max_features=32, overlap=0.1),
    )
}


def load(name: str) -> Preset:
    """The preset of that name; InputError lists what exists."""
    if name not in PRESETS:
        raise InputError(f"There is no preset {name!r}: choose one of {', '.join(PRESETS)}.")
    return PRESETS[name]
