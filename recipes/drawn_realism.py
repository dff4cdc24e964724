"""How real drawn patches are: pictures beside real ones, distributions, and a network that tells them apart.

    python recipes/drawn_realism.py WORK docs/results/drawn [--data DIR]

Real: FLAIR and T1w of the open labelled patients of two sites (`open_patients`), standardised as for training. Drawn:
patches of the generator that trains the bundled model. Patches of 48^3 voxels lie around white matter in both. The
network (three convolutions) is trained on all people but a fifth, real and drawn, and tested on these, five times;
every group of drawn patches that counts as a person comes from label maps that no other group uses. Its
area under the ROC curve is 0.5 where nothing tells drawn from real. WORK is that of `bundled_model.py`.
"""

import argparse
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from bundled_patients import lesion_masks
from matplotlib.figure import Figure
from open_patients import LJUBLJANA, ljubljana, tabriz
from scipy import ndimage
from scipy.stats import rankdata
from torch import Tensor, nn

from lesiondelta.cohort import CONTRASTS
from lesiondelta.files import write_text
from lesiondelta.images import Array, read_image, read_mask
from lesiondelta.nnunet.drawn import DrawnPairs
from lesiondelta.preprocessing.intensity import normalise
from lesiondelta.simulation.generator.pair_generator import DrawnPair, GeneratorPlan

DATA = Path(os.environ.get("LESIONDELTA_DATA", Path(__file__).parents[2] / "shared" / "data"))
EDGE, A_PERSON, FOLDS = 48, 24, 5
STEPS, BATCH = 150, 16
FILLED = 0.75
"""Of a patch, by brain."""
PLAN = GeneratorPlan(without_t1w=0, without_flair=0, randomised_share=0, same_share=1)
FEATURES = {
    "white": "FLAIR: median",
    "lesion": "FLAIR: lesions",
    "dark": "FLAIR: percentile 5",
    "bright": "FLAIR: percentile 99",
    "noise": "FLAIR: fine structure",
    "anisotropy": "FLAIR: sharpest over bluntest axis",
    "t1w_noise": "T1w: fine structure",
    "correlation": "T1w with FLAIR: correlation",
}
COLOURS = {"real": "#c2410c", "drawn": "#2f6fb3"}


@dataclass(frozen=True, eq=False)
class Patch:
    """Images (C, X, Y, Z) and lesions (X, Y, Z) of a person."""

    kind: str
    person: str
    images: Array
    lesions: Array


def main() -> None:
    """Cut, draw, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    given = parser.parse_args()
    torch.manual_seed(0)
    real = list(real_patches(given.data, given.work))
    patches = [*real, *drawn_patches(given.data, given.work, len(real))]
    given.out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame([{"kind": one.kind, "person": one.person, **features(one)} for one in patches])
    of_people = table.groupby(["kind", "person"]).mean().reset_index()
    of_people.to_csv(given.out / "people.tsv", sep="\t", index=False, float_format="%.3f", na_rep="n/a")
    draw_pictures(given.out / "patches.png", patches)
    draw_distributions(given.out / "distributions.png", of_people)
    areas = [told_apart(patches, fold) for fold in range(FOLDS)]
    write_text(given.out / "README.md", page(of_people, areas, len(real)))
    print(page(of_people, areas, len(real)))


def real_patches(data: Path, work: Path) -> Iterator[Patch]:
    """Around voxels of every real patient's brain, in which no contrast is at its border."""
    people = {f"sub-{label}": ljubljana(data, label) for label in LJUBLJANA}
    files = {name: ([one.t1w, one.flair], one.lesions) for name, one in people.items()}
    for label, patient in tabriz(data, work).items():
        (visit,) = patient.visits
        files[f"sub-{label}"] = ([visit.images[name] for name in CONTRASTS], visit.reference)
    for number, (name, (images, lesions)) in enumerate(files.items()):
        stacked = np.stack([read_image(path).data for path in images])
        background = stacked[:, :1, :1, :1]  # Ljubljana's is not exactly 0
        brain = ndimage.binary_fill_holes(
            (np.abs(stacked - background) > 0.02 * stacked.max((1, 2, 3), keepdims=True)).all(0)
        )
        values = normalise(np.where(brain, stacked, 0).astype(np.float32))
        rng, mask = np.random.default_rng(number), read_mask(lesions).data > 0
        inside = np.argwhere(brain)
        found = 0
        while found < A_PERSON:
            start = np.clip(inside[rng.integers(len(inside))] - EDGE // 2, 0, np.array(brain.shape) - EDGE)
            box = tuple(slice(s, s + EDGE) for s in start)
            if brain[box].mean() > FILLED:
                found += 1
                yield Patch("real", name, values[:, *box], mask[box])


def drawn_patches(data: Path, work: Path, count: int) -> Iterator[Patch]:
    """As many of the generator's, without its lack of images and contrasts that do not exist."""
    people = tuple(sorted((data / "label-maps").glob("*_dseg.nii.gz")))
    plan = replace(PLAN, lesion_share=0.2, ventricle_share=0.1)
    groups = -(-count // A_PERSON)
    for group in range(groups):
        drawn = DrawnPairs(people[group::groups], tuple(lesion_masks(data)), work / "maps", 1.0, plan)
        generator = drawn.generator((EDGE,) * 3, 77 + group, torch.device("cpu"))
        wanted = min(A_PERSON, count - group * A_PERSON)
        pairs = (generator.draw(number) for number in itertools.count())
        yield from itertools.islice(_filled(pairs, f"drawn-{group}"), wanted)


def _filled(pairs: Iterable[DrawnPair], person: str) -> Iterator[Patch]:
    """The current visits of those pairs that hold enough of the brain."""
    for pair in pairs:
        images = pair.images[1].numpy()
        if (images != 0).all(axis=0).mean() > FILLED:
            yield Patch("drawn", person, images, pair.lesions[1].numpy())


def features(patch: Patch) -> dict[str, float]:
    """`FEATURES` of a patch."""
    t1w, flair = patch.images
    inside = ndimage.binary_erosion((flair != 0) & (t1w != 0), iterations=2)
    if np.count_nonzero(inside) < 1000:
        return dict.fromkeys(FEATURES, np.nan)
    steps = [float(np.diff(flair, axis=axis).std()) for axis in range(3)]
    seen = patch.lesions & inside
    return {
        "white": float(np.median(flair[inside])),
        "lesion": float(np.median(flair[seen])) if seen.sum() > 20 else np.nan,
        "dark": float(np.percentile(flair[inside], 5)),
        "bright": float(np.percentile(flair[inside], 99)),
        "noise": float((flair - ndimage.gaussian_filter(flair, 1))[inside].std()),
        "anisotropy": max(steps) / min(steps),
        "t1w_noise": float((t1w - ndimage.gaussian_filter(t1w, 1))[inside].std()),
        "correlation": float(np.corrcoef(t1w[inside], flair[inside])[0, 1]),
    }


def told_apart(patches: Sequence[Patch], fold: int) -> float:
    """Area under the ROC curve of a network on people that it has not seen."""
    people = sorted({(one.kind, one.person) for one in patches})
    held_out = set(people[fold::FOLDS])
    sides = [[one for one in patches if ((one.kind, one.person) in held_out) is tested] for tested in (False, True)]
    network = nn.Sequential(
        *(layer for channels, out in ((2, 8), (8, 16), (16, 32)) for layer in _stage(channels, out)),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(32, 1),
    )  # fmt: skip
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    rng = np.random.default_rng(fold)
    for _ in range(STEPS):
        images, truth = _batch(sides[0], rng.integers(len(sides[0]), size=BATCH), rng)
        optimiser.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(network(images)[:, 0], truth)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    network.eval()
    with torch.no_grad():
        numbers = np.arange(len(sides[1]))
        scores = np.concatenate(
            [network(_batch(sides[1], part)[0])[:, 0].numpy() for part in np.array_split(numbers, 16)]
        )
    return area(scores, np.array([one.kind == "drawn" for one in sides[1]]))


def _stage(channels: int, out: int) -> list[nn.Module]:
    return [nn.Conv3d(channels, out, 3, stride=2, padding=1), nn.InstanceNorm3d(out, affine=True), nn.LeakyReLU()]


def _batch(patches: Sequence[Patch], chosen: Array, rng: np.random.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Patches and whether they are drawn; mirrored at random along all axes where there is an `rng`."""
    images = torch.stack([torch.from_numpy(np.ascontiguousarray(patches[n].images)) for n in chosen])
    if rng is not None:
        images = images.flip([axis for axis in (2, 3, 4) if rng.random() < 0.5])
    return images, torch.tensor([float(patches[n].kind == "drawn") for n in chosen])


def area(scores: Array, positive: Array) -> float:
    """Area under the ROC curve (Mann-Whitney)."""
    n, m = int(positive.sum()), int((~positive).sum())
    return float((rankdata(scores)[positive].sum() - n * (n + 1) / 2) / (n * m))


def draw_pictures(path: Path, patches: Sequence[Patch]) -> None:
    """FLAIR and T1w, real ones above drawn ones; lesions outlined."""
    figure = Figure(figsize=(16, 8.6), layout="constrained", dpi=80)
    grid = figure.subplots(4, 8)
    rng = np.random.default_rng(1)
    for line, kind in enumerate(("real", "drawn")):
        own = [one for one in patches if one.kind == kind and one.lesions.sum() > 30]
        for place, number in enumerate(rng.choice(len(own), 8, replace=False)):
            one = own[int(number)]
            z = int(one.lesions.sum(axis=(0, 1)).argmax())
            for row, image in enumerate((one.images[1], one.images[0])):
                axes = grid[2 * line + row, place]
                axes.imshow(image[::-1, :, z].T, cmap="gray", vmin=-2.5, vmax=3, origin="lower")
                axes.set(xticks=[], yticks=[])
                if not row:
                    axes.contour(one.lesions[::-1, :, z].T, [0.5], colors="#c2410c", linewidths=0.8)
                    axes.set_title(one.person, fontsize=9)
            if not place:
                grid[2 * line, 0].set_ylabel(f"{kind}: FLAIR")
                grid[2 * line + 1, 0].set_ylabel("T1w")
    figure.savefig(path, facecolor="white")


def draw_distributions(path: Path, people: pd.DataFrame) -> None:
    """A dot a person."""
    figure = Figure(figsize=(14, 6), layout="constrained", dpi=90)
    rng = np.random.default_rng(0)
    for axes, (name, title) in zip(figure.subplots(2, 4).ravel(), FEATURES.items(), strict=True):
        for place, (kind, colour) in enumerate(COLOURS.items()):
            values = people.loc[people.kind == kind, name].dropna().to_numpy(float)
            axes.scatter(place + rng.uniform(-0.15, 0.15, len(values)), values, s=18, color=colour)
        axes.set_xticks([0, 1], ["real", "drawn"])
        axes.set_xlim(-0.6, 1.6)
        axes.set_title(title, fontsize=10)
    figure.savefig(path)


def page(people: pd.DataFrame, areas: Sequence[float], count: int) -> str:
    """README.md."""
    lines = ["| mean of a person's patches: quartiles | real | drawn |", "|---|---|---|"]
    for name, title in FEATURES.items():
        quartiles = [
            np.nanpercentile(people.loc[people.kind == kind, name], (25, 50, 75)) for kind in ("real", "drawn")
        ]
        lines.append(
            f"| {title} | " + " | ".join(", ".join(f"{value:.2f}" for value in one) for one in quartiles) + " |"
        )
    return f"""# How real drawn patches are

```
python recipes/drawn_realism.py WORK docs/results/drawn
```

{count} patches of {people[people.kind == "real"].person.nunique()} open patients of two sites, and as many that
`simulation.generator` draws (always another person, scanner and lesions), standardised over the brain.

**A small network tells drawn from real patches of people it has not seen with an area under the ROC curve of
{np.mean(areas):.2f}** (folds: {", ".join(f"{one:.2f}" for one in areas)}; 0.5 is chance).

{chr(10).join(lines)}

![Real patches above, drawn ones below; lesions outlined](patches.png)

![A dot a person](distributions.png)

Real images: University of Ljubljana, CC-BY (Lesjak et al., Neuroinformatics 16, 51-63, 2018); Tabriz, MIT (Bashiri
Bawil et al., arXiv:2506.07123). Label maps: SynthSeg and SynthSR, Apache-2.0.
"""


if __name__ == "__main__":
    main()
