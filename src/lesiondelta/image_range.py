"""The range of images that a model's masks were scored on, and what lies outside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

MARGIN = 1.1
"""How far a figure may exceed what a model was tested with: it is an estimate."""


@dataclass(frozen=True)
class ImageRange:
    """The worst images that a model's masks were scored on; None where nobody looked."""

    noise: float | None = None
    slice_mm: float | None = None
    ghosting: float | None = None


def beyond(contrast: str, figures: Mapping[str, float], tested: ImageRange) -> list[str]:
    """What lies outside the range that masks were tested in; `figures` are named as the functions above."""
    thin = figures.get("slice_mm", 0.0) <= MARGIN * (tested.slice_mm or inf)
    known = (
        ("noise", tested.noise, f"noise in the {contrast} is {{:.2f}} of white matter"),
        ("slice_mm", tested.slice_mm, f"slices of the {contrast} are {{:.1f}} mm apart"),
        ("thickness_mm", tested.slice_mm if thin else None, f"the {contrast} is as blurred as slices of {{:.1f}} mm"),
        ("ghosting", tested.ghosting, f"ghosts in the {contrast}, as of motion, have {{:.2f}} of its brightness"),
    )
    return [
        f"{said.format(figures[name])}, and masks were tested up to {limit:g}"
        for name, limit, said in known
        if limit is not None and figures.get(name, 0.0) > MARGIN * limit
    ]
