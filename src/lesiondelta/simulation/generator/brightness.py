"""How bright every voxel of a patch is before it is scanned; white matter is 1."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lesiondelta.simulation.contrast import Contrast
from lesiondelta.simulation.generator.label_map import FLUIDS, GREY_MATTER, WHITE_MATTER, Tissue
from lesiondelta.simulation.generator.lesion_depth import PatchLesions
from lesiondelta.simulation.generator.patch import Patch
from lesiondelta.simulation.generator.sampling import blurred, smooth_field

SHARPNESS = 0.55
"""Standard deviation in voxels by which tissues blend at their borders."""
BRIGHTER = 1.2
"""Lesions are on FLAIR than the cohort simulator's: those of real patients (docs/results/drawn)."""
RIM_BLUR, DARKEST_RIM = 0.8, 0.5
"""Of the rims that maps have: blur in voxels, and by how much of white matter - CSF a T1w shows them at most."""
VARYING = 0.15
"""Of how much people's tissues differ, what differs from visit to visit."""


@dataclass(frozen=True)
class Tissues:
    """By how much a person's tissues differ from the three that a contrast knows.

    Attributes
    ----------
    fluid, cerebellar_cortex, cerebellar_white : factors, of fluid, grey and white matter
    deep : how far deep grey matter is from cortex to white matter
    stem : what the brain stem is brighter by than white matter
    """

    fluid: float
    deep: float
    stem: float
    cerebellar_cortex: float
    cerebellar_white: float

    def varied(self, rng: np.random.Generator) -> "Tissues":
        """At a visit: a little different."""
        fluid, deep, stem, cortex, white = VARYING * rng.normal(0, (0.12, 0.2, 0.04, 0.04, 0.03))
        return Tissues(
            self.fluid + fluid,
            self.deep + deep,
            self.stem + stem,
            self.cerebellar_cortex + cortex,
            self.cerebellar_white + white,
        )


@dataclass(frozen=True, eq=False)
class Look:
    """What is a person's own at every visit.

    Attributes
    ----------
    textures, tissues : by contrast; textures are (X, Y, Z)
    variants : (X, Y, Z)
        What is bright on FLAIR without being lesion.
    darker : (X, Y, Z)
        What is dark on T1w without being lesion.
    """

    textures: Mapping[str, Tensor]
    variants: Tensor
    darker: Tensor
    tissues: Mapping[str, Tissues]


def draw_tissues(rng: np.random.Generator, name: str) -> Tissues:
    """Of a person, on a contrast."""
    return Tissues(
        fluid=rng.uniform(0.85, 1.25),
        deep=rng.uniform(-0.1, 0.6),
        stem=rng.normal(0.03 if name == "FLAIR" else -0.02, 0.04),
        cerebellar_cortex=1 + rng.normal(0, 0.04),
        cerebellar_white=1 + rng.normal(0, 0.03),
    )


def tissue_means(contrast: Contrast, tissues: Tissues) -> list[float]:
    """Brightness of every `Tissue` on a scanner of which three tissues are known."""
    fluid, grey, white = contrast.means
    means = {
        Tissue.OUTSIDE: 0.0,
        Tissue.VENTRICLE: fluid,
        Tissue.FLUID: fluid * tissues.fluid,
        Tissue.CORTEX: grey,
        Tissue.DEEP_GREY: grey + tissues.deep * (white - grey),
        Tissue.WHITE: white,
        Tissue.CEREBELLAR_CORTEX: grey * tissues.cerebellar_cortex,
        Tissue.CEREBELLAR_WHITE: white * tissues.cerebellar_white,
        Tissue.BRAIN_STEM: white + tissues.stem,
        Tissue.CHOROID: fluid,
    }
    return [float(means[tissue]) for tissue in Tissue]


def draw_look(rng: np.random.Generator, patch: Patch) -> Look:
    """Textures of a few per cent, normal variants, and how bright tissues are."""
    shape, device = tuple(patch.tissue.shape), patch.tissue.device
    textures = {
        name: 1
        + rng.uniform(0.01, 0.035) * smooth_field(rng, shape, 4, device)
        + rng.uniform(0.01, largest) * smooth_field(rng, shape, 18, device)
        for name, largest in (("T1w", 0.05), ("FLAIR", 0.09))
    }
    darker = rng.uniform(0, DARKEST_RIM) * blurred(patch.rim[None], RIM_BLUR)[0]
    return Look(textures, normal_variants(rng, patch), darker, {name: draw_tissues(rng, name) for name in textures})


def normal_variants(rng: np.random.Generator, patch: Patch) -> Tensor:
    """`contrast.normal_variants` of a patch: what is bright on FLAIR without being a lesion, in white matter - CSF.

    Uneven cortex, rim and caps of the ventricles, septum and fornix, choroid plexus, hazy white matter, and flow.
    """
    shape, device = tuple(patch.tissue.shape), patch.tissue.device
    coarse = smooth_field(rng, shape, 25, device)
    uneven = rng.uniform(0.05, 0.22) * smooth_field(rng, shape, 4, device)
    uneven = uneven + rng.uniform(0.03, 0.18) * smooth_field(rng, shape, 20, device)
    uneven = uneven * (0.3 + 0.7 * torch.exp(-((patch.to_cortex / 2) ** 2)))
    width = rng.uniform(0.8, 3.4)
    rim = torch.exp(-((patch.to_ventricles / width) ** 2)) * rng.uniform(0, 0.9) * (1 + coarse).clamp(0, 2)
    own = blurred(patch.rim[None], RIM_BLUR)[0] * rng.uniform(0, 1.1) * (1 + 0.3 * coarse).clamp(0, 2)
    haze = (smooth_field(rng, shape, 10, device) - 0.8).clamp(0, 1.5) * rng.uniform(0, 0.15)
    flow = (coarse - 0.8).clamp(0, 1) * rng.uniform(0, 0.8)
    fluid = patch.shares(*FLUIDS)
    bright = (
        fluid * (flow + _choroid(rng, patch)) + patch.shares(*GREY_MATTER) * uneven + patch.shares(Tissue.WHITE) * haze
    )
    return bright + (1 - fluid) * (torch.maximum(rim, own) + _midline(rng, patch) + _caps(rng, patch))


def _choroid(rng: np.random.Generator, patch: Patch) -> Tensor:
    """In clumps inside the ventricles, and where the map has it; hardly visible or as bright as a lesion."""
    shape, device = tuple(patch.tissue.shape), patch.tissue.device
    clumps = smooth_field(rng, shape, 6, device) + 0.5 * smooth_field(rng, shape, 3, device)
    inside = (clumps > rng.uniform(1.3, 2.6)).float() * (patch.to_ventricles <= 0.5)
    inside = torch.maximum(inside, patch.shares(Tissue.CHOROID))
    return inside * rng.uniform(0.3, 1.6) * (1 + 0.3 * smooth_field(rng, shape, 2, device)).clamp(0, 2)


def _caps(rng: np.random.Generator, patch: Patch) -> Tensor:
    """About the tips of the frontal and the occipital horns, which most people have, each to its degree."""
    caps = torch.zeros_like(patch.to_ventricles)
    for number, to_tip in enumerate(patch.to_tips):
        strength = rng.uniform(0, 0.75 if number % 2 else 0.9) * (rng.random() < 0.85)
        wide, deep = rng.uniform(6, 14), rng.uniform(1.5, 5)
        if to_tip is None or not strength:
            continue
        near = torch.exp(-((to_tip / wide) ** 2)) * torch.exp(-((patch.to_ventricles / deep) ** 2))
        caps = torch.maximum(caps, near * strength)
    return caps


def _midline(rng: np.random.Generator, patch: Patch) -> Tensor:
    """Septum pellucidum and fornix between the lateral ventricles: none, or as bright as a lesion."""
    shape, device = tuple(patch.tissue.shape), patch.tissue.device
    width, strength = rng.uniform(2.5, 6), max(rng.uniform(-0.3, 0.9), 0.0)
    if not strength or float(patch.between.min()) > 2 * width:
        return torch.zeros_like(patch.between)
    near = torch.exp(-((patch.between / width) ** 4)) * strength
    return near * (1 + 0.3 * smooth_field(rng, shape, 3, device)).clamp(0, 2)


def ideal(patch: Patch, look: Look, lesions: PatchLesions, visit: int, name: str, means: list[float]) -> Tensor:
    """A visit's image without any imperfection of the scanner (X, Y, Z)."""
    fluid, grey = means[Tissue.VENTRICLE], means[Tissue.CORTEX]
    image = torch.tensor(means, device=patch.tissue.device)[patch.tissue]
    flair, t1w = (lesions.looks[:, k][lesions.owner] for k in (0, 1))
    texture = look.textures[name]
    if name == "FLAIR":
        image = image + look.variants * (1 - fluid) * (patch.tissue > 0)
        value = max(grey, 1) + BRIGHTER * flair * (1 - fluid)
    else:
        image = image - look.darker * (1 - fluid) * patch.shares(*WHITE_MATTER)
        value = 1 - t1w * (1 - fluid)
    weight = lesions.weight(visit) * (1 - patch.shares(*FLUIDS, Tissue.OUTSIDE))
    return blurred(((image + weight * (value - image)) * texture)[None], SHARPNESS)[0]
