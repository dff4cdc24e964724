"""One picture a visit: FLAIR slices with lesion contours, the prior above the current visit."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lesiondelta.files import atomic
from lesiondelta.images import Array, Volume
from lesiondelta.timings import timed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SLICES = 6
WIDTH_IN = 12.6
LONGEST_NOTE = 190
DARK, BRIGHT = 0.35, 0.9998  # share of the brain's median, quantile of its values
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


@timed("pictures")
def write_picture(path: Path, panels: Sequence[Panel], title: str, note: str = "") -> None:
    """Draw the visits, prior first and current last (or one alone), and write a PNG atomically."""
    from matplotlib.figure import Figure

    slices = choose_slices([panel.mask.data for panel in panels], panels[-1].flair.data, SLICES)
    box = _box(panels)
    rows = [_row(grey, slices, box) for grey in alike_grey_values([panel.flair.data for panel in panels])]
    height, width = rows[0].shape
    words_in = 1.0
    figure = Figure(figsize=(WIDTH_IN, WIDTH_IN * len(rows) * height / width + words_in), facecolor=BACKGROUND, dpi=150)
    height_in = figure.get_figheight()
    axes = figure.add_axes((0.02, 0.3 / height_in, 0.975, 1 - words_in / height_in))
    axes.set_axis_off()
    axes.imshow(np.concatenate(rows), cmap="gray", vmin=0, vmax=1, interpolation="bicubic", aspect="auto")
    for number, panel in enumerate(panels):
        current = number == len(panels) - 1
        colour = CURRENT if current else PRIOR
        _outline(axes, _row(panel.mask.data, slices, box), number * height, colour)
        name = f"{'current' if current else 'prior'}  {panel.name}"
        axes.text(
            -0.006 * width,
            (number + 0.5) * height,
            name,
            color=colour,
            fontsize=9,
            rotation=90,
            ha="right",
            va="center",
        )
    for number, z in enumerate(slices):
        x = (number + 0.5) * width / SLICES
        axes.text(x, len(rows) * height, _height(panels[-1].flair, z), color=FAINT, fontsize=8, ha="center", va="top")
    _write_words(figure, title, note)
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


def _row(volume: Array, slices: Sequence[int], box: tuple[slice, slice]) -> Array:
    """Slices side by side, rows from anterior to posterior, the patient's right on the left (the grid is RAS)."""
    planes: Array = np.concatenate([volume[box][::-1, ::-1, z].T for z in slices], axis=1)
    return planes


def grey_values(image: Array) -> Array:
    """Grey values from 0 to 1: black well below the brain, white where lesions are still told apart from it."""
    return alike_grey_values([image])[0]


def alike_grey_values(images: Sequence[Array]) -> list[Array]:
    """`grey_values` of several visits in one window: what is as bright, beside the median of its brain, looks alike."""
    inside = [image[image > 0] for image in images]
    medians = [float(np.median(values)) if values.size else 1.0 for values in inside]
    brightest = [np.quantile(v, BRIGHT) / median for v, median in zip(inside, medians, strict=True) if v.size]
    width = max([*brightest, 0.0]) - DARK
    shown = (image / median - DARK for image, median in zip(images, medians, strict=True))
    return [np.clip(one / max(width, np.finfo(np.float32).tiny), 0, 1).astype(np.float32) for one in shown]


def _outline(axes: "Axes", mask: Array, top: int, colour: str) -> None:
    if mask.any():
        x, y = np.arange(mask.shape[1]), np.arange(mask.shape[0]) + top
        axes.contour(x, y, mask, levels=[0.5], colors=[colour], linewidths=0.9)


def _height(volume: Volume, z: int) -> str:
    return f"z = {volume.affine[2, 2] * z + volume.affine[2, 3]:.0f} mm"


def _write_words(figure: "Figure", title: str, note: str) -> None:
    height_in = figure.get_figheight()
    figure.text(0.012, 1 - 0.22 / height_in, title, color=INK, fontsize=12, fontweight="bold", va="center")
    figure.text(0.012, 1 - 0.48 / height_in, _short(note), color=FAINT, fontsize=8, va="center")
    figure.text(0.995, 1 - 0.22 / height_in, CONVENTION, color=FAINT, fontsize=8, va="center", ha="right")


def _short(note: str) -> str:
    """Of a path the last folder and the name, and of all that what fits."""
    note = re.sub(r"\S*/([^/\s]+/[^/\s]+)", r"\1", note)
    return note if len(note) <= LONGEST_NOTE else note[: LONGEST_NOTE - 1] + "\u2026"
