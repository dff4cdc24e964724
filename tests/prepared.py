"""A patient read and prepared, as a run does it."""

from pathlib import Path

from lesiondelta.cohort import CONTRASTS, Patient
from lesiondelta.inputs.checks import check_patient
from lesiondelta.preprocessing.preparation import PreparedPatient, prepare_patient
from lesiondelta.preprocessing.store import prepared_patient
from lesiondelta.settings import PreprocessingSettings


def prepare(patient: Patient, settings: PreprocessingSettings) -> PreparedPatient:
    """Without hashes, so that tests may use one image twice."""
    unhashed = [{"visit": visit.label} for visit in patient.visits]
    return prepare_patient(check_patient(patient, CONTRASTS, unhashed), settings)


def prepare_or_read(patient: Patient, settings: PreprocessingSettings, work: Path | None) -> PreparedPatient:
    return prepared_patient(check_patient(patient, CONTRASTS), settings, CONTRASTS, work)
