import json

import numpy as np
import pandas as pd
import pytest

from lesiondelta.errors import CohortError, GeometryError
from lesiondelta.evaluation.tables import evaluate
from lesiondelta.images import Volume, write_volume

SHAPE = (12, 12, 12)


def put(folder, sub, ses, voxels, space="orig", affine=None):
    mask = np.zeros(SHAPE, bool)
    mask[:voxels, 0, 0] = True
    stem = f"sub-{sub}_ses-{ses}" if ses else f"sub-{sub}"
    anat = folder / f"sub-{sub}" / (f"ses-{ses}" if ses else "") / "anat"
    write_volume(
        anat / f"{stem}_space-{space}_label-L_mask.nii.gz", Volume(mask, np.eye(4) if affine is None else affine)
    )


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "reference", tmp_path / "prediction", tmp_path / "out"


def test_visits_are_averaged_before_patients(folders):
    """Patient 1: DSC 1, 1, 1 over three visits; patient 2: 2*4/(4+8) = 2/3 in one. Mean of patients (1 + 2/3) / 2."""
    reference, prediction, out = folders
    for session in ("1", "2", "3"):
        put(reference, "1", session, 4)
        put(prediction, "1", session, 4)
    put(reference, "2", "", 4)
    put(prediction, "2", "", 8)
    summary = evaluate(reference, prediction, out)
    assert summary["measures"]["dsc"]["mean"] == pytest.approx(5 / 6)
    assert summary["measures"]["dsc"]["sd"] == pytest.approx(np.std([1, 2 / 3], ddof=1))
    assert (summary["patients"], summary["visits"]) == (2, 4)
    assert json.loads((out / "summary.json").read_text()) == summary
    visits = pd.read_csv(out / "per_visit.tsv", sep="\t")
    assert list(visits["participant_id"]) == ["sub-1"] * 3 + ["sub-2"]
    assert list(pd.read_csv(out / "per_patient.tsv", sep="\t")["visits"]) == [3, 1]


def test_missing_predictions_are_listed(folders):
    reference, prediction, out = folders
    put(reference, "1", "1", 4)
    put(reference, "1", "2", 4)
    put(prediction, "1", "1", 4)
    summary = evaluate(reference, prediction, out)
    assert summary["missing_predictions"] == ["sub-1 ses-2"]


def test_empty_masks_are_counted(folders):
    reference, prediction, out = folders
    for session, truth, guess in (("1", 0, 0), ("2", 0, 5), ("3", 5, 0), ("4", 5, 5)):
        put(reference, "1", session, truth)
        put(prediction, "1", session, guess)
    summary = evaluate(reference, prediction, out)
    assert summary["empty_masks"] == {"both": 1, "reference": 1, "prediction": 1}
    assert summary["measures"]["dsc"]["mean"] == pytest.approx((1 + 0 + 0 + 1) / 4)
    assert evaluate(reference, prediction, out, undefined="nan")["measures"]["dsc"]["mean"] == pytest.approx(1 / 3)


def test_the_mask_in_the_space_of_the_reference_is_compared(folders):
    reference, prediction, out = folders
    put(reference, "1", "1", 4, space="orig")
    put(prediction, "1", "1", 4, space="orig")
    put(prediction, "1", "1", 9, space="patient")
    assert evaluate(reference, prediction, out)["measures"]["dsc"]["mean"] == 1


def test_another_grid_is_refused_and_named(folders):
    reference, prediction, out = folders
    put(reference, "1", "1", 4)
    put(prediction, "1", "1", 4, affine=np.diag([1, 1, 2.0, 1]))
    with pytest.raises(GeometryError, match="sub-1_ses-1"):
        evaluate(reference, prediction, out)


def test_folders_without_masks_or_without_common_patients_are_refused(folders, tmp_path):
    reference, prediction, out = folders
    put(reference, "1", "1", 4)
    with pytest.raises(CohortError, match="holds no lesion mask"):
        evaluate(reference, tmp_path / "nothing", out)
    put(prediction, "2", "1", 4)
    with pytest.raises(CohortError, match="belongs to"):
        evaluate(reference, prediction, out)
