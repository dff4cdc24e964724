"""Lesions: where they lie, what shape they have, and how they change between visits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lesiondelta.atlas import Region
from lesiondelta.images import Array
from lesiondelta.simulation.anatomy import Anatomy
from lesiondelta.simulation.evolution import Rates, draw_sizes
from lesiondelta.simulation.fields import smooth_field
from lesiondelta.simulation.shapes import Shape

NOWHERE = np.float32(-1e3)
TRIES = 6  # places for a lesion before it is given up
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Site:
    """A part of the brain: its share of a patient's lesions, and their sizes (log-normal, in mm3)."""

    name: str
    share: float
    log_mean: float
    log_sd: float
    largest_mm3: float


SITES = (
    Site("periventricular", 0.10, 4.20, 1.55, 3_000),
    Site("juxtacortical", 0.24, 3.25, 1.25, 3_000),
    Site("deep white matter", 0.59, 2.75, 1.10, 2_500),
    Site("infratentorial", 0.07, 3.45, 1.32, 2_500),
)
"""Such that what comes out is as in the 25 open consensus masks (decision 070)."""
COUNT = (4.25, 0.88, 3, 350)
"""Lesions of a patient: mean and standard deviation of the logarithm, smallest and largest; from the same masks."""
BANDS = 2
"""Lesions along the ventricles that make up most of a patient's load; a patient's first periventricular ones."""
BAND_LOG, BAND_MM3 = (4.7, 0.9, 1.4, 0.4), (20, 15_000)
"""Logarithm of their size in mm3: at one lesion, its rise with the logarithm of their number, standard deviation
between patients and between the two; smallest and largest."""
PEOPLE_DIFFER = (20, 0.25)
"""Concentration of a patient's shares of sites about those of all; standard deviation of the logarithm of sizes."""


def draw_count(rng: np.random.Generator) -> int:
    """How many lesions a patient has."""
    mean, deviation, smallest, largest = COUNT
    return int(np.clip(np.exp(rng.normal(mean, deviation)), smallest, largest))


@dataclass(frozen=True, eq=False)
class Lesion:
    """One simulated lesion.

    Attributes
    ----------
    identity : int
        The number it has at every visit.
    box : three slices
        Where in the anatomy it lies.
    score : array of the box's shape
        About the distance in mm to a surface, positive inside: a lesion of n voxels is its n highest.
    voxels : for each visit, its size; 0 where it is absent
    flair, t1w : float
        Brightness on FLAIR above grey matter, and darkness on T1w below white matter, in units of white matter - CSF.
    edge_mm : float
        How soft the border is.
    halo : float
        Strength of the faint rim around it.
    """

    identity: int
    box: Box
    score: Array
    voxels: tuple[int, ...]
    flair: float
    t1w: float
    edge_mm: float
    halo: float

    def depth(self, visit: int) -> Array:
        """Depth in mm under the border at a visit."""
        n = self.voxels[visit]
        if not n:
            return np.full(self.score.shape, NOWHERE)
        outside, inside = np.partition(self.score.astype(np.float64), (-n - 1, -n), axis=None)[[-n - 1, -n]]
        depth: Array = self.score - max((outside + inside) / 2, inside - 0.5)
        return depth

    def mask(self, visit: int) -> Array:
        """Its voxels at a visit, within the box."""
        inside: Array = self.depth(visit) > 0
        return inside

    def weight(self, visit: int) -> Array:
        """Share of lesion in every voxel of the box, one half at the border."""
        depth = self.depth(visit)
        core = 1 / (1 + np.exp(-np.clip(3 * depth / self.edge_mm, -30, 30)))
        rim = self.halo / (1 + np.exp(-np.clip(depth + 2, -30, 30)))
        return np.where(self.score > NOWHERE / 2, np.maximum(core, rim), 0).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Room:
    """Where lesions may still lie (X, Y, Z) bool, and what makes their borders irregular (X, Y, Z)."""

    free: Array
    noise: Array


@dataclass(frozen=True, eq=False)
class _Extent:
    """Box, score and sizes of a lesion; see `Lesion`."""

    box: Box
    score: Array
    voxels: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Proposal:
    """Where a lesion might go (N, 3), how large it is, and what real one it looks like, if any."""

    centers: Array
    volume_mm3: float
    shape: Shape | None = None


def draw_lesions(
    rng: np.random.Generator,
    anatomy: Anatomy,
    visits: int,
    rates: Rates,
    count: int,
    shapes: Sequence[Shape] = (),
) -> tuple[Lesion, ...]:
    """Place up to `count` lesions that do not touch each other, nor the real ones of the anatomy, at any visit.

    They are numbered after the real ones.
    As many as there are have the `shapes` of real lesions, near the places they were found at. The largest come first.
    `rates.quiet`, of patients, is not heeded here.
    """
    room = _Room(_allowed(anatomy), _roughness(rng, anatomy))
    first = 1 if anatomy.lesions is None else int(anatomy.lesions.max()) + 1
    brightness = float(rng.normal(0, 0.10))  # of all lesions of this patient
    lesions: list[Lesion] = []
    for proposal in _proposals(rng, anatomy, room.free, count, shapes):
        voxels = max(round(proposal.volume_mm3 / anatomy.spacing_mm**3), 2)
        sizes = draw_sizes(rng, voxels, visits, rates, anatomy.spacing_mm)
        attempts = (_draw(rng, anatomy, proposal.shape, center, sizes, room) for center in proposal.centers)
        drawn = next((found for found in attempts if found is not None), None)
        if drawn is not None:
            lesions.append(_finish(rng, first + len(lesions), drawn, anatomy.spacing_mm, brightness))
            _occupy(room.free, lesions[-1])
    return tuple(lesions)


def _allowed(anatomy: Anatomy) -> Array:
    """Where lesions may lie: inside the brain, not in fluid, not on other lesions."""
    allowed: Array = anatomy.brain & (anatomy.tissues[0] < 0.4)
    if anatomy.lesions is not None:
        allowed &= ~ndimage.binary_dilation(anatomy.lesions > 0, np.ones((3, 3, 3)), iterations=2)
    return allowed


def _roughness(rng: np.random.Generator, anatomy: Anatomy) -> Array:
    """What makes borders irregular: two scales of random field."""
    shape = anatomy.brain.shape
    fine = smooth_field(rng, shape, max(2.5 / anatomy.spacing_mm, 1.2))
    return 0.6 * fine + 0.8 * smooth_field(rng, shape, 6 / anatomy.spacing_mm)


def _proposals(
    rng: np.random.Generator, anatomy: Anatomy, free: Array, count: int, shapes: Sequence[Shape]
) -> list[_Proposal]:
    """Real shapes at their own places (small ones at the nearest white matter), procedural ones; large ones first."""
    candidates = np.argwhere(free & (anatomy.tissues[2] > 0.6))
    candidates = candidates[rng.choice(len(candidates), min(len(candidates), 40_000), replace=False)]
    proposals = []
    for shape in shapes[:count]:
        center_mm = (anatomy.from_masks @ [*shape.center_mm, 1])[:3]
        voxel = (center_mm - anatomy.affine[:3, 3]) / anatomy.spacing_mm
        if shape.volume_mm3 < 300:
            voxel = candidates[((candidates - voxel) ** 2).sum(axis=1).argmin()]
        center = np.clip(np.rint(voxel).astype(int), 0, np.array(free.shape) - 1)
        proposals.append(_Proposal(center[None], shape.volume_mm3, shape))
    chances = _chances(anatomy, candidates)
    for number, volume in draw_volumes(rng, max(count - len(shapes), 0)):
        proposals.append(_Proposal(candidates[rng.choice(len(candidates), TRIES, p=chances[number])], volume))
    return sorted(proposals, key=lambda proposal: -proposal.volume_mm3)


def _chances(anatomy: Anatomy, candidates: Array) -> list[Array]:
    """For each site, how likely a lesion's middle lies at each of the candidates (N, 3)."""
    at = tuple(candidates.T)
    to_ventricles, to_cortex = anatomy.to_ventricles_mm[at], anatomy.to_cortex_mm[at]
    below = anatomy.regions[at] == Region.INFRATENTORIAL
    near_ventricle = np.exp(-((to_ventricles / 5) ** 2)) * ~below
    near_cortex = np.exp(-((to_cortex / 2.5) ** 2)) * (to_ventricles > 10) * ~below
    between = np.exp(-to_ventricles / 30) * (to_ventricles > 5) * (to_cortex > 2.5) * ~below
    return [(part + 1e-12) / (part + 1e-12).sum() for part in (near_ventricle, near_cortex, between, below)]


def draw_volumes(rng: np.random.Generator, count: int) -> list[tuple[int, float]]:
    """The sites (index in `SITES`) and volumes in mm3 of a patient's lesions."""
    concentration, deviation = PEOPLE_DIFFER
    shares = rng.dirichlet([concentration * site.share for site in SITES])
    larger = rng.normal(0, deviation)
    first, rise, spread, apart = BAND_LOG
    band = rng.normal(first + rise * np.log(max(count, 1)), spread)
    drawn, bands = [], 0
    for number in rng.choice(len(SITES), count, p=shares):
        site = SITES[number]
        log, limits = rng.normal(site.log_mean + larger, site.log_sd), (3.0, site.largest_mm3)
        if site.name == "periventricular" and bands < BANDS:
            log, limits, bands = rng.normal(band, apart), BAND_MM3, bands + 1
        drawn.append((int(number), float(np.clip(np.exp(log), *limits))))
    return drawn


def _draw(
    rng: np.random.Generator,
    anatomy: Anatomy,
    shape: Shape | None,
    center: Array,
    sizes: tuple[int, ...],
    room: _Room,
) -> _Extent | None:
    """One lesion's extent; None where there is no room."""
    free, noise = room.free, room.noise
    radius_mm = float(np.cbrt(max(sizes) * 3 / (4 * np.pi))) * anatomy.spacing_mm
    if shape is None:
        if not free[tuple(center)]:
            return None
        half = np.full(3, np.ceil((2.2 * radius_mm + 4) / anatomy.spacing_mm), int)
        box = _box(center, half, free.shape)
        score = _procedural(rng, anatomy, center, box, radius_mm) + 0.35 * radius_mm * noise[box]
        score -= 2.0 * radius_mm * np.clip(0.6 - anatomy.tissues[2][box], 0, None)
    else:
        depth = _at_spacing(shape.depth_mm, anatomy.spacing_mm)
        box = _box(center, np.array(depth.shape) // 2, free.shape)
        score = _cut(depth, center, box)
        left = np.count_nonzero((score > 0) & free[box]) / (np.count_nonzero(depth > 0) or 1)
        if left < 0.4:
            return None
        sizes = _rescaled(sizes, left)
        score = score + 0.4 * noise[box] - 1.5 * np.clip(0.6 - anatomy.tissues[2][box], 0, None)
    score = np.where(free[box], score, NOWHERE).astype(np.float32)
    seed = tuple(int(c) - axis.start for c, axis in zip(center, box, strict=True))
    return _grown(box, score, seed, sizes)


def _box(center: Array, half: Array, shape: tuple[int, ...]) -> Box:
    x, y, z = (slice(max(int(c - h), 0), min(int(c + h + 1), n)) for c, h, n in zip(center, half, shape, strict=True))
    return x, y, z


def _at_spacing(depth: Array, spacing_mm: float) -> Array:
    """A 1 mm shape on the anatomy's voxels, with an odd number of them along every axis."""
    resized = depth if spacing_mm == 1 else ndimage.zoom(depth, 1 / spacing_mm, order=1)
    return np.pad(resized, [(0, 1 - n % 2) for n in resized.shape], mode="edge")


def _cut(depth: Array, center: Array, box: Box) -> Array:
    """The part of a shape centred at `center` that lies in a box."""
    start = [int(c) - n // 2 for c, n in zip(center, depth.shape, strict=True)]
    return depth[tuple(slice(b.start - s, b.stop - s) for b, s in zip(box, start, strict=True))]


def _procedural(rng: np.random.Generator, anatomy: Anatomy, center: Array, box: Box, radius_mm: float) -> Array:
    """A tilted ellipsoid; beside the ventricles it spreads along them."""
    axes = np.exp(rng.normal(0, 0.3, 3))
    axes /= np.cbrt(axes.prod())
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    lattice = np.meshgrid(*[np.arange(s.start, s.stop) - c for s, c in zip(box, center, strict=True)], indexing="ij")
    away = np.linalg.norm((np.stack(lattice, axis=-1) * anatomy.spacing_mm @ turn) / axes, axis=-1)
    to_ventricles = anatomy.to_ventricles_mm[box]
    if anatomy.to_ventricles_mm[tuple(center)] < 6 and rng.random() < 0.7:
        away = np.sqrt((0.6 * away) ** 2 + (1.3 * to_ventricles) ** 2)
    depth: Array = radius_mm - away
    return depth.astype(np.float32)


def _grown(box: Box, score: Array, seed: tuple[int, ...], voxels: tuple[int, ...]) -> _Extent | None:
    """Keep one connected piece that holds the largest size; None where it does not fit."""
    largest = max(voxels)
    if np.count_nonzero(score > NOWHERE / 2) < 2 * largest + 8:
        return None
    threshold = np.partition(score, -largest - 1, axis=None)[-largest - 1]
    labels, count = ndimage.label(score > threshold, np.ones((3, 3, 3)))
    if not count:
        return None
    piece = labels == (labels[seed] or 1 + np.bincount(labels.ravel())[1:].argmax())
    kept = np.count_nonzero(piece) / largest
    if kept < 0.3:
        return None
    score = np.where((labels > 0) & ~piece, NOWHERE, score).astype(np.float32)
    score[(score <= threshold) & ~ndimage.binary_dilation(piece, iterations=3)] = NOWHERE
    return _Extent(box, score, _rescaled(voxels, kept))


def _rescaled(voxels: tuple[int, ...], share: float) -> tuple[int, ...]:
    """Sizes times a share, where what differed still differs."""
    steps = sorted(set(voxels) - {0})
    scaled = [max(round(n * share), 2) for n in steps]
    for i in range(1, len(scaled)):
        scaled[i] = max(scaled[i], scaled[i - 1] + 1)
    return tuple(dict(zip([0, *steps], [0, *scaled], strict=True))[n] for n in voxels)


def _finish(rng: np.random.Generator, identity: int, extent: _Extent, spacing_mm: float, brightness: float) -> Lesion:
    """Give a shape its looks."""
    looks = draw_looks(rng, max(extent.voxels) * spacing_mm**3, brightness)
    return Lesion(identity, extent.box, extent.score, extent.voxels, *looks)


def draw_looks(rng: np.random.Generator, volume_mm3: float, brightness: float) -> tuple[float, float, float, float]:
    """`flair`, `t1w`, `edge_mm` and `halo`: larger lesions are brighter on FLAIR and darker on T1w."""
    size = np.log10(volume_mm3)
    flair = float(np.clip(0.32 + 0.07 * size + brightness + rng.normal(0, 0.14), 0.08, 1.4))
    t1w = float(np.clip(rng.normal(-0.06 + 0.12 * size, 0.14), -0.05, 0.85))
    return flair, t1w, float(rng.uniform(0.8, 2.0)), float(rng.uniform(0, 0.25))


def _occupy(free: Array, lesion: Lesion) -> None:
    """Close the neighbourhood of a lesion's largest extent to others."""
    extent = lesion.mask(int(np.argmax(lesion.voxels)))
    wide = tuple(slice(max(s.start - 2, 0), s.stop + 2) for s in lesion.box)
    pad = [(s.start - w.start, 0) for s, w in zip(lesion.box, wide, strict=True)]
    view = free[wide]
    grown = np.zeros(view.shape, bool)
    inner = tuple(slice(p[0], p[0] + n) for p, n in zip(pad, extent.shape, strict=True))
    grown[inner] = extent
    view &= ~ndimage.binary_dilation(grown, np.ones((3, 3, 3)), iterations=2)
