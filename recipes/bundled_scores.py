"""Measure the stages of `bundled_model.py`; `bundled_card.py` makes pictures, tables and the package of it.

    python recipes/bundled_scores.py WORK [--data DIR] [--threads N] [--part NAME]

Each part is kept as WORK/scores/PART.json, with hashes of the models it used, of the simulator and of this recipe, and
measured again where one of them changed.

The operating point (temperature, threshold, smallest lesion) is chosen on both open patients, each segmented by the
models that were trained without it; leave-one-out scores are given at 0.5 and at the other patient's point as well. Our
model and its single-visit twin are treated alike. CPU, no mirroring: what users without a GPU get.
"""

import hashlib
import itertools
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from bundled_model import SHIPPED, arguments, mean_of
from bundled_patients import RATES, simulator
from experts_changes import experts_changes
from open_patients import LJUBLJANA, ljubljana

from lesiondelta.evaluation.calibration import (
    LabelledVisit,
    OperatingPoint,
    agreement_grid,
    best_point,
    cooled,
    likeliest_temperature,
)
from lesiondelta.evaluation.instances import found as matches
from lesiondelta.evaluation.instances import lesion_mask, overlaps
from lesiondelta.evaluation.longitudinal import new_lesions
from lesiondelta.evaluation.metrics import score
from lesiondelta.files import write_json
from lesiondelta.images import Array, Grid, Volume, read_mask
from lesiondelta.inference.model import Model, load_model
from lesiondelta.inference.window import lesion_probabilities
from lesiondelta.inputs.bids import read_cohort
from lesiondelta.nnunet.export import export_model, named_weights
from lesiondelta.pipeline.cohort_run import check_start, run_cohort
from lesiondelta.pipeline.patient_run import RunPlan
from lesiondelta.settings import PreprocessingSettings, SegmentationSettings, Settings
from lesiondelta.simulation import Acquisition, Anatomy, LesionPlan, SimulatedPatient, simulate_patient
from lesiondelta.simulation.dataset import CohortPlan, write_cohort
from lesiondelta.simulation.evolution import Rates
from lesiondelta.simulation.labels import read_label_anatomy

OURS, TWIN = "pairs", "single"
PARTNER_SEED, RESCAN_SEED, ROBUST_SEED, UNSEEN_SEED, HEAD_SEED = 7000, 7100, 7200, 7300, 7400
UNCHANGING = Rates(new=0, enlarging=0, shrinking=0, resolved=0, quiet=1)
ROBUST_PATIENTS, RESCANNED_PATIENTS, UNSEEN_PATIENTS, HEADS = 2, 6, 4, 1
EASY = Acquisition(sharp_share=1.0, scanner=1, slice_mm=1.0, noise=0.02, residual_mm=0.0)
CONDITIONS: Mapping[str, Acquisition] = {
    "1 mm voxels, little noise, one scanner, no misregistration": EASY,
    **{f"slices of {mm:g} mm": replace(EASY, sharp_share=0.0, slice_mm=mm) for mm in (2.0, 3.0, 5.0)},
    **{f"noise {noise:g} of white matter": replace(EASY, noise=noise) for noise in (0.05, 0.1)},
    **{f"images off by up to {mm:g} mm": replace(EASY, residual_mm=mm) for mm in (0.5, 1.0, 2.0)},
    **{f"scanner {number} at the second visit": replace(EASY, scanner=number) for number in (2, 3)},
}


def main() -> None:
    """Measure what is not measured yet."""
    given = arguments(__doc__, list(PARTS))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    torch.set_num_threads(given.threads)
    for name in PARTS:
        if given.part in (None, name):
            measured(name, given.work, given.data, given.threads)


def measured(name: str, work: Path, data: Path, threads: int) -> Any:  # noqa: ANN401
    """A part's numbers, from its file where the models are the same."""
    kept = kept_scores(work, name)
    if kept is not None:
        return kept
    found = PARTS[name](work, data, threads)
    write_json(work / "scores" / f"{name}.json", made_with(work) | {"found": found})
    return found


def kept_scores(work: Path, name: str) -> Any:  # noqa: ANN401
    """A part's numbers if they have been measured with the same, else None."""
    file = work / "scores" / f"{name}.json"
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    found = content.pop("found", None)
    return found if content == made_with(work) else None


def made_with(work: Path) -> dict[str, Any]:
    """What numbers depend on, but for the package itself: after a change of it, leave out WORK/scores."""
    recipes = [Path(__file__).with_name(f"{module}.py") for module in ("bundled_scores", "experts_changes")]
    code = hashlib.sha256(b"".join(recipe.read_bytes() for recipe in recipes)).hexdigest()
    return {"models": models_of(work), "simulator": simulator(), "rates": str(RATES), "code": code}


def models_of(work: Path) -> dict[str, str]:
    """Hash of the weights of each stage that is scored; SystemExit where a file in half precision would change them."""
    stages = [f"{kind}{ending}" for kind in (OURS, TWIN) for ending in ("", *(f"-without-{p}" for p in LJUBLJANA))]
    models = {stage: load_model(work / stage / "averaged") for stage in stages}
    for stage, model in models.items():
        if any(not torch.equal(weight, weight.half().float()) for weight in named_weights(model.network).values()):
            raise SystemExit(f"{work / stage}/averaged is not rounded to half precision: run bundled_model.py again.")
    return {stage: model.description.weights_sha256 for stage, model in models.items()}


def scores(point: OperatingPoint, case: LabelledVisit) -> dict[str, float]:
    """Dice, HD95, lesion F1 and volumes at an operating point."""
    mask = point.mask(case)
    found = score(case.reference, mask, case.grid)
    volume = case.grid.voxel_volume_mm3 / 1000
    return {
        "dsc": found.dsc, "hd95_mm": found.hd95_mm, "lesion_f1": found.lesion_f1,
        "reference_ml": float(case.reference.sum() * volume), "prediction_ml": float(mask.sum() * volume),
    }  # fmt: skip


def choose(cases: Sequence[LabelledVisit]) -> OperatingPoint:
    """The operating point that these cases choose."""
    temperature = likeliest_temperature(cases)
    return best_point(temperature, agreement_grid(cases, temperature))


def reliability(case: LabelledVisit, temperature: float) -> list[dict[str, float]]:
    """Of each tenth of probability: its mean, how often it is lesion, and how many voxels it has."""
    p, truth = cooled(case.probability, temperature), case.reference
    bins = np.clip((p * 10).astype(int), 0, 9)
    rows = []
    for number in range(10):
        inside = (bins == number) & (case.probability > 0.001)
        if inside.sum() >= 20:
            rows.append(
                {"said": float(p[inside].mean()), "is": float(truth[inside].mean()), "voxels": int(inside.sum())}
            )
    return rows


def left_out(work: Path, data: Path, threads: int) -> dict[str, Any]:
    """The open patients by the models trained without them, and the operating points."""
    after, alone, twins = (
        {label: left_out_case(work, data, kind, label, partner=partner) for label in LJUBLJANA}
        for kind, partner in ((OURS, True), (OURS, False), (TWIN, False))
    )
    learned = {OURS: after, TWIN: twins}
    temperatures = {kind: likeliest_temperature(list(cases.values())) for kind, cases in learned.items()}
    found = {kind: agreement_grid(list(cases.values()), temperatures[kind]) for kind, cases in learned.items()}
    points = {kind: best_point(temperatures[kind], found[kind]) for kind in learned}
    rows = []
    for label in LJUBLJANA:
        for kind, visits, cases in (
            (OURS, "own after a simulated one", after), (OURS, "own", alone), (TWIN, "own", twins),
        ):  # fmt: skip
            other = choose([case for name, case in learned[kind].items() if name != label])
            for name, point in (("0.5", OperatingPoint()), ("of both", points[kind]), ("of the other", other)):
                told = {"patient": label, "model": kind, "visits": visits, "point": name}
                rows.append(told | scores(point, cases[label]))
                print(rows[-1], flush=True)
    grids = {
        kind: [
            {
                "threshold": point.threshold,
                "min_lesion_mm3": point.min_lesion_mm3,
                "dsc, lesion_f1": {label: (one.dsc, one.lesion_f1) for label, one in point.by_patient.items()},
            }
            for point in found[kind]
        ]
        for kind in learned
    }
    temperature = points[OURS].temperature
    curves = {
        label: {"before": reliability(case, 1.0), "after": reliability(case, temperature), "temperature": temperature}
        for label, case in after.items()
    }
    chosen = {kind: asdict(point) for kind, point in points.items()}
    return {"points": chosen, "grids": grids, "rows": rows, "reliability": curves}


@cache
def left_out_case(work: Path, data: Path, kind: str, label: str, *, partner: bool) -> LabelledVisit:
    """An open patient's own images, after a simulated earlier visit or alone, by a model that has not seen it."""
    model = load_model(work / f"{kind}-without-{label}" / "averaged")
    anatomy = anatomy_of_open(data, label)
    own = np.stack([anatomy.lesioned[contrast] for contrast in model.contrasts])
    visits = [own]
    if partner:
        made = simulate_patient(PARTNER_SEED, anatomy=anatomy, acquisition=Acquisition(sharp_share=1.0))
        visits = [stacked(made.visits[1].images, model), own]
    reference = np.asarray(anatomy.lesions) > 0
    return LabelledVisit(label, probabilities(visits, model)[-1], reference, grid_of(anatomy))


def grid_of(anatomy: Anatomy) -> Grid:
    """That of its images."""
    x, y, z = np.asarray(anatomy.lesions).shape
    return Grid((x, y, z), anatomy.affine)


@cache
def anatomy_of_open(data: Path, label: str) -> Anatomy:
    """An open patient, with lesions and without."""
    return ljubljana(data, label).anatomy(PARTNER_SEED)


def probabilities(visits: Sequence[Array], model: Model) -> list[Array]:
    """As a user without a GPU gets them."""
    return lesion_probabilities(visits, [model], mirroring=False, device="cpu")


def stacked(images: Mapping[str, Volume], model: Model) -> Array:
    """(C, X, Y, Z) in the order of the model's contrasts."""
    return np.stack([images[contrast].data for contrast in model.contrasts])


def spacing(grid: Grid) -> list[float]:
    """As a list."""
    return [float(mm) for mm in grid.spacing]


def contenders(work: Path, data: Path, threads: int) -> dict[str, Model]:
    """Our model and its twin in half precision, as ours ships, with their operating points."""
    points = measured("left-out", work, data, threads)["points"]
    return {kind: load_model(packaged(work, kind, points[kind])) for kind in (OURS, TWIN)}


def packaged(work: Path, kind: str, point: dict[str, float]) -> Path:
    """A model folder made of a stage."""
    model = load_model(work / kind / "averaged")
    description = model.description.model_dump(exclude={"weights_sha256"}) | {"name": kind} | point
    return export_model(work / "packaged" / kind, model.network, description, half=True)


def segmented(patient: SimulatedPatient, model: Model) -> list[Array]:
    """The masks of a patient's visits."""
    return masks_of([stacked(visit.images, model) for visit in patient.visits], model, patient.visits[0].lesions.grid)


def masks_of(visits: Sequence[Array], model: Model, grid: Grid) -> list[Array]:
    """At the model's operating point."""
    seen = probabilities(visits, model)
    return [lesion_mask(p, model.threshold, model.min_lesion_mm3, spacing(grid)) for p in seen]


def unseen_patients(
    data: Path,
    seed: int,
    count: int,
    acquisition: Acquisition,
    rates: Rates = Rates(),  # noqa: B008  (frozen)
) -> Iterator[SimulatedPatient]:
    """Patients simulated from label maps, whose brains no training saw; their lesions have procedural shapes."""
    maps = sorted((data / "ljubljana-tissue-labels").glob("*_dseg.nii.gz"))
    for number, path in enumerate(maps[:count]):
        yield simulate_patient(
            seed + number, anatomy=anatomy_of(path), acquisition=acquisition, lesions=LesionPlan(rates=rates)
        )


anatomy_of = cache(read_label_anatomy)


def unseen(work: Path, data: Path, threads: int) -> list[dict[str, Any]]:
    """Brains that no training saw, with lesions that change as often as the guises' do: mean over both visits."""
    rows = []
    models = contenders(work, data, threads)
    for patient in unseen_patients(data, UNSEEN_SEED, UNSEEN_PATIENTS, Acquisition(), rates=RATES):
        for kind, model in models.items():
            masks = segmented(patient, model)
            rows.append({"patient": patient.label, "model": kind} | agreement(patient, masks) | changes(patient, masks))
            print(rows[-1], flush=True)
    return rows


def changes(patient: SimulatedPatient, masks: Sequence[Array]) -> dict[str, int]:
    """New lesions, and gone ones (new with time reversed): how many there are, are found (IoU > 0.1), and are false."""
    truth = [visit.lesions.data > 0 for visit in patient.visits]
    volume = patient.visits[0].lesions.grid.voxel_volume_mm3
    counts: dict[str, int] = {}
    for name, (before, after) in {"new": (0, 1), "gone": (1, 0)}.items():
        table = overlaps(*(new_lesions(visits[before], visits[after], volume) for visits in (truth, masks)))
        counts |= {name: len(table.reference), f"{name}_found": int(matches(table).sum())}
        counts[f"{name}_false"] = int((~matches(table.reversed())).sum())
    return counts


def agreement(patient: SimulatedPatient, masks: Sequence[Array]) -> dict[str, float]:
    """Mean Dice and lesion F1 over the visits."""
    found = [
        score(visit.lesions.data > 0, mask, visit.lesions.grid)
        for visit, mask in zip(patient.visits, masks, strict=True)
    ]
    return {"dsc": float(np.mean([s.dsc for s in found])), "lesion_f1": float(np.mean([s.lesion_f1 for s in found]))}


def rescans(work: Path, data: Path, threads: int) -> list[dict[str, Any]]:
    """Patients in whom nothing changes, scanned twice with different protocols: lesions falsely called new."""
    rows = []
    models = contenders(work, data, threads)
    for patient in unseen_patients(data, RESCAN_SEED, RESCANNED_PATIENTS, Acquisition(), rates=UNCHANGING):
        volume = patient.visits[0].lesions.grid.voxel_volume_mm3
        for kind, model in models.items():
            first, second = segmented(patient, model)
            counts = {
                "false_new": int(new_lesions(first, second, volume).max()),
                "false_gone": int(new_lesions(second, first, volume).max()),
            }
            rows.append({"patient": patient.label, "model": kind} | counts | agreement(patient, [first, second]))
            print(rows[-1], flush=True)
    return rows


def robustness(work: Path, data: Path, threads: int) -> list[dict[str, Any]]:
    """The same patients under one difficulty at a time; where the scanner changes, first visits are the easy ones."""
    rows = []
    models = contenders(work, data, threads)
    easy = {patient.label: patient for patient in unseen_patients(data, ROBUST_SEED, ROBUST_PATIENTS, EASY)}
    for condition, acquisition in CONDITIONS.items():
        for patient in unseen_patients(data, ROBUST_SEED, ROBUST_PATIENTS, acquisition):
            if acquisition.scanner != EASY.scanner:
                patient = replace(patient, visits=(easy[patient.label].visits[0], *patient.visits[1:]))
            for kind, model in models.items():
                found = agreement(patient, segmented(patient, model))
                rows.append({"condition": condition, "patient": patient.label, "model": kind} | found)
                print(rows[-1], flush=True)
    return rows


def heads(work: Path, data: Path, threads: int) -> list[dict[str, Any]]:
    """Whole heads through `run`, with brain extraction and without."""
    raw = work / "scores" / "heads"
    write_cohort(raw, CohortPlan(HEADS, 2, HEAD_SEED, Acquisition(mode="native", sharp_share=1.0)))
    rows = []
    skull_strips: tuple[Literal["auto", "skip"], ...] = ("auto", "skip")
    for skull_strip, kind in itertools.product(skull_strips, (OURS, TWIN)):
        out = run(raw, work, data, kind, threads, skull_strip)
        for reference in sorted((raw / "derivatives" / "reference").rglob("*_label-L_mask.nii.gz")):
            visit = reference.name.partition("_space")[0]
            found = next(out.rglob(f"{visit}_space-orig_label-L_mask.nii.gz"), None)
            row: dict[str, Any] = {"brain extraction": skull_strip, "visit": visit, "model": kind}
            if found is not None:
                truth = read_mask(reference)
                scores = score(truth.data > 0, read_mask(found).data > 0, truth.grid)
                row |= {"dsc": scores.dsc, "lesion_f1": scores.lesion_f1}
            rows.append(row)
            print(row, flush=True)
    return rows


def sub_12(work: Path, data: Path, threads: int) -> dict[str, Any]:
    """The raw clinical pair against what experts marked as changed."""
    found = {}
    for kind in (OURS, TWIN):
        out = run(data / "ljubljana-longitudinal", work, data, kind, threads, "auto", ["12"])
        found[kind] = experts_changes(data, out)
        print(kind, found[kind], flush=True)
    return found


def run(
    raw: Path,
    work: Path,
    data: Path,
    kind: str,
    threads: int,
    skull_strip: Literal["auto", "skip"],
    participants: Sequence[str] | None = None,
) -> Path:
    """`lesiondelta run` with one of the contenders, in a new folder."""
    contenders(work, data, threads)
    out = run_folder(work, kind, raw.name, skull_strip)
    shutil.rmtree(out, ignore_errors=True)
    settings = Settings(
        preprocessing=PreprocessingSettings(threads=threads, skull_strip=skull_strip),
        segmentation=SegmentationSettings(models=(work / "packaged" / kind,), device="cpu", threads=threads),
    )
    cohort = read_cohort(raw, participants=participants)
    run_cohort(cohort, check_start(RunPlan(out, raw, settings, work / "prepared")))
    return out


def run_folder(work: Path, kind: str, name: str = "ljubljana-longitudinal", skull_strip: str = "auto") -> Path:
    """Where the outputs of `run` are."""
    return work / "scores" / f"{name}-{skull_strip}-{kind}"


def rounding(work: Path, data: Path, threads: int) -> list[dict[str, Any]]:
    """How many voxels of our masks of the open patients, own visit alone, differ from those of weights not rounded."""
    rounded = contenders(work, data, threads)[OURS]
    mean = replace(mean_of(SHIPPED, work), description=rounded.description)
    rows = []
    for label in LJUBLJANA:
        anatomy = anatomy_of_open(data, label)
        own = np.stack([anatomy.lesioned[contrast] for contrast in rounded.contrasts])
        mask, other = (masks_of([own], model, grid_of(anatomy))[0] for model in (rounded, mean))
        rows.append({"patient": label, "voxels": int(mask.sum()), "differ": int((mask != other).sum())})
        print(rows[-1], flush=True)
    return rows


def seconds(work: Path, data: Path, threads: int) -> dict[str, float]:
    """Wall clock of segmenting a whole-brain pair at 1 mm, ours and the twin's, on a machine that does nothing else."""
    (patient,) = unseen_patients(data, UNSEEN_SEED, 1, Acquisition())
    found: dict[str, float] = {
        "threads": threads,
        "brain_ml": float(np.count_nonzero(patient.visits[0].images["T1w"].data) / 1000),
    }
    for kind, model in contenders(work, data, threads).items():
        images = [stacked(visit.images, model) for visit in patient.visits]
        started = time.perf_counter()
        probabilities(images, model)
        found[kind] = time.perf_counter() - started
    print(found, flush=True)
    return found


PARTS: Mapping[str, Callable[[Path, Path, int], Any]] = {
    "left-out": left_out,
    "sub-12": sub_12,
    "rescans": rescans,
    "robustness": robustness,
    "unseen": unseen,
    "heads": heads,
    "rounding": rounding,
    "seconds": seconds,
}

if __name__ == "__main__":
    main()
