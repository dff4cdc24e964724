"""What segments: exported networks, a program, or masks from elsewhere, behind one protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import cc3d

from lesiondelta.image_range import ImageRange
from lesiondelta.images import Array, Grid, Volume
from lesiondelta.inputs.checks import CheckedPatient
from lesiondelta.preprocessing.preparation import PreparedPatient, PreparedVisit
from lesiondelta.settings import SegmentationSettings

Sidecar = dict[str, object]
"""Fields of a sidecar, in BIDS style."""


@dataclass(frozen=True)
class Thresholds:
    """When a voxel is lesion, and which lesions are too small to count."""

    probability: float
    min_lesion_mm3: float

    def chosen(self, settings: SegmentationSettings) -> "Thresholds":
        """These, but for what the user has chosen."""
        return Thresholds(
            self.probability if settings.threshold is None else settings.threshold,
            self.min_lesion_mm3 if settings.min_lesion_mm3 is None else settings.min_lesion_mm3,
        )


@dataclass(frozen=True)
class SegmentedVisit:
    """A visit with its probabilities, mask and what else the models offer (K, X, Y, Z), in the patient's space."""

    prepared: PreparedVisit
    probability: Volume
    mask: Volume
    lesions: int
    extras: Mapping[str, Array] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The visit's label."""
        return self.prepared.label

    @property
    def lesion_volume_mm3(self) -> float:
        """Volume of all lesions; taken in the patient's space, so that visits compare."""
        return float(self.mask.data.sum() * self.mask.grid.voxel_volume_mm3)


def counted(
    visit: PreparedVisit, probability: Array, mask: Array, grid: Grid, extras: Mapping[str, Array] | None = None
) -> SegmentedVisit:
    """The visit with its lesions (26-connected) counted."""
    lesions = int(cc3d.connected_components(mask, connectivity=26, return_N=True)[1])
    return SegmentedVisit(visit, Volume(probability, grid.affine), Volume(mask, grid.affine), lesions, extras or {})


@dataclass(frozen=True)
class SegmenterFacts:
    """What a segmenter is and needs.

    Attributes
    ----------
    method : name in tables and reports
    contrasts : images that it takes of every visit
    optional : those that a visit may lack
    spacing_mm : voxel edge of the patient's space that it needs
    limits : what its masks are made with, the user's choice included
    cautions : what every user of its masks must be told
    identities : for the record, names and versions or hashes of what it consists of
    fingerprints : what decides its masks, beside images and settings
    tested : the worst images that its masks were scored on
    """

    method: str
    contrasts: tuple[str, ...]
    spacing_mm: float
    limits: Thresholds
    cautions: tuple[str, ...]
    identities: tuple[dict[str, str], ...]
    fingerprints: tuple[str, ...]
    optional: tuple[str, ...] = ()
    tested: ImageRange = field(default_factory=ImageRange)


class Segmenter(Protocol):
    """Makes the lesion masks of a patient."""

    @property
    def facts(self) -> SegmenterFacts:
        """What it is and needs."""

    def check(self, patient: CheckedPatient) -> None:
        """Raise LesionDeltaError where it cannot segment this patient's images."""

    def segment(self, patient: CheckedPatient, prepared: PreparedPatient, log_file: Path) -> Sequence[SegmentedVisit]:
        """Segment all prepared visits, in the patient's space; a program's own words go to `log_file`."""

    def prior_index(self, index: int, visits: int) -> int:
        """Which visit, in time order, visit `index` is segmented with and shown beside."""

    def sidecar(self, prior: str | None) -> Sidecar:
        """What else the sidecar of a mask says; `prior` is the label of the visit it was segmented with, if any."""
