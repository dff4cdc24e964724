"""`run --model samseg`, with a program that stands where SAMSEG does."""

import json

import numpy as np
import pytest

from lesiondelta.images import read_image, read_mask
from lesiondelta.outputs.derivatives import Place
from tests.samseg import BRIGHT, HEADS, OTHER_GRID, calls, install, write_heads
from tests.tiny import call, image_path, rows, write_patient


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch):
    for name in ("LESIONDELTA_SAMSEG", "FREESURFER_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a program with a given behaviour; returns the file that logs its calls."""

    def make(*args, **kwargs):
        folder, log = install(tmp_path / "program", *args, **kwargs)
        monkeypatch.setenv("LESIONDELTA_SAMSEG", str(folder))
        return log

    return make


@pytest.fixture
def bids(tmp_path):
    write_heads(tmp_path / "bids", "01", ("1", "2"))
    return tmp_path / "bids"


def run(capsys, bids, *more):
    return call(capsys, "run", bids, bids.parent / "out", "participant", "--model", "samseg", *HEADS, *more)


def reason(outcome, bids):
    """Why all visits failed: one sentence, for all of them the same."""
    assert outcome.code == 1, outcome.err
    table = rows(bids.parent / "out")
    assert {row["status"] for row in table.values()} == {"failed"}
    assert not list((bids.parent / "out").rglob("*_mask.nii.gz"))
    (said,) = {row["reason"] for row in table.values()}
    return said


def require_bright_spot(out, session):
    """The mask is where the program said that it is, on the patient's grid and on the FLAIR's own."""
    place = Place(out, "01", session)
    flair = read_image(place.anat("space-patient_FLAIR.nii.gz"))
    mask = read_mask(place.anat("space-patient_label-L_mask.nii.gz"))
    np.testing.assert_array_equal(mask.data, flair.data > BRIGHT)
    assert mask.data.any()
    own = read_mask(place.anat("space-orig_label-L_mask.nii.gz"))
    bright = read_image(image_path(out.parent / "bids", "01", session, "FLAIR")).data > BRIGHT
    assert 2 * (own.data & bright).sum() / (own.data.sum() + bright.sum()) > 0.75


def test_all_visits_in_one_run(capsys, bids, installed, tmp_path):
    log = installed()
    outcome = run(capsys, bids)
    assert outcome.code == 0, outcome.err
    (called,) = calls(log)
    assert called == [
        "run_samseg_long", "-t", "visit1_T1w.nii.gz", "visit1_FLAIR.nii.gz", "-t", "visit2_T1w.nii.gz",
        "visit2_FLAIR.nii.gz", "--lesion", "--lesion-mask-pattern", "0", "1", "--pallidum-separate",
        "--save-posteriors", "Lesions", "--threads", "1", "-o", "out",
    ]  # fmt: skip
    for session in ("1", "2"):
        require_bright_spot(tmp_path / "out", session)
    sidecar = json.loads(Place(tmp_path / "out", "01", "2").anat("space-orig_label-L_mask.json").read_text())
    assert sidecar["Models"] == [{"Name": "SAMSEG", "Version": "freesurfer-linux-7.4.1-20230614"}]
    assert "WindowOverlap" not in sidecar
    assert "run_samseg_long -t visit1" in (tmp_path / "out/logs/sub-01_samseg.log").read_text()


def test_a_single_visit(capsys, installed, tmp_path):
    log = installed()
    write_heads(tmp_path / "bids", "01")
    outcome = run(capsys, tmp_path / "bids")
    assert outcome.code == 0, outcome.err
    assert calls(log)[0][:4] == ["run_samseg", "-i", "visit1_T1w.nii.gz", "visit1_FLAIR.nii.gz"]
    require_bright_spot(tmp_path / "out", "1")


def test_output_on_another_grid_is_resampled(capsys, bids, installed, tmp_path):
    installed(grid=OTHER_GRID)
    outcome = run(capsys, bids)
    assert outcome.code == 0, outcome.err
    for session in ("1", "2"):
        require_bright_spot(tmp_path / "out", session)


def test_a_finished_patient_is_skipped_unless_the_program_changes(capsys, bids, installed, tmp_path):
    log = installed()
    for expected in (1, 1):
        assert run(capsys, bids).code == 0
        assert len(calls(log)) == expected
    assert run(capsys, bids, "--samseg-hours", 1).code == 0
    assert len(calls(log)) == 1
    (tmp_path / "program/build-stamp.txt").write_text("freesurfer-linux-8.0.0")
    assert run(capsys, bids).code == 0
    assert len(calls(log)) == 2


def test_a_threshold_given_takes_the_place_of_the_label(capsys, bids, installed, tmp_path):
    installed()
    assert run(capsys, bids, "--threshold", 0.95).code == 0
    assert {row["status"] for row in rows(tmp_path / "out").values()} <= {"ok-zero-lesions", "flagged"}
    assert {row["lesions"] for row in rows(tmp_path / "out").values()} == {"0"}


def test_a_failure_is_one_sentence_that_names_the_log(capsys, bids, installed, tmp_path):
    installed("print('no memory left'); sys.exit(3)")
    said = reason(run(capsys, bids), bids)
    log_file = tmp_path / "out/logs/sub-01_samseg.log"
    assert said == f"`run_samseg_long` failed (exit 3; its last line: no memory left): see {log_file}."


def test_stripped_images_are_refused(capsys, installed, tmp_path):
    log = installed()
    write_patient(tmp_path / "bids", "01", ("1", "2"))
    images = [image_path(tmp_path / "bids", "01", "1", contrast) for contrast in ("T1w", "FLAIR")]
    outcome = call(capsys, "segment", "--visit", *images, "-o", tmp_path / "out", "--model", "samseg", *HEADS)
    said = reason(outcome, tmp_path / "bids")
    assert "SAMSEG needs whole heads" in said
    assert "sub-01_ses-1_T1w.nii.gz shows only the brain" in said
    assert not calls(log)


def test_nothing_starts_without_the_program(capsys, bids, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = run(capsys, bids)
    assert outcome.code == 70
    assert "`run_samseg_long` is not in FREESURFER_HOME/bin or on PATH: install FreeSurfer" in outcome.err
    assert not (tmp_path / "out").exists()


def test_nothing_starts_with_an_old_version(capsys, bids, installed):
    installed(options=("--lesion", "--threads", "--save-posteriors"))
    outcome = run(capsys, bids)
    assert outcome.code == 70
    assert "(freesurfer-linux-7.4.1-20230614) is too old, it has no --lesion-mask-pattern, --pallidum" in outcome.err


def test_nothing_starts_if_the_user_says_that_images_are_stripped(capsys, bids, installed):
    installed()
    outcome = run(capsys, bids, "--skull-strip", "skip")
    assert outcome.code == 70
    assert "SAMSEG needs whole heads" in outcome.err


def test_it_is_not_averaged_with_models(capsys, bids, installed, tmp_path):
    installed()
    outcome = run(capsys, bids, "--model", tmp_path / "model")
    assert outcome.code == 70
    assert "give no other with it" in outcome.err
