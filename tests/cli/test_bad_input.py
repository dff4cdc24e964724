"""Whatever is wrong with one patient: one sentence that names the file, and the other patient is unharmed."""

import gzip
import pickle
import resource
import shutil
import sys
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lesiondelta.cli import main
from lesiondelta.images import Volume, write_volume
from tests.models import export_tiny_model
from tests.tiny import AFFINE, OPTIONS, SHAPE, call, image, image_path, rows, write_patient, write_references


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return export_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def bids(tmp_path):
    write_patient(tmp_path / "bids", "bad")
    write_patient(tmp_path / "bids", "good")
    return tmp_path / "bids"


def run(capsys, bids, model, *more, out=None):
    return call(capsys, "run", bids, out or bids.parent / "out", "participant", "--model", model, *OPTIONS, *more)


def patched(offset: int, content: bytes):
    """Overwrite bytes of the NIfTI header."""

    def change(path: Path) -> None:
        raw = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(raw[:offset] + content + raw[offset + len(content) :]))

    return change


ABSENT_DEVICE = "cuda" if sys.platform == "darwin" else "mps"
QFORM_CODE, SROW_Z = 252, 312  # nifti1.h; the sform code follows the qform code


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def cut_inside(path: Path) -> None:
    """A sound gzip file whose image has too few voxels."""
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-500]))


def flip_bit(path: Path) -> None:
    """Of one voxel; the checksum stays what it was."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    checksum = gzip.compress(content)[-8:]
    content[-1000] ^= 1
    path.write_bytes(gzip.compress(content)[:-8] + checksum)


def voxel(value: float):
    def change(path: Path) -> None:
        data = image(1).data.copy()
        data[2, 3, 4] = value
        write_volume(path, Volume(data, AFFINE))

    return change


def four_dimensions(path: Path) -> None:
    nib.save(nib.Nifti1Image(np.stack([image(1).data] * 2, axis=-1), AFFINE), path)


def all_zero(path: Path) -> None:
    write_volume(path, Volume(np.zeros(SHAPE, np.float32), AFFINE))


def dangling(path: Path) -> None:
    """A git-annex link whose content was not fetched."""
    path.unlink()
    path.symlink_to("../.git/annex/objects/absent")


def mask_elsewhere(path: Path) -> None:
    mask = Volume(np.ones((6, 6, 6), bool), AFFINE)
    write_volume(path.with_name(path.name.replace("FLAIR", "desc-brain_mask")), mask)


def mask_shifted(path: Path) -> None:
    shifted = AFFINE.copy()
    shifted[0, 3] += 5
    mask = Volume(np.ones(SHAPE, bool), shifted)
    write_volume(path.with_name(path.name.replace("FLAIR", "desc-brain_mask")), mask)


def mask_empty(path: Path) -> None:
    write_volume(path.with_name(path.name.replace("FLAIR", "desc-brain_mask")), Volume(np.zeros(SHAPE, bool), AFFINE))


DAMAGES = {
    "missing": (Path.unlink, "no {} image"),
    "truncated": (truncate, "cannot be read"),
    "cut": (cut_inside, "cannot be read"),
    "bit flipped": (flip_bit, "CRC check failed"),
    "not NIfTI": (lambda path: path.write_bytes(b"plain text" * 99), "cannot be read"),
    "no bytes": (lambda path: path.write_bytes(b""), "is empty"),
    "link to nothing": (dangling, "`datalad get`"),
    "NaN": (voxel(np.nan), "1 NaN or infinite"),
    "infinite": (voxel(np.inf), "1 NaN or infinite"),
    "4D": (four_dimensions, "4 dimensions"),
    "all zero": (all_zero, "zero everywhere"),
    "no affine": (patched(QFORM_CODE, bytes(4)), "says nothing of its orientation"),
    "singular affine": (patched(SROW_Z, bytes(16)), "singular affine"),
}


MASK_DAMAGES = {
    "mask of another shape": (mask_elsewhere, "has shape (6, 6, 6)"),
    "mask shifted": (mask_shifted, "5.00 mm apart"),
    "mask empty": (mask_empty, "is empty"),
}
CASES = [(damage, contrast) for damage in DAMAGES for contrast in ("T1w", "FLAIR")]
CASES += [(damage, "FLAIR") for damage in MASK_DAMAGES]


def label(damage: str, contrast: str) -> str:
    return (damage + contrast).replace(" ", "").lower()


@pytest.fixture(scope="module")
def harmed(tmp_path_factory, model):
    """One run over a patient for every damage, and a sound one among them."""
    root = tmp_path_factory.mktemp("harmed")
    write_patient(root / "bids", "good")
    for damage, contrast in CASES:
        write_patient(root / "bids", label(damage, contrast))
        change, _ = {**DAMAGES, **MASK_DAMAGES}[damage]
        change(image_path(root / "bids", label(damage, contrast), "1", contrast))
    with pytest.raises(SystemExit) as ended, redirect_stderr(StringIO()) as said:
        main(["run", str(root / "bids"), str(root / "out"), "participant", "--model", str(model), *OPTIONS])
    assert ended.value.code == 1
    assert "Traceback" not in said.getvalue()
    return root


@pytest.mark.parametrize(("damage", "contrast"), CASES)
def test_a_bad_image_fails_its_patient_alone(harmed, damage, contrast):
    patient = label(damage, contrast)
    row = rows(harmed / "out")[f"sub-{patient}", "ses-1"]
    path = image_path(harmed / "bids", patient, "1", contrast)
    mask = path.with_name(f"sub-{patient}_ses-1_desc-brain_mask.nii.gz")
    named = path.parent if damage == "missing" else mask if damage in MASK_DAMAGES else path
    _, said = {**DAMAGES, **MASK_DAMAGES}[damage]
    assert row["status"] == "failed"
    assert said.format(contrast) in row["reason"]
    assert str(named) in row["reason"]
    assert not list((harmed / "out" / f"sub-{patient}").rglob("*.nii.gz"))
    assert "Traceback" not in (harmed / f"out/logs/sub-{patient}.log").read_text()


def test_the_sound_patient_among_them_is_unharmed(harmed):
    assert rows(harmed / "out")["sub-good", "ses-1"]["status"] != "failed"
    assert image_path(harmed / "out", "good", "1", "space-orig_label-L_mask").is_file()


def test_the_file_that_failed_is_printed_whole(capsys, bids, model):
    path = image_path(bids, "bad", "1", "T1w")
    truncate(path)
    assert f"bad 1: {path} cannot be read" in run(capsys, bids, model).out


def test_a_session_without_images_fails_its_visit_and_flags_the_other(capsys, bids, model):
    (bids / "sub-bad/ses-2/anat").mkdir(parents=True)
    outcome = run(capsys, bids, model)
    table = rows(bids.parent / "out")
    assert outcome.code == 1
    assert "has no T1w and FLAIR image" in table["sub-bad", "ses-2"]["reason"]
    assert table["sub-bad", "ses-1"]["status"] == "flagged"
    assert "ses-2 failed" in table["sub-bad", "ses-1"]["reason"]


def test_a_participant_without_anything_is_a_row_of_the_table(capsys, bids, model):
    shutil.rmtree(bids / "sub-bad")
    (bids / "sub-bad").mkdir()
    assert run(capsys, bids, model).code == 1
    assert rows(bids.parent / "out")["sub-bad", "n/a"]["status"] == "failed"


def test_no_dataset_at_all(capsys, tmp_path, model):
    for folder in (tmp_path / "absent", tmp_path):
        outcome = run(capsys, folder, model, out=tmp_path / "out")
        assert outcome.code == 70
        assert one_sentence(outcome, str(folder))


def test_an_unwritable_output_folder(capsys, bids, model, tmp_path):
    (tmp_path / "file").write_text("")
    outcome = run(capsys, bids, model, out=tmp_path / "file" / "out")
    assert outcome.code == 70
    assert one_sentence(outcome, "Cannot write")


def test_an_unwritable_work_folder(capsys, bids, model, tmp_path):
    (tmp_path / "file").write_text("")
    outcome = run(capsys, bids, model, "--work-dir", tmp_path / "file")
    assert outcome.code == 70
    assert one_sentence(outcome, f"Cannot write into {tmp_path / 'file'}")
    assert not (tmp_path / "out").exists()
    (tmp_path / "work").mkdir()
    (tmp_path / "work/sub-good").write_text("in the way of one patient")
    assert run(capsys, bids, model, "--work-dir", tmp_path / "work").code == 1
    assert f"Cannot write into {tmp_path / 'work/sub-good'}" in rows(tmp_path / "out")["sub-good", "ses-1"]["reason"]


def test_an_output_folder_with_something_else(capsys, bids, model, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    outcome = run(capsys, bids, model, out=tmp_path / "thesis")
    assert outcome.code == 70
    assert one_sentence(outcome, "holds something else")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]


def test_an_output_folder_with_results_of_another_dataset(capsys, bids, model, tmp_path):
    out = bids / "derivatives/lesiondelta"
    good = ("--participant-label", "good")
    assert run(capsys, bids, model, *good, out=out).code == 0
    record = (out / ".lesiondelta/sub-good.json").read_bytes()
    write_patient(tmp_path / "other", "good")
    images = [image_path(bids, "good", "1", contrast) for contrast in ("T1w", "FLAIR")]
    for refused in (
        run(capsys, tmp_path / "other", model, out=out),
        call(capsys, "segment", "--visit", *images, "-o", out, "--model", model),
    ):
        assert refused.code == 70
        assert one_sentence(refused, bids.resolve().as_uri())
    assert (out / ".lesiondelta/sub-good.json").read_bytes() == record
    moved = bids.rename(tmp_path / "moved")
    assert run(capsys, moved, model, *good, out=moved / "derivatives/lesiondelta").code == 0


@pytest.mark.parametrize("place", [".", "..", "sub-good", "results", "derivatives"])
def test_an_output_folder_inside_or_around_the_input(capsys, bids, model, place):
    before = sorted(bids.rglob("*"))
    assert run(capsys, bids, model, out=bids / place).code == 70
    assert sorted(bids.rglob("*")) == before


def test_derivatives_of_the_input_are_a_good_place(capsys, bids, model):
    assert run(capsys, bids, model, "--participant-label", "good", out=bids / "derivatives/lesiondelta").code == 0


def test_a_full_disk(capsys, bids, model):
    """No file may grow beyond 12 kB: records and tables fit, images do not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, hard))
    try:
        run(capsys, bids, model)
        (bids.parent / "out/logs/sub-good.log").write_bytes(bytes(12_000))
        outcome = run(capsys, bids, model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    assert "Cannot write" in rows(bids.parent / "out")["sub-good", "ses-1"]["reason"]
    assert not list((bids.parent / "out").rglob(".partial-*"))
    assert run(capsys, bids, model).code == 0


class Harmful:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def corrupt(folder: Path) -> None:
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def foreign(folder: Path) -> None:
    (folder / "weights.safetensors").write_bytes(pickle.dumps(Harmful(folder / "unpickled")))


def no_description(folder: Path) -> None:
    (folder / "model.json").unlink()


def other_description(folder: Path) -> None:
    (folder / "model.json").write_text('{"format": "something-else"}')


@pytest.mark.parametrize("damage", [corrupt, foreign, no_description, other_description])
def test_unusable_weights_start_nothing_and_are_never_unpickled(capsys, bids, tmp_path, damage):
    folder = export_tiny_model(tmp_path / "model")
    damage(folder)
    outcome = run(capsys, bids, folder)
    assert outcome.code == 70
    assert one_sentence(outcome, str(folder))
    assert not (folder / "unpickled").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--device", ABSENT_DEVICE, f"no {ABSENT_DEVICE} device"),
        ("--registration", "flirt", "`flirt` is not on PATH"),
        ("--brain-extraction", "synthstrip", "`mri_synthstrip` is not on PATH"),
    ],
)
def test_a_device_or_program_that_is_not_here_starts_nothing(
    capsys, bids, model, tmp_path, monkeypatch, option, value, said
):
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = run(capsys, bids, model, "--skull-strip", "auto", option, value)
    assert outcome.code == 70
    assert one_sentence(outcome, said)
    assert not (tmp_path / "out").exists()


def test_an_unknown_participant(capsys, bids, model):
    outcome = run(capsys, bids, model, "--participant-label", "good", "who")
    assert outcome.code == 70
    assert one_sentence(outcome, "no participant who")


def test_stop_on_first_crash_leaves_the_rest_alone_and_says_so(capsys, bids, model):
    all_zero(image_path(bids, "bad", "1", "T1w"))
    outcome = run(capsys, bids, model, "--stop-on-first-crash")
    assert outcome.code == 1
    assert "not run" in outcome.out
    assert not (bids.parent / "out/sub-good/ses-1").exists()


UNTRAINABLE = {
    "fold": (("--fold", "2", "--folds", "2"), "Fold 2 does not exist"),
    "folds": (("--folds", "5"), "2 patients cannot be split into 5 folds"),
    "no fold": (("--fold", "x"), "--fold x"),
    "single visit": (
        ("--fold", "all", "--method", "difference_weighting"),
        "single visit have no prior to train with: 2",
    ),
    "GPUs": (("--fold", "all", "--gpus", "99"), "99 GPUs"),
    "no start": (("--fold", "all", "--initial-model", "absent"), "absent is not a model folder"),
    "other start": (("--fold", "all", "--initial-model", "MODEL"), "do not fit nnunet"),
    "prior of nothing": (("--fold", "all", "--prior", "random"), "nnunet does not use a prior"),
    "other training": (("--fold", "all"), "another method"),
    "no program": (("--fold", "all", "--registration", "flirt"), "`flirt` is not on PATH"),
    "work in a file": (("--fold", "all", "--work-dir", __file__), "Cannot write into"),
}


@pytest.mark.parametrize("mistake", UNTRAINABLE)
def test_what_cannot_be_trained_is_said_before_patients_are_prepared(capsys, tmp_path, model, monkeypatch, mistake):
    monkeypatch.setenv("PATH", str(tmp_path))
    options, said = UNTRAINABLE[mistake]
    for label, sessions in (("1", ("1", "2")), ("2", ("1",))):
        write_patient(tmp_path / "bids", label, sessions)
        write_references(tmp_path / "bids", label, sessions)
    if mistake == "other training":
        (tmp_path / "out").mkdir()
        (tmp_path / "out/training.json").write_text('{"method": {"name": "another"}}')
    given = ["--preset", "smoke", "--method", "nnunet", *(model if option == "MODEL" else option for option in options)]
    outcome = call(capsys, "train", tmp_path / "bids", "-o", tmp_path / "out", *OPTIONS, *given)
    assert outcome.code == 1
    assert one_sentence(outcome, said)
    assert not (tmp_path / "out/work").exists()


def one_sentence(outcome, words: str) -> bool:
    text = outcome.err.strip()
    return text.count("Error:") == 1 and "\n" not in text and words in text and "Traceback" not in text
