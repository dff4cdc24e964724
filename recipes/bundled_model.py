"""Train the model that comes with lesiondelta; `bundled_card.py` scores it and writes it into the package.

    python recipes/bundled_model.py WORK [--data DIR] [--device auto|cpu|cuda] [--threads N] [--stage NAME]

WORK keeps patients, checkpoints and logs; the command continues where it was stopped. First all patients are simulated
(`--stage patients`; 27 CPU seconds each), then come the stages:

1. `base`     a single-visit nnU-Net on every visit of patients simulated from the atlas. It wants a GPU, and is
              trained only where the repository does not keep what comes of it;
2. `base-single`, `base-pairs`
              nnU-Net and difference weighting, with as many iterations, on visits and pairs that are drawn from the
              label maps of 25 people while they train (`simulation.generator`), and a tenth on patients simulated from
              the atlas. Their weights have seen no real image, so that all others may start from them, and are kept
              in the repository (`recipes/base`, half precision; `--keep-base` puts them there): where they are there,
              these stages go on from them, and the hours add up. Without kept pairs, difference weighting is added to
              the single-visit weights, small, so that the network starts as the one it comes from. On a GPU they see
              patches of 96^3 (3 minutes of an H100), on a CPU of 64^3 (for 1000 iterations 38 minutes of a core,
              single visits 26; `--epochs` says how many, of 50, and the card how many made those that are kept);
3. `pairs`    difference weighting on the open labelled patients of two sites (`open_patients`), their guises, drawn and
              simulated patients, from `base-pairs`. This is what ships;
4. `single`   its twin, from `base-single`, with as many iterations;
5. `pairs-without-a`, `single-without-a`, and so on: without a third of the open patients (`THIRDS`), or without a
              site (`tabriz`, `ljubljana`), to score what was not seen. Without Ljubljana means without its images: the
              masks of 23 other patients of this site lend the shapes and places of their lesions to all stages.

Of the stages that saw real patients, the mean of their weights and those they started from is kept
(WORK/STAGE/averaged): real patients teach what their scanners and their experts are like, and the mean does not
forget the others (Wortsman et al., CVPR 2022, "Robust fine-tuning of zero-shot models"). It is rounded to half
precision before operating points are chosen and anything is scored: the file that ships holds exactly these weights.

An open patient is seen as it is, and in guises with a second visit: on its own images, lesions vanish and others
appear, in the shapes and at the places of other patients' lesions, and scanner, slices and noise change; most guises
are deformed into another brain first. Label maps and open images are read from `--data` (default $LESIONDELTA_DATA or
../shared/data); without them only `base` can be trained.
"""

import argparse
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from bundled_patients import (
    AS_IT_IS,
    ATLAS_ACQUISITION,
    ATLAS_RATES,
    GUISES,
    OPEN_PATIENTS,
    RATES,
    TABRIZ_AS_IT_IS,
    TABRIZ_GUISES,
    atlas_patient,
    guises_of,
    lesion_masks,
    open_guise,
    simulator,
    sources,
)
from open_patients import LJUBLJANA, TABRIZ, tabriz
from torch import nn

from lesiondelta import methods
from lesiondelta.files import sha256, write_json, write_text
from lesiondelta.inference.model import Model, load_model
from lesiondelta.inference.window import choose_device
from lesiondelta.methods import Recipe
from lesiondelta.networks.unet import DifferenceWeighting
from lesiondelta.nnunet import drawn as drawn_batches
from lesiondelta.nnunet.drawn import DrawnPairs
from lesiondelta.nnunet.export import export_model
from lesiondelta.nnunet.job import TrainingOptions, TrainingProgress
from lesiondelta.nnunet.presets import Preset
from lesiondelta.nnunet.training import plan_job, train
from lesiondelta.nnunet.training_patients import TrainingPatient
from lesiondelta.processes import worker_pool
from lesiondelta.simulation import (
    generator,
)

REPOSITORY = Path(__file__).parents[1]
BUNDLED = REPOSITORY / "src" / "lesiondelta" / "models" / "bundled"
BASE = REPOSITORY / "recipes" / "base"
KEPT = BASE / "single"  # what comes of the first stage

SEED = 0
DRAWN_SHARE = 0.9
SELF_PRIOR_SHARE = 0.35  # so that a patient with one visit is served too
TUNED_SHARE = 0.5  # of the weights that saw real patients, in the mean with those they started from
FIRST_GAMMA = 0.1  # of difference weighting, where the features have been learned without it
RECIPE = Recipe(optimiser="adamw", learning_rate=1e-3, momentum=0.9, weight_decay=1e-4, foreground_share=0.5)
PRESET = Preset("bundled", 1, 50, 1, patch=(96, 96, 96), batch=4, base_features=16, max_features=128)
TUNING = replace(PRESET, patch=(64, 64, 64), batch=2)  # of the stages that see real patients, and without a GPU


@dataclass(frozen=True)
class Stage:
    """One training: the method, which open and atlas patients (seeds) it sees, for how many epochs, and its start."""

    name: str
    method: str
    open_patients: tuple[str, ...]
    atlas: range
    epochs: int
    learning_rate: float
    start: str | None = None
    drawn: float = 0.0
    """Share of batches that are drawn from label maps."""

    @property
    def recipe(self) -> Recipe:
        """Of the optimiser."""
        return replace(RECIPE, learning_rate=self.learning_rate)

    def preset(self, device: str) -> Preset:
        """Size of network and training."""
        large = self.of_atlas and choose_device(device).type == "cuda"
        return replace(PRESET if large else TUNING, epochs=self.epochs)

    @property
    def of_atlas(self) -> bool:
        """Whether it has seen no real image."""
        return not self.open_patients

    @property
    def kept(self) -> Path:
        """Where the repository keeps its weights, if it does."""
        return BASE / self.name.removeprefix("base-")


PAIRS, SINGLE = "difference_weighting", "nnunet"
VALIDATING = range(1110, 1118)
"""Patients simulated from the atlas."""


THIRDS = {"a": ("07", "T01", "T07"), "b": ("19", "T02", "T08"), "c": ("T04", "T05", "T06")}
"""The open patients in three parts, each of which is scored by what has seen the other two (cross-validation)."""
LEFT_OUT = THIRDS | {"tabriz": TABRIZ, "ljubljana": LJUBLJANA}
"""Who is left out, by part and by site."""


def without(left_out: Sequence[str]) -> tuple[str, ...]:
    """All open patients but some."""
    return tuple(label for label in OPEN_PATIENTS if label not in left_out)


STAGES = (
    Stage("base", SINGLE, (), range(1000, 1048), 40, 2e-3),
    Stage("base-single", SINGLE, (), VALIDATING, 24, 1e-3, "base", DRAWN_SHARE),
    Stage("base-pairs", PAIRS, (), VALIDATING, 24, 1e-3, "base", DRAWN_SHARE),
    *(
        Stage(f"{name}{ending}", method, patients, VALIDATING, 8, 5e-4, f"base-{name}", 0.5)
        for ending, patients in (
            ("", OPEN_PATIENTS),
            *((f"-without-{name}", without(labels)) for name, labels in LEFT_OUT.items()),
        )
        for name, method in (("pairs", PAIRS), ("single", SINGLE))
    ),
)
SHIPPED = next(stage for stage in STAGES if stage.name == "pairs")


def main() -> None:
    """Run the stages that are not done and needed."""
    given = arguments(__doc__, ["patients", *(stage.name for stage in STAGES)], "stage")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    with_data = (given.data / "ljubljana-cross-sectional").is_dir()
    stages = [stage for stage in STAGES if with_data or stage.name == "base"]
    needed = [stage for stage in stages if stage.name != "base" or given.stage == "base" or not KEPT.is_dir()]
    if given.stage in (None, "patients"):
        simulate(given, needed)
    for stage in needed:
        if given.stage in (None, stage.name):
            stage = replace(stage, epochs=given.epochs or stage.epochs)
            run_stage(stage, given)
            if not stage.of_atlas:
                average(stage, given.work)
    if given.keep_base:
        keep_base(given.work)


def simulate(given: argparse.Namespace, stages: Sequence[Stage]) -> None:
    """Make all patients of the stages, a process per thread; a stage that finds one missing makes it itself."""
    with worker_pool(given.threads) as pool:
        made = [
            pool.submit(atlas_patient, given.work, seed, given.data) for seed in {s for t in stages for s in t.atlas}
        ]
        for label in {label for stage in stages for label in stage.open_patients}:
            for number in range(len(guises_of(label))):
                made.append(pool.submit(open_guise, given.work, label, number, given.data))
        for one in made:
            one.result()


def training_patients(stage: Stage, work: Path, data: Path) -> Iterator[TrainingPatient]:
    """Simulated patients, and the stage's open ones as they are and in their guises."""
    for seed in stage.atlas:
        yield atlas_patient(work, seed, data)
    for label in stage.open_patients:
        guises = [open_guise(work, label, number, data) for number in range(len(guises_of(label)))]
        if label in TABRIZ:
            own, times = tabriz(data, work)[label].visits, TABRIZ_AS_IT_IS
        else:
            own, times = guises[0].visits[:1], AS_IT_IS  # untouched
        yield from (TrainingPatient(f"open{label}own{number}", own) for number in range(times))
        yield from guises


def run_stage(stage: Stage, given: argparse.Namespace) -> Path:
    """Train one stage, or return at once if it is done, on whatever machine that was.

    Raises SystemExit where what is there was begun with other patients or settings.
    """
    model: Path = given.work / stage.name / "model"
    settings = (
        replace(stage, epochs=0),
        RECIPE,
        RATES,
        ATLAS_RATES,
        ATLAS_ACQUISITION,
        SELF_PRIOR_SHARE,
        *((GUISES, AS_IT_IS, TABRIZ_GUISES, TABRIZ_AS_IT_IS) if stage.open_patients else ()),
    )
    drawn = sources(Path(generator.__file__).parent) + sha256(Path(drawn_batches.__file__)) if stage.drawn else ""
    made, record = f"{simulator()}{drawn} {settings}\n", given.work / stage.name / "made.txt"
    if record.is_file() and record.read_text() != made:
        raise SystemExit(
            f"{record.parent} was begun with other patients or settings: move it away, or choose another WORK."
        )
    if not record.is_file() and record.parent.is_dir():
        print(f"{record.parent} was begun before there was a record of how: it is taken as it is", flush=True)
    else:
        write_text(record, made)
    if (model / "model.json").is_file():
        print(f"{stage.name} is done", flush=True)
        return model
    method, patients = methods.load(stage.method), list(training_patients(stage, given.work, given.data))
    job = plan_job(
        patients,
        given.work / stage.name,
        replace(method, recipe=stage.recipe),
        stage.preset(given.device),
        TrainingOptions(
            seed=SEED,
            device=given.device,
            threads=given.threads,
            initial_weights=start_of(stage, given.work),
            self_prior_share=SELF_PRIOR_SHARE if method.longitudinal else 0.0,
            drawn=drawn_pairs(stage, given) if stage.drawn else None,
        ),
    )
    return train(patients, job, Clock(given.work / stage.name / "cpu_seconds.json").report)


def drawn_pairs(stage: Stage, given: argparse.Namespace) -> DrawnPairs:
    """Pairs of all people of the label maps, with the shapes of lesions of `lesion_masks`.

    A stage that continues others draws other pairs than they did.
    """
    people = tuple(sorted((given.data / "label-maps").glob("*_dseg.nii.gz")))
    if not people:
        raise SystemExit(f"{given.data} has no label maps: give the folder of the open data with --data.")
    passed = sum(before["iterations"] for before in passed_by(stage, given.work))
    return DrawnPairs(people, tuple(lesion_masks(given.data)), given.work / "maps", stage.drawn, passed=passed)


def start_of(stage: Stage, work: Path) -> Path | None:
    """The model whose weights a stage starts from; None: from scratch.

    A stage of the base copies the kept weights, as they may change; the others start from what WORK made of them, or
    else from themselves.
    """
    if stage.start is None:
        return None
    if not stage.of_atlas:
        made = work / stage.start / "model"
        return made if (made / "model.json").is_file() else BASE / stage.start.removeprefix("base-")
    folder = work / f"{stage.name}-start"
    if not folder.is_dir():
        kept = next((weights for weights in (stage.kept, KEPT) if weights.is_dir()), None)
        passed = training_of(kept)["stages"] if kept else history(work, stage.start)
        model = load_model(kept or work / stage.start / "model")
        if model.method != stage.method:
            model = with_difference_weighting(model)
        description = model.description.model_dump(exclude={"weights_sha256"})
        training = description["training"] | {"stages": passed}
        export_model(folder, model.network, description | {"training": training})
    return folder


def with_difference_weighting(model: Model) -> Model:
    """A single-visit model with difference weighting added, gamma `FIRST_GAMMA` and beta 0."""
    network, description = model.network, model.description
    network.fusion = nn.ModuleList(DifferenceWeighting(features) for features in network.encoder.output_channels)
    for weighting in network.fusion:
        nn.init.constant_(weighting.norm.weight, FIRST_GAMMA)
    of_pairs = {"class": methods.load(PAIRS).network, "kwargs": description.network["kwargs"]}
    return replace(model, description=description.model_copy(update={"method": PAIRS, "network": of_pairs}))


def passed_by(stage: Stage, work: Path) -> list[dict[str, Any]]:
    """The stages that the weights which a stage starts from went through."""
    start = start_of(stage, work)
    if start is None:
        return []
    kept = training_of(start).get("stages")
    return kept if kept is not None else history(work, str(stage.start))


def history(work: Path, name: str) -> list[dict[str, Any]]:
    """The stages that a stage's weights went through, itself last, and what each took."""
    stage, training = next(stage for stage in STAGES if stage.name == name), training_of(work / name / "model")
    passed = passed_by(stage, work)
    minutes = f"{training['seconds'] / 60:.1f} GPU"
    if training["device"] != "cuda":  # CPU time, all its interrupted parts together
        minutes = f"{json.loads((work / name / 'cpu_seconds.json').read_text())['seconds'] / 60:.1f} CPU"
    own = {
        "stage": name,
        "method": stage.method,
        "patients": " + ".join(patients_of(stage)),
        "start": passed[-1]["stage"] if passed else "scratch",
        "learning_rate": stage.learning_rate,
        "iterations": training["iterations_done"],
        "patch": training["preset"]["patch"][0],
        "batch": training["batch"],
        "minutes": minutes,
        "commit": training["commit"],
    }
    return [*passed, own]


def patients_of(stage: Stage) -> list[str]:
    """Whom a stage sees."""
    drawn = [f"drawn from 25 label maps ({stage.drawn:.0%} of the batches)"] if stage.drawn else []
    return [*drawn, f"{len(stage.atlas)} atlas", *(f"sub-{label}" for label in stage.open_patients)]


def training_of(model: Path) -> dict[str, Any]:
    """What a model says of its training."""
    training: dict[str, Any] = json.loads((model / "model.json").read_text(encoding="utf-8"))["training"]
    return training


def average(stage: Stage, work: Path) -> Path:
    """Write the mean of a stage's weights and of those it started from, rounded to half precision, as float32.

    Its window is that of the large patches.
    """
    model = mean_of(stage, work)
    description = model.description.model_dump(exclude={"weights_sha256"}) | {"patch": PRESET.patch}
    return export_model(work / stage.name / "averaged", model.network.half().float(), description)


def mean_of(stage: Stage, work: Path) -> Model:
    """The mean of a stage's weights and of those it started from; `TUNED_SHARE` is the stage's."""
    tuned, start = load_model(work / stage.name / "model"), start_of(stage, work)
    if start is None:
        return tuned
    first = load_model(start).network.state_dict()
    mean = {name: torch.lerp(first[name], weight, TUNED_SHARE) for name, weight in tuned.network.state_dict().items()}
    tuned.network.load_state_dict(mean)
    return tuned


def keep_base(work: Path) -> None:
    """Put the weights that all others start from, those that are made, into the repository, with their stages."""
    stages = [stage for stage in STAGES if stage.of_atlas and stage.start is not None]
    stages = [stage for stage in stages if (work / stage.name / "model" / "model.json").is_file()]
    made = [(stage.kept, load_model(work / stage.name / "model"), history(work, stage.name)) for stage in stages]
    for folder, model, passed in made:
        description = model.description.model_dump(exclude={"weights_sha256"})
        changed = {"patch": PRESET.patch, "training": description["training"] | {"stages": passed}}
        export_model(folder, model.network, description | changed, half=True)


class Clock:
    """Prints the course of a training, and adds its CPU time to a file after every epoch."""

    def __init__(self, record: Path) -> None:
        self.record = record
        self.counted = time.process_time()

    def report(self, progress: TrainingProgress) -> None:
        """One line per iteration."""
        dice = f" Dice {progress.dice:.3f}" if progress.dice is not None else ""
        place = f"epoch {progress.epoch} iteration {progress.iteration}"
        print(f"{time.strftime('%H:%M:%S')} {place} loss {progress.train_loss:.4f}{dice}", flush=True)
        if progress.dice is not None:
            spent = json.loads(self.record.read_text())["seconds"] if self.record.is_file() else 0.0
            now = time.process_time()
            write_json(self.record, {"seconds": spent + now - self.counted})
            self.counted = now


def arguments(description: str | None, parts: Sequence[str], name: str = "part") -> argparse.Namespace:
    """What the recipes of the bundled model are given on the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("LESIONDELTA_DATA", REPOSITORY.parent / "shared" / "data")
    parser.add_argument("work", type=Path, help="folder for patients, checkpoints and logs")
    parser.add_argument("--data", type=Path, default=Path(default), help="the open MS images")
    parser.add_argument("--device", default="auto", help="of the training")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(f"--{name}", choices=parts, help="this one alone")
    if name == "stage":
        parser.add_argument("--epochs", type=int, help="instead of the stage's (with --stage)")
        parser.add_argument("--keep-base", action="store_true", help="put the base's weights into the repository")
    return parser.parse_args()


if __name__ == "__main__":
    main()
