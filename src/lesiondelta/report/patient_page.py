"""The report of a patient: one HTML file that opens offline: tables, pictures, and a viewer where scripts run."""

import base64
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from lesiondelta import __version__
from lesiondelta.cohort import Change, LesionChange, visit_name
from lesiondelta.files import write_text
from lesiondelta.images import Affine, Array, Volume
from lesiondelta.outputs.lesions import COLOURS, UNNAMED_COLOUR, LesionRow, StepRow
from lesiondelta.report.pictures import grey_values
from lesiondelta.report.rates import a_year
from lesiondelta.settings import Settings

UNNAMED = len(Change) + 1
"""Label of the first visit's lesions in the viewer: nothing is known of what they did."""
PICTURED = (Change.NEW, Change.ENLARGING)
QUALITY = {
    "FLAIR_noise": "noise", "FLAIR_contrast": "contrast", "FLAIR_thickness_mm": "slices, mm",
    "FLAIR_ghosting": "ghosts", "FLAIR_coverage": "coverage",
    "T1w_noise": "T1w noise", "T1w_contrast": "contrast", "T1w_residual_mm": "off, mm",
    "baseline_residual_mm": "first visit off, mm",
}  # fmt: skip
"""Figures of a visit that are shown, and their titles; docs/outputs.md says what they mean."""
MOST_PICTURES = 40
LEVELS = 64
"""Grey values of the viewer's images: a quarter of what 8 bits hold compresses to half of the size."""
HALF_MM, ZOOM, GAP = 20, 4, 4
"""Of a lesion's pictures: half the edge, screen pixels a voxel, and black pixels between planes."""
TILE = 24
"""Voxels of a field of the checkerboard."""


@dataclass(frozen=True, eq=False)
class ReportVisit:
    """A visit in the patient's space, the same RAS grid for all; `figures` are its numbers for the table.

    `correction` says what a reader has changed in its mask by hand, or nothing.
    """

    label: str
    acquired: datetime | None
    status: str
    reason: str
    flair: Volume
    instances: Array
    changes: Array
    figures: Mapping[str, float | str]
    correction: str = ""

    @property
    def name(self) -> str:
        """`ses-Y`, or words for the only visit of a dataset without sessions."""
        return visit_name(self.label)

    @cached_property
    def grey(self) -> Array:
        """The FLAIR as it is shown, from 0 to 1."""
        return grey_values(self.flair.data)


@dataclass(frozen=True, eq=False)
class Report:
    """What a report tells: visits in time order (`changes` are numbered as `Change`), lesions, steps, settings.

    `brain_from`: see PreparedPatient.
    """

    patient: str
    visits: Sequence[ReportVisit]
    failed: Mapping[str, str]
    lesions: Sequence[LesionRow]
    steps: Sequence[StepRow]
    settings: Settings
    method: str
    models: Sequence[Mapping[str, Any]]
    cautions: Sequence[str]
    contrasts: Sequence[str]
    brain_from: str


def write_report(path: Path, report: Report) -> None:
    """Write the page atomically."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("lesiondelta.report"), autoescape=True, undefined=StrictUndefined)
    centres = {(row.visit, row.lesion): row.centre_mm for row in report.lesions}
    steps = [_step(report, index, centres) for index in range(1, len(report.visits))]
    page = environment.get_template("patient.html").render(
        report=report,
        version=__version__,
        colours={str(change): colour for change, colour in COLOURS.items()},
        failed={visit_name(label): why for label, why in report.failed.items()},
        quality={name: title for name, title in QUALITY.items() if any(name in v.figures for v in report.visits)},
        volumes=_volumes(report.visits),
        rates=_rates(report),
        steps=steps,
        preparation=_preparation(report),
        locations=_locations(report),
        script=(files("lesiondelta.report") / "vendor" / "niivue.umd.js").read_text(encoding="utf-8"),
        data=_for_script(_viewer_data(report.visits)),
        settings=json.dumps(report.settings.model_dump(mode="json"), indent=1),
    )
    write_text(path, page)


def _step(report: Report, index: int, centres: Mapping[tuple[str, int], tuple[float, float, float]]) -> dict[str, Any]:
    """What happened from one visit to the next."""
    before, after = report.visits[index - 1], report.visits[index]
    rows = [row for row in report.steps if row.visit == after.label]
    order = list(Change)
    rows.sort(key=lambda row: (order.index(row.step.change), -max(row.step.current_mm3, row.step.prior_mm3)))
    listed = [_row(row, before, after, centres) for row in rows]
    pictured = [row for row in listed if row["change"] in PICTURED]
    for row in pictured[:MOST_PICTURES]:
        row["picture"] = _png(lesion_picture(before, after, row["centre"]))
    return {
        "index": index,
        "prior": before.name,
        "current": after.name,
        "counts": [(str(change), sum(row["change"] == change for row in listed)) for change in Change],
        "changed": [row for row in listed if row["change"] != Change.STABLE],
        "stable": [row for row in listed if row["change"] == Change.STABLE],
        "left_out": max(len(pictured) - MOST_PICTURES, 0),
        "checkerboard": _png(checkerboard(before.grey, after.grey)),
    }


def _row(
    row: StepRow, before: ReportVisit, after: ReportVisit, centres: Mapping[tuple[str, int], tuple[float, float, float]]
) -> dict[str, Any]:
    step: LesionChange = row.step
    numbers, visit = (step.current, after) if step.current else (step.prior, before)
    return {
        "change": step.change,
        "numbers": " + ".join(map(str, numbers)),
        "prior_mm3": step.prior_mm3,
        "current_mm3": step.current_mm3,
        "error_mm3": step.error_mm3,
        "location": row.location or "",
        "reason": step.reason + ("; at an earlier visit it was there" if step.returned else ""),
        "centre": centres[visit.label, numbers[0]],
        "picture": "",
    }


def lesion_picture(before: ReportVisit, after: ReportVisit, centre_mm: tuple[float, float, float]) -> Array:
    """Both visits around a lesion, one above the other, as an RGB image: axial, coronal, sagittal, lesions outlined."""
    spacing = float(after.flair.grid.spacing[0])
    half = round(HALF_MM / spacing)
    centre = np.rint(np.linalg.inv(after.flair.affine) @ [*centre_mm, 1])[:3].astype(int)
    rows = []
    for visit in (before, after):
        grey, marks = visit.grey, visit.instances > 0
        tiles = []
        for axis in (2, 1, 0):
            image, mask = (_cut(values, centre, axis, half) for values in (grey, marks.astype(np.float32)))
            tile = _coloured(np.kron(image, np.ones((ZOOM, ZOOM))), np.kron(mask, np.ones((ZOOM, ZOOM))) > 0.5)
            tile[-GAP:], tile[:, -GAP:] = 0, 0
            tiles.append(tile)
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows)


def _cut(values: Array, centre: Array, axis: int, half: int) -> Array:
    """A square of the slice across `axis` at a place, as radiologists see it: right on the left, up or front on top."""
    plane = np.pad(np.take(values, centre[axis], axis=axis), half)
    u, v = (int(n) for k, n in enumerate(centre) if k != axis)
    square: Array = plane[u : u + 2 * half + 1, v : v + 2 * half + 1].T[::-1]
    return square if axis == 0 else square[:, ::-1]


def _coloured(grey: Array, mask: Array) -> Array:
    """(..., 3) bytes with the mask's outline."""
    image = np.repeat(np.clip(grey * 255, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    outline = mask & ~ndimage.binary_erosion(mask)
    image[outline] = (255, 90, 79)
    return image


def checkerboard(before: Array, after: Array) -> Array:
    """The middle slice of grey values across each axis, in fields of either visit in turn: aligned edges continue."""
    fields = np.indices(before.shape) // TILE
    mixed = np.where(fields.sum(axis=0) % 2 == 0, before, after)
    height = max(before.shape[1:])
    planes = []
    for axis in (2, 1, 0):
        plane = np.take(mixed, before.shape[axis] // 2, axis=axis).T[::-1]
        plane = plane if axis == 0 else plane[:, ::-1]
        planes.append(np.pad(plane, ((0, max(height - plane.shape[0], 0)), (0, 4))))
    tallest = max(plane.shape[0] for plane in planes)
    joined = np.concatenate([np.pad(p, ((0, tallest - p.shape[0]), (0, 0))) for p in planes], axis=1)
    return _coloured(np.kron(joined, np.ones((2, 2))), np.zeros([2 * n for n in joined.shape], bool))


def _png(image: Array) -> str:
    """As a data URI."""
    from matplotlib.image import imsave

    written = io.BytesIO()
    imsave(written, image, format="png")
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()


def _preparation(report: Report) -> str:
    """What was done to the images before segmentation, in a sentence."""
    chosen, brain = report.settings.preprocessing, report.brain_from
    engine = chosen.registration
    brains = {
        "given": "cut to the brain by the mask that was given",
        "own": "taken as showing only the brain",
        "": "cut to the brain",
    }
    steps = [
        "were taken as lying in one space" if engine == "none" else f"were registered to one space by {engine}",
        "resampled once to cubic voxels",
        brains.get(brain, f"cut to the brain that {brain} found"),
    ]
    bias = "corrected for the bias field by N4" if chosen.bias_correction else "not corrected for the bias field"
    of_all = " of all visits" if len(report.visits) > 1 else ""
    return f"{' and '.join(report.contrasts)}{of_all} {', '.join(steps)}, and {bias}."


def _volumes(visits: Sequence[ReportVisit]) -> dict[str, Any]:
    """Points of the curve of lesion volumes, in a box of 600 x 180."""
    known = all(visit.acquired for visit in visits) and len(visits) > 1
    days = [(v.acquired - visits[0].acquired).days if known else n for n, v in enumerate(visits)]  # type: ignore[operator]
    volumes = [float(visit.figures["lesion_volume_mm3"]) / 1000 for visit in visits]
    top, last = max([*volumes, 0.1]) * 1.15, max(days[-1], 1)
    points = [
        {"x": 60 + 500 * day / last, "y": 150 - 130 * ml / top, "ml": ml, "label": visit.label}
        for day, ml, visit in zip(days, volumes, visits, strict=True)
    ]
    return {
        "points": points,
        "line": " ".join(f"{p['x']:.1f},{p['y']:.1f}" for p in points),
        "known": known,
    }


def _rates(report: Report) -> list[dict[str, Any]]:
    """What happened a year in every step, and from the first visit to the last; nothing where no rate is known."""
    visits = report.visits
    spans = [(index - 1, index) for index in range(1, len(visits))]
    if len(spans) > 1:
        spans.append((0, len(visits) - 1))
    rates = []
    for first, last in spans:
        between = {visit.label for visit in visits[first + 1 : last + 1]}
        changes = [row.step.change for row in report.steps if row.visit in between]
        ml = [float(visits[index].figures["lesion_volume_mm3"]) / 1000 for index in (first, last)]
        start, end = visits[first].acquired, visits[last].acquired
        years = (end - start).total_seconds() / 86400 / 365.25 if start and end else None
        rates.append(
            {
                "span": f"{visits[first].name} to {visits[last].name}",
                "years": years,
                "ml": a_year(ml[1] - ml[0], years),
                "new": a_year(changes.count(Change.NEW), years),
                "enlarging": a_year(changes.count(Change.ENLARGING), years),
            }
        )
    return [rate for rate in rates if rate["ml"] is not None]


def _locations(report: Report) -> list[tuple[str, int, float]]:
    """Location, number of lesions and ml at the last visit."""
    last = [row for row in report.lesions if row.visit == report.visits[-1].label]
    names = dict.fromkeys(row.location or "not located" for row in last)
    found = [(str(name), [row for row in last if (row.location or "not located") == name]) for name in sorted(names)]
    return [(name, len(rows), sum(row.volume_mm3 for row in rows) / 1000) for name, rows in found]


def _viewer_data(visits: Sequence[ReportVisit]) -> dict[str, Any]:
    """Images and maps of change as compressed NIfTI, base64."""
    made: list[dict[str, Any]] = []
    for visit in visits:
        levels = np.rint(visit.grey * (LEVELS - 1)).astype(np.uint8)
        marks = np.where((visit.instances > 0) & (visit.changes == 0), UNNAMED, visit.changes).astype(np.uint8)
        made.append(
            {
                "name": visit.name,
                "image": _packed(levels, visit.flair.affine),
                "marks": _packed(marks, visit.flair.affine),
            }
        )
    return {"visits": made, "colours": [*COLOURS.values(), UNNAMED_COLOUR], "levels": LEVELS}


def _packed(values: Array, affine: Affine) -> str:
    return base64.b64encode(gzip.compress(nib.Nifti1Image(values, affine).to_bytes(), 9, mtime=0)).decode()


def _for_script(data: Mapping[str, Any]) -> str:
    """JSON that no text in it can end the script with."""
    return json.dumps(data).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
