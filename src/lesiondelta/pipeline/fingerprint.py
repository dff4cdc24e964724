"""All that decides a patient's results, so that a second run knows what is done."""

from pathlib import Path
from typing import Any

from lesiondelta import __version__
from lesiondelta.cohort import Patient
from lesiondelta.errors import OutputError
from lesiondelta.inference.segmenter import Segmenter
from lesiondelta.inputs.checks import visit_contents
from lesiondelta.preprocessing.preparation import PREPARATION
from lesiondelta.records import Fingerprint, image_hashes, read_record
from lesiondelta.settings import Settings
from lesiondelta.timings import timed


@timed("hashing images")
def fingerprint_of(patient: Patient, settings: Settings, segmenter: Segmenter) -> Fingerprint:
    """Hash every input, once."""
    return Fingerprint(
        lesiondelta=__version__,
        preparation=PREPARATION,
        settings=deciding(settings),
        models=segmenter.facts.fingerprints,
        visits=visit_contents(patient),
        acquired=tuple(visit.acquired.isoformat() if visit.acquired else None for visit in patient.visits),
        problems=dict(patient.problems),
        doubts=tuple(visit.doubts for visit in patient.visits),
    )


def deciding(settings: Settings) -> dict[str, Any]:
    """The settings that change results: not the numbers of threads, and models by content instead of by folder."""
    speed = {"preprocessing": {"threads"}, "segmentation": {"threads", "models", "samseg_hours"}}
    return settings.model_dump(mode="json", exclude=speed)


def require_same_patient(patient: Patient, out: Path) -> None:
    """Raise OutputError where the label's earlier results come from none of the patient's images: someone else's."""
    earlier = read_record(out, patient.label)
    if not earlier or not earlier.results or not earlier.fingerprint:
        return
    before = image_hashes(earlier.fingerprint.visits)
    if before and before.isdisjoint(image_hashes(visit_contents(patient))):
        raise OutputError(
            f"{out} holds results of other images under the label {patient.label}: give --patient, or another folder."
        )
