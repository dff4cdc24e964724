"""The MNI152 atlas: image, tissues and brain, and our map of the regions that lesions lie in."""

from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from lesiondelta.images import Grid, Volume, read_labels, resample

AtlasMap = Literal["t1w", "grey", "white", "brain"]
MAPS: dict[str, Path] = {
    what: Path(__file__).with_name(f"mni152_{what}.nii.gz") for what in ("t1w", "grey", "white", "brain")
}
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


@cache
def mni152(what: AtlasMap, resolution_mm: int = 1) -> Volume:
    """The skull-stripped T1w (float32, 0 to 1), the share of grey or of white matter (float32), or the brain (bool).

    On the atlas's own grid of 1 mm, or coarser. The maps are those of nilearn (`recipes/atlas_maps.py`): ICBM 2009a,
    asymmetrical (Fonov et al., NeuroImage 54, 313-327, 2011).
    """
    stored = read_labels(MAPS[what])
    share = stored.data.astype(np.float32) / (1 if what == "brain" else 255)
    found = Volume(share, stored.affine, f"the MNI152 atlas ({what})")
    if resolution_mm != 1:
        x, y, z = (-(-n // resolution_mm) for n in share.shape)
        affine = stored.affine @ np.diag([*[resolution_mm] * 3, 1])
        found = resample(found, Grid((x, y, z), affine), order="linear")
    data = found.data > 0.5 if what == "brain" else found.data
    data.flags.writeable = False
    return found.with_data(data)


@cache
def mni152_regions() -> Volume:
    """The region map, 1 mm, uint8 with the values of `Region`; `recipes/region_map.py` makes it."""
    return read_labels(REGIONS)
