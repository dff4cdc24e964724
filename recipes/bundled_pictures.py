"""Pictures of what the bundled model gets right and wrong; `bundled_card.py` draws them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bundled_left_out import OURS, PART_OF, anatomy_of_open, left_out_case
from experts_changes import common_space
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lesiondelta.evaluation.calibration import LabelledVisit, OperatingPoint
from lesiondelta.images import Array
from lesiondelta.report.pictures import grey_values

RIGHT, MISSED, FALSE = "#3ddc84", "#46c8ff", "#ff5a4f"
INK = "#e8eaed"
COLUMNS = 4
WIDTH_IN = 12.0
BEHIND = {"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "pad": 1.5}


Mark = tuple[Array, str]
Cell = tuple[Array, Sequence[Mark]]


def draw_left_out(folder: Path, work: Path, data: Path, point: OperatingPoint) -> None:
    """Each open patient by the model that has not seen it: the slices with most errors, reference beside result."""
    for label, part in PART_OF.items():
        case = left_out_case(work, data, f"{OURS}-without-{part}", label)
        mask = point.mask(case)
        flair = anatomy_of_open(data, work, label).lesioned["FLAIR"]
        errors = (mask != case.reference).sum(axis=(0, 1))
        slices = spread(errors, COLUMNS)
        rows: list[list[Cell]] = [
            [(flair[..., z], ()) for z in slices],
            [(flair[..., z], compared(case, mask, z)) for z in slices],
        ]
        title = f"sub-{label}, left out: found (green), missed (blue) and false (red), where there are most errors"
        draw(folder / f"sub-{label}.png", rows, title)


def compared(case: LabelledVisit, mask: Array, z: int) -> list[Mark]:
    """Voxels of a slice that are right, missed and false."""
    truth, guess = case.reference[..., z], mask[..., z]
    return [(truth & guess, RIGHT), (truth & ~guess, MISSED), (guess & ~truth, FALSE)]


def draw_sub_12(path: Path, data: Path, outs: Mapping[str, Path]) -> None:
    """Where our changes and the experts' differ most: both visits, the experts' changes, both models'."""
    change, scored, masks = common_space(data, outs[OURS])
    flairs = [flair - flair.min() for flair in scored]  # 0 outside the brain
    gain, loss = masks[1] & ~masks[0], masks[0] & ~masks[1]
    slices = spread(((gain | loss) != change.data).sum(axis=(0, 1)), COLUMNS)
    rows: list[list[Cell]] = [[(flair[..., z], ()) for z in slices] for flair in flairs]
    rows.append([(flairs[1][..., z], [(change.data[..., z], "#ffd54a")]) for z in slices])
    for out in outs.values():
        _, _, (first, second) = common_space(data, out)
        rows.append(
            [
                (flairs[1][..., z], [((second & ~first)[..., z], FALSE), ((first & ~second)[..., z], MISSED)])
                for z in slices
            ]
        )
    names = ["first visit", "second visit", "experts: changed", *(f"{kind}: gain red, loss blue" for kind in outs)]
    draw(path, rows, "sub-12, raw clinical pair: where our changes and the experts' differ most", names)


def draw(path: Path, rows: Sequence[Sequence[Cell]], title: str, names: Sequence[str] = ()) -> None:
    """A grid of slices with coloured voxels."""
    height, width = rows[0][0][0].T.shape
    figure = Figure(
        figsize=(WIDTH_IN, 0.5 + WIDTH_IN / COLUMNS * len(rows) * height / width), facecolor="black", dpi=110
    )
    grid = figure.subplots(len(rows), COLUMNS, squeeze=False)
    for number, (line, row) in enumerate(zip(grid, rows, strict=True)):
        for axes, (image, marks) in zip(line, row, strict=True):
            show(axes, image, marks)
        if names:
            line[0].text(
                0.01, 0.98, names[number], color=INK, fontsize=9, va="top", transform=line[0].transAxes, bbox=BEHIND
            )
    figure.suptitle(title, color=INK, fontsize=11, y=1 - 0.15 / figure.get_figheight())
    figure.subplots_adjust(0, 0, 1, 1 - 0.45 / figure.get_figheight(), 0.01, 0.01)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor="black")


def show(axes: Axes, image: Array, marks: Sequence[Mark]) -> None:
    """A slice, the patient's right on the left, and voxels in their colours."""
    axes.set_axis_off()
    axes.imshow(grey_values(image).T, cmap="gray", vmin=0, vmax=1, origin="lower")
    for voxels, colour in marks:
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        overlay = np.zeros((*voxels.T.shape, 4))
        overlay[voxels.T] = (red, green, blue, 0.65)
        axes.imshow(overlay, origin="lower", interpolation="nearest")


def spread(weight: Array, count: int, apart: int = 6) -> list[int]:
    """The slices of greatest weight, so many slices apart, from below."""
    left, chosen = weight.astype(float).copy(), []
    for _ in range(count):
        best = int(left.argmax())
        chosen.append(best)
        left[max(best - apart, 0) : best + apart + 1] = -1
    return sorted(chosen)


def draw_reliability(path: Path, curves: Mapping[str, Mapping[str, Any]]) -> None:
    """How often a voxel is lesion, against the probability said, before and after the temperature."""
    figure = Figure(figsize=(12.6, 4.2 * -(-len(curves) // 3)), dpi=80, layout="constrained")
    panels = figure.subplots(-(-len(curves) // 3), 3, squeeze=False).flat
    for axes, (label, curve) in zip(panels, curves.items(), strict=False):
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
        for name, colour in (("before", "#c2410c"), ("after", "#2f6fb3")):
            told = f"temperature {curve['temperature']:g}" if name == "after" else "temperature 1"
            axes.plot([p["said"] for p in curve[name]], [p["is"] for p in curve[name]], "o-", color=colour, label=told)
        axes.set(
            xlabel="probability of lesion", ylabel="share of voxels that are lesion", title=f"sub-{label}, left out"
        )
        axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
