"""The page of `tracking_accuracy.py`: tables with patients as the unit, and a picture."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lesiondelta.cohort import Change
from lesiondelta.evaluation.statistics import LEAST_PATIENTS, mean_interval
from lesiondelta.files import write_text
from lesiondelta.images import Array
from lesiondelta.outputs.lesions import COLOURS

CHANGES = [str(change) for change in Change if change is not Change.POSSIBLE]
QUIET = ("stable", "within error")
CALLED = [*CHANGES, "within error", "not seen"]
MASKS_ALONE, WITH_IMAGES = "bundled model, masks alone", "bundled model, images"
SHOWN = 4  # examples of each change


@dataclass(frozen=True, eq=False)
class Example:
    """A true change and its call; (x, y) bool where lesions truly are and where masks have them, at both visits."""

    true: str
    called: str
    where: Sequence[Array]
    found: Sequence[Array]


def write_page(out: Path, rows: pd.DataFrame, examples: Sequence[Example], seeds: tuple[int, int]) -> None:
    """Write README.md, counts.tsv (a row a patient, kind of mask, true change and call) and examples.png."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    out.mkdir(parents=True, exist_ok=True)
    by = ["cohort", "masks", "patient", "side", "true", "called", "without"]
    rows.groupby(by).size().rename("lesions").reset_index().to_csv(out / "counts.tsv", sep="\t", index=False)
    changing, unchanged = (rows[rows.cohort == cohort] for cohort in ("changing", "unchanged"))
    kinds = list(changing.masks.unique())
    page = PAGE.format(
        commit=commit.stdout.strip(),
        first=seeds[0],
        last=changing[changing.masks == kinds[0]].patient.max(),
        patients=changing[changing.masks == kinds[0]].patient.nunique(),
        segmented=unchanged[unchanged.masks == WITH_IMAGES].patient.nunique(),
        segmented_seed=seeds[1],
        kinds=" | ".join(kinds),
        rule="|".join(["---"] * len(kinds)),
        recall="\n".join(f"| {change} | " + _shares(changing, kinds, "true", change) + " |" for change in CHANGES),
        precision="\n".join(f"| {change} | " + _shares(changing, kinds, "called", change) + " |" for change in CHANGES),
        confusions="\n\n".join(_confusion(changing, kind) for kind in kinds),
        false="\n".join(_false(unchanged[unchanged.masks == kind], kind) for kind in unchanged.masks.unique()),
        effect="\n".join(_effect(changing, unchanged, kind) for kind in kinds),
    )
    write_text(out / "README.md", page)
    draw(out / "examples.png", examples)


def _right(rows: pd.DataFrame, column: str = "called") -> pd.Series:
    """Whether each row's call is right; a change within the measurement error is called stable."""
    return rows[column].replace("within error", "stable") == rows.true


def interval(values: pd.Series, form: str) -> str:
    """Mean over patients (95 % interval)."""
    known = values.dropna()
    if len(known) < LEAST_PATIENTS:
        return f"{format(known.mean(), form)} (of {len(known)} patients)" if len(known) else "-"
    found = mean_interval(known.to_numpy(float))
    return f"{format(found.mean, form)} ({format(found.low, form)} to {format(found.high, form)})"


def _shares(rows: pd.DataFrame, kinds: Sequence[str], side: str, change: str) -> str:
    """Of the lesions of which `change` is true, or called, the share that is right: by kind of mask."""
    named = rows[side].replace("within error", "stable") == change
    part = rows[(rows.side == side) & named]
    found = []
    for kind in kinds:
        own = part[part.masks == kind]
        of_patient = _right(own).groupby(own.patient).mean()
        found.append(f"{interval(of_patient, '.2f')}, {len(own)}" if len(own) else "-")
    return " | ".join(found)


def _confusion(rows: pd.DataFrame, kind: str) -> str:
    """Counts: a line a true change, a column a call."""
    part = rows[(rows.side == "true") & (rows.masks == kind)]
    counts = pd.crosstab(part.true, part.called).reindex(index=CHANGES, columns=CALLED, fill_value=0)
    lines = [
        f"| {change} | " + " | ".join(str(n) for n in line) + " |"
        for change, line in zip(CHANGES, counts.to_numpy(), strict=True)
    ]
    head = f"| {kind} | " + " | ".join(CALLED) + " |"
    return "\n".join([head, "|---" * (len(CALLED) + 1) + "|", *lines])


def _per_step(rows: pd.DataFrame, wrong: pd.Series) -> pd.Series:
    """Mean number a step of each patient's."""
    counted: pd.Series = wrong.groupby(rows.patient).sum() / rows.groupby("patient").step.nunique()
    return counted


def _false(unchanged: pd.DataFrame, kind: str) -> str:
    """What tracking calls changed where nothing is, a step; and how often the measurement error covers a difference."""
    rows = unchanged[unchanged.side == "called"]
    every = _per_step(rows, rows.called == rows.called).mean()
    false = interval(_per_step(rows, ~rows.called.isin(QUIET)), ".2f")
    each = " | ".join(
        f"{_per_step(rows, rows.called == change).mean():.2f}" for change in CHANGES if change != "stable"
    )
    differs = rows.dropna(subset="inside")
    inside = interval(differs.inside.astype(float).groupby(differs.patient).mean(), ".3f")
    return f"| {kind} | {rows.patient.nunique()} | {every:.1f} | {false} | {each} | {inside} |"


def _effect(changing: pd.DataFrame, unchanged: pd.DataFrame, kind: str) -> str:
    """Changes of size found, and false ones, with and without the measurement error."""
    sized = changing[
        (changing.masks == kind) & (changing.side == "true") & changing.true.isin(["enlarging", "shrinking"])
    ]
    still = unchanged[(unchanged.masks == kind) & (unchanged.side == "called")]
    found = [interval(_right(sized, column).groupby(sized.patient).mean(), ".2f") for column in ("called", "without")]
    false = [interval(_per_step(still, ~still[column].isin(QUIET)), ".2f") for column in ("called", "without")]
    return f"| {kind} | " + " | ".join(found + false) + " |"


def draw(path: Path, examples: Sequence[Example]) -> None:
    """A row a true change, examples drawn at random: prior and current, truth filled, masks outlined by their call."""
    rng = np.random.default_rng(0)
    figure = Figure(figsize=(2.1 * 2 * SHOWN, 2.2 * len(CHANGES)), layout="constrained", dpi=70)
    for line, change in zip(figure.subplots(len(CHANGES), 2 * SHOWN), CHANGES, strict=True):
        of_change = [example for example in examples if example.true == change]
        chosen = [of_change[index] for index in rng.permutation(len(of_change))[:SHOWN]]
        for place, axes in enumerate(line):
            axes.set(xticks=[], yticks=[])
            if place // 2 < len(chosen):
                _panel(axes, chosen[place // 2], place % 2)
        line[0].set_ylabel(change, fontsize=14)
    figure.savefig(path, facecolor="white")


def _panel(axes: Axes, example: Example, visit: int) -> None:
    colour = COLOURS.get(Change(example.called), "black") if example.called in CHANGES else "black"
    axes.imshow(example.where[visit].T, cmap="Greys", vmin=0, vmax=3, origin="lower")
    if example.found[visit].any():
        axes.contour(example.found[visit].T, [0.5], colors=colour, linewidths=2)
    axes.set_title(f"called {example.called}" if visit else "prior", fontsize=11, loc="left")


PAGE = """# Tracking of simulated lesions

```
python recipes/tracking_accuracy.py docs/results/tracking
```

{patients} patients simulated from the atlas (seeds {first} to {last}; three, four or five visits; 1 mm voxels; rates of
change raised), and {segmented} others for the bundled model (from seed {segmented_seed}), at commit {commit}. The truth
is the definition ([decision 080](../../decisions/080-tracking.md)) applied to exact volumes and pieces: over 30 % of
the smaller volume is enlarging or shrinking. Some neighbours are joined by a bridge from a visit on, or until
one. Each lesion in each step from a visit to the next counts; a call belongs to the truth with which it shares
most voxels. Means are over patients, with 95 % bootstrap intervals. [counts.tsv](counts.tsv) has a row for each
patient, kind of mask, true change and call.

The masks that are tracked:
- **reference**: the true ones;
- **rescanned**: the true ones on the grid of another protocol at every visit (slices of 1 to 5 mm, tilted, some with
  gaps) and back, with a registration error of up to 0.5 mm. Lesions keep their volumes as well as voxels allow, which
  is kinder than a scanner is;
- **rescanned, noisy outlines**: these with the outline of every lesion moved by 0.4 mm here and there, and all those of
  a visit by 0.2 mm in one direction (standard deviations); the probabilities are right about that.

  Of the last two, pieces under 3 mm3 are left out, as segmentation leaves them out;
- **bundled model**: its masks of {segmented} other patients with two visits, one with slices of 1 mm and one of 3 mm,
  windows that overlap by a tenth; tracked by the masks alone, as the kinds above, and with the images, as `run` does.

## Right calls

Recall: of the lesions of which a change is true, the share that is called so; and how many there are.

| | {kinds} |
|---|{rule}|
{recall}

Precision: of the lesions of which a change is called, the share of which it is true; and how many there are.

| | {kinds} |
|---|{rule}|
{precision}

What is true (rows) and what it is called. `within error` is called stable because the measurement error allows for the
difference.

{confusions}

## False changes where nothing changes

Each patient's first visit, tracked as if it were all of them; the bundled model's patients are the same ones without
change. Numbers are lesions a step; `inside` is the share of lesions, one before and one now, whose difference in volume
the measurement error covers: 0.95 is what it claims.

| | patients | lesions | false changes | new | enlarging | shrinking | resolved | inside |
|---|---|---|---|---|---|---|---|---|
{false}

## What the measurement error is for

Recall of enlarging and shrinking lesions together, and false changes a step where nothing changes, with the measurement
error and without it (`error_sd` 0):

| | recall with | without | false changes with | without |
|---|---|---|---|---|
{effect}

## What it shows

- On exact masks tracking does what its definition says; what it misses are changes that voxels alone might make,
  and a few lesions that touch others.
- Between protocols, most new and resolved lesions of exact masks are found, and false ones are added: small ones that a
  thick slice does not show. Those smaller than a ball as wide as the slices, where these are thicker than the other
  visit's by half or more, are called stable for that (decision 080).
- The measurement error trades: it removes most false enlarging and shrinking lesions, and with outlines that are
  uncertain nearly all true ones too. On exact masks it is larger than need be (`inside`), since the boundary's part
  lets a whole outline move as one; on the bundled model's it is a little larger than need be. Rescans as they are
  made here keep volumes, so that they cannot show it to be too small.
- With slices of 1 mm at one visit and of 3 mm at the other, the images find more new lesions than the bundled model's
  masks, nearly all of them rightly, and take away the lesions that only seem to be resolved, since thick slices lose or
  shrink them. Growth stays hard to see: what the masks miss at both visits (`not seen`) nothing follows.

## Examples

![Four lesions of each true change, drawn at random](examples.png)

Rescanned masks with noisy outlines; grey is the truth, the line the mask, in the colour that the report gives to what
tracking calls it (black: not seen, or within the error). Each pair is the prior and the current visit, in one axial
slice; what else is in view has the same colour, whatever it is called.
"""
