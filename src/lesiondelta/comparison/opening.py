"""What is settled before patients are prepared, which takes hours: what cannot be compared says so at once."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lesiondelta.cohort import CONTRASTS, Cohort
from lesiondelta.comparison.study import Study
from lesiondelta.errors import CohortError, OutputError
from lesiondelta.files import alone, contents, require_writable, sha256, write_json
from lesiondelta.inputs.checks import visit_contents
from lesiondelta.nnunet.preparation import require_labelled
from lesiondelta.nnunet.training import plan_job
from lesiondelta.settings import PreprocessingSettings

RECORD = "study.json"


def open_study(
    study: Study,
    cohorts: Mapping[Path, Cohort],
    test: Collection[str],
    settings: PreprocessingSettings,
) -> None:
    """Check a study whose patients are yet to be prepared, and claim its folder with study.json.

    Parameters
    ----------
    study : Study
        Without patients.
    cohorts : mapping
        By their folders: the cohort, and perhaps the external one.
    test : collection of str
        Patients of the cohort that are kept for testing.
    settings : PreprocessingSettings

    Raises
    ------
    CohortError
        A patient has no reference, one image belongs to two patients, or too few are left to train in folds.
    OutputError
        The folder is a cohort's, holds something else, or a study of other patients or settings.
    """
    for folder, cohort in cohorts.items():
        if study.out.resolve().is_relative_to(folder.resolve()):
            raise OutputError(f"{study.out} lies inside the cohort {folder}: give a folder elsewhere.")
        require_labelled(cohort)
    hashes = {folder: _hashes(cohort) for folder, cohort in cohorts.items()}
    _require_no_twins(hashes)
    own = next(iter(cohorts))
    decides = {
        "cohort": hashes[own],
        "test list": sorted(test),
        "preprocessing": settings.model_dump(mode="json", exclude={"threads"}),
        "preset": json.loads(json.dumps(_without_overlap(asdict(study.preset)))),  # as it is read back
        "number of folds": study.folds,
        "seed": study.seed,
    }
    _require_same(study.out, decides)
    training = [patient for patient in cohorts[own].patients if patient.label not in test]
    for method in study.methods:
        for fold in range(study.folds):
            plan_job(training, study.model(method, fold), method, study.preset, study.training(fold))
    require_writable(study.out)
    with alone(study.out, wait=False):
        _require_same(study.out, decides)  # another may have claimed it meanwhile
        write_json(study.out / RECORD, decides)


def _without_overlap(preset: dict[str, Any]) -> dict[str, Any]:
    """What decides the trainings: predictions know their own overlap."""
    return {name: value for name, value in preset.items() if name != "overlap"}


Hashes = Mapping[str, list[dict[str, str]]]


def _hashes(cohort: Cohort) -> Hashes:
    """The hash of every file, by patient and visit."""
    return {
        patient.label: [
            {**contents, "reference": sha256(visit.reference) if visit.reference else ""}
            for contents, visit in zip(visit_contents(patient), patient.visits, strict=True)
        ]
        for patient in cohort.patients
    }


def _require_no_twins(cohorts: Mapping[Path, Hashes]) -> None:
    """One person under two labels would be trained on and tested at once."""
    owners: dict[str, str] = {}
    for folder, patients in cohorts.items():
        for label, visits in patients.items():
            name = f"sub-{label} of {folder}"
            for image in [visit[contrast] for visit in visits for contrast in CONTRASTS]:
                if owners.setdefault(image, name) != name:
                    raise CohortError(
                        f"{owners[image]} and {name} have an image in common: who is trained on must not be tested, so "
                        "keep a person under one label in one cohort."
                    )


def _require_same(out: Path, decides: Mapping[str, Any]) -> None:
    """Raise OutputError where the folder holds anything but this study."""
    path = out / RECORD
    if not path.is_file():
        if contents(out):
            raise OutputError(f"{out} is not empty and holds no comparison: give a new folder.")
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    different = [name for name in decides if found.get(name) != decides[name]]
    if different:
        raise OutputError(f"{out} holds a comparison with another {', '.join(different)}: give another folder.")
