"""What a patient's report tells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from lesiondelta.cohort import visit_name
from lesiondelta.images import Array, Volume
from lesiondelta.outputs.lesions import LesionRow, StepRow
from lesiondelta.report.pictures import alike_grey_values
from lesiondelta.settings import Settings


@dataclass(frozen=True, eq=False)
class ReportVisit:
    """A visit in the patient's space, the same RAS grid for all.

    Attributes
    ----------
    changes : (X, Y, Z) int
        What became of the lesions since the visit before, numbered as `Change`.
    figures : its numbers for the table
    correction : what a reader has changed in its mask by hand, or nothing
    before : (X, Y, Z) int or None
        Instances of the visit before as the step to this one has them; None: those of that visit.
    difference : (X, Y, Z) float or None
        FLAIR less that of the visit before, in standard deviations of unchanged tissue; None: not compared.
    """

    label: str
    acquired: datetime | None
    status: str
    reason: str
    flair: Volume
    instances: Array
    changes: Array
    figures: Mapping[str, float | str]
    correction: str = ""
    before: Array | None = None
    difference: Array | None = None

    @property
    def name(self) -> str:
        """`ses-Y`, or words for the only visit of a dataset without sessions."""
        return visit_name(self.label)


@dataclass(frozen=True, eq=False)
class Report:
    """Visits in time order, lesions, steps from visit to visit, settings; `contrasts`: of how many visits.

    `brain_from`: see PreparedPatient. `own_anatomy`: lesions are located by the patient's own brain, not by the atlas.
    """

    patient: str
    visits: Sequence[ReportVisit]
    failed: Mapping[str, str]
    lesions: Sequence[LesionRow]
    steps: Sequence[StepRow]
    settings: Settings
    method: str
    models: Sequence[Mapping[str, Any]]
    cautions: Sequence[str]
    contrasts: Mapping[str, int]
    brain_from: str
    own_anatomy: bool = False

    @cached_property
    def greys(self) -> list[Array]:
        """The FLAIR of every visit as it is shown, from 0 to 1, all in one window."""
        return alike_grey_values([visit.flair.data for visit in self.visits])

    @property
    def compared(self) -> bool:
        """Whether the images of the visits were compared."""
        return any(visit.difference is not None for visit in self.visits)
