"""Fit the confidence of changes, and the page docs/results/evidence.

    python recipes/evidence_confidence.py WORK docs/results/evidence

Simulated patients are scanned twice by other protocols (slices of 1, 3 and 5 mm), half of them with changing lesions,
and segmented by the bundled model; WORK keeps them (a minute of a core each). Some give the weights of
`tracking.places`; the others, never fitted to, give the page: variance of the evidence on unchanged tissue, reliability
of confidence, false calls a step and recall of new lesions at every sensitivity, against tracking by masks alone.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import ndimage
from scipy.optimize import minimize
from tracking_masks import NOTHING, slice_axis, visit_image

from lesiondelta.cohort import Change
from lesiondelta.evaluation.instances import lesion_mask
from lesiondelta.evaluation.statistics import LEAST_PATIENTS
from lesiondelta.images import Array
from lesiondelta.inference.model import Model, bundled_model, load_model
from lesiondelta.inference.window import lesion_probabilities
from lesiondelta.settings import Sensitivity, TrackingSettings
from lesiondelta.simulation import Acquisition, LesionPlan, Rates, simulate_patient
from lesiondelta.tracking import TrackedVisit, track
from lesiondelta.tracking.calls import compare_images
from lesiondelta.tracking.places import WEIGHTS, Place, confidence

CHANGING = Rates(new=0.2, enlarging=0.12, shrinking=0.1, resolved=0.1, quiet=0)
SLICES = {
    "unchanged": ((1, 3), (3, 1), (3, 3), (1, 5), (3, 3), (5, 3), (1, 1), (5, 5)),
    "changed": ((3, 3), (1, 1), (1, 3), (3, 3), (3, 5), (3, 1), (5, 5), (3, 3)),
}
"""Of both visits, in mm, by seed."""
FITTED, TESTED = range(9000, 9006), range(9200, 9208)
FURTHER = {"unchanged": 0, "changed": 100}
"""Added to seeds, so that nobody is both."""
TRUE_MM3, LARGE_MM3 = 3.0, 30.0
"""Of true change that a right place holds, and of new lesions that have to be found."""
RIDGE = 1e-3
"""Weight of the squared weights in the fit."""
SAMPLES = 2000
"""Of the bootstrap."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two visits: what is tracked, and the true lesions by number."""

    kind: str
    seed: int
    slices: tuple[int, int]
    visits: tuple[TrackedVisit, TrackedVisit]
    instances: tuple[Array, Array]
    threshold: float

    @property
    def name(self) -> str:
        """Kind and seed."""
        return f"{self.kind}-{self.seed}"


def pairs(work: Path, seeds: Sequence[int], model: Model) -> Iterator[Pair]:
    """Pairs of visits of both kinds, made where WORK does not have them."""
    for index, seed in enumerate(seeds):
        for kind, further in FURTHER.items():
            slices = SLICES[kind][index]
            path = work / f"{kind}-{seed + further}.npz"
            if not path.exists():
                np.savez_compressed(path, allow_pickle=False, **scanned(kind, seed + further, slices, model))
            yield pair(kind, seed + further, slices, np.load(path), model)


def scanned(kind: str, seed: int, slices: tuple[int, int], model: Model) -> dict[str, Array]:
    """Images (2, X, Y, Z), probabilities and true lesions of a patient whose visits have other slices each."""
    plan = LesionPlan(rates=CHANGING if kind == "changed" else NOTHING)
    visits, axes = [], []
    for index, thickness in enumerate(slices):
        patient = simulate_patient(seed, 2, acquisition=Acquisition(slice_mm=float(thickness)), lesions=plan)
        visits.append(patient.visits[index])
        axes.append(slice_axis(visits[-1].images["FLAIR"].data))
    images = [np.stack([visit.images[name].data for name in model.contrasts]) for visit in visits]
    box = ndimage.find_objects(np.any([image.any(axis=0) for image in images], axis=0).astype(np.uint8))[0]
    images = [image[:, *box] for image in images]
    seen = lesion_probabilities(images, [model], mirroring=False, overlap=0.1, device="cpu")
    flair = list(model.contrasts).index("FLAIR")
    return {
        "fl": np.stack([image[flair] for image in images]),
        "p": np.stack(seen).astype(np.float16),
        "inst": np.stack([visit.instances.data[box] for visit in visits]),
        "axes": np.array(axes),
    }


def pair(kind: str, seed: int, slices: tuple[int, int], kept: Mapping[str, Array], model: Model) -> Pair:
    """A pair as `run` would track it."""
    found = []
    for flair, likely, axis, thickness in zip(kept["fl"], kept["p"], kept["axes"], slices, strict=True):
        probability = np.clip(likely.astype(np.float32), 0, 1)
        mask = lesion_mask(probability, model.threshold, model.min_lesion_mm3, (1, 1, 1))
        image = visit_image(flair.astype(np.float32), int(axis), thickness)
        found.append(TrackedVisit(mask, probability, float(thickness), image=image))
    before, after = kept["inst"]
    return Pair(kind, seed, slices, (found[0], found[1]), (before, after), model.threshold)


def judged(one: Pair) -> tuple[list[Place], Array, Array]:
    """Places of a pair, whether each is right, and the evidence on unchanged tissue."""
    (step,) = compare_images(one.visits, 1.0, one.threshold)
    if step is None:
        raise SystemExit(f"the images of {one.name} share too little tissue")
    before, after = (labels > 0 for labels in one.instances)
    truth = {1: after & ~before, -1: before & ~after}
    places = [place for place in step.places if not place.possible]
    right = np.array([truth[place.sign][tuple(place.voxels.T)].sum() >= TRUE_MM3 for place in places], bool)
    return places, right, step.evidence.z[step.evidence.calm & ~before & ~after]


def fit(features: Array, right: Array) -> dict[str, float]:
    """Logistic regression of right on features (N, K), by the names of `WEIGHTS`."""
    mean, spread = features.mean(axis=0), features.std(axis=0)
    scaled = np.column_stack([(features - mean) / spread, np.ones(len(features))])
    signs = np.where(right, 1, -1)

    def loss(weights: Array) -> float:
        return float(np.logaddexp(0, -signs * (scaled @ weights)).mean() + RIDGE * (weights[:-1] ** 2).sum())

    *weights, constant = minimize(loss, np.zeros(scaled.shape[1])).x
    weights = np.array(weights) / spread
    return dict(zip(WEIGHTS, [*weights.tolist(), float(constant - weights @ mean)], strict=True))


def calls(one: Pair, choice: Sensitivity | None) -> dict[str, Any]:
    """Calls and truth of a pair at a sensitivity; None: by masks alone."""
    visits = one.visits if choice else [TrackedVisit(v.mask, v.probability, v.slice_mm) for v in one.visits]
    found = track(visits, 1.0, one.threshold, TrackingSettings(sensitivity=choice or "default"))
    called = [c for c in found.changes[0] if c.change in (Change.NEW, Change.ENLARGING)]
    gone = [c for c in found.changes[0] if c.change in (Change.SHRINKING, Change.RESOLVED)]
    before, after = one.instances
    new = [n for n in np.setdiff1d(np.unique(after), np.unique(before)) if (after == n).sum() >= LARGE_MM3]
    marked = np.isin(found.instances[1], [n for c in called for n in c.current])
    hit = np.unique(after[marked])
    return {
        "pair": one.name, "kind": one.kind, "tracked": choice or "masks alone", "new or enlarging": len(called),
        "shrinking or resolved": len(gone), "large new": len(new), "found": len(np.intersect1d(new, hit)),
    }  # fmt: skip


def interval(values: Array) -> str:
    """Mean over patients, with its 95 % bootstrap interval if they are enough."""
    if np.isfinite(values).sum() < LEAST_PATIENTS:
        return f"{np.nanmean(values):.2f} (of {np.isfinite(values).sum()} patients)"
    rng = np.random.default_rng(0)
    means = np.nanmean(rng.choice(values, (SAMPLES, len(values))), axis=1)
    low, high = np.nanpercentile(means, (2.5, 97.5))
    return f"{np.nanmean(values):.2f} ({low:.2f} to {high:.2f})"


def table(rows: pd.DataFrame) -> str:
    """A Markdown table of false calls and recall, a line for each way of tracking."""
    lines = [
        "| tracked by | false new or enlarging a step | false shrinking or resolved a step | recall of large new |",
        "|---|---|---|---|",
    ]
    for name in ("masks alone", *get_args(Sensitivity)):
        own = rows[rows.tracked == name]
        quiet, changing = own[own.kind == "unchanged"], own[(own.kind == "changed") & (own["large new"] > 0)]
        false = [interval(quiet[column].to_numpy(float)) for column in ("new or enlarging", "shrinking or resolved")]
        recall = interval((changing["found"] / changing["large new"]).to_numpy(float))
        lines.append(
            f"| {name} | {' | '.join(false)} | {recall}, {changing['found'].sum()} of {changing['large new'].sum()} |"
        )
    return "\n".join(lines)


def draw(path: Path, sure: Array, right: Array, evidence: Mapping[str, Array]) -> None:
    """Reliability of confidence, and the distribution of evidence on unchanged tissue."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, middle = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    edges = np.array([0, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 1.0])
    for low, high in pairwise(edges):
        inside = (sure >= low) & (sure < high + (high == 1))
        if inside.sum() >= 5:
            left.plot(sure[inside].mean(), right[inside].mean(), "o", color="#2f6fb3")
            left.annotate(
                str(inside.sum()),
                (sure[inside].mean(), right[inside].mean()),
                fontsize=7,
                xytext=(4, -9),
                textcoords="offset points",
            )
    left.set(
        xlabel="confidence",
        ylabel="share that is right",
        xlim=(0, 1),
        ylim=(0, 1),
        title="Reliability (places of patients not fitted to)",
    )
    bins = np.linspace(-6, 6, 61)
    middle.plot(bins, np.exp(-(bins**2) / 2) / np.sqrt(2 * np.pi), color="0.3", label="standard normal")
    for name, values in evidence.items():
        middle.stairs(
            np.histogram(values, bins, density=True)[0], bins, alpha=0.6, label=f"{name}, sd {values.std():.2f}"
        )
    middle.set(
        yscale="log", ylim=(1e-5, 1), xlabel="evidence on unchanged tissue, sd", ylabel="density", title="Unit variance"
    )
    middle.legend(fontsize=6)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Fit, test, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    model = load_model(bundled_model())
    given.work.mkdir(parents=True, exist_ok=True)
    fitted = [judged(one)[:2] for one in pairs(given.work, FITTED, model)]
    features = np.array([place.features for places, _ in fitted for place in places])
    weights = fit(features, np.concatenate([right for _, right in fitted]))
    print({name: round(value, 3) for name, value in weights.items()}, "used:", WEIGHTS)
    sure, right, rows, evidence = [], [], [], {}
    for one in pairs(given.work, TESTED, model):
        places, of_places, calm = judged(one)
        sure += [confidence(place.features) for place in places]
        right.append(of_places)
        evidence[f"{one.kind}, {one.slices[0]} and {one.slices[1]} mm"] = calm
        rows += [calls(one, choice) for choice in (None, *get_args(Sensitivity))]
    given.folder.mkdir(parents=True, exist_ok=True)
    found = pd.DataFrame(rows)
    found.to_csv(given.folder / "calls.tsv", sep="\t", index=False)
    draw(given.folder / "calibration.png", np.array(sure), np.concatenate(right), evidence)
    deviations = [float(values.std()) for values in evidence.values()]
    (given.folder / "README.md").write_text(page(table(found), deviations, len(features)), encoding="utf-8")


def page(results: str, deviations: Sequence[float], places: int) -> str:
    """README.md."""
    return f"""# Evidence: what changed, judged by the images

```
python recipes/evidence_confidence.py WORK docs/results/evidence
```

Simulated patients, scanned twice by other protocols (slices of 1, 3 and 5 mm) and segmented by the bundled model. Six
unchanged and six changing ones gave the weights of confidence ({places} places); the eight and eight below were never
fitted to. What is called is compared with the true lesions; means over patients, with 95 % bootstrap intervals. A large
new lesion has {LARGE_MM3:.0f} mm3 or more. [calls.tsv](calls.tsv) has a row for each pair.

{results}

A large new lesion is found if one that is called new or enlarging shares a voxel with it. The aims at `default` were
1.5 false new or enlarging lesions a step, which is reached in the mean, and a recall of 0.8, which is missed.

Standard deviation of the evidence on unchanged tissue: {min(deviations):.2f} to {max(deviations):.2f} (1 is right).

[Real heads rescanned](rescans.md) have no false new or enlarging lesion.

![Reliability of confidence, and evidence on unchanged tissue](calibration.png)
"""


if __name__ == "__main__":
    main()
