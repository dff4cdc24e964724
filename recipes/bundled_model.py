"""Train the model that comes with lesiondelta, score it, and write it into the package with its card.

    python recipes/bundled_model.py WORK [--data DIR] [--device auto|cpu|cuda] [--threads N]

WORK keeps patients, checkpoints and logs; the command continues where it was stopped. The stages:

1. `atlas`    simulated patients made from the MNI152 atlas alone, from scratch or from `--initial`;
2. `without-07`, `without-19`   from `atlas`: a few atlas patients and one of the two open labelled patients (CC-BY),
              scored on the other one (leave-one-out);
3. `final`    from `atlas`: the same with both, of the same budget;
4. `refined`  from `final`: both open patients alone, longer. This is what ships, in half precision.

`--initial` must not have seen the open patients, or leave-one-out means nothing.

Without the open images (`--data`, default $LESIONDELTA_DATA or ../shared/data) only the first stage is made.
"""

import argparse
import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lesiondelta import methods
from lesiondelta.files import write_json
from lesiondelta.images import Volume, read_image, read_mask, write_volume
from lesiondelta.methods import Recipe
from lesiondelta.nnunet.cohort import TrainingPatient, TrainingVisit
from lesiondelta.nnunet.job import Progress
from lesiondelta.nnunet.presets import Preset
from lesiondelta.nnunet.training import train
from lesiondelta.simulation import Acquisition, Anatomy, image_anatomy, simulate_patient

REPOSITORY = Path(__file__).parents[1]
BUNDLED = REPOSITORY / "src" / "lesiondelta" / "models" / "bundled"

SEED = 0
SELF_PRIOR_SHARE = 0.2  # so that a patient with one visit is served too
OPEN_PATIENTS = ("07", "19")
ATLAS_PATIENTS, ATLAS_SEED = 18, 1000
HEAVY = 45  # lesions of every third atlas patient: the more there is to see, the sooner it is learned
VARIANTS, VARIANT_SEED = 5, 5000  # of each open patient: other scanners, some lesions gone, some added
RECIPE = Recipe(optimiser="adamw", momentum=0.9, weight_decay=1e-4)
PRESET = Preset("bundled", 1, 25, 1, patch=None, batch=None, base_features=8, max_features=64)


@dataclass(frozen=True)
class Stage:
    """One training: its patients (atlas patients, and which open ones), budget, and the stage it starts from.

    Patches of 32 and of 48 voxels get the same four stages of network. Small ones around lesions teach quickly what a
    lesion is, larger and random ones what is none.
    """

    name: str
    atlas: int
    open_patients: tuple[str, ...]
    epochs: int
    learning_rate: float
    patch: int
    batch: int
    foreground_share: float
    start: str | None = None

    @property
    def iterations(self) -> int:
        """Batches in all."""
        return self.epochs * PRESET.iterations_per_epoch


STAGES = (
    Stage("atlas", ATLAS_PATIENTS, (), 30, 5e-3, 32, 4, 0.75),
    Stage("without-07", 4, ("19",), 8, 3e-3, 48, 2, 0.33, "atlas"),
    Stage("without-19", 4, ("07",), 8, 3e-3, 48, 2, 0.33, "atlas"),
    Stage("final", 4, OPEN_PATIENTS, 8, 3e-3, 48, 2, 0.33, "atlas"),
    Stage("refined", 0, OPEN_PATIENTS, 24, 3e-3, 48, 2, 0.33, "final"),
)

SHIPPED = STAGES[-1]


def main() -> None:
    """Run the stages that are not done."""
    given = arguments(__doc__)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    with_data = (given.data / "ljubljana-cross-sectional").is_dir()
    for stage in STAGES if with_data else STAGES[:1]:
        if given.stage not in (None, stage.name):
            continue
        patients = [atlas_patient(given.work, ATLAS_SEED + k, given.data) for k in range(stage.atlas)]
        for label in stage.open_patients:
            patients += [open_variant(given.work, label, k, given.data) for k in range(VARIANTS)]
        run_stage(stage, patients, given)


def run_stage(stage: Stage, patients: Sequence[TrainingPatient], given: argparse.Namespace) -> Path:
    """Train one stage, or return at once if it is done."""
    start = given.work / stage.start / "model" if stage.start else given.initial
    recipe = replace(RECIPE, learning_rate=stage.learning_rate, foreground_share=stage.foreground_share)
    method = replace(methods.load("difference_weighting"), recipe=recipe)
    preset = replace(PRESET, epochs=stage.epochs, patch=(stage.patch,) * 3, batch=stage.batch)
    begun = time.process_time()
    model = train(
        patients,
        given.work / stage.name,
        method,
        preset,
        seed=SEED,
        device=given.device,
        threads=given.threads,
        initial_weights=start,
        self_prior_share=SELF_PRIOR_SHARE,
        progress=report,
    )
    record = given.work / stage.name / "cpu_seconds.json"
    spent = json.loads(record.read_text())["seconds"] if record.is_file() else 0.0
    write_json(record, {"seconds": spent + time.process_time() - begun})
    return model


def report(progress: Progress) -> None:
    """One line per iteration."""
    dice = f" Dice {progress.dice:.3f}" if progress.dice is not None else ""
    place = f"epoch {progress.epoch} iteration {progress.iteration}"
    print(f"{time.strftime('%H:%M:%S')} {place} loss {progress.train_loss:.4f}{dice}", flush=True)


def atlas_patient(work: Path, seed: int, data: Path) -> TrainingPatient:
    """A patient made from the atlas; shapes of real lesions where there are any, never those of the open patients."""
    return stored(work, f"atlas{seed}", seed, masks=lesion_masks(data), lesion_count=None if seed % 3 else HEAVY)


def lesion_masks(data: Path) -> list[Path]:
    """Masks that lend their shapes: of all open patients but the two that test."""
    masks = sorted((data / "ljubljana-lesion-masks").glob("*_mask.nii.gz"))
    return [mask for mask in masks if not any(f"sub-{label}_" in mask.name for label in OPEN_PATIENTS)]


def open_variant(work: Path, label: str, variant: int, data: Path) -> TrainingPatient:
    """A real labelled patient, given a second visit."""
    return stored(work, f"open{label}v{variant}", VARIANT_SEED + variant, (data, label), Acquisition(sharp_share=0.4))


def stored(
    work: Path,
    label: str,
    seed: int,
    anatomy: tuple[Path, str] | None = None,
    acquisition: Acquisition | None = None,
    masks: Sequence[Path] = (),
    lesion_count: int | None = None,
) -> TrainingPatient:
    """Simulate a patient once, and keep the files."""
    folder = work / "patients" / label
    if not (folder / "done").is_file():
        print(f"simulating {label}", flush=True)
        made = simulate_patient(
            seed,
            anatomy=open_anatomy(*anatomy, seed) if anatomy else None,
            acquisition=acquisition,
            lesion_masks=masks,
            lesion_count=lesion_count,
        )
        for number, visit in enumerate(made.visits):
            for name, image in {**visit.images, "lesions": visit.lesions}.items():
                write_volume(folder / f"{number}_{name}.nii.gz", image)
        (folder / "done").touch()
    return TrainingPatient(label, tuple(_visit(folder, number) for number in range(2)))


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
    parser.add_argument("--initial", type=Path, help="exported model that the first stage starts from")
    return parser.parse_args()


if __name__ == "__main__":
    main()
