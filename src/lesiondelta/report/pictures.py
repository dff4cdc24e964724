"""One picture a visit: FLAIR slices with lesion contours, the prior above the current visit."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lesiondelta.files import atomic
from lesiondelta.images import Array, Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SLICES = 6
BACKGROUND = "#000000"
INK = "#e8eaed"
FAINT = "#8a9099"
CURRENT = "#ff5a4f"
PRIOR = "#46c8ff"
CONVENTION = "axial, the patient's right on the left"


@dataclass(frozen=True)
class Panel:
    """One row of a picture: a visit's FLAIR and lesion mask, on one RAS-aligned grid for all rows."""

    name: str
    flair: Volume
    mask: Volume


def write_picture(path: Path, panels: Sequence[Panel], title: str, note: str = "") -> None:
    """Draw the visits, prior first and current last (or one alone), and write a PNG atomically."""
    from matplotlib.figure import Figure

    slices = choose_slices([panel.mask.data for panel in panels], panels[-1].flair.data, SLICES)
    box = _box(panels)
    height_in = 2.0 * _aspect(box) * len(panels) + 1.0
    figure = Figure(figsize=(2.0 * SLICES + 0.6, height_in), facecolor=BACKGROUND, dpi=150)
    axes = figure.subplots(len(panels), SLICES, squeeze=False)
    top, bottom = 1 - 0.6 / height_in, 0.35 / height_in
    figure.subplots_adjust(left=0.03, right=0.995, top=top, bottom=bottom, wspace=0.02, hspace=0.02)
    for row, panel in enumerate(panels):
        colour = CURRENT if row == len(panels) - 1 else PRIOR
        window = _window(panel.flair.data)
        for column, z in enumerate(slices):
            _draw_slice(axes[row, column], panel, z, box, window, colour)
        _name_row(axes[row, 0], panel.name, "current" if row == len(panels) - 1 else "prior", colour)
    _write_words(figure, panels[-1], slices, axes[-1], title, note, height_in)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=BACKGROUND)


def choose_slices(masks: Sequence[Array], image: Array, count: int) -> list[int]:
    """Axial slices, bottom to top: evenly spread over the lesions of all masks, else over the middle of the brain."""
    weight = np.sum([mask.sum(axis=(0, 1)) for mask in masks], axis=0).astype(np.float64)
    if not weight.any():
        inside = np.flatnonzero(image.any(axis=(0, 1)))
        low, high = np.quantile(inside, (0.3, 0.85)) if len(inside) else (0, image.shape[2] - 1)
        return [round(z) for z in np.linspace(low, high, count)]
    share = np.cumsum(np.sqrt(weight))
    wanted = (np.arange(count) + 0.5) / count * share[-1]
    chosen = {int(z) for z in np.searchsorted(share, wanted)}
    rest = sorted(set(range(len(weight))) - chosen, key=lambda z: (-weight[z], min(abs(z - c) for c in chosen)))
    return sorted([*chosen, *rest[: count - len(chosen)]])


def _box(panels: Sequence[Panel]) -> tuple[slice, slice]:
    """The X and Y range that holds every brain, with a small margin."""
    inside = np.any([panel.flair.data.any(axis=2) for panel in panels], axis=0)
    ranges = []
    for axis in (0, 1):
        found = np.flatnonzero(inside.any(axis=1 - axis))
        low, high = (found[0], found[-1]) if len(found) else (0, inside.shape[axis] - 1)
        ranges.append(slice(max(int(low) - 3, 0), int(high) + 4))
    return ranges[0], ranges[1]


def _aspect(box: tuple[slice, slice]) -> float:
    x, y = (float(side.stop - side.start) for side in box)
    return y / x


def _window(image: Array) -> tuple[float, float]:
    """Grey values: black at 0, white where lesions are still told apart from the brain."""
    inside = image[image > 0]
    return (0.0, float(np.quantile(inside, 0.998))) if inside.size else (0.0, 1.0)


def _draw_slice(
    axes: "Axes", panel: Panel, z: int, box: tuple[slice, slice], window: tuple[float, float], colour: str
) -> None:
    x, y, _ = np.abs(panel.flair.grid.spacing)
    axes.imshow(
        _radiological(panel.flair.data[box][..., z]), cmap="gray", vmin=window[0], vmax=window[1], origin="lower",
        interpolation="bicubic", aspect=y / x,
    )  # fmt: skip
    mask = _radiological(panel.mask.data[box][..., z])
    if mask.any():
        axes.contour(np.pad(mask, 0), levels=[0.5], colors=[colour], linewidths=0.9)
    axes.set_facecolor(BACKGROUND)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _radiological(plane: Array) -> Array:
    """(X, Y) of a RAS grid -> rows and columns with the patient's right on the left."""
    return plane[::-1].T


def _name_row(axes: "Axes", name: str, role: str, colour: str) -> None:
    axes.set_ylabel(f"{role}  {name}", color=colour, fontsize=9)


def _write_words(
    figure: Any,  # noqa: ANN401
    panel: Panel,
    slices: Sequence[int],
    axes: Sequence["Axes"],
    title: str,
    note: str,
    height_in: float,
) -> None:
    figure.text(0.012, 1 - 0.22 / height_in, title, color=INK, fontsize=12, fontweight="bold", va="center")
    figure.text(0.012, 1 - 0.46 / height_in, note, color=FAINT, fontsize=8, va="center", wrap=True)
    figure.text(0.995, 1 - 0.22 / height_in, CONVENTION, color=FAINT, fontsize=8, va="center", ha="right")
    for z, axis in zip(slices, axes, strict=True):
        height_mm = panel.flair.affine[2, 2] * z + panel.flair.affine[2, 3]
        axis.set_xlabel(f"z = {height_mm:.0f} mm", color=FAINT, fontsize=8)
