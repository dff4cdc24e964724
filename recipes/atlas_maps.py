"""Write the maps of the MNI152 atlas that the package holds: `python recipes/atlas_maps.py` (needs nilearn).

They are ICBM 2009a's T1w image, grey and white matter (uint8, as nilearn stores them) and nilearn's brain mask of them.
"""

import nibabel as nib
import numpy as np
from nilearn import datasets

from lesiondelta.atlas import MAPS

LOADED = {
    "t1w": datasets.load_mni152_template,
    "grey": datasets.load_mni152_gm_template,
    "white": datasets.load_mni152_wm_template,
    "brain": datasets.load_mni152_brain_mask,
}


def main() -> None:
    """Write all."""
    for name, load in LOADED.items():
        image = load(resolution=1)
        data = np.asarray(image.dataobj, np.float32)
        stored = np.rint(data if name == "brain" else data * 255).astype(np.uint8)
        if not np.array_equal(stored if name == "brain" else stored.astype(np.float32) / 255, data):
            raise SystemExit(f"{name} has other values than 256 shares of its maximum: store it with more digits.")
        nib.save(nib.Nifti1Image(stored, image.affine), MAPS[name])


if __name__ == "__main__":
    main()
