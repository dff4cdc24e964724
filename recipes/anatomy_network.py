"""Train the anatomy network on heads that are drawn from label maps: `python recipes/anatomy_network.py WORK`.

It sees no image: people's label maps, as scanners of any contrast would show them (`simulation.heads`). WORK keeps
the checkpoint, and the command continues where it was stopped; `--iterations` says until when, and `--keep` puts the
weights into the package (half precision). On a core of a CPU an iteration takes 4 seconds. Brains of `--without`, by
name, are left out, to be scored on.

The loss is that of nnU-Net: cross entropy and soft Dice, one head an iteration (Isensee et al., Nature Methods 18,
203-211, 2021).
"""

import argparse
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesiondelta.anatomy.network import anatomy_network, write_anatomy_network
from lesiondelta.images import read_labels
from lesiondelta.nnunet.export import write_checkpoint
from lesiondelta.simulation.heads.head_generator import DrawnHead, HeadGenerator
from lesiondelta.simulation.heads.head_map import HeadMap, head_map

REPOSITORY = Path(__file__).parents[1]
KEPT = REPOSITORY / "src" / "lesiondelta" / "models" / "anatomy"
LEARNING_RATE, LEAST_RATE, WEIGHT_DECAY = 1.5e-3, 2e-5, 1e-4
SOURCES = (
    "label maps of SynthSeg (Billot et al., Medical Image Analysis 86, 102789, 2023) and SynthSR (Iglesias et al., "
    "NeuroImage 237, 118206, 2021; brains of Winterburn et al., NeuroImage 74, 2013), Apache-2.0"
)
EVERY = 50
"""Iterations from one checkpoint to the next."""
AVERAGE = 0.995
"""Of the weights' running mean, which is what is kept."""
LARGEST_GRADIENT = 12.0
PARTS = ("network", "mean", "optimiser")
"""Of a checkpoint."""


class Course:
    """The network, the running mean of its weights, the optimiser, and how far they are."""

    def __init__(self, checkpoint: Path, facts: Mapping[str, Any]) -> None:
        self.checkpoint, self.facts = checkpoint, facts
        self.network, self.mean = anatomy_network(), anatomy_network()
        self.mean.load_state_dict(self.network.state_dict())
        self.optimiser = torch.optim.AdamW(self.network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        self.done, self.seconds, self.counted = 0, 0.0, time.process_time()
        if checkpoint.is_file():
            found = torch.load(checkpoint, weights_only=True)
            for name in PARTS:
                getattr(self, name).load_state_dict(found[name])
            self.done, self.seconds = found["iterations"], found["cpu_seconds"]
            if found.get("facts", facts) != facts:
                raise SystemExit(f"{checkpoint} was trained on other people: move it away, or leave out the same.")

    def step(self, head: DrawnHead, iterations: int) -> float:
        """One iteration of as many; the loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = LEAST_RATE + (LEARNING_RATE - LEAST_RATE) * (1 - self.done / iterations) ** 0.9
        self.optimiser.zero_grad()
        loss = cross_entropy_and_dice(self.network(head.images[None]), head.shares[None])
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        self.optimiser.step()
        self.done += 1
        share = min(AVERAGE, self.done / (self.done + 10))
        with torch.no_grad():
            for kept, weight in zip(self.mean.parameters(), self.network.parameters(), strict=True):
                kept.lerp_(weight, 1 - share)
        return float(loss.detach())

    def write(self) -> None:
        """Write the checkpoint."""
        now = time.process_time()
        self.seconds, self.counted = self.seconds + now - self.counted, now
        states = {name: getattr(self, name).state_dict() for name in PARTS}
        write_checkpoint(
            self.checkpoint, states | {"iterations": self.done, "cpu_seconds": self.seconds, "facts": self.facts}
        )

    def export(self, folder: Path) -> None:
        """Write the mean of the weights and how they were made."""
        minutes = round(self.seconds / 60)
        write_anatomy_network(folder, self.mean, {**self.facts, "iterations": self.done, "cpu_minutes": minutes})


def main() -> None:
    """Train until as many iterations are done, and keep the weights if asked to."""
    given = arguments()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    heads = HeadGenerator(read_people(given.data / "label-maps", given.without))
    given.work.mkdir(parents=True, exist_ok=True)
    facts = {"learned_from": SOURCES, "people": len(heads.people), "without": given.without}
    course = Course(given.work / "checkpoint.pth", facts)
    while course.done < given.iterations:
        loss = course.step(heads.draw(course.done), given.iterations)
        print(f"{time.strftime('%H:%M:%S')} iteration {course.done} loss {loss:.4f}", flush=True)
        if course.done % EVERY == 0 or course.done == given.iterations:
            course.write()
            course.export(given.work / "model")
    if given.keep:
        course.export(KEPT)


def read_people(folder: Path, without: list[str]) -> list[HeadMap]:
    """The label maps, but some."""
    paths = [path for path in sorted(folder.glob("*_dseg.nii.gz")) if path.name.partition("_")[0] not in without]
    if not paths:
        raise SystemExit(f"{folder} has no label maps: give the folder of the open data with --data.")
    if absent := [name for name in without if not (folder / f"{name}_dseg.nii.gz").is_file()]:
        raise SystemExit(f"{folder} has no {', '.join(absent)} to leave out.")
    return [head_map(read_labels(path)) for path in paths]


def cross_entropy_and_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """Loss of logits and of the shares of parts in every voxel, both (B, K, X, Y, Z)."""
    shares = torch.softmax(logits, dim=1)
    both = (shares * truth).sum(dim=(0, 2, 3, 4))
    each = shares.sum(dim=(0, 2, 3, 4)) + truth.sum(dim=(0, 2, 3, 4))
    dice = (2 * both + 1) / (each + 1)
    return functional.cross_entropy(logits, truth) + 1 - dice.mean()


def arguments() -> argparse.Namespace:
    """What is given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("LESIONDELTA_DATA", REPOSITORY.parent / "shared" / "data")
    parser.add_argument("work", type=Path, help="folder for the checkpoint")
    parser.add_argument("--data", type=Path, default=Path(default), help="the open data, with the label maps")
    parser.add_argument("--iterations", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--without", nargs="*", default=[], help="label maps to leave out, such as head-03")
    parser.add_argument("--keep", action="store_true", help="put the weights into the package")
    return parser.parse_args()


if __name__ == "__main__":
    main()
