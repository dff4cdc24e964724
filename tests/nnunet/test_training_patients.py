from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lesiondelta.errors import CohortError, InputError
from lesiondelta.nnunet.training_patients import (
    TrainingPatient,
    TrainingVisit,
    choose_fold,
    content_hash,
    contrasts,
    patient_folds,
    visit_identifier,
)

LABELS = [f"{i:03}" for i in range(12)]


def patient(label="001", visits=2):
    images = {"T1w": Path("a"), "FLAIR": Path("b")}
    return TrainingPatient(label, tuple(TrainingVisit(str(v), images, Path("c")) for v in range(visits)))


@given(st.sets(st.integers(0, 999), min_size=5, max_size=40), st.integers(2, 5), st.integers(0, 2**31))
def test_every_patient_is_held_out_once(numbers, folds, seed):
    labels = [str(n) for n in numbers]
    split = patient_folds(labels, folds, seed)
    assert sorted(p for fold in split for p in fold.validation) == sorted(labels)
    assert all(sorted(fold.train + fold.validation) == sorted(labels) for fold in split)
    sizes = [len(fold.validation) for fold in split]
    assert max(sizes) - min(sizes) <= 1


def test_folds_depend_on_the_seed_and_not_on_the_order():
    assert patient_folds(LABELS, 5, 0) == patient_folds(LABELS[::-1], 5, 0)
    assert patient_folds(LABELS, 5, 0) != patient_folds(LABELS, 5, 1)


def test_fold_all_trains_on_everyone():
    assert choose_fold(LABELS, "all", 5, 0).train == tuple(LABELS)


@pytest.mark.parametrize(("labels", "fold", "folds"), [(LABELS, 5, 5), (LABELS, -1, 5), (LABELS[:3], 0, 5)])
def test_impossible_folds(labels, fold, folds):
    with pytest.raises(InputError, match="folds"):
        choose_fold(labels, fold, folds, 0)


def test_identifier():
    assert visit_identifier("001", "02") == "sub-001__ses-02"


def test_contrasts_keep_their_order():
    assert contrasts([patient()]) == ("T1w", "FLAIR")


def test_a_missing_contrast_is_named():
    whole, lacking = patient("001"), patient("002", 1)
    lacking = replace(lacking, visits=(replace(lacking.visits[0], images={"T1w": Path("a")}),))
    with pytest.raises(CohortError, match="002, visit 0"):
        contrasts([whole, lacking])


@pytest.mark.parametrize("patients", [[], [patient("001", 0)], [patient("001"), patient("001")]])
def test_unusable_cohorts(patients):
    with pytest.raises(CohortError):
        contrasts(patients)


def test_hash_follows_the_content_of_the_files(tmp_path):
    paths = {name: tmp_path / name for name in ("T1w", "FLAIR", "mask")}
    for name, path in paths.items():
        path.write_text(name)
    visit = TrainingVisit("1", {"T1w": paths["T1w"], "FLAIR": paths["FLAIR"]}, paths["mask"])
    one = [TrainingPatient("001", (visit,))]
    before = content_hash(one)
    paths["FLAIR"].touch()
    assert content_hash(one) == before
    paths["FLAIR"].write_text("other")
    assert content_hash(one) != before
    paths["mask"].unlink()
    with pytest.raises(CohortError, match="mask of patient 001"):
        content_hash(one)
