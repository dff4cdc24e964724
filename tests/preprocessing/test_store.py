import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lesiondelta.errors import CohortError, GeometryError, RegistrationError
from lesiondelta.files import alone
from lesiondelta.images import Volume, read_image, read_mask, write_volume
from lesiondelta.inputs.bids import read_cohort
from lesiondelta.nnunet.preparation import prepare_training
from lesiondelta.preprocessing.registration import ENGINES
from lesiondelta.preprocessing.store import image_path as stored_path
from lesiondelta.settings import PreprocessingSettings
from tests.prepared import prepare_or_read
from tests.tiny import AFFINE, SHAPE, image, image_path, write_patient, write_references

EASY = PreprocessingSettings(registration="none", skull_strip="skip", bias_correction=False, gate=False)
CONTRASTS = ("T1w", "FLAIR")


@pytest.fixture
def bids(tmp_path):
    write_patient(tmp_path / "bids", "01", ("1", "2"))
    return tmp_path / "bids"


def flat(thing):
    """Dataclasses, mappings and tuples as plain values, to compare arrays bit by bit."""
    if dataclasses.is_dataclass(thing):
        return {f.name: flat(getattr(thing, f.name)) for f in dataclasses.fields(thing) if f.name != "name"}
    if isinstance(thing, dict):
        return {key: flat(value) for key, value in thing.items()}
    if isinstance(thing, tuple | list):
        return [flat(item) for item in thing]
    return thing.tolist() if isinstance(thing, np.ndarray) else thing


def test_a_stored_patient_comes_back_bit_by_bit(bids, tmp_path, caplog):
    (patient,) = read_cohort(bids).patients
    fresh = prepare_or_read(patient, EASY, None)
    written = prepare_or_read(patient, EASY, tmp_path / "work")
    with caplog.at_level("INFO"):
        read = prepare_or_read(patient, EASY, tmp_path / "work")
    assert "taken from" in caplog.text
    assert flat(fresh) == flat(written) == flat(read)


def test_another_input_setting_or_a_lost_file_is_prepared_again(bids, tmp_path, caplog):
    (patient,) = read_cohort(bids).patients
    work = tmp_path / "work"
    prepare_or_read(patient, EASY, work)
    with caplog.at_level("INFO"):
        prepare_or_read(patient, EASY.model_copy(update={"spacing_mm": 2.0}), work)
        stored_path(work, "01", "2", "FLAIR").unlink()
        prepare_or_read(patient, EASY.model_copy(update={"spacing_mm": 2.0}), work)
        write_volume(image_path(bids, "01", "1", "T1w"), image(77))
        prepare_or_read(patient, EASY.model_copy(update={"spacing_mm": 2.0}), work)
    assert "taken from" not in caplog.text
    assert stored_path(work, "01", "2", "FLAIR").is_file()


@pytest.mark.parametrize("name", ["FLAIR", "brain"])
def test_an_image_of_other_settings_is_not_taken(bids, tmp_path, caplog, name):
    """What two runs at a time leave that no lock keeps apart: one's record, the other's image."""
    (patient,) = read_cohort(bids).patients
    work = tmp_path / "work"
    wanted = prepare_or_read(patient, EASY, work)
    prepare_or_read(patient, EASY.model_copy(update={"spacing_mm": 2.0}), tmp_path / "other")
    path = stored_path(work, "01", "2" if name == "FLAIR" else "", name)
    (tmp_path / "other" / path.relative_to(work)).rename(path)
    with caplog.at_level("INFO"):
        again = prepare_or_read(patient, EASY, work)
    assert "taken from" not in caplog.text
    assert flat(again) == flat(wanted)


def test_runs_that_share_a_working_folder_prepare_one_after_the_other(bids, tmp_path, caplog):
    (patient,) = read_cohort(bids).patients
    work = tmp_path / "work"
    with ThreadPoolExecutor(1) as pool, caplog.at_level("INFO"):
        with alone(work / "sub-01", wait=False):
            other = pool.submit(prepare_or_read, patient, EASY, work)
            with pytest.raises(TimeoutError):
                other.result(1)
            assert not (work / "sub-01/prepared.json").exists()
        assert len(other.result(60).visits) == 2


def test_a_patient_with_a_failed_visit_is_prepared_again(bids, tmp_path, monkeypatch):
    (patient,) = read_cohort(bids).patients

    def fails_on_second(fixed, moving, **_):
        if "ses-2" in moving.name:
            raise RegistrationError("no")
        return np.eye(4)

    with monkeypatch.context() as engine:
        engine.setitem(ENGINES, "none", fails_on_second)
        assert list(prepare_or_read(patient, EASY, tmp_path / "work").failures) == ["2"]
    assert not (tmp_path / "work/sub-01/prepared.json").exists()
    assert not prepare_or_read(patient, EASY, tmp_path / "work").failures


def test_training_input_lies_on_one_grid_with_its_reference_on_the_lesion(bids, tmp_path):
    write_references(bids, "01", ("1", "2"))
    (patient,) = prepare_training(read_cohort(bids), tmp_path / "work", EASY)
    assert [visit.label for visit in patient.visits] == ["1", "2"]
    for visit in patient.visits:
        flair, reference = read_image(visit.images["FLAIR"]), read_mask(visit.reference)
        assert flair.grid.distance_mm(reference.grid) < 1e-3
        inside = flair.data[reference.data]
        assert np.quantile(inside, 0.1) > 420, "the reference lies on the bright spot"
        assert reference.data.sum() == pytest.approx(3 * 3 * 2 * 12, rel=0.35)  # 18 voxels of 2 x 2 x 3 mm


@pytest.mark.parametrize("processes", [1, 2])
def test_what_preparation_warned_of_is_logged(bids, tmp_path, caplog, processes):
    write_references(bids, "01", ("1", "2"))
    prepare_training(read_cohort(bids), tmp_path / "work", EASY)
    record = tmp_path / "work/sub-01/prepared.json"
    content = json.loads(record.read_text())
    content["visits"][1]["warnings"] = ["0.8 mm off"]
    record.write_text(json.dumps(content))
    prepare_training(read_cohort(bids), tmp_path / "work", EASY, processes)
    assert "sub-01 ses-2: 0.8 mm off" in [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]


def test_a_cohort_without_all_references_is_refused(bids, tmp_path):
    write_references(bids, "01", ("1",))
    with pytest.raises(CohortError, match="sub-01 ses-2 has no reference mask"):
        prepare_training(read_cohort(bids), tmp_path / "work", EASY)
    image_path(bids, "01", "2", "T1w").unlink()
    with pytest.raises(CohortError, match="no T1w image"):
        prepare_training(read_cohort(bids), tmp_path / "work", EASY)


def test_a_reference_on_another_grid_is_refused(bids, tmp_path):
    write_references(bids, "01", ("1", "2"))
    path = image_path(bids / "derivatives/reference", "01", "1", "space-orig_label-L_mask")
    write_volume(path, Volume(np.ones(SHAPE, bool), AFFINE @ np.diag([1, 1, 2, 1])))
    with pytest.raises(GeometryError, match="its FLAIR"):
        prepare_training(read_cohort(bids), tmp_path / "work", EASY)
