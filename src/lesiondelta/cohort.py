"""Patients, their visits in time order, and which visit is compared with which."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path


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
        Reference lesion mask, on the grid of the FLAIR; needed for training alone.
    """

    label: str
    images: Mapping[str, Path]
    acquired: datetime | None = None
    brain_mask: Path | None = None
    reference: Path | None = None


@dataclass(frozen=True)
class Patient:
    """A patient and the visits in time order; `order` says what that order rests on.

    `problems` holds, by visit label, why a visit of the dataset cannot be used; `notes` are choices worth logging.
    """

    label: str
    visits: tuple[Visit, ...]
    order: str = "as given"
    problems: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cohort:
    """The patients of one dataset; `problems` holds, by patient label, why a patient cannot be used."""

    patients: tuple[Patient, ...]
    problems: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class VisitPair:
    """A visit to segment and the visit it is compared with."""

    prior: Visit
    current: Visit


def prior_index(index: int, visits: int) -> int:
    """Index of the visit before; for the first visit the next one (paper, 2.1), for a single visit itself."""
    if not 0 <= index < visits:
        raise IndexError(f"visit {index} of {visits}")
    return index - 1 if index else min(1, visits - 1)


def visit_pairs(visits: Sequence[Visit]) -> Iterator[VisitPair]:
    """Each visit with its prior."""
    for index, current in enumerate(visits):
        yield VisitPair(prior=visits[prior_index(index, len(visits))], current=current)
