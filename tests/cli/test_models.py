"""`models`: list, show, calibrate, export, import."""

import json
import zipfile

import numpy as np
import pytest
import torch

from lesiondelta import __version__
from lesiondelta.comparison.calibration import calibrate_model
from lesiondelta.images import read_image, write_volume
from lesiondelta.inference.model import bundled_model, load_model
from lesiondelta.inputs.bids import read_cohort
from lesiondelta.nnunet.preparation import prepare_training
from lesiondelta.nnunet.training import source_commit
from lesiondelta.settings import PreprocessingSettings
from tests.models import export_tiny_model
from tests.tiny import call, write_patient, write_references


@pytest.fixture
def model(tmp_path):
    return export_tiny_model(tmp_path / "models" / "tiny")


def test_list_names_the_bundled_model_and_those_found(model, capsys):
    found = call(capsys, "models", "list", model.parent)
    assert found.code == 0
    assert load_model(bundled_model()).name in found.out
    assert load_model(model).sha256[:12] in found.out
    (model / "weights.safetensors").write_bytes(b"")
    damaged = call(capsys, "models", "list", model.parent)
    assert damaged.code == 1
    assert "SHA-256 differs" in " ".join(damaged.err.split())
    assert "is not a folder" in call(capsys, "models", "list", model / "absent").err


def test_show(model, capsys):
    shown = " ".join(call(capsys, "models", "show", model).out.split())
    for part in ("difference_weighting", "T1w + FLAIR", "16 x 16 x 16", "DifferenceWeightingUNet", "not stated"):
        assert part in shown
    assert load_model(model).sha256 in "".join(call(capsys, "models", "show", model).out.split())
    bundled = call(capsys, "models", "show").out
    assert "Apache-2.0" in bundled
    assert "Not for clinical decisions" in call(capsys, "models", "show", "--card").out
    assert "has no MODEL_CARD.md" in call(capsys, "models", "show", "--card", model).err


def test_a_model_travels_as_a_zip(model, tmp_path, capsys):
    (model / "MODEL_CARD.md").write_text("# Tiny")
    archive = tmp_path / "tiny.zip"
    assert call(capsys, "models", "export", archive, "--model", model).code == 0
    assert call(capsys, "models", "import", archive, "-o", tmp_path / "there").code == 0
    names = ("model.json", "weights.safetensors", "MODEL_CARD.md")
    assert all((tmp_path / "there" / name).read_bytes() == (model / name).read_bytes() for name in names)
    again = call(capsys, "models", "import", archive, "-o", tmp_path / "there")
    assert (again.code, "exists: give a new folder" in " ".join(again.err.split())) == (1, True)


def test_a_changed_or_foreign_zip_is_refused_and_leaves_nothing(model, tmp_path, capsys):
    archive = tmp_path / "changed.zip"
    with zipfile.ZipFile(archive, "w") as written:
        written.writestr("model.json", (model / "model.json").read_text())
        written.writestr("weights.safetensors", b"other weights")
    refused = call(capsys, "models", "import", archive, "-o", tmp_path / "there")
    assert (refused.code, "SHA-256 differs" in " ".join(refused.err.split())) == (1, True)
    with zipfile.ZipFile(archive, "w") as written:
        written.writestr("../outside.py", "print()")
    refused = call(capsys, "models", "import", archive, "-o", tmp_path / "there")
    assert (refused.code, "is not part of a model" in " ".join(refused.err.split())) == (1, True)
    archive.write_text("no zip")
    assert "cannot be read as a zip" in " ".join(
        call(capsys, "models", "import", archive, "-o", tmp_path / "x").err.split()
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["changed.zip", "models"]


LOCAL, CENTRAL = b"PK\x03\x04\x14\x00", b"PK\x01\x02\x14\x03\x14\x00"
"""What the two headers of a file in a zip begin with; flags and the way of packing follow, two bytes each."""


def corrupt(content):
    """One byte of the weights is another one."""
    changed = bytearray(content)
    changed[len(content) // 2] ^= 0xFF
    return bytes(changed)


def encrypted(content):
    for header in (LOCAL, CENTRAL):
        content = content.replace(header + b"\x00", header + b"\x01")
    return content


def packed_in_an_unknown_way(content):
    for header in (LOCAL, CENTRAL):
        content = content.replace(header + b"\x00\x00\x00", header + b"\x00\x00\x63")
    return content


@pytest.mark.parametrize("damaged", [corrupt, encrypted, packed_in_an_unknown_way])
def test_a_damaged_zip_is_refused_in_a_sentence(damaged, model, tmp_path, capsys):
    archive = tmp_path / "damaged.zip"
    assert call(capsys, "models", "export", archive, "--model", model).code == 0
    whole = archive.read_bytes()
    archive.write_bytes(damaged(whole))
    assert archive.read_bytes() != whole
    refused = call(capsys, "models", "import", archive, "-o", tmp_path / "there")
    assert (refused.code, "cannot be read as a zip" in " ".join(refused.err.split())) == (1, True), refused.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged.zip", "models"]


def test_where_nothing_can_be_written_and_options_of_folders(model, tmp_path, capsys):
    archive = tmp_path / "tiny.zip"
    assert call(capsys, "models", "export", archive, "--model", model).code == 0
    refused = call(capsys, "models", "import", archive, "-o", archive / "there")
    assert (refused.code, "Cannot write into" in " ".join(refused.err.split())) == (1, True)
    for option in (("--fold", 0), ("--contrasts", "T1w,FLAIR")):
        refused = call(capsys, "models", "import", archive, "-o", tmp_path / "there", *option)
        assert "leave them out for a zip" in " ".join(refused.err.split())
    assert not (tmp_path / "there").exists()


def test_brackets_in_a_description_are_text(model, capsys):
    path = model / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"method": "[/x]"}))
    listed = call(capsys, "models", "list", model.parent)
    assert (listed.code, "[/x]" in listed.out) == (0, True)


def test_folders_of_nnunet(model, tmp_path, capsys):
    theirs = tmp_path / "LongiSegTrainerDiffWeighting__plans__3d_fullres"
    assert call(capsys, "models", "export", theirs, "--model", model, "--nnunet").code == 0
    assert json.loads((theirs / "dataset.json").read_text())["channel_names"] == {"0": "T1w", "1": "FLAIR"}
    assert call(capsys, "models", "import", theirs, "-o", tmp_path / "one").code == 0
    assert load_model(tmp_path / "one").method == "difference_weighting"
    (theirs / "fold_all").rename(theirs / "fold_0")
    (theirs / "fold_1").mkdir()
    (theirs / "fold_1" / "checkpoint_final.pth").write_bytes((theirs / "fold_0" / "checkpoint_final.pth").read_bytes())
    assert call(capsys, "models", "import", theirs, "-o", tmp_path / "folds").code == 0
    assert [load_model(tmp_path / "folds" / f"fold_{k}").name[-6:] for k in (0, 1)] == ["fold_0", "fold_1"]
    (theirs / "fold_1" / "checkpoint_final.pth").write_bytes(b"damaged")
    assert call(capsys, "models", "import", theirs, "-o", tmp_path / "all" / "folds").code == 1
    assert not (tmp_path / "all" / "folds").exists()
    assert "no finished fold 7, but 0, 1" in " ".join(
        call(capsys, "models", "import", theirs, "-o", tmp_path / "x", "--fold", 7).err.split()
    )
    assert "does not exist" in call(capsys, "models", "import", tmp_path / "absent", "-o", tmp_path / "x").err


PREPARING = PreprocessingSettings(registration="none", skull_strip="skip", bias_correction=False, gate=False)
EASY = ("--registration", "none", "--skull-strip", "skip", "--no-bias-correction", "--no-gate", "--device", "cpu")


@pytest.fixture
def labelled(tmp_path):
    for label in ("01", "02"):
        write_patient(tmp_path / "bids", label, ("1", "2"), seed=int(label))
        write_references(tmp_path / "bids", label, ("1", "2"))
    return tmp_path / "bids"


def changed(model, **what):
    description = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(description | what))
    return model


def test_a_model_is_calibrated_on_a_cohort_and_used(capsys, labelled, tmp_path):
    model, out = export_tiny_model(tmp_path / "model"), tmp_path / "calibrated"
    (model / "MODEL_CARD.md").write_text("# Tiny")
    done = call(capsys, "models", "calibrate", model, labelled, "-o", out, *EASY)
    assert done.code == 0, done.err
    assert "Means over 2 patients; the same patients chose and scored" in done.out
    before, after = load_model(model), load_model(out)
    assert after.sha256 == before.sha256
    assert after.fingerprint != before.fingerprint
    facts = after.description.training["calibration"]
    assert facts["patients"] == ["01", "02"]
    assert (facts["lesiondelta"], facts["commit"]) == (__version__, source_commit())
    assert sum(facts["after"].values()) >= sum(facts["before"].values()) - 0.02
    ran = call(capsys, "run", labelled, tmp_path / "out", "participant", "--model", out, *EASY, "--omp-nthreads", "1")
    assert ran.code == 0, ran.err
    card = (out / "MODEL_CARD.md").read_text()
    assert card.startswith("> Calibrated again on ")
    assert card.endswith("# Tiny")
    again = call(capsys, "models", "calibrate", model, labelled, "-o", out, *EASY)
    assert (again.code, "exists: give a new folder" in again.err) == (1, True)


def test_patients_of_the_training_do_not_calibrate(capsys, labelled, tmp_path):
    model = changed(export_tiny_model(tmp_path / "model"), training={"train": ["01"]})
    calibrate = ("models", "calibrate", model, labelled, "-o", tmp_path / "calibrated", *EASY)
    refused = call(capsys, *calibrate)
    assert refused.code == 1
    assert "was trained on patients labelled 01" in refused.err
    assert not (tmp_path / "calibrated").exists()
    one = call(capsys, *calibrate, "--participant-label", "02")
    assert one.code == 0, one.err
    assert "Two patients or more are needed" in one.out


def test_patients_are_prepared_for_the_model_and_kept(capsys, labelled, tmp_path):
    """On the voxels that `run` gives it, and only once where there is a work folder."""
    model, work = changed(export_tiny_model(tmp_path / "model"), spacing_mm=2.0), tmp_path / "work"
    calibrate = ("models", "calibrate", model, labelled, "--work-dir", work, *EASY)
    first = call(capsys, *calibrate, "-o", tmp_path / "one")
    assert first.code == 0, first.err
    assert "does not list its training patients" in first.err
    kept = work / "prepared" / "sub-01"
    np.testing.assert_allclose(read_image(kept / "ses-1" / "FLAIR.nii.gz").grid.spacing, 2.0)
    before = (kept / "prepared.json").stat().st_mtime_ns
    assert call(capsys, *calibrate, "-o", tmp_path / "two").code == 0
    assert (kept / "prepared.json").stat().st_mtime_ns == before
    one, two = (json.loads((tmp_path / name / "model.json").read_text()) for name in ("one", "two"))
    assert one == two


def test_a_model_that_lists_its_patients_needs_no_caution(capsys, labelled, tmp_path):
    model = changed(export_tiny_model(tmp_path / "model"), training={"train": ["99"]})
    done = call(capsys, "models", "calibrate", model, labelled, "-o", tmp_path / "calibrated", *EASY)
    assert done.code == 0
    assert "training patients" not in done.err


def test_the_network_uses_as_many_threads_as_are_given(labelled, tmp_path):
    """And the process has its own number again afterwards."""
    patients = prepare_training(read_cohort(labelled), tmp_path / "work", PREPARING)
    model = load_model(export_tiny_model(tmp_path / "model"))
    before, during = torch.get_num_threads(), []
    calibrate_model(model, patients, "cpu", before + 1, lambda what: during.append(torch.get_num_threads()))
    assert during == [before + 1, before + 1, before]
    assert torch.get_num_threads() == before


def test_several_models_are_calibrated_one_by_one(capsys, labelled, tmp_path):
    for fold in (0, 1):
        export_tiny_model(tmp_path / "folds" / f"fold_{fold}")
    refused = call(capsys, "models", "calibrate", tmp_path / "folds", labelled, "-o", tmp_path / "calibrated", *EASY)
    assert refused.code == 1
    assert "holds 2 models: calibrate them one by one" in refused.err
    assert str(tmp_path / "folds" / "fold_0") in refused.err


def test_a_cohort_without_lesions_is_refused(capsys, labelled, tmp_path):
    for path in labelled.glob("derivatives/reference/**/*_mask.nii.gz"):
        mask = read_image(path)
        write_volume(path, mask.with_data(np.zeros(mask.grid.shape, bool)))
    model = export_tiny_model(tmp_path / "model")
    refused = call(capsys, "models", "calibrate", model, labelled, "-o", tmp_path / "calibrated", *EASY)
    assert refused.code == 1
    assert "No reference mask has a lesion" in refused.err
    assert not (tmp_path / "calibrated").exists()
