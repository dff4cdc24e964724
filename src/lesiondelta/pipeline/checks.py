"""What is looked at before any long work starts: images, models, and whether a patient is finished already."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lesiondelta import __version__
from lesiondelta.cohort import CONTRASTS, Patient
from lesiondelta.errors import OutputError
from lesiondelta.inference import Model
from lesiondelta.inference.samseg_program import Samseg
from lesiondelta.inputs.checks import visit_contents
from lesiondelta.preprocessing.preparation import PREPARATION
from lesiondelta.records import read_record
from lesiondelta.settings import Settings


def require_same_patient(patient: Patient, out: Path) -> None:
    """Raise OutputError where the label's earlier results come from none of the patient's images: someone else's."""
    earlier = read_record(out, patient.label)
    if not earlier or not earlier.results:
        return
    before = _image_hashes(earlier.fingerprint.get("visits", ()))
    if before and before.isdisjoint(_image_hashes(visit_contents(patient))):
        raise OutputError(
            f"{out} holds results of other images under the label {patient.label}: give --patient, or another folder."
        )


def _image_hashes(contents: Sequence[Mapping[str, str]]) -> set[str]:
    return {visit[contrast] for visit in contents for contrast in CONTRASTS if contrast in visit}


def fingerprint(patient: Patient, settings: Settings, models: Sequence[Model | Samseg]) -> dict[str, Any]:
    """All that decides a patient's results, as plain JSON: program, settings, models and the content of every input."""
    return {
        "lesiondelta": __version__,
        "preparation": PREPARATION,
        "settings": deciding(settings),
        "models": [model.fingerprint for model in models],
        "visits": visit_contents(patient),
        "acquired": [visit.acquired and visit.acquired.isoformat() for visit in patient.visits],
        "problems": dict(patient.problems),
    }


def deciding(settings: Settings) -> dict[str, Any]:
    """The settings that change results: not the numbers of threads, and models by content instead of by folder."""
    speed = {"preprocessing": {"threads"}, "segmentation": {"threads", "models", "samseg_hours"}}
    return settings.model_dump(mode="json", exclude=speed)
