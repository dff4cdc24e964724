"""SAMSEG's row: every patient segmented by the program as it stands; nothing is trained."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lesiondelta import __version__
from lesiondelta.cohort import Cohort, Patient
from lesiondelta.comparison.predictions import PREDICTION, recorded
from lesiondelta.comparison.study import Scored, Split, Study, scored
from lesiondelta.errors import LesionDeltaError
from lesiondelta.evaluation.masks import MaskPair
from lesiondelta.images import write_volume
from lesiondelta.inference.loading import find_samseg_for
from lesiondelta.inference.samseg_segmenter import SamsegSegmenter
from lesiondelta.inputs.checks import check_patient, visit_contents
from lesiondelta.methods import EXTERNAL
from lesiondelta.preprocessing.store import prepared_patient
from lesiondelta.settings import PreprocessingSettings, SegmentationSettings

log = logging.getLogger(__name__)

SAMSEG = EXTERNAL["samseg"]


@dataclass(frozen=True)
class Source:
    """The dataset of a split as it was given, and where and how its patients were prepared."""

    cohort: Cohort
    work: Path
    settings: PreprocessingSettings


def with_samseg(
    study: Study,
    results: Mapping[tuple[Split, str], Scored],
    sources: Mapping[Split, Source],
    report: Callable[[str], None] = lambda what: None,
) -> tuple[Study, dict[tuple[Split, str], Scored]]:
    """The study and its results with SAMSEG's row, or with the reason why that has no scores."""
    try:
        chosen = SegmentationSettings(threads=study.threads)
        segmenters = {split: find_samseg_for(sources[split].settings, chosen) for split in study.splits}
        for split, segmenter in segmenters.items():
            for patient in _given(study, split, sources[split]).values():
                segmenter.check(check_patient(patient, segmenter.facts.contrasts))
        found = {}
        for split, segmenter in segmenters.items():
            report(f"samseg, {split}")
            pairs = _predicted(study, split, sources[split], segmenter)
            found[split, SAMSEG.name] = scored(study, split, SAMSEG, pairs)
    except LesionDeltaError as error:
        log.warning("SAMSEG has no scores: %s", error)
        return replace(study, absent={**study.absent, SAMSEG: str(error)}), dict(results)
    version = next(iter(segmenters.values())).program.version
    return replace(study, programs={**study.programs, SAMSEG: version}), {**results, **found}


def _given(study: Study, split: Split, source: Source) -> dict[str, Patient]:
    labels = {patient.label for patient in study.splits[split]}
    return {patient.label: patient for patient in source.cohort.patients if patient.label in labels}


def _predicted(study: Study, split: Split, source: Source, segmenter: SamsegSegmenter) -> list[MaskPair]:
    given, folder = _given(study, split, source), study.predictions(split, SAMSEG)
    pairs = []
    for patient in study.splits[split]:
        raw = given[patient.label]
        settings = {
            "lesiondelta": __version__, "prediction": PREDICTION, "program": segmenter.program.fingerprint,
            "device": "cpu", "images": list(visit_contents(raw)),
        }  # fmt: skip
        log_file = folder / f"sub-{patient.label}" / "samseg.log"
        make = partial(_segment, raw, source, segmenter, log_file)
        pairs += recorded(patient, folder, settings, study.threads, make)
    return pairs


def _segment(
    patient: Patient, source: Source, segmenter: SamsegSegmenter, log_file: Path, paths: Mapping[str, Path]
) -> None:
    checked = check_patient(patient, segmenter.facts.contrasts)
    prepared = prepared_patient(checked, source.settings, segmenter.facts.contrasts, source.work)
    for visit, path in zip(segmenter.segment(checked, prepared, log_file), paths.values(), strict=True):
        write_volume(path, visit.mask)
