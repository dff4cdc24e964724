"""Two visits of a head that is made up: folds, fluid, noise, and lesions where a test wants them."""

import numpy as np
from scipy import ndimage

from lesiondelta.tracking import TrackedVisit, VisitImage

SHAPE = (72, 76, 68)
THIN = np.eye(3) / 12
PLACES = {"left": (22, 40, 34), "right": (50, 40, 34), "front": (36, 58, 34)}
"""Middles of lesions in even white matter."""


def head(seed=0):
    """Brightness (white matter 1, folds around it, fluid in the middle and outside) and the brain."""
    x, y, z = np.indices(SHAPE) - np.array([s / 2 for s in SHAPE])[:, None, None, None]
    distance = np.sqrt((x / 32) ** 2 + (y / 34) ** 2 + (z / 30) ** 2)
    folds = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 2)
    folds /= folds.std()
    values = np.where(distance > 0.8, 1.15 + 0.25 * folds, 1.0 + 0.02 * folds)
    values = np.where((x / 8) ** 2 + (y / 12) ** 2 + (z / 7) ** 2 < 1, 0.3, values)
    return np.where(distance < 1, values, 0.3), distance < 1


def ball(place, radius):
    """Mask of a ball."""
    offsets = np.indices(SHAPE) - np.array(PLACES.get(place, place))[:, None, None, None]
    return (offsets**2).sum(axis=0) <= radius**2


def scan(lesions, noise_seed, *, noise=0.03, shift=0.0, blur=THIN):
    """An image with bright lesions, as another scan shows it: shifted, blurred by its slices, noisy."""
    values, brain = head()
    values = np.where(lesions, 1.5, values)
    values = ndimage.shift(values, [shift, -shift, shift], order=1)
    values = ndimage.gaussian_filter(values, np.sqrt(np.diag(blur - THIN)))
    values = values + np.random.default_rng(noise_seed).normal(0, noise, SHAPE)
    return VisitImage(np.where(brain, 300 * np.maximum(values, 0.01), 0).astype(np.float32), blur)


def visit(lesions, noise_seed, *, mask=None, probability=None, **scanned):
    """A visit whose mask is that of its lesions, if no other one is given."""
    mask = lesions if mask is None else mask
    likely = np.where(mask, 0.95, 0.001) if probability is None else probability
    return TrackedVisit(mask, likely.astype(np.float32), image=scan(lesions, noise_seed, **scanned))


def nothing():
    """No lesion."""
    return np.zeros(SHAPE, bool)
