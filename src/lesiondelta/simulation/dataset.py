"""A labelled longitudinal BIDS cohort of simulated patients."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from lesiondelta.errors import OutputError
from lesiondelta.files import alone, contents, sha256, write_json, write_text
from lesiondelta.images import write_volume
from lesiondelta.simulation.acquisition import Acquisition
from lesiondelta.simulation.anatomy import deformed
from lesiondelta.simulation.disease import LesionPlan
from lesiondelta.simulation.evolution import Rates
from lesiondelta.simulation.sources import Person
from lesiondelta.simulation.visits import SimulatedPatient, SimulatedVisit, simulate_patient

LOGGER = logging.getLogger(__name__)
FIRST_VISIT = datetime(2020, 1, 1, 9)
NATIVE = Acquisition(mode="native")
EDITION = 4  # of the simulator: raised whenever the same arguments give other patients


@dataclass(frozen=True)
class CohortPlan:
    """How many patients with how many visits, and how they are made: see `simulate_patient`.

    Patients come from the atlas, or in turn from real `people`, each time deformed into another brain.
    """

    patients: int
    visits: int
    seed: int
    acquisition: Acquisition = NATIVE
    people: Sequence[Person] = ()
    lesion_masks: Sequence[Path] = ()
    rates: Rates = Rates()  # noqa: RUF009  (frozen)
    small: bool = False

    @property
    def identity(self) -> str:
        """All that decides the files of a patient, in words."""
        files = [*map(sha256, self.lesion_masks), *(person.identity for person in self.people)]
        given = hashlib.sha256(" ".join(files).encode()).hexdigest()[:12]
        how = f"{self.acquisition} {self.rates} small={self.small} given={given} edition={EDITION}"
        return f"seed={self.seed} visits={self.visits} {how}"

    def patient(self, index: int) -> SimulatedPatient:
        """Patient `index`, from 1."""
        seed = int(np.random.SeedSequence([self.seed, index]).generate_state(1)[0])
        person = self.people[(index - 1) % len(self.people)] if self.people else None
        return simulate_patient(
            seed,
            self.visits,
            anatomy=deformed(person.anatomy(seed), seed) if person else None,
            acquisition=self.acquisition,
            lesions=LesionPlan(self.lesion_masks, self.rates),
            small=self.small,
        )


def write_cohort(folder: Path, plan: CohortPlan, progress: Callable[[int, int], None] | None = None) -> None:
    """Write a BIDS dataset of simulated patients with their reference masks in `derivatives/reference`.

    The same plan gives the same bytes. Patient `n` does not depend on how many there are; one that is complete
    (its `sub-X_sessions.tsv`, written last, is there) is left alone, so that a stopped run can be resumed.
    `participants.tsv` ends the dataset. `progress` is called with patients done and patients in all.

    Raises
    ------
    OutputError
        The folder holds something else, more patients, or a cohort of other arguments or another version, is in use or
        cannot be written.
    """
    labels = [f"{index:03d}" for index in range(1, plan.patients + 1)]
    identity = plan.identity
    _require_empty_or_same(folder, identity, labels)
    with alone(folder, wait=False, needed=False):
        _require_empty_or_same(folder, identity, labels)  # another may have written it meanwhile
        _describe(folder, identity)
        _write_patients(folder, labels, plan, progress or (lambda done, of: None))


def _write_patients(
    folder: Path, labels: Sequence[str], plan: CohortPlan, progress: Callable[[int, int], None]
) -> None:
    for index, label in enumerate(labels, start=1):
        if not _sessions_table(folder, label).is_file():
            _write_patient(folder, label, plan.patient(index))
            LOGGER.info("sub-%s: %d visits", label, plan.visits)
        progress(index, plan.patients)
    write_text(folder / "participants.tsv", "\n".join(["participant_id", *(f"sub-{label}" for label in labels)]) + "\n")


def _require_empty_or_same(folder: Path, identity: str, labels: Sequence[str]) -> None:
    marker = _marker(folder)
    if not marker.is_file():
        if contents(folder):
            raise OutputError(f"{folder} is not empty and was not written by `simulate`: give a new folder.")
    elif identity not in marker.read_text(encoding="utf-8"):
        raise OutputError(
            f"{folder} holds a cohort simulated with other settings or by another version: give another folder."
        )
    others = sorted({path.name for path in folder.glob("sub-*")} - {f"sub-{label}" for label in labels})
    if others:
        raise OutputError(
            f"{folder} holds {others[0]}, which is not among the {len(labels)} patients asked for: ask for as many as "
            "it has, or give another folder."
        )


def _describe(folder: Path, identity: str) -> None:
    description = {
        "Name": "Lesions of the simulated patients",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "lesiondelta simulate", "Description": identity}],
    }
    write_json(_marker(folder), description)
    raw = {"Name": "Simulated patients with MS lesions", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    write_json(folder / "dataset_description.json", raw)


def _write_patient(folder: Path, label: str, patient: SimulatedPatient) -> None:
    reference = folder / "derivatives" / "reference"
    for number, visit in enumerate(patient.visits, start=1):
        _write_visit(folder, reference, f"sub-{label}", f"ses-{number:02d}", visit)
    _write_changes(reference / f"sub-{label}" / f"sub-{label}_changes.tsv", patient)
    times = [FIRST_VISIT + timedelta(days=visit.days) for visit in patient.visits]
    rows = [f"ses-{number:02d}\t{time.isoformat()}" for number, time in enumerate(times, start=1)]
    write_text(_sessions_table(folder, label), "\n".join(["session_id\tacq_time", *rows]) + "\n")


def _write_visit(folder: Path, reference: Path, subject: str, session: str, visit: SimulatedVisit) -> None:
    """Images with sidecars in the dataset, mask and instances in the derivatives."""
    place, stem = Path(subject, session, "anat"), f"{subject}_{session}"
    for name, image in visit.images.items():
        write_volume(folder / place / f"{stem}_{name}.nii.gz", image)
        thickness = round(float(image.grid.spacing.max()), 4)
        write_json(folder / place / f"{stem}_{name}.json", {"Modality": "MR", "SliceThickness": thickness})
    for volume, name in ((visit.lesions, "label-L_mask"), (visit.instances, "seg-lesions_dseg")):
        write_volume(reference / place / f"{stem}_space-orig_{name}.nii.gz", volume)


def _write_changes(path: Path, patient: SimulatedPatient) -> None:
    """One row per pair of visits and lesion."""
    rows = ["prior\tcurrent\tlesion\tchange"]
    for pair, changes in enumerate(patient.changes, start=1):
        rows += [f"ses-{pair:02d}\tses-{pair + 1:02d}\t{lesion}\t{change}" for lesion, change in changes.items()]
    write_text(path, "\n".join(rows) + "\n")


def _marker(folder: Path) -> Path:
    """Says how the cohort was simulated; written first."""
    return folder / "derivatives" / "reference" / "dataset_description.json"


def _sessions_table(folder: Path, label: str) -> Path:
    return folder / f"sub-{label}" / f"sub-{label}_sessions.tsv"
