"""The MNI152 atlas: image, tissues and brain as nilearn ships them, and our map of the regions that lesions lie in."""

from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from lesiondelta.images import Volume, read_labels

REGIONS = Path(__file__).with_name("mni152_regions.nii.gz")


class Region(IntEnum):
    """Labels of the region map; 0 is outside the brain.

    VENTRICLES are the lateral ones and the third; the fourth belongs to INFRATENTORIAL, which is cerebellum and brain
    stem with the fluid around them. FLUID is that of fissures and cisterns, WHITE also holds the deep grey matter.
    """

    VENTRICLES = 1
    FLUID = 2
    CORTEX = 3
    WHITE = 4
    INFRATENTORIAL = 5


def mni152(what: Literal["t1w", "grey", "white", "brain"], resolution_mm: int = 1) -> Volume:
    """The skull-stripped T1w (float32), the share of grey or of white matter (float32), or the brain (bool)."""
    from nilearn import datasets

    load = {
        "t1w": datasets.load_mni152_template,
        "grey": datasets.load_mni152_gm_template,
        "white": datasets.load_mni152_wm_template,
        "brain": datasets.load_mni152_brain_mask,
    }[what]
    image = load(resolution=resolution_mm)
    data = np.asarray(image.dataobj, np.float32)
    return Volume(data > 0 if what == "brain" else data, np.array(image.affine, float), f"the MNI152 atlas ({what})")


@cache
def mni152_regions() -> Volume:
    """The region map, 1 mm, uint8 with the values of `Region`; `recipes/region_map.py` makes it."""
    return read_labels(REGIONS)
