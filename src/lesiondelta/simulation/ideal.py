"""A person with lesions at each visit, as a scanner without any imperfection would show them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lesiondelta.images import Array
from lesiondelta.simulation.anatomy import Anatomy, draw_atrophy, shrunken
from lesiondelta.simulation.contrast import (
    Contrast,
    add_lesions,
    healthy_image,
    normal_variants,
    recoloured,
    texture_fields,
    tissue_means,
)
from lesiondelta.simulation.disease import Disease


@dataclass(frozen=True, eq=False)
class Look:
    """What makes this person's images differ from another's; `atrophy` is that of a year."""

    textures: Mapping[str, Array]
    variants: Array
    atrophy: Array


def draw_look(rng: np.random.Generator, anatomy: Anatomy) -> Look:
    """Draw what is a person's own."""
    return Look(texture_fields(rng, anatomy), normal_variants(rng, anatomy), draw_atrophy(rng, anatomy))


def instance_map(anatomy: Anatomy, disease: Disease, visit: int) -> Array:
    """Label map of a visit on the anatomy's grid."""
    labels = np.zeros(anatomy.brain.shape, np.int32)
    if anatomy.lesions is not None:
        kept = np.array([0, *(i if there[visit] else 0 for i, there in sorted(disease.present.items()))], np.int32)
        labels = kept[anatomy.lesions]
    for lesion in disease.lesions:
        labels[lesion.box][lesion.mask(visit)] = lesion.identity
    return labels


def ideal_image(
    anatomy: Anatomy, disease: Disease, look: Look, when: tuple[int, float], name: str, contrast: Contrast
) -> Array:
    """The image without any imperfection of the scanner; `when`: number of the visit, and its years from midway."""
    visit, years = when
    image = healthy_image(anatomy, name, contrast, look.textures[name], look.variants)
    if anatomy.lesions is not None:
        there = np.array([0.0, *(float(p[visit]) for _, p in sorted(disease.present.items()))], np.float32)
        kept = ndimage.grey_dilation(there[anatomy.lesions], size=3)
        gone = ndimage.grey_dilation(((anatomy.lesions > 0) & (there[anatomy.lesions] == 0)).astype(np.float32), size=5)
        share = np.maximum(1 - ndimage.gaussian_filter(gone, 0.7), kept)
        image = image + share * (recoloured(anatomy, name, contrast, anatomy.lesioned[name]) - image)
    image = add_lesions(image, name, disease.lesions, visit, tissue_means(anatomy, name, contrast), look.textures[name])
    return shrunken(image, look.atrophy, years) if years else image
