"""A comparison: every method in every fold trained, every patient predicted by models that never saw it, and scored.

OUT/models/METHOD/fold_K/       trainings, continued where they stopped
OUT/predictions/SPLIT/METHOD/   masks in the patient's space; SPLIT is cv, test or external
OUT/scores/SPLIT/METHOD/        what `evaluate` writes, and the same without size filter in OUT/scores_unfiltered

A patient of the cohort is predicted by the model of the fold that held it out; patients of the test list and of the
external cohort by all folds together (mean of their logits).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from lesiondelta.comparison.predictions import predict
from lesiondelta.errors import CohortError
from lesiondelta.evaluation.masks import MaskPair, Matching
from lesiondelta.evaluation.tables import Options, score_matching
from lesiondelta.methods import ExternalMethod, Method
from lesiondelta.nnunet.job import TrainingCallback, TrainingJob, TrainingOptions
from lesiondelta.nnunet.presets import Preset
from lesiondelta.nnunet.training import plan_job, train
from lesiondelta.nnunet.training_patients import TrainingPatient, patient_folds
from lesiondelta.settings import DeviceName

log = logging.getLogger(__name__)

Split = Literal["cv", "test", "external"]
SCORES = {"scores": Options(), "scores_unfiltered": Options(min_lesion_mm3=0.0)}
"""Folders of scores, and how they are made."""


@dataclass(frozen=True)
class Study:
    """What is compared, on whom, with which budget.

    `cohort` is cross-validated in `folds`; `test` and `external` are predicted by the ensemble, and may be empty.
    `absent` are methods that have rows in the tables, but no scores, with the reason; `overlap` is that of the sliding
    windows (None: each method's own). `programs` are methods that are not trained, with the version that was run.
    """

    methods: tuple[Method, ...]
    cohort: tuple[TrainingPatient, ...]
    test: tuple[TrainingPatient, ...]
    external: tuple[TrainingPatient, ...]
    preset: Preset
    folds: int
    seed: int
    out: Path
    device: DeviceName = "cpu"
    threads: int = 1
    processes: int = 1
    absent: Mapping[ExternalMethod, str] = field(default_factory=dict)
    overlap: float | None = None
    programs: Mapping[ExternalMethod, str] = field(default_factory=dict)

    @property
    def scored(self) -> tuple[Method | ExternalMethod, ...]:
        """Methods with scores, in the order of tables and figures."""
        return (*self.programs, *self.methods)

    @property
    def splits(self) -> dict[Split, tuple[TrainingPatient, ...]]:
        """Patients by split, without empty ones."""
        named: dict[Split, tuple[TrainingPatient, ...]] = {
            "cv": self.cohort, "test": self.test, "external": self.external,
        }  # fmt: skip
        return {name: patients for name, patients in named.items() if patients}

    def training(self, fold: int) -> TrainingOptions:
        """How every method is trained in a fold."""
        return TrainingOptions(fold, self.folds, self.seed, self.device, self.threads)

    def model(self, method: Method, fold: int) -> Path:
        """Folder of a training."""
        return self.out / "models" / method.name / f"fold_{fold}"

    def predictions(self, split: Split, method: Method | ExternalMethod) -> Path:
        """Folder of masks."""
        return self.out / "predictions" / split / method.name


@dataclass(frozen=True)
class Scored:
    """Scores of one method in one split, with the 3 mm3 filter and without: a row a patient."""

    filtered: pd.DataFrame
    unfiltered: pd.DataFrame


Results = Mapping[tuple[Split, str], Scored]


def run_study(
    study: Study,
    training: TrainingCallback | None = None,
    report: Callable[[str], None] = lambda what: None,
) -> dict[tuple[Split, str], Scored]:
    """Train what is missing, predict what is missing, score everything; called again, it resumes.

    Raises
    ------
    CohortError
        A patient is in two splits under one label, or cannot be trained on.
    """
    _require_apart(study)
    jobs = {(m.name, fold): _job(study, m, fold) for m in study.methods for fold in range(study.folds)}
    results = {}
    for method in study.methods:
        models = []
        for fold in range(study.folds):
            report(f"{method.name}, fold {fold + 1} of {study.folds}")
            models.append(train(study.cohort, jobs[method.name, fold], training))
        for split in study.splits:
            report(f"{method.name}, {split}")
            results[split, method.name] = scored(study, split, method, _predicted(study, split, method, models))
    return results


def _job(study: Study, method: Method, fold: int) -> TrainingJob:
    options, stored = study.training(fold), study.out / "work" / "stored"
    return plan_job(study.cohort, study.model(method, fold), method, study.preset, options, stored)


def _predicted(study: Study, split: Split, method: Method, models: Sequence[Path]) -> list[MaskPair]:
    folder = study.predictions(split, method)
    overlap = method.overlap if study.overlap is None else study.overlap
    options: dict[str, Any] = {"overlap": overlap, "device": study.device, "threads": study.threads}
    if split != "cv":
        return predict(study.splits[split], models, folder, **options)
    parts = patient_folds([patient.label for patient in study.cohort], study.folds, study.seed)
    pairs = []
    for model, part in zip(models, parts, strict=True):
        held_out = [patient for patient in study.cohort if patient.label in part.validation]
        pairs += predict(held_out, [model], folder, **options)
    return sorted(pairs, key=lambda pair: pair.participant)


def scored(study: Study, split: Split, method: Method | ExternalMethod, pairs: Sequence[MaskPair]) -> Scored:
    """Score masks with the size filter and without, and write what `evaluate` does."""
    tables = []
    for folder, options in SCORES.items():
        out = study.out / folder / split / method.name
        tables.append(score_matching(Matching(tuple(pairs)), out, options, processes=study.processes)[1])
    return Scored(*tables)


def _require_apart(study: Study) -> None:
    labels = [patient.label for patients in (study.cohort, study.test) for patient in patients]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise CohortError(f"Patients of the test list are in the cohort as well: {', '.join(twice)}.")
