from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lesiondelta import methods
from lesiondelta.comparison import predictions
from lesiondelta.comparison.predictions import predict
from lesiondelta.comparison.study import Study, run_study
from lesiondelta.comparison.tables import score_table
from lesiondelta.errors import CohortError
from lesiondelta.images import read_image, read_mask
from lesiondelta.inference.model import load_model
from lesiondelta.inference.window import lesion_probabilities
from lesiondelta.nnunet import presets
from lesiondelta.nnunet.training_patients import patient_folds
from tests.synthetic import write_patients

TINY = replace(presets.load("smoke"), epochs=1, iterations_per_epoch=2, patch=(16, 16, 16), max_features=16)
METHODS = tuple(methods.load(name) for name in ("nnunet", "difference_weighting"))


class StoppedError(Exception):
    """What a test interrupts a study with."""


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Four to cross-validate, one to test, one of another scanner."""
    made = write_patients(tmp_path_factory.mktemp("images"), (2, 2, 3, 2, 2, 2))
    return tuple(made[:4]), tuple(made[4:5]), tuple(made[5:])


@pytest.fixture(scope="module")
def study(people, tmp_path_factory):
    cohort, test, external = people
    return Study(METHODS, cohort, test, external, TINY, 2, 0, tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def results(study):
    """Stopped in the second method's second fold, then run again."""
    seen = []

    def stop(what):
        seen.append(what)
        if what == "difference_weighting, fold 2 of 2":
            raise StoppedError

    with pytest.raises(StoppedError):
        run_study(study, report=stop)
    assert "nnunet, external" in seen
    finished = study.model(METHODS[0], 0) / "model" / "weights.safetensors"
    before = finished.stat().st_mtime_ns
    made = run_study(study)
    assert finished.stat().st_mtime_ns == before
    return made


def test_every_method_is_scored_in_every_split(study, results):
    assert set(results) == {(split, m.name) for split in ("cv", "test", "external") for m in METHODS}
    for (split, _), scored in results.items():
        labels = [f"sub-{patient.label}" for patient in study.splits[split]]
        assert sorted(scored.filtered["participant_id"]) == sorted(labels)
        assert (scored.unfiltered["predicted_lesions"] >= scored.filtered["predicted_lesions"]).all()


def test_no_patient_is_predicted_by_a_model_that_saw_it(study, results):
    """The masks of a held-out patient are those of its fold's model, and of no other's."""
    for fold, part in enumerate(patient_folds([p.label for p in study.cohort], 2, 0)):
        model = load_model(study.model(METHODS[1], fold) / "model")
        assert not set(part.validation) & set(model.description.training["train"])
        patient = next(p for p in study.cohort if p.label == part.validation[0])
        again = predict([patient], [study.model(METHODS[1], fold) / "model"], study.out / "again")
        stored = study.out / "predictions" / "cv" / METHODS[1].name
        for pair in again:
            kept = stored / pair.prediction.relative_to(study.out / "again")
            np.testing.assert_array_equal(read_mask(kept).data, read_mask(pair.prediction).data)


def test_test_patients_are_predicted_by_all_folds(study, results):
    models = [load_model(study.model(METHODS[0], fold) / "model") for fold in range(2)]
    patient = study.test[0]
    images = [np.stack([read_image(v.images[c]).data for c in models[0].contrasts]) for v in patient.visits]
    expected = lesion_probabilities(images, models, device="cpu")[0] > 0.5
    found = next((study.out / "predictions/test/nnunet").rglob("*_mask.nii.gz"))
    np.testing.assert_array_equal(read_mask(found).data, expected)


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:100])])
def test_a_lost_or_damaged_prediction_is_made_again_and_others_stay(study, results, harm):
    masks = sorted((study.out / "predictions/test/nnunet").rglob("*_mask.nii.gz"))
    other = next((study.out / "predictions/external/nnunet").rglob("*_mask.nii.gz"))
    before, kept = read_mask(masks[0]).data, other.stat().st_mtime_ns
    harm(masks[0])
    again = run_study(study)
    np.testing.assert_array_equal(read_mask(masks[0]).data, before)
    assert other.stat().st_mtime_ns == kept
    pd.testing.assert_frame_equal(again["test", "nnunet"].filtered, results["test", "nnunet"].filtered)


def test_predictions_use_the_threads_they_are_given(study, results, monkeypatch):
    seen = []
    monkeypatch.setattr(
        predictions, "lesion_probabilities", lambda *_, **__: seen.append(torch.get_num_threads()) or []
    )
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="zip"):  # no probabilities
        predict(study.test, [study.model(METHODS[0], 0) / "model"], study.out / "threads", threads=before + 1)
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_the_tables_take_the_results(study, results):
    table = score_table("Table 3", study, results, ("external",))
    assert [row[0] for row in table.rows] == ["single visit", METHODS[0].title, "longitudinal", METHODS[1].title]


def test_a_patient_in_both_lists_is_refused(study):
    with pytest.raises(CohortError, match=f"in the cohort as well: {study.cohort[0].label}"):
        run_study(replace(study, test=study.cohort[:1]))
