"""Changes between visits scored from folders: the run's own calls and transforms, or masks alone."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lesiondelta.errors import GeometryError, ImageError, OutputError
from lesiondelta.evaluation.tables import MaskFolders, Options
from lesiondelta.evaluation.tables import evaluate as evaluate_folders
from lesiondelta.images import write_itk_transform
from lesiondelta.outputs.derivatives import PatientFiles
from tests.evaluation.changed import (
    FALSE,
    FRESH,
    GONE,
    GROWN,
    OLD,
    PATIENT,
    PLAIN,
    SMALL,
    THICK,
    TILTED,
    TRUTH,
    call,
    numbered,
    put,
    turned,
    write_run,
)
from tests.evaluation.test_metrics import NONE

STEP = "sub-1 ses-1 ses-2"
BEFORE, AFTER = numbered(OLD, GONE), numbered(GROWN, NONE, FRESH, FALSE)
CALLS = (
    call("new", 0.97, (), (3,), (0, 64)),
    call("enlarging", 0.9, (1,), (1,), (18, 64)),
    call("resolved", 0.8, (2,), (), (18, 0)),
    call("new", 0.6, (), (4,), (0, 8)),
    call("stable", 0.4, (1,), (1,), (18, 64)),
    call("possible", 0.3, (), (), (0, 50)),
)
"""Of the reference's changes, `SMALL` is missed, and `FALSE` is called without being there."""


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "reference", tmp_path / "prediction", tmp_path / "out"


def evaluate(folders, options=None, mapping=None):
    reference, prediction, out = folders
    return evaluate_folders(MaskFolders(reference, prediction, mapping), out, options or Options())[0]


def write_truth(folder, poses, masks=TRUTH, space="orig"):
    for session, pose, mask in zip("12", poses, masks, strict=True):
        put(folder, session, pose.volume(mask), space)


def write_both(folders, poses=(PLAIN, PLAIN), calls=CALLS):
    write_truth(folders[0], poses)
    write_run(folders[1], tuple(zip(poses, (BEFORE, AFTER), strict=True)), calls)


def counts(out, change):
    """Reference, found, called and right, of all sizes."""
    table = pd.read_csv(out / "changes_detection.tsv", sep="\t").set_index(["change", "size"])
    return table.loc[(change, "all"), ["reference", "found", "called", "right"]].astype(int).tolist()


@pytest.mark.parametrize("poses", [(PLAIN, PLAIN), (PLAIN, TILTED), (TILTED, THICK), (THICK, PLAIN)], ids=str)
def test_by_hand_wherever_the_visits_lie(folders, poses):
    """One of two new lesions found, and one called that is not; the others are found: recall 3/4, one false a step."""
    write_both(folders, poses)
    summary = evaluate(folders)
    assert (summary["change_not_scored"], summary["changes"]["calls_not_used"]) == ({}, {})
    assert summary["changes"]["steps_by_calls"] == 1
    out = folders[2]
    assert counts(out, "new") == [2, 1, 2, 1]
    assert counts(out, "enlarging") == counts(out, "resolved") == [1, 1, 1, 1]
    assert counts(out, "shrinking") == [0, 0, 0, 0]
    assert counts(out, "any") == [4, 3, 4, 3]
    froc = pd.read_csv(out / "froc.tsv", sep="\t")
    every = froc[froc["change"] == "any"]
    assert every["limit"].tolist() == [0.999, 0.99, 0.95, 0.9, 0.8, 0.7, 0.6]
    assert every["recall"].tolist() == [0, 0, 0.25, 0.5, 0.75, 0.75, 0.75]
    assert every["false_per_step"].tolist() == [0, 0, 0, 0, 0, 0, 1]
    step = pd.read_csv(out / "per_step.tsv", sep="\t").iloc[0]
    assert (step["reference_change_mm3"], step["predicted_change_mm3"]) == (64 + 64 + 8 - 36, 64 + 64 + 8 - 36)
    assert (step["reference_new_lesions"], step["predicted_new_lesions"]) == (2, 2)
    assert (step["new_lesion_f1"], step["new_lesion_dsc"]) == (0.5, pytest.approx(2 * 64 / 144))


def test_sizes_are_those_of_each_side(folders):
    write_both(folders)
    evaluate(folders)
    table = pd.read_csv(folders[2] / "changes_detection.tsv", sep="\t").set_index(["change", "size"])
    small, medium = (table.loc[("new", size)] for size in ("small", "medium"))
    assert (small["recall"], small["precision"], small["f1"]) == (0, 0, 0)
    assert (medium["recall"], medium["precision"], medium["f1"]) == (1, 1, 1)
    assert table.loc[("new", "all"), "f1"] == 0.5
    assert np.isnan(table.loc[("new", "large"), "recall"])


def test_masks_alone_have_no_confidence_and_no_froc(folders):
    """The masks say of themselves what changed: the same, as they are drawn as the calls are."""
    write_both(folders)
    (folders[1] / "sub-1/sub-1_changes.tsv").unlink()
    summary = evaluate(folders)
    assert counts(folders[2], "any") == [4, 3, 4, 3]
    assert (summary["changes"]["steps_by_calls"], summary["changes"]["steps_by_masks"]) == (0, 1)
    assert summary["changes"]["froc"] == []
    assert len(pd.read_csv(folders[2] / "froc.tsv", sep="\t")) == 0
    assert set(pd.read_csv(folders[2] / "changes_per_step.tsv", sep="\t")["source"]) == {"masks"}


def test_calls_count_and_not_what_their_masks_would_say(folders):
    """The same masks with other calls: one lesion is called shrinking, and nothing else is."""
    write_both(folders, calls=[call("shrinking", 0.7, (1,), (1,), (18, 64))])
    evaluate(folders)
    assert counts(folders[2], "any") == [4, 0, 1, 0]


def test_calls_without_confidence_have_no_froc(folders):
    write_both(folders, calls=[replace(one, confidence=None) for one in CALLS])
    changes = evaluate(folders)["changes"]
    assert counts(folders[2], "any") == [4, 3, 4, 3]
    assert (changes["without_confidence"], changes["froc"]) == ([STEP], [])


def test_small_lesions_are_left_out_on_both_sides(folders):
    """Without what is under 10 mm3, neither the missed nor the false lesion counts."""
    write_both(folders)
    evaluate(folders, Options(min_lesion_mm3=10))
    assert counts(folders[2], "any") == [3, 3, 3, 3]


def test_visits_on_one_grid_that_a_run_has_moved_are_moved(folders):
    """The head lies 4 voxels further on the same grid: in place, every lesion would be resolved or new."""
    reference, prediction, _ = folders
    there = replace(PLAIN, transform=turned(0, shift=(4.0, 0, 0)))
    stable = (OLD | GROWN, np.roll(OLD | GROWN, 4, axis=0))
    write_truth(reference, (PLAIN, PLAIN), stable)
    write_run(prediction, [(PLAIN, stable[0] * 1), (PLAIN, stable[1] * 1)], [call("stable", 0.0, (1,), (1,))])
    assert evaluate(folders)["measures"]["reference_new_lesions"]["mean"] == 1
    write_itk_transform(PatientFiles(prediction, "1").visit("2").transform("orig", ".txt"), there.transform)
    assert evaluate(folders)["measures"]["reference_new_lesions"]["mean"] == 0
    assert counts(folders[2], "any") == [0, 0, 0, 0]


def test_visits_on_one_grid_are_not_moved_by_what_registrations_miss(folders):
    """1.5 mm: the masks are compared where they are."""
    write_both(folders)
    evaluate(folders)
    before = {path.name: path.read_text() for path in folders[2].glob("*.tsv")}
    path = PatientFiles(folders[1], "1").visit("2").transform("orig", ".txt")
    write_itk_transform(path, turned(0, shift=(1.5, 0, 0)))
    evaluate(folders)
    assert {path.name: path.read_text() for path in folders[2].glob("*.tsv")} == before


def test_other_grids_without_a_run_are_named(folders):
    reference, prediction, _ = folders
    for folder in (reference, prediction):
        write_truth(folder, (PLAIN, TILTED))
    skipped = evaluate(folders)["change_not_scored"]
    mask = prediction / "sub-1/ses-2/anat/sub-1_ses-2_space-orig_label-L_mask.nii.gz"
    transform = prediction / "sub-1/sub-1_ses-1_from-orig_to-patient_mode-image_xfm.txt"
    assert skipped[STEP].startswith(f"the visits lie on different grids, and {transform} is not there")
    for folder in (reference, prediction):
        for path in sorted(folder.rglob("*_mask.nii.gz")):
            path.rename(path.with_name(path.name.replace("_space-orig", "")))
    mask = mask.with_name(mask.name.replace("_space-orig", ""))
    assert f"and no transforms of `run` lie beside {mask}" in evaluate(folders)["change_not_scored"][STEP]


def test_a_transform_that_is_missing_is_named(folders):
    write_both(folders, (PLAIN, TILTED))
    path = PatientFiles(folders[1], "1").visit("2").transform("orig", ".txt")
    path.unlink()
    assert f"and {path} is not there" in evaluate(folders)["change_not_scored"][STEP]
    assert evaluate(folders)["changes"]["steps_by_calls"] == 0


@pytest.mark.parametrize(
    "text", ["", "Parameters: 1 2 3\nFixedParameters: 0 0 0", f"Parameters: {'0 ' * 12}\nFixedParameters: 0 0 0"]
)
def test_a_damaged_transform_is_refused(folders, text):
    write_both(folders, (PLAIN, TILTED))
    path = PatientFiles(folders[1], "1").visit("2").transform("orig", ".txt")
    path.write_text(text)
    with pytest.raises(GeometryError, match=f"{path.name} .*run the patient again"):
        evaluate(folders)
    assert not folders[2].exists()


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("ses-2\tenlarging", "ses-2\tmerged", 3), ("\t0.97\t", "\tmuch\t", 2), ("n/a\t3\t", "n/a\tthree\t", 2),
        ("change\t", "what\t", 2), ("\t64\t", "\tnan\t", 2),
    ],
)  # fmt: skip
def test_a_damaged_table_of_changes_is_refused(folders, old, new, line):
    write_both(folders)
    path = folders[1] / "sub-1/sub-1_changes.tsv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(OutputError, match=f"sub-1_changes.tsv, line {line}, is damaged or of an earlier version"):
        evaluate(folders)
    assert not folders[2].exists()


def test_a_damaged_map_is_refused(folders):
    write_both(folders)
    path = next(folders[1].rglob("*ses-2*seg-lesions_dseg.nii.gz"))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ImageError, match=path.name):
        evaluate(folders)


def test_calls_that_cannot_be_used_are_said_and_masks_alone_count(folders):
    write_both(folders)
    change_map = next(folders[1].rglob("*seg-change_desc-from1_dseg.nii.gz"))
    lesions = next(folders[1].rglob("*ses-1*seg-lesions_dseg.nii.gz"))
    for path in (lesions, change_map):
        path.unlink()
        changes = evaluate(folders)["changes"]
        assert changes["calls_not_used"] == {STEP: f"{path} is not there"}
        assert (changes["steps_by_masks"], changes["froc"]) == (1, [])
        assert counts(folders[2], "any") == [4, 3, 4, 3]


def test_calls_are_not_held_against_masks_of_another_space(folders):
    """The reference lies in the patient's space, and so does the prediction that is chosen; the run's maps do not."""
    reference, prediction, _ = folders
    write_both(folders, (PLAIN, TILTED))
    for path in reference.rglob("*.nii.gz"):
        path.unlink()
    write_truth(reference, (PLAIN, PLAIN), space="patient")
    write_truth(prediction, (PLAIN, PLAIN), (BEFORE > 0, AFTER > 0), space="patient")
    changes = evaluate(folders)["changes"]
    assert changes["steps_by_masks"] == 1
    assert "space-patient" in changes["calls_not_used"][STEP]
    assert counts(folders[2], "any") == [4, 3, 4, 3]


def test_a_called_lesion_that_its_map_lacks_lies_at_its_centre(folders):
    """Number 3 is in no map: the row's centre, in the patient's space, is where it is."""
    reference, prediction, _ = folders
    poses = (PLAIN, TILTED)
    write_truth(reference, poses)
    visits = ((PLAIN, BEFORE), (TILTED, numbered(GROWN)))
    for centre, right in (((12, 3, 12), 1), ((12, 8, 12), 0)):
        place = tuple((PATIENT @ [*centre, 1])[:3])
        write_run(prediction, visits, [call("new", 0.9, (), (3,), (0, 64))], centre=place)
        evaluate(folders)
        assert counts(folders[2], "new") == [2, right, 1, right]


def test_automatic_masks_are_moved_and_not_held_to_the_calls_of_those_that_count(folders, tmp_path):
    prediction = folders[1]
    write_both(folders, (PLAIN, TILTED))
    rows = ["participant_id\tsession_id\treference\tprediction\n"]
    for session in "12":
        name = f"sub-1/ses-{session}/anat/sub-1_ses-{session}_space-orig_label-L_mask.nii.gz"
        automatic = name.replace("_mask", "_desc-automatic_mask")
        (prediction / name).rename(prediction / automatic)
        rows.append(f"1\t{session}\t{name}\t{automatic}\n")
    mapping = tmp_path / "map.tsv"
    mapping.write_text("".join(rows))
    changes = evaluate(folders, mapping=mapping)["changes"]
    assert "desc-automatic_mask.nii.gz is not the mask that" in changes["calls_not_used"][STEP]
    assert counts(folders[2], "any") == [4, 3, 4, 3]


def test_every_column_is_described(folders):
    write_both(folders)
    evaluate(folders)
    for name in ("changes_per_step", "changes_detection", "froc"):
        columns = list(pd.read_csv(folders[2] / f"{name}.tsv", sep="\t").columns)
        assert list(json.loads((folders[2] / f"{name}.json").read_text())) == columns


def test_no_step_at_all(folders):
    reference, prediction, out = folders
    for folder in (reference, prediction):
        put(folder, "1", PLAIN.volume(SMALL))
    summary = evaluate(folders)
    assert summary["steps"] == 0
    assert counts(out, "any") == [0, 0, 0, 0]
    assert list(pd.read_csv(out / "changes_per_step.tsv", sep="\t").columns)[-1] == "right"
