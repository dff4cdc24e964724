"""How real simulated patients are: numbers, plots and pictures, side by side with the open real ones.

    python recipes/realism.py OUT [--data DIR] [--patients N]

Real: 25 consensus masks (numbers, volumes, places), and the two patients with images on the same grid (contrast). How
often lesions change is not compared: of real change there is one pair, sub-12's.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from lesion_statistics import Measured, measure, real
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import ndimage

from lesiondelta.atlas.location import Location
from lesiondelta.images import Array
from lesiondelta.report.pictures import grey_values
from lesiondelta.simulation import Acquisition, Anatomy, Person, mni152_anatomy, simulate_patient
from lesiondelta.simulation.anatomy import tissues_of

REAL, SIMULATED = "#c2410c", "#2f6fb3"
FIRST_SEED = 500
CONTRAST = {
    "flair_grey": "FLAIR: grey matter",
    "flair_lesion": "FLAIR: lesions",
    "flair_small": "FLAIR: lesions under 30 mm3",
    "flair_noise": "FLAIR: noise",
    "flair_white_sd": "FLAIR: sd of white matter",
    "flair_grey_sd": "FLAIR: sd of grey matter",
    "t1w_grey": "T1w: grey matter",
    "t1w_lesion": "T1w: lesions",
    "t1w_small": "T1w: lesions under 30 mm3",
    "t1w_noise": "T1w: noise",
}
"""Medians less that of white matter, and deviations, all in units of white matter - CSF."""


def main() -> None:
    """Measure, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("LESIONDELTA_DATA", Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--patients", type=int, default=12, help="to simulate")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    people = {f"sub-{person.t1w.name[4:6]}": scan_of(person.anatomy(0)) for person in open_people(given.data)}
    measured, contrasts, scans, changes = [], [], [], []
    for seed in range(FIRST_SEED, FIRST_SEED + given.patients):
        anatomy = mni152_anatomy(seed)
        patient = simulate_patient(seed, anatomy=anatomy, acquisition=Acquisition(sharp_share=1.0))
        visit = patient.visits[0]
        measured.append(measure(visit.lesions.data, anatomy.regions))
        scans.append({**{name: image.data for name, image in visit.images.items()}, "lesions": visit.lesions.data})
        contrasts.append(contrast({name: data * anatomy.brain for name, data in scans[-1].items()}))
        changes.append(pd.Series(list(patient.changes[0].values())).value_counts())
        print(f"simulated {seed}", flush=True)
    numbers = pd.concat(
        [
            table("real", list(real(given.data)), [contrast(scan) for scan in people.values()]),
            table("simulated", measured, contrasts),
        ]
    )
    numbers.to_csv(given.out / "numbers.tsv", sep="\t", index=False, float_format="%.3f", na_rep="n/a")
    pd.DataFrame(changes).fillna(0).astype(int).to_csv(given.out / "changes.tsv", sep="\t", index=False)
    draw_distributions(given.out / "distributions.png", numbers)
    shown = {f"simulated {FIRST_SEED + number}": scans[number] for number in range(4)}
    draw_pictures(given.out / "pictures.png", people | shown)


def open_people(data: Path) -> list[Person]:
    """The two open patients with images."""
    stems = sorted((data / "ljubljana-cross-sectional").glob("sub-*/anat/*_T1w.nii.gz"))
    beside = [[Path(str(t1w).replace("T1w", what)) for what in ("FLAIR", "label-lesion_mask")] for t1w in stems]
    return [Person(t1w, *others) for t1w, others in zip(stems, beside, strict=True)]


def scan_of(anatomy: Anatomy) -> dict[str, Array]:
    """A real person's images and lesions."""
    return {**anatomy.lesioned, "lesions": np.asarray(anatomy.lesions) > 0}


def contrast(scan: Mapping[str, Array]) -> dict[str, float]:
    """`CONTRAST` of a stripped patient, tissues found on the T1w in the same way for real and simulated ones."""
    lesions = scan["lesions"]
    tissues = tissues_of(scan["T1w"], scan["T1w"] > 0, lesions)
    away = ~ndimage.binary_dilation(lesions, iterations=3)
    fluid, grey, white = ((tissue > 0.9) & away for tissue in tissues)
    labels, count = ndimage.label(lesions, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    small = (labels > 0) & (sizes < 30)[labels]
    found: dict[str, float] = {}
    for name in ("FLAIR", "T1w"):
        image = scan[name]
        of_white = np.median(image[white])
        unit = of_white - np.median(image[fluid])
        noise = (image - ndimage.gaussian_filter(image, 1))[white].std()
        parts = {"grey": grey, "lesion": lesions, "small": small}
        values = {part: (np.median(image[where]) - of_white) / unit for part, where in parts.items()}
        values |= {"noise": noise / unit, "white_sd": image[white].std() / unit, "grey_sd": image[grey].std() / unit}
        found |= {f"{name.lower()}_{what}": float(value) for what, value in values.items()}
    return found


def table(kind: str, patients: Sequence[Measured], contrasts: Sequence[Mapping[str, float]]) -> pd.DataFrame:
    """A row a patient."""
    rows = []
    for number, lesions in enumerate(patients):
        where = [location for location, _ in lesions]
        row: dict[str, object] = {"kind": kind, "lesions": len(lesions), "ml": sum(mm3 for _, mm3 in lesions) / 1000}
        row["median_mm3"] = float(np.median([mm3 for _, mm3 in lesions]))
        row |= {f"share {location}": where.count(location) / len(where) for location in Location}
        rows.append(row | (dict(contrasts[number]) if number < len(contrasts) and kind == "simulated" else {}))
    if kind == "real":  # the patients with images are shown in rows of their own
        rows += [{"kind": kind, **values} for values in contrasts]
    return pd.DataFrame(rows)


def draw_distributions(path: Path, numbers: pd.DataFrame) -> None:
    """Every column: a dot a patient, real beside simulated."""
    columns = {"lesions": "lesions", "ml": "load, ml", "median_mm3": "median lesion, mm3"}
    columns |= {f"share {location}": f"share: {location}" for location in Location} | CONTRAST
    figure = Figure(figsize=(15, 10), layout="constrained", dpi=100)
    grid = figure.subplots(3, 6).ravel()
    for axes, (column, title) in zip(grid, columns.items(), strict=False):
        _draw_column(axes, numbers, column, title)
    for axes in grid[len(columns) :]:
        axes.axis("off")
    figure.savefig(path)


def _draw_column(axes: Axes, numbers: pd.DataFrame, column: str, title: str) -> None:
    rng = np.random.default_rng(0)
    for place, (kind, colour) in enumerate((("real", REAL), ("simulated", SIMULATED))):
        values = numbers.loc[numbers["kind"] == kind, column].dropna().to_numpy(float)
        axes.scatter(place + rng.uniform(-0.15, 0.15, len(values)), values, s=16, color=colour, alpha=0.7, linewidths=0)
        if len(values) > 2:
            axes.hlines(np.median(values), place - 0.3, place + 0.3, color=colour)
    axes.set_xticks([0, 1], ["real", "simulated"])
    axes.set_xlim(-0.6, 1.6)
    axes.set_title(title, fontsize=10)
    if column in ("lesions", "ml", "median_mm3"):
        axes.set_yscale("log")
    axes.spines[["top", "right"]].set_visible(False)


def draw_pictures(path: Path, scans: Mapping[str, Mapping[str, Array]]) -> None:
    """A row a patient: FLAIR in five axial slices, the middle one with the lesions' borders, and one of the T1w."""
    figure = Figure(figsize=(15, 2.9 * len(scans)), layout="constrained", dpi=80)
    for axes, (name, scan) in zip(figure.subplots(len(scans), 6), scans.items(), strict=True):
        flair, t1w = grey_values(scan["FLAIR"]), grey_values(scan["T1w"])
        slices = np.flatnonzero(scan["FLAIR"].any(axis=(0, 1)))
        levels = [int(np.quantile(slices, part)) for part in (0.25, 0.4, 0.52, 0.62, 0.72, 0.52)]
        for place, (axis, z) in enumerate(zip(axes, levels, strict=True)):
            axis.imshow((t1w if place == 5 else flair)[::-1, :, z].T, cmap="gray", vmin=0, vmax=1, origin="lower")
            axis.set(xticks=[], yticks=[])
            if place == 2 and scan["lesions"][:, :, z].any():
                axis.contour(scan["lesions"][::-1, :, z].T, [0.5], colors=REAL, linewidths=0.7)
        axes[0].set_ylabel(name)
    figure.savefig(path, facecolor="white")


if __name__ == "__main__":
    mpl.rcParams["font.size"] = 10
    main()
