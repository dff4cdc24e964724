"""Pictures of a lesion at two visits with their difference, and of how well the visits are aligned."""

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from lesiondelta.images import Affine, Array
from lesiondelta.outputs.lesions import StepRow
from lesiondelta.report.pictures import CURRENT, PRIOR

HALF_MM, TILE_PIXELS, GAP = 16, 224, 4
"""Half the edge of what is shown; screen pixels of that edge, and of what lies between."""
OWN, OTHER, WIDTH = 0.9, 0.45, 1.6
"""How opaque the outline of the lesion is, and that of others; screen pixels of its width."""
QUALITY = 80
"""Of WebP."""
FIELD = 24
"""Voxels of a field of the checkerboard."""
MOST_SD, LEAST_SD = 6.0, 1.5
"""Differences, in standard deviations, from which on colours stay the same, and below which nothing is shown."""
COLOURS_BY_SD = {
    -6.0: "#9adcff", -3.0: "#2f7bff", -1.5: "#0b2f80", 0.0: "#000000", 1.5: "#801505", 3.0: "#ff4a1f", 6.0: "#ffd257",
}  # fmt: skip
"""Darker is blue, brighter is red; between these, colours are mixed."""
DIMMED = 0.45
"""Of the grey values beneath a difference."""


@dataclass(frozen=True, eq=False)
class StepImages:
    """What pictures of a step are cut from, each (X, Y, Z): grey values from 0 to 1, lesions, and the difference."""

    greys: tuple[Array, Array]
    instances: tuple[Array, Array]
    difference: Array | None
    affine: Affine


def lesion_picture(images: StepImages, row: StepRow) -> Array:
    """A lesion at both visits and their difference side by side, as RGB; rows are axial, coronal and sagittal.

    The lesion is outlined at both visits, others faintly. The middle of what is shown is marked on the picture's edges.
    """
    centre = np.rint(np.linalg.inv(images.affine) @ [*change_mm(images, row), 1])[:3].astype(int)
    half = HALF_MM / float(np.linalg.norm(images.affine[:3, 0]))
    rows = [np.concatenate(_tiles(images, row, _Window(centre, axis, half)), axis=1) for axis in (2, 1, 0)]
    return np.concatenate(rows)[:-GAP, :-GAP]


def change_mm(images: StepImages, row: StepRow) -> tuple[float, float, float]:
    """Where a change shows most: its strongest evidence, of several the one nearest to the lesion; else its centre."""
    if images.difference is None or not row.step.evidence:
        return row.centre_mm
    found = np.argwhere(np.isclose(images.difference, row.step.evidence, rtol=0, atol=1e-4))
    if not len(found):
        return row.centre_mm
    places = found @ images.affine[:3, :3].T + images.affine[:3, 3]
    x, y, z = places[np.argmin(np.linalg.norm(places - row.centre_mm, axis=1))].tolist()
    return x, y, z


@dataclass(frozen=True, eq=False)
class _Window:
    """A square of the slice across `axis` through a voxel; `half` in voxels."""

    centre: Array
    axis: int
    half: float

    def cut(self, values: Array, order: int) -> Array:
        """Interpolated, as radiologists see it: the patient's right on the left, up or front on top."""
        plane = np.take(values, min(self.centre[self.axis], values.shape[self.axis] - 1), axis=self.axis)
        u, v = (
            middle + np.linspace(-self.half, self.half, TILE_PIXELS)
            for axis, middle in enumerate(self.centre)
            if axis != self.axis
        )
        where = np.meshgrid(u, v, indexing="ij")
        square: Array = ndimage.map_coordinates(plane.astype(np.float32), where, order=order).T[::-1]
        return square if self.axis == 0 else square[:, ::-1]


def _tiles(images: StepImages, row: StepRow, window: _Window) -> list[Array]:
    """One row of a picture."""
    greys = [np.clip(window.cut(grey, 3), 0, 1) for grey in images.greys]
    tiles = []
    for grey, labels, own, colour in zip(
        greys, images.instances, (row.step.prior, row.step.current), (PRIOR, CURRENT), strict=True
    ):
        tile = _rgb(grey)
        for mask, opacity in (((labels > 0) & ~np.isin(labels, own), OTHER), (np.isin(labels, own), OWN)):
            share = opacity * _outline(window.cut(mask, 1))[..., None]
            tile = ((1 - share) * tile + share * _bytes(colour)).astype(np.uint8)
        tiles.append(tile)
    if images.difference is not None:
        tiles.append(_over(greys[1] * DIMMED, window.cut(images.difference, 3)))
    return [np.pad(_marked(tile), ((0, GAP), (0, GAP), (0, 0))) for tile in tiles]


def _outline(mask: Array) -> Array:
    """Opacity of a thin smooth line where an interpolated mask is a half."""
    smooth = ndimage.gaussian_filter(mask, TILE_PIXELS / HALF_MM / 8)
    steepness = np.maximum(np.hypot(*np.gradient(smooth)), 1e-3)
    line: Array = np.clip((WIDTH + 1) / 2 - np.abs(smooth - 0.5) / steepness, 0, 1)
    return line


def _over(grey: Array, sd: Array) -> Array:
    """A difference over grey values: what is small lets them through."""
    opacity = np.clip(np.abs(sd) / LEAST_SD - 1, 0, 1)[..., None]
    mixed: Array = (1 - opacity) * _rgb(grey) + opacity * difference_colours(sd)
    return mixed.astype(np.uint8)


def difference_colours(sd: Array) -> Array:
    """(..., 3) bytes for differences in standard deviations."""
    levels, colours = list(COLOURS_BY_SD), np.array([_bytes(one) for one in COLOURS_BY_SD.values()])
    return np.stack([np.interp(sd, levels, band) for band in colours.T], axis=-1).round().astype(np.uint8)


def _marked(tile: Array) -> Array:
    """With short lines at the middle of each edge."""
    middle, length = slice(TILE_PIXELS // 2 - 1, TILE_PIXELS // 2 + 1), TILE_PIXELS // 16
    for edge in (slice(None, length), slice(-length, None)):
        tile[edge, middle] = tile[middle, edge] = 200
    return tile


def checkerboard(before: Array, after: Array) -> Array:
    """The middle slice of grey values across each axis, in fields of either visit in turn: aligned edges continue."""
    fields = np.indices(before.shape) // FIELD
    mixed = np.where(fields.sum(axis=0) % 2 == 0, before, after)
    planes = []
    for axis in (2, 1, 0):
        plane = np.take(mixed, before.shape[axis] // 2, axis=axis).T[::-1]
        planes.append(plane if axis == 0 else plane[:, ::-1])
    tallest = max(plane.shape[0] for plane in planes)
    joined = np.concatenate([np.pad(p, ((0, tallest - p.shape[0]), (0, 4))) for p in planes], axis=1)
    return _rgb(np.kron(joined, np.ones((2, 2))))


def as_uri(image: Array) -> str:
    """RGB bytes as a data URI."""
    from matplotlib.image import imsave

    written = io.BytesIO()
    options: dict[str, Any] = {"quality": QUALITY, "method": 6}
    imsave(written, image, format="webp", pil_kwargs=options)
    return "data:image/webp;base64," + base64.b64encode(written.getvalue()).decode()


def _rgb(grey: Array) -> Array:
    return np.repeat(np.clip(grey * 255, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def _bytes(colour: str) -> Array:
    return np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)])
