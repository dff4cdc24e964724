"""Heads drawn from label maps while a network trains: T1w and FLAIR of any scanner, and the parts of the brain."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from lesiondelta.anatomy.finding import SHAPE, SPACING_MM
from lesiondelta.anatomy.network import standardised
from lesiondelta.atlas.parts import Part
from lesiondelta.cohort import CONTRASTS
from lesiondelta.images import Array
from lesiondelta.simulation.contrast import draw_contrasts
from lesiondelta.simulation.generator.brightness import draw_tissues, tissue_means
from lesiondelta.simulation.generator.label_map import Tissue
from lesiondelta.simulation.generator.pair_generator import seeded
from lesiondelta.simulation.generator.sampling import blurred, lattice_points, moved, nearest, smooth_field
from lesiondelta.simulation.generator.scanner import Scan, draw_scans, scanned
from lesiondelta.simulation.heads.head_map import HeadMap, Material, parts_table

TURN_DEG, SHIFT_MM = 20.0, 22.0
"""Of a head, at most, and off the middle."""
BENDS_MM = ((30, 2.5), (12, 1.0))
"""Scales of the fields that bend a head, in voxels, and their standard deviations."""
CUT_BEFORE = 0.1
"""Share of heads with something removed that lost it before the scan, as with a saturated slab, not after it."""
RESIDUAL_VOXELS = 0.4
"""By how far images are off their place at most."""
OUTER_LIMITS = {
    "T1w": {
        Material.DURA: (0.1, 0.9), Material.BONE: (0.0, 0.25), Material.MARROW: (0.1, 1.4), Material.SOFT: (0.25, 0.9),
        Material.SKIN: (0.3, 1.9), Material.MUCOSA: (0.2, 1.2), Material.VESSEL: (0.0, 1.3), Material.EYE: (0.05, 0.6),
        Material.CORD: (0.7, 1.1),
    },
    "FLAIR": {
        Material.DURA: (0.1, 1.5), Material.BONE: (0.0, 0.3), Material.MARROW: (0.1, 1.4), Material.SOFT: (0.2, 1.0),
        Material.SKIN: (0.2, 1.7), Material.MUCOSA: (0.3, 1.8), Material.VESSEL: (0.0, 1.0), Material.EYE: (0.05, 0.6),
        Material.CORD: (0.8, 1.2),
    },
}  # fmt: skip
"""Brightness of what is not brain; white matter is 1."""


@dataclass(frozen=True)
class HeadPlan:
    """What is drawn.

    Attributes
    ----------
    randomised_share : of heads of a contrast that does not exist
    stripped_share : of brains alone
    cut_share : of whole heads with a part cut off, such as a face or a neck
    dark_meninges_share : of heads whose meninges look like fluid
    lesion_share : of heads with lesions that the map does not have
    without_share : of heads that lack the T1w, and of those that lack the FLAIR
    scale : standard deviation of the logarithm of a head's size, and again of that along each axis
    scans : how a visit's T1w and FLAIR are taken
    """

    randomised_share: float = 0.35
    stripped_share: float = 0.25
    cut_share: float = 0.35
    dark_meninges_share: float = 0.4
    lesion_share: float = 0.5
    without_share: float = 0.3
    scale: float = 0.05
    scans: Callable[[np.random.Generator], dict[str, Scan]] = draw_scans


@dataclass(frozen=True, eq=False)
class DrawnHead:
    """A head on voxels of `finding.SPACING_MM`.

    Attributes
    ----------
    images : (2, X, Y, Z) float32
        T1w and FLAIR as `network.standardised` gives them; 0 throughout where the image is missing.
    shares : (8, X, Y, Z) float32
        Of every voxel, by `atlas.parts.Part`.
    """

    images: Tensor
    shares: Tensor


@dataclass(frozen=True, eq=False)
class HeadGenerator:
    """Draws heads of shape `anatomy.finding.SHAPE`: the same number gives the same head."""

    people: Sequence[HeadMap]
    plan: HeadPlan = HeadPlan()
    seed: int = 0
    device: torch.device = torch.device("cpu")  # noqa: RUF009

    def draw(self, *number: int) -> DrawnHead:
        """The head of a number, or of several ones together."""
        rng = seeded(self.seed, *number)
        person = self.people[int(rng.integers(len(self.people)))]
        at, step = self._place(rng, person)
        labels = torch.from_numpy(person.materials.astype(np.int64)).to(self.device)
        eighths = [nearest(labels, at + step(offset)) for offset in np.ndindex(2, 2, 2)]
        if rng.random() < self.plan.lesion_share:
            eighths = _with_lesions(rng, eighths)
        table = torch.from_numpy(parts_table()).to(self.device)
        shares = torch.zeros((len(Part), *SHAPE), device=self.device)
        for one in eighths:
            shares.scatter_add_(0, table[one][None], torch.full((1, *SHAPE), 1 / len(eighths), device=self.device))
        brain = 1 - shares[Part.OUTSIDE]
        keep = torch.ones_like(brain)
        if not person.whole or rng.random() < self.plan.stripped_share:
            keep = _stripped(rng, brain)
            shares = shares * keep
            shares[Part.OUTSIDE] += 1 - keep
        elif rng.random() < self.plan.cut_share:
            keep = self._cut(rng, brain)
        return DrawnHead(self._images(rng, eighths, keep), shares)

    def _place(self, rng: np.random.Generator, person: HeadMap) -> tuple[Tensor, "_Step"]:
        """Where in the map the voxels lie (3, X, Y, Z), and where the eighths of a voxel do."""
        turn = Rotation.from_euler("xyz", rng.uniform(-TURN_DEG, TURN_DEG, 3), degrees=True).as_matrix()
        matrix = np.eye(4)
        matrix[:3, :3] = turn * np.exp(rng.normal(0, self.plan.scale) + rng.normal(0, self.plan.scale, 3)) * SPACING_MM
        matrix[:3, :3] *= [rng.choice((-1, 1)), 1, 1]
        centre = person.box.mean(axis=0) + rng.uniform(-SHIFT_MM, SHIFT_MM, 3)
        matrix[:3, 3] = centre - matrix[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
        at = moved(lattice_points(SHAPE, self.device), matrix)
        bends = [sum(size * smooth_field(rng, SHAPE, scale, self.device) for scale, size in BENDS_MM) for _ in range(3)]
        return at + torch.stack(bends), _Step(matrix[:3, :3], self.device)  # type: ignore[arg-type]

    def _cut(self, rng: np.random.Generator, brain: Tensor) -> Tensor:
        """A half-space that holds the brain: faces are removed, and fields of view end at the neck."""
        direction = np.array([rng.normal(0, 0.2), rng.uniform(-0.2, 1), rng.uniform(-1, 0)])
        along = moved(lattice_points(SHAPE, self.device), np.array([[*direction, 0]] * 3 + [[0, 0, 0, 1]]))[0]
        inside = along[brain > 0.5]
        if not inside.numel():
            return torch.ones_like(brain)
        return (along < inside.max() + rng.uniform(0, 8)).float()

    def _images(self, rng: np.random.Generator, eighths: Sequence[Tensor], keep: Tensor) -> Tensor:
        """T1w and FLAIR (2, X, Y, Z), of which one may be missing."""
        contrasts, scans = draw_contrasts(rng, self.plan.randomised_share), self.plan.scans(rng)
        missing, images = rng.random(), []
        dark, without = rng.random() < self.plan.dark_meninges_share, self.plan.without_share
        for name, lacks in zip(CONTRASTS, (missing < without, missing > 1 - without), strict=True):
            if lacks:
                images.append(torch.zeros(SHAPE, device=self.device))
                continue
            inner = tissue_means(contrasts[name], draw_tissues(rng, name))
            means = torch.tensor([*inner, *_outer_means(rng, name, inner, dark)], device=self.device)
            image = torch.stack([means[one] for one in eighths]).mean(dim=0)
            for scale, size in ((4, 0.06), (20, 0.1)):
                image = image * (1 + rng.uniform(0, size) * smooth_field(rng, SHAPE, scale, self.device))
            image = scanned(rng, (image * keep).clamp(min=0), SHAPE, _in_voxels(scans[name]), RESIDUAL_VOXELS)
            if bool((keep == 0).any()) and rng.random() > CUT_BEFORE:
                image = image * keep
            images.append(standardised(image.clamp(min=0) ** float(np.exp(rng.normal(0, 0.15)))))
        return torch.stack(images)


@dataclass(frozen=True)
class _Step:
    """From a voxel's middle to that of one of its eighths."""

    axes: Array
    device: torch.device

    def __call__(self, eighth: tuple[int, ...]) -> Tensor:
        away = self.axes @ (np.array(eighth) / 2 - 0.25)
        return torch.from_numpy(away.astype(np.float32)).to(self.device).reshape(3, 1, 1, 1)


def _outer_means(rng: np.random.Generator, name: str, inner: Sequence[float], dark_meninges: bool) -> list[float]:
    """Brightness of every `Material`."""
    limits, fluid = OUTER_LIMITS[name], inner[Tissue.FLUID]
    means = {material: float(rng.uniform(*limits[material])) for material in limits}
    means[Material.OUTER_FLUID] = fluid
    means[Material.DIENCEPHALON] = inner[Tissue.BRAIN_STEM]
    if dark_meninges:
        means[Material.DURA] = fluid
    low, high = (1.05, 1.9) if name == "FLAIR" else (0.45, 0.95)
    means[Material.LESION] = float(rng.uniform(low, high))
    return [means[material] for material in Material]


def _with_lesions(rng: np.random.Generator, eighths: Sequence[Tensor]) -> list[Tensor]:
    """Blobs of white matter become lesions."""
    shape, device = tuple(eighths[0].shape), eighths[0].device
    field = smooth_field(rng, shape, rng.uniform(2, 5), device) + 0.5 * smooth_field(rng, shape, 15, device)
    chosen = field > rng.uniform(1.2, 3)
    lesion = torch.tensor(int(Material.LESION), device=device)
    return [torch.where(chosen & (one == Tissue.WHITE), lesion, one) for one in eighths]


def _stripped(rng: np.random.Generator, brain: Tensor) -> Tensor:
    """A brain mask, wider or tighter than the brain."""
    shape, device = tuple(brain.shape), brain.device
    offset = rng.uniform(-0.3, 0.3) + 0.15 * smooth_field(rng, shape, 8, device)
    return (blurred(brain[None], 0.8)[0] > 0.5 + offset.clamp(-0.4, 0.4)).float()


def _in_voxels(scan: Scan) -> Scan:
    """A scan whose lengths count in voxels."""
    protocol = scan.protocol
    return replace(
        scan,
        protocol=replace(
            protocol,
            slice_mm=max(protocol.slice_mm / SPACING_MM, 1.0),
            gap_mm=protocol.gap_mm / SPACING_MM,
            in_plane_mm=max(protocol.in_plane_mm / SPACING_MM, 1.0),
        ),
    )
