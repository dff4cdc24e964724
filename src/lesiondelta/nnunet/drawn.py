"""Training pairs that are drawn from label maps beside those that are stored.

Imports nnunetv2 through the trainer only: a job names what shall be drawn, and the trainer draws it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lesiondelta.cohort import CONTRASTS
from lesiondelta.methods import Method
from lesiondelta.simulation.generator.label_map import prepared
from lesiondelta.simulation.generator.pair_generator import GeneratorPlan, PairGenerator, seeded


@dataclass(frozen=True)
class DrawnPairs:
    """What is drawn while a network trains.

    Attributes
    ----------
    people : label maps (`simulation.generator.label_map`)
    masks : lesion masks on the MNI152 grid that lend their shapes
    folder : keeps the prepared maps
    share : of the training batches; the others are of stored patients
    passed : iterations that the first weights have gone through, so that a training that continues another one draws
        other pairs
    """

    people: tuple[Path, ...]
    masks: tuple[Path, ...]
    folder: Path
    share: float = 1.0
    plan: GeneratorPlan = field(default_factory=GeneratorPlan)
    passed: int = 0

    def identity(self) -> dict[str, Any]:
        """What decides the pairs, as plain JSON."""
        return {
            "people": [path.name for path in self.people],
            "masks": [path.name for path in self.masks],
            "share": self.share,
            "plan": asdict(self.plan),
            "passed": self.passed,
        }

    def generator(self, patch: Sequence[int], seed: int, device: torch.device) -> PairGenerator:
        """The generator, with all people read."""
        people = [prepared(path, self.folder) for path in self.people]
        return PairGenerator(people, self.masks, tuple(patch), self.plan, self.seed(seed), device)

    def seed(self, seed: int) -> int:
        """Of the pairs, in a training of some seed."""
        return int(np.random.SeedSequence([seed, self.passed]).generate_state(1, np.uint64)[0])


class DrawnBatches:
    """Batches as nnU-Net's loaders give them, drawn or, for the rest, from a loader of stored patients.

    Which they are, and what is drawn, depends on the epoch and the iteration alone. Visits of stored patients lack as
    many images as drawn ones do.
    """

    def __init__(
        self,
        stored: Any,  # noqa: ANN401  (one of batchgenerators' loaders)
        generator: PairGenerator,
        *,
        batch: int,
        share: float,
        scales: Sequence[Sequence[float]] | None,
        method: Method,
    ) -> None:
        self.stored, self.generator = stored, generator
        self.batch, self.share, self.scales, self.method = batch, share, scales, method
        self.start(0)

    def start(self, epoch: int, first: int = 0) -> None:
        """Begin an epoch; `first` tells the processes of several GPUs apart."""
        self.epoch, self.rng, self.drawn = epoch, seeded(self.generator.seed, epoch, first), 0
        self.first = first

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        if self.rng.random() >= self.share:
            batch: dict[str, Any] = next(self.stored)
            return batch | {"data": self._at_hand(batch["data"])}
        numbers = [(self.epoch, self.first, self.drawn + k) for k in range(self.batch)]
        self.drawn += self.batch
        pairs = [self.generator.draw(*number) for number in numbers]
        current_first = [(pair.images.flip(0), pair.lesions.flip(0).float()) for pair in pairs]
        visits, labelled = (2 if self.method.longitudinal else 1), (2 if self.method.labels == "both" else 1)
        data = torch.stack([images[:visits].flatten(0, 1) for images, _ in current_first])
        target = torch.stack([lesions[:labelled] for _, lesions in current_first])
        return {"data": data, "target": target if self.scales is None else _at_scales(target, self.scales)}

    def _at_hand(self, data: Tensor) -> Tensor:
        """Cases (B, C or 2C, X, Y, Z) some of whose visits lack an image; a visit compared with itself stays so."""
        cases = data.clone().reshape(len(data), -1, len(CONTRASTS), *data.shape[2:])
        for case in cases:
            compared_with_itself = torch.equal(case[0], case[-1])
            lacking = self.generator.plan.lacking(self.rng)
            for visit in case:
                visit[[CONTRASTS.index(name) for name in lacking]] = 0
                if not compared_with_itself:
                    lacking = self.generator.plan.lacking(self.rng)
        return cases.flatten(1, 2)

    def _finish(self) -> None:
        """Stop the processes of the loader."""
        if hasattr(self.stored, "_finish"):
            self.stored._finish()


def _at_scales(target: Tensor, scales: Sequence[Sequence[float]]) -> list[Tensor]:
    """Targets (B, V, X, Y, Z) of every resolution that is supervised, as nnU-Net makes them."""
    shapes = [[round(n * share) for n, share in zip(target.shape[2:], scale, strict=True)] for scale in scales]
    return [functional.interpolate(target, shape, mode="nearest-exact") for shape in shapes]
