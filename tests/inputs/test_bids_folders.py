"""Images that lie elsewhere than BIDS has them: none is lost without a word, and other folders are left alone."""

import logging
from pathlib import Path

import pytest

from lesiondelta.errors import CohortError
from lesiondelta.inputs.bids import read_cohort
from tests.inputs.test_bids import labels, only, visit, write


def images(folder: str, stem: str) -> list[str]:
    return [f"{folder}/{stem}_{contrast}.nii.gz" for contrast in ("T1w", "FLAIR")]


@pytest.mark.parametrize(
    ("folder", "stem", "label", "said"),
    [
        ("patient03/ses_1/anat", "patient03", "patient03", "patient03 is not a BIDS name: rename it"),
        ("04/20190531/anat", "04", "04", "04 is not a BIDS name: rename it"),
        ("P05", "P05", "P05", "P05 is not a BIDS name: rename it"),
        ("P05/Anat", "t1", "P05", "P05 is not a BIDS name: rename it"),
        ("batch2/sub-06/ses-1/anat", "sub-06_ses-1", "06", "batch2/sub-06 does not lie in"),
        (".", "sub-07_ses-2", "07", "sub-07_ses-2_T1w.nii.gz is not read: move it to the folder anat"),
    ],
)
def test_a_patient_elsewhere_is_told_of(tmp_path, folder, stem, label, said):
    cohort = read_cohort(write(tmp_path, *visit("1", "1"), *images(folder, stem)))
    assert [patient.label for patient in cohort.patients] == ["1"]
    assert not cohort.patients[0].cautions
    assert list(cohort.problems) == [label]
    assert f"{tmp_path}/{said}" in cohort.problems[label]
    assert not read_cohort(tmp_path, participants=["1"]).problems


@pytest.mark.parametrize(
    ("folder", "stem"), [("sub-1/month6", "sub-1"), ("sub-1/baseline", "sub-1"), ("sub-1/ses_2", "x_T1w")]
)
def test_a_session_elsewhere_stops_its_patient(tmp_path, folder, stem):
    cohort = read_cohort(write(tmp_path, *visit("1", "1"), *visit("1", "3"), *images(folder, stem)))
    assert f"{tmp_path / folder} is not a BIDS name: rename it" in cohort.problems["1"]


@pytest.mark.parametrize(
    ("inner", "place"), [("ses-1/ses-2", "anat"), ("sub-2", "ses-1/anat"), ("ses-1/sub-2", "anat"), ("sub-2", "anat")]
)
def test_patients_and_sessions_in_one_another_stop_the_outer(tmp_path, inner, place):
    cohort = read_cohort(write(tmp_path, *visit("1", "1"), *images(f"sub-1/{inner}/{place}", "x")))
    said = f"{tmp_path / 'sub-1' / inner} cannot be read there: move it to its patient, or elsewhere."
    assert cohort.problems == {"1": said}


@pytest.mark.parametrize(
    ("place", "session"), [("sub-1", ""), ("sub-1/Anat", ""), ("sub-1/ses-2", "2"), ("sub-1/ses-2/ANAT", "2")]
)
def test_images_outside_of_anat_are_named_and_flagged_where_others_are_used(tmp_path, place, session):
    stem = f"sub-1_ses-{session}" if session else "sub-1"
    write(tmp_path, *visit("1", "1"), *images(place, stem))
    patient = only(tmp_path)
    assert labels(patient) == ["1"]
    t1w, flair = (tmp_path / name for name in images(place, stem))
    assert f"no T1w and FLAIR image: move {t1w} and {flair} to the folder anat" in patient.problems[session]
    home = tmp_path / "sub-1" / (f"ses-{session}" if session else "")
    write(home, *images("anat", f"{stem}_acq-x"))
    (found,) = [visit for visit in only(tmp_path).visits if visit.label == session]
    assert found.doubts[0] == f"{t1w} was not considered as the T1w, since it does not lie in anat"


@pytest.mark.parametrize("ending", ["zip", "tar", "tgz", "tar.gz", "ZIP", "7z"])
def test_what_is_packed_is_told_of(tmp_path, caplog, ending):
    """But not beside the folder that was packed."""
    write(tmp_path, *visit("1", "1"), f"sub-1/ses-2.{ending}", f"sub-1/ses-1.{ending}", f"sub-2.{ending}")
    write(tmp_path, f"sub-1.{ending}", f"sub-1/sub-1_ses-3.{ending}")
    cohort = read_cohort(tmp_path)
    said = "is not read: unpack it, or move it elsewhere"
    assert caplog.messages == [f"{tmp_path}/sub-2.{ending} {said}"]
    assert cohort.patients[0].cautions == (
        f"{tmp_path}/sub-1/ses-2.{ending} {said}",
        f"{tmp_path}/sub-1/sub-1_ses-3.{ending} {said}",
    )
    assert not only(tmp_path, sessions=["1"]).cautions


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("sub-1_sessions.tsv", "session_id\nses-1\nses-2\n"),
        ("sub-1_sessions.tsv", "session_id\tacq_time\nses-1\t2019-01-01\n2\tn/a\n"),
        ("sub-1_scans.tsv", "filename\tacq_time\nses-1/anat/x_T1w.nii.gz\t\nses-2/anat/sub-1_ses-2_T1w.nii.gz\t\n"),
    ],
)
def test_a_session_that_is_listed_and_absent_is_a_caution(tmp_path, name, rows):
    write(tmp_path, *visit("1", "1"))
    (tmp_path / "sub-1" / name).write_text(rows)
    said = f"ses-2 is listed in {tmp_path}/sub-1/{name} and has no folder: add it, or correct the table"
    assert only(tmp_path).cautions == (said,)
    assert not only(tmp_path, sessions=["1"]).cautions
    write(tmp_path, *visit("1", "2"))
    assert not only(tmp_path).cautions


def test_what_is_a_file_or_leads_nowhere_is_missed(tmp_path):
    write(tmp_path, *visit("1", "1"), "sub-3", "sub-4.zip", "sub-1/ses-2", *visit("2", "1"))
    (tmp_path / "sub-2/anat").symlink_to(tmp_path / "gone")
    cohort = read_cohort(tmp_path)
    assert list(cohort.problems) == ["3"]
    first, second = cohort.patients
    assert "sub-1/ses-2 is not a folder" in first.problems["2"]
    assert "sub-2/anat leads nowhere: get it (`datalad get`)" in second.problems[""]
    assert labels(second) == ["1"]


def test_folders_that_are_no_patients_are_left_alone(tmp_path):
    write(tmp_path, *visit("1", "1"), *images("tpl-MNI/anat", "tpl-MNI"), "logs/ses-1/x", "docs/anat/x", "old/anat/x")
    write(tmp_path, *images("templates", "MNI152"), "fmriprep/sub-1/anat/sub-1_T1w.nii.gz", "sub-1/raw/anat/x")
    write(tmp_path, *images("sub-1/dwi", "sub-1"), "freesurfer/sub-9/mri/T1.mgz", "sub-1/xfm/T1_to_MNI.nii.gz")
    write(tmp_path / "fmriprep", *images("sub-8/anat", "sub-8"))
    cohort = read_cohort(tmp_path)
    assert not cohort.problems
    assert not cohort.patients[0].cautions
    assert not cohort.patients[0].problems


def test_patients_that_may_be_one_are_flagged(tmp_path):
    write(tmp_path, *visit("1", "1"), *visit("01", "1"), *visit("2", "1"), *images("SUB-2/ses-2/anat", "x"))
    write(tmp_path, "sub-2_ses-3_T1w.nii.gz")
    cohort = read_cohort(tmp_path)
    cautions = {patient.label: patient.cautions for patient in cohort.patients}
    same = "is called nearly the same: rename one, or unite them if they are one patient"
    assert cautions["1"] == (f"sub-01 {same}",)
    assert cautions["01"] == (f"sub-1 {same}",)
    assert cautions["2"] == (
        f"{tmp_path}/SUB-2 is not a BIDS name, and sub-2 is there: move its files there, or move it elsewhere",
        f"{tmp_path}/sub-2_ses-3_T1w.nii.gz is not read: move it to the folder anat of its visit",
    )
    assert list(cohort.problems) == ["SUB-2"]


def test_sessions_of_other_data_are_left_out(tmp_path, caplog):
    write(tmp_path, *visit("1", "mri"), "sub-1/ses-eeg/eeg/x.edf", "sub-1/ses-task/func/x", "sub-1/func/y")
    write(tmp_path, "sub-emptyroom/ses-1/meg/x.fif")
    cohort = read_cohort(tmp_path)
    (patient,) = cohort.patients
    assert not cohort.problems
    assert not patient.problems
    assert patient.notes == (
        "sub-1/ses-eeg: left out, as it holds eeg, and no anatomical images",
        "sub-1/ses-task: left out, as it holds func, and no anatomical images",
    )
    assert caplog.messages == ["left out, as they hold no anatomical images: sub-emptyroom"]
    assert "has no images" in only(tmp_path, participants=["1"], sessions=["eeg"]).problems["eeg"]


def test_the_folder_to_give_is_named(tmp_path):
    write(tmp_path / "bids", *visit("1", "1"))
    with pytest.raises(CohortError, match=f"patient of one: give the folder above, {tmp_path / 'bids'}"):
        read_cohort(tmp_path / "bids/sub-1")
    with pytest.raises(CohortError, match=r"sub-\* folder\. bids in it may be: give that"):
        read_cohort(tmp_path)


def test_labels_with_digits_that_are_no_numbers_end_nothing(tmp_path):
    write(tmp_path, *visit("1", "1"), *visit("1", "\u00b2"), *visit("\u00b2", "1"), "sub-1/ses-1/anat/1\u00b22.nii.gz")
    cohort = read_cohort(tmp_path)
    assert "is not a BIDS label" in cohort.problems["\u00b2"]
    assert labels(cohort.patients[0]) == ["1"]


def test_a_participant_is_missed_once(tmp_path, caplog):
    write(tmp_path, *visit("1", "1"))
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-1\nsub-2\nsub-2\nn/a\n")
    with caplog.at_level(logging.WARNING):
        read_cohort(tmp_path)
    (said,) = caplog.messages
    assert said.endswith("without a folder: sub-2")


def test_a_table_behind_a_dead_link_is_told_of(tmp_path, caplog):
    write(tmp_path, *visit("1", "1"), *visit("1", "2"))
    for name in ("participants.tsv", "sub-1/sub-1_sessions.tsv"):
        Path(tmp_path / name).symlink_to(tmp_path / ".git/annex/x")
    patient = only(tmp_path)
    said = "leads nowhere: get it (`datalad get`), or remove the link"
    assert caplog.messages == [f"{tmp_path / 'participants.tsv'} {said}."]
    assert patient.cautions == (
        f"visits are ordered by session labels, since {tmp_path / 'sub-1/sub-1_sessions.tsv'} {said}",
    )
