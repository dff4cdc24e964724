"""Write the model that `bundled_model.py` trained into the package, with its card and its page of scores and pictures.

    python recipes/bundled_card.py WORK [--data DIR] [--threads N]

Scores are those that `bundled_scores.py` has measured; of the others the page says that they are missing.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from bundled_left_out import FLAIR_ONLY, OPTIONAL, OURS, OWN, PART_OF, Row
from bundled_model import (
    BUNDLED,
    REPOSITORY,
    SELF_PRIOR_SHARE,
    SHIPPED,
    TUNED_SHARE,
    arguments,
    history,
)
from bundled_page import VOLUME, interval, page, raw_means, table
from bundled_pictures import draw_left_out, draw_reliability, draw_sub_12
from bundled_scores import PARTS, kept_scores, run_folder
from open_patients import TABRIZ

from lesiondelta.evaluation.calibration import OperatingPoint
from lesiondelta.files import write_json, write_text
from lesiondelta.inference.model import load_model
from lesiondelta.nnunet.export import export_model

NAME = "bundled-9"
CAUTION = "the bundled model knows nine real patients of two sites and was validated on none: check every lesion"
TESTED = {"noise": 0.1, "slice_mm": 8.1, "ghosting": 0.04}
"""The worst of the robustness table, and of the real whole heads that masks were scored on."""
LICENCE = (
    "Apache-2.0; learned from images of the University of Ljubljana (CC-BY) and of Tabriz (MIT), and from label maps "
    "of SynthSeg and SynthSR (Apache-2.0), see the model card"
)
DATA = (
    "label maps of 25 people (SynthSeg, SynthSR; Apache-2.0), simulated patients (MNI152 atlas), Ljubljana "
    "cross-sectional sub-07 and sub-19 (CC-BY), seven patients of Tabriz (MIT)"
)
RESULTS = REPOSITORY / "docs" / "results" / "bundled-model"
VERSION_8 = {"07": (0.482, 0.365), "19": (0.835, 0.567)}
"""Dice and lesion F1, left out, own visit alone at 0.5: of the last model that learned from one site."""


def main() -> None:
    """Export, draw, write the card and the page."""
    given = arguments(__doc__, list(PARTS))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    torch.set_num_threads(given.threads)
    scores = {name: kept_scores(given.work, name) for name in PARTS}
    if scores["left-out"] is None:
        raise SystemExit(f"{given.work} has no scores of `left-out` by these models and recipes: measure them first.")
    point = scores["left-out"]["points"][OURS]
    package(given.work, point)
    draw_left_out(RESULTS, given.work, given.data, OperatingPoint(**point))
    draw_reliability(RESULTS / "reliability.png", scores["left-out"]["reliability"])
    if scores["sub-12"]:
        draw_sub_12(
            RESULTS / "sub-12.png", given.data, {kind: run_folder(given.work, kind) for kind in scores["sub-12"]}
        )
    write_json(BUNDLED / "scores.json", scores)
    write_text(RESULTS / "README.md", page(given.work, scores, load_model(BUNDLED)))
    write_text(BUNDLED / "MODEL_CARD.md", card(scores))


def package(work: Path, point: Mapping[str, float]) -> None:
    """Export the stage that ships into the package, in half precision, to which its weights are rounded."""
    model = load_model(work / SHIPPED.name / "averaged")
    description = model.description.model_dump(exclude={"weights_sha256"})
    facts = training_facts(work, description["training"])
    description |= {"name": NAME, "caution": CAUTION, "tested": TESTED, "licence": LICENCE, "optional": OPTIONAL}
    export_model(BUNDLED, model.network, description | {"training": facts, **point}, half=True)


def training_facts(work: Path, training: Mapping[str, Any]) -> dict[str, Any]:
    """What the weights were made with."""
    return {
        "recipe": "recipes/bundled_model.py",
        "commit": training["commit"],
        "versions": training["versions"],
        "stages": history(work, SHIPPED.name),
        "precision": training["precision"],
        "data": DATA,
        "self_prior_share": SELF_PRIOR_SHARE,
        "tuned_share": TUNED_SHARE,
    }


def card(scores: Mapping[str, Any]) -> str:
    """The model card: one page."""
    raw = scores["raw"]
    tabriz = "Not measured for this version." if raw is None else raw_summary(raw)
    passed = load_model(BUNDLED).description.training["stages"]
    return CARD.format(
        version=NAME.removeprefix("bundled-"),
        left_out=left_out_table(scores["left-out"]["rows"]),
        raw=tabriz,
        minutes=", ".join(f"{row['stage']} {row['iterations']}" for row in passed),
        megabytes=(BUNDLED / "weights.safetensors").stat().st_size / 1e6,
    )


def left_out_table(rows: Sequence[Row]) -> str:
    """Of every patient with T1w and FLAIR, and with FLAIR alone, beside version 8 where that was left out too."""
    known = {
        (row["patient"], row["visits"]): row for row in rows if row["model"] == OURS and row["point"] == "of the others"
    }
    lines = []
    for label in PART_OF:
        both, alone = known[label, OWN], known[label, FLAIR_ONLY]
        before = (f"{value:.2f}" for value in VERSION_8[label]) if label in VERSION_8 else ("", "")
        volumes = f"{both['reference_ml']:.1f}", f"{both['prediction_ml']:.1f}"
        shown = both["dsc"], alone["dsc"], both["lesion_f1"], both["lesion_precision"]
        lines.append((label, *volumes, *(f"{value:.2f}" for value in shown), *before))
    measured = ((OWN, "dsc"), (FLAIR_ONLY, "dsc"), (OWN, "lesion_f1"), (OWN, "lesion_precision"))
    means = [interval([known[label, visits][name] for label in TABRIZ]) for visits, name in measured]
    lines.append(("mean of Tabriz (95 % interval)", "", "", *means, "", ""))
    header = (
        "patient", "experts ml", "ours ml", "DSC", "DSC, FLAIR only", "lesion F1", "lesion precision",
        "DSC of version 8", "its F1",
    )  # fmt: skip
    return table(header, lines)


def raw_summary(rows: Sequence[Row]) -> str:
    """Means over the raw heads of Tabriz."""
    return "\n".join(
        f"- {model}, {images}: DSC {found['DSC']}, lesion F1 {found['lesion F1']}, volume {found[VOLUME]} of the "
        f"experts', {found['touching']} of our lesions touch one of theirs."
        for (model, images), found in raw_means(rows).items()
    )


CARD = """# The bundled model, version {version}

Segments the white-matter lesions of every visit of a patient from T1w and FLAIR, or from FLAIR alone, using the visit
before it (difference weighting, Rokuss et al. 2024). It works offline on a CPU; its weights are {megabytes:.1f} MB.

**Not for clinical decisions.** It was trained on nine real patients of two sites and on simulated ones, and has not
been validated on a cohort: every report, table and run says so. It is not a medical device, and must not be used to
diagnose, to stage, or to choose or change a treatment. Every mask needs an expert's look.

## How good it is
Each real patient segmented by a model that saw neither it nor a third of the others, one visit, at an operating point
that the eight others chose. 07 and 19: University of Ljubljana, 3 T, 1 mm. T01 to T08: Tabriz, 1.5 T, slices of 6 to
8 mm. Version 8 learned from 07 and 19 alone.

{left_out}

Tabriz's raw heads through `run`, scored on the FLAIR's own grid (version 8 saw none of them):

{raw}

Nine patients say little about others. All scores, the clinical pair of sub-12, rescans and robustness are in the
repository, `docs/results/bundled-model`, with pictures of the errors.

## Where it fails
- Few and small lesions: of patient 07 (1.3 ml) it misses some and adds others. Bright rims and caps of the ventricles,
  septum and uneven cortex are its false lesions.
- It has not seen tumours, strokes, surgery, children, contrast agent, spinal cord, or scanners below 1.5 T.
- Without FLAIR it does not work; without T1w it is a little worse (see above).
- Experts differ: Tabriz's drew about a voxel wider than Ljubljana's, and the mask lies between the two.

## What it learned from
- Pairs of visits drawn from label maps of 25 people: SynthSeg (Billot et al., Medical Image Analysis 86, 102789, 2023)
  and SynthSR (Iglesias et al., NeuroImage 237, 118206, 2021; brains of Winterburn et al., NeuroImage 74, 2013),
  Apache-2.0; patients simulated from MNI152 (nilearn).
- University of Ljubljana, CC-BY: sub-07, sub-19, and the lesion shapes of 23 others (Lesjak et al., Neuroinformatics
  16, 51-63, 2018).
- Tabriz, MIT: seven patients (Bashiri Bawil, Shamsi, Shakeri Bavil, arXiv:2506.07123, 2025; MS3SEG, figshare
  10.6084/m9.figshare.30393475).

Iterations: {minutes}.
"""

if __name__ == "__main__":
    main()
