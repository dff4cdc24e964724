"""From a prepared patient to the lesions of every visit, in the patient's space and on the visit's own grid."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cc3d
import numpy as np

from lesiondelta.images import Affine, Array, Grid, Volume, resample
from lesiondelta.inference.model import Model
from lesiondelta.inference.samseg_program import Samseg
from lesiondelta.inference.window import extra_outputs, lesion_mask, lesion_probabilities
from lesiondelta.outputs.derivatives import EXTRAS
from lesiondelta.preprocessing.preparation import PreparedPatient, PreparedVisit
from lesiondelta.settings import SegmentationSettings

log = logging.getLogger(__name__)

Segmenter = Model | Samseg
"""What makes the masks: exported models, whose logits are averaged, or one program."""


@dataclass(frozen=True)
class Thresholds:
    """When a voxel is lesion, and which lesions are too small to count."""

    probability: float
    min_lesion_mm3: float


@dataclass(frozen=True)
class SegmentedVisit:
    """A visit with its probabilities, mask and what else the models offer (K, X, Y, Z), in the patient's space."""

    prepared: PreparedVisit
    probability: Volume
    mask: Volume
    lesions: int
    extras: Mapping[str, Array] = field(default_factory=dict)

    @property
    def lesion_volume_mm3(self) -> float:
        """Volume of all lesions; taken in the patient's space, so that visits compare."""
        return float(self.mask.data.sum() * self.mask.grid.voxel_volume_mm3)


def segment(prepared: PreparedPatient, models: Sequence[Model], settings: SegmentationSettings) -> list[SegmentedVisit]:
    """Segment every visit, each seen with its prior."""
    visits = [np.stack([v.images[name].data for name in models[0].contrasts]) for v in prepared.visits]
    log.info("sub-%s: segmenting %d visits on a grid of %s", prepared.label, len(visits), prepared.grid.shape)
    probabilities = lesion_probabilities(
        visits, models, overlap=settings.overlap, mirroring=settings.mirroring, device=settings.device
    )
    limits = thresholds(models, settings)
    found = [extra_outputs(visits, model, overlap=settings.overlap, device=settings.device) for model in models]
    forward = [models[0].prior_index(index, len(visits)) < index for index in range(len(visits))]
    extras = [_mean_extras(*of_visit, prepared) for of_visit in zip(forward, zip(*found, strict=True), strict=True)]
    return [
        _segmented(v, p, e, prepared, limits) for v, p, e in zip(prepared.visits, probabilities, extras, strict=True)
    ]


def _mean_extras(forward: bool, by_model: Sequence[Mapping[str, Array]], prepared: PreparedPatient) -> dict[str, Array]:
    """The mean over models of every output (K, X, Y, Z) that all of them offer and that is written, in the brain.

    `forward`: the visit comes after its prior.
    """
    offered = [name for name in EXTRAS if all(name in extras for extras in by_model)]
    names = [name for name in offered if forward or not EXTRAS[name].forward]
    means = {name: np.mean([extras[name] for extras in by_model], axis=0) for name in names}
    return {name: np.where(prepared.brain.data, mean, 0).astype(np.float32) for name, mean in means.items()}


def _segmented(
    visit: PreparedVisit,
    probability: Array,
    extras: Mapping[str, Array],
    prepared: PreparedPatient,
    limits: Thresholds,
) -> SegmentedVisit:
    probability = np.where(prepared.brain.data, probability, 0).astype(np.float32)
    mask = lesion_mask(probability, limits.probability, limits.min_lesion_mm3, prepared.grid.spacing.tolist())
    return counted(visit, probability, mask, prepared.grid, extras)


def counted(
    visit: PreparedVisit, probability: Array, mask: Array, grid: Grid, extras: Mapping[str, Array] | None = None
) -> SegmentedVisit:
    """The visit with its lesions counted."""
    lesions = int(cc3d.connected_components(mask, connectivity=26, return_N=True)[1])
    return SegmentedVisit(visit, Volume(probability, grid.affine), Volume(mask, grid.affine), lesions, extras or {})


def thresholds(models: Sequence[Segmenter], settings: SegmentationSettings) -> Thresholds:
    """The user's choice, else the first model's own."""
    probability = models[0].threshold if settings.threshold is None else settings.threshold
    smallest = models[0].min_lesion_mm3 if settings.min_lesion_mm3 is None else settings.min_lesion_mm3
    return Thresholds(probability, smallest)


def on_own_grid(seen: SegmentedVisit, threshold: float) -> tuple[Volume, Volume]:
    """Probabilities and mask on the grid of the visit's own FLAIR.

    Probabilities are resampled, then thresholded. A lesion that this loses between thick slices keeps one voxel, where
    its resampled probability is highest, below the threshold though it is; only lesions outside the FLAIR's field of
    view are lost. What the size filter took out in the patient's space stays out, and no second filter counts the few
    large voxels of a small lesion.
    """
    probability = seen.probability
    dropped = (probability.data > threshold) & ~seen.mask.data
    kept = probability.with_data(np.where(dropped, 0, probability.data))
    mask = _to_flair(kept, seen.prepared).data > threshold
    if seen.mask.data.any():
        _restore_lost(mask, seen)
    own = _to_flair(probability, seen.prepared)
    return own, own.with_data(mask)


def _restore_lost(mask: Array, seen: SegmentedVisit) -> None:
    """Set, in `mask` on the FLAIR's grid, one voxel of every lesion that has none."""
    lesions = cc3d.connected_components(seen.mask.data, connectivity=26)
    owners = _owners(lesions, seen)
    lost = np.setdiff1d(np.arange(1, lesions.max() + 1), owners[mask])
    if not len(lost):
        return
    own = _to_flair(seen.probability.with_data(np.where(seen.mask.data, seen.probability.data, 0)), seen.prepared).data
    outside = 0
    for lesion in lost:
        voxels = np.argwhere(owners == lesion)
        if len(voxels):
            mask[tuple(voxels[own[tuple(voxels.T)].argmax()])] = True
            continue
        nearest = _nearest_voxel(np.argwhere(lesions == lesion).mean(axis=0), seen)
        if np.all(nearest >= 0) and np.all(nearest < mask.shape):
            mask[tuple(nearest)] = True
        else:
            outside += 1
    name = f"visit {seen.prepared.label or '(only one)'}"
    log.info("%s: %d lesions between the FLAIR's slices keep one voxel each", name, len(lost) - outside)
    if outside:
        log.warning("%s: %d lesions lie outside the FLAIR's field of view and are not in its mask", name, outside)


def _owners(lesions: Array, seen: SegmentedVisit) -> Array:
    """The lesion that each voxel of the FLAIR's grid is interpolated from, 0 where none.

    There is one at most: the eight voxels that linear interpolation reads touch one another, as two lesions never do.
    """
    labels = _to_flair(seen.mask.with_data(lesions.astype(np.float32)), seen.prepared).data
    share = _to_flair(seen.mask, seen.prepared).data
    owners: Array = np.rint(np.divide(labels, share, out=np.zeros_like(labels), where=share > 1e-6)).astype(int)
    return owners


def _nearest_voxel(patient_voxel: Array, seen: SegmentedVisit) -> Array:
    visit = seen.prepared
    to_own = np.linalg.inv(visit.grids["FLAIR"].affine) @ visit.from_patient["FLAIR"] @ seen.mask.affine
    nearest: Array = np.rint(to_own[:3, :3] @ patient_voxel + to_own[:3, 3]).astype(int)
    return nearest


def _to_flair(volume: Volume, visit: PreparedVisit) -> Volume:
    to_patient: Affine = np.linalg.inv(visit.from_patient["FLAIR"]).astype(np.float64)
    return resample(volume, visit.grids["FLAIR"], to_patient, order="linear")
