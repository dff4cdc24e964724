"""Pairs of visits drawn from people's label maps while a network trains: as many as it likes, none of them stored."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from lesiondelta.cohort import CONTRASTS
from lesiondelta.images import Array
from lesiondelta.simulation.contrast import Contrast, draw_contrasts, jitter
from lesiondelta.simulation.evolution import Rates
from lesiondelta.simulation.generator.brightness import Look, draw_look, ideal, tissue_means
from lesiondelta.simulation.generator.label_map import FLUIDS, LabelMap, Tissue
from lesiondelta.simulation.generator.lesion_depth import PatchLesions, patch_lesions
from lesiondelta.simulation.generator.patch import Patch, Place, cut_patch
from lesiondelta.simulation.generator.placed import draw_lesions
from lesiondelta.simulation.generator.sampling import (
    Shape,
    blurred,
    lattice_points,
    moved,
    smooth_field,
)
from lesiondelta.simulation.generator.scanner import RESIDUAL_MM, draw_scans, scanned

MARGIN = 12
"""Voxels around a patch that slices and tilts reach into."""
NEW_SCANNER = 0.3
"""Share of pairs whose second visit is on another scanner."""
BLENDED, UNEVEN, RAISED = 0.78, 0.03, 0.075
"""Standard deviation over the brain: share of the tissues' means, what texture adds, factor per unit of sharpening."""
ENOUGH, USUALLY_KEPT = 2000, 0.5
"""Voxels of fluid that tell how much of it a brain mask keeps, and the share otherwise."""
TURN_DEG, SCALE = 15.0, 0.08
"""Of a person, at most; and standard deviation of the logarithm of the size along each axis."""


@dataclass(frozen=True)
class GeneratorPlan:
    """What is drawn.

    Attributes
    ----------
    rates : of change from the first visit to the second
    lesion_share, ventricle_share : of patches around a lesion, and around the ventricles; the others lie anywhere
    randomised_share : of scanners whose contrast is none that exists
    without_t1w, without_flair : share of visits that lack the image
    same_share : of pairs whose visits are one and the same
    """

    rates: Rates = field(
        default_factory=lambda: Rates(new=0.15, enlarging=0.12, shrinking=0.10, resolved=0.12, quiet=0.4)
    )
    lesion_share: float = 0.45
    ventricle_share: float = 0.2
    randomised_share: float = 0.15
    without_t1w: float = 0.15
    without_flair: float = 0.05
    same_share: float = 0.35

    def lacking(self, rng: np.random.Generator) -> tuple[str, ...]:
        """The contrasts that a visit lacks: never all."""
        lacks = rng.random(2) < (self.without_t1w, self.without_flair)
        return () if lacks.all() else tuple(name for name, lack in zip(CONTRASTS, lacks, strict=True) if lack)


@dataclass(frozen=True, eq=False)
class DrawnPair:
    """Two visits.

    Attributes
    ----------
    images : (2, C, X, Y, Z) float32
        The earlier visit's and the later one's T1w and FLAIR, standardised over the brain as `run` does; 0 outside
        the brain, and throughout where the visit lacks the image.
    lesions : (2, X, Y, Z) bool
    """

    images: Tensor
    lesions: Tensor


@dataclass(frozen=True, eq=False)
class PairGenerator:
    """Draws pairs of visits: the same number gives the same pair, on every device but for rounding.

    Attributes
    ----------
    people : maps to draw from
    masks : real lesion masks on the MNI152 grid to take shapes from
    patch : voxels of 1 mm
    """

    people: Sequence[LabelMap]
    masks: Sequence[Path]
    patch: Shape
    plan: GeneratorPlan = GeneratorPlan()
    seed: int = 0
    device: torch.device = torch.device("cpu")  # noqa: RUF009

    def draw(self, *number: int) -> DrawnPair:
        """The pair of a number, or of several ones together."""
        rng = seeded(self.seed, *number)
        person = self.people[int(rng.integers(len(self.people)))]
        drawn = draw_lesions(rng, person, self.masks)
        place = self._place(rng, person, drawn.centres(person))
        patch = cut_patch(person, place.at)
        lesions = patch_lesions(rng, person, drawn, place, self.plan.rates)
        look = draw_look(rng, patch)
        inside = blurred((patch.tissue > 0).float()[None], 1.5)[0]
        solid = self._inner(1 - patch.shares(Tissue.OUTSIDE, *FLUIDS)) > 0
        scanner = draw_contrasts(rng, self.plan.randomised_share)
        images: list[Tensor] = []
        truth: list[Tensor] = []
        for visit in (1,) if rng.random() < self.plan.same_share else (0, 1):
            if images and rng.random() < NEW_SCANNER:
                scanner = draw_contrasts(rng, self.plan.randomised_share)
            mask = _brain_mask(rng, patch, inside)
            shares = _masked_shares(person, self._inner(patch.tissue), mask)
            images.append(self._visit(rng, shares, (patch, look, lesions), visit, jitter(rng, scanner)) * mask)
            truth.append((self._inner(lesions.at(visit)) > 0) & solid)
        return DrawnPair(torch.stack([images[0], images[-1]]), torch.stack([truth[0], truth[-1]]))

    def _place(self, rng: np.random.Generator, person: LabelMap, lesions: Sequence[Array]) -> Place:
        """Where in the map a patch with its margin lies; `lesions` are their middles."""
        chance = rng.random()
        if chance < self.plan.lesion_share and lesions:
            centre = lesions[int(rng.integers(len(lesions)))] + rng.uniform(-0.3, 0.3, 3) * self.patch
        elif chance < self.plan.lesion_share + self.plan.ventricle_share:
            centre = person.tips[int(rng.integers(len(person.tips)))] + rng.uniform(-0.3, 0.3, 3) * self.patch
        else:
            centre = person.white[int(rng.integers(len(person.white)))] + rng.uniform(-0.4, 0.4, 3) * self.patch
        shape = tuple(n + 2 * MARGIN for n in self.patch)
        turn = Rotation.from_euler("xyz", rng.uniform(-TURN_DEG, TURN_DEG, 3), degrees=True).as_matrix()
        matrix = np.eye(4)
        matrix[:3, :3] = turn * np.exp(rng.normal(0, SCALE, 3)) * [rng.choice((-1, 1)), 1, 1]
        matrix[:3, 3] = centre - matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
        at = moved(lattice_points(shape, self.device), matrix)
        bends = [
            1.5 * smooth_field(rng, shape, 30, self.device) + 0.5 * smooth_field(rng, shape, 12, self.device)
            for _ in range(3)
        ]
        return Place(at + torch.stack(bends), matrix)

    def _visit(
        self,
        rng: np.random.Generator,
        shares: Array,
        subject: tuple[Patch, Look, PatchLesions],
        visit: int,
        contrasts: dict[str, Contrast],
    ) -> Tensor:
        """T1w and FLAIR of a visit (C, X, Y, Z), standardised."""
        scans, lacking, images = draw_scans(rng), self.plan.lacking(rng), []
        for name in CONTRASTS:
            if name in lacking:
                images.append(torch.zeros(self.patch, device=self.device))
                continue
            means = tissue_means(contrasts[name], subject[1].tissues[name].varied(rng))
            image = scanned(rng, ideal(*subject, visit, name, means), self.patch, scans[name], RESIDUAL_MM[name])
            mean = float(np.dot(shares, means))
            deviation = np.sqrt(float(np.dot(shares, (np.array(means) - mean) ** 2))) * BLENDED + UNEVEN
            deviation *= 1 + RAISED * scans[name].sharpened
            images.append((image - mean * rng.uniform(0.96, 1.04)) / (deviation * rng.uniform(0.9, 1.1)))
        return torch.stack(images)

    def _inner(self, data: Tensor) -> Tensor:
        """A patch without its margin."""
        return data[tuple(slice(MARGIN, MARGIN + n) for n in self.patch)]


def seeded(seed: int, *number: int) -> np.random.Generator:
    """What is random about a number; (1, 2) is another one than (1, 2, 0)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=number))


def _masked_shares(person: LabelMap, tissue: Tensor, mask: Tensor) -> Array:
    """`LabelMap.shares` of what a brain mask keeps: how much fluid is seen in a patch, or else usual."""
    fluid = tissue == Tissue.FLUID
    count = float(fluid.sum())
    kept = float(mask[fluid].sum()) / count if count > ENOUGH else USUALLY_KEPT
    shares = person.shares.copy()
    shares[Tissue.FLUID] *= kept
    masked: Array = shares / shares.sum()
    return masked


def _brain_mask(rng: np.random.Generator, patch: Patch, inside: Tensor) -> Tensor:
    """`acquisition.imperfect_mask` of a patch without its margin (X, Y, Z): wide or tight, fluid in or out."""
    shape, device = tuple(inside.shape), inside.device
    offset = (rng.uniform(-0.15, 0.25) + 0.12 * smooth_field(rng, shape, 15, device)).clamp(-0.35, 0.35)
    mask = inside > 0.5 + offset
    if rng.random() < 0.2:
        solid = 1 - patch.shares(Tissue.OUTSIDE, Tissue.FLUID)
        mask = mask & (blurred(solid[None], 0.8)[0] > 0.35)
    inner = tuple(slice(MARGIN, n - MARGIN) for n in shape)
    return mask[inner].float()
