"""The open labelled patients that the bundled model learns from, on one grid each, with what their experts leave open.

Ljubljana's (CC-BY) come prepared. Tabriz's (MIT; Bashiri Bawil et al., arXiv:2506.07123) are prepared as `train`
prepares patients. Their experts drew lesions; that a bright rim of the ventricles is none they say of two patients only
(`desc-notMS`). Of the others, what lies near a ventricle and is not lesion is left out of the loss.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from lesiondelta.cohort import CONTRASTS, Patient
from lesiondelta.images import Array, read_mask, write_volume
from lesiondelta.inputs.bids import read_cohort
from lesiondelta.inputs.checks import check_patient
from lesiondelta.nnunet.preparation import prepare_training, reference_in_patient_space
from lesiondelta.nnunet.training_patients import TrainingPatient
from lesiondelta.preprocessing.store import prepared_patient
from lesiondelta.settings import PreprocessingSettings
from lesiondelta.simulation.sources import Person

LJUBLJANA = ("07", "19")
TABRIZ = ("T01", "T02", "T04", "T05", "T06", "T07", "T08")
RING_MM = 4.0
"""From a ventricle: within it the experts of most Tabriz patients do not say what is bright without being a lesion."""


def ljubljana(data: Path, label: str) -> Person:
    """Images and lesions of a patient of Ljubljana."""
    stem = data / "ljubljana-cross-sectional" / f"sub-{label}" / "anat" / f"sub-{label}_space-MNI152"
    t1w, flair, lesions = (Path(f"{stem}_{name}.nii.gz") for name in ("T1w", "FLAIR", "label-lesion_mask"))
    return Person(t1w, flair, lesions)


def tabriz(data: Path, work: Path) -> dict[str, TrainingPatient]:
    """Patients of Tabriz by label, prepared under `work` once (a minute of a core each)."""
    cohort, settings = read_cohort(data / "tabriz", participants=TABRIZ), PreprocessingSettings()
    prepared = {patient.label: patient for patient in prepare_training(cohort, work / "tabriz", settings)}
    return {patient.label: _with_unsure(patient, prepared[patient.label], data, work) for patient in cohort.patients}


def ring(ventricles: Array, lesions: Array, spacing_mm: float) -> Array:
    """What lies near a ventricle and is not lesion (X, Y, Z) bool."""
    away = ndimage.distance_transform_edt(~ventricles) * spacing_mm
    near: Array = (away > 0) & (away <= RING_MM) & ~lesions
    return near


def knows_rims(data: Path, label: str) -> bool:
    """Whether a patient's experts say what near the ventricles is not MS."""
    return any((data / "tabriz" / "derivatives" / "reference" / f"sub-{label}").rglob("*desc-notMS_mask.nii.gz"))


def _with_unsure(patient: Patient, found: TrainingPatient, data: Path, work: Path) -> TrainingPatient:
    if knows_rims(data, patient.label):
        return found
    checked = check_patient(patient, CONTRASTS)
    prepared = prepared_patient(checked, PreprocessingSettings(), CONTRASTS, work / "tabriz", atlas=True)
    (visit,), (own,) = prepared.visits, found.visits
    folder = data / "tabriz" / "derivatives" / "reference" / f"sub-{patient.label}" / "anat"
    path = folder / f"sub-{patient.label}_space-orig_label-ventricles_mask.nii.gz"
    ventricles = reference_in_patient_space(path, visit, prepared)
    lesions = read_mask(own.reference).data
    unsure = ring(ventricles.data > 0, lesions, float(np.min(ventricles.grid.spacing)))
    written = own.reference.with_name(f"sub-{patient.label}_unsure.nii.gz")
    write_volume(written, ventricles.with_data(unsure))
    return replace(found, visits=(replace(own, unsure=written),))
