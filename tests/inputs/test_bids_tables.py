"""In which order the visits come: by one kind of table, else by labels; and what is said where either may be wrong."""

import pytest

from lesiondelta.evaluation.masks import match_folders
from tests.inputs.test_bids import dated, labels, only, visit, with_table, write


def with_scans(root, *days: str):
    """A patient whose sessions 1, 2, ... have these days in their tables of scans."""
    for session, day in enumerate(days, start=1):
        write(root, *visit("1", str(session)))
        table = root / f"sub-1/ses-{session}/sub-1_ses-{session}_scans.tsv"
        table.write_text(f"filename\tacq_time\nanat/sub-1_ses-{session}_FLAIR.nii.gz\t{day}\n")


def test_dates_of_two_kinds_of_table_are_never_mixed(tmp_path):
    """The table of sessions lacks the third, whose date in the table of scans is anonymised."""
    with_scans(tmp_path, "1925-06-01", "1926-06-01", "1927-06-01")
    patient = dated(tmp_path, "ses-1 2013-01-01", "ses-2 2014-01-01")
    assert (labels(patient), patient.order) == (["1", "2", "3"], "acq_time")
    assert [visit.acquired.year for visit in patient.visits] == [1925, 1926, 1927]
    assert patient.notes == ("sub-1_ses-*_scans.tsv and sub-1_sessions.tsv have different days of ses-1, ses-2",)
    with_scans(tmp_path, "n/a", "n/a", "1927-06-01")
    patient = only(tmp_path)
    assert (labels(patient), patient.order[:13]) == (["1", "2", "3"], "session label")
    assert [visit.acquired and visit.acquired.year for visit in patient.visits] == [2013, 2014, None]


def test_a_table_of_all_scans_is_of_another_kind_than_those_of_each_session(tmp_path):
    with_scans(tmp_path, "2020-01-01", "n/a")
    table = "filename\tacq_time\nses-2/anat/sub-1_ses-2_FLAIR.nii.gz\t1925-01-01\n"
    patient = with_table(tmp_path, table, "sub-1_scans.tsv")
    assert (labels(patient), patient.order[:13]) == (["1", "2"], "session label")
    assert [visit.acquired and visit.acquired.year for visit in patient.visits] == [2020, None]


def test_masks_are_ordered_by_one_kind_of_table_too(tmp_path):
    names = [f"sub-1/ses-{session}/sub-1_ses-{session}_label-L_mask.nii.gz" for session in "123"]
    for folder in ("derivatives/reference", "prediction"):
        write(tmp_path, *(f"{folder}/{name}" for name in names))
    with_scans(tmp_path, "1925-06-01", "1926-06-01", "1927-06-01")
    dated(tmp_path, "ses-1 2013-01-01", "ses-2 2014-01-01")
    matching = match_folders(tmp_path / "derivatives/reference", tmp_path / "prediction")
    assert [pair.session for pair in matching.pairs] == ["1", "2", "3"]


def test_tables_in_which_the_order_differs_are_a_caution(tmp_path):
    with_scans(tmp_path, "2020-01-01", "2019-01-01")
    patient = dated(tmp_path, "ses-1 2013-01-01", "ses-2 2014-01-01")
    assert labels(patient) == ["1", "2"]
    assert patient.cautions == (
        "sub-1_sessions.tsv puts ses-1 before ses-2, and sub-1_ses-*_scans.tsv the other way round: correct one",
    )


DATES = "whose numbers have another order if read as dates"


@pytest.mark.parametrize(
    ("sessions", "why"),
    [
        (("01022020", "15012020"), DATES),
        (("010520", "120119"), DATES),
        (("MR150119", "MR311218"), DATES),
        (("01m2020", "02m2019"), DATES),
        (("0519", "1118"), DATES),
        (("519", "1118"), DATES),
        (("052019", "112018"), DATES),
        (("202001", "20190512"), DATES),
        (("1052019", "15032018"), DATES),
        (("1052019", "5032018"), DATES),
        (("2020", "201905"), DATES),
        (("201905", "20200112"), ""),
        (("1", "10", "100"), ""),
        (("0518", "1119"), ""),
        (("01", "1"), "some of which are the same number"),
        (("20190531", "20200101"), ""),
        (("10000001", "20000002"), ""),
        (("000001", "000002"), ""),
        (("201905", "202001"), ""),
        (("2019", "2020"), ""),
        (("y1m6", "y2m12"), ""),
        (("MR3T1", "MR3T2"), ""),
    ],
)
def test_labels_that_may_be_dates_are_a_caution(tmp_path, sessions, why):
    patient = only(write(tmp_path, *(name for session in sessions for name in visit("1", session))))
    assert labels(patient) == list(sessions)
    names = ", ".join(f"ses-{session}" for session in sessions)
    said = f"visits are ordered by session labels, {why}: {names}; give acq_time in sub-1_sessions.tsv"
    assert patient.cautions == ((said,) if why else ())


def test_dates_that_contradict_numbers_are_a_caution(tmp_path):
    """Not those that contradict labels which are dates with the day first."""
    (caution,) = dated(tmp_path / "a", "ses-m6 2021-01-01", "ses-m12 2020-01-01").cautions
    assert caution.startswith("visits are ordered by acq_time, and their labels are numbers in another order (ses-m12")
    patient = dated(tmp_path / "b", "ses-15012020 2020-01-15", "ses-01022020 2020-02-01")
    assert (labels(patient), patient.cautions) == (["15012020", "01022020"], ())
    assert not dated(tmp_path / "c", "ses-post 2021-01-01", "ses-pre 2020-01-01").cautions


@pytest.mark.parametrize(("early", "late"), [("baseline", "followup"), ("Baseline", "m06"), ("pre", "post")])
def test_dates_that_put_a_baseline_after_others_are_a_caution(tmp_path, early, late):
    patient = dated(tmp_path / "a", f"ses-{early} 2021-05-01", f"ses-{late} 2019-05-01")
    assert labels(patient) == [late, early]
    said = "visits are ordered by acq_time, and their labels say another order"
    assert patient.cautions == (f"{said} (ses-{late}, ses-{early}): correct one",)
    assert not dated(tmp_path / "b", f"ses-{early} 2019-05-01", f"ses-{late} 2021-05-01").cautions


def with_scan_days(root, *days: tuple[str, str]):
    """Sessions 1, 2, ... whose T1w and FLAIR have these days in the patient's table of scans."""
    rows = "".join(
        f"ses-{session}/anat/sub-1_ses-{session}_{contrast}.nii.gz\t{day}\n"
        for session, pair in enumerate(days, start=1)
        for contrast, day in zip(("T1w", "FLAIR"), pair, strict=True)
    )
    sessions = tuple(str(number) for number in range(1, len(days) + 1))
    return with_table(root, f"filename\tacq_time\n{rows}", "sub-1_scans.tsv", sessions)


def test_the_day_of_a_visit_is_that_of_its_flair(tmp_path):
    """The T1w of the third visit is an old one; the second visit's FLAIR has no date."""
    patient = with_scan_days(
        tmp_path, ("2019-01-01", "2019-01-01"), ("2020-01-01", "n/a"), ("2019-06-01", "2021-01-01")
    )
    assert labels(patient) == ["1", "2", "3"]
    assert [str(visit.acquired.date()) for visit in patient.visits] == ["2019-01-01", "2020-01-01", "2021-01-01"]
    said = "the T1w (2019-06-01) and FLAIR (2021-01-01) of ses-3 were acquired on different days, by sub-1_scans.tsv"
    assert patient.cautions == (said,)
    one = with_scan_days(tmp_path / "one", ("2015-01-01", "2021-01-01"))
    assert str(one.visits[0].acquired.date()) == "2021-01-01"
    assert len(one.cautions) == 1


def test_an_old_t1w_does_not_exchange_two_visits(tmp_path):
    """Its day would put the visit of 2021 before the one of 2020."""
    patient = with_scan_days(tmp_path, ("n/a", "2020-01-01"), ("2015-01-01", "2021-01-01"))
    assert labels(patient) == ["1", "2"]
    assert len(patient.cautions) == 1


def test_t1ws_that_are_exchanged_between_visits_stop_the_patient(tmp_path):
    patient = with_scan_days(tmp_path, ("2021-01-01", "2019-01-01"), ("2019-01-01", "2021-01-01"))
    assert not patient.visits
    for session in "12":
        assert "by sub-1_scans.tsv, T1w and FLAIR are exchanged between visits" in patient.problems[session]


@pytest.mark.parametrize(
    ("column", "flagged"),
    [
        *((name, False) for name in ("date_of_birth", "birth_date", "candidate_id", "updated", "acquisition_site")),
        *((name, False) for name in ("acq_label", "acq_protocol", "age_days", "date_of_conversion", "acquisition")),
        *((name, True) for name in ("date", "scan_date", "AcquisitionDate", "acquisition_time", "study_date")),
        *((name, False) for name in ("age_months", "years_of_education", "days_since_birth", "birth_year")),
        *((name, True) for name in ("days", "Month", "months_since_baseline", "years_from_onset", "follow_up_months")),
        *((name, True) for name in ("weeks_after_baseline", "time_since_baseline", "MonthsSinceBaseline", "visit_day")),
        *((name, True) for name in ("date_of_scan", "days_since_baseline", "days_from_onset", "visit_date")),
    ],
)
def test_only_columns_of_dates_are_missed(tmp_path, column, flagged):
    patient = with_table(tmp_path, f"session_id\t{column}\nses-1\t1\nses-2\t2\n")
    assert any("needs one column acq_time" in caution for caution in patient.cautions) == flagged
    assert bool(patient.cautions) == flagged


@pytest.mark.parametrize(
    ("name", "flagged"),
    [
        ("func/sub-1_ses-1_task-rest_bold", False),
        ("anat/sub-1_ses-1_T2w", False),
        ("anat/sub-1_ses1_T1w", True),
        ("anat/scan 3", True),
        ("sub-1_ses-1_mprage", True),
    ],
)
def test_a_table_of_scans_is_doubted_where_it_may_mean_the_images(tmp_path, name, flagged):
    patient = with_table(tmp_path, f"filename\tacq_time\n{name}.nii.gz\t2020-01-01\n", "ses-1/sub-1_ses-1_scans.tsv")
    said = "sub-1_ses-1_scans.tsv does not name sub-1_ses-1_FLAIR, sub-1_ses-1_T1w: correct filename"
    assert [said in caution for caution in patient.cautions] == [True] * flagged


def test_wrong_names_in_a_table_for_all_sessions_are_a_caution(tmp_path):
    rows = [
        f"ses-{ses}/anat/sub-1_ses{ses}_T1w.nii.gz\t{day}\n" for ses, day in (("1", "2020-05-01"), ("2", "2019-05-01"))
    ]
    (caution,) = with_table(tmp_path, f"filename\tacq_time\n{''.join(rows)}", "sub-1_scans.tsv").cautions
    assert "sub-1_scans.tsv does not name sub-1_ses-1_FLAIR, sub-1_ses-1_T1w: correct filename" in caution


def test_a_table_that_cannot_be_read_is_a_caution(tmp_path):
    (tmp_path / "sub-1/sub-1_sessions.tsv").mkdir(parents=True)
    patient = only(write(tmp_path, *visit("1", "1"), *visit("1", "2")))
    assert labels(patient) == ["1", "2"]
    assert f"since {tmp_path / 'sub-1/sub-1_sessions.tsv'} cannot be read" in patient.cautions[0]


def test_many_wrong_dates_are_one_caution(tmp_path):
    rows = "".join(f"ses-{session}\t{44197 + session}\n" for session in range(1, 6))
    patient = with_table(tmp_path, f"session_id\tacq_time\n{rows}", sessions=tuple("12345"))
    (caution,) = patient.cautions
    assert "acq_time '44198' is not a date" in caution
    assert caution.endswith("correct it, and 4 more")


def test_times_of_day_without_a_day_say_nothing(tmp_path):
    assert not with_table(tmp_path, "session_id\tacq_time\nses-1\t12:00:00\nses-2\t09:30\n").cautions
