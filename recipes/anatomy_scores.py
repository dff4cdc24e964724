"""Score the anatomy network, and write the page: `python recipes/anatomy_scores.py docs/results/anatomy [--model DIR]`.

1. Brains of whole heads: the network and the atlas against the authors' masks of sub-12 (both visits) and of Tabriz's
   patients (tight ones), with T1w, FLAIR and both; ventricles against Tabriz's masks.
2. Heads drawn from label maps that it never saw (those that its training left out): Dice of every part.
3. Locations of these people's own lesions, by the network and by the atlas, against the map's own anatomy.
4. The same heads scanned twice by other protocols: by how much volumes of tissue and ventricles differ.
"""

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy import ndimage
from torch import nn

from lesiondelta.anatomy.finding import SPACING_MM, Anatomy, find_anatomy
from lesiondelta.anatomy.network import BUNDLED, DESCRIPTION, read_anatomy_network
from lesiondelta.atlas.location import locate
from lesiondelta.atlas.parts import Part
from lesiondelta.cohort import CONTRASTS
from lesiondelta.errors import LesionDeltaError
from lesiondelta.files import write_text
from lesiondelta.images import (
    Array,
    Volume,
    corners_mm,
    isotropic_grid,
    read_image,
    read_itk_transform,
    read_labels,
    read_mask,
    resample,
)
from lesiondelta.preprocessing.brain import atlas_mask
from lesiondelta.preprocessing.own_anatomy import regions_of_parts, volumes_mm3
from lesiondelta.preprocessing.regions import atlas_to, regions_of
from lesiondelta.simulation.acquisition import Acquisition, draw_protocols
from lesiondelta.simulation.contrast import draw_contrasts
from lesiondelta.simulation.generator.brightness import draw_tissues, tissue_means
from lesiondelta.simulation.generator.label_map import Tissue
from lesiondelta.simulation.generator.scanner import Scan
from lesiondelta.simulation.heads.head_generator import HeadGenerator, HeadPlan
from lesiondelta.simulation.heads.head_map import HeadMap, Material, head_map, parts_table

DATA = Path(os.environ.get("LESIONDELTA_DATA", Path(__file__).parents[2] / "shared" / "data"))
SHOWN = {"T1w + FLAIR": CONTRASTS, "T1w": ("T1w",), "FLAIR": ("FLAIR",)}
DRAWS, PAIRS, THICK_MM = 6, 4, 8.0
MARGIN_MM = 20.0
COLOURS = ("#000000", "#46c8ff", "#3f6f8f", "#ff9f43", "#b07cff", "#f2f2f2", "#ff5a8a", "#ffd93b")


@dataclass(frozen=True, eq=False)
class RealHead:
    """Images of a head on one grid, and what experts drew on it (X, Y, Z) bool."""

    name: str
    images: Mapping[str, Volume]
    brain: Array
    ventricles: Array | None = None


def main() -> None:
    """Score, draw, write."""
    given = arguments()
    torch.set_num_threads(given.threads)
    network = read_anatomy_network(given.model)
    training = json.loads((given.model / DESCRIPTION).read_text(encoding="utf-8"))["training"]
    if not training["without"]:
        raise SystemExit(f"{given.model} was trained on all people: nobody is left to score it on.")
    given.out.mkdir(parents=True, exist_ok=True)
    heads = list(real_heads(given.data))
    real = pd.DataFrame([row for head in heads for row in scored(head, network)])
    unseen = {
        name: head_map(read_labels(given.data / "label-maps" / f"{name}_dseg.nii.gz")) for name in training["without"]
    }
    drawn = pd.DataFrame([row for name, person in unseen.items() for row in of_drawn(name, person, network)])
    places = pd.DataFrame([row for name, person in unseen.items() for row in of_lesions(name, person, network)])
    again = pd.DataFrame([row for name, person in unseen.items() for row in of_rescans(name, person, network)])
    for name, table in (("real", real), ("drawn", drawn), ("locations", places), ("rescans", again)):
        table.to_csv(given.out / f"{name}.tsv", sep="\t", index=False, float_format="%.4f", na_rep="n/a")
    draw_pictures(given.out / "heads.png", heads, network)
    write_text(given.out / "README.md", page(training, real, drawn, places, again))


def real_heads(data: Path) -> Iterator[RealHead]:
    """Sub-12's visits and Tabriz's patients, with the masks of their data sets."""
    folder = data / "ljubljana-longitudinal"
    authors = folder / "derivatives" / "reference" / "sub-12"
    brain = read_mask(authors / "sub-12_space-common_label-brain_mask.nii.gz")
    for visit in ("1", "2"):
        flair, t1w = (
            read_image(folder / "sub-12" / f"ses-{visit}" / "anat" / f"sub-12_ses-{visit}_{name}.nii.gz")
            for name in ("FLAIR", "T1w")
        )
        to_flair = read_itk_transform(authors / f"study{visit}_FLAIR_to_common_space.txt")
        to_t1w = read_itk_transform(authors / f"study{visit}_T1W_intrastudy_to_FLAIR.txt")
        grid = isotropic_grid(corners_mm(flair.grid), 1.0, MARGIN_MM)
        images = {"FLAIR": resample(flair, grid, order="linear"), "T1w": resample(t1w, grid, to_t1w, "linear")}
        yield RealHead(
            f"sub-12 {visit}", images, resample(brain, grid, np.linalg.inv(to_flair).astype(np.float64), "nearest").data
        )
    for folder in sorted((data / "tabriz").glob("sub-*")):
        anat, masks = folder / "anat", data / "tabriz" / "derivatives" / "reference" / folder.name / "anat"
        flair, t1w = (read_image(anat / f"{folder.name}_{name}.nii.gz") for name in ("FLAIR", "T1w"))
        grid = isotropic_grid(corners_mm(flair.grid), 1.0, MARGIN_MM)
        images = {name: resample(image, grid, order="linear") for name, image in (("FLAIR", flair), ("T1w", t1w))}
        drawn = {
            name: resample(
                read_mask(masks / f"{folder.name}_space-orig_{name}_mask.nii.gz"), grid, order="nearest"
            ).data
            for name in ("desc-brain", "label-ventricles")
        }
        yield RealHead(folder.name, images, drawn["desc-brain"], drawn["label-ventricles"])


def scored(head: RealHead, network: nn.Module) -> Iterator[dict[str, Any]]:
    """Brain and ventricles by the network with every choice of images, and the brain by the atlas."""
    for shown, names in SHOWN.items():
        found = find_anatomy({name: head.images[name] for name in names}, network)
        grid = head.images["FLAIR"].grid
        row = {"head": head.name, "way": f"network, {shown}", **beside(found.brain(grid), head.brain)}
        if head.ventricles is not None:
            own = found.parts(grid) == Part.VENTRICLES
            row |= {f"ventricles {name}": value for name, value in beside(own, head.ventricles).items()}
        yield row
    for name in CONTRASTS:
        try:
            mask = atlas_mask(head.images[name]).data
        except LesionDeltaError as error:
            print(f"{head.name}, atlas on {name}: {error}")
            continue
        yield {"head": head.name, "way": f"atlas, {name}", **beside(mask, head.brain)}


def beside(found: Array, truth: Array) -> dict[str, float]:
    """Dice, the share of the truth that was found, and the volume as a multiple of the truth's."""
    both, own, wanted = (int(np.count_nonzero(one)) for one in (found & truth, found, truth))
    return {"dice": 2 * both / max(own + wanted, 1), "found": both / max(wanted, 1), "volume": own / max(wanted, 1)}


def of_drawn(name: str, person: HeadMap, network: nn.Module) -> Iterator[dict[str, Any]]:
    """Dice of every part on drawn heads, of thick slices and of any."""
    for slices, scans in (("any", None), ("8 mm", thick_scans)):
        plan = HeadPlan(without_share=0, randomised_share=0, stripped_share=0)
        heads = HeadGenerator([person], plan if scans is None else replace(plan, scans=scans), seed=7)
        for number in range(DRAWS):
            head = heads.draw(number)
            for shown, names in SHOWN.items():
                images = torch.stack(
                    [one * (contrast in names) for one, contrast in zip(head.images, CONTRASTS, strict=True)]
                )
                with torch.inference_mode():
                    parts = network(images[None])[0].argmax(dim=0)
                truth = head.shares.argmax(dim=0)
                row: dict[str, Any] = {"person": name, "slices": slices, "shown": shown, "number": number}
                row["brain"] = beside((parts > 0).numpy(), (head.shares[0] < 0.5).numpy())["dice"]
                row |= {p.name: beside((parts == p).numpy(), (truth == p).numpy())["dice"] for p in Part if p}
                yield row


def thick_scans(rng: np.random.Generator) -> dict[str, Scan]:
    """Axial slices of 8 mm of both images."""
    protocols = draw_protocols(rng, Acquisition(randomised_share=0.0))
    return {name: Scan(replace(one, slice_mm=THICK_MM, gap_mm=0.0, axes=(0, 1, 2))) for name, one in protocols.items()}


def of_lesions(name: str, person: HeadMap, network: nn.Module) -> Iterator[dict[str, Any]]:
    """The location of every lesion of a map, by its own parts, by the network and by the atlas."""
    lesions = cc3d.connected_components(person.materials == Material.LESION, connectivity=26)
    if not lesions.any():
        return
    parts = Volume(parts_table()[person.materials].astype(np.uint8), np.eye(4), name)
    images = seen_as(np.random.default_rng(5), person, parts)
    brain = parts.with_data(parts.data > 0)
    own = find_anatomy(images, network)
    regions = {
        "truth": regions_of_parts(parts),
        "network": regions_of_parts(parts.with_data(own.parts(parts.grid) * brain.data)),
        "atlas": regions_of(brain, atlas_to(images["T1w"])),
    }
    located = {way: locate(lesions, map_, 1.0) for way, map_ in regions.items()}
    for number, size in zip(*np.unique(lesions[lesions > 0], return_counts=True), strict=True):
        yield {"person": name, "lesion": int(number), "mm3": int(size)} | {
            w: str(at[int(number)]) for w, at in located.items()
        }


def seen_as(rng: np.random.Generator, person: HeadMap, parts: Volume) -> dict[str, Volume]:
    """T1w of 1 mm and FLAIR of slices of 3 mm, cut to the brain, as `run` prepares them."""
    images = {}
    for name, contrast in draw_contrasts(rng).items():
        means = np.zeros(max(Material) + 1, np.float32)
        inner = tissue_means(contrast, draw_tissues(rng, name))
        means[: len(inner)] = inner
        means[Material.DIENCEPHALON] = inner[Tissue.BRAIN_STEM]
        means[Material.LESION] = 1.4 if name == "FLAIR" else 0.75
        image = ndimage.gaussian_filter(means[person.materials], 0.5)
        if name == "FLAIR":
            image = ndimage.uniform_filter1d(image, 3, axis=2)
        image = image + rng.normal(0, 0.03, image.shape).astype(np.float32)
        images[name] = parts.with_data(np.where(parts.data > 0, np.maximum(image, 1e-3), 0).astype(np.float32))
    return images


def of_rescans(name: str, person: HeadMap, network: nn.Module) -> Iterator[dict[str, Any]]:
    """Volumes of one head of one size, drawn twice, in another pose and by other scanners, cut to the brain."""
    plan = HeadPlan(without_share=0, randomised_share=0, stripped_share=1, lesion_share=0, scale=0)
    heads, affine = HeadGenerator([person], plan, seed=11), np.diag([SPACING_MM] * 3 + [1.0])
    for number in range(2 * PAIRS):
        head = heads.draw(number)
        truth = volumes_mm3(Anatomy(head.shares.numpy(), affine))
        images = {c: Volume(one.numpy(), affine, c) for c, one in zip(CONTRASTS, head.images, strict=True)}
        for shown, names in SHOWN.items():
            found = volumes_mm3(find_anatomy({c: images[c] for c in names}, network))
            row: dict[str, Any] = {"person": name, "pair": number // 2, "shown": shown, **found}
            yield row | {f"true_{what}": value for what, value in truth.items()}


def draw_pictures(path: Path, heads: Sequence[RealHead], network: nn.Module) -> None:
    """Parts on the FLAIRs of real heads, by the FLAIR alone and by both images."""
    figure = Figure(figsize=(3 * len(heads), 9), layout="constrained")
    axes = figure.subplots(3, len(heads))
    for column, head in enumerate(heads):
        flair = head.images["FLAIR"]
        level = int(np.median(np.nonzero(head.brain)[2]))
        shown = np.rot90(flair.data[:, :, level])
        for row, names in enumerate(((), ("FLAIR",), CONTRASTS)):
            axis = axes[row, column]
            axis.imshow(shown, cmap="gray", vmax=np.percentile(shown, 99.5))
            axis.set_axis_off()
            if not names:
                axis.set_title(head.name)
                continue
            parts = find_anatomy({n: head.images[n] for n in names}, network).parts(flair.grid)[:, :, level]
            colours = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in COLOURS])[np.rot90(parts)]
            axis.imshow(np.dstack([colours, 0.55 * (np.rot90(parts) > 0)]))
    figure.savefig(path, dpi=55)


def spread(values: Sequence[float]) -> str:
    """Mean, least and most."""
    return f"{np.mean(values):.3f} ({np.min(values):.3f} to {np.max(values):.3f})"


def by_people(table: pd.DataFrame, column: str) -> str:
    """Mean over people, least and most."""
    return spread(table.groupby("person")[column].mean().tolist())


def page(
    training: Mapping[str, Any], real: pd.DataFrame, drawn: pd.DataFrame, places: pd.DataFrame, again: pd.DataFrame
) -> str:
    """The page."""
    ways = list(dict.fromkeys(real["way"]))
    groups = {"sub-12": real["head"].str.startswith("sub-12"), "Tabriz": real["head"].str.startswith("sub-T")}
    brains = [
        f"| {way} | "
        + " | ".join(spread(real[(real["way"] == way) & rows]["dice"].tolist()) for rows in groups.values())
        + f" | {spread(real[(real['way'] == way) & groups['Tabriz']]['found'].tolist())} |"
        for way in ways
    ]
    ventricles = [
        f"| {way} | {spread(own['ventricles dice'].tolist())} | {spread(own['ventricles volume'].tolist())} |"
        for way in ways
        if len(own := real[(real["way"] == way) & groups["Tabriz"] & real["ventricles dice"].notna()])
    ]
    columns = ["brain", *(part.name for part in Part if part)]
    parts = [
        f"| {slices} | {shown} | "
        + " | ".join(f"{rows.groupby('person')[c].mean().mean():.3f}" for c in columns)
        + " |"
        for (slices, shown), rows in drawn.groupby(["slices", "shown"], sort=False)
    ]
    located = [
        f"| {way} | {(places[way] == places['truth']).groupby(places['person']).mean().mean():.1%} | "
        + " | ".join(f"{(rows[way] == kind).mean():.0%} of {len(rows)}" for kind, rows in places.groupby("truth"))
        + " |"
        for way in ("network", "atlas")
    ]
    rescans = [
        f"| {what.removesuffix('_mm3')} | {shown} | {rescan_error(rows, what):.1%} | {bias(rows, what)} |"
        for what in ("tissue_mm3", "ventricles_mm3")
        for shown, rows in again.groupby("shown", sort=False)
    ]
    return f"""# The anatomy network

A U-Net on voxels of 2 mm. Its input is the T1w, the FLAIR or both, of a whole head or skull-stripped; its labels are
ventricles, fluid, cortex, deep grey and white matter, cerebellum and brain stem. It was trained on no real image:
{training["iterations"]} iterations ({training["cpu_minutes"]} CPU minutes) on heads drawn from the label maps of
{training["people"]} people (`recipes/anatomy_network.py`). {", ".join(training["without"])} were
left out, and are those of the last three tables.

Source: {training["learned_from"]}.

Made by `recipes/anatomy_scores.py`. Means over heads or people, with the least and the most.

## Brains of real heads

sub-12: both visits, against the authors' mask. Tabriz: seven patients, slices of 6.4 to 8.1 mm, against tight masks
(BET), so that the share of them that is found says more than Dice.

| way | Dice, sub-12 | Dice, Tabriz | found of Tabriz's |
|---|---|---|---|
{chr(10).join(brains)}

![Real heads: the FLAIR, the parts found in the FLAIR alone, and those found in T1w and FLAIR](heads.png)

## Ventricles of Tabriz's patients, against the experts'

| way | Dice | volume / the experts' |
|---|---|---|
{chr(10).join(ventricles)}

## Parts of heads that were left out, Dice

{DRAWS} draws a person.

| slices | shown | {" | ".join(column.lower().replace("_", " ") for column in columns)} |
|---|---|{"---|" * len(columns)}
{chr(10).join(parts)}

## Locations of the label maps' own lesions

{len(places)} lesions of {places["person"].nunique()} people who were left out; truth is the location by the map's own
ventricles, cortex, cerebellum and brain stem. Right by person, then by true location.

| way | right | {" | ".join(str(kind) for kind, _ in places.groupby("truth"))} |
|---|---|{"---|" * places["truth"].nunique()}
{chr(10).join(located)}

## Volumes on rescans

The same head, drawn in another pose, by another scanner, cut to the brain: standard deviation of the difference of two
volumes, as a share of them, and the mean volume beside the map's.

| volume | shown | difference of two scans | found / true |
|---|---|---|---|
{chr(10).join(rescans)}
"""


def rescan_error(again: pd.DataFrame, what: str) -> float:
    """Standard deviation of relative differences between the scans of a pair, each related to its own truth."""
    ratio = again[what] / again[f"true_{what}"]
    pairs = [own.to_numpy() for _, own in ratio.groupby([again["person"], again["pair"]])]
    return float(np.sqrt(np.mean([(np.log(a) - np.log(b)) ** 2 for a, b in pairs])))


def bias(again: pd.DataFrame, what: str) -> str:
    """Found volume over the true one, by person."""
    return spread((again[what] / again[f"true_{what}"]).groupby(again["person"]).mean().tolist())


def arguments() -> argparse.Namespace:
    """What is given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--model", type=Path, default=BUNDLED)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
