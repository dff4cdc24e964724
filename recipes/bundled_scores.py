"""Measure the stages of `bundled_model.py`; `bundled_card.py` makes pictures, tables and the package of it.

    python recipes/bundled_scores.py WORK [--data DIR] [--threads N] [--part NAME]

Each part is kept as WORK/scores/PART.json, with hashes of the models it used, of the simulator and of this recipe, and
measured again where one of them changed.

The operating point (temperature, threshold, smallest lesion) is chosen on the open patients, each segmented by the
models that were trained without it (`bundled_left_out.py`). Our model and its single-visit twin, where that is trained,
are treated alike. CPU, no mirroring: what users without a GPU get.
"""

import hashlib
import itertools
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from bundled_left_out import (
    OURS,
    anatomy_of_open,
    grid_of,
    is_trained,
    left_out,
    packaged,
    probabilities,
    raw,
    run,
    stacked,
)
from bundled_model import SHIPPED, STAGES, arguments, mean_of
from bundled_patients import RATES, simulator
from experts_changes import experts_changes
from open_patients import LJUBLJANA

from lesiondelta.evaluation.instances import found as matches
from lesiondelta.evaluation.instances import lesion_mask, overlaps
from lesiondelta.evaluation.longitudinal import new_lesions
from lesiondelta.evaluation.metrics import score
from lesiondelta.files import write_json
from lesiondelta.images import Array, Grid, read_mask
from lesiondelta.inference.model import Model, load_model
from lesiondelta.nnunet.export import named_weights
from lesiondelta.simulation import Acquisition, LesionPlan, SimulatedPatient, simulate_patient
from lesiondelta.simulation.dataset import CohortPlan, write_cohort
from lesiondelta.simulation.evolution import Rates
from lesiondelta.simulation.labels import read_label_anatomy

RESCAN_SEED, ROBUST_SEED, UNSEEN_SEED, HEAD_SEED = 7100, 7200, 7300, 7400
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
    modules = ("bundled_scores", "bundled_left_out", "experts_changes")
    recipes = [Path(__file__).with_name(f"{module}.py") for module in modules]
    code = hashlib.sha256(b"".join(recipe.read_bytes() for recipe in recipes)).hexdigest()
    return {"models": models_of(work), "simulator": simulator(), "rates": str(RATES), "code": code}


def models_of(work: Path) -> dict[str, str]:
    """Hash of the weights of each stage that is scored; SystemExit where a file in half precision would change them."""
    stages = [stage.name for stage in STAGES if not stage.of_atlas and is_trained(work, stage.name)]
    models = {stage: load_model(work / stage / "averaged") for stage in stages}
    for stage, model in models.items():
        if any(not torch.equal(weight, weight.half().float()) for weight in named_weights(model.network).values()):
            raise SystemExit(f"{work / stage}/averaged is not rounded to half precision: run bundled_model.py again.")
    return {stage: model.description.weights_sha256 for stage, model in models.items()}


def spacing(grid: Grid) -> list[float]:
    """As a list."""
    return [float(mm) for mm in grid.spacing]


def contenders(work: Path, data: Path, threads: int) -> dict[str, Path]:
    """Our model and, if it is trained, its twin in half precision, as ours ships, with their operating points."""
    points = measured("left-out", work, data, threads)["points"]
    return {kind: packaged(work, kind, kind, point) for kind, point in points.items() if is_trained(work, kind)}


def contending(work: Path, data: Path, threads: int) -> dict[str, Model]:
    """The same, loaded."""
    return {kind: load_model(folder) for kind, folder in contenders(work, data, threads).items()}


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
    models = contending(work, data, threads)
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
    models = contending(work, data, threads)
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
    models = contending(work, data, threads)
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
    models = contenders(work, data, threads)
    for skull_strip, kind in itertools.product(skull_strips, models):
        out = run_folder(work, kind, raw.name, skull_strip)
        shutil.rmtree(out, ignore_errors=True)
        run(raw, out, work / "prepared", models[kind], threads, skull_strip=skull_strip)
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
    for kind, model in contenders(work, data, threads).items():
        out = run_folder(work, kind)
        shutil.rmtree(out, ignore_errors=True)
        run(data / "ljubljana-longitudinal", out, work / "prepared", model, threads, participants=["12"])
        found[kind] = experts_changes(data, out)
        print(kind, found[kind], flush=True)
    return found


def run_folder(work: Path, kind: str, name: str = "ljubljana-longitudinal", skull_strip: str = "auto") -> Path:
    """Where the outputs of `run` are."""
    return work / "scores" / f"{name}-{skull_strip}-{kind}"


def rounding(work: Path, data: Path, threads: int) -> list[dict[str, Any]]:
    """How many voxels of our masks of the open patients, own visit alone, differ from those of weights not rounded."""
    rounded = contending(work, data, threads)[OURS]
    mean = replace(mean_of(SHIPPED, work), description=rounded.description)
    rows = []
    for label in LJUBLJANA:
        anatomy = anatomy_of_open(data, work, label)
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
    for kind, model in contending(work, data, threads).items():
        images = [stacked(visit.images, model) for visit in patient.visits]
        started = time.perf_counter()
        probabilities(images, model)
        found[kind] = time.perf_counter() - started
    print(found, flush=True)
    return found


PARTS: Mapping[str, Callable[[Path, Path, int], Any]] = {
    "left-out": left_out,
    "raw": lambda work, data, threads: raw(work, data, threads, measured("left-out", work, data, threads)["rows"]),
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
