"""Patients, their visits in time order, and which visit is compared with which."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

CONTRASTS = ("T1w", "FLAIR")
"""What every visit has to bring."""


@dataclass(frozen=True)
class Visit:
    """The images of one session of one patient.

    Attributes
    ----------
    label : str
        Session label without `ses-`; empty where the dataset has no sessions.
    images : mapping of contrast ("T1w", "FLAIR") to file
    acquired : datetime or None
        When it was acquired, if the dataset says so.
    brain_mask : file or None
        A mask given by the user, on the grid of the FLAIR.
    reference : file or None
        Reference lesion mask, on the grid of the FLAIR; needed only for training.
    dicom : files
        The DICOM series that the FLAIR was converted from, if it was: results go back to it as DICOM SEG.
    doubts : what a reader of this visit's results has to be told about its images
    absent : mapping of a contrast that it lacks to what is wrong where the contrast is needed
    """

    label: str
    images: Mapping[str, Path]
    acquired: datetime | None = None
    brain_mask: Path | None = None
    reference: Path | None = None
    dicom: tuple[Path, ...] = ()
    doubts: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Patient:
    """A patient and the visits in time order; `order` says what that order rests on.

    `problems` holds, by visit label, why a visit of the dataset cannot be used; `notes` are choices worth logging, and
    `cautions` doubts that a reader of the results has to be told.
    """

    label: str
    visits: tuple[Visit, ...]
    order: str = "as given"
    problems: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cohort:
    """The patients of one dataset; `problems` holds, by patient label, why a patient cannot be used."""

    patients: tuple[Patient, ...]
    problems: Mapping[str, str] = field(default_factory=dict)


class Change(StrEnum):
    """What becomes of a lesion."""

    NEW = "new"
    ENLARGING = "enlarging"
    SHRINKING = "shrinking"
    RESOLVED = "resolved"
    STABLE = "stable"
    POSSIBLE = "possible"
    """Images show it, and no mask does: apart from all counts."""


@dataclass(frozen=True)
class LesionChange:
    """Lesions of two visits that belong together.

    Attributes
    ----------
    prior, current : numbers of the lesions at both visits
    prior_mm3, current_mm3 : their volumes
    error_mm3 : half width of the 95 % interval of `current_mm3 - prior_mm3`, as estimated
    returned : it was there at an earlier visit, but not at the prior
    evidence : strongest evidence that it became brighter (above 0) or darker, in standard deviations; None: not looked
    gained_mm3, lost_mm3 : what the images show to have become lesion, or to be lesion no more
    confidence : probability that it changed; None where images were not looked at
    later_confidence : the same, once the next visit is known too
    t1w_evidence : mean evidence of the T1w at the same place; a lesion that grows becomes darker there
    """

    prior: tuple[int, ...]
    current: tuple[int, ...]
    change: Change
    prior_mm3: float
    current_mm3: float
    error_mm3: float
    reason: str
    returned: bool = False
    evidence: float | None = None
    gained_mm3: float | None = None
    lost_mm3: float | None = None
    confidence: float | None = None
    later_confidence: float | None = None
    t1w_evidence: float | None = None

    @property
    def lineage(self) -> str:
        """What became of the pieces: several are one now (merged), one is several (split), or nothing."""
        if not (self.prior and self.current) or len(self.prior) == len(self.current):
            return ""
        return "merged" if len(self.prior) > len(self.current) else "split"


def visit_name(label: str) -> str:
    """`ses-Y`, or words for the only visit of a dataset without sessions."""
    return f"ses-{label}" if label else "the only visit"


def prior_index(index: int, visits: int, policy: Literal["previous", "baseline"] = "previous") -> int:
    """Index of the visit that visit `index` is compared with.

    The visit before it, or the first one under "baseline"; for the first visit the next one (paper, 2.1), for a single
    visit itself.
    """
    if not 0 <= index < visits:
        raise IndexError(f"visit {index} of {visits}")
    if not index:
        return min(1, visits - 1)
    return 0 if policy == "baseline" else index - 1
