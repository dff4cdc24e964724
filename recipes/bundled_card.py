"""Score the stages of `bundled_model.py`, then write the final one into the package with its card.

    python recipes/bundled_card.py WORK [--data DIR] [--threads N]

Scores (Dice, HD95 and lesion F1 as `lesiondelta evaluate` defines them):

- simulated patients that no training saw;
- the two open labelled patients, each by the models that were trained without it, the single-visit nnU-Net and the one
  with difference weighting that starts from it: its own 1 mm images alone, as a patient with a single visit; with a
  simulated second visit; and seen through simulated slices of 1.5 to 5 mm;
- the raw visits of sub-12, which no training saw: how many of the places that experts marked as brighter or darker than
  before touch a lesion of the visit where they are bright. That mask shows change alone, so that there is no Dice.

CPU, no mirroring: what users without a GPU get. All stages must be complete.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bundled_model import (
    AS_IT_IS,
    ATLAS_PATIENTS,
    BUNDLED,
    FIRST_GAMMA,
    GUISES,
    OPEN_PATIENTS,
    PRESET,
    RECIPE,
    SELF_PRIOR_SHARE,
    SHIPPED,
    STAGES,
    Stage,
    arguments,
    lesion_masks,
    open_anatomy,
)
from experts_changes import experts_changes

from lesiondelta.evaluation.metrics import Scores, score
from lesiondelta.files import write_json, write_text
from lesiondelta.formats.bids import read_cohort
from lesiondelta.images import Array, Grid, Volume
from lesiondelta.inference import Model, lesion_mask, lesion_probabilities, load_model
from lesiondelta.nnunet.export import export_model
from lesiondelta.pipeline.cohort import check_start, run_cohort
from lesiondelta.settings import PreprocessingSettings, SegmentationSettings, Settings
from lesiondelta.simulation import Acquisition, Anatomy, SimulatedPatient, simulate_patient

NAME = "bundled-4"
CAUTION = "the bundled model knows two real patients and was validated on none: check every lesion"
TEST_PATIENTS, TEST_SEED = 3, 9000
PARTNER_SEED = 7000
LICENCE = "Apache-2.0; learned from images of the University of Ljubljana (CC-BY), see the model card"
OVERLAP = SegmentationSettings().overlap


def main() -> None:
    """Score, export, write the card."""
    given = arguments(__doc__)
    torch.set_num_threads(given.threads)
    for stage in STAGES:
        load_model(given.work / stage.name / "model")
    package(given.work)
    rows = list(simulated_scores(given.data))
    for label in OPEN_PATIENTS:
        rows += open_scores(given.work, given.data, label)
    change = change_scores(given.work, given.data, given.threads)
    write_json(BUNDLED / "scores.json", {"scores": rows, "change": change})
    write_text(BUNDLED / "MODEL_CARD.md", card(given.work, rows, change))


def simulated_scores(data: Path) -> Iterator[dict[str, Any]]:
    """The model as it ships on unseen simulated patients, both visits of each."""
    model = load_model(BUNDLED)
    for seed in range(TEST_SEED, TEST_SEED + TEST_PATIENTS):
        patient = simulate_patient(seed, lesion_masks=lesion_masks(data))
        images = [stacked(visit.images, model) for visit in patient.visits]
        for number, probability in enumerate(probabilities(images, model)):
            reference = patient.visits[number].lesions
            yield row(f"simulated {seed}, visit {number + 1}", model, probability, reference.data, reference.grid)


def open_scores(work: Path, data: Path, label: str) -> Iterator[dict[str, Any]]:
    """An open patient by the models trained without it, and its own images by the model that ships."""
    single, left_out = (load_model(work / f"{stage}-without-{label}" / "model") for stage in ("single", "pairs"))
    shipped, anatomy = load_model(BUNDLED), open_anatomy(data, label, PARTNER_SEED)
    lesions = np.asarray(anatomy.lesions) > 0
    grid = Grid((lesions.shape[0], lesions.shape[1], lesions.shape[2]), anatomy.affine)
    own = np.stack([anatomy.lesioned[contrast] for contrast in left_out.contrasts])
    partner = stacked(guise(anatomy, 1.0).visits[1].images, left_out)
    cases = (
        ("1 mm, one visit, left out, single-visit nnU-Net", single, [own]),
        ("1 mm, one visit, left out", left_out, [own]),
        ("1 mm, with a partner, left out", left_out, [own, partner]),
        ("1 mm, one visit, trained on", shipped, [own]),
    )
    for name, model, visits in cases:
        probability = probabilities(visits, model)[0]
        yield row(f"sub-{label} {name}", model, probability, lesions, grid)
    thick = guise(anatomy, 0.0)
    for title, model in (("left out, single-visit nnU-Net", single), ("left out", left_out)):
        seen = probabilities([stacked(visit.images, model) for visit in thick.visits], model)
        for number, (visit, probability) in enumerate(zip(thick.visits, seen, strict=True), start=1):
            name = f"sub-{label} thick slices, visit {number}, {title}"
            yield row(name, model, probability, visit.lesions.data, grid)


def probabilities(visits: Sequence[Array], model: Model) -> list[Array]:
    """As a user without a GPU gets them."""
    return lesion_probabilities(visits, [model], overlap=OVERLAP, mirroring=False, device="cpu")


def guise(anatomy: Anatomy, sharp_share: float) -> SimulatedPatient:
    """Two visits of an open patient, with a few lesions gone and a few new."""
    return simulate_patient(PARTNER_SEED, anatomy=anatomy, acquisition=Acquisition(sharp_share=sharp_share))


def stacked(images: Mapping[str, Volume], model: Model) -> Array:
    """(C, X, Y, Z) in the order of the model's contrasts."""
    return np.stack([images[contrast].data for contrast in model.contrasts])


def change_scores(work: Path, data: Path, threads: int) -> dict[str, Any]:
    """`lesiondelta run` on sub-12, and how many of the experts' changes its masks touch."""
    raw, out = data / "ljubljana-longitudinal", work / "sub-12"
    settings = Settings(
        preprocessing=PreprocessingSettings(threads=threads),
        segmentation=SegmentationSettings(models=(BUNDLED,), device="cpu"),
    )
    cohort = read_cohort(raw, participants=["12"])
    run_cohort(cohort, out, check_start(settings, out, raw), raw=raw, work=work / "prepared")
    return experts_changes(data, out)


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
    """Export the stage that ships into the package, in half precision."""
    folder = work / SHIPPED.name / "model"
    description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    for key in ("format", "format_version", "weights_sha256"):
        description.pop(key)
    facts = training_facts(work, description["training"])
    description |= {"name": NAME, "caution": CAUTION, "licence": LICENCE, "training": facts}
    export_model(BUNDLED, load_model(folder).network, description, half=True)


def training_facts(work: Path, training: Mapping[str, Any]) -> dict[str, Any]:
    """What the weights were made with."""
    return {
        "recipe": "recipes/bundled_model.py",
        "commit": training["commit"],
        "versions": training["versions"],
        "stages": {
            name: {"iterations": stage.iterations, "cpu_minutes": cpu_minutes(work, name)} for name, stage in line()
        },
        "precision": training["precision"],
        "data": "simulated patients (MNI152 atlas), Ljubljana cross-sectional sub-07 and sub-19 (CC-BY)",
        "self_prior_share": SELF_PRIOR_SHARE,
    }


def line() -> list[tuple[str, Stage]]:
    """The stages that the weights went through, the first one first."""
    stages, stage = {stage.name: stage for stage in STAGES}, SHIPPED
    passed = [(stage.name, stage)]
    while stage.start:
        stage = stages[stage.start]
        passed.insert(0, (stage.name, stage))
    return passed


def cpu_minutes(work: Path, stage: str) -> float:
    """CPU time of a stage, all its interrupted parts together."""
    record = work / stage / "cpu_seconds.json"
    return round(float(json.loads(record.read_text(encoding="utf-8"))["seconds"]) / 60, 1)


def card(work: Path, rows: Sequence[Mapping[str, Any]], change: Mapping[str, Any]) -> str:
    """The model card."""
    scores = "\n".join(
        f"| {r['what']} | {r['dsc']:.3f} | {r['hd95_mm']:.1f} | {r['lesion_f1']:.3f} "
        f"| {r['reference_ml']:.1f} | {r['prediction_ml']:.1f} |"
        for r in rows
    )
    simulated = [r for r in rows if str(r["what"]).startswith("simulated")]
    return CARD.format(
        budget="\n".join(budget_row(stage, work) for stage in STAGES),
        scores=scores,
        **{f"mean_{key}": float(np.mean([r[key] for r in simulated])) for key in ("dsc", "hd95_mm", "lesion_f1")},
        atlas=ATLAS_PATIENTS,
        guises=len(GUISES),
        deformed=sum(not guise.untouched for guise in GUISES),
        own=AS_IT_IS,
        first_gamma=FIRST_GAMMA,
        tests=TEST_PATIENTS,
        share=SELF_PRIOR_SHARE,
        batch=PRESET.batch,
        foreground_share=RECIPE.foreground_share,
        precision=load_model(BUNDLED).description.training["precision"],
        change=change,
    )


def budget_row(stage: Stage, work: Path) -> str:
    """A stage in the table of the card."""
    patients = " + ".join(("atlas", *(f"sub-{label}" for label in stage.open_patients)))
    how = f"{stage.start or 'scratch'} | {stage.patch} | {stage.recipe.learning_rate} | {stage.iterations}"
    minutes = cpu_minutes(work, stage.name)
    commit = load_model(work / stage.name / "model").description.training["commit"][:7]
    return f"| {stage.name} | {stage.method} | {patients} | {how} | {minutes} | {commit} |"


CARD = """# The bundled model, version 4

Segments the white-matter lesions of every visit of a patient from T1w and FLAIR, using the visit before it
(difference weighting, Rokuss et al. 2024). It works offline on a CPU.

**Not for clinical decisions.** It was trained on two real patients and on simulated ones, and has not been validated on
a cohort: `run` flags every visit that it segments. It is no medical device, and must not be used to diagnose, to stage,
or to choose or change a treatment. Every mask needs an expert's look. It has not seen tumours, strokes, surgery,
children, contrast agent, spinal cord, or scanners below 1.5 T.

## How it was made
`recipes/bundled_model.py`, at the commits below; scored and written by `recipes/bundled_card.py`.

- Network: nnU-Net's plain U-Net, 16 to 256 features in five stages, difference weighting at every stage.
- Patients: both open labelled patients as they are (listed {own} times) and in {guises} guises each, with a second
  visit in which lesions vanish or are added and contrast, noise, brain mask and slices (1 to 5 mm) differ; {deformed}
  of these guises are deformed into another brain. {atlas} patients are simulated from the MNI152 atlas. The shapes of
  added lesions come from the other 23 open consensus masks.
- Data: University of Ljubljana, CC-BY (Lesjak et al., Neuroinformatics 16, 51-63, 2018); MNI152 (nilearn).
- First a single-visit nnU-Net on every visit; then difference weighting is added (gamma {first_gamma}, beta 0) and all
  weights learn from pairs, a share of {share} of which are self-priors, so that patients with one visit are served.
- Cubic patches (edge in the table), {batch} an iteration, {foreground_share} of them centred on a lesion; AdamW with
  polynomial decay, Dice + cross-entropy with deep supervision, nnU-Net's augmentation, {precision}.

| stage | method | patients | starts from | patch | learning rate | iterations | CPU minutes | commit |
|---|---|---|---|---|---|---|---|---|
{budget}

## Scores
Threshold 0.5, lesions under 3 mm3 left out on both sides. Means over both visits of {tests} simulated patients: DSC
{mean_dsc:.3f}, HD95 {mean_hd95_mm:.1f} mm, lesion F1 {mean_lesion_f1:.3f}.

The model that ships was trained on both open patients. The leave-one-out scores belong to the stages `-without-`, each
of which saw one real patient only (light or heavy, and thus the opposite of the one it is tested on) and had fewer
iterations (table). Two patients say little: no interval is given, and none should be inferred.

| what | DSC | HD95 mm | lesion F1 | reference ml | prediction ml |
|---|---|---|---|---|---|
{scores}

Simulated test patients have lesion shapes of the same 23 masks as training. The simulated partner and thick slices of
an open patient are made from its own images, with a few lesions gone and others painted in (procedural shapes; the
reference follows them): easier than real ones.

Raw visits of sub-12 (slices of 3 mm, whole head; never trained on), by `lesiondelta run`: of {change[brighter]} places
that experts marked as changed and that became brighter, {change[brighter_on_lesion_of_second_visit]} touch a lesion of
the second visit's mask; of {change[darker]} that became darker, {change[darker_on_lesion_of_first_visit]} one of the
first visit's. The masks hold {change[lesion_ml][0]:.1f} and {change[lesion_ml][1]:.1f} ml of a brain of
{change[brain_ml]:.0f} ml. There is no reference of all lesions, hence no Dice.
"""


if __name__ == "__main__":
    main()
