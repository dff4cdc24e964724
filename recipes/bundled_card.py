"""Score the stages of `bundled_model.py`, then write the final one into the package with its card.

    python recipes/bundled_card.py WORK [--data DIR] [--threads N]

Scores (Dice, HD95 and lesion F1 as `lesiondelta evaluate` defines them):

- simulated patients that no training saw, made by the simulator that made the training patients;
- the two open labelled patients, each by the model that was trained without it: its own 1 mm images as the visit to
  segment, and a simulated second visit as the partner; and once more alone, as a patient with a single visit.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bundled_model import (
    ATLAS_PATIENTS,
    BUNDLED,
    OPEN_PATIENTS,
    REPOSITORY,
    SELF_PRIOR_SHARE,
    SHIPPED,
    STAGES,
    VARIANTS,
    Stage,
    arguments,
    lesion_masks,
    open_anatomy,
)

from lesiondelta.evaluation.metrics import Scores, score
from lesiondelta.files import write_json, write_text
from lesiondelta.images import Array, Grid
from lesiondelta.inference import Model, lesion_mask, lesion_probabilities, load_model
from lesiondelta.nnunet.export import export_model
from lesiondelta.settings import SegmentationSettings
from lesiondelta.simulation import Acquisition, simulate_patient

TEST_PATIENTS, TEST_SEED = 3, 9000
PARTNER_SEED = 7000
CAUTION = "a first, weak model made this mask: see its model card, and check every lesion"
WINDOW = (64, 64, 64)
OVERLAP = SegmentationSettings().overlap


def main() -> None:
    """Score, export, write the card."""
    given = arguments(__doc__)
    torch.set_num_threads(given.threads)
    package(given.work)
    rows = list(simulated_scores(given.data))
    for label in OPEN_PATIENTS:
        rows += open_scores(given.work, given.data, label)
    write_json(BUNDLED / "scores.json", {"scores": rows})
    write_text(BUNDLED / "MODEL_CARD.md", card(given.work, rows))


def simulated_scores(data: Path) -> Iterator[dict[str, Any]]:
    """The model as it ships on unseen simulated patients, both visits of each."""
    model = load_model(BUNDLED)
    for seed in range(TEST_SEED, TEST_SEED + TEST_PATIENTS):
        patient = simulate_patient(seed, lesion_masks=lesion_masks(data))
        images = [np.stack([v.images[c].data for c in model.contrasts]) for v in patient.visits]
        for number, probability in enumerate(lesion_probabilities(images, [model], overlap=OVERLAP)):
            reference = patient.visits[number].lesions
            yield row(f"simulated {seed}, visit {number + 1}", model, probability, reference.data, reference.grid)


def open_scores(work: Path, data: Path, label: str) -> Iterator[dict[str, Any]]:
    """An open patient's own images by the model trained without it: with a simulated partner, and alone."""
    model = with_window(load_model(work / f"without-{label}" / "model"))
    anatomy = open_anatomy(data, label, PARTNER_SEED)
    if anatomy.lesioned is None or anatomy.lesions is None:
        raise ValueError(f"the anatomy of {label} has no images of its own")
    partner = simulate_patient(PARTNER_SEED, anatomy=anatomy, acquisition=Acquisition(sharp_share=1.0)).visits[1]
    current = np.stack([anatomy.lesioned[c] for c in model.contrasts])
    other = np.stack([partner.images[c].data for c in model.contrasts])
    x, y, z = anatomy.brain.shape
    grid = Grid((x, y, z), anatomy.affine)
    for name, visits in (("with a partner", [current, other]), ("single visit", [current])):
        probability = lesion_probabilities(visits, [model], overlap=OVERLAP)[0]
        yield row(f"sub-{label} {name}, left out", model, probability, anatomy.lesions > 0, grid)
    shipped = load_model(BUNDLED)
    probability = lesion_probabilities([current], [shipped], overlap=OVERLAP)[0]
    yield row(f"sub-{label} single visit, trained on", shipped, probability, anatomy.lesions > 0, grid)


def with_window(model: Model) -> Model:
    """The same model with the window that ships."""
    return replace(model, description=model.description.model_copy(update={"patch": WINDOW}))


def row(name: str, model: Model, probability: Array, reference: Array, grid: Grid) -> dict[str, Any]:
    """One line of the table, printed as it is made."""
    mask = lesion_mask(probability, model.threshold, model.min_lesion_mm3, grid.spacing.tolist())
    scores: Scores = score(reference, mask, grid)
    made = {
        "what": name,
        "dsc": scores.dsc,
        "hd95_mm": scores.hd95_mm,
        "lesion_f1": scores.lesion_f1,
        "reference_ml": float(reference.sum() * grid.voxel_volume_mm3 / 1000),
        "prediction_ml": float(mask.sum() * grid.voxel_volume_mm3 / 1000),
    }
    print({k: round(v, 3) if isinstance(v, float) else v for k, v in made.items()}, flush=True)
    return made


def package(work: Path) -> None:
    """Export the last stage into the package, in half precision."""
    folder = work / SHIPPED.name / "model"
    description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    for key in ("format", "format_version", "weights_sha256"):
        description.pop(key)
    description |= {"name": "bundled-1", "patch": list(WINDOW), "caution": CAUTION, "training": training_facts(work)}
    export_model(BUNDLED, load_model(folder).network, description, half=True)


def training_facts(work: Path) -> dict[str, Any]:
    """What the weights were made with."""
    return {
        "recipe": "recipes/bundled_model.py",
        "commit": commit(),
        "stages": [{"name": s.name, "epochs": s.epochs, "iterations": s.iterations,
                    "cpu_minutes": cpu_minutes(work, s.name)} for s in STAGES],
        "data": "simulated patients (MNI152 atlas), Ljubljana cross-sectional sub-07 and sub-19 (CC-BY)",
        "self_prior_share": SELF_PRIOR_SHARE,
    }  # fmt: skip


def cpu_minutes(work: Path, stage: str) -> float:
    """CPU time of a stage, all its interrupted parts together."""
    record = work / stage / "cpu_seconds.json"
    return round(float(json.loads(record.read_text(encoding="utf-8"))["seconds"]) / 60, 1)


def commit() -> str:
    """The commit that the training code is at."""
    command = ["git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def card(work: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """The model card."""
    budget = "\n".join(budget_row(stage, work) for stage in STAGES)
    scores = "\n".join(
        f"| {r['what']} | {r['dsc']:.3f} | {r['hd95_mm']:.1f} | {r['lesion_f1']:.3f} "
        f"| {r['reference_ml']:.1f} | {r['prediction_ml']:.1f} |"
        for r in rows
    )
    simulated = [r for r in rows if str(r["what"]).startswith("simulated")]
    means = {key: float(np.mean([r[key] for r in simulated])) for key in ("dsc", "hd95_mm", "lesion_f1")}
    facts = {"commit": commit(), "atlas": ATLAS_PATIENTS, "tests": TEST_PATIENTS, "share": SELF_PRIOR_SHARE}
    return CARD.format(budget=budget, scores=scores, **facts, **means)


def budget_row(stage: Stage, work: Path) -> str:
    """A stage in the table of the card."""
    patients = f"{stage.atlas} atlas" + "".join(f" + {VARIANTS} of sub-{label}" for label in stage.open_patients)
    patches = f"{stage.patch}^3 x {stage.batch}, {stage.foreground_share}, {stage.learning_rate}"
    settings = json.loads((work / stage.name / "training.json").read_text(encoding="utf-8"))
    start = stage.start or settings["initial_weights_sha256"] or "scratch"
    minutes = cpu_minutes(work, stage.name)
    return f"| {stage.name} | {patients} | {patches} | {start} | {stage.iterations} | {minutes} |"


CARD = """# The bundled model, version 1

Segments the white-matter lesions of every visit of a patient from T1w and FLAIR, using the visit before it
(difference weighting, Rokuss et al. 2024). It works offline on a CPU.

**Not for clinical decisions.** It is a first version with a small budget, and its scores below are poor. It is
no medical device, has not been validated on a cohort, and must not be used to diagnose, to stage, or to choose or
change a treatment. Every mask needs an expert's look. It has not seen tumours, strokes, surgery, children, contrast
agent, spinal cord, or scanners below 1.5 T.

## How it was made
`recipes/bundled_model.py`, scored and written by `recipes/bundled_card.py`, at commit {commit}.

- Network: nnU-Net's plain U-Net, 8 to 64 features in four stages, difference weighting at every stage.
- Patients: {atlas} simulated ones from the MNI152 atlas, lesion shapes from the open consensus masks (those of sub-07
  and sub-19 left out), and simulated second visits of the two open labelled patients.
- Data: University of Ljubljana, CC-BY (Lesjak et al., Neuroinformatics 16, 51-63, 2018); MNI152 (nilearn).
- AdamW with polynomial decay, Dice + cross-entropy with deep supervision, nnU-Net's augmentation; share of
  self-priors {share}, so that patients with one visit are served.

| stage | patients | patch x batch, share with a lesion, learning rate | starts from | iterations | CPU minutes |
|---|---|---|---|---|---|
{budget}

## Scores
Threshold 0.5, lesions under 3 mm3 left out on both sides. Means over {tests} simulated patients with two visits:
DSC {dsc:.3f}, HD95 {hd95_mm:.1f} mm, lesion F1 {lesion_f1:.3f}.

The model that ships was trained on both open patients, so that no real patient is left to score it on. Leave-one-out
scores belong to `without-07` and `without-19`, which stop where `final` stops: the stage after it, `refined`, has no
leave-one-out counterpart yet. Two patients say little: no interval is given, and none should be inferred.

| what | DSC | HD95 mm | lesion F1 | reference ml | prediction ml |
|---|---|---|---|---|---|
{scores}

Simulated patients are the first stages' own kind, and the last stage has forgotten them: expect false lesions where
images differ from the two open patients. `run` flags every visit that this model segments. The simulated
partner of an open patient is made from the same images, hence easier than a real second visit.
"""


if __name__ == "__main__":
    main()
