"""A mask corrected by hand: how it is found, what follows from it, and that no mask is ever lost.

One long file, because every test edits a copy of the same finished results, which its first part makes.
"""

import json
import logging
import shutil
from contextlib import contextmanager

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from lesiondelta import records
from lesiondelta.errors import InputError
from lesiondelta.files import logged_by
from lesiondelta.images import Grid, Volume, read_labels, read_mask, write_volume
from lesiondelta.inference.segmenter import counted
from lesiondelta.outputs.derivatives import Place
from lesiondelta.pipeline.mask_correction import correct
from lesiondelta.preprocessing.preparation import PreparedVisit
from lesiondelta.tracking.calls import BY_HAND
from tests.dicoms import FLAIR, T1W, affine_of, new_study, write_series
from tests.models import export_tiny_model
from tests.preprocessing import heads
from tests.tiny import AFFINE, OPTIONS, SHAPE, call, image, image_path, rows, write_patient

MASK, AUTOMATIC, CORRECTED = (f"space-orig_label-L_{name}mask" for name in ("", "desc-automatic_", "desc-corrected_"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two visits, segmented; tests work on copies."""
    root = tmp_path_factory.mktemp("finished")
    write_patient(root / "bids", "01", ("1", "2"))
    export_tiny_model(root / "model")
    return root


@pytest.fixture
def root(finished, tmp_path, capsys):
    if not (finished / "out").is_dir():
        assert run(capsys, finished).code == 0
    for name in ("bids", "model", "out"):
        shutil.copytree(finished / name, tmp_path / name)
    description = tmp_path / "out/dataset_description.json"
    description.write_text(description.read_text().replace(str(finished), str(tmp_path)))
    return tmp_path


def run(capsys, root, *more):
    given = ("--model", root / "model", "--threshold", "0.2", *OPTIONS)
    return call(capsys, "run", root / "bids", root / "out", "participant", *given, *more)


def report(capsys, root, *more):
    return call(capsys, "run", root / "bids", root / "out", "participant", "--reports-only", *more)


def mask_path(root, name=MASK, session="2"):
    return image_path(root / "out", "01", session, name)


def contents(folder):
    """Every file that results consist of, but logs and the records."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "logs" not in path.parts]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if ".lesiondelta" not in path.parts
    }


def erase(root, session="2", name=MASK):
    """Take the lesions of one half away."""
    automatic = read_mask(mask_path(root, AUTOMATIC, session))
    half = automatic.data.copy()
    half[: SHAPE[0] // 2] = False
    assert 0 < half.sum() < automatic.data.sum()
    write_volume(mask_path(root, name, session), automatic.with_data(half))
    return half


def test_without_a_correction_nothing_changes(root, capsys):
    before = contents(root / "out")
    done = report(capsys, root)
    assert done.code == 0, done.err
    assert contents(root / "out") == before


def test_all_outputs_are_known_however_often_reports_are_written(capsys, tmp_path):
    """DICOM SEG, Slicer's segmentation, pictures, change maps, probabilities of new lesions."""
    visits = []
    for seed, date in enumerate(("20200301", "20210301")):
        study, visits = new_study(date), [*visits, "--visit", tmp_path / date]
        for number, tags in enumerate((T1W, FLAIR), start=1):
            head = np.pad(np.rint(np.maximum(image(10 * seed + number).data, 0)), [(0, 0), (0, 0), (2, 2)])
            write_series(tmp_path / date, Volume(head, affine_of("axial", (2.0, 2.0, 3.0))), study, tags, number)
    model = export_tiny_model(tmp_path / "model", "DifferenceVNet")
    given = ("-o", tmp_path / "out", "--model", model, "--threshold", "0.2", *OPTIONS)
    done = call(capsys, "segment", *visits, *given)
    assert done.code == 0, done.err
    before = contents(tmp_path / "out")
    for part in ("dseg.dcm", "dseg.seg.nrrd", ".png", "seg-change_desc-from1_dseg", "desc-new_probseg"):
        assert any(part in name for name in before), part
    for _ in range(2):
        done = call(capsys, "run", tmp_path / "out", tmp_path / "out", "participant", "--reports-only")
        assert done.code == 0, done.out + done.err
        assert contents(tmp_path / "out").keys() == before.keys()
    assert call(capsys, "segment", *visits, *given).code == 0


@pytest.mark.parametrize("again", ["report", "run", "other_threshold"])
@pytest.mark.parametrize(
    "ending", [f"{MASK}.seg.nrrd", f"{MASK} (1).nii.gz", "space-orig_label-L_desc-manual_mask.nii"]
)
def test_a_correction_that_nothing_reads_is_said_and_changes_nothing(root, capsys, ending, again):
    path = mask_path(root).with_name(f"sub-01_ses-2_{ending}")
    shutil.copy(mask_path(root), path)
    before = contents(root / "out")
    done = globals()[again](capsys, root)
    assert done.code == 1
    assert f"{path.name} is not read: if it corrects a mask, save it as" in done.out.replace("\n", " ")
    after = contents(root / "out")
    assert {name for name in before if before[name] != after.get(name)} <= {"settings.json"}


def test_what_macos_keeps_beside_a_mask_is_no_mask(root, capsys):
    erase(root)
    for name in (MASK, CORRECTED):
        mask_path(root).with_name(f"._sub-01_ses-2_{name}.nii.gz").write_bytes(b"\0\5\x16\7Mac OS X")
    assert report(capsys, root).code == 0
    assert rows(root / "out")["sub-01", "ses-2"]["correction"] != "n/a"


def test_a_mask_edited_in_place_is_followed_and_recorded(root, capsys):
    automatic, page = mask_path(root, AUTOMATIC).read_bytes(), (root / "out/sub-01.html").read_text()
    volume = float(rows(root / "out")["sub-01", "ses-2"]["lesion_volume_mm3"])
    half = erase(root)
    done = report(capsys, root)
    assert done.code == 0, done.err
    assert "mask of ses-2 corrected by hand" in done.err
    row = rows(root / "out")["sub-01", "ses-2"]
    assert float(row["lesion_volume_mm3"]) < volume
    assert row["correction"].endswith("ml")
    assert rows(root / "out")["sub-01", "ses-1"]["correction"] == "n/a"
    assert f"{row['correction']}</p>" in (root / "out/sub-01.html").read_text() != page
    for name in (MASK, CORRECTED):
        np.testing.assert_array_equal(read_mask(mask_path(root, name)).data, half)
    assert mask_path(root, AUTOMATIC).read_bytes() == automatic
    sidecar = json.loads(mask_path(root).with_name(f"sub-01_ses-2_{MASK}.json").read_text())
    assert sidecar["Manual"] is True
    assert sidecar["Correction"]["Summary"] == row["correction"]
    assert sidecar["Sources"] == [
        f"bids::sub-01/ses-2/anat/sub-01_ses-2_{name}.nii.gz" for name in (AUTOMATIC, CORRECTED)
    ]
    numbers = nib.load(mask_path(root, "space-orig_seg-lesions_dseg")).get_fdata()
    np.testing.assert_array_equal(numbers > 0, half)
    changes = pd.read_csv(root / "out/sub-01/sub-01_changes.tsv", sep="\t", keep_default_na=False)
    assert changes.volume_mm3.sum() == pytest.approx(float(row["lesion_volume_mm3"]), rel=1e-4)


@pytest.mark.parametrize("way", ["unzipped", "named corrected", "unzipped and named corrected", "float"])
def test_it_may_be_saved_in_other_ways(root, capsys, way):
    half = erase(root)
    edited = nib.load(mask_path(root))
    name = CORRECTED if "named" in way else MASK
    path = mask_path(root, name).with_suffix("") if "unzipped" in way else mask_path(root, name)
    nib.save(
        nib.Nifti1Image(edited.get_fdata().astype(np.float32 if way == "float" else np.int16), edited.affine), path
    )
    if way != "float":
        shutil.copy(mask_path(root, AUTOMATIC), mask_path(root))
    assert report(capsys, root).code == 0
    assert not list((root / "out").rglob("*.nii"))
    np.testing.assert_array_equal(read_mask(mask_path(root)).data, half)
    assert nib.load(mask_path(root)).get_data_dtype() == np.uint8
    assert rows(root / "out")["sub-01", "ses-2"]["correction"] != "n/a"


def other_grid(root):
    write_volume(mask_path(root), Volume(np.ones((5, 5, 5), bool), np.eye(4)))


def shifted(root):
    moved = AFFINE.copy()
    moved[0, 3] += 3
    write_volume(mask_path(root), Volume(np.ones(SHAPE, bool), moved))


def several_labels(root):
    write_volume(mask_path(root), Volume(np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE) % 3, AFFINE))


def damaged(root):
    mask_path(root).write_bytes(mask_path(root).read_bytes()[:60])


def two_of_them(root):
    erase(root)
    automatic = read_mask(mask_path(root, AUTOMATIC))
    write_volume(mask_path(root, CORRECTED), automatic.with_data(np.zeros(SHAPE, bool)))


def unknown_visit(root):
    path = mask_path(root, session="9")
    path.parent.mkdir(parents=True)
    shutil.copy(mask_path(root), path)


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (other_grid, "is not on the grid of the FLAIR that it corrects"),
        (shifted, "lie 3.00 mm apart"),
        (several_labels, "is not a mask: it holds several labels"),
        (damaged, "cannot be read"),
        (two_of_them, "are both corrections of one mask: keep one of them"),
        (unknown_visit, "is of no visit of sub-01 that has results (ses-1, ses-2)"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence_and_changes_nothing(root, capsys, break_it, said):
    break_it(root)
    before = contents(root / "out")
    done = report(capsys, root)
    assert done.code == 1
    assert said in done.out.replace("\n", " ")
    assert "Traceback" not in done.out + done.err
    assert contents(root / "out") == before
    if break_it is not unknown_visit:  # a normal run destroys nothing either
        assert run(capsys, root).code == 1
        assert contents(root / "out").keys() == before.keys()
        assert mask_path(root).read_bytes() == before[mask_path(root).relative_to(root / "out").as_posix()]


def test_an_empty_mask_says_that_there_is_no_lesion(root, capsys):
    automatic = read_mask(mask_path(root))
    write_volume(mask_path(root), automatic.with_data(np.zeros(SHAPE, bool)))
    assert report(capsys, root).code == 0
    row = rows(root / "out")["sub-01", "ses-2"]
    assert (row["lesions"], float(row["lesion_volume_mm3"])) == ("0", 0)
    assert "removed" in row["correction"]


def test_taking_the_corrected_mask_away_takes_the_correction_back(root, capsys):
    before = contents(root / "out")
    erase(root)
    report(capsys, root)
    mask_path(root, CORRECTED).unlink()
    assert report(capsys, root).code == 0
    after = contents(root / "out")
    assert {name for name in after if after[name] != before.get(name)} <= {
        f"sub-01/ses-2/anat/sub-01_ses-2_{CORRECTED}.json"
    }


def test_a_mask_edited_back_ends_the_correction(root, capsys):
    before = contents(root / "out")
    erase(root)
    report(capsys, root)
    shutil.copy(mask_path(root, AUTOMATIC), mask_path(root))
    assert report(capsys, root).code == 0
    assert contents(root / "out") == before


def test_a_second_edit_replaces_the_first(root, capsys):
    erase(root)
    report(capsys, root)
    write_volume(mask_path(root), read_mask(mask_path(root)).with_data(np.zeros(SHAPE, bool)))
    report(capsys, root)
    assert rows(root / "out")["sub-01", "ses-2"]["lesions"] == "0"


def test_a_normal_run_follows_a_correction_of_a_finished_patient(root, capsys):
    probability = mask_path(root, "space-orig_label-L_probseg").stat().st_mtime_ns
    half = erase(root)
    assert run(capsys, root).code == 0
    assert rows(root / "out")["sub-01", "ses-2"]["correction"] != "n/a"
    assert mask_path(root, "space-orig_label-L_probseg").stat().st_mtime_ns == probability, "nothing is segmented again"
    np.testing.assert_array_equal(read_mask(mask_path(root)).data, half)


def test_a_correction_outlives_another_threshold_even_if_it_was_not_followed_yet(root, capsys):
    half = erase(root)
    done = call(
        capsys,
        "run",
        root / "bids",
        root / "out",
        "participant",
        "--model",
        root / "model",
        "--threshold",
        "0.4",
        *OPTIONS,
    )
    assert done.code == 0
    np.testing.assert_array_equal(read_mask(mask_path(root)).data, half)
    assert rows(root / "out")["sub-01", "ses-2"]["correction"] != "n/a"
    assert "mask of ses-2 corrected by hand" in (root / "out/logs/sub-01.log").read_text()


def test_a_correction_outlives_the_loss_of_the_records(root, capsys):
    half = erase(root)
    shutil.rmtree(root / "out/.lesiondelta")
    assert run(capsys, root).code == 0
    np.testing.assert_array_equal(read_mask(mask_path(root)).data, half)
    assert rows(root / "out")["sub-01", "ses-1"]["correction"] == "n/a"


def test_a_correction_outlives_a_failure(root, capsys):
    half, flair = erase(root), image_path(root / "bids", "01", "1", "FLAIR")
    whole = flair.read_bytes()
    for path in (root / "bids").rglob("*.nii.gz"):
        path.write_bytes(path.read_bytes()[:50]) if path != flair else None
    flair.write_bytes(whole[:100])
    assert run(capsys, root).code == 1
    assert not mask_path(root).exists()
    np.testing.assert_array_equal(read_mask(mask_path(root, CORRECTED)).data, half)


def test_a_correction_of_another_flair_is_kept_but_not_used(root, capsys):
    half = erase(root)
    report(capsys, root)
    write_volume(image_path(root / "bids", "01", "2", "FLAIR"), image(77))
    assert run(capsys, root).code == 0
    row = rows(root / "out")["sub-01", "ses-2"]
    assert "its FLAIR has changed since the mask was corrected by hand" in row["reason"]
    assert row.get("correction", "n/a") == "n/a"
    np.testing.assert_array_equal(read_mask(mask_path(root, CORRECTED)).data, half)
    half = erase(root)
    assert report(capsys, root).code == 0
    row = rows(root / "out")["sub-01", "ses-2"]
    assert row["correction"] != "n/a", "a mask edited since was drawn on the new one"
    assert "its FLAIR has changed" not in row["reason"]


def test_other_settings_and_foreign_or_absent_results_are_refused(root, capsys):
    done = report(capsys, root, "--threshold", "0.3")
    assert done.code == 70
    assert "leave out --threshold" in done.err
    write_patient(root / "other", "01")
    done = call(capsys, "run", root / "other", root / "out", "participant", "--reports-only")
    assert done.code == 70
    assert "holds results of" in done.err
    done = report(capsys, root, "--participant-label", "02")
    assert done.code == 70
    assert "no results of sub-02" in done.err


def test_results_of_loose_files_can_be_corrected_too(root, capsys, tmp_path):
    images = [image_path(root / "bids", "01", "1", contrast) for contrast in ("T1w", "FLAIR")]
    out = tmp_path / "loose"
    given = ("segment", "--visit", *images, "-o", out, "--model", root / "model", "--threshold", "0.2", *OPTIONS)
    assert call(capsys, *given).code == 0
    path = Place(out, "patient", "1").anat(f"{MASK}.nii.gz")
    write_volume(path, read_mask(path).with_data(np.zeros(SHAPE, bool)))
    assert call(capsys, "run", out, out, "participant", "--reports-only").code == 0
    assert rows(out)["sub-patient", "ses-1"]["lesions"] == "0"


def test_evaluation_scores_the_mask_that_counts(root, capsys):
    erase(root)
    report(capsys, root)
    for session in ("1", "2"):
        target = image_path(root / "reference", "01", session, MASK)
        target.parent.mkdir(parents=True)
        shutil.copy(mask_path(root, MASK, session), target)
    assert call(capsys, "evaluate", root / "reference", root / "out", "-o", root / "scores").code == 0
    scores = pd.read_csv(root / "scores/per_visit.tsv", sep="\t")
    assert (scores.dsc == 1).all()


def test_results_of_an_unfinished_patient_are_told_to_be_made_first(root, capsys):
    record = records.read_record(root / "out", "01")
    records.write_record(root / "out", records.Record("01", False, record.fingerprint, record.files))
    done = report(capsys, root)
    assert done.code == 1
    assert "run it without --reports-only first" in done.out.replace("\n", " ")


def other_threshold(capsys, root):
    given = ("--model", root / "model", "--threshold", "0.4", *OPTIONS)
    return call(capsys, "run", root / "bids", root / "out", "participant", *given)


def draw(root, shape=SHAPE, session="2"):
    """Save a mask of one lesion, as an editor does that is still open: not by a temporary file."""
    drawn = np.zeros(shape, bool)
    drawn[2:4, 6:8, 3:5] = True
    path = mask_path(root, session=session)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(drawn.astype(np.uint8), AFFINE), path)
    return drawn


@contextmanager
def when_logged(message, action):
    """Call `action` where the package logs `message`: that is how a test gets between two steps of a run."""

    class Listener(logging.Handler):
        def emit(self, record):
            if message in record.getMessage():
                action()

    with logged_by(Listener()):
        yield


STEPS = {"correct": "bringing the corrected mask", "follow": "following lesions", "report": "writing the report"}
SEGMENTING = "segmenting 2 visits"


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_mask_that_is_saved_while_reports_are_written_is_followed_next(root, capsys, step):
    erase(root)
    drawn = []
    with when_logged(step, lambda: drawn.append(drawn[0] if drawn else draw(root))):
        assert report(capsys, root).code == 0
    np.testing.assert_array_equal(read_mask(mask_path(root)).data, drawn[0])
    assert report(capsys, root).code == 0
    np.testing.assert_array_equal(read_mask(mask_path(root)).data, drawn[0])
    np.testing.assert_array_equal(read_mask(mask_path(root, CORRECTED)).data, drawn[0])
    assert rows(root / "out")["sub-01", "ses-2"]["lesions"] == "1"


def fail():
    raise InputError("no")


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_a_mask_that_is_saved_during_segmentation_is_not_lost(root, capsys, earlier, fails):
    if earlier:
        erase(root)
    drawn = []

    def save():
        drawn.append(draw(root))
        if fails:
            fail()

    with when_logged(SEGMENTING, save):
        assert other_threshold(capsys, root).code == int(fails)
    np.testing.assert_array_equal(read_mask(mask_path(root, CORRECTED)).data, drawn[0])
    assert other_threshold(capsys, root).code == 0
    np.testing.assert_array_equal(read_mask(mask_path(root)).data, drawn[0])


def test_a_mask_that_is_saved_after_a_failed_run_is_not_lost(root, capsys):
    with when_logged(SEGMENTING, fail):
        assert other_threshold(capsys, root).code == 1
    drawn = draw(root)
    assert other_threshold(capsys, root).code == 0
    np.testing.assert_array_equal(read_mask(mask_path(root)).data, drawn)


@pytest.mark.parametrize("again", [report, run])
def test_a_kill_while_reports_are_written_is_made_good(root, capsys, again):
    half = erase(root)

    def kill():
        raise KeyboardInterrupt

    stopped = pytest.raises((KeyboardInterrupt, AssertionError, pytest.fail.Exception))
    with when_logged(STEPS["report"], kill), stopped:
        assert report(capsys, root).code == 0
    assert again(capsys, root).code == 0
    np.testing.assert_array_equal(read_mask(mask_path(root)).data, half)
    assert rows(root / "out")["sub-01", "ses-2"]["correction"] != "n/a"


@pytest.mark.parametrize(
    "name",
    [
        AUTOMATIC,
        "space-patient_label-L_mask",
        "space-patient_label-L_desc-automatic_mask",
        "space-orig_seg-lesions_dseg",
        "space-orig_seg-change_desc-from1_dseg",
        "space-patient_label-L_probseg",
        "space-patient_FLAIR",
    ],
)
@pytest.mark.parametrize("again", [report, run, other_threshold])
def test_an_edit_of_an_output_that_is_not_followed_is_refused_not_lost(root, capsys, name, again):
    path = mask_path(root, name)
    written = nib.load(path)
    write_volume(path, Volume(np.zeros(written.shape, np.uint8), written.affine))
    before = contents(root / "out")
    done = again(capsys, root)
    assert done.code == 1
    assert "has been edited, but only" in done.out.replace("\n", " ")
    after = contents(root / "out")
    assert {name for name in before if before[name] != after.get(name)} <= {"settings.json"}


def test_an_edited_brain_mask_is_refused_and_the_way_out_is_said(root, capsys):
    """No other run than a whole one makes it anew."""
    path = root / "out/sub-01/anat/sub-01_space-patient_desc-brain_mask.nii.gz"
    brain, before = read_labels(path), path.read_bytes()
    write_volume(path, brain.with_data(brain.data * 0))
    done = report(capsys, root)
    assert done.code == 1
    assert "has been edited, but only" in done.out.replace("\n", " ")
    assert "then remove this one, and run the patient again without --reports-only" in done.out.replace("\n", " ")
    path.unlink()
    assert run(capsys, root).code == 0
    assert path.read_bytes() == before


def test_an_edited_segmentation_of_slicer_is_refused_not_lost(root, capsys):
    path = mask_path(root).with_name("sub-01_ses-2_space-orig_seg-lesions_dseg.seg.nrrd")
    path.write_bytes(path.read_bytes() + b" ")
    assert report(capsys, root).code == 1
    path.unlink()
    assert report(capsys, root).code == 0
    assert path.is_file()


def test_a_mask_saved_again_unedited_does_not_end_a_correction_that_was_set_aside(root, capsys):
    half = erase(root)
    report(capsys, root)
    write_volume(image_path(root / "bids", "01", "2", "FLAIR"), image(77))
    assert run(capsys, root).code == 0
    automatic = nib.load(mask_path(root))
    nib.save(nib.Nifti1Image(automatic.get_fdata().astype(np.int16), automatic.affine), mask_path(root))
    assert report(capsys, root).code == 0
    np.testing.assert_array_equal(read_mask(mask_path(root, CORRECTED)).data, half)
    assert "its FLAIR has changed" in rows(root / "out")["sub-01", "ses-2"]["reason"]


def test_a_mask_that_was_edited_before_its_flair_changed_is_not_used_for_the_new_one(root, capsys):
    half = erase(root)
    write_volume(image_path(root / "bids", "01", "2", "FLAIR"), image(77))
    assert run(capsys, root).code == 0
    assert "its FLAIR has changed" in rows(root / "out")["sub-01", "ses-2"]["reason"]
    np.testing.assert_array_equal(read_mask(mask_path(root, CORRECTED)).data, half)


def test_an_edit_beside_a_removed_automatic_mask_is_not_lost(root, capsys):
    half = erase(root)
    mask_path(root, AUTOMATIC).unlink()
    assert run(capsys, root).code == 0
    np.testing.assert_array_equal(read_mask(mask_path(root)).data, half)
    assert rows(root / "out")["sub-01", "ses-2"]["correction"] != "n/a"


def test_the_rounding_of_an_orientation_is_no_other_grid(root, capsys):
    half, turned = erase(root), AFFINE.copy()
    turned[:3, :3] = Rotation.from_rotvec([0.001, 0.001, 0]).as_matrix() @ AFFINE[:3, :3]
    write_volume(mask_path(root), Volume(half, turned))
    assert report(capsys, root).code == 0
    written = read_mask(mask_path(root))
    np.testing.assert_array_equal(written.data, half)
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-5)


THICK = np.diag([1.0, 1, 4, 1])


def visit_of(mask, probability=None):
    """A visit on a grid of 1 mm whose FLAIR has slices of 4 mm at the same place."""
    prepared = PreparedVisit("1", {}, {"FLAIR": np.eye(4)}, {"FLAIR": Grid((20, 20, 5), THICK)}, {})
    probability = np.where(mask, 0.9, 0.1).astype(np.float32) if probability is None else probability
    return counted(prepared, probability, mask, Grid(mask.shape, np.eye(4)))


def boxes(shape, *places):
    mask = np.zeros(shape, bool)
    for x, y, z in places:
        mask[x, y, z] = True
    return mask


def test_lesions_that_were_not_touched_stay_as_fine_as_they_were():
    """The automatic mask of the patient's space is finer than the slices: a stays, b goes wholly, c is added."""
    a, b = (slice(2, 5), slice(2, 5), slice(3, 6)), (slice(12, 15), slice(12, 15), slice(6, 11))
    seen = visit_of(boxes((20, 20, 20), a, b))
    own_a, own_b, own_c = (
        (*x[:2], z) for x, z in ((a, slice(1, 2)), (b, slice(2, 3)), (((slice(2, 3), slice(15, 16))), slice(2, 3)))
    )
    automatic, corrected = (
        Volume(boxes((20, 20, 5), own_a, own_b), THICK),
        Volume(boxes((20, 20, 5), own_a, own_c), THICK),
    )
    result, said = correct(seen, automatic, corrected)
    expected = boxes((20, 20, 20), a)
    assert (result.mask.data & ~expected).sum() > 0
    np.testing.assert_array_equal(result.mask.data[:8, :8], expected[:8, :8])
    assert not result.mask.data[10:].any()
    assert (said.removed, said.added, said.redrawn) == (1, 1, 0)
    assert said.apart_ml == pytest.approx((result.mask.data.sum() - seen.mask.data.sum()) / 1000)
    assert (result.probability.data[result.mask.data & ~seen.mask.data] == 1).all()
    assert (result.probability.data[b] == 0).all()
    np.testing.assert_array_equal(result.probability.data[a], seen.probability.data[a])


def test_nothing_corrected_is_nothing_changed():
    mask = boxes((20, 20, 20), (slice(2, 5), slice(2, 5), slice(3, 6)))
    seen = visit_of(mask)
    automatic = Volume(boxes((20, 20, 5), (slice(2, 5), slice(2, 5), slice(1, 2))), THICK)
    result, said = correct(seen, automatic, automatic)
    np.testing.assert_array_equal(result.mask.data, mask)
    np.testing.assert_array_equal(result.probability.data, seen.probability.data)
    assert str(said) == "+0.00 ml"


def test_a_drawn_voxel_between_those_of_the_patients_space_counts_and_one_outside_is_counted_as_lost():
    seen = visit_of(np.zeros((20, 20, 20), bool))
    fine = np.diag([0.4, 0.4, 4, 1])
    fine[:2, 3] = 5.3, 5.3
    empty, drawn = (Volume(np.zeros((200, 20, 5), bool), fine) for _ in range(2))
    drawn.data[0, 0, 1] = drawn.data[190, 3, 2] = True
    result, said = correct(seen, empty, drawn)
    assert np.argwhere(result.mask.data).tolist() == [[5, 5, 4]]
    assert (said.added, said.lost) == (2, 1)


def test_what_a_reader_draws_is_followed_where_images_are_compared(tmp_path, capsys):
    """One lesion that only the second FLAIR shows, and one that no image shows, drawn on masks that know neither."""
    person, rng = heads.person(0), np.random.default_rng(0)
    shown, unseen = (slice(20, 23), slice(30, 33), slice(20, 23)), (slice(28, 31), slice(20, 23), slice(20, 23))
    for session in ("1", "2"):
        for contrast, head in person.items():
            noisy = np.where(head.data > 0, head.data + rng.normal(0, 5, head.data.shape), 0)
            if (session, contrast) == ("2", "FLAIR"):
                noisy[shown] += 150
            write_volume(
                image_path(tmp_path / "bids", "01", session, contrast), head.with_data(noisy.astype(np.float32))
            )
    (tmp_path / "bids/dataset_description.json").write_text('{"Name": "heads", "BIDSVersion": "1.10.0"}')
    description = export_tiny_model(tmp_path / "model") / "model.json"
    description.write_text(description.read_text().replace('"spacing_mm": 1.0', '"spacing_mm": 4.0'))
    assert run(capsys, tmp_path).code == 0
    for session, places in (("1", ()), ("2", (shown, unseen))):
        drawn = read_mask(mask_path(tmp_path, session=session))
        drawn.data[:] = False
        for place in places:
            drawn.data[place] = True
        write_volume(mask_path(tmp_path, session=session), drawn)
    assert report(capsys, tmp_path).code == 0
    changes = pd.read_csv(tmp_path / "out/sub-01/sub-01_changes.tsv", sep="\t", keep_default_na=False)
    assert changes.change.tolist() == ["new", "new"]
    assert changes.evidence.astype(float).tolist() == [pytest.approx(31.4, abs=5), 0]
    assert set(changes.reason) == {BY_HAND}
    assert list((tmp_path / "out").rglob("*differenceFrom1*.nii.gz"))
    for again in (report, report, run):
        assert again(capsys, tmp_path).code == 0, "its outputs are known"
