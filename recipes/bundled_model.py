"""Train the model that comes with lesiondelta; `bundled_card.py` scores it and writes it into the package.

    python recipes/bundled_model.py WORK [--data DIR] [--device auto|cpu|cuda] [--threads N] [--stage NAME]

WORK keeps patients, checkpoints and logs; the command continues where it was stopped. The stages:

1. `final`    both open labelled patients (CC-BY) and simulated ones, from scratch or from `--initial`;
2. `without-07`, `without-19`   the same with only one of the open patients, and fewer iterations;
3. `refined`  from `final`, at a smaller learning rate. This is what ships, in half precision;
4. `refined-without-07`, `refined-without-19`   the same from the stages without that patient: leave-one-out.

An open patient is given many second visits: on its own images, lesions vanish and others appear, in the shapes and at
the places of other patients' lesions, and scanner, slices and noise change. `--initial` must not have seen the open
patients, or leave-one-out means nothing. Without the open images (`--data`, default $LESIONDELTA_DATA or
../shared/data) `final` and `refined` are trained on patients simulated from the MNI152 atlas alone.
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

from lesiondelta import methods, simulation
from lesiondelta.files import write_json, write_text
from lesiondelta.images import Volume, read_image, read_mask, write_volume
from lesiondelta.methods import Recipe
from lesiondelta.nnunet.cohort import TrainingPatient, TrainingVisit
from lesiondelta.nnunet.job import Progress
from lesiondelta.nnunet.presets import Preset
from lesiondelta.nnunet.training import train
from lesiondelta.simulation import Acquisition, Anatomy, SimulatedPatient, image_anatomy, simulate_patient

REPOSITORY = Path(__file__).parents[1]
BUNDLED = REPOSITORY / "src" / "lesiondelta" / "models" / "bundled"

SEED = 0
SELF_PRIOR_SHARE = 0.35  # so that a patient with one visit is served too
OPEN_PATIENTS = ("07", "19")
ATLAS_PATIENTS, ATLAS_SEED = 8, 1000
RECIPE = Recipe(optimiser="adamw", learning_rate=3e-3, momentum=0.9, weight_decay=1e-4, foreground_share=0.5)
PRESET = Preset("bundled", 28, 25, 1, patch=(64, 64, 64), batch=2, base_features=16, max_features=256)


@dataclass(frozen=True)
class Variant:
    """How an open patient is made into a training patient with two visits.

    `untouched` keeps the patient's own image as the first visit. `lesions` are those added to its own ones (None: a
    few); `sharp_share` is the share of visits with 1 mm voxels.
    """

    untouched: bool = False
    lesions: int | None = None
    sharp_share: float = 1.0


VARIANT_SEED = 5000
VARIANTS = (
    *(Variant(untouched=True, lesions=lesions) for lesions in (3, 12)),
    *(Variant(lesions=lesions) for lesions in (None, None, 20)),
    *(Variant(lesions=lesions, sharp_share=0.0) for lesions in (None, None, None, 10, 20)),
    *(Variant(lesions=lesions, sharp_share=0.5) for lesions in (25, 35, 50)),
)


@dataclass(frozen=True)
class Stage:
    """One training: which open patients it sees, for how many epochs, and the stage that it starts from."""

    name: str
    open_patients: tuple[str, ...]
    epochs: int
    learning_rate: float = RECIPE.learning_rate
    start: str | None = None

    @property
    def iterations(self) -> int:
        """Batches in all."""
        return self.epochs * PRESET.iterations_per_epoch


STAGES = (
    Stage("final", OPEN_PATIENTS, 28),
    Stage("without-07", ("19",), 10),
    Stage("without-19", ("07",), 10),
    Stage("refined", OPEN_PATIENTS, 8, 1e-3, "final"),
    Stage("refined-without-07", ("19",), 3, 1e-3, "without-07"),
    Stage("refined-without-19", ("07",), 3, 1e-3, "without-19"),
)
SHIPPED = STAGES[3]


def main() -> None:
    """Run the stages that are not done."""
    given = arguments(__doc__)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    with_data = (given.data / "ljubljana-cross-sectional").is_dir()
    for stage in STAGES if with_data else [replace(stage, open_patients=()) for stage in (STAGES[0], SHIPPED)]:
        if given.stage in (None, stage.name):
            run_stage(stage, list(training_patients(stage, given.work, given.data)), given)


def training_patients(stage: Stage, work: Path, data: Path) -> Iterator[TrainingPatient]:
    """Simulated patients, and the variants of the stage's open ones."""
    for seed in range(ATLAS_SEED, ATLAS_SEED + ATLAS_PATIENTS):
        yield atlas_patient(work, seed, data)
    for label in stage.open_patients:
        for number, variant in enumerate(VARIANTS):
            yield open_variant(work, label, number, variant, data)


def run_stage(stage: Stage, patients: Sequence[TrainingPatient], given: argparse.Namespace) -> Path:
    """Train one stage, or return at once if it is done."""
    clock = Clock(given.work / stage.name / "cpu_seconds.json")
    return train(
        patients,
        given.work / stage.name,
        replace(methods.load("difference_weighting"), recipe=replace(RECIPE, learning_rate=stage.learning_rate)),
        replace(PRESET, epochs=stage.epochs),
        seed=SEED,
        device=given.device,
        threads=given.threads,
        initial_weights=given.work / stage.start / "model" if stage.start else given.initial,
        self_prior_share=SELF_PRIOR_SHARE,
        progress=clock.report,
    )


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


def open_variant(work: Path, label: str, number: int, variant: Variant, data: Path) -> TrainingPatient:
    """A real labelled patient as a training patient."""
    seed = VARIANT_SEED + 100 * int(label) + number

    def make() -> SimulatedPatient:
        anatomy = open_anatomy(data, label, seed)
        made = simulate_patient(
            seed,
            anatomy=anatomy,
            acquisition=Acquisition(sharp_share=variant.sharp_share),
            lesion_masks=lesion_masks(data),
            lesion_count=variant.lesions,
        )
        return with_own_visit(made, anatomy) if variant.untouched else made

    return stored(work, f"open{label}v{number}", f"{seed} {variant}", make)


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
    parser.add_argument("--initial", type=Path, help="exported model that the stages without another start from")
    return parser.parse_args()


if __name__ == "__main__":
    main()
