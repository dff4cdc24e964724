import json

import numpy as np
import pandas as pd
import pytest

from lesiondelta.errors import CohortError, GeometryError, ImageError
from lesiondelta.evaluation import tables
from lesiondelta.evaluation.masks import find_masks, match_folders, match_table
from lesiondelta.evaluation.tables import MaskFolders, Options
from lesiondelta.images import Volume, write_volume
from lesiondelta.outputs.derivatives import EXTRAS, Place, visit_files
from lesiondelta.outputs.lesions import map_files
from lesiondelta.outputs.segmentations import segmentation_files

SHAPE = (12, 12, 12)


def evaluate(reference, prediction, out, options=None, *, mapping=None, second_rater=None, processes=1):
    """The summary only."""
    folders = MaskFolders(reference, prediction, mapping, second_rater)
    return tables.evaluate(folders, out, options or Options(), processes=processes)[0]


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


def test_a_missing_prediction_is_refused_unless_allowed(folders):
    reference, prediction, out = folders
    put(reference, "1", "1", 4)
    put(reference, "1", "2", 4)
    put(prediction, "1", "1", 4)
    with pytest.raises(CohortError, match=r"no mask of sub-1 ses-2: .* --allow-missing"):
        evaluate(reference, prediction, out)
    assert not out.exists()
    summary = evaluate(reference, prediction, out, Options(allow_missing=True))
    assert summary["missing_predictions"] == ["sub-1 ses-2"]
    assert summary["visits"] == 1


def test_a_prediction_without_reference_is_named(folders):
    reference, prediction, out = folders
    put(reference, "1", "1", 4)
    put(prediction, "1", "1", 4)
    put(prediction, "2", "1", 4)
    assert evaluate(reference, prediction, out)["predictions_without_reference"] == ["sub-2 ses-1"]


def test_some_participants_alone(folders):
    reference, prediction, out = folders
    for sub in ("1", "2", "3"):
        put(reference, sub, "1", 4)
    put(prediction, "2", "1", 4)
    assert evaluate(reference, prediction, out, Options(participants=("2",)))["patients"] == 1
    with pytest.raises(CohortError, match="has no lesion mask of sub-9"):
        evaluate(reference, prediction, out, Options(participants=("2", "9")))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0.0, 0.2, 0.9), "probabilities"), ((0.0, 1.0, 2.0), "several labels"), ((0.0, 2.0), "0 and 2 instead"),
        ((0.0, -1.0), "0 and -1"), ((0.0, 0.3), r"0 and 0\.3"), ((0.0, 1.0, np.nan), "NaN or infinity in 576 voxels"),
    ],
)  # fmt: skip
def test_what_is_no_mask_is_refused_and_named(folders, values, said):
    reference, prediction, out = folders
    put(reference, "1", "1", 4)
    put(prediction, "1", "1", 4)
    path = next(prediction.rglob("*.nii.gz"))
    write_volume(path, Volume(np.resize(values, SHAPE).astype(np.float32), np.eye(4)))
    with pytest.raises(ImageError, match=f"{path.name} is not a mask: it holds {said}"):
        evaluate(reference, prediction, out)
    assert not out.exists()


def test_a_table_names_the_masks(folders, tmp_path):
    reference, prediction, out = folders
    put(reference, "1", "1", 4)
    put(prediction, "1", "1", 8)
    truth, guess = (next(folder.rglob("*.nii.gz")) for folder in (reference, prediction))
    truth.rename(reference / "a.nii.gz")
    guess.rename(prediction / "b.nii.gz")
    mapping = tmp_path / "map.tsv"
    header = "participant_id\tsession_id\treference\tprediction\n"
    mapping.write_text(header + "sub-7\tn/a\ta.nii.gz\tb.nii.gz\n")
    summary = evaluate(reference, prediction, out, mapping=mapping)
    assert summary["measures"]["dsc"]["mean"] == pytest.approx(2 / 3)
    assert list(pd.read_csv(out / "per_visit.tsv", sep="\t")["participant_id"]) == ["sub-7"]
    mapping.write_text(header + "sub-7\tn/a\ta.nii.gz\tc.nii.gz\n")
    with pytest.raises(CohortError, match=r"names .*c.nii.gz, which is not a file"):
        evaluate(reference, prediction, out, mapping=mapping)
    mapping.write_text("participant_id\treference\n1\ta\n")
    with pytest.raises(CohortError, match="the columns participant_id, session_id, reference, prediction"):
        evaluate(reference, prediction, out, mapping=mapping)
    mapping.write_text(header + 2 * "sub-7\tn/a\ta.nii.gz\tb.nii.gz\n")
    with pytest.raises(CohortError, match="sub-7 n/a twice"):
        evaluate(reference, prediction, out, mapping=mapping)


def test_a_table_is_read_as_people_keep_it(folders):
    """Commas, blanks, capitals, a byte-order mark, and several words for nothing."""
    reference, prediction, out = folders
    for root in folders[:2]:
        root.mkdir(exist_ok=True)
        for name in "abcd":
            (root / name).touch()
    lines = [
        "Participant_ID,session_id,reference,prediction",
        "SUB-01,SES-1,a,b ", "sub-01, 2 ,b,N/A", "01 ,3,c,", "02,NA,d, d",
    ]  # fmt: skip
    (out.parent / "map.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    matching = match_table(out.parent / "map.csv", reference, prediction)
    assert [(*pair.visit, pair.reference.name, pair.prediction.name) for pair in matching.pairs] == [
        ("01", "1", "a", "b"),
        ("02", "", "d", "d"),
    ]
    assert matching.without_prediction == (("01", "2"), ("01", "3"))


@pytest.mark.parametrize(
    ("name", "is_right"),
    [
        ("sub-02/ses-2/anat/sub-01_ses-2_label-L_mask.nii.gz", False),
        ("sub-01/ses-1/anat/sub-01_ses-2_label-L_mask.nii.gz", False),
        ("sub-01/ses-2/anat/sub-01_label-L_mask.nii.gz", False),
        ("sub-01_ses-1/sub-01_ses-2_label-L_mask.nii.gz", False),
        ("sub-01_ses-2/sub-01_ses-2_label-L_mask.nii.gz", True),
        ("out_sub-all/sub-01/sub-01_ses-2_label-L_mask.nii.gz", True),
        ("masks/sub-01_ses-2_label-L_mask.nii.gz", True),
    ],
)
def test_a_mask_in_the_folder_of_another_visit_is_refused(tmp_path, name, is_right):
    root = tmp_path / "sub-03"  # what lies above does not count
    (root / name).parent.mkdir(parents=True)
    (root / name).touch()
    if is_right:
        assert list(find_masks(root)) == [("01", "2")]
    else:
        with pytest.raises(CohortError, match="is named otherwise than its folder"):
            find_masks(root)


def test_masks_that_are_not_read_are_named_and_other_outputs_are_not(tmp_path, caplog):
    """Whatever the participant is called; nothing that `run` writes, nor masks of other things."""
    place = Place(tmp_path, "brain02", "1")
    outputs = [*visit_files(place, ("T1w", "FLAIR"), EXTRAS), *map_files(place, ["0"]), *segmentation_files(place)]
    others = [place.anat(name) for name in ("desc-brain_mask.nii.gz", "label-GM_mask.nii.gz", "T1w.nii.gz")]
    for path in (*outputs, *others, place.anat("x").with_name("._lesionmask.nii.gz")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert list(find_masks(tmp_path)) == [("brain02", "1")]
    assert not caplog.text
    names = ["label-L_dseg.nii.gz", "lesionmask.nii.gz", "lesions.nii.gz"]
    for name in names:
        place.anat(name).touch()
    find_masks(tmp_path)
    assert f"(3): {', '.join(str(place.anat(name)) for name in names)}" in caplog.text


def test_steps_between_visits_on_one_grid(folders):
    """Volumes 4, 8, 8 against 4, 6, 12: changes 4, 0 against 2, 6."""
    reference, prediction, out = folders
    for session, truth, guess in (("1", 4, 4), ("2", 8, 6), ("10", 8, 12)):
        put(reference, "1", session, truth)
        put(prediction, "1", session, guess)
    summary = evaluate(reference, prediction, out)
    steps = pd.read_csv(out / "per_step.tsv", sep="\t")
    assert list(steps["to_session_id"]) == ["ses-2", "ses-10"]
    assert list(steps["reference_change_mm3"]) == [4, 0]
    assert list(steps["predicted_change_mm3"]) == [2, 6]
    assert summary["measures"]["predicted_change_mm3"]["mean"] == 4
    assert summary["volume_change"]["bias_mm3"] == 2
    assert summary["volume_change"]["correlation"] == pytest.approx(-1)


def test_a_step_over_a_missing_visit_is_not_scored(folders):
    reference, prediction, out = folders
    for session in ("2", "9", "10", "11"):
        put(reference, "1", session, 4)
        if session != "10":
            put(prediction, "1", session, 4)
    summary = evaluate(reference, prediction, out, Options(allow_missing=True))
    assert summary["change_not_scored"] == {"sub-1 ses-9 ses-11": "a visit between them has no prediction"}
    assert list(pd.read_csv(out / "per_step.tsv", sep="\t")["to_session_id"]) == ["ses-9"]


def test_steps_between_grids_are_named_and_not_scored(folders):
    reference, prediction, out = folders
    for folder in (reference, prediction):
        put(folder, "1", "1", 4)
        put(folder, "1", "2", 4, affine=np.diag([1, 1, 2.0, 1]))
    skipped = evaluate(reference, prediction, out)["change_not_scored"]
    assert list(skipped) == ["sub-1 ses-1 ses-2"]
    assert "different grids" in skipped["sub-1 ses-1 ses-2"]


def test_recall_by_size_is_summed_over_a_patients_visits(folders):
    """Small lesions (4 mm3): 1 of 2 visits' found. There are no large ones: no value."""
    reference, prediction, out = folders
    for session, guess in (("1", 4), ("2", 0)):
        put(reference, "1", session, 4)
        put(prediction, "1", session, guess)
    summary = evaluate(reference, prediction, out)
    assert summary["measures"]["lesion_recall_small"]["mean"] == 0.5
    assert "lesion_recall_large" not in summary["measures"]


def test_intervals_from_six_patients_on(folders):
    reference, prediction, out = folders
    for sub in range(6):
        put(reference, str(sub), "1", 6)
        put(prediction, str(sub), "1", 4 + sub)
    figures = evaluate(reference, prediction, out)["measures"]["dsc"]
    assert figures["low"] < figures["mean"] < figures["high"]
    five = evaluate(reference, prediction, out, Options(participants=tuple("01234")))["measures"]["dsc"]
    assert (five["low"], five["high"], five["patients"]) == (None, None, 5)


def test_isbi2015_by_hand_and_its_scale(folders):
    """Volumes 4, 8 and 8, 10 correlate perfectly; on the scale a perfect mask has 100, the second rater 90."""
    reference, prediction, out = folders
    second_rater = out.parent / "second"
    for session, truth, guess, other in (("1", 4, 8, 6), ("2", 8, 10, 9)):
        put(reference, "1", session, truth)
        put(prediction, "1", session, guess)
        put(second_rater, "1", session, other)
    summary = evaluate(reference, prediction, out, second_rater=second_rater)
    first = 2 * 4 / 12 / 8 + 4 / 8 / 8 + 3 / 4
    second = 2 * 8 / 18 / 8 + 8 / 10 / 8 + 3 / 4
    assert summary["isbi2015"]["mean_over_visits"] == pytest.approx((first + second) / 2)
    raters = (2 * 4 / 10 / 8 + 4 / 6 / 8 + 2 * 8 / 17 / 8 + 8 / 9 / 8) / 2 + 3 / 4
    assert summary["isbi2015"]["raters"] == pytest.approx(raters)
    assert summary["isbi2015"]["scaled"] == pytest.approx(100 - 10 * (1 - (first + second) / 2) / (1 - raters))
    assert evaluate(reference, second_rater, out, second_rater=second_rater)["isbi2015"]["scaled"] == pytest.approx(90)
    assert evaluate(reference, prediction, out, second_rater=reference)["isbi2015"]["scaled"] is None  # raters agree


def test_both_raters_are_averaged_alike_however_visits_are_spread(folders):
    """Four visits of one patient, one of another: a prediction that is the second rater has 90."""
    reference, prediction, out = folders
    for sub, session, truth, guess in (("1", "1", 4, 8), ("1", "2", 5, 9), ("1", "3", 6, 6), ("2", "1", 9, 10)):
        put(reference, sub, session, truth)
        put(prediction, sub, session, guess)
    assert evaluate(reference, prediction, out, second_rater=prediction)["isbi2015"]["scaled"] == pytest.approx(90)


def test_a_second_rater_without_a_visit_is_refused(folders):
    reference, prediction, out = folders
    second_rater = out.parent / "second"
    for session in ("1", "2"):
        put(reference, "1", session, 4)
        put(prediction, "1", session, 5)
    put(second_rater, "1", "1", 4)
    with pytest.raises(CohortError, match="second has no mask of sub-1 ses-2"):
        evaluate(reference, prediction, out, second_rater=second_rater)


def test_an_isbi2015_score_is_of_all_visits_or_of_none(folders):
    reference, prediction, out = folders
    for session, truth, guess in (("1", 4, 8), ("2", 8, 10), ("3", 6, 0)):
        put(reference, "1", session, truth)
        put(prediction, "1", session, guess)
    left_out = evaluate(reference, prediction, out, Options(undefined="nan"))
    assert left_out["isbi2015"]["mean_over_visits"] is None
    assert "isbi2015" not in left_out["measures"]
    assert evaluate(reference, prediction, out)["isbi2015"]["mean_over_visits"] > 0


def test_visits_follow_in_the_order_of_their_dates(folders, caplog):
    """Labels alone would put Month12 first, and that is said."""
    reference, prediction, out = folders
    for session, voxels in (("baseline", 4), ("Month12", 8)):
        put(reference, "1", session, voxels)
        put(prediction, "1", session, voxels)
    assert evaluate(reference, prediction, out)["measures"]["reference_change_mm3"]["mean"] == -4
    assert "sub-1: visits are ordered by session labels, which are not numbers" in caplog.text
    caplog.clear()
    dates = "session_id\tacq_time\nses-baseline\t2019-01-05\nses-Month12\t2020-01-07\n"
    (reference / "sub-1" / "sub-1_sessions.tsv").write_text(dates)
    assert evaluate(reference, prediction, out)["measures"]["reference_change_mm3"]["mean"] == 4
    assert not caplog.text


@pytest.mark.parametrize(
    ("rows", "order"),
    [
        ("b\t2019-01-05\na\t2020-01-07\n", ["b", "a"]),  # no ses-
        ("ses-b\t1900-01-01T09:05\nses-a\t1900-01-01T15:10\n", ["a", "b"]),  # a day is no order
    ],
)
def test_dates_order_visits_as_in_run(folders, rows, order):
    reference, prediction, _ = folders
    for session in ("a", "b"):
        put(reference, "1", session, 4)
        put(prediction, "1", session, 4)
    (reference / "sub-1/sub-1_sessions.tsv").write_text(f"session_id\tacq_time\n{rows}")
    assert [pair.session for pair in match_folders(reference, prediction).pairs] == order


@pytest.mark.parametrize(
    ("table", "order", "said"),
    [
        (
            "session_id,acq_time\nses-1,2021-05-01\nses-2,2019-05-01\n",
            ["2", "1"],
            "labels are numbers in another order",
        ),
        ("session\tacq_time\nses-1\t2021-05-01\nses-2\t2019-05-01\n", ["1", "2"], "needs one column session_id"),
    ],
)
def test_what_a_table_leaves_doubtful_is_told_of(folders, caplog, table, order, said):
    reference, prediction, _ = folders
    for session in ("1", "2"):
        put(reference, "1", session, 4)
        put(prediction, "1", session, 4)
    (reference / "sub-1/sub-1_sessions.tsv").write_text(table)
    assert [pair.session for pair in match_folders(reference, prediction).pairs] == order
    assert said in caplog.text


def test_a_mask_in_capitals_is_found_and_one_of_another_name_is_told_of(folders, caplog):
    reference, prediction, _ = folders
    names = {"2": "label-L_mask.NII.GZ", "3": "label-lesions_mask.nii.gz", "4": "desc-a.b_label-L_mask.nii.gz",
             "5": "label-L_Mask.mgz"}  # fmt: skip
    for session in ("1", *names):
        for folder in (reference, prediction):
            put(folder, "1", session, 4)
            path = folder / f"sub-1/ses-{session}/anat/sub-1_ses-{session}_space-orig_label-L_mask.nii.gz"
            path.rename(path.with_name(path.name.replace("label-L_mask.nii.gz", names.get(session, path.name[-19:]))))
    (reference / "sub-1/ses-1/anat/sub-1_ses-1_desc-brain_mask.nii.gz").touch()
    assert [pair.session for pair in match_folders(reference, prediction).pairs] == ["1", "2"]
    for folder, message in zip((reference, prediction), caplog.messages, strict=False):
        anats = [folder / f"sub-1/ses-{session}/anat" for session in ("3", "4", "5")]
        paths = [anat / f"sub-1_{anat.parent.name}_space-orig_{names[anat.parent.name[-1]]}" for anat in anats]
        assert message.endswith(f"(3): {', '.join(map(str, paths))}")


def test_dates_that_contradict_the_labels_are_refused(folders):
    reference, prediction, _ = folders
    for session in ("1", "2", "3"):
        put(reference, "1", session, 4)
        put(prediction, "1", session, 4)
    (reference / "sub-1/sub-1_sessions.tsv").write_text("session_id\tacq_time\nses-1\t2021-01-05\nses-3\t2020-01-07\n")
    with pytest.raises(CohortError, match=r"sub-1: acq_time puts ses-3 \(2020-01-07\) before ses-1"):
        match_folders(reference, prediction)


def test_participants_whose_numbers_are_equal_keep_apart(folders):
    reference, prediction, out = folders
    for sub in ("1", "01"):
        for session, voxels in (("1", 4), ("2", 8)):
            put(reference, sub, session, voxels)
            put(prediction, sub, session, voxels)
    assert evaluate(reference, prediction, out)["steps"] == 2


@pytest.mark.parametrize("rows", [(0, 1, 2, 3), (0, 2, 1, 3)])
def test_a_mapping_may_mix_participants_and_has_visits_in_time(folders, rows):
    reference, prediction, out = folders
    lines = []
    for sub in ("1", "2"):
        for session, voxels in (("b", 4), ("a", 8)):
            put(reference, sub, session, voxels)
            put(prediction, sub, session, voxels)
            name = f"sub-{sub}/ses-{session}/anat/sub-{sub}_ses-{session}_space-orig_label-L_mask.nii.gz"
            lines.append(f"{sub}\t{session}\t{name}\t{name}\n")
    mapping = out.parent / "map.tsv"
    mapping.write_text("participant_id\tsession_id\treference\tprediction\n" + "".join(lines[row] for row in rows))
    summary = evaluate(reference, prediction, out, mapping=mapping)
    assert summary["steps"] == 2
    assert summary["measures"]["reference_change_mm3"]["mean"] == 4


def test_a_mapping_says_which_predictions_are_missing(folders):
    reference, prediction, out = folders
    header = "participant_id\tsession_id\treference\tprediction\n"
    name = "sub-1/ses-{0}/anat/sub-1_ses-{0}_space-orig_label-L_mask.nii.gz"
    lines = []
    for session in ("1", "2", "3"):
        put(reference, "1", session, 4)
        put(prediction, "1", session, 4)
        guess = "n/a" if session == "2" else name.format(session)
        lines.append(f"1\t{session}\t{name.format(session)}\t{guess}\n")
    mapping = out.parent / "map.tsv"
    mapping.write_text(header + "".join(lines))
    with pytest.raises(CohortError, match="no mask of sub-1 ses-2"):
        evaluate(reference, prediction, out, mapping=mapping)
    summary = evaluate(reference, prediction, out, Options(allow_missing=True), mapping=mapping)
    assert summary["missing_predictions"] == ["sub-1 ses-2"]
    assert list(summary["change_not_scored"]) == ["sub-1 ses-1 ses-3"]
    mapping.write_text(header + lines[0].replace("1\t1", "\t1", 1))
    with pytest.raises(CohortError, match="without participant_id"):
        evaluate(reference, prediction, out, mapping=mapping)
    mapping.write_text(header + lines[0] + lines[0].replace("1\t1", "2\t1", 1))
    with pytest.raises(CohortError, match="twice"):
        evaluate(reference, prediction, out, mapping=mapping)


def test_visits_with_empty_masks_are_counted_by_patient(folders):
    reference, prediction, out = folders
    for session, guess in (("1", 4), ("2", 0)):
        put(reference, "1", session, 4)
        put(prediction, "1", session, guess)
    evaluate(reference, prediction, out)
    assert list(pd.read_csv(out / "per_patient.tsv", sep="\t")["empty_visits"]) == [1]


def test_processes_change_nothing(folders, tmp_path):
    reference, prediction, out = folders
    for session in ("1", "2", "3"):
        put(reference, "1", session, 4)
        put(prediction, "1", session, 5)
    one = evaluate(reference, prediction, out)
    assert evaluate(reference, prediction, tmp_path / "two", processes=2) == one
    assert (tmp_path / "two" / "per_step.tsv").read_text() == (out / "per_step.tsv").read_text()


def test_empty_masks_are_counted(folders):
    reference, prediction, out = folders
    for session, truth, guess in (("1", 0, 0), ("2", 0, 5), ("3", 5, 0), ("4", 5, 5)):
        put(reference, "1", session, truth)
        put(prediction, "1", session, guess)
    summary = evaluate(reference, prediction, out)
    assert summary["empty_masks"] == {"both": 1, "reference": 1, "prediction": 1}
    assert summary["measures"]["dsc"]["mean"] == pytest.approx((1 + 0 + 0 + 1) / 4)
    assert evaluate(reference, prediction, out, Options(undefined="nan"))["measures"]["dsc"]["mean"] == pytest.approx(
        1 / 3
    )


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
    with pytest.raises(CohortError, match="nothing is not there"):
        evaluate(reference, tmp_path / "nothing", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CohortError, match="empty holds no lesion mask"):
        evaluate(reference, tmp_path / "empty", out)
    with pytest.raises(CohortError, match="is a file"):
        evaluate(next(reference.rglob("*.nii.gz")), reference, out)
    put(prediction, "2", "1", 4)
    with pytest.raises(CohortError, match="belongs to"):
        evaluate(reference, prediction, out)
