"""What an anatomy looks like on T1w and FLAIR: tissue means, texture, lesions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lesiondelta.images import Array
from lesiondelta.simulation.anatomy import Anatomy
from lesiondelta.simulation.fields import distance_mm, smooth_field
from lesiondelta.simulation.lesions import Lesion

RECOLOURING = 0.75  # of the way
ATLAS_T1W = (0.33, 0.65, 0.87)  # CSF, grey and white matter of the MNI152 T1w


@dataclass(frozen=True)
class Contrast:
    """Mean of CSF, grey and white matter; white matter is 1. `texture` is the share taken from the atlas's T1w."""

    means: tuple[float, float, float]
    texture: float


def draw_contrasts(rng: np.random.Generator, randomised_share: float = 0.0) -> dict[str, Contrast]:
    """One scanner's T1w and FLAIR.

    A share of the scanners is none that exists: its tissues have any brightness, in any order, and nothing is left of
    the atlas's texture, so that a network learns shapes and differences (domain randomisation, Billot et al. 2023).
    """
    if rng.random() < randomised_share:
        any_t1w = (rng.uniform(0.0, 0.9), rng.uniform(0.4, 1.5), 1.0)
        return {
            "T1w": Contrast(any_t1w, 0.0),
            "FLAIR": Contrast((rng.uniform(0.0, 0.8), rng.uniform(0.7, 1.5), 1.0), 0.0),
        }
    dark = rng.uniform(0.12, 0.45)
    grey = dark + (1 - dark) * rng.uniform(0.45, 0.82)
    flair = Contrast((rng.uniform(0.08, 0.65), rng.uniform(1.04, 1.3), 1.0), 0.0)
    return {"T1w": Contrast((dark, grey, 1.0), rng.uniform(0.2, 0.7)), "FLAIR": flair}


def jitter(rng: np.random.Generator, contrasts: Mapping[str, Contrast], amount: float = 0.03) -> dict[str, Contrast]:
    """The same scanner on another day."""
    return {
        name: Contrast((*(m + rng.normal(0, amount) for m in c.means[:2]), 1.0), c.texture)  # type: ignore[arg-type]
        for name, c in contrasts.items()
    }


def texture_fields(rng: np.random.Generator, anatomy: Anatomy) -> dict[str, Array]:
    """What varies within a tissue of this person, the same at every visit: a few per cent."""
    shape, spacing = anatomy.brain.shape, anatomy.spacing_mm
    return {
        name: 1
        + rng.uniform(0.01, 0.03) * smooth_field(rng, shape, 4 / spacing)
        + rng.uniform(0.01, largest) * smooth_field(rng, shape, 18 / spacing)
        for name, largest in (("T1w", 0.05), ("FLAIR", 0.09))
    }


def normal_variants(rng: np.random.Generator, anatomy: Anatomy) -> Array:
    """What is bright on FLAIR without being a lesion, in units of white matter - CSF; the same at every visit.

    Uneven cortex, the rim of the ventricles and the caps of their horns, septum, fornix, choroid plexus, white matter
    that is a little bright over centimetres, and fluid that flows.
    """
    shape, spacing = anatomy.brain.shape, anatomy.spacing_mm
    csf, grey, white = anatomy.tissues
    uneven = rng.uniform(0.05, 0.22) * smooth_field(rng, shape, 4 / spacing)
    uneven += rng.uniform(0.03, 0.18) * smooth_field(rng, shape, 20 / spacing)
    uneven *= 0.3 + 0.7 * np.exp(-((anatomy.to_cortex_mm / 2) ** 2))  # the deep nuclei are more even
    rim = np.exp(-((anatomy.to_ventricles_mm / 1.5) ** 2)) * rng.uniform(0, 0.3)
    coarse = smooth_field(rng, shape, 25 / spacing)
    haze = white * np.clip(smooth_field(rng, shape, 10 / spacing) - 0.8, 0, 1.5) * rng.uniform(0, 0.15)
    flow = np.clip(coarse - 0.8, 0, 1) * rng.uniform(0, 0.8)
    variants: Array = grey * uneven + haze + csf * (flow + choroid_plexus(rng, anatomy))
    variants += (1 - csf) * (rim * np.clip(1 + coarse, 0, 2) + ventricular_caps(rng, anatomy) + midline(rng, anatomy))
    return variants


def choroid_plexus(rng: np.random.Generator, anatomy: Anatomy) -> Array:
    """How much brighter than fluid the ventricles' voxels are: in clumps, hardly visible or as bright as a lesion."""
    shape, spacing = anatomy.brain.shape, anatomy.spacing_mm
    clumps = smooth_field(rng, shape, 6 / spacing) + 0.5 * smooth_field(rng, shape, 3 / spacing)
    inside = (anatomy.to_ventricles_mm <= spacing) & (clumps > rng.uniform(1.1, 2.2))
    brightness: Array = rng.uniform(0.3, 1.6) * np.clip(1 + 0.3 * smooth_field(rng, shape, 2 / spacing), 0, 2)
    return inside * brightness


def ventricular_caps(rng: np.random.Generator, anatomy: Anatomy) -> Array:
    """Brightness about the tips of the frontal and the occipital horns, which most people have, each to its degree."""
    away, caps = anatomy.to_ventricles_mm, np.zeros(anatomy.brain.shape, np.float32)
    voxels = np.argwhere(away <= anatomy.spacing_mm)
    middle = np.median(voxels[:, 0])
    for side in (voxels[voxels[:, 0] < middle], voxels[voxels[:, 0] >= middle]):
        for tip, strongest in ((side[side[:, 1].argmax()], 0.6), (side[side[:, 1].argmin()], 0.45)):
            squares = [(np.arange(n) - c) ** 2 for n, c in zip(away.shape, tip, strict=True)]
            to_tip = np.sqrt(np.add.outer(np.add.outer(squares[0], squares[1]), squares[2])) * anatomy.spacing_mm
            near = np.exp(-((to_tip / rng.uniform(6, 12)) ** 2)) * np.exp(-((away / rng.uniform(1.5, 4)) ** 2))
            np.maximum(caps, near * rng.uniform(0, strongest), out=caps)
    return caps


def midline(rng: np.random.Generator, anatomy: Anatomy) -> Array:
    """Brightness of what lies between the lateral ventricles (septum pellucidum, fornix): none, or that of a lesion."""
    spacing = anatomy.spacing_mm
    inside = anatomy.to_ventricles_mm <= spacing
    x_mm = spacing * (np.arange(inside.shape[0]) - np.median(np.nonzero(inside)[0]))
    sides = [inside & side[:, None, None] for side in (x_mm < -4, x_mm > 4)]  # the third ventricle is in the middle
    away = np.maximum(*(distance_mm(side, spacing) for side in sides))
    near = np.exp(-((away / rng.uniform(4, 8)) ** 4))
    brightness: Array = near * np.clip(rng.uniform(-0.3, 0.9), 0, None)
    return brightness * np.clip(1 + 0.3 * smooth_field(rng, inside.shape, 3 / spacing), 0, 2)


def healthy_image(anatomy: Anatomy, name: str, contrast: Contrast, texture: Array, variants: Array) -> Array:
    """The image without lesions; white matter is about 1. `variants` brighten the FLAIR."""
    if anatomy.is_real:
        image = recoloured(anatomy, name, contrast, anatomy.healthy[name])
        if name == "FLAIR":
            image += variants * (1 - tissue_means(anatomy, name, contrast)[0]) * anatomy.brain
        return image
    image = np.tensordot(np.array(contrast.means, dtype=np.float32), anatomy.tissues, axes=1)
    if name in anatomy.healthy:
        atlas = np.interp(anatomy.healthy[name], (0, *ATLAS_T1W, 1.2), (0, *contrast.means, 1.2)).astype(np.float32)
        image += contrast.texture * (atlas - image)
    if name == "FLAIR":
        image += variants * (1 - contrast.means[0])
    return (image * texture * anatomy.brain).astype(np.float32)


def recoloured(anatomy: Anatomy, name: str, contrast: Contrast, image: Array) -> Array:
    """A real image with white matter at 1, and its fluid and grey matter moved most of the way to a contrast's."""
    white, fluid, grey = own_means(anatomy, name)
    moved = image / white
    for tissue, wanted, own in zip(anatomy.tissues[:2], contrast.means[:2], (fluid, grey), strict=True):
        moved += RECOLOURING * (wanted - own) * tissue
    return (np.clip(moved, 0, None) * anatomy.brain).astype(np.float32)


def own_means(anatomy: Anatomy, name: str) -> tuple[float, float, float]:
    """Mean of a real image's white matter; of its fluid and grey matter, where white matter is 1."""
    fluid, grey, white = (float(anatomy.healthy[name][tissue > 0.8].mean()) for tissue in anatomy.tissues)
    return white, fluid / white, grey / white


def tissue_means(anatomy: Anatomy, name: str, contrast: Contrast) -> tuple[float, float]:
    """Means of the fluid and of grey matter, where white matter is 1."""
    fluid, grey, _ = contrast.means
    if not anatomy.is_real:
        return fluid, grey
    _, own_fluid, own_grey = own_means(anatomy, name)
    return own_fluid + RECOLOURING * (fluid - own_fluid), own_grey + RECOLOURING * (grey - own_grey)


def add_lesions(
    image: Array, name: str, lesions: Sequence[Lesion], visit: int, means: tuple[float, float], texture: Array
) -> Array:
    """Blend the lesions present at a visit into an image, in place: brighter than any tissue on FLAIR, dark on T1w."""
    fluid, grey = means
    for lesion in lesions:
        if not lesion.voxels[visit]:
            continue
        value = max(grey, 1) + lesion.flair * (1 - fluid) if name == "FLAIR" else 1 - lesion.t1w * (1 - fluid)
        weight = lesion.weight(visit)
        region = image[lesion.box]
        region += weight * (value * (1 + 2 * (texture[lesion.box] - 1)) - region)
    return image
