"""Write the model that `bundled_model.py` trained into the package, with its card; draw the pictures of its scores.

    python recipes/bundled_card.py WORK [--data DIR] [--threads N]

Scores are those that `bundled_scores.py` has measured; of the others the card says that they are missing.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from bundled_model import (
    BUNDLED,
    FIRST_GAMMA,
    PRESET,
    RECIPE,
    REPOSITORY,
    SELF_PRIOR_SHARE,
    SHIPPED,
    STAGES,
    TUNED_SHARE,
    arguments,
    history,
)
from bundled_patients import AS_IT_IS, GUISES, RATES
from bundled_pictures import draw_left_out, draw_reliability, draw_sub_12
from bundled_scores import HEADS, OURS, PARTS, ROBUST_PATIENTS, TWIN, kept_scores, run_folder
from open_patients import LJUBLJANA

from lesiondelta.cohort import Change
from lesiondelta.evaluation.calibration import ALIKE, OperatingPoint
from lesiondelta.evaluation.statistics import difference
from lesiondelta.files import write_json, write_text
from lesiondelta.inference.model import load_model
from lesiondelta.nnunet.export import export_model

NAME = "bundled-8"
CAUTION = "the bundled model knows two real patients and was validated on none: check every lesion"
TESTED = {"noise": 0.1, "slice_mm": 5.0, "ghosting": 0.04}
"""The worst of the card's robustness table, and of the real whole heads that masks were scored on."""
LICENCE = "Apache-2.0; learned from images of the University of Ljubljana (CC-BY), see the model card"
RESULTS = REPOSITORY / "docs" / "results" / "bundled-model"
NAMES = {OURS: "difference weighting", TWIN: "single-visit twin"}
FIRST_MODEL = {"07": (0.450, 0.356), "19": (0.346, 0.220)}
"""Dice and lesion F1, left out, of the first bundled model that was scored so: version 4, at d05e555."""


def main() -> None:
    """Score, export, draw, write the card."""
    given = arguments(__doc__, list(PARTS))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    torch.set_num_threads(given.threads)
    scores = {name: kept_scores(given.work, name) for name in PARTS}
    if scores["left-out"] is None:
        raise SystemExit(f"{given.work} has no scores of `left-out` by these models and recipes: measure them first.")
    package(given.work, scores["left-out"]["points"][OURS])
    draw_left_out(RESULTS, given.work, given.data, OperatingPoint(**scores["left-out"]["points"][OURS]))
    draw_reliability(RESULTS / "reliability.png", scores["left-out"]["reliability"])
    if scores["sub-12"]:
        draw_sub_12(RESULTS / "sub-12.png", given.data, {kind: run_folder(given.work, kind) for kind in (OURS, TWIN)})
    write_json(BUNDLED / "scores.json", scores)
    write_text(BUNDLED / "MODEL_CARD.md", card(given.work, scores))


def package(work: Path, point: Mapping[str, float]) -> None:
    """Export the stage that ships into the package, in half precision, to which its weights are rounded."""
    model = load_model(work / SHIPPED.name / "averaged")
    description = model.description.model_dump(exclude={"weights_sha256"})
    facts = training_facts(work, description["training"])
    description |= {"name": NAME, "caution": CAUTION, "tested": TESTED, "licence": LICENCE, "training": facts, **point}
    export_model(BUNDLED, model.network, description, half=True)


def training_facts(work: Path, training: Mapping[str, Any]) -> dict[str, Any]:
    """What the weights were made with."""
    return {
        "recipe": "recipes/bundled_model.py",
        "commit": training["commit"],
        "versions": training["versions"],
        "stages": history(work, SHIPPED.name),
        "precision": training["precision"],
        "data": "simulated patients (MNI152 atlas), Ljubljana cross-sectional sub-07 and sub-19 (CC-BY)",
        "self_prior_share": SELF_PRIOR_SHARE,
        "tuned_share": TUNED_SHARE,
    }


def card(work: Path, scores: Mapping[str, Any]) -> str:
    """The model card."""
    description = load_model(BUNDLED).description
    made = HEAD.format(
        features="-".join(map(str, description.network["kwargs"]["features_per_stage"])),
        budget=budget_table(work),
        guises=len(GUISES), deformed=sum(not guise.untouched for guise in GUISES), own=AS_IT_IS,
        gammas=", ".join(f"{gamma:.3f}" for gamma in gammas()),
        first_gamma=FIRST_GAMMA, tuned_share=TUNED_SHARE, share=SELF_PRIOR_SHARE, patch=PRESET.patch,
        foreground_share=RECIPE.foreground_share,
        precision=description.training["precision"], point=description, alike=ALIKE,
        left_out=left_out_table(scores["left-out"]["rows"]),
    )  # fmt: skip
    sections = [made]
    for name, (text, fill) in SECTIONS.items():
        known = scores[name] is not None
        sections.append(text.format(**fill(scores[name])) if known else f"Not measured for this version: {name}.\n")
    return "\n".join([*sections, END])


def gammas() -> list[float]:
    """Mean gamma of difference weighting at every stage."""
    return [float(weighting.norm.weight.detach().mean()) for weighting in load_model(BUNDLED).network.fusion]


def budget_table(work: Path) -> str:
    """Every stage that any of the weights went through."""
    passed = [row for stage in STAGES if not stage.of_atlas for row in history(work, stage.name)]
    rows = {
        f"| {row['stage']} | {row['method']} | {row['patients']} | {row['start']} | {row['learning_rate']:g} "
        f"| {row['iterations']} x {row['batch']} x {row['patch']}^3 | {row['minutes']} | {short(row['commit'])} |": None
        for row in sorted(passed, key=lambda row: [stage.name for stage in STAGES].index(row["stage"]))
    }
    return "\n".join(rows)


def short(commit: str) -> str:
    """A commit's first digits, and whether files differed from it."""
    return commit[:7] + ("-dirty" if commit.endswith("-dirty") else "")


def left_out_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Per patient, model and operating point."""
    lines = [
        f"| sub-{row['patient']} | {NAMES[row['model']]} | {row['visits']} | {row['point']} | {row['dsc']:.3f} "
        f"| {row['hd95_mm']:.1f} | {row['lesion_f1']:.3f} | {row['reference_ml']:.1f} | {row['prediction_ml']:.1f} |"
        for row in rows
    ]
    for label in LJUBLJANA:
        dsc, f1 = FIRST_MODEL[label]
        lines.append(f"| sub-{label} | version 4 | own | 0.5 | {dsc:.3f} | | {f1:.3f} | | |")
    return "\n".join(sorted(lines))


def changes_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Experts' changes found, and ours that are right and false, by sign and model."""
    lines = []
    for kind, counts in found.items():
        for sign, name in (("gain", "new or enlarged"), ("loss", "shrunk or gone")):
            of = counts[sign]
            lines.append(
                f"| {NAMES[kind]} | {name} | {of['found']} of {of['experts']} | {of['ours']} | {of['right']} "
                f"| {of['false']} |"
            )
    return "\n".join(lines)


def thresholds_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Size of the masks, experts' changes found with the right sign, and false ones, threshold by threshold."""
    lines = []
    for kind, counts in found.items():
        for row in counts["by_threshold"]:
            right, false = (row["gain"][count] + row["loss"][count] for count in ("found", "false"))
            lines.append(
                f"| {NAMES[kind]} | {row['threshold']:g} | {sum(row['lesion_ml']) / 2:.1f} | {right} | {false} |"
            )
    return "\n".join(lines)


def tracked_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """What `run` calls the lesions."""
    return "\n".join(
        f"| {NAMES[kind]} | " + " | ".join(str(counts["tracked"].get(str(change), 0)) for change in Change) + " |"
        for kind, counts in found.items()
    )


def rescans_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """False new and gone lesions, patient by patient, and their means."""
    table = pd.DataFrame(rows).pivot_table(index="patient", columns="model", values=["false_new", "false_gone", "dsc"])
    table.loc["mean"] = table.mean()
    return "\n".join(
        f"| {name} | {row['false_new', OURS]:.3g} | {row['false_new', TWIN]:.3g} | {row['false_gone', OURS]:.3g} "
        f"| {row['false_gone', TWIN]:.3g} | {row['dsc', OURS]:.3f} | {row['dsc', TWIN]:.3f} |"
        for name, row in table.iterrows()
    )


def rescan_difference(rows: Sequence[Mapping[str, Any]]) -> str:
    """False changes per patient, ours minus the twin's, with interval and test."""
    frame = pd.DataFrame(rows)
    table = frame.assign(false=frame.false_new + frame.false_gone).pivot(
        index="patient", columns="model", values="false"
    )
    found = difference(OURS, TWIN, table[OURS].to_numpy(), table[TWIN].to_numpy())
    return (
        f"{found.interval.mean:+.1f} false changes a patient (95 % interval {found.interval.low:+.1f} to "
        f"{found.interval.high:+.1f}, Wilcoxon p = {found.p:.3f}, {found.patients} patients)"
    )


def means_table(rows: Sequence[Mapping[str, Any]], by: str) -> str:
    """Mean Dice and lesion F1 of both models, in the order of the rows."""
    frame = pd.DataFrame(rows)
    means = frame.pivot_table(index=by, columns="model", values=["dsc", "lesion_f1"], sort=False)
    return "\n".join(
        f"| {name} | {row['dsc', OURS]:.3f} | {row['dsc', TWIN]:.3f} | {row['lesion_f1', OURS]:.3f} "
        f"| {row['lesion_f1', TWIN]:.3f} |"
        for name, row in means.iterrows()
    )


def refused_visits(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """By the way of brain extraction, how many of how many visits `run` gave no mask of a model or of both."""
    ways: dict[str, dict[str, bool]] = {}
    for row in rows:
        refused = ways.setdefault(row["brain extraction"], {})
        refused[row["visit"]] = refused.get(row["visit"], False) or "dsc" not in row
    return {way: f"{sum(refused.values())} of {len(refused)}" for way, refused in ways.items()}


def differing_voxels(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many, beside how many the mask has, patient by patient."""
    return " and ".join(f"{row['differ']} of {row['voxels']} (sub-{row['patient']})" for row in rows)


def sums_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Of both models, new and gone lesions of all patients together."""
    columns = [f"{change}{ending}" for change in ("new", "gone") for ending in ("", "_found", "_false")]
    sums = pd.DataFrame(rows).groupby("model")[columns].sum()
    return "\n".join(f"| {NAMES[kind]} | " + " | ".join(map(str, sums.loc[kind])) + " |" for kind in (OURS, TWIN))


HEAD = """# The bundled model, version 8

Segments the white-matter lesions of every visit of a patient from T1w and FLAIR, using the visit before it
(difference weighting, Rokuss et al. 2024). It works offline on a CPU.

**Not for clinical decisions.** It was trained on two real patients and on simulated ones, and has not been validated on
a cohort: every report, table and run says so. It is not a medical device, and must not be used to diagnose, to stage,
or to choose or change a treatment. Every mask needs an expert's look. It has not seen tumours, strokes, surgery,
children, contrast agent, spinal cord, or scanners below 1.5 T.

## How it was made
`recipes/bundled_model.py`, at the commits below; scored by `recipes/bundled_scores.py`, written by
`recipes/bundled_card.py`.

- Network: nnU-Net's plain U-Net with {features} features, difference weighting at every stage. Its gamma, which says
  how much of the difference is made, is {gammas} on average, from the finest stage to the coarsest.
- First a single-visit nnU-Net on every visit of patients simulated from the MNI152 atlas; then difference weighting is
  added (gamma {first_gamma}, beta 0) and all weights learn from pairs, a share of {share} of which are self-priors, so
  that patients with one visit are served: of simulated patients first, then of others and the two open ones.
- The open labelled patients are listed as they are ({own} times) and in {guises} guises each, with a second visit in
  which lesions vanish or are added and contrast, noise, brain mask and slices (1 to 5 mm) differ; {deformed} of these
  guises are deformed into another brain. The shapes of added lesions come from the other 23 open consensus masks.
- Data: University of Ljubljana, CC-BY (Lesjak et al., Neuroinformatics 16, 51-63, 2018); MNI152 (nilearn).
- {foreground_share} of the patches are centred on a lesion; windows of {patch[0]}^3; AdamW with polynomial
  decay, Dice + cross-entropy with deep supervision, nnU-Net's augmentation, {precision} (float16 on the GPU).
- What ships is the mean of the weights of stage `pairs` (share {tuned_share}) and of those it started from; so is the
  twin, and so are the stages `-without-`. It keeps more of what simulated patients taught (Wortsman et al., CVPR 2022).
- The twin is a single-visit nnU-Net: the same base, patients, guises and numbers of iterations.

The stages on a GPU ran on an H100 (torch 2.11.0), all others on a CPU.

| stage | method | patients | starts from | learning rate | iterations x batch x patch | minutes | commit |
|---|---|---|---|---|---|---|---|
{budget}

`-dirty`: trained from weights in `recipes/base` that were committed right after.

Temperature {point.temperature:g}, threshold {point.threshold:g} and smallest lesion {point.min_lesion_mm3:g} mm3 are
chosen on the two open patients, each segmented by the models that had not seen it: the temperature of the highest
likelihood, then, of the points whose mean of Dice and lesion F1 is within {alike:g} of the best, the one nearest to a
threshold of 0.5, then the smallest size. That rule was made when the best point (0.7, 8 mm3) had been seen, on these
patients and sub-12. Two patients choose badly; `--threshold` is there.

## Scores
Lesions under 3 mm3 leave both sides. Real patients left out of training (each stage `-without-` has seen one real
patient only, light or heavy and thus the opposite of the one it is tested on). The simulator was mended with an eye on
their errors: the bright septum and fornix are there because false lesions of sub-07 lay on its own. Operating points:
none chosen (0.5), the one above (of both, thus chosen on the tested patient too), and the one that the other patient
alone would choose. Two patients say little: no interval is given, and none should be inferred.

| patient | model | visits | operating point | DSC | HD95 mm | lesion F1 | reference ml | prediction ml |
|---|---|---|---|---|---|---|---|---|
{left_out}
"""

SUB_12 = """Raw clinical pair of sub-12 (slices of 3 mm, whole head), by `lesiondelta run`; never trained on, but the
recipe's rates, share of unchanged patients, iterations and rule of the operating point were chosen with an eye on it
(decision 051). It is compared with what experts marked as changed ({ours[brighter]} places became brighter,
{ours[darker]} darker). The twin segments both visits independently. A change is a connected place of 3 mm3 or more
where the masks of the visits differ, edges included; it is right if it touches a place of the experts' of the right
sign, and false if it touches none.

| model | change | experts' found | ours | right | false |
|---|---|---|---|---|---|
{changes}

Of the places, {ours[change_found]} of {places} are touched by a change of ours of either sign. Ours are masks of
{ours[lesion_ml][0]:.1f} and {ours[lesion_ml][1]:.1f} ml; {ours[brighter_on_lesion_of_second_visit]} of the brighter
places touch a lesion of the second visit, {ours[darker_on_lesion_of_first_visit]} of the darker ones one of the first.
Two models compare fairly where their masks are of one size. Both signs together, of probabilities cut on the FLAIR's
own grid (`run` cuts on the patient's, which gives a few places more or fewer):

| model | threshold | ml a visit | experts' found, of {places} | false |
|---|---|---|---|---|
{thresholds}

What `run` calls the lesions of the pair, once the measurement error is considered (slices of 3 mm hide most changes):

| model | new | enlarging | shrinking | resolved | stable | merged | split |
|---|---|---|---|---|---|---|---|
{tracked}

Of the 11 lesions that version 8 calls new, enlarging, shrinking or resolved, 5 touch a place of the experts' of the
right sign and 5 none; of the twin's 23 it is 6 and 16 (`recipes/sub_12_changes.py`, `--model` for the twin; all
registered with one thread: with two, a few lesions cross the limits).
"""

RESCANS = """Simulated patients on brains of label maps, which no training saw, in whom nothing changes, scanned twice
with different protocols: lesions that are falsely new or gone, each model at its operating point. Ours minus the twin:
{rescan_difference}.

| patient | new, ours | new, twin | gone, ours | gone, twin | DSC, ours | DSC, twin |
|---|---|---|---|---|---|---|
{rescans}
"""

UNSEEN = """The same brains with lesions that change, scanned as patients of the training are ({rates.new:.0%} of the
lesions new, {rates.resolved:.0%} resolved; on the cards before version 8 4% and 2%); new and gone lesions are found by
a lesion that the masks say is new or gone too (IoU over 0.1):

| patient | DSC, ours | DSC, twin | lesion F1, ours | lesion F1, twin |
|---|---|---|---|---|
{unseen}

| model | new | found | false | gone | found | false |
|---|---|---|---|---|---|---|
{unseen_changes}
"""

ROBUSTNESS = """One difficulty at a time, means over {robust} of these brains and both visits. Where slices are thick,
motion, brain mask and contrast of the second visit are drawn anew as well: these rows do not rank where they are close.
In the last rows, the first visit is that of the first row, and the second from another scanner with its own protocol.

| condition | DSC, ours | DSC, twin | lesion F1, ours | lesion F1, twin |
|---|---|---|---|---|
{robustness}
"""

HEADS_TEXT = """Whole simulated heads through `lesiondelta run`, {heads_count} patient with two visits: with brain
extraction (auto) and without (skip), which shows what a forgotten stripping does. Means of the visits that `run`
segmented; without a mask of one of the models: {refused}.

| brain extraction | DSC, ours | DSC, twin | lesion F1, ours | lesion F1, twin |
|---|---|---|---|---|
{heads}
"""

SECONDS = """A pair of whole brains ({seconds[brain_ml]:.0f} ml at 1 mm) takes {seconds[pairs]:.0f} s with
{seconds[threads]:.0f} CPU threads, the twin {seconds[single]:.0f} s (a tenth more in another run); the weights are
{megabytes:.1f} MB.
"""

ROUNDING = """Weights are rounded to half precision before operating points are chosen and anything is scored, so the
file that ships holds exactly the weights that were scored, and gives the same masks. The rounding itself makes masks of
the open patients (whole images, own visit alone, by the model that ships, which learned from both) differ in
{rounding} voxels.
"""

END = """Simulated patients of label maps have procedural lesion shapes and the simulator's contrast: easier and other
than real ones. Pictures of the errors: `docs/results/bundled-model` in the repository.
"""

SECTIONS: Mapping[str, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    "sub-12": (
        SUB_12,
        lambda found: {
            "changes": changes_table(found),
            "thresholds": thresholds_table(found),
            "tracked": tracked_table(found),
            "ours": found[OURS],
            "places": found[OURS]["brighter"] + found[OURS]["darker"],
        },
    ),
    "rescans": (
        RESCANS,
        lambda rows: {"rescans": rescans_table(rows), "rescan_difference": rescan_difference(rows)},
    ),
    "unseen": (
        UNSEEN,
        lambda rows: {"unseen": means_table(rows, "patient"), "unseen_changes": sums_table(rows), "rates": RATES},
    ),
    "robustness": (ROBUSTNESS, lambda rows: {"robustness": means_table(rows, "condition"), "robust": ROBUST_PATIENTS}),
    "heads": (
        HEADS_TEXT,
        lambda rows: {
            "heads": means_table(rows, "brain extraction"),
            "heads_count": HEADS,
            "refused": ", ".join(f"{visits} ({way})" for way, visits in refused_visits(rows).items()),
        },
    ),
    "rounding": (ROUNDING, lambda rows: {"rounding": differing_voxels(rows)}),
    "seconds": (
        SECONDS,
        lambda found: {
            "seconds": found,
            "megabytes": (BUNDLED / "weights.safetensors").stat().st_size / 1e6,
        },
    ),
}


if __name__ == "__main__":
    main()
