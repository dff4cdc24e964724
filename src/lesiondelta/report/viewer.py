"""What the viewer of a patient's report shows: images, changes and differences, as compressed NIfTI in base64."""

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any

import nibabel as nib
import numpy as np

from lesiondelta.cohort import Change
from lesiondelta.images import Affine, Array
from lesiondelta.outputs.lesions import COLOURS, UNNAMED_COLOUR
from lesiondelta.report.content import Report, ReportVisit
from lesiondelta.report.lesion_pictures import LEAST_SD, MOST_SD, difference_colours

UNNAMED = len(Change) + 1
"""Label of the first visit's lesions: nothing is known of what they did."""
LEVELS = 64
"""Grey values: a quarter of what 8 bits hold compresses to half of the size."""
SD_STEP, NO_DIFFERENCE = 0.6, 11
"""Of differences, standard deviations of a level, and the level of no difference; 0 stays free, NiiVue hides it."""
UNSEEN = int(LEAST_SD / SD_STEP)
"""Levels beside that of no difference which no voxel has, and which let through what lies beneath."""


def viewer_data(report: Report) -> dict[str, Any]:
    """Of every visit its name, image, marks and, where it was compared with the one before, difference."""
    return {
        "visits": [_visit(visit, grey) for visit, grey in zip(report.visits, report.greys, strict=True)],
        "colours": [*COLOURS.values(), UNNAMED_COLOUR],
        "levels": LEVELS,
        "scale": _scale(),
    }


def difference_levels(sd: Array) -> Array:
    """Differences in standard deviations as bytes from 1 to 21; small ones are none, and compress."""
    levels = np.rint(np.clip(sd, -MOST_SD, MOST_SD) / SD_STEP)
    return (np.where(np.abs(sd) < LEAST_SD, 0, levels) + NO_DIFFERENCE).astype(np.uint8)


def gradient() -> str:
    """The colours of differences from darker to brighter, in CSS."""
    colours = difference_colours(np.linspace(-MOST_SD, MOST_SD, 2 * NO_DIFFERENCE - 1))
    return f"linear-gradient(to right, {', '.join(f'rgb({r} {g} {b})' for r, g, b in colours.tolist())})"


def for_script(data: Mapping[str, Any]) -> str:
    """JSON that no text in it can end the script with."""
    return json.dumps(data).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _visit(visit: ReportVisit, grey: Array) -> dict[str, Any]:
    marks = np.where((visit.instances > 0) & (visit.changes == 0), UNNAMED, visit.changes)
    affine, difference = visit.flair.affine, visit.difference
    return {
        "name": visit.name,
        "image": _packed(np.rint(grey * (LEVELS - 1)), affine),
        "marks": _packed(marks, affine, "label"),
        "difference": None if difference is None else _packed(difference_levels(difference), affine),
    }


def _scale() -> dict[str, list[int]]:
    """The colour map of differences, as NiiVue takes it: 0 and twice the level of no difference are its ends."""
    levels = np.arange(2 * NO_DIFFERENCE + 1)
    red, green, blue = difference_colours((levels - NO_DIFFERENCE) * SD_STEP).T.tolist()
    opaque = np.where((abs(levels - NO_DIFFERENCE) <= UNSEEN) | (levels == 0), 0, 255).tolist()
    places = np.rint(levels * 255 / (2 * NO_DIFFERENCE)).astype(int).tolist()
    return {"R": red, "G": green, "B": blue, "A": opaque, "I": places}


def _packed(values: Array, affine: Affine, intent: str = "none") -> str:
    """As the bytes of a file; of labels, which it has to be told, NiiVue draws outlines."""
    image = nib.Nifti1Image(values.astype(np.uint8), affine)
    image.header.set_intent(intent)
    return base64.b64encode(gzip.compress(image.to_bytes(), 9, mtime=0)).decode()
