"""The open patients, each by the models that have not seen it: parts `left-out` and `raw` of `bundled_scores.py`.

`left-out` takes the images that the training takes, as they are, without their T1w, and (of Ljubljana's patients) after
an earlier visit that is simulated. It chooses the operating point: the temperature of the highest likelihood over all
patients, then threshold and smallest lesion on all (`of all`, which is what ships), or on all but the one that is
scored (`of the others`). `raw` takes Tabriz's images as they come from the scanner through `run`, with T1w and FLAIR
and with FLAIR alone, scores the masks on the FLAIR's own grid, and does the same with version 8 of the model, which
saw none of them.

Both sites count alike in the choice. By patient, the seven of Tabriz alone would choose 0.8 and 8 mm3, at which the
heavy patient of Ljubljana loses a third of its lesions; this rule was made when that had been seen.
"""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from bundled_model import LEFT_OUT, REPOSITORY, THIRDS
from bundled_patients import open_person
from open_patients import LJUBLJANA, TABRIZ

from lesiondelta.evaluation.calibration import (
    Agreement,
    GridPoint,
    LabelledVisit,
    OperatingPoint,
    agreement_grid,
    best_point,
    cooled,
    likeliest_temperature,
    mean_agreement,
)
from lesiondelta.evaluation.metrics import score
from lesiondelta.images import Array, Grid, Volume, read_mask
from lesiondelta.inference.model import Model, load_model
from lesiondelta.inference.window import lesion_probabilities
from lesiondelta.inputs.bids import read_cohort
from lesiondelta.nnunet.export import export_model
from lesiondelta.pipeline.cohort_run import check_start, run_cohort
from lesiondelta.pipeline.patient_run import RunPlan
from lesiondelta.settings import PreprocessingSettings, SegmentationSettings, Settings
from lesiondelta.simulation import Acquisition, Anatomy, simulate_patient

OURS, TWIN = "pairs", "single"
OWN, AFTER, FLAIR_ONLY = "own", "own after a simulated one", "own, FLAIR only"
PARTNER_SEED = 7000
PART_OF = {label: part for part, labels in THIRDS.items() for label in labels}
SITES = {label: site for site in ("tabriz", "ljubljana") for label in LEFT_OUT[site]}
VERSION_8 = "a5aaf02"
"""A commit whose package has the last model that learned from one site."""
OPTIONAL = ("T1w",)
"""Contrasts that a visit may lack."""
Row = dict[str, Any]


def is_trained(work: Path, stage: str) -> bool:
    """Whether a stage is done."""
    return (work / stage / "averaged" / "model.json").is_file()


def kinds(work: Path) -> list[str]:
    """The methods that every part has been left out of."""
    return [kind for kind in (OURS, TWIN) if all(is_trained(work, f"{kind}-without-{part}") for part in THIRDS)]


def left_out(work: Path, data: Path, threads: int) -> dict[str, Any]:
    """Scores of all open patients at three operating points, and the points."""
    rows: list[Row] = []
    points: dict[str, dict[str, float]] = {}
    grids: dict[str, list[Row]] = {}
    curves: Row = {}
    for kind in kinds(work):
        own = {label: left_out_case(work, data, f"{kind}-without-{part}", label) for label, part in PART_OF.items()}
        temperature = likeliest_temperature(list(own.values()))
        grid = agreement_grid(list(own.values()), temperature)
        of_all = best_point(temperature, [by_site(point) for point in grid])
        points[kind], grids[kind] = asdict(of_all), [told(point) for point in grid]
        if kind == OURS:
            curves = {label: curve(case, temperature) for label, case in own.items()}
        for label, part in PART_OF.items():
            chosen = {
                "0.5": OperatingPoint(), "of all": of_all,
                "of the others": best_point(temperature, [by_site(without(point, label)) for point in grid]),
            }  # fmt: skip
            cases = {OWN: own[label], FLAIR_ONLY: left_out_case(work, data, f"{kind}-without-{part}", label, "FLAIR")}
            if kind == OURS and label in LJUBLJANA:
                cases[AFTER] = left_out_case(work, data, f"{kind}-without-{part}", label, partner=True)
            if is_trained(work, stage := f"{kind}-without-{SITES[label]}"):
                cases["own, site left out"] = left_out_case(work, data, stage, label)
            for visits, case in cases.items():
                for name, point in chosen.items():
                    about = {"patient": label, "model": kind, "visits": visits, "point": name} | asdict(point)
                    rows.append(about | scores(point.mask(case), case.reference, case.grid))
                    print(rows[-1], flush=True)
    return {"points": points, "grids": grids, "rows": rows, "reliability": curves}


@cache
def left_out_case(
    work: Path, data: Path, stage: str, label: str, only: str | None = None, *, partner: bool = False
) -> LabelledVisit:
    """An open patient's own images, or one contrast of them, after a simulated earlier visit or alone."""
    model, anatomy = load_model(work / stage / "averaged"), anatomy_of_open(data, work, label)
    own = np.stack([anatomy.lesioned[contrast] * (only in (None, contrast)) for contrast in model.contrasts])
    visits = [own]
    if partner:
        made = simulate_patient(PARTNER_SEED, anatomy=anatomy, acquisition=Acquisition(sharp_share=1.0))
        visits = [stacked(made.visits[1].images, model), own]
    reference = np.asarray(anatomy.lesions) > 0
    return LabelledVisit(label, probabilities(visits, model)[-1], reference, grid_of(anatomy))


@cache
def anatomy_of_open(data: Path, work: Path, label: str) -> Anatomy:
    """An open patient, with lesions and without."""
    return open_person(data, work, label).anatomy(PARTNER_SEED)


def grid_of(anatomy: Anatomy) -> Grid:
    """That of its images."""
    x, y, z = np.asarray(anatomy.lesions).shape
    return Grid((x, y, z), anatomy.affine)


def probabilities(visits: Sequence[Array], model: Model) -> list[Array]:
    """As a user without a GPU gets them."""
    return lesion_probabilities(visits, [model], mirroring=False, device="cpu", backend="auto")


def stacked(images: Mapping[str, Volume], model: Model) -> Array:
    """(C, X, Y, Z) in the order of the model's contrasts."""
    return np.stack([images[contrast].data for contrast in model.contrasts])


def scores(mask: Array, reference: Array, grid: Grid) -> Row:
    """Dice, HD95, of lesions F1, precision and the share that touches a true one, and volumes."""
    found = score(reference, mask, grid)
    return {
        "dsc": found.dsc, "hd95_mm": found.hd95_mm, "lesion_f1": found.lesion_f1,
        "lesion_precision": found.lesion_precision, "touching": 1 - found.lfpr,
        "reference_ml": found.reference_volume_mm3 / 1000, "prediction_ml": found.predicted_volume_mm3 / 1000,
    }  # fmt: skip


def without(point: GridPoint, label: str) -> GridPoint:
    """What the other patients say of a point."""
    return replace(point, by_patient={name: one for name, one in point.by_patient.items() if name != label})


def by_site(point: GridPoint) -> GridPoint:
    """The mean of each site's patients in place of the patients."""
    sites: dict[str, list[Agreement]] = {}
    for label, one in point.by_patient.items():
        sites.setdefault(SITES[label], []).append(one)
    return replace(point, by_patient={site: mean_agreement(known) for site, known in sites.items()})


def told(point: GridPoint) -> Row:
    """A point of the grid, as plain JSON."""
    agreed = {label: (one.dsc, one.lesion_f1) for label, one in point.by_patient.items()}
    return {"threshold": point.threshold, "min_lesion_mm3": point.min_lesion_mm3, "dsc, lesion_f1": agreed}


def curve(case: LabelledVisit, temperature: float) -> Row:
    """How often what is said is so, before and after the temperature."""
    return {"before": reliability(case, 1.0), "after": reliability(case, temperature), "temperature": temperature}


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


def raw(work: Path, data: Path, threads: int, of_left_out: Sequence[Row]) -> list[Row]:
    """Tabriz's raw heads through `run`, each at the operating point that the other patients chose (`left_out`)."""
    rows: list[Row] = []
    chosen = {row["patient"]: row for row in of_left_out if row["model"] == OURS and row["point"] == "of the others"}
    both, flair_only = data / "tabriz", only_flair(data / "tabriz", work / "tabriz-flair-only")
    for label in TABRIZ:
        point = {name: chosen[label][name] for name in asdict(OperatingPoint())}
        ours = packaged(work, f"{OURS}-without-{PART_OF[label]}", f"left-out-{label}", point)
        for name, model, images in (
            ("version 8", version_8(work), both), ("left out", ours, both), ("left out", ours, flair_only),
        ):  # fmt: skip
            out = work / "scores" / f"{images.name}-{name.replace(' ', '-')}"
            run(images, out, work / "prepared" / images.name, model, threads, participants=[label])
            about = {"patient": label, "model": name, "images": "FLAIR" if images == flair_only else "T1w + FLAIR"}
            rows.append(about | on_own_grid(data, out, label))
            print(rows[-1], flush=True)
    return rows


def on_own_grid(data: Path, out: Path, label: str) -> Row:
    """Scores of a mask of `run`; of what experts say is not MS, how much there is and the share that is marked."""
    stem = f"sub-{label}/anat/sub-{label}_space-orig_label-L"
    experts = data / "tabriz" / "derivatives" / "reference"
    found = out / f"{stem}_mask.nii.gz"
    if not found.is_file():
        return {}
    truth, mask = read_mask(experts / f"{stem}_mask.nii.gz"), read_mask(found).data
    row = scores(mask, truth.data, truth.grid)
    not_ms = experts / f"{stem}_desc-notMS_mask.nii.gz"
    if not_ms.is_file():
        bright = read_mask(not_ms).data & ~truth.data
        row["not_ms_ml"] = float(bright.sum() * truth.grid.voxel_volume_mm3 / 1000)
        row["not_ms_marked"] = float(mask[bright].mean())
    return row


def only_flair(dataset: Path, folder: Path) -> Path:
    """A copy of a dataset without its other images."""
    if not folder.is_dir():
        begun = folder.with_name(f"{folder.name}-begun")
        shutil.rmtree(begun, ignore_errors=True)
        shutil.copytree(dataset, begun, ignore=shutil.ignore_patterns("derivatives", "*_T1w.*", "*_T2w.*"))
        begun.rename(folder)
    return folder


def packaged(work: Path, stage: str, name: str, point: Mapping[str, float]) -> Path:
    """A model folder made of a stage, in half precision, as ours ships."""
    model = load_model(work / stage / "averaged")
    description = model.description.model_dump(exclude={"weights_sha256"})
    description |= {"name": name, "optional": OPTIONAL, **point}
    return export_model(work / "packaged" / name, model.network, description, half=True)


def version_8(work: Path) -> Path:
    """The last model that learned from one site, from the repository's history."""
    folder, source = work / "version-8", "src/lesiondelta/models/bundled"
    for name in ("model.json", "weights.safetensors"):
        content = subprocess.run(
            ["git", "show", f"{VERSION_8}:{source}/{name}"], cwd=REPOSITORY, check=True, capture_output=True
        ).stdout
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def run(
    dataset: Path,
    out: Path,
    prepared: Path,
    model: Path,
    threads: int,
    *,
    participants: Sequence[str] | None = None,
    skull_strip: Literal["auto", "skip"] = "auto",
) -> None:
    """`lesiondelta run` with a model."""
    settings = Settings(
        preprocessing=PreprocessingSettings(threads=threads, skull_strip=skull_strip),
        segmentation=SegmentationSettings(models=(model,), device="cpu", threads=threads),
    )
    run_cohort(read_cohort(dataset, participants=participants), check_start(RunPlan(out, dataset, settings, prepared)))
