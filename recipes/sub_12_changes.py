"""The page docs/results/sub-12-changes: `python recipes/sub_12_changes.py docs/results/sub-12-changes --work WORK`.

`lesiondelta run` segments the raw pair of sub-12 with the bundled model, or with `--model` (a finished run is not made
again); then every lesion that it calls new, enlarging and so on is compared, in the experts' common space, with the
components of their change mask, which the sign of the normalised FLAIR difference splits into brighter and darker ones
(see `experts_changes.py`). Writes README.md, ours.tsv (a row a tracked lesion), experts.tsv (a row a component) and
slices.png.
"""

import argparse
import json
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from bundled_pictures import Cell, draw, spread
from experts_changes import DATA, SMALLEST_MM3, common_space, experts_changes
from scipy import ndimage

from lesiondelta.cohort import Change
from lesiondelta.images import Array, Grid, Volume, read_itk_transform, read_labels, read_mask, resample
from lesiondelta.inputs.bids import read_cohort
from lesiondelta.outputs.derivatives import PatientFiles
from lesiondelta.outputs.lesions import COLOURS
from lesiondelta.pipeline.cohort_run import check_start, run_cohort
from lesiondelta.pipeline.patient_run import RunPlan
from lesiondelta.pipeline.rebuild import report_cohort
from lesiondelta.pipeline.segmented import read_segmented
from lesiondelta.pipeline.tracked_lesions import track_lesions
from lesiondelta.records import read_record
from lesiondelta.settings import PreprocessingSettings, SegmentationSettings, Sensitivity, Settings, TrackingSettings
from lesiondelta.tracking import TrackedVisit, Tracking, track

PATIENT, VISITS = "12", ("1", "2")
NOTHING = "no lesion"
BRIGHTER, DARKER = "brighter", "darker"
RIGHT_SIGN = {
    Change.NEW: BRIGHTER, Change.ENLARGING: BRIGHTER, Change.SHRINKING: DARKER, Change.RESOLVED: DARKER,
}  # fmt: skip
EXPERTS = {BRIGHTER: "#ff5a4f", DARKER: "#46c8ff"}
CITED = (
    "Images and change mask: University of Ljubljana, CC-BY (Lesjak et al., Neuroinformatics 14, 403-420, 2016,\n"
    "and 16, 51-63, 2018)."
)

Rows = list[dict[str, Any]]


def segmented(data: Path, work: Path, models: Sequence[Path], threads: int) -> Path:
    """Output folder of `run` on the pair."""
    raw, out = data / "ljubljana-longitudinal", work / "out"
    settings = Settings(
        preprocessing=PreprocessingSettings(threads=threads),
        segmentation=SegmentationSettings(models=tuple(models), device="cpu", threads=threads),
    )
    cohort = read_cohort(raw, participants=[PATIENT])
    run_cohort(cohort, check_start(RunPlan(out, raw, settings, work / "prepared")))
    report_cohort(out, [PATIENT])  # by the tracking of today, whatever the masks are of
    return out


def numbered(data: Path, out: Path, grid: Grid) -> list[Array]:
    """Both visits' lesions with their numbers (X, Y, Z), in the experts' common space."""
    experts, found = data / "ljubljana-longitudinal" / "derivatives" / "reference" / f"sub-{PATIENT}", []
    for visit in VISITS:
        to_visit = read_itk_transform(experts / f"study{visit}_FLAIR_to_common_space.txt")
        name = f"sub-{PATIENT}_ses-{visit}_space-orig_seg-lesions_dseg.nii.gz"
        labels = read_labels(out / f"sub-{PATIENT}" / f"ses-{visit}" / "anat" / name)
        found.append(resample(labels, grid, to_visit, order="nearest").data)
    return found


def tracked(out: Path) -> Rows:
    """The table of changes, with the numbers of lesions at both visits as lists, `before` and `after`."""
    path = out / f"sub-{PATIENT}" / f"sub-{PATIENT}_changes.tsv"
    rows = pd.read_csv(path, sep="\t", keep_default_na=False).to_dict("records")
    named: Rows = [{str(name): value for name, value in row.items()} for row in rows]
    return [{**row, "before": ids(row["prior_lesion_ids"]), "after": ids(row["lesion_ids"])} for row in named]


def ids(cell: object) -> list[int]:
    """The numbers of a cell such as 3+17."""
    return [int(number) for number in str(cell).split("+") if number != "n/a"]


def place_of(row: Mapping[str, Any], maps: Sequence[Array]) -> Array:
    """Where a tracked lesion lies at either visit, (X, Y, Z) bool."""
    place: Array = np.isin(maps[0], row["before"]) | np.isin(maps[1], row["after"])
    return place


def ours_against_experts(table: Rows, maps: Sequence[Array], places: Array, brighter: Array) -> Rows:
    """A row a tracked lesion: its class and volumes, and what of the experts' components it touches.

    Parameters
    ----------
    maps : two (X, Y, Z) int
        Numbers of lesions at both visits.
    places : (X, Y, Z) int
        The experts' components, from 1.
    brighter : (N,) bool
        Of each component.
    """
    kept = ("change", "prior_lesion_ids", "lesion_ids", "prior_volume_mm3", "volume_mm3", "location")
    rows = []
    for row in table:
        touched = np.setdiff1d(np.unique(places[place_of(row, maps)]), 0).tolist()
        signs = {BRIGHTER if brighter[n - 1] else DARKER for n in touched}
        experts = "both" if len(signs) > 1 else next(iter(signs), "none")
        own = {name: row[name] for name in kept}
        rows.append({**own, "experts": experts, "components": "+".join(map(str, touched)) or "n/a"})
    return rows


def experts_against_ours(table: Rows, maps: Sequence[Array], places: Array, brighter: Array, voxel_mm3: float) -> Rows:
    """A row a component: sign, volume, the class of our lesion that covers most of it, our volumes inside.

    `voxel_mm3` is the volume of a voxel of all these maps; see `ours_against_experts` for the others.
    """
    class_of = [{n: row["change"] for row in table for n in row[side]} for side in ("before", "after")]
    rows = []
    for number in range(1, len(brighter) + 1):
        here = places == number
        inside = [labels[here] for labels in maps]
        votes = Counter(
            classes[lesion] for labels, classes in zip(inside, class_of, strict=True) for lesion in labels[labels > 0]
        )
        before, after = (float((labels > 0).sum() * voxel_mm3) for labels in inside)
        rows.append(
            {
                "component": number,
                "experts": BRIGHTER if brighter[number - 1] else DARKER,
                "volume_mm3": float(here.sum() * voxel_mm3),
                "ours": votes.most_common(1)[0][0] if votes else NOTHING,
                "ours_before_mm3": before,
                "ours_after_mm3": after,
            }
        )
    return rows


def picture(path: Path, data: Path, out: Path, table: Rows, maps: Sequence[Array], signs: Mapping[str, Array]) -> None:
    """Both visits, the experts' components by sign, and our lesions in the colours of the report, where most changed.

    `signs` has the components of each sign, (X, Y, Z) bool.
    """
    change, scored, _ = common_space(data, out)
    flairs = [np.where(flair, flair - flair.min(), 0) for flair in scored]  # 0 outside the brain
    classes = {name: np.zeros(change.data.shape, bool) for name in Change}
    for row in table:
        classes[Change(row["change"])] |= place_of(row, maps)
    moved = np.any([mask for name, mask in classes.items() if name != Change.STABLE], axis=0)
    slices = spread((change.data * 1.0 + moved).sum(axis=(0, 1)), 4, apart=4)
    x, y, _ = ndimage.find_objects((flairs[1] > 0).astype(np.uint8))[0]
    marked = [
        [(signs[sign], colour) for sign, colour in EXPERTS.items()],
        [(classes[name], COLOURS[name]) for name in Change],
    ]
    drawn: list[list[Cell]] = [[(flair[x, y, z], ()) for z in slices] for flair in flairs]
    for marks in marked:
        drawn.append([(flairs[1][x, y, z], [(mask[x, y, z], colour) for mask, colour in marks]) for z in slices])
    said = "ours: new red, enlarging orange,\nshrinking light blue, resolved blue,\nstable green"
    names = ["first visit", "second visit", "experts: brighter red, darker blue", said]
    draw(
        path, drawn, "sub-12, raw clinical pair: what experts marked as changed, and what became of our lesions", names
    )


def crossed(rows: Rows, index: str, names: Sequence[str], columns: str, order: Sequence[str]) -> str:
    """A Markdown table of counts."""
    counts = Counter((row[index], row[columns]) for row in rows)
    lines = [f"| | {' | '.join(order)} | all |", f"|---|{'---|' * (len(order) + 1)}"]
    for name in names:
        of_name = [counts[name, column] for column in order]
        lines.append(f"| {name} | {' | '.join(map(str, of_name))} | {sum(of_name)} |")
    return "\n".join(lines)


def volumes_by_sign(experts: Rows) -> str:
    """A Markdown table: in how many components our volume rises, falls, stays, or is none at either visit."""
    kinds = ("rises", "falls", "stays", "none there")
    lines = [f"| our volume inside | {' | '.join(kinds)} |", f"|---|{'---|' * len(kinds)}"]
    for sign in EXPERTS:
        found = Counter(direction(row) for row in experts if row["experts"] == sign)
        lines.append(f"| {sign} | {' | '.join(str(found[kind]) for kind in kinds)} |")
    return "\n".join(lines)


def direction(row: Mapping[str, Any]) -> str:
    """What our volume inside a component does."""
    before, after = row["ours_before_mm3"], row["ours_after_mm3"]
    if before == after:
        return "stays" if before else "none there"
    return "rises" if after > before else "falls"


def right_signs(ours: Rows, names: Sequence[Change]) -> str:
    """`3 of 5`: lesions of these classes that touch a component of the right sign."""
    rows = [row for row in ours if row["change"] in names]
    right = sum(row["experts"] in (RIGHT_SIGN[Change(row["change"])], "both") for row in rows)
    return f"{right} of {len(rows)}"


def operating_points(data: Path, out: Path, change: Volume, places: Array, brighter: Array) -> str:
    """A Markdown table: what is found and right at every sensitivity, by masks alone, and by visits seen alone."""
    files = PatientFiles(out, PATIENT)
    record = read_record(out, PATIENT)
    if record is None or record.provenance is None:
        raise SystemExit(f"{out} holds no finished results")
    patient = read_segmented(files, record.prepared, record.provenance)
    prepared, threshold = patient.prepared, record.provenance.threshold
    to_patient = read_itk_transform(experts_folder(data) / "study1_FLAIR_to_common_space.txt")

    def moved(values: Array) -> Array:
        found: Array = resample(Volume(values, prepared.grid.affine), change.grid, to_patient, order="nearest").data
        return found

    rows = []
    for choice in get_args(Sensitivity):
        settings = TrackingSettings(sensitivity=choice)
        called = track_lesions(prepared, patient.visits, threshold, settings).tracking.called[0]
        if called is None:
            raise SystemExit("the images of sub-12 could not be compared")
        signs = [pieces(called == sign) for sign in (1, -1)]
        rows.append((f"`--sensitivity {choice}`", *scored([moved(one) for one in signs], places, brighter)))
    masks = [TrackedVisit(v.mask.data, v.probability.data, 3.0) for v in patient.visits]
    tracked = track(masks, float(prepared.grid.spacing[0]), threshold)
    by_masks = [masks_alone(tracked, sign) for sign in (BRIGHTER, DARKER)]
    rows.append(("masks alone, tracked", *scored([moved(one) for one in by_masks], places, brighter)))
    alone = [pieces(moved_mask) for moved_mask in visits_alone(data, out.parent, change)]
    rows.append(("visits segmented alone, masks subtracted", *scored(alone, places, brighter)))
    lines = [
        f"| {name} | {found} of {len(brighter)} | {right} of {count} | {right / max(count, 1):.0%} |"
        for name, found, right, count in rows
    ]
    return "\n".join(["| | found | right | |", "|---|---|---|---|", *lines])


def experts_folder(data: Path) -> Path:
    """What the authors of the data give with sub-12."""
    return data / "ljubljana-longitudinal" / "derivatives" / "reference" / f"sub-{PATIENT}"


def pieces(mask: Array) -> Array:
    """Numbered 26-connected pieces."""
    numbers: Array = ndimage.label(mask, np.ones((3, 3, 3)))[0].astype(np.int32)
    return numbers


def masks_alone(tracked: Tracking, sign: str) -> Array:
    """The lesions (X, Y, Z), numbered, whose change by masks alone has a sign."""
    before, after = tracked.instances
    found = np.zeros(before.shape, np.int32)
    for number, one in enumerate(tracked.changes[0], start=1):
        if RIGHT_SIGN.get(one.change) == sign:
            found[np.isin(before, one.prior) | np.isin(after, one.current)] = number
    return found


def visits_alone(data: Path, work: Path, change: Volume) -> list[Array]:
    """Gains and losses, in the experts' space, of masks of visits that were segmented each without the other."""
    raw, masks = data / "ljubljana-longitudinal", []
    for visit in VISITS:
        out = work / f"alone-{visit}"
        cohort = read_cohort(raw, participants=[PATIENT], sessions=[visit])
        run_cohort(cohort, check_start(RunPlan(out, raw, Settings(), work / f"prepared-{visit}")))
        stem = f"sub-{PATIENT}/ses-{visit}/anat/sub-{PATIENT}_ses-{visit}"
        to_visit = read_itk_transform(experts_folder(data) / f"study{visit}_FLAIR_to_common_space.txt")
        mask = read_mask(out / f"{stem}_space-orig_label-L_mask.nii.gz")
        masks.append(resample(mask, change.grid, to_visit, order="nearest").data)
    least = SMALLEST_MM3 / change.grid.voxel_volume_mm3
    return [large(masks[1] & ~masks[0], least), large(masks[0] & ~masks[1], least)]


def large(mask: Array, least: float) -> Array:
    """The pieces of a mask that have so many voxels."""
    numbers = pieces(mask)
    kept: Array = (np.bincount(numbers.ravel()) >= least)[numbers] & mask
    return kept


def scored(calls: Sequence[Array], places: Array, brighter: Array) -> tuple[int, int, int]:
    """Components that a call of the right sign touches, calls that touch one, and calls.

    `calls` are the numbered calls (X, Y, Z) of what became brighter and darker; a call that the experts' space does
    not hold counts as wrong.
    """
    found, right, count = 0, 0, 0
    for numbers, of_sign in zip(calls, (brighter, ~brighter), strict=True):
        there = np.isin(places, 1 + np.flatnonzero(of_sign))
        found += len(np.setdiff1d(np.unique(places[there & (numbers > 0)]), 0))
        right += len(np.setdiff1d(np.unique(numbers[there]), 0))
        count += len(np.setdiff1d(np.unique(numbers), 0))
    return found, right, count


def page(ours: Rows, experts: Rows, voxels: Mapping[str, Any], points: str, made: tuple[str, str]) -> str:
    """README.md; `points` is the table of operating points, `made` model and commit."""
    signs = [*EXPERTS, "both", "none"]
    classes = [*RIGHT_SIGN, Change.STABLE, NOTHING]
    stable = [row for row in ours if row["change"] == Change.STABLE]
    near = sum(row["experts"] != "none" for row in stable)
    gain, loss = voxels["gain"], voxels["loss"]
    of = Counter(row["experts"] for row in experts)
    missed = Counter(row["experts"] for row in experts if row["ours"] == NOTHING)
    return f"""# What changed in sub-12: our tracked lesions and the experts

```
python recipes/sub_12_changes.py docs/results/sub-12-changes --work WORK
```

Two raw visits of one patient (T1w and FLAIR of 0.7 x 0.7 x 3 mm, whole heads), on which experts marked what had
changed, without a sign: {len(experts)} components, of which {of[BRIGHTER]} became brighter on FLAIR and {of[DARKER]}
darker (mean of the normalised difference).
{CITED}

Model: {made[0]}. Commit {made[1]}.
[ours.tsv](ours.tsv) has a row for every lesion that `run` tracked, [experts.tsv](experts.tsv) one for every component.

## Operating points
Components that a call of the right sign touches, and calls that touch one. A call of a sensitivity is a place where the
images show change (`tracking.places`); of masks alone, a lesion that is called new or enlarging, shrinking or resolved;
of visits segmented alone, a piece of {SMALLEST_MM3:.0f} mm3 or more of the difference of masks.

{points}

The aims were 18 found with 60 % right at `default`, and 80 % right at `low`: see the table for what is missed.

## Ours: what a lesion of each class touches
Whether a lesion, at either visit, shares a voxel with a component of the experts'. Resolved lesions that no mask has
are not in the maps of lesions, and count as none:

{crossed(ours, "change", list(Change), "experts", signs)}

Of those new or enlarging, {right_signs(ours, [Change.NEW, Change.ENLARGING])} touch a brighter component; of those
shrinking or resolved, {right_signs(ours, [Change.SHRINKING, Change.RESOLVED])} a darker one. For comparison: {near} of
{len(stable)} stable ones touch any component.

## Theirs: what we call the lesion that covers most of a component

{crossed(experts, "experts", list(EXPERTS), "ours", classes)}

In {missed[BRIGHTER]} brighter and {missed[DARKER]} darker components the masks have no lesion at either visit. Without
the classes, only the volume of our masks inside each component:

{volumes_by_sign(experts)}

## Voxel by voxel
Connected places of 3 mm3 or more where the masks of both visits differ, measurement error not considered
(`experts_changes.py`): {gain["ours"]} gains, of which {gain["right"]} touch a brighter component and {gain["false"]}
none at all; {loss["ours"]} losses, of which {loss["right"]} touch a darker one and {loss["false"]} none. They find
{gain["found"]} of {gain["experts"]} brighter and {loss["found"]} of {loss["experts"]} darker components.

One patient, and experts who marked change alone: no rate follows from it.

![Both visits, the experts' components and our lesions](slices.png)
"""


def main() -> None:
    """Segment, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the page goes")
    parser.add_argument("--work", type=Path, required=True, help="for the results of run, and prepared images")
    parser.add_argument("--model", type=Path, action="append", default=[], help="instead of the bundled one")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    out = segmented(given.data, given.work, given.model, given.threads)
    change, flairs, _ = common_space(given.data, out)
    places, count = ndimage.label(change.data, np.ones((3, 3, 3)))
    brighter = ndimage.mean(flairs[1] - flairs[0], places, range(1, count + 1)) > 0
    maps, table = numbered(given.data, out, change.grid), tracked(out)
    ours = ours_against_experts(table, maps, places, brighter)
    experts = experts_against_ours(table, maps, places, brighter, change.grid.voxel_volume_mm3)
    given.folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(ours).to_csv(given.folder / "ours.tsv", sep="\t", index=False, float_format="%.6g")
    pd.DataFrame(experts).to_csv(given.folder / "experts.tsv", sep="\t", index=False, float_format="%.6g")
    signs = {sign: np.isin(places, 1 + np.flatnonzero(brighter == (sign == BRIGHTER))) for sign in EXPERTS}
    picture(given.folder / "slices.png", given.data, out, table, maps, signs)
    used = json.loads((out / "settings.json").read_text(encoding="utf-8"))["models"]
    model = ", ".join(f"{m['name']} ({m['method']}, SHA-256 {m.get('sha256', '')[:12]})" for m in used)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    points = operating_points(given.data, out, change, places, brighter)
    text = page(ours, experts, experts_changes(given.data, out), points, (model, commit.stdout.strip()))
    (given.folder / "README.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
