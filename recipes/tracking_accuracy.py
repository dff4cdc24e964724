"""How well tracking names what simulated lesions do: `python recipes/tracking_accuracy.py OUT [--patients N]`.

Three kinds of masks, of patients simulated from the atlas with four visits:

- their reference masks, in which some pairs of neighbours are joined from a visit on (merged) or until one (split):
  what tracking itself gets wrong;
- those of the bundled model: what a user gets;
- those of the bundled model where nothing changes, scanned by another protocol at every visit: every change is false.

A lesion counts where it stands alone, that is where it touches no other at both visits of a step. Writes a README.md.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import cc3d
import numpy as np
import pandas as pd
from scipy import ndimage

from lesiondelta.cohort import Change
from lesiondelta.files import write_text
from lesiondelta.images import Array
from lesiondelta.inference import bundled_model, lesion_mask, lesion_probabilities, load_model
from lesiondelta.simulation import Acquisition, SimulatedPatient, simulate_patient
from lesiondelta.simulation.evolution import Rates
from lesiondelta.tracking import TrackedVisit, track

FIRST_SEED, UNCHANGED_SEED = 8000, 8100
RATES = Rates(new=0.08, enlarging=0.08, shrinking=0.08, resolved=0.05, quiet=0)
NOTHING = Rates(new=0, enlarging=0, shrinking=0, resolved=0, quiet=1)
VISITS = 4
NEAR_VOXELS = 8.0
JOINED = 3  # pairs a patient
MISSED = "not seen"
COLUMNS = [str(change) for change in Change]


def main() -> None:
    """Simulate, track, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--patients", type=int, default=6, help="of each kind")
    given = parser.parse_args()
    perfect, predicted, false = [], [], []
    for seed in range(FIRST_SEED, FIRST_SEED + given.patients):
        patient = simulate_patient(seed, VISITS, acquisition=Acquisition(sharp_share=1.0), rates=RATES)
        truth = [visit.instances.data for visit in patient.visits]
        joined, named = with_joined(np.random.default_rng(seed), truth, patient)
        perfect += compared(truth, named, [from_mask(mask) for mask in joined], 0.5)
        model_visits, threshold = segmented(patient)
        predicted += compared(truth, list(map(dict, patient.changes)), model_visits, threshold)
        print(f"{seed}: {len(perfect)} and {len(predicted)} steps of lesions", flush=True)
    for seed in range(UNCHANGED_SEED, UNCHANGED_SEED + given.patients):
        patient = simulate_patient(seed, VISITS, acquisition=Acquisition(sharp_share=1.0), rates=NOTHING)
        visits, threshold = segmented(patient)
        steps = [one.change for step in track(visits, 1.0, threshold).changes for one in step]
        false.append({change: steps.count(Change(change)) / (VISITS - 1) for change in COLUMNS})
        print(seed, false[-1], flush=True)
    write_text(given.out / "README.md", page(perfect, predicted, false))


def with_joined(
    rng: np.random.Generator, truth: Sequence[Array], patient: SimulatedPatient
) -> tuple[list[Array], list[dict[int, str]]]:
    """The masks with some neighbours joined by a bridge, and the changes by their new names."""
    masks, named = [labels > 0 for labels in truth], [dict(step) for step in patient.changes]
    pairs = list(neighbours(truth))
    for number, (one, other) in enumerate(rng.permutation(pairs)[:JOINED] if pairs else []):
        step = int(rng.integers(VISITS - 1))
        merges = number % 2 == 0
        for index in range(step + 1, VISITS) if merges else range(step + 1):
            masks[index] |= bridge(truth[index] == one, truth[index] == other)
        for index in range(VISITS - 1):
            for lesion in (one, other):
                named[index][lesion] = "stable" if index != step else "merged" if merges else "split"
    return masks, named


def neighbours(truth: Sequence[Array]) -> Iterator[tuple[int, int]]:
    """Pairs of lesions, each in one pair at most, that never change, stand alone and are near each other."""
    numbers = [n for n in np.unique(truth[0][truth[0] > 0]).tolist() if all((t == n).sum() > 5 for t in truth)]
    still = [n for n in numbers if len({int((t == n).sum()) for t in truth}) == 1 and all(alone(t, n) for t in truth)]
    used: set[int] = set()
    for one in still:
        apart = ndimage.distance_transform_edt(truth[0] != one)
        near = [n for n in still if n != one and 3 < apart[truth[0] == n].min() <= NEAR_VOXELS and not {n, one} & used]
        if near:
            used |= {one, near[0]}
            yield one, near[0]


def bridge(one: Array, other: Array) -> Array:
    """A tube of 3 voxels between the nearest voxels of two lesions."""
    a, b = np.argwhere(one), np.argwhere(other)
    apart = np.linalg.norm(a[:, None] - b[None], axis=2)
    first, second = np.unravel_index(apart.argmin(), apart.shape)
    tube = np.zeros(one.shape, bool)
    for share in np.linspace(0, 1, 40):
        tube[tuple(np.rint(a[first] * (1 - share) + b[second] * share).astype(int))] = True
    wide: Array = ndimage.binary_dilation(tube)
    return wide


def from_mask(mask: Array) -> TrackedVisit:
    """A visit whose probabilities rise evenly through the mask's edge."""
    inside, outside = (ndimage.distance_transform_edt(side) for side in (mask, ~mask))
    return TrackedVisit(mask, 1 / (1 + np.exp(2 * (outside - inside))))


def segmented(patient: SimulatedPatient) -> tuple[list[TrackedVisit], float]:
    """The bundled model's visits, and its threshold."""
    model = load_model(bundled_model())
    images = [np.stack([visit.images[name].data for name in model.contrasts]) for visit in patient.visits]
    seen = lesion_probabilities(images, [model], mirroring=False, device="cpu")
    masks = [lesion_mask(p, model.threshold, model.min_lesion_mm3, (1, 1, 1)) for p in seen]
    return [TrackedVisit(mask, p) for mask, p in zip(masks, seen, strict=True)], model.threshold


def compared(
    truth: Sequence[Array], named: Sequence[dict[int, str]], visits: Sequence[TrackedVisit], threshold: float
) -> list[tuple[str, str]]:
    """What each true lesion does in each step, and what tracking says of the lesion at its place."""
    found = track(visits, 1.0, threshold)
    rows = []
    for index, step in enumerate(named):
        of = {("prior", n): c.change for c in found.changes[index] for n in c.prior}
        of |= {("current", n): c.change for c in found.changes[index] for n in c.current}
        for lesion, change in step.items():
            places = [truth[index + k] == lesion for k in (0, 1)]
            if not all(alone(truth[index + k], lesion) for k in (0, 1)):
                continue
            sides = [("current", index + 1, places[1]), ("prior", index, places[0])]
            seen = [
                (side, n)
                for side, visit, place in sides
                for n in np.unique(found.instances[visit][place]).tolist()
                if n
            ]
            rows.append((change, str(of[seen[0]]) if seen else MISSED))
    return rows


def alone(labels: Array, lesion: int) -> bool:
    """Whether a lesion touches no other one."""
    place = labels == lesion
    if not place.any():
        return True
    box = tuple(slice(max(s.start - 2, 0), s.stop + 2) for s in ndimage.find_objects(place.astype(np.uint8))[0])
    pieces = cc3d.connected_components(labels[box] > 0, connectivity=26)
    return len(np.unique(labels[box][np.isin(pieces, np.unique(pieces[place[box]]))])) == 1


def page(
    perfect: Sequence[tuple[str, str]], predicted: Sequence[tuple[str, str]], false: Sequence[dict[str, float]]
) -> str:
    """The results in words and tables."""
    rates = pd.DataFrame(false)
    return PAGE.format(
        perfect=confusion(perfect),
        predicted=confusion(predicted),
        false=" | ".join(f"{rates[change].mean():.1f}" for change in COLUMNS),
        columns=" | ".join(COLUMNS),
        rule="|".join(["---"] * len(COLUMNS)),
        patients=len(false),
    )


def confusion(rows: Sequence[tuple[str, str]]) -> str:
    """One line for each true change: how many were called what, and the share that is right."""
    frame = pd.DataFrame(rows, columns=["true", "called"])
    lines = []
    for change in COLUMNS:
        called = frame[frame.true == change].called.value_counts()
        total = int(called.sum())
        if total:
            counts = " | ".join(str(int(called.get(name, 0))) for name in (*COLUMNS, MISSED))
            lines.append(f"| {change} | {counts} | {called.get(change, 0) / total:.0%} of {total} |")
    return "\n".join(lines)


PAGE = """# Tracking of simulated lesions

`python recipes/tracking_accuracy.py docs/results/tracking`: {patients} patients simulated from the atlas with four
visits (1 mm voxels, rates of change raised), every lesion that stands alone, in every step from visit to visit. Rows
are what the simulation did, columns what tracking said ([decision 080](../../decisions/080-tracking.md)).

Reference masks, with some neighbours joined from a visit on (merged) or until one (split):

| | {columns} | not seen | right |
|---|{rule}|---|---|
{perfect}

Masks of the bundled model. What it does not see, or sees at one visit alone, no tracking can name; `stable` is also the
name of changes that are within the measurement error:

| | {columns} | not seen | right |
|---|{rule}|---|---|
{predicted}

Masks of the bundled model of {patients} patients in whom nothing changes, scanned by another protocol at every visit:
lesions a step, mean over patients; all but `stable` are false.

| {columns} |
|{rule}|
| {false} |
"""


if __name__ == "__main__":
    main()
