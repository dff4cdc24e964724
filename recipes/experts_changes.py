"""What experts marked as changed in sub-12, against masks of `run`: `python recipes/experts_changes.py OUT...`.

The experts' mask holds change and no sign: its components are split by whether the normalised FLAIR became brighter or
darker. Brighter ones should touch a lesion of the second visit, darker ones one of the first. A change of ours is a
connected place of 3 mm3 or more where one visit's mask has lesion and the other's has not; a gain should touch a
brighter component, a loss a darker one, and one that touches no component at all is false. `tracked` counts what `run`
calls the lesions, measurement error considered. `by_threshold` counts at other thresholds of the probability than the
model's, as two models compare fairly where their masks are of one size; these masks are cut on the FLAIR's own grid,
where `run` cuts on the patient's, so that the same threshold gives a few places more or fewer. Prints JSON per folder.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from lesiondelta.evaluation.instances import lesion_mask, lesions
from lesiondelta.images import Array, Volume, read_image, read_itk_transform, read_mask, resample

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
SMALLEST_MM3 = 5.0  # in the masks of other thresholds
DATA = Path(os.environ.get("LESIONDELTA_DATA", Path(__file__).parents[2] / "shared" / "data"))


def common_space(data: Path, out: Path, threshold: float | None = None) -> tuple[Volume, list[Array], list[Array]]:
    """The experts' change mask, and both visits' z-scored FLAIR and lesion mask, in the experts' common space.

    The mask is that of the output folder, or its probabilities over a threshold.
    """
    raw = data / "ljubljana-longitudinal"
    experts = raw / "derivatives" / "reference" / "sub-12"
    change = read_mask(experts / "sub-12_space-common_label-change_mask.nii.gz")
    brain = read_mask(experts / "sub-12_space-common_label-brain_mask.nii.gz").data
    flairs, masks = [], []
    for number in (1, 2):
        to_visit = read_itk_transform(experts / f"study{number}_FLAIR_to_common_space.txt")
        stem = f"sub-12/ses-{number}/anat/sub-12_ses-{number}"
        flair = resample(read_image(raw / f"{stem}_FLAIR.nii.gz"), change.grid, to_visit, order="linear").data * brain
        flairs.append((flair - flair[brain].mean()) / flair[brain].std())
        mask = read_mask(out / f"{stem}_space-orig_label-L_mask.nii.gz")
        if threshold is not None:
            seen = read_image(out / f"{stem}_space-orig_label-L_probseg.nii.gz")
            spacing = [float(mm) for mm in seen.grid.spacing]
            mask = seen.with_data(lesion_mask(seen.data, threshold, SMALLEST_MM3, spacing))
        masks.append(resample(mask, change.grid, to_visit, order="nearest").data)
    return change, flairs, masks


def experts_changes(data: Path, out: Path) -> dict[str, Any]:
    """Counts of components, of those that touch a lesion, of our changes, and volumes, in the experts' common space."""
    tracked = pd.read_csv(out / "sub-12" / "sub-12_changes.tsv", sep="\t").change.value_counts().to_dict()
    thresholds = [{"threshold": limit} | counted(*common_space(data, out, limit)) for limit in THRESHOLDS]
    return counted(*common_space(data, out)) | {"tracked": tracked, "by_threshold": thresholds}


def counted(change: Volume, flairs: list[Array], masks: list[Array]) -> dict[str, Any]:
    """The experts' changes found by a pair of masks, the masks' own that are right and false, and their volumes."""
    places, count = ndimage.label(change.data, np.ones((3, 3, 3)))
    brighter = ndimage.mean(flairs[1] - flairs[0], places, range(1, count + 1)) > 0
    touched = [ndimage.maximum(mask, places, range(1, count + 1)) > 0 for mask in masks]
    signs = {"gain": (masks[1] & ~masks[0], brighter), "loss": (masks[0] & ~masks[1], ~brighter)}
    ours = {name: lesions(mask, change.grid.voxel_volume_mm3) for name, (mask, _) in signs.items()}
    anything = [ndimage.maximum(found > 0, places, range(1, count + 1)) > 0 for found in ours.values()]
    detection: dict[str, Any] = {"change_found": int(np.logical_or(*anything).sum())}
    for found, (name, (_, right)) in zip(anything, signs.items(), strict=True):
        of_sign = right_places(ours[name], places, right)
        detection[name] = {
            "experts": int(right.sum()), "found": int(found[right].sum()),
            "ours": int(ours[name].max()), "right": of_sign, "false": untouched(ours[name], places),
        }  # fmt: skip
    return detection | {
        "brighter": int(brighter.sum()),
        "brighter_on_lesion_of_second_visit": int(touched[1][brighter].sum()),
        "darker": int((~brighter).sum()),
        "darker_on_lesion_of_first_visit": int(touched[0][~brighter].sum()),
        "lesion_ml": [float(mask.sum() * change.grid.voxel_volume_mm3 / 1000) for mask in masks],
    }


def right_places(ours: Array, places: Array, right: Array) -> int:
    """How many of our changes touch a component of the right sign."""
    return len(np.unique(ours[np.isin(places, 1 + np.flatnonzero(right))])) - 1


def untouched(ours: Array, places: Array) -> int:
    """How many of our changes touch no component."""
    return int(ours.max()) - (len(np.unique(ours[places > 0])) - 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="+", help="output folders of `lesiondelta run`")
    for folder in parser.parse_args().out:
        print(folder, json.dumps(experts_changes(DATA, folder)))
