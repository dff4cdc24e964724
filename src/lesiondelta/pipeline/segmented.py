"""A patient as it was segmented: the automatic masks and what they came from, written and read again."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lesiondelta.cohort import Patient
from lesiondelta.images import read_mask, read_probabilities
from lesiondelta.inference.own_grid import on_own_grid
from lesiondelta.inference.segmenter import SegmentedVisit, Segmenter, Sidecar, counted
from lesiondelta.inputs.checks import CheckedPatient
from lesiondelta.outputs.derivatives import (
    PATIENT_AUTOMATIC,
    PATIENT_PROBABILITY,
    PatientFiles,
    VisitOutput,
    write_visit,
)
from lesiondelta.preprocessing.preparation import PreparedPatient, PreparedVisit
from lesiondelta.preprocessing.store import restored
from lesiondelta.records import Provenance
from lesiondelta.settings import Settings
from lesiondelta.timings import timed


@dataclass(frozen=True, eq=False)
class SegmentedPatient:
    """A prepared patient and its visits as the segmenter has segmented them."""

    prepared: PreparedPatient
    visits: tuple[SegmentedVisit, ...]
    provenance: Provenance


def provenance_of(
    patient: Patient, checked: CheckedPatient, prepared: PreparedPatient, settings: Settings, segmenter: Segmenter
) -> Provenance:
    """What the masks of a patient's prepared visits come from."""
    labels = [visit.label for visit in prepared.visits]
    usable = {visit.label: visit.visit for visit in checked.visits}
    return Provenance(
        order=tuple(dict.fromkeys([*(visit.label for visit in patient.visits), *patient.problems])),
        acquired={label: usable[label].acquired for label in labels},
        dicom={label: tuple(path.resolve() for path in v.dicom) for label, v in usable.items() if v.dicom},
        problems={**checked.problems, **prepared.failures},
        priors=tuple(segmenter.prior_index(index, len(labels)) for index in range(len(labels))),
        threshold=segmenter.facts.limits.probability,
        min_lesion_mm3=segmenter.facts.limits.min_lesion_mm3,
        method=segmenter.facts.method,
        models=segmenter.facts.identities,
        cautions=tuple(dict.fromkeys(segmenter.facts.cautions)),
        settings=settings,
        doubts=patient.cautions,
        tested=segmenter.facts.tested,
    )


@timed("writing masks")
def write_automatic(
    files: PatientFiles, segmented: SegmentedPatient, segmenter: Segmenter, patient: Patient, raw: Path | None
) -> None:
    """Write the automatic masks and probabilities, the images in the patient's space and the transforms.

    `raw` is the dataset that the patient's images belong to.
    """
    visits = {visit.label: visit for visit in patient.visits}
    for visit, index in zip(segmented.visits, segmented.provenance.priors, strict=True):
        prior = segmented.visits[index]
        sidecar = segmenter.sidecar(prior.label if prior is not visit else None)
        output = _output(visit, segmented, sidecar)
        write_visit(files.visit(visit.label), visits[visit.label], output, raw)


def _output(visit: SegmentedVisit, segmented: SegmentedPatient, sidecar: Sidecar) -> VisitOutput:
    provenance, prepared = segmented.provenance, visit.prepared
    probability, mask = on_own_grid(visit, provenance.threshold)
    common = {
        "Threshold": provenance.threshold,
        "SmallestLesion": provenance.min_lesion_mm3,
        "SmallestLesionUnits": "mm3",
        "Models": list(provenance.models),
    }
    return VisitOutput(
        mask, probability, visit.mask, visit.probability, segmented.prepared.brain, prepared.images,
        prepared.from_patient, {**common, **sidecar}, visit.extras, segmented.prepared.parts,
    )  # fmt: skip


def read_segmented(files: PatientFiles, described: Mapping[str, object], provenance: Provenance) -> SegmentedPatient:
    """The patient as it was segmented, from the images in the output folder; `described` is the record's `prepared`.

    Raises
    ------
    ImageError, GeometryError
        An image is absent or damaged.
    """
    prepared = restored(
        files.patient,
        described,
        files.visit("").brain(),
        files.visit("").parts(),
        lambda visit, contrast: files.visit(visit).anat(f"space-patient_{contrast}.nii.gz"),
    )
    return SegmentedPatient(
        prepared, tuple(_automatic(files, visit, prepared) for visit in prepared.visits), provenance
    )


def _automatic(files: PatientFiles, visit: PreparedVisit, prepared: PreparedPatient) -> SegmentedVisit:
    place = files.visit(visit.label)
    probability = read_probabilities(place.anat(f"{PATIENT_PROBABILITY}.nii.gz")).data
    mask = read_mask(place.anat(f"{PATIENT_AUTOMATIC}.nii.gz")).data
    return counted(visit, probability, mask, prepared.grid)
