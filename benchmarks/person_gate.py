"""Pairs of brains through the registration and the gate: `python benchmarks/person_gate.py $LESIONDELTA_DATA`.

With `--shifts` instead, the T1w of every real head, as it was registered to its FLAIR and shifted by 1.5 mm in the four
directions of the FLAIR's slices: the gate has to refuse every one of these.

Every patient of the open data against every other; sub-12's two visits; its first visit moved and cut into other
slices; simulated patients with their own follow-up and against each other. Prints a line per pair, with what the gate
says.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from pathlib import Path

import numpy as np

from lesiondelta.errors import RegistrationError
from lesiondelta.images import Affine, Grid, Volume, corners_mm, isotropic_grid, read_image, resample
from lesiondelta.preprocessing import brain, gate
from lesiondelta.preprocessing.elastix import elastix, euler_matrix, refine
from lesiondelta.preprocessing.located import Located
from lesiondelta.preprocessing.person import displacement_mm
from lesiondelta.preprocessing.points import dilate
from lesiondelta.simulation.acquisition import Acquisition
from lesiondelta.simulation.visits import simulate_patient

RAW = (("12", "1"), ("12", "2"), ("04", "1"), ("20", "2"))
RESEARCH = ("07", "19")
TABRIZ = ("T01", "T02", "T04", "T05", "T06", "T07", "T08")
SIMULATED = (1, 2, 3)
SHIFT_MM = 1.5
LATER = ("12-2", "12-1-moved0", "12-1-moved1", *(f"sim{seed}-1" for seed in SIMULATED))
"""Heads of which somebody is represented already."""


@dataclass(frozen=True)
class Head:
    """One visit: its images where its own FLAIR lies, and its brain there."""

    person: str
    name: str
    images: dict[str, Located]
    brain: Volume
    stripped: bool


def main() -> None:
    """Print one line per ordered pair, the pairs of one person first; or one per shift."""
    if "--shifts" in sys.argv:
        for one in real_heads(Path(sys.argv[1])):
            print("\n".join(shifted(one)), flush=True)
        return
    heads = [*real_heads(Path(sys.argv[1])), *simulated_heads()]
    heads += perturbed(heads[0])
    same = [(a, b) for a, b in permutations(heads, 2) if a.person == b.person]
    first = [head for head in heads if head.name not in LATER]
    others = [
        (a, b) for a, b in combinations(first, 2) if a.person != b.person and ("sim" in a.name) == ("sim" in b.name)
    ]
    for fixed, moving in (*same, *others):
        print(compared(fixed, moving), flush=True)


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
    for person in TABRIZ:
        folder = data / "tabriz" / f"sub-{person}" / "anat"
        flair, t1w = (read_image(folder / f"sub-{person}_{c}.nii.gz") for c in ("FLAIR", "T1w"))
        yield head(person, person, flair, t1w)


def simulated_heads() -> Iterator[Head]:
    """Whole heads as from the scanner, two visits each."""
    for seed in SIMULATED:
        patient = simulate_patient(seed, 2, acquisition=Acquisition("native"))
        for index, visit in enumerate(patient.visits):
            yield head(f"sim{seed}", f"sim{seed}-{index}", visit.images["FLAIR"], visit.images["T1w"])


def perturbed(original: Head) -> Iterator[Head]:
    """The same head turned by up to 15 degrees, shifted by 20 mm, with noise, in slices of 4 mm; FLAIR alone."""
    flair = original.images["FLAIR"].image
    for index, angle in enumerate((0.1, 0.26)):
        place: Affine = np.eye(4)
        place[:3, :3], place[:3, 3] = euler_matrix(angle, -angle / 2, angle / 3), (20, -10, 15)
        affine = flair.affine @ np.diag([1.3, 1.3, 4 / 3, 1])
        x, y, z = flair.data.shape
        grid = Grid((int(x / 1.3), int(y / 1.3), int(z * 0.75)), affine)
        moved = resample(flair, grid, place)
        noise = np.random.default_rng(index).normal(0, 0.03 * np.percentile(flair.data, 98), moved.data.shape)
        noisy = replace(moved, data=(moved.data + noise).astype(np.float32))
        mask = resample(original.brain, grid, place, "nearest")
        yield Head(original.person, f"{original.name}-moved{index}", {"FLAIR": Located(noisy, np.eye(4))}, mask, False)


def head(person: str, name: str, flair: Volume, t1w: Volume) -> Head:
    """A head with its brain."""
    to_t1w = elastix(flair, t1w, degrees=6)
    images = {"FLAIR": Located(flair, np.eye(4)), "T1w": Located(t1w, to_t1w)}
    own = brain.own_mask(flair)
    if own is not None:
        return Head(person, name, images, own, stripped=True)
    grid = isotropic_grid(corners_mm(flair.grid), 2.0, 20.0)
    mask = brain.extract({"T1w": resample(t1w, grid, to_t1w, "linear")}, "atlas")
    return Head(person, name, images, mask, stripped=False)


def compared(a: Head, b: Head) -> str:
    """Register b to a and measure."""
    mask = a.brain if a.stripped or b.stripped else dilate(a.brain, 10.0)
    transform = elastix(a.images["FLAIR"].image, b.images["FLAIR"].image, degrees=12, mask=mask)
    placed = {name: Located(image.image, image.transform @ transform) for name, image in b.images.items()}
    person = {name: displacement_mm(a.images[name], placed[name], a.brain) for name in a.images if name in placed}
    residual = gate.residual(a.images["FLAIR"], placed["FLAIR"], a.brain)
    stretch = "/".join(f"{s:.2f}" for s in gate.scales(transform))
    kind = "same " if a.person == b.person else "other"
    figures = "  ".join(f"{name} {mm:5.2f} mm" for name, mm in person.items())
    return (
        f"{kind} {a.name:>12} <- {b.name:<12} person: {figures}  residual {residual.value_mm:5.2f} mm  scales {stretch}"
        f"  {verdict(a.images['FLAIR'], placed['FLAIR'], a.brain)}"
    )


def shifted(one: Head) -> Iterator[str]:
    """The head's T1w in its place, and beside it within the plane of the FLAIR's slices."""
    flair, t1w = one.images["FLAIR"], one.images["T1w"]
    inside = resample(one.brain, flair.image.grid, np.eye(4), order="nearest")
    place = refine(flair.image, t1w.image, t1w.transform, inside, 1)
    axes = flair.image.affine[:3, :3] / flair.image.grid.spacing
    for axis in (None, *np.argsort(flair.image.grid.spacing)[:2]):
        for sign in (1, -1) if axis is not None else (0,):
            shift: Affine = np.eye(4)
            shift[:3, 3] = 0 if axis is None else sign * SHIFT_MM * axes[:, axis]
            moved = Located(t1w.image, place @ shift)
            found = gate.residual(flair, moved, one.brain)
            said = verdict(flair, moved, one.brain, person=False)
            where = "in its place" if axis is None else f"{sign * SHIFT_MM:+.1f} mm along axis {axis}"
            yield f"{one.name:>5} {where:>22}  residual {found.value_mm:.2f} ({found.error_mm:.2f}) mm  {said}"


def verdict(fixed: Located, moving: Located, mask: Volume, *, person: bool = True) -> str:
    """What the gate does with two images; `person` for two FLAIRs."""
    try:
        gate.check_alignment(fixed, moving, mask)
        if person:
            gate.check_person(fixed, moving, mask)
    except RegistrationError:
        return "refused"
    return "passed"


if __name__ == "__main__":
    main()
