"""Lesions: where they lie, what shape they have, and how they change between visits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lesiondelta.images import Array
from lesiondelta.simulation.anatomy import Anatomy
from lesiondelta.simulation.fields import smooth_field

NOWHERE = np.float32(-1e3)
CHANGES = ("new", "enlarging", "shrinking", "resolved", "stable")


@dataclass(frozen=True)
class Rates:
    """Probability per lesion and pair of visits that it appears, grows, shrinks or vanishes; the rest stays as it is.

    `quiet` is the share of patients in whom nothing changes at all.
    """

    new: float = 0.10
    enlarging: float = 0.10
    shrinking: float = 0.06
    resolved: float = 0.05
    quiet: float = 0.2


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
    box: tuple[slice, slice, slice]
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
        threshold = np.partition(self.score, -n - 1, axis=None)[-n - 1]
        return self.score - np.float32(threshold) - 1e-4

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


def draw_lesions(
    rng: np.random.Generator,
    anatomy: Anatomy,
    visits: int,
    rates: Rates,
    count: int,
    first_identity: int = 1,
    shapes: Sequence[Array] = (),
) -> tuple[Lesion, ...]:
    """Place `count` lesions that do not touch each other, nor the real ones of the anatomy, at any visit."""
    free = _allowed(anatomy)
    noise = _roughness(rng, anatomy)
    places = _places(rng, anatomy, free, 4 * count)
    quiet = rng.random() < rates.quiet
    lesions: list[Lesion] = []
    for center in places:
        if len(lesions) == count:
            break
        if not free[tuple(center)]:
            continue
        largest = 8000 if anatomy.to_ventricles_mm[tuple(center)] < 8 else 400
        sizes_mm3 = _sizes_mm3(rng, visits, rates, quiet, largest)
        voxels = tuple(round(size / anatomy.spacing_mm**3) for size in sizes_mm3)
        shape = shapes[int(rng.integers(len(shapes)))] if len(shapes) else None
        drawn = _draw(rng, anatomy, center, voxels, free, noise, shape)
        if drawn is not None:
            box, score, voxels = drawn
            lesions.append(_finish(rng, first_identity + len(lesions), box, score, voxels, anatomy.spacing_mm))
            _occupy(free, lesions[-1])
    return tuple(lesions)


def changes_between(before: int, after: int) -> str:
    """Name of the change from one size to another; both 0 is no change and no lesion."""
    if before == after:
        return "stable" if before else "absent"
    if not before or not after:
        return "resolved" if before else "new"
    return "enlarging" if after > before else "shrinking"


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


def _places(rng: np.random.Generator, anatomy: Anatomy, free: Array, count: int) -> Array:
    """Centres (count, 3): half near the ventricles, a quarter under the cortex, the rest anywhere in white matter."""
    white = free & (anatomy.tissues[2] > 0.6)
    candidates = np.argwhere(white)
    candidates = candidates[rng.choice(len(candidates), min(len(candidates), 40_000), replace=False)]
    at = tuple(candidates.T)
    near_ventricle = np.exp(-((anatomy.to_ventricles_mm[at] / 5) ** 2))
    near_cortex = np.exp(-((anatomy.to_cortex_mm[at] / 2.5) ** 2)) * (anatomy.to_ventricles_mm[at] > 10)
    anywhere = np.exp(-anatomy.to_ventricles_mm[at] / 30)
    parts = [(p / max(p.sum(), 1e-9)) for p in (near_ventricle, near_cortex, anywhere)]
    chance = np.maximum(0.5 * parts[0] + 0.25 * parts[1] + 0.25 * parts[2], 1e-12)
    chosen = rng.choice(len(candidates), count, p=chance / chance.sum())
    return candidates[chosen]


def _sizes_mm3(rng: np.random.Generator, visits: int, rates: Rates, quiet: bool, largest_mm3: float) -> list[float]:
    """Volume at every visit: log-normal (median 40 mm3), then the fate of each pair."""
    size = float(np.clip(np.exp(rng.normal(np.log(40), 1.35)), 6, largest_mm3))
    sizes = [size]
    fate = np.array([rates.enlarging, rates.shrinking, rates.resolved])
    appears = rng.random(visits - 1) < rates.new
    for pair in range(visits - 1):
        draw, factor = rng.random(), rng.uniform()
        if quiet or not sizes[-1]:
            sizes.append(sizes[-1])
        elif appears[pair] and pair == int(np.argmax(appears)):
            sizes = [0.0] * (pair + 1) + [size]
        else:
            outcome = int(np.searchsorted(np.cumsum(fate), draw, side="right"))
            sizes.append(sizes[-1] * (1.5 + 1.5 * factor, 0.3 + 0.35 * factor, 0.0, 1.0)[outcome])
    return sizes


def _draw(
    rng: np.random.Generator,
    anatomy: Anatomy,
    center: Array,
    voxels: tuple[int, ...],
    free: Array,
    noise: Array,
    shape: Array | None,
) -> tuple[tuple[slice, slice, slice], Array, tuple[int, ...]] | None:
    """Box, score and sizes of one lesion around a centre; None where there is no room."""
    spacing = anatomy.spacing_mm
    radius_mm = max(np.cbrt(max(voxels) * 3 / (4 * np.pi)) * spacing, spacing)
    if shape is not None:
        radius_mm = max(radius_mm, np.cbrt(shape.sum() * 3 / (4 * np.pi)))
    half = int(np.ceil((2.2 * radius_mm + 4) / spacing))
    low, high = np.maximum(center - half, 0), np.minimum(center + half + 1, free.shape)
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    box = (x, y, z)
    score = _procedural(rng, anatomy, center, box, radius_mm)
    score += 0.35 * radius_mm * noise[box]
    score -= 2.0 * radius_mm * np.clip(0.6 - anatomy.tissues[2][box], 0, None)
    score = np.where(free[box], score, NOWHERE).astype(np.float32)
    return _grown(box, score, tuple(center - low), voxels)


def _procedural(
    rng: np.random.Generator, anatomy: Anatomy, center: Array, box: tuple[slice, slice, slice], radius_mm: float
) -> Array:
    """A tilted ellipsoid; beside the ventricles it spreads along them."""
    axes = np.exp(rng.normal(0, 0.3, 3))
    axes /= np.cbrt(axes.prod())
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    offsets = (
        np.stack(
            np.meshgrid(*[np.arange(s.start, s.stop) - c for s, c in zip(box, center, strict=True)], indexing="ij"),
            axis=-1,
        )
        * anatomy.spacing_mm
    )
    away = np.linalg.norm((offsets @ turn) / axes, axis=-1)
    to_ventricles = anatomy.to_ventricles_mm[box]
    if to_ventricles[tuple(c - s.start for s, c in zip(box, center, strict=True))] < 6 and rng.random() < 0.7:
        away = np.sqrt((0.6 * away) ** 2 + (1.3 * to_ventricles) ** 2)
    depth: Array = radius_mm - away
    return depth.astype(np.float32)


def _grown(
    box: tuple[slice, slice, slice], score: Array, seed: tuple[int, ...], voxels: tuple[int, ...]
) -> tuple[tuple[slice, slice, slice], Array, tuple[int, ...]] | None:
    """Keep one connected piece that holds the largest size; None where it does not fit."""
    largest = max(voxels)
    if np.count_nonzero(score > NOWHERE / 2) < 2 * largest + 8:
        return None
    threshold = np.partition(score, -largest - 1, axis=None)[-largest - 1]
    labels, count = ndimage.label(score > threshold, np.ones((3, 3, 3)))
    if not count:
        return None
    piece = labels == (labels[seed] or 1 + np.bincount(labels.ravel())[1:].argmax())
    lost = np.count_nonzero(piece) / largest
    if lost < 0.3:
        return None
    score = np.where((labels > 0) & ~piece, NOWHERE, score).astype(np.float32)
    score[(score <= threshold) & ~ndimage.binary_dilation(piece, iterations=3)] = NOWHERE
    sizes = [0 if not n else max(2, round(n * lost)) for n in voxels]
    return box, score, tuple(sizes)


def _finish(
    rng: np.random.Generator,
    identity: int,
    box: tuple[slice, slice, slice],
    score: Array,
    voxels: tuple[int, ...],
    spacing_mm: float,
) -> Lesion:
    """Give a shape its looks: larger lesions are brighter on FLAIR and darker on T1w."""
    size = np.log10(max(voxels) * spacing_mm**3)
    flair = float(np.clip(0.12 + 0.1 * size + rng.normal(0, 0.1), 0.08, 0.9))
    t1w = float(np.clip(rng.normal(0.05 + 0.10 * size, 0.14), 0.0, 0.85))
    return Lesion(identity, box, score, voxels, flair, t1w, float(rng.uniform(0.8, 2.0)), float(rng.uniform(0, 0.25)))


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
