"""Train the model that comes with lesiondelta; `bundled_card.py` scores it and writes it into the package.

    python recipes/bundled_model.py WORK [--data DIR] [--device auto|cpu|cuda] [--threads N] [--stage NAME]

WORK keeps patients, checkpoints and logs; the command continues where it was stopped. The stages:

1. `single`   a single-visit nnU-Net on every visit of the open labelled patients (CC-BY), of their guises and of
              simulated patients, from scratch;
2. `pairs`    difference weighting on the same patients, from `single`: its weights start small, so that the network
              starts as the one it comes from. This is what ships, in half precision;
3. `single-without-07`, `pairs-without-07`, and the same for 19: without that open patient and with fewer
              iterations, for leave-one-out.

An open patient is seen as it is, and in guises with a second visit: on its own images, lesions vanish and others
appear, in the shapes and at the places of other patients' lesions, and scanner, slices and noise change; most guises
are deformed into another brain first. Without the open images (`--data`, default $LESIONDELTA_DATA or ../shared/data)
`single` and `pairs` are trained on patients simulated from the MNI152 atlas alone.
"""

import argparse
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from torch import nn

from lesiondelta import methods, simulation
from lesiondelta.files import write_json, write_text
from lesiondelta.images import Volume, read_image, read_mask, write_volume
from lesiondelta.inference import load_model
from lesiondelta.methods import Recipe
from lesiondelta.networks.unet import DifferenceWeighting
from lesiondelta.nnunet.cohort import TrainingPatient, TrainingVisit
from lesiondelta.nnunet.export import export_model
from lesiondelta.nnunet.job import Progress
from lesiondelta.nnunet.presets import Preset
from lesiondelta.nnunet.training import plan_job, train
from lesiondelta.simulation import Acquisition, Anatomy, SimulatedPatient, deformed, image_anatomy, simulate_patient

REPOSITORY = Path(__file__).parents[1]
BUNDLED = REPOSITORY / "src" / "lesiondelta" / "models" / "bundled"

SEED = 0
SELF_PRIOR_SHARE = 0.35  # so that a patient with one visit is served too
FIRST_GAMMA = 0.1  # of difference weighting, where the features have been learned without it
OPEN_PATIENTS = ("07", "19")
ATLAS_PATIENTS, ATLAS_SEED = 12, 1000
RECIPE = Recipe(optimiser="adamw", learning_rate=2e-3, momentum=0.9, weight_decay=1e-4, foreground_share=0.5)
PRESET = Preset("bundled", 1, 25, 1, patch=None, batch=2, base_features=16, max_features=256)


@dataclass(frozen=True)
class Guise:
    """How an open patient is made into a training patient with two visits.

    `untouched` keeps the patient's own image as the first visit; otherwise the brain is deformed into another one.
    `lesions` are those added to its own ones (None: a few); `sharp_share` is the share of visits with 1 mm voxels.
    """

    untouched: bool = False
    lesions: int | None = None
    sharp_share: float = 1.0


GUISE_SEED = 5000
GUISES = (
    *(Guise(untouched=True, lesions=lesions) for lesions in (3, 5, 8, 12)),
    *(Guise(lesions=lesions) for lesions in (None, None, None, None, 20, 20)),
    *(Guise(lesions=lesions, sharp_share=0.0) for lesions in (None, None, None, None, None, 10, 20, 20)),
    *(Guise(lesions=lesions, sharp_share=0.5) for lesions in (None, None, 25, 35, 50)),
)
AS_IT_IS = 8  # times that an open patient's own visit is listed; patients are drawn uniformly


@dataclass(frozen=True)
class Stage:
    """One training: the method, which open patients it sees, for how many epochs, and the stage it starts from.

    `patch` is the edge in voxels: small where features are learned, larger where the network learns what surrounds a
    lesion.
    """

    name: str
    method: str
    open_patients: tuple[str, ...]
    epochs: int
    patch: int
    start: str | None = None

    @property
    def recipe(self) -> Recipe:
        """Half the learning rate where the stage starts from another."""
        return replace(RECIPE, learning_rate=RECIPE.learning_rate / 2) if self.start else RECIPE

    @property
    def preset(self) -> Preset:
        """Size of network and training."""
        return replace(PRESET, epochs=self.epochs, patch=(self.patch,) * 3)

    @property
    def iterations(self) -> int:
        """Batches in all."""
        return self.epochs * PRESET.iterations_per_epoch


STAGES = (
    Stage("single", "nnunet", OPEN_PATIENTS, 160, 64),
    Stage("pairs", "difference_weighting", OPEN_PATIENTS, 48, 80, "single"),
    Stage("single-without-07", "nnunet", ("19",), 36, 64),
    Stage("pairs-without-07", "difference_weighting", ("19",), 8, 80, "single-without-07"),
    Stage("single-without-19", "nnunet", ("07",), 36, 64),
    Stage("pairs-without-19", "difference_weighting", ("07",), 8, 80, "single-without-19"),
)
SHIPPED = STAGES[1]


def main() -> None:
    """Run the stages that are not done."""
    given = arguments(__doc__)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    with_data = (given.data / "ljubljana-cross-sectional").is_dir()
    for stage in STAGES if with_data else [replace(stage, open_patients=()) for stage in STAGES[:2]]:
        if given.stage in (None, stage.name):
            run_stage(stage, list(training_patients(stage, given.work, given.data)), given)


def training_patients(stage: Stage, work: Path, data: Path) -> Iterator[TrainingPatient]:
    """Simulated patients, and the stage's open ones as they are and in their guises."""
    for seed in range(ATLAS_SEED, ATLAS_SEED + ATLAS_PATIENTS):
        yield atlas_patient(work, seed, data)
    for label in stage.open_patients:
        guises = [open_guise(work, label, number, guise, data) for number, guise in enumerate(GUISES)]
        own = next(made for made, guise in zip(guises, GUISES, strict=True) if guise.untouched).visits[:1]
        yield from (TrainingPatient(f"open{label}own{number}", own) for number in range(AS_IT_IS))
        yield from guises


def run_stage(stage: Stage, patients: Sequence[TrainingPatient], given: argparse.Namespace) -> Path:
    """Train one stage, or return at once if it is done."""
    clock, method = Clock(given.work / stage.name / "cpu_seconds.json"), methods.load(stage.method)
    job = plan_job(
        patients,
        given.work / stage.name,
        replace(method, recipe=stage.recipe),
        stage.preset,
        seed=SEED,
        device=given.device,
        threads=given.threads,
        initial_weights=with_difference_weighting(given.work / stage.start) if stage.start else None,
        self_prior_share=SELF_PRIOR_SHARE if method.longitudinal else 0.0,
    )
    return train(patients, job, clock.report)


def with_difference_weighting(stage: Path) -> Path:
    """The single-visit model of a stage with difference weighting added, gamma `FIRST_GAMMA` and beta 0."""
    folder, model = stage / "with_difference_weighting", load_model(stage / "model")
    if not folder.is_dir():
        network, description = model.network, model.description
        network.fusion = nn.ModuleList(DifferenceWeighting(features) for features in network.encoder.output_channels)
        for weighting in network.fusion:
            nn.init.constant_(weighting.norm.weight, FIRST_GAMMA)
        of_pairs = {"class": methods.load("difference_weighting").network, "kwargs": description.network["kwargs"]}
        changed = {"method": "difference_weighting", "network": of_pairs}
        export_model(folder, network, description.model_dump(exclude={"weights_sha256"}) | changed)
    return folder


class Clock:
    """Prints the course of a training, and adds its CPU time to a file after every epoch."""

    def __init__(self, record: Path) -> None:
        self.record = record
        self.counted = time.process_time()

    def report(self, progress: Progress) -> None:
        """One line per iteration."""
        dice = f" Dice {progress.dice:.3f}" if progress.dice is not None else ""
        place = f"epoch {progress.epoch} iteration {progress.iteration}"
        print(f"{time.strftime('%H:%M:%S')} {place} loss {progress.train_loss:.4f}{dice}", flush=True)
        if progress.dice is not None:
            spent = json.loads(self.record.read_text())["seconds"] if self.record.is_file() else 0.0
            now = time.process_time()
            write_json(self.record, {"seconds": spent + now - self.counted})
            self.counted = now


def atlas_patient(work: Path, seed: int, data: Path) -> TrainingPatient:
    """A patient made from the atlas."""
    return stored(work, f"atlas{seed}", str(seed), lambda: simulate_patient(seed, lesion_masks=lesion_masks(data)))


def lesion_masks(data: Path) -> list[Path]:
    """Masks that lend their shapes: of all open patients but the two that test."""
    masks = sorted((data / "ljubljana-lesion-masks").glob("*_mask.nii.gz"))
    return [mask for mask in masks if not any(f"sub-{label}_" in mask.name for label in OPEN_PATIENTS)]


def open_guise(work: Path, label: str, number: int, guise: Guise, data: Path) -> TrainingPatient:
    """A real labelled patient as a training patient with two visits."""
    seed = GUISE_SEED + 100 * int(label) + number

    def make() -> SimulatedPatient:
        anatomy = open_anatomy(data, label, seed)
        if not guise.untouched:
            anatomy = deformed(anatomy, seed)
        made = simulate_patient(
            seed,
            anatomy=anatomy,
            acquisition=Acquisition(sharp_share=guise.sharp_share),
            lesion_masks=lesion_masks(data),
            lesion_count=guise.lesions,
        )
        return with_own_visit(made, anatomy) if guise.untouched else made

    return stored(work, f"open{label}guise{number}", f"{seed} {guise}", make)


def with_own_visit(patient: SimulatedPatient, anatomy: Anatomy) -> SimulatedPatient:
    """The patient with the real images and lesions as first visit (not in its instance map or the changes)."""
    first = patient.visits[0]
    own = {name: first.images[name].with_data(image) for name, image in anatomy.lesioned.items()}
    lesions = first.lesions.with_data(np.asarray(anatomy.lesions) > 0)
    return replace(patient, visits=(replace(first, images=own, lesions=lesions), *patient.visits[1:]))


def stored(work: Path, label: str, arguments: str, make: Callable[[], SimulatedPatient]) -> TrainingPatient:
    """Simulate a patient once, and keep the files until the simulator or the arguments change."""
    folder = work / "patients" / label
    identity, record = f"{simulator()} {arguments}", folder / "identity"
    if not record.is_file() or record.read_text() != identity:
        record.unlink(missing_ok=True)
        print(f"simulating {label}", flush=True)
        for number, visit in enumerate(make().visits):
            for name, image in {**visit.images, "lesions": visit.lesions}.items():
                write_volume(folder / f"{number}_{name}.nii.gz", image)
        write_text(record, identity)
    return TrainingPatient(label, tuple(_visit(folder, number) for number in range(2)))


@cache
def simulator() -> str:
    """Hash of the simulator's source."""
    sources = sorted(Path(simulation.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def _visit(folder: Path, number: int) -> TrainingVisit:
    images = {name: folder / f"{number}_{name}.nii.gz" for name in ("T1w", "FLAIR")}
    return TrainingVisit(f"{number + 1:02d}", images, folder / f"{number}_lesions.nii.gz")


def open_anatomy(data: Path, label: str, seed: int) -> Anatomy:
    """The anatomy of an open labelled patient."""
    t1w, flair, lesions = open_patient(data, label)
    return image_anatomy(t1w, flair, lesions, seed)


def open_patient(data: Path, label: str) -> tuple[Volume, Volume, Volume]:
    """T1w, FLAIR and reference mask of an open labelled patient."""
    stem = data / "ljubljana-cross-sectional" / f"sub-{label}" / "anat" / f"sub-{label}_space-MNI152"
    t1w, flair = (read_image(Path(f"{stem}_{name}.nii.gz")) for name in ("T1w", "FLAIR"))
    return t1w, flair, read_mask(Path(f"{stem}_label-lesion_mask.nii.gz"))


def arguments(description: str | None) -> argparse.Namespace:
    """What both recipes are given on the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("LESIONDELTA_DATA", REPOSITORY.parent / "shared" / "data")
    parser.add_argument("work", type=Path, help="folder for patients, checkpoints and logs")
    parser.add_argument("--data", type=Path, default=Path(default), help="the open MS images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--stage", choices=[stage.name for stage in STAGES], help="this one alone")
    return parser.parse_args()


if __name__ == "__main__":
    main()
