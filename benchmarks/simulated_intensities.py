"""Compare z-scored intensities of simulated patients with those of real ones.

    python benchmarks/simulated_intensities.py DATA SEED...

DATA is the folder of the open MS images. Tissues are found in all images alike, by three means on the T1w; `noise` is
the deviation of what a Gaussian of 1 voxel takes away inside white matter.
"""

import sys
from pathlib import Path

import numpy as np
from scipy import ndimage

from lesiondelta.images import Array, read_image, read_itk_transform, read_mask, resample
from lesiondelta.simulation import simulate_patient


def main() -> None:
    """Print one line per visit."""
    data = Path(sys.argv[1])
    for label in ("07", "19"):
        stem = data / f"ljubljana-cross-sectional/sub-{label}/anat/sub-{label}_space-MNI152"
        t1w, flair = (read_image(Path(f"{stem}_{name}.nii.gz")).data for name in ("T1w", "FLAIR"))
        brain = ndimage.binary_opening(np.abs(flair - flair[0, 0, 0]) > 2, iterations=2)
        report(f"real {label}", t1w, flair, brain, read_mask(Path(f"{stem}_label-lesion_mask.nii.gz")).data)
    for session in ("1", "2"):
        report(f"real 12-{session}", *thick_visit(data / "ljubljana-longitudinal", session))
    for seed in map(int, sys.argv[2:]):
        for number, visit in enumerate(simulate_patient(seed).visits, start=1):
            t1w, flair = visit.images["T1w"].data, visit.images["FLAIR"].data
            report(f"simulated {seed}-{number}", t1w, flair, flair != 0, visit.lesions.data & (flair != 0))


def thick_visit(data: Path, session: str) -> tuple[Array, Array, Array, Array]:
    """T1w, FLAIR and brain of a raw visit of sub-12 in the authors' common space; its lesions are not labelled."""
    reference = data / "derivatives" / "reference" / "sub-12"
    brain = read_mask(reference / "sub-12_space-common_label-brain_mask.nii.gz")
    to_flair = read_itk_transform(reference / f"study{session}_FLAIR_to_common_space.txt")
    to_t1w = read_itk_transform(reference / f"study{session}_T1W_intrastudy_to_FLAIR.txt") @ to_flair
    anat = data / f"sub-12/ses-{session}/anat/sub-12_ses-{session}"
    t1w = resample(read_image(Path(f"{anat}_T1w.nii.gz")), brain.grid, to_t1w).data
    flair = resample(read_image(Path(f"{anat}_FLAIR.nii.gz")), brain.grid, to_flair).data
    return t1w, flair, brain.data & (t1w > 0) & (flair > 0), np.zeros_like(brain.data)


def report(name: str, t1w: Array, flair: Array, brain: Array, lesions: Array) -> None:
    """Mean and deviation per tissue on T1w and FLAIR, and its share of the brain."""
    z = [(image - image[brain].mean()) / image[brain].std() for image in (t1w, flair)]
    labels = tissues(z[0], brain, lesions)
    cells = []
    for number, tissue in enumerate(("CSF", "GM", "WM", "lesion"), start=1):
        inside = labels == number
        if inside.any():
            values = " ".join(f"{image[inside].mean():.2f}±{image[inside].std():.2f}" for image in z)
            cells.append(f"{tissue} {values} {100 * inside.sum() / brain.sum():.1f}%")
    white = ndimage.binary_erosion(labels == 3, iterations=2)
    noise = [(image - ndimage.gaussian_filter(image, 1.0))[white].std() for image in z]
    print(f"{name:16s}", *cells, f"noise {noise[0]:.2f} {noise[1]:.2f}", sep=" | ", flush=True)


def tissues(z: Array, brain: Array, lesions: Array) -> Array:
    """1 CSF, 2 grey matter, 3 white matter, 4 lesion."""
    sample = z[brain & ~lesions][::20]
    means = np.percentile(sample, [5, 40, 80])
    for _ in range(25):
        nearest = np.abs(sample[:, None] - means).argmin(axis=1)
        means = np.array([sample[nearest == number].mean() for number in range(3)])
    labels = np.zeros(brain.shape, int)
    labels[brain] = np.abs(z[brain][:, None] - means).argmin(axis=1) + 1
    labels[lesions] = 4
    return labels


if __name__ == "__main__":
    main()
