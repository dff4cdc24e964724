"""The page docs/results/bundled-model: all that `bundled_scores.py` has measured; `bundled_card.py` writes it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bundled_left_out import AFTER, FLAIR_ONLY, OURS, OWN, SITES, TWIN, is_trained, kinds
from bundled_model import (
    FIRST_GAMMA,
    PRESET,
    RECIPE,
    SELF_PRIOR_SHARE,
    STAGES,
    THIRDS,
    TUNED_SHARE,
    TUNING,
    history,
)
from bundled_patients import AS_IT_IS, GUISES, RATES, TABRIZ_AS_IT_IS, TABRIZ_GUISES
from bundled_scores import HEADS, ROBUST_PATIENTS
from open_patients import TABRIZ

from lesiondelta.cohort import Change
from lesiondelta.evaluation.calibration import ALIKE
from lesiondelta.evaluation.statistics import difference, mean_interval
from lesiondelta.inference.model import Model
from lesiondelta.nnunet.presets import Preset

NAMES = {OURS: "difference weighting", TWIN: "single-visit twin"}
VOLUME = "volume, of the experts'"
MEASURED: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "DSC": lambda row: row["dsc"],
    "lesion F1": lambda row: row["lesion_f1"],
    "touching": lambda row: row["touching"],
    "lesion precision": lambda row: row["lesion_precision"],
    VOLUME: lambda row: row["prediction_ml"] / row["reference_ml"],
}
Rows = Sequence[Mapping[str, Any]]


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Of Markdown; numbers are given as text."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def interval(values: Sequence[float] | pd.Series, digits: int = 2) -> str:
    """A mean over patients with its interval; without one where they are too few."""
    known = np.asarray(values, float)
    if len(known) < 6:
        return f"{known.mean():.{digits}f}"
    found = mean_interval(known)
    return f"{found.mean:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def page(work: Path, scores: Mapping[str, Any], model: Model) -> str:
    """The whole page."""
    kwargs = model.description.network["kwargs"]
    made = MADE.format(
        name=model.name, features="-".join(map(str, kwargs["features_per_stage"])), gammas=gammas(model),
        first_gamma=FIRST_GAMMA, guises=len(GUISES), tabriz_guises=len(TABRIZ_GUISES), own=AS_IT_IS,
        tabriz_own=TABRIZ_AS_IT_IS, foreground=RECIPE.foreground_share, patch=side(TUNING),
        window=side(PRESET), share=SELF_PRIOR_SHARE, tuned=TUNED_SHARE, budget=budget_table(work),
        parts="; ".join(", ".join(labels) for labels in THIRDS.values()), point=model.description, alike=ALIKE,
        twin="" if TWIN in kinds(work) else NO_TWIN,
    )  # fmt: skip
    sections = [made]
    for name, write in SECTIONS.items():
        missing = f"## {name}\n\nNot measured for this version.\n"
        sections.append(write(scores[name]) if scores[name] is not None else missing)
    return "\n".join([*sections, END])


def side(preset: Preset) -> int:
    """Of a cubic patch, in voxels."""
    return preset.patch[0] if preset.patch else 0


def gammas(model: Model) -> str:
    """Mean gamma of difference weighting at every stage, from the finest on."""
    return ", ".join(f"{float(weighting.norm.weight.detach().mean()):.3f}" for weighting in model.network.fusion)


def budget_table(work: Path) -> str:
    """Every stage that any of the weights went through."""
    order = [stage.name for stage in STAGES]
    passed = [
        row
        for stage in STAGES
        if not stage.of_atlas and is_trained(work, stage.name)
        for row in history(work, stage.name)
    ]
    rows = {
        (
            row["stage"], row["method"], row["patients"], row["start"], f"{row['learning_rate']:g}",
            f"{row['iterations']} x {row['batch']} x {row['patch']}^3", row["minutes"], short(row["commit"]),
        ): None
        for row in sorted(passed, key=lambda row: order.index(row["stage"]))
    }  # fmt: skip
    header = (
        "stage", "method", "patients", "starts from", "learning rate", "iterations x batch x patch", "minutes",
        "commit",
    )  # fmt: skip
    return table(header, list(rows))


def short(commit: str) -> str:
    """A commit's first digits, and whether files differed from it."""
    return commit[:7] + ("-dirty" if commit.endswith("-dirty") else "")


def left_out(found: Mapping[str, Any]) -> str:
    """Per patient, what is seen, and operating point."""
    rows = [
        (
            row["patient"], NAMES[row["model"]], row["visits"], row["point"], f"{row['dsc']:.3f}",
            f"{row['hd95_mm']:.1f}", f"{row['lesion_f1']:.3f}", f"{row['lesion_precision']:.2f}",
            f"{row['reference_ml']:.1f}", f"{row['prediction_ml']:.1f}",
        )
        for row in sorted(found["rows"], key=lambda row: (row["patient"], row["model"], row["visits"]))
    ]  # fmt: skip
    header = (
        "patient", "model", "visits", "operating point", "DSC", "HD95 mm", "lesion F1", "lesion precision",
        "reference ml", "prediction ml",
    )  # fmt: skip
    return LEFT_OUT_TEXT.format(means=left_out_means(found["rows"]), table=table(header, rows))


def left_out_means(rows: Rows) -> str:
    """Means over each site's patients at the operating point that the others chose."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["point"] == "of the others" and row["visits"] != AFTER:
            site = SITES[row["patient"]].capitalize()
            groups.setdefault((site, NAMES[row["model"]], row["visits"]), []).append(row)
    lines = [(*about, len(group), *measured(group).values()) for about, group in sorted(groups.items())]
    dsc = {
        (row["patient"], row["visits"]): row["dsc"]
        for group in groups.values()
        for row in group
        if row["model"] == OURS
    }
    lost = {label: dsc[label, OWN] - dsc[label, FLAIR_ONLY] for label in SITES}
    most = max(lost, key=lambda label: lost[label])
    return (
        f"{table(('site', 'model', 'visits', 'patients', *MEASURED), lines)}\n\nWithout its T1w a patient loses "
        f"{interval(list(lost.values()), 3)} of DSC, at most {lost[most]:.3f} ({most})."
    )


def measured(rows: Rows) -> dict[str, str]:
    """What is said of several patients: means and intervals."""
    return {name: interval([value(row) for row in rows]) for name, value in MEASURED.items()}


def raw_means(rows: Rows) -> dict[tuple[str, str], dict[str, str]]:
    """By model and images."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if "dsc" in row:
            groups.setdefault((row["model"], row["images"]), []).append(row)
    return {about: measured(group) for about, group in groups.items()}


def raw(rows: Rows) -> str:
    """Tabriz's raw heads through `run`."""
    lines = []
    for row in rows:
        values = [f"{value(row):.2f}" if "dsc" in row else "refused" for value in MEASURED.values()]
        marked = f"{row['not_ms_marked']:.0%} of {row['not_ms_ml']:.1f} ml" if "not_ms_marked" in row else ""
        lines.append((row["patient"], row["model"], row["images"], *values, marked))
    means = [(*about, *found.values()) for about, found in raw_means(rows).items()]
    return RAW.format(
        means=table(("model", "images", *MEASURED), means),
        table=table(("patient", "model", "images", *MEASURED, "not MS, marked"), lines),
        patients=len(TABRIZ),
    )


def sub_12(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The clinical pair against what experts marked as changed."""
    changed, thresholds, tracked = [], [], []
    for kind, counts in found.items():
        for sign, name in (("gain", "new or enlarged"), ("loss", "shrunk or gone")):
            of = counts[sign]
            changed.append(
                (NAMES[kind], name, f"{of['found']} of {of['experts']}", of["ours"], of["right"], of["false"])
            )
        for row in counts["by_threshold"]:
            right, false = (row["gain"][count] + row["loss"][count] for count in ("found", "false"))
            millilitres = f"{sum(row['lesion_ml']) / 2:.1f}"
            thresholds.append((NAMES[kind], f"{row['threshold']:g}", millilitres, right, false))
        tracked.append((NAMES[kind], *(counts["tracked"].get(str(change), 0) for change in Change)))
    ours = found[OURS]
    places = ours["brighter"] + ours["darker"]
    return SUB_12.format(
        ours=ours,
        places=places,
        changes=table(("model", "change", "experts' found", "ours", "right", "false"), changed),
        thresholds=table(("model", "threshold", "ml a visit", f"experts' found, of {places}", "false"), thresholds),
        tracked=table(("model", *map(str, Change)), tracked),
    )


def rescans(rows: Rows) -> str:
    """False new and gone lesions, patient by patient, their means, and the difference from the twin."""
    lines, false = [], dict[str, list[int]]()
    for row in rows:
        name = NAMES[row["model"]]
        lines.append((name, row["patient"], row["false_new"], row["false_gone"], f"{row['dsc']:.3f}"))
        false.setdefault(row["model"], []).append(row["false_new"] + row["false_gone"])
    said = "; ".join(f"{NAMES[kind]} {interval(counts, 1)}" for kind, counts in false.items())
    if TWIN in false:
        found = difference(OURS, TWIN, np.array(false[OURS]), np.array(false[TWIN]))
        said += (
            f"; ours minus the twin {found.interval.mean:+.1f} (95 % interval {found.interval.low:+.1f} to "
            f"{found.interval.high:+.1f}, Wilcoxon p = {found.p:.3f})"
        )
    header = ("model", "patient", "falsely new", "falsely gone", "DSC")
    return RESCANS.format(said=said, table=table(header, sorted(lines)))


def means(rows: Rows, by: str) -> str:
    """Mean Dice and lesion F1 of the models, in the order of the rows."""
    groups = pd.DataFrame(rows).groupby([by, "model"], sort=False)
    lines = [
        (name, NAMES[str(kind)], f"{group.dsc.mean():.3f}", f"{group.lesion_f1.mean():.3f}")
        for (name, kind), group in groups
    ]
    return table((by, "model", "DSC", "lesion F1"), lines)


def unseen(rows: Rows) -> str:
    """Brains of label maps that no training saw."""
    columns = [f"{change}{ending}" for change in ("new", "gone") for ending in ("", "_found", "_false")]
    sums = pd.DataFrame(rows).groupby("model")[columns].sum()
    counts = [(NAMES[str(kind)], *line) for kind, line in zip(sums.index, sums.to_numpy(), strict=True)]
    header = ("model", "new", "found", "false", "gone", "found", "false")
    return UNSEEN.format(rates=RATES, means=means(rows, "patient"), changes=table(header, counts))


def heads(rows: Rows) -> str:
    """Whole simulated heads through `run`."""
    ways: dict[str, dict[str, bool]] = {}
    for row in rows:
        refused = ways.setdefault(row["brain extraction"], {})
        refused[row["visit"]] = refused.get(row["visit"], False) or "dsc" not in row
    said = ", ".join(f"{sum(refused.values())} of {len(refused)} ({way})" for way, refused in ways.items())
    return HEADS_TEXT.format(count=HEADS, refused=said, means=means(rows, "brain extraction"))


def rounding(rows: Rows) -> str:
    """What half precision changes."""
    said = " and ".join(f"{row['differ']} of {row['voxels']} (sub-{row['patient']})" for row in rows)
    return ROUNDING.format(said=said)


def seconds(found: Mapping[str, float]) -> str:
    """The time of a pair."""
    twin = f"; the twin {found[TWIN]:.0f} s" if TWIN in found else ""
    return SECONDS.format(found=found, ours=found[OURS], twin=twin)


MADE = """# The bundled model, {name}: all scores

[The card](../../../src/lesiondelta/models/bundled/MODEL_CARD.md) is the summary; [earlier
versions](../bundled-model-versions.md) explain the recipe. Made by `recipes/bundled_model.py`, scored by
`recipes/bundled_scores.py`, written by `recipes/bundled_card.py`.

## How it was made
- Network: nnU-Net's plain U-Net with {features} features, difference weighting at every stage. Its gamma, which says
  how much of the difference is made, is {gammas} on average, from the finest stage to the coarsest.
- First a single-visit nnU-Net on patients simulated from the MNI152 atlas; then difference weighting is added (gamma
  {first_gamma}, beta 0) and all weights learn from pairs: of simulated patients first, then of pairs that are drawn
  from the label maps of 25 people while the network trains, and last of these and the nine open labelled patients.
  A share of {share} of the pairs are self-priors, so that patients with one visit are served. In a share of 0.15 of
  the visits there is no T1w, in 0.05 no FLAIR.
- A patient of Ljubljana is listed as it is ({own} times) and in {guises} guises, one of Tabriz {tabriz_own} times and
  in {tabriz_guises}: with a second visit in which lesions vanish or are added and contrast, noise, brain mask and
  slices differ; most are deformed into another brain. The shapes of added lesions come from 23 other consensus masks of
  Ljubljana. Near the ventricles of those five patients of Tabriz whose experts do not say what is bright without
  being MS, only what they drew counts; the rest of that ring is left out of the loss.
- {foreground} of the patches are centred on a lesion; patches of {patch}^3, windows of {window}^3; AdamW with
  polynomial decay, Dice + cross-entropy with deep supervision, nnU-Net's augmentation.
- What ships is the mean of the weights of stage `pairs` (share {tuned}) and of those it started from; so are the stages
  `-without-`. It keeps more of what simulated patients taught (Wortsman et al., CVPR 2022).
- What the mask means: experts of Tabriz drew about a voxel wider than those of Ljubljana. There is no site channel: the
  mask lies between the two, as the temperature and threshold that nine patients choose together put it.{twin}

{budget}

Temperature {point.temperature:g}, threshold {point.threshold:g} and smallest lesion {point.min_lesion_mm3:g} mm3 are
chosen on the nine open patients, each segmented by the model that had not seen it: the temperature of the highest
likelihood, then, of the points whose mean of Dice and lesion F1 is within {alike:g} of the best, the one nearest to a
threshold of 0.5, then the smallest size. Both sites count alike in that mean. By patient, the seven of Tabriz alone
would choose 0.8 and 8 mm3, at which the heavy patient of Ljubljana loses a third of its lesions; the rule by site was
made when that had been seen.

The patients are left out in three parts ({parts}): each is scored by a model that saw none of its part.
"""

NO_TWIN = """
- The single-visit twin (the same base, patients and numbers of iterations) is not trained yet for this version."""

LEFT_OUT_TEXT = """## Patients left out, on the images that the training takes

Lesions under 3 mm3 leave both sides. Operating points: none chosen (0.5), the one that ships (of all, thus chosen on
the scored patient, too), and the one that the eight other patients choose; the temperature is that of all. A patient
without T1w keeps the brain mask that was made with it. Means over patients at the point of the others, with 95 %
intervals where there are six patients or more:

{means}

{table}
"""

RAW = """## Raw heads of Tabriz through `run`

1.5 T, slices of 6 to 8 mm, scored on the FLAIR's own grid, at the operating point that the other patients chose; with
FLAIR alone, brain and all else come from the FLAIR. Version 8 learned from Ljubljana only. `touching`: of the lesions
that we name, the share that touches one of the experts'; `lesion precision` asks for an overlap (IoU over 0.1). Means
over {patients} patients with 95 % intervals, then each patient:

{means}

{table}
"""

SUB_12 = """## sub-12

Raw clinical pair (slices of 3 mm, whole head), by `lesiondelta run`; never trained on, but the rates of change, the
share of unchanged patients and the rule of the operating point were chosen with an eye on it (decision 051). It is
compared with what experts marked as changed ({ours[brighter]} places became brighter, {ours[darker]} darker). A change
is a connected place of 3 mm3 or more where the masks of the visits differ, edges included; it is right if it touches a
place of the experts' of the right sign, and false if it touches none. What the images themselves say of these changes
is on [another page](../sub-12-changes/README.md).

{changes}

Of the places, {ours[change_found]} of {places} are touched by a change of ours of either sign. Ours are masks of
{ours[lesion_ml][0]:.1f} and {ours[lesion_ml][1]:.1f} ml; {ours[brighter_on_lesion_of_second_visit]} of the brighter
places touch a lesion of the second visit, {ours[darker_on_lesion_of_first_visit]} of the darker ones one of the first.
Both signs together, of probabilities cut on the FLAIR's own grid:

{thresholds}

What `run` calls the lesions of the pair:

{tracked}
"""

RESCANS = """## Unchanged patients scanned twice

Simulated on the brains of other people of Ljubljana (label maps), which no training saw, with different protocols:
lesions that are falsely new or gone by the masks alone, a patient: {said}.

{table}
"""

UNSEEN = """## Simulated patients that change

The same brains with lesions that change, scanned as patients of the training are ({rates.new:.0%} of the lesions new,
{rates.resolved:.0%} resolved); new and gone lesions are found by a lesion that the masks say is new or gone too (IoU
over 0.1):

{means}

{changes}
"""

ROBUSTNESS = f"""## One difficulty at a time

Means over {ROBUST_PATIENTS} of these brains and both visits. Where slices are thick, motion, brain mask and contrast of
the second visit are drawn anew as well: these rows do not rank where they are close. In the last rows, the first visit
is that of the first row, and the second from another scanner with its own protocol.

{{table}}
"""

HEADS_TEXT = """## Whole simulated heads through `run`

{count} patient with two visits: with brain extraction (auto) and without (skip), which shows what a forgotten stripping
does. Means of the visits that `run` segmented; without a mask: {refused}.

{means}
"""

SECONDS = """## Time

A pair of whole brains ({found[brain_ml]:.0f} ml at 1 mm) takes {ours:.0f} s with {found[threads]:.0f} CPU
threads{twin}.
"""

ROUNDING = """## Half precision

Weights are rounded to half precision before operating points are chosen and anything is scored, so the file that ships
holds exactly the weights that were scored. The rounding itself makes masks of the open patients (whole images, own
visit alone, by the model that ships, which learned from both) differ in {said} voxels.
"""

END = """Simulated patients have procedural lesion shapes and the simulator's contrast: easier and other than real ones.
Pictures of the errors lie beside this page.
"""

SECTIONS: Mapping[str, Callable[[Any], str]] = {
    "left-out": left_out,
    "raw": raw,
    "sub-12": sub_12,
    "rescans": rescans,
    "unseen": unseen,
    "robustness": lambda rows: ROBUSTNESS.format(table=means(rows, "condition")),
    "heads": heads,
    "rounding": rounding,
    "seconds": seconds,
}
