"""The brain mask: the user's, a stripped image's own, a network's, HD-BET's, SynthStrip's, or an atlas's."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from lesiondelta.anatomy.finding import find_anatomy
from lesiondelta.atlas import mni152
from lesiondelta.errors import ImageError, RegistrationError
from lesiondelta.images import Array, Volume, read_mask, resample, write_volume
from lesiondelta.preprocessing.appearance import atlas_box, extent_mm
from lesiondelta.preprocessing.elastix import centre_mm, elastix
from lesiondelta.preprocessing.points import coarse, dilate, litres, voxels_mm
from lesiondelta.preprocessing.programs import call, require_program
from lesiondelta.timings import timed

STRIPPED_SPREAD = 0.008
"""Interquartile range of an image's darkest 30 % over its percentile 98: below, the background is a constant."""
BRAIN_LITRES = (0.7, 2.2)
"""Volume of a brain with its fluid; a head without its neck has more than 2.5."""
EXTENT, USUAL_EXTENT = (0.4, 1.25), 0.7
"""Of the brain along an axis, as a share of the atlas's; real ones have 0.84 to 1.02 (decision 014)."""
COARSE_MM = 2.0
CENTRE_MM = 40.0
"""Radius around the head's centre where only brain lies."""
TISSUE = (0.5, 1.6)
"""Darkest and brightest tissue, in units of the median there."""
BRIDGE_MM = 5.0
"""Tissue that joins brain and scalp is thinner than twice this."""
CORE_MM, CORE_ML = 3.0, 10.0
"""The brain's tissue holds balls of this radius, whose centres fill this volume; scraps of scalp and dura do not."""
SURFACE_MM = 10.0
"""Scraps reach no deeper; ventricles, which hold no tissue either, do."""
ATLAS_MARGIN_MM = 6.0
"""Around the template, where the affine registration looks."""
FREEDOM_MM = 3.0
"""How far the brain may reach beyond the template's."""
CONFIRMED_MM, LEAST_AGREEMENT = 2.0, 0.93
"""Around the network's brain, where a FLAIR's brain is believed; Dice of both ways below which it is doubtful."""
PROGRAMS = {
    "hd-bet": (
        "hd-bet",
        "pip install hd-bet",
        ("-o", "brain.nii.gz", "-device", "cpu", "--disable_tta", "--save_bet_mask"),
        "brain_bet.nii.gz",
    ),
    "synthstrip": ("mri_synthstrip", "install FreeSurfer 7.3 or later", ("-m", "mask.nii.gz"), "mask.nii.gz"),
}
"""Executable, how to get it, options, and the mask it writes."""


@timed("brain extraction")
def own_mask(image: Volume, certain: bool = False) -> Volume | None:
    """The brain of an image that is stripped already, None for a whole head; `certain`: the user says it is stripped.

    Stripped means a constant background (near 0, not always 0) around one piece no larger than a brain. Heads with a
    zeroed background (defaced, or cleaned by the scanner) are larger.
    """
    values = np.sort(image.data, axis=None)
    top = values[int(0.98 * values.size)]
    dark = values[: int(0.3 * values.size)]
    spread = dark[int(0.75 * dark.size)] - dark[int(0.25 * dark.size)]
    background = values[int(0.15 * values.size)]
    foreground = np.abs(image.data - background) > STRIPPED_SPREAD * top
    filled = image.with_data(ndimage.binary_fill_holes(foreground))
    found = spread < STRIPPED_SPREAD * top and litres(filled) < BRAIN_LITRES[1]
    return image.with_data(_largest(filled.data)) if certain or found else None


@timed("brain extraction")
def extract(images: Mapping[str, Volume], method: str, threads: int = 1) -> Volume:
    """The brain of a whole head on the grid of its images: `network`, `atlas`, `hd-bet` or `synthstrip`.

    `images` are those of `looked_at`.

    Raises
    ------
    DependencyError
        The program is not installed, or it failed.
    ImageError, RegistrationError
        There is no brain, or the result is not a plausible one.
    """
    image = images[looked_at(method, list(images))[0]]
    if method == "network":
        mask = image.with_data(find_anatomy(images).brain(image.grid))
    else:
        mask = atlas_mask(image, threads) if method == "atlas" else program_mask(image, method)
    require_plausible(mask, image.name)
    return mask


@timed("brain extraction")
def confirmed(mask: Volume, flair: Volume) -> tuple[Volume, list[str]]:
    """What of a brain that the atlas found in a FLAIR the anatomy network takes for brain too, and doubts about it.

    In a FLAIR with thick slices, scalp is as bright as brain and runs into it: each way takes some, but not the same.
    """
    try:
        seen = mask.with_data(find_anatomy({"FLAIR": flair}).brain(mask.grid))
    except ImageError:
        return mask, [f"the brain in {flair.name} was found by the atlas alone: look at its mask"]
    agreement = 2 * np.count_nonzero(mask.data & seen.data) / (mask.data.sum() + seen.data.sum())
    both = mask.with_data(_largest(mask.data & dilate(seen, CONFIRMED_MM).data))
    if agreement >= LEAST_AGREEMENT:
        return both, []
    return both, [
        f"the brain in {flair.name} is doubtful, as two ways of finding it agree by a Dice of only {agreement:.2f}: "
        "look at its mask, or give one"
    ]


def looked_at(method: str, contrasts: Sequence[str]) -> Sequence[str]:
    """What a method sees of a visit: the network all contrasts, others the T1w, or the first where there is none."""
    if method == "network":
        return contrasts
    return ["T1w" if "T1w" in contrasts else contrasts[0]]


def require_extent(mask: Volume, source: str) -> list[str]:
    """Doubts about how long, wide and high the brain is, beside the atlas's: it may be a part, or its voxels no mm.

    Raises
    ------
    RegistrationError
        No brain is so long along an axis, or so short.
    """
    sizes, atlas = extent_mm(mask), np.subtract(*atlas_box()[::-1])
    figures = " x ".join(f"{size:.0f}" for size in sizes)
    usual = " x ".join(f"{size:.0f}" for size in atlas)
    shares = sizes / atlas
    if shares.max() > EXTENT[1] or shares.min() < EXTENT[0]:
        raise RegistrationError(
            f"The brain in {source} measures {figures} mm (left-right, back-front, down-up; the atlas's {usual}): see "
            "whether the voxel sizes in its header are right, and whether it shows the brain."
        )
    if shares.min() < USUAL_EXTENT:
        return [f"the brain in {source} measures only {figures} mm (the atlas's {usual}): it may be a part of one"]
    return []


def require_plausible(mask: Volume, source: str) -> None:
    """Raise RegistrationError unless the mask is one piece of 0.7 to 2.2 litres."""
    volume = litres(mask)
    connected = volume and litres(mask.with_data(_largest(mask.data, fill=False))) / volume
    if not BRAIN_LITRES[0] <= volume <= BRAIN_LITRES[1] or connected < 0.98:
        raise RegistrationError(
            f"The brain found in {source} has {volume:.2f} litres, {connected:.0%} of it in one piece: not a brain. "
            "Look at the image, and give a brain mask or choose another way of brain extraction."
        )


def atlas_mask(image: Volume, threads: int = 1) -> Volume:
    """The MNI152 brain, moved by an affine registration onto the grid of `image` (whole head, T1w for choice).

    The template has no skull, and mutual information would grow it to the scalp; so skull and scalp are roughly removed
    from the head first. What that rough mask holds within 3 mm of the moved brain belongs to the brain too, and scraps
    of scalp and dura do not.
    """
    template, brain = mni152("t1w"), mni152("brain")
    head = coarse(image, COARSE_MM)
    darkest, brightest = (share * level(head) for share in TISSUE)
    rough = rough_mask(head, darkest, brightest)
    core = head.with_data(np.where(rough.data, head.data, 0))
    affine = elastix(template, core, degrees=12, threads=threads, mask=dilate(brain, ATLAS_MARGIN_MM))
    back = np.asarray(np.linalg.inv(affine), np.float64)
    certain = resample(brain, image.grid, back, order="linear").data > 0.5
    near = resample(dilate(brain, FREEDOM_MM), image.grid, back, order="nearest").data
    found = certain | (near & (resample(rough, image.grid, order="linear").data > 0.5))
    return trimmed(image.with_data(_largest(found)), image, darkest)


def trimmed(mask: Volume, image: Volume, darkest: float) -> Volume:
    """The mask without scraps of scalp and dura: near its surface, only what lies by tissue that holds together.

    `darkest` is the least value of tissue.
    """
    smooth = ndimage.gaussian_filter(image.data, 1.0 / image.grid.spacing)  # or noise would dissolve the tissue
    tissue = mask.with_data(mask.data & (smooth > darkest))
    pieces, _ = ndimage.label(~dilate(tissue.with_data(~tissue.data), CORE_MM).data)
    least = CORE_ML * 1000 / mask.grid.voxel_volume_mm3
    large = np.bincount(pieces.ravel()) >= least
    large[0] = False
    near = dilate(mask.with_data(large[pieces]), CORE_MM + FREEDOM_MM)
    deep = ~dilate(mask.with_data(~mask.data), SURFACE_MM).data
    return mask.with_data(_largest(mask.data & (near.data | deep)))


def rough_mask(head: Volume, darkest: float, brightest: float) -> Volume:
    """The piece of tissue around the centre that is left once the dark skull has cut off the scalp; fat is brighter."""
    tissue = head.with_data((head.data > darkest) & (head.data < brightest))
    inner = head.with_data(_largest(~dilate(head.with_data(~tissue.data), BRIDGE_MM).data))
    return head.with_data(ndimage.binary_fill_holes(dilate(inner, BRIDGE_MM + 1).data))


def level(head: Volume) -> float:
    """Median around the head's centre."""
    distance = np.linalg.norm(voxels_mm(head.grid) - centre_mm(head), axis=1).reshape(head.data.shape)
    return float(np.median(head.data[distance < CENTRE_MM]))


def program_mask(image: Volume, method: str) -> Volume:
    """The mask that HD-BET or SynthStrip writes, as it stands."""
    _, _, options, written = PROGRAMS[method]
    program = require_extraction(method)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_volume(folder / "head.nii.gz", image)
        call([program, "-i", "head.nii.gz", *options], folder, f"find the brain in {image.name}")
        return image.with_data(read_mask(folder / written).data)


def require_extraction(method: str) -> str:
    """Path of the method's program, or DependencyError that says how to get it."""
    name, advice, *_ = PROGRAMS[method]
    return require_program(name, f"{advice}, or use brain extraction by atlas")


def _largest(mask: Array, fill: bool = True) -> Array:
    pieces, _ = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    piece: Array = (pieces == sizes.argmax()) & mask
    return ndimage.binary_fill_holes(piece) if fill else piece
