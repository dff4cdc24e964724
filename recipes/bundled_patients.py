"""The patients that the bundled model is trained on besides those that are drawn: made once, and kept in a folder."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from open_patients import LJUBLJANA, RING_MM, TABRIZ, knows_rims, ljubljana, ring, tabriz

from lesiondelta import simulation
from lesiondelta.files import write_text
from lesiondelta.images import Array, write_volume
from lesiondelta.nnunet.training_patients import TrainingPatient, TrainingVisit
from lesiondelta.simulation import Acquisition, Anatomy, LesionPlan, Rates, SimulatedPatient, deformed, simulate_patient
from lesiondelta.simulation.anatomy import ventricles
from lesiondelta.simulation.sources import Person

OPEN_PATIENTS = (*LJUBLJANA, *TABRIZ)
ATLAS_ACQUISITION = Acquisition(sharp_share=0.4, randomised_share=0.15)
RATES = Rates(new=0.15, enlarging=0.12, shrinking=0.10, resolved=0.12, quiet=0.1)
"""Of change, several times those of real patients: a network that hardly ever sees change learns to copy the prior."""
ATLAS_RATES = replace(RATES, quiet=0.4)  # so that it also sees many pairs that only the scanner makes differ


Made = tuple[SimulatedPatient, Array | None]
"""A patient, and what the reference says nothing of (X, Y, Z) bool."""


@dataclass(frozen=True)
class Guise:
    """How an open patient is made into a training patient with two visits.

    `untouched` keeps the patient's own image as the first visit; otherwise the brain is deformed into another one.
    `lesions` are those added to its own ones (None: a few); `sharp_share` is the share of visits with 1 mm voxels.
    """

    untouched: bool = False
    lesions: int | None = None
    sharp_share: float = 1.0


GUISE_SEED, TABRIZ_SEED = 5000, 8000
"""A patient's number, by hundreds, is added: 07 and T07 are two."""
GUISES = (
    *(Guise(untouched=True, lesions=lesions) for lesions in (3, 8, 12)),
    *(Guise(lesions=lesions) for lesions in (None, 20)),
    *(Guise(lesions=lesions, sharp_share=0.0) for lesions in (None, None, 20)),
    *(Guise(lesions=lesions, sharp_share=0.5) for lesions in (None, 35)),
)
AS_IT_IS = 6  # times that an open patient's own visit is listed; patients are drawn uniformly
TABRIZ_GUISES = (
    *(Guise(untouched=True, lesions=lesions) for lesions in (3, 8)),
    Guise(),
    Guise(lesions=20, sharp_share=0.0),
)
TABRIZ_AS_IT_IS = 3


def guises_of(label: str) -> Sequence[Guise]:
    """Of an open patient."""
    return TABRIZ_GUISES if label in TABRIZ else GUISES


def atlas_patient(work: Path, seed: int, data: Path) -> TrainingPatient:
    """A patient made from the atlas."""
    return stored(
        work,
        f"atlas{seed}",
        f"{seed} {ATLAS_ACQUISITION} {ATLAS_RATES}",
        lambda: (
            simulate_patient(
                seed,
                acquisition=ATLAS_ACQUISITION,
                lesions=LesionPlan(lesion_masks(data) if seed % 2 else (), ATLAS_RATES),
            ),
            None,
        ),
    )


def lesion_masks(data: Path) -> list[Path]:
    """Masks of 23 patients of Ljubljana, which lend the shapes and places of their lesions.

    Those of the two whose images are trained on, or scored, are not among them.
    """
    masks = sorted((data / "ljubljana-lesion-masks").glob("*_mask.nii.gz"))
    return [mask for mask in masks if not any(f"sub-{label}_" in mask.name for label in OPEN_PATIENTS)]


def open_guise(work: Path, label: str, number: int, data: Path) -> TrainingPatient:
    """A real labelled patient as a training patient with two visits."""
    seed, guise = guise_seed(label, number), guises_of(label)[number]
    knows = label not in TABRIZ or knows_rims(data, label)

    def make() -> Made:
        anatomy = open_person(data, work, label).anatomy(seed)
        if not guise.untouched:
            anatomy = deformed(anatomy, seed)
        made = simulate_patient(
            seed,
            anatomy=anatomy,
            acquisition=Acquisition(sharp_share=guise.sharp_share),
            lesions=LesionPlan(lesion_masks(data), RATES, guise.lesions),
        )
        return (with_own_visit(made, anatomy) if guise.untouched else made), None if knows else _ring(anatomy)

    left_open = "" if knows else f" {RING_MM} mm about the ventricles unsure"
    return stored(work, f"open{label}guise{number}", f"{seed} {guise} {RATES}{left_open}", make)


def guise_seed(label: str, number: int) -> int:
    """Of an open patient's guise."""
    return (TABRIZ_SEED if label in TABRIZ else GUISE_SEED) + 100 * int(label.removeprefix("T")) + number


def _ring(anatomy: Anatomy) -> Array:
    inside = ventricles(anatomy.tissues[0], anatomy.regions, anatomy.spacing_mm)
    return ring(inside, np.zeros_like(inside), anatomy.spacing_mm)


def with_own_visit(patient: SimulatedPatient, anatomy: Anatomy) -> SimulatedPatient:
    """The patient with the real images and lesions as first visit (not in its instance map or the changes)."""
    first = patient.visits[0]
    own = {name: first.images[name].with_data(image) for name, image in anatomy.lesioned.items()}
    lesions = first.lesions.with_data(np.asarray(anatomy.lesions) > 0)
    return replace(patient, visits=(replace(first, images=own, lesions=lesions), *patient.visits[1:]))


def stored(work: Path, label: str, arguments: str, make: Callable[[], Made]) -> TrainingPatient:
    """Make a patient once, and keep the files until the simulator or the arguments change."""
    folder = work / "patients" / label
    identity, record = f"{simulator()} {arguments}", folder / "identity"
    if not record.is_file() or record.read_text() != identity:
        for outdated in (record, folder / "unsure.nii.gz"):
            outdated.unlink(missing_ok=True)
        print(f"simulating {label}", flush=True)
        patient, unsure = make()
        for number, visit in enumerate(patient.visits):
            for name, image in {**visit.images, "lesions": visit.lesions}.items():
                write_volume(folder / f"{number}_{name}.nii.gz", image)
        if unsure is not None:
            write_volume(folder / "unsure.nii.gz", patient.visits[0].lesions.with_data(unsure))
        write_text(record, identity)
    return TrainingPatient(label, tuple(_visit(folder, number) for number in range(2)))


@cache
def simulator() -> str:
    """Hash of the simulator's source."""
    return sources(Path(simulation.__file__).parent)


def sources(folder: Path) -> str:
    """Hash of the source in a folder."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))).hexdigest()


def _visit(folder: Path, number: int) -> TrainingVisit:
    images = {name: folder / f"{number}_{name}.nii.gz" for name in ("T1w", "FLAIR")}
    unsure = folder / "unsure.nii.gz"
    reference = folder / f"{number}_lesions.nii.gz"
    return TrainingVisit(f"{number + 1:02d}", images, reference, unsure if unsure.is_file() else None)


def open_person(data: Path, work: Path, label: str) -> Person:
    """An open labelled patient."""
    if label not in TABRIZ:
        return ljubljana(data, label)
    (visit,) = tabriz(data, work)[label].visits
    return Person(visit.images["T1w"], visit.images["FLAIR"], visit.reference)
