"""Healthy brains for lesions to be drawn into: the MNI152 atlas made into many people, or a real patient."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from scipy import ndimage

from lesiondelta.atlas import Region, mni152, mni152_regions
from lesiondelta.errors import GeometryError, ImageError
from lesiondelta.images import Affine, Array, Volume, require_same_grid, resample
from lesiondelta.preprocessing.brain import require_plausible
from lesiondelta.preprocessing.regions import atlas_to, regions_of
from lesiondelta.simulation.fields import distance_mm, enlarge, sample_at, smooth_field

TISSUES = ("CSF", "GM", "WM")
CORTEX_DEPTH_MM = 14.0  # below the hull of the brain; grey matter farther in belongs to the deep nuclei
VENTRICLE_REACH_MM = 15.0  # how far wide ventricles extend beyond the atlas's
LARGEST_SHIFT = 0.45  # of a voxel, by atrophy
LARGEST_LOAD = 0.2  # of the brain, in lesions
ATLAS_CENTER_MM = np.array([0.0, -18.0, 10.0])
MASKS_SIZE = 0.9
"""Of the brains in the open masks, by the atlas's (decision 070)."""


@dataclass(frozen=True, eq=False)
class Anatomy:
    """One brain without its disease, on an isotropic RAS grid.

    Attributes
    ----------
    affine : (4, 4), voxel -> RAS+ mm
    brain : (X, Y, Z) bool
    tissues : (3, X, Y, Z) float32
        Shares of CSF, grey and white matter; their sum is 1 inside the brain.
    regions : (X, Y, Z) uint8
        The atlas's map of `Region`s, about where they lie in this brain.
    from_masks : (4, 4)
        From points of lesion masks on the grid of MNI152, of brains that kept their size, to those of this brain: mm.
    healthy : mapping of contrast to (X, Y, Z) float32
        Images without lesions. For the atlas only a T1w, used for its texture; for a real patient both contrasts.
    lesioned : mapping of contrast to (X, Y, Z) float32
        The same with the patient's real lesions; empty for the atlas.
    lesions : (X, Y, Z) int32 or None
        The patient's real lesions, numbered from 1.
    """

    affine: Affine
    brain: Array
    tissues: Array
    regions: Array
    healthy: Mapping[str, Array]
    lesioned: Mapping[str, Array] = field(default_factory=dict)
    lesions: Array | None = None
    from_masks: Affine = field(default_factory=lambda: np.eye(4))

    @property
    def spacing_mm(self) -> float:
        """Edge of a voxel."""
        return float(abs(self.affine[0, 0]))

    @property
    def is_real(self) -> bool:
        """Whether the images are those of a real patient."""
        return bool(self.lesioned)

    @cached_property
    def to_ventricles_mm(self) -> Array:
        """Distance to the ventricles."""
        return distance_mm(ventricles(self.tissues[0], self.regions, self.spacing_mm), self.spacing_mm)

    @cached_property
    def to_cortex_mm(self) -> Array:
        """Distance to the grey matter near the surface."""
        cortex = (self.tissues[1] > 0.5) & (distance_mm(~self.brain, self.spacing_mm) < CORTEX_DEPTH_MM)
        return distance_mm(cortex, self.spacing_mm)


def ventricles(csf: Array, regions: Array, spacing_mm: float) -> Array:
    """Fluid nearer to the atlas's ventricles than to its fissures, cisterns and cerebellum, or to what is outside."""
    to_ventricles = distance_mm(regions == Region.VENTRICLES, spacing_mm)
    to_others = distance_mm(np.isin(regions, (0, Region.FLUID, Region.INFRATENTORIAL)), spacing_mm)
    inside: Array = (csf > 0.5) & (to_ventricles < np.minimum(to_others, VENTRICLE_REACH_MM))
    return inside


def mni152_anatomy(seed: int, spacing_mm: float = 1.0) -> Anatomy:
    """A person made from the MNI152 atlas: other size and shape, other folds, wider or narrower ventricles."""
    rng = np.random.default_rng([seed, 152])
    affine, t1w, gm, wm, brain, regions = _atlas(round(spacing_mm))
    # the atlas is larger than most people
    at = _deformation(rng, regions == Region.VENTRICLES, spacing_mm, 1 + rng.uniform(0.03, 0.13))
    septum = _septum(rng, affine, regions)
    warped = sample_at(np.stack([t1w, gm, wm, brain, septum]), at)
    inside, warped_regions = warped[3] > 0.5, _nearest(regions, at)
    tissues = _refolded(rng, warped[1], warped[2], inside, warped_regions, spacing_mm)
    sheet = warped[4] * tissues[0]
    tissues[0] -= sheet
    tissues[1] += sheet
    return Anatomy(affine, inside, tissues, warped_regions, {"T1w": warped[0] * inside})


@lru_cache(maxsize=2)
def _atlas(resolution_mm: int) -> tuple[Affine, Array, Array, Array, Array, Array]:
    """Affine, T1w, grey and white matter, brain and regions of the MNI152 atlas, with a margin."""
    t1w, grey, white, brain = (mni152(what, resolution_mm) for what in ("t1w", "grey", "white", "brain"))
    regions = resample(mni152_regions(), brain.grid, np.eye(4), order="nearest")
    box = ndimage.find_objects(brain.data.astype(np.uint8))[0]
    margin = 8 // resolution_mm
    affine = np.array(t1w.affine, dtype=np.float64)
    affine[:3, 3] += affine[:3, :3] @ [axis.start - margin for axis in box]
    shares = [np.pad(np.clip(volume.data[box], 0, None), margin) for volume in (t1w, grey, white, brain)]
    labels = np.pad(regions.data[box], margin).astype(np.uint8)
    return affine, *(share.astype(np.float32) for share in shares), labels  # type: ignore[return-value]


def _septum(rng: np.random.Generator, affine: Affine, regions: Array) -> Array:
    """Septum pellucidum of the atlas as a sheet of 0.8 to 4 mm between the lateral ventricles; 1 is all tissue.

    In the atlas, a mean of many people, it is a haze.
    """
    x_mm = affine[0, 3] + affine[0, 0] * np.arange(regions.shape[0])
    fluid = regions == Region.VENTRICLES
    beside = [fluid[(low < x_mm) & (x_mm < high)].any(axis=0) for low, high in ((-9, -4), (4, 9))]
    sheet = np.exp(-((x_mm / (0.5 + 1.9 * rng.beta(1.2, 2))) ** 2)) * rng.uniform(0.4, 1)
    septum: Array = sheet[:, None, None] * (beside[0] & beside[1])
    return septum.astype(np.float32)


def _deformation(rng: np.random.Generator, inner: Array, spacing_mm: float, scale: float) -> Array:
    """Where in a brain with ventricles `inner` every voxel of one about `scale` times smaller lies: (3, X, Y, Z)."""
    shape = inner.shape
    step = 4
    coarse = tuple(-(-n // step) for n in shape)
    center = (np.array(shape) - 1) / 2
    scales = scale + rng.uniform(-0.04, 0.04, 3)
    shift = (
        np.stack(
            [
                sum(w * smooth_field(rng, coarse, s / step / spacing_mm) for s, w in ((80, 3.0), (30, 1.5)))
                for _ in range(3)
            ]
        )
        / spacing_mm
    )
    shift += _ventricle_growth(rng, inner, spacing_mm, coarse)
    grid = np.indices(shape, dtype=np.float32, sparse=True)
    at = [(grid[a] - center[a]) * scales[a] + center[a] + enlarge(shift[a], shape) for a in range(3)]
    return np.stack(at).astype(np.float32)


def _ventricle_growth(rng: np.random.Generator, inner: Array, spacing_mm: float, coarse: tuple[int, ...]) -> Array:
    """Displacements (3, x, y, z) in voxels, that widen the ventricles by -1 to 4 mm."""
    away = distance_mm(inner, spacing_mm)
    growth_mm = -1 + 5 * rng.beta(1.2, 2.0)
    field = [
        -growth_mm / spacing_mm * np.exp(-away / 12) * g / spacing_mm
        for g in np.gradient(ndimage.gaussian_filter(away, 2))
    ]
    step = [n // c for n, c in zip(inner.shape, coarse, strict=True)]
    return np.stack([enlarge(f[:: step[0], :: step[1], :: step[2]], coarse) for f in field])


def _refolded(
    rng: np.random.Generator, gm: Array, wm: Array, inside: Array, regions: Array, spacing_mm: float
) -> Array:
    """Sharp tissue shares (3, X, Y, Z) from the atlas's blurred ones.

    The atlas is the mean of 152 people: its cortex is a haze. Random fields added to the logarithms of the shares,
    and a power that sharpens them, turn the haze into folds that differ from person to person.
    """
    csf = np.clip(1 - gm - wm, 0, 1)
    away = distance_mm(ventricles(csf, regions, spacing_mm), spacing_mm)
    moved = gm * np.clip(1.5 - away / 3, 0, 1) * rng.uniform(0.4, 1.0)  # the rim is a mixture, not grey matter
    shares = [csf * np.exp(rng.uniform(0.0, 1.2)), gm - moved, (wm + moved) * np.exp(rng.uniform(0.2, 0.7))]
    logits = [np.log(share + 0.02) for share in shares]
    for k, amplitude in enumerate((0.7, 0.25, 0.25)):
        logits[k] += amplitude * smooth_field(rng, gm.shape, max(3 / spacing_mm, 1.5))
        logits[k] += 0.5 * amplitude * smooth_field(rng, gm.shape, 12 / spacing_mm)
    sharp = [np.exp(rng.uniform(3, 4) * logit) for logit in logits]
    total = sharp[0] + sharp[1] + sharp[2]
    return np.stack([s / total * inside for s in sharp]).astype(np.float32)


def draw_atrophy(rng: np.random.Generator, anatomy: Anatomy) -> Array:
    """A year of atrophy: (3, X, Y, Z) voxels from where tissue is to where it was.

    It retreats from the ventricles by up to 0.3 mm, from the sulci by up to 0.1 mm.
    """
    inner = ventricles(anatomy.tissues[0], anatomy.regions, anatomy.spacing_mm)
    outer = (anatomy.tissues[0] > 0.5) & ~inner
    field = np.zeros((3, *anatomy.brain.shape), np.float32)
    for fluid, rate_mm, reach_mm in ((inner, rng.uniform(0, 0.3), 12), (outer, rng.uniform(0, 0.1), 4)):
        away = distance_mm(fluid, anatomy.spacing_mm)
        slope = np.stack(np.gradient(ndimage.gaussian_filter(away, 1.5))) / anatomy.spacing_mm
        field -= rate_mm / anatomy.spacing_mm * np.exp(-away / reach_mm) * slope.astype(np.float32)
    return field


def shrunken(image: Array, atrophy: Array, years: float) -> Array:
    """An image (X, Y, Z) some years later, or earlier where `years` is negative.

    Nothing moves by half a voxel, so that masks stay as they are.
    """
    shift = atrophy * years
    length = np.linalg.norm(shift, axis=0)
    shift *= np.minimum(1, LARGEST_SHIFT / np.maximum(length, 1e-6))
    moved: Array = sample_at(image[None], np.indices(image.shape, dtype=np.float32) + shift)[0]
    return moved


def image_anatomy(
    t1w: Volume, flair: Volume, lesions: Volume, seed: int = 0, register: Callable[[Volume], Affine] = atlas_to
) -> Anatomy:
    """A real, stripped patient on one isotropic grid, with the lesions and without them.

    The images' background is one constant; the brain is what differs from it. Lesions are filled with the white
    matter around them and noise like the image's own. `register` finds the matrix from the atlas's points to those of
    the T1w: images "in MNI152 space" often keep their own size.

    Raises
    ------
    GeometryError
        The images are not on one grid of cubic voxels along the axes.
    RegistrationError
        What differs from the background is no brain (the images show more than that, or less), or the atlas could not
        be laid upon it.
    ImageError
        The lesions fill more of the brain than lesions do.
    """
    require_same_grid(t1w, flair)
    require_same_grid(flair, lesions)
    rng = np.random.default_rng([seed, 7])
    volumes, affine = _cropped_to_brain(t1w, flair, lesions)
    brain = volumes[3] > 0
    images = {"T1w": volumes[0], "FLAIR": volumes[1]}
    lesioned = {c: np.where(brain, np.clip(image, 0, None), 0).astype(np.float32) for c, image in images.items()}
    labels, _ = ndimage.label(volumes[2] > 0, np.ones((3, 3, 3)))
    share = np.count_nonzero(labels) / np.count_nonzero(brain)
    if share > LARGEST_LOAD:
        raise ImageError(f"{lesions.name} marks {share:.0%} of the brain: it is not a mask of lesions, give another.")
    tissues = tissues_of(lesioned["T1w"], brain, labels > 0)
    healthy = {c: _filled(rng, image, tissues[2], labels > 0, brain) for c, image in lesioned.items()}
    from_atlas = register(Volume(lesioned["T1w"], affine, t1w.name))
    regions = regions_of(Volume(brain, affine, t1w.name), from_atlas)
    numbered = labels.astype(np.int32)
    return Anatomy(affine, brain, tissues, regions, healthy, lesioned, numbered, from_masks(from_atlas))


def from_masks(from_atlas: Affine) -> Affine:
    """`Anatomy.from_masks` of a person with a registration of the atlas, of which the size is left out.

    Open masks on the MNI152 grid are of brains that kept their own size (decision 070): only turn and place follow.
    """
    left, _, right = np.linalg.svd(from_atlas[:3, :3])
    matrix = np.eye(4)
    matrix[:3, :3] = left @ right
    matrix[:3, 3] = (from_atlas @ [*ATLAS_CENTER_MM, 1])[:3] - matrix[:3, :3] @ (MASKS_SIZE * ATLAS_CENTER_MM)
    return matrix


def require_cubic(affine: Affine, name: str) -> None:
    """GeometryError unless the voxels are cubes along the axes: all sizes here are counted in such voxels."""
    edges = np.diag(affine)[:3]
    if np.ptp(edges) > 0.01 or not np.allclose(affine[:3, :3], np.diag(edges), atol=0.01):
        raise GeometryError(f"{name} does not have cubic voxels along the axes: resample it to 1 mm first.")


def deformed(anatomy: Anatomy, seed: int) -> Anatomy:
    """Another person made from a real one: other size and shape, wider or narrower ventricles, lesions with them."""
    rng = np.random.default_rng([seed, 70])
    inner = ventricles(anatomy.tissues[0], anatomy.regions, anatomy.spacing_mm)
    at = _deformation(rng, inner, anatomy.spacing_mm, 1 + rng.uniform(-0.04, 0.08))
    brain = sample_at(anatomy.brain[None].astype(np.float32), at)[0] > 0.5
    tissues = sample_at(anatomy.tissues, at) * brain
    healthy, lesioned = (
        {name: sample_at(image[None], at)[0] * brain for name, image in images.items()}
        for images in (anatomy.healthy, anatomy.lesioned)
    )
    lesions = None if anatomy.lesions is None else _consecutive(_nearest(anatomy.lesions, at) * brain)
    tissues /= np.maximum(tissues.sum(axis=0), 1e-6)
    regions = _nearest(anatomy.regions, at)
    return Anatomy(anatomy.affine, brain, tissues, regions, healthy, lesioned, lesions, anatomy.from_masks)


def _nearest(labels: Array, at: Array) -> Array:
    """Labels at the voxels nearest to `at` (3, X, Y, Z)."""
    indices = (np.clip(np.rint(a), 0, n - 1).astype(np.intp) for a, n in zip(at, labels.shape, strict=True))
    taken: Array = labels[tuple(indices)]
    return taken


def _consecutive(labels: Array) -> Array:
    """The labels numbered without gaps: a small lesion may have lost its last voxel."""
    _, numbers = np.unique(labels, return_inverse=True)
    renumbered: Array = numbers.reshape(labels.shape).astype(np.int32)
    return renumbered


def _cropped_to_brain(t1w: Volume, flair: Volume, lesions: Volume) -> tuple[list[Array], Affine]:
    """T1w, FLAIR, lesions and brain as RAS arrays cut to the brain and a margin, and their affine."""
    import nibabel as nib

    brain = _foreground(flair.data) & _foreground(t1w.data)
    require_plausible(t1w.with_data(brain), t1w.name)
    images = [
        nib.as_closest_canonical(nib.Nifti1Image(data.astype(np.float32), t1w.affine))
        for data in (t1w.data, flair.data, lesions.data, brain)
    ]
    arrays = [np.asarray(image.dataobj) for image in images]
    require_cubic(images[0].affine, t1w.name)
    box = ndimage.find_objects((arrays[3] > 0).astype(np.uint8))[0]
    affine = np.array(images[0].affine, dtype=np.float64)
    affine[:3, 3] += affine[:3, :3] @ [axis.start - 8 for axis in box]
    return [np.pad(a[box] * (arrays[3][box] > 0), 8) for a in arrays], affine


def _foreground(data: Array) -> Array:
    """The largest region that differs from the most frequent value (the background), without its frayed edge."""
    values, counts = np.unique(data, return_counts=True)
    background = values[counts.argmax()]
    inside = ndimage.binary_opening(np.abs(data - background) > 0.02 * np.percentile(data, 99), iterations=1)
    labels, count = ndimage.label(inside)
    largest = labels == (1 + np.bincount(labels.ravel())[1:].argmax() if count else -1)
    closed: Array = ndimage.binary_closing(largest, iterations=2)
    return closed


def tissues_of(t1w: Array, brain: Array, lesions: Array) -> Array:
    """Shares of CSF, grey and white matter by three Gaussians on the T1w; lesions count as white matter."""
    values = t1w[brain & ~lesions]
    centers = np.percentile(values, [5, 40, 80])
    sample = values[:: max(len(values) // 50_000, 1)]
    for _ in range(15):
        nearest = np.abs(sample[:, None] - centers).argmin(axis=1)
        centers = np.array([sample[nearest == k].mean() for k in range(3)])
    width = np.diff(centers).min() / 3
    likely = [np.exp(-0.5 * ((t1w - center) / width) ** 2) + 1e-6 for center in centers]
    total = likely[0] + likely[1] + likely[2]
    tissues = np.stack([p / total * brain for p in likely]).astype(np.float32)
    tissues[:, lesions] = np.array([0, 0, 1], dtype=np.float32)[:, None]
    return tissues


def _filled(rng: np.random.Generator, image: Array, white: Array, lesions: Array, brain: Array) -> Array:
    """The image with its lesions replaced by the white matter around them."""
    hole = ndimage.binary_dilation(lesions, iterations=2)
    around = ((white > 0.7) & ~hole).astype(np.float32)
    mean = ndimage.gaussian_filter(image * around, 4) / (ndimage.gaussian_filter(around, 4) + 1e-4)
    texture = image - ndimage.gaussian_filter(image, 1.0)
    noise = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), 0.5)
    noise *= texture[around > 0].std() / noise.std()
    blend = np.clip(ndimage.gaussian_filter(lesions.astype(np.float32), 1.0) * 2.5, 0, 1)
    filled: Array = (image + blend * (mean + noise - image)) * brain
    return filled.astype(np.float32)
