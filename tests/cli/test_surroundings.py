"""Where a system gives less than usual: names that are no text, no modes, no shared memory, no temporary files."""

import json
import multiprocessing.synchronize
import os
import stat
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lesiondelta import records
from lesiondelta.files import atomic, room_for_temporary_files, write_json
from tests.dicoms import FLAIR, T1W, new_study, speckle, write_series
from tests.models import export_tiny_model
from tests.tiny import call, image_path, rows, write_patient, write_references

EASY = (
    "--registration", "none", "--skull-strip", "skip", "--no-gate", "--no-bias-correction", "--device", "cpu",
    "--omp-nthreads", "1",
)  # fmt: skip


@pytest.fixture
def odd(odd_folder):
    """With a patient and a model."""
    write_patient(odd_folder / "bids", "01", ("1", "2"))
    write_references(odd_folder / "bids", "01", ("1", "2"))
    export_tiny_model(odd_folder / "model")
    return odd_folder


def test_a_folder_whose_name_is_no_text_is_as_good_as_any(odd, capsys):
    model = ("--model", odd / "model", "--threshold", "0.2")
    ran = call(capsys, "run", odd / "bids", odd / "out", "participant", *model, *EASY)
    assert ran.code == 0, ran.err
    assert set(rows(odd / "out")) == {("sub-01", "ses-1"), ("sub-01", "ses-2")}
    assert len(list((odd / "out").rglob("*.seg.nrrd"))) == 2
    record = records.read_record(odd / "out", "01")
    assert record.provenance.settings.segmentation.models == (odd / "model",)
    log = odd / "out/logs/sub-01.log"
    call(capsys, "run", odd / "bids", odd / "out", "participant", *model, *EASY)
    assert "sub-01 is finished" in log.read_text(encoding="utf-8")
    mask = image_path(odd / "out", "01", "2", "space-orig_label-L_mask")
    image = nib.load(mask)
    edited = np.zeros(image.shape, np.uint8)
    edited[5:8, 5:8, 3:5] = 1
    nib.save(nib.Nifti1Image(edited, image.affine, image.header), mask)
    assert call(capsys, "run", odd / "bids", odd / "out", "participant", "--reports-only").code == 0
    assert "corrected by hand" in (odd / "out/sub-01.html").read_text(encoding="utf-8")
    scored = call(capsys, "evaluate", odd / "bids/derivatives/reference", odd / "out", "-o", odd / "scores")
    assert scored.code == 0, scored.err
    assert json.loads((odd / "scores/summary.json").read_text(encoding="utf-8"))["visits"] == 2


def test_dicom_in_a_folder_whose_name_is_no_text(odd, capsys):
    study = new_study()
    for number, tags in enumerate((T1W, FLAIR), 1):
        write_series(odd / "study", speckle(seed=number), study, tags, number=number, seed=number)
    ran = call(capsys, "segment", "-o", odd / "out", "--visit", odd / "study", "--model", odd / "model", *EASY)
    assert ran.code == 0, ran.err
    record = records.read_record(odd / "out", "patient")
    assert {path.parent for path in record.provenance.dicom["1"]} == {odd / "study"}


def test_a_bad_file_in_such_a_folder_is_named_and_the_record_is_read_again(odd, capsys):
    image_path(odd / "bids", "01", "2", "FLAIR").write_bytes(b"no image")
    ran = call(capsys, "run", odd / "bids", odd / "out", "participant", "--model", odd / "model", *EASY)
    assert ran.code == 1
    assert r"caf\udce9" in ran.out
    (row,) = [result for result in records.read_record(odd / "out", "01").results if result.status == "failed"]
    assert r"caf\udce9" in row.reason


def test_json_never_holds_what_json_cannot(tmp_path):
    write_json(tmp_path / "a.json", {"path": "caf\udce9 \\udce9"})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"path": r"caf\udce9 \udce9"}


def test_a_share_that_refuses_chmod_is_written(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    with atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert stat.S_ISREG((tmp_path / "a.txt").stat().st_mode)


def test_without_shared_memory_one_process_does_it_all(tmp_path, monkeypatch, capsys):
    def none(*_, **__):
        raise PermissionError(13, "Permission denied")

    for label in ("01", "02"):
        write_patient(tmp_path / "bids", label, ("1",))
        write_references(tmp_path / "bids", label, ("1",))
    model = export_tiny_model(tmp_path / "model")
    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", none)
    reference = tmp_path / "bids/derivatives/reference"
    scored = call(capsys, "evaluate", reference, reference, "-o", tmp_path / "scores", "--nprocs", "2")
    assert scored.code == 0, scored.err
    assert "one does it all" in scored.err
    ran = call(
        capsys, "run", tmp_path / "bids", tmp_path / "out", "participant", "--model", model, *EASY, "--nprocs", 2
    )
    assert ran.code == 0, ran.err
    assert len(rows(tmp_path / "out")) == 2


def test_temporary_files_lie_by_the_results_where_the_system_has_no_room(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with room_for_temporary_files(tmp_path / "new/out"):
        assert Path(tempfile.gettempdir()).parent == tmp_path
        assert os.environ["TMPDIR"] == tempfile.gettempdir()
    assert list(tmp_path.iterdir()) == []
    study = new_study()
    for number, tags in enumerate((T1W, FLAIR), 1):
        write_series(tmp_path / "study", speckle(seed=number), study, tags, number=number, seed=number)
    model = export_tiny_model(tmp_path / "model")
    ran = call(capsys, "segment", "-o", tmp_path / "out", "--visit", tmp_path / "study", "--model", model, *EASY)
    assert ran.code == 0, ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out", "study"]


def test_the_last_reporter_needs_neither_text_nor_room(tmp_path, monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("caf\udce9")

    monkeypatch.setattr(sys.modules["lesiondelta.cli.app"], "app", broken)
    monkeypatch.setattr(sys, "argv", ["lesiondelta", "caf\udce9"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    said = call(capsys, "doctor")
    assert (said.code, "A fault in lesiondelta" in said.err) == (70, True)
    (log,) = tmp_path.glob("lesiondelta-*.log")
    assert r"RuntimeError: caf\udce9" in log.read_text(encoding="utf-8")
    log.unlink()
    monkeypatch.setattr(Path, "home", broken)  # nobody knows whose it is
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", _full)
    assert r"RuntimeError: caf\udce9" in call(capsys, "doctor").err


def _full(*_, **__):
    raise OSError(28, "No space left on device")
