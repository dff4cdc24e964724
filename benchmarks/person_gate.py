"""All pairs of brains through the registration and the gate: `python benchmarks/person_gate.py $LESIONDELTA_DATA`.

Every raw and every research patient of the open data against every other in both directions, sub-12's two visits,
sub-12 moved and cut into other slices, and simulated patients with their own follow-up. Prints a line per pair.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np

from lesiondelta.images import Affine, Grid, Volume, corners_mm, isotropic_grid, read_image, resample
from lesiondelta.preprocessing import brain, gate
from lesiondelta.preprocessing.elastix import elastix, euler_matrix
from lesiondelta.preprocessing.located import Located
from lesiondelta.preprocessing.person import displacement_mm
from lesiondelta.preprocessing.points import dilate
from lesiondelta.simulation.acquisition import Acquisition
from lesiondelta.simulation.patient import simulate_patient

RAW = (("12", "1"), ("12", "2"), ("04", "1"), ("20", "2"))
RESEARCH = ("07", "19")
Head = tuple[str, str, Volume, Volume, bool]
"""Person, name, FLAIR, brain in the FLAIR's space, stripped."""


def main() -> None:
    """Print one line per ordered pair, the pairs of one person first."""
    data = Path(sys.argv[1])
    heads = [*real_heads(data), *simulated_heads((1, 2))]
    heads += [head for first in heads[:1] for head in perturbed(first)]
    pairs = sorted(permutations(heads, 2), key=lambda pair: pair[0][0] != pair[1][0])
    for fixed, moving in pairs:
        if fixed[0] == moving[0] or wanted(fixed[1], moving[1]):
            print(compared(fixed, moving), flush=True)


def wanted(a: str, b: str) -> bool:
    """Pairs of two people: originals alone, both real or both simulated."""
    return "moved" not in a + b and a.startswith("sim") == b.startswith("sim")


def real_heads(data: Path) -> Iterator[Head]:
    """The open data's patients."""
    for person, session in RAW:
        folder = data / "ljubljana-longitudinal" / f"sub-{person}" / f"ses-{session}" / "anat"
        flair, t1w = (read_image(folder / f"sub-{person}_ses-{session}_{c}.nii.gz") for c in ("FLAIR", "T1w"))
        yield head(person, f"{person}-{session}", flair, t1w)
    for person in RESEARCH:
        folder = data / "ljubljana-cross-sectional" / f"sub-{person}" / "anat"
        flair, t1w = (read_image(folder / f"sub-{person}_space-MNI152_{c}.nii.gz") for c in ("FLAIR", "T1w"))
        yield head(person, person, flair, t1w)


def simulated_heads(seeds: tuple[int, ...]) -> Iterator[Head]:
    """Whole heads as from the scanner, two visits each."""
    for seed in seeds:
        patient = simulate_patient(seed, 2, acquisition=Acquisition("native"))
        for index, visit in enumerate(patient.visits):
            yield head(f"sim{seed}", f"sim{seed}-{index}", visit.images["FLAIR"], visit.images["T1w"])


def perturbed(original: Head) -> Iterator[Head]:
    """The same head turned by up to 15 degrees, shifted by 20 mm, with noise, in slices of 4 mm."""
    person, name, flair, mask, _ = original
    for index, angle in enumerate((0.1, 0.26)):
        place: Affine = np.eye(4)
        place[:3, :3], place[:3, 3] = euler_matrix(angle, -angle / 2, angle / 3), (20, -10, 15)
        affine = flair.affine @ np.diag([1.3, 1.3, 4 / 3, 1])
        x, y, z = flair.data.shape
        grid = Grid((int(x / 1.3), int(y / 1.3), int(z * 0.75)), affine)
        moved = resample(flair, grid, place)
        noise = np.random.default_rng(index).normal(0, 0.03 * np.percentile(flair.data, 98), moved.data.shape)
        noisy = replace(moved, data=(moved.data + noise).astype(np.float32))
        yield person, f"{name}-moved{index}", noisy, resample(mask, grid, place, "nearest"), False


def head(person: str, name: str, flair: Volume, t1w: Volume) -> Head:
    """A head with its brain."""
    own = brain.own_mask(flair)
    if own is not None:
        return person, name, flair, own, True
    grid = isotropic_grid(corners_mm(flair.grid), 2.0, 20.0)
    mask = brain.extract(resample(t1w, grid, elastix(flair, t1w, degrees=6), "linear"), "atlas")
    return person, name, flair, mask, False


def compared(a: Head, b: Head) -> str:
    """Register b to a and measure."""
    mask = a[3] if a[4] or b[4] else dilate(a[3], 10.0)
    transform = elastix(a[2], b[2], degrees=12, fixed_mask=mask)
    fixed, moving = Located(a[2], np.eye(4)), Located(b[2], transform)
    moved_mm, residual_mm = displacement_mm(fixed, moving, a[3]), gate.residual_mm(fixed, moving, a[3])
    stretch = "/".join(f"{s:.2f}" for s in gate.scales(transform))
    kind = "same " if a[0] == b[0] else "other"
    return (
        f"{kind} {a[1]:>12} <- {b[1]:<12} person {moved_mm:5.2f} mm  residual {residual_mm:5.2f} mm  scales {stretch}"
    )


if __name__ == "__main__":
    main()
