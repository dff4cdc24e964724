"""Where a system gives less than usual to `train`, `compare`, `convert`, `simulate` and `models`."""

import errno
import json
import multiprocessing.synchronize
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from lesiondelta import files
from lesiondelta.comparison.opening import RECORD
from lesiondelta.files import alone, sha256
from lesiondelta.images import read_image, read_mask
from lesiondelta.inference.model import load_model
from lesiondelta.inputs.bids import read_cohort
from lesiondelta.simulation import Acquisition, CohortPlan, write_cohort
from tests.datasets.test_datasets import mslesseg
from tests.models import export_tiny_model
from tests.tiny import OPTIONS, call, write_patient, write_references

TRAINING = ("--preset", "smoke", "--epochs", "1", *OPTIONS)
COMPARISON = ("--methods", "nnunet", "--preset", "smoke", "--epochs", "1", "--patch", "16", "--folds", "2", *OPTIONS)
MADE_BY, SIMULATED = ".convert/made_by.json", "derivatives/reference/dataset_description.json"
ONE_VISIT = CohortPlan(1, 1, 0, Acquisition(mode="native", whole_head=False), small=True)


def labelled(folder):
    for seed, label in enumerate(("01", "02")):
        write_patient(folder / "bids", label, ("1", "2"), seed)
        write_references(folder / "bids", label, ("1", "2"))
    return folder / "bids"


def train(capsys, folder, *more):
    return call(capsys, "train", folder / "bids", "-o", folder / "out", "--fold", "0", "--folds", "2", *TRAINING, *more)


def require_whole(folder: Path):
    """All JSON is valid and UTF-8, and nothing temporary is left."""
    for path in folder.rglob("*.json"):
        json.dumps(json.loads(path.read_bytes().decode()), ensure_ascii=False).encode()
    assert not [path for path in folder.rglob(".*") if path.name.startswith((files.PARTIAL, files.TEMPORARY))]


# Names that are no text


def test_a_model_is_trained_and_resumed_in_a_folder_whose_name_is_no_text(odd_folder, capsys):
    labelled(odd_folder)
    work = ("--work-dir", odd_folder / "work")
    done = train(capsys, odd_folder, *work)
    assert done.code == 0, done.err
    model = odd_folder / "out/model"
    weights = load_model(model).sha256
    assert list((odd_folder / "out/tensorboard").glob("events.*"))
    shutil.rmtree(model)
    assert train(capsys, odd_folder, *work).code == 0
    assert load_model(model).sha256 == weights
    log = (odd_folder / "out/train.log").read_text(encoding="utf-8")
    assert log.count("epoch 1 of 1") == 1  # the second time, the checkpoint had it
    assert log.count("prepared images are taken from") == 2
    require_whole(odd_folder)


def test_nothing_is_prepared_where_nothing_gets_a_name_that_is_text(odd_folder, capsys, monkeypatch):
    labelled(odd_folder)
    (odd_folder / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(odd_folder / "tmp"))
    compared = call(capsys, "compare", odd_folder / "bids", "-o", odd_folder / "compared", *COMPARISON)
    for refused in (train(capsys, odd_folder), compared):
        assert refused.code == 1
        assert (
            r"caf\udce9/tmp (its name is not UTF-8 either). Give another folder, or set TMPDIR to one." in refused.err
        )
        assert "Nothing can be trained in" in refused.err
    assert sorted(path.name for path in odd_folder.iterdir()) == ["bids", "tmp"]


def test_methods_are_compared_in_a_folder_whose_name_is_no_text(odd_folder, capsys):
    command = ("compare", labelled(odd_folder), "-o", odd_folder / "out", *COMPARISON)
    done = call(capsys, *command)
    assert done.code == 0, done.err
    tables = {path.name: path.read_bytes() for path in (odd_folder / "out/tables").iterdir()}
    assert {f"table_{number}.tsv" for number in (1, 2, 4, 5)} <= set(tables)
    trained = {path: path.stat().st_mtime_ns for path in odd_folder.rglob("weights.safetensors")}
    assert len(trained) == 2
    assert call(capsys, *command).code == 0
    assert {path.name: path.read_bytes() for path in (odd_folder / "out/tables").iterdir()} == tables
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    require_whole(odd_folder)


def test_a_dataset_below_such_a_folder_is_converted_once(odd_folder, tmp_path, tmp_path_factory, capsys):
    mslesseg(odd_folder)
    out = tmp_path_factory.mktemp("out") / odd_folder.name
    command = ("convert", "mslesseg", tmp_path, out, "--folds", 2)
    done = call(capsys, *command)
    assert done.code == 0, done.err
    assert len(read_cohort(out).patients) == 5
    sidecar = json.loads((out / "sub-P1/ses-1/anat/sub-P1_ses-1_FLAIR.json").read_text(encoding="utf-8"))
    assert sidecar["SourceFile"] == r"caf\udce9/train/P1/T1/P1_T1_FLAIR.nii.gz"
    written = {path: path.stat().st_mtime_ns for path in out.glob("sub-*/**/*.nii.gz")}
    assert call(capsys, *command).code == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    require_whole(out)


def test_a_cohort_is_simulated_in_such_a_folder(odd_folder, tmp_path):
    hashes = []
    for out in (odd_folder, tmp_path / "text"):
        write_cohort(out, ONE_VISIT)
        hashes.append({path.relative_to(out): sha256(path) for path in out.rglob("*") if path.is_file()})
    assert hashes[0] == hashes[1]
    require_whole(odd_folder)


def test_models_travel_and_are_calibrated_in_such_a_folder(odd_folder, capsys):
    model = export_tiny_model(odd_folder / "model")
    for archive, how in (("m.zip", ()), ("theirs", ("--nnunet",))):
        assert call(capsys, "models", "export", odd_folder / archive, "--model", model, *how).code == 0
        assert call(capsys, "models", "import", odd_folder / archive, "-o", odd_folder / f"from {archive}").code == 0
        assert load_model(odd_folder / f"from {archive}").method == "difference_weighting"
    command = ("models", "calibrate", model, labelled(odd_folder), "-o", odd_folder / "calibrated", *OPTIONS)
    done = call(capsys, *command)
    assert done.code == 0, done.err
    assert load_model(odd_folder / "calibrated").description.training["calibration"]["patients"] == ["01", "02"]
    require_whole(odd_folder)


# No room for temporary files


@pytest.fixture
def no_room(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))


def test_a_model_is_trained_without_a_folder_for_temporary_files(tmp_path, capsys, no_room):
    labelled(tmp_path)
    done = train(capsys, tmp_path)
    assert done.code == 0, done.err
    assert load_model(tmp_path / "out/model").description.training["validation"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bids", "out"]


def test_methods_are_compared_without_one_in_a_folder_that_is_there(tmp_path, capsys, no_room):
    (tmp_path / "out").mkdir()  # temporary files lie in it, and are not taken for somebody's
    done = call(capsys, "compare", labelled(tmp_path), "-o", tmp_path / "out", *COMPARISON)
    assert done.code == 0, done.err
    assert (tmp_path / "out/tables/table_2.tsv").stat().st_size
    require_whole(tmp_path)


def test_the_others_need_none(tmp_path, capsys, no_room):
    mslesseg(tmp_path / "source")
    assert call(capsys, "convert", "mslesseg", tmp_path / "source", tmp_path / "converted", "--folds", 2).code == 0
    assert len(read_cohort(tmp_path / "converted").patients) == 5
    write_cohort(tmp_path / "simulated", ONE_VISIT)
    assert read_mask(
        next(tmp_path.glob("simulated/derivatives/reference/sub-001/ses-01/anat/*_mask.nii.gz"))
    ).data.any()
    model = export_tiny_model(tmp_path / "model")
    assert call(capsys, "models", "export", tmp_path / "theirs", "--model", model, "--nnunet").code == 0
    command = ("models", "calibrate", model, labelled(tmp_path), "-o", tmp_path / "calibrated", *OPTIONS)
    assert call(capsys, *command).code == 0
    assert load_model(tmp_path / "calibrated").sha256 == load_model(model).sha256
    require_whole(tmp_path)


# A share that knows no modes


@pytest.fixture(params=[errno.EPERM, errno.EOPNOTSUPP])
def no_modes(request, monkeypatch):
    def refuse(*_, **__):
        raise OSError(request.param, os.strerror(request.param))

    for name in ("chmod", "fchmod", "lchmod"):
        monkeypatch.setattr(os, name, refuse, raising=False)


def test_a_model_is_trained_on_a_share_that_refuses_modes(tmp_path, capsys, no_modes):
    labelled(tmp_path)
    done = train(capsys, tmp_path)
    assert done.code == 0, done.err
    assert load_model(tmp_path / "out/model").description.training["epochs_done"] == 1
    require_whole(tmp_path)


def test_the_others_write_there_too(tmp_path, capsys, no_modes):
    mslesseg(tmp_path / "source")
    assert call(capsys, "convert", "mslesseg", tmp_path / "source", tmp_path / "converted", "--folds", 2).code == 0
    image = "sub-P1/ses-1/anat/sub-P1_ses-1_FLAIR.nii.gz"
    original = read_image(tmp_path / "source/train/P1/T1/P1_T1_FLAIR.nii.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "converted" / image).data, original.data)
    write_cohort(tmp_path / "simulated", ONE_VISIT)
    assert len(read_cohort(tmp_path / "simulated").patients) == 1
    model = export_tiny_model(tmp_path / "model")
    for archive, how in (("m.zip", ()), ("theirs", ("--nnunet",))):
        assert call(capsys, "models", "export", tmp_path / archive, "--model", model, *how).code == 0
        assert call(capsys, "models", "import", tmp_path / archive, "-o", tmp_path / f"from {archive}").code == 0
    require_whole(tmp_path)


# No shared memory


def test_a_model_is_trained_without_shared_memory(tmp_path, capsys, monkeypatch):
    def none(*_, **__):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    labelled(tmp_path)
    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", none)
    done = train(capsys, tmp_path, "--nprocs", "2")
    assert done.code == 0, done.err
    assert "one does it all" in done.err
    assert load_model(tmp_path / "out/model").description.training["train"]


# Two at once


@pytest.mark.parametrize("command", ["train", "compare", "convert", "simulate"])
def test_a_folder_that_another_process_writes_is_left_as_it_is(tmp_path, capsys, command):
    labelled(tmp_path)
    mslesseg(tmp_path / "source")
    out = tmp_path / "out"
    commands = {
        "train": ("train", tmp_path / "bids", "-o", out, "--fold", "all", *TRAINING),
        "compare": ("compare", tmp_path / "bids", "-o", out, *COMPARISON),
        "convert": ("convert", "mslesseg", tmp_path / "source", out, "--folds", 2),
        "simulate": ("simulate", out, "--patients", "1"),
    }
    with alone(out, wait=False):
        refused = call(capsys, *commands[command])
    assert refused.code == 1
    assert f"Another lesiondelta is working in {out}: wait for it, or give another." in refused.err
    assert [path.name for path in out.iterdir()] == [".lock"]


@pytest.mark.parametrize("command", ["compare", "convert", "simulate"])
def test_who_gets_a_folder_after_another_has_written_it_looks_again(tmp_path, capsys, monkeypatch, command):
    """The other one was still at work when this one looked first, and is done when this one gets the lock."""
    labelled(tmp_path)
    mslesseg(tmp_path / "source")
    out = tmp_path / "out"
    record, mine, said = {
        "compare": (RECORD, ("compare", tmp_path / "bids", "-o", out, *COMPARISON), "with another"),
        "convert": (MADE_BY, ("convert", "mslesseg", tmp_path / "source", out, "--folds", 2), "not written by"),
        "simulate": (SIMULATED, ("simulate", out, "--patients", "1"), "other settings"),
    }[command]
    theirs = out / record

    class LateLock(FileLock):
        def acquire(self, *args, **kwargs):
            theirs.parent.mkdir(parents=True, exist_ok=True)
            theirs.write_text("{}")
            return super().acquire(*args, **kwargs)

    monkeypatch.setattr(files, "FileLock", LateLock)
    refused = call(capsys, *mine)
    assert refused.code == 1
    assert said in refused.err
    assert theirs.read_text() == "{}"
    assert {path.name for path in out.rglob("*") if path.is_file()} == {".lock", theirs.name}
