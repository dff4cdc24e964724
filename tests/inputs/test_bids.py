"""Small BIDS datasets, right and wrong, and what is read of them.

One long file, because every test changes one thing in the same small dataset, which its first part makes.
"""

import json
import re
from datetime import datetime
from pathlib import Path

import pytest

from lesiondelta.cohort import Patient
from lesiondelta.errors import CohortError, ImageError
from lesiondelta.inputs.bids import read_cohort
from lesiondelta.inputs.bids_names import natural, parse_name, read_filters
from lesiondelta.inputs.bids_tables import dates_of
from lesiondelta.inputs.loose import loose_patient


def write(root: Path, *names: str) -> Path:
    """Make empty files: reading a dataset looks at names alone."""
    (root / "dataset_description.json").parent.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text("{}")
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def times(patient: Path, sessions: str) -> dict[str, datetime]:
    """As `evaluate` takes them, which does not know the images."""
    return dict(max(dates_of(patient, dict.fromkeys(sessions, ())), key=lambda table: len(table.times)).times)


def visit(sub: str, ses: str, *entities: str) -> list[str]:
    extra = "".join(f"_{entity}" for entity in entities)
    return [f"sub-{sub}/ses-{ses}/anat/sub-{sub}_ses-{ses}{extra}_{c}.nii.gz" for c in ("T1w", "FLAIR")]


def only(root: Path, **options) -> Patient:
    (patient,) = read_cohort(root, **options).patients
    return patient


def labels(patient: Patient) -> list[str]:
    return [visit.label for visit in patient.visits]


def test_sessions_come_in_natural_order_without_dates(tmp_path):
    patient = only(write(tmp_path, *visit("1", "10"), *visit("1", "2"), *visit("1", "1")))
    assert labels(patient) == ["1", "2", "10"]
    assert "session label" in patient.order


def test_acq_time_decides_the_order(tmp_path):
    write(tmp_path, *visit("1", "a"), *visit("1", "b"))
    (tmp_path / "sub-1/sub-1_sessions.tsv").write_text(
        "session_id\tacq_time\nses-a\t2021-05-01T10:00:00\nses-b\t2019-05-01\n"
    )
    patient = only(tmp_path)
    assert labels(patient) == ["b", "a"]
    assert patient.order == "acq_time"
    assert patient.visits[0].acquired == datetime(2019, 5, 1)


@pytest.mark.parametrize(
    ("encoding", "read"), [("latin-1", True), ("utf-8-sig", True), ("utf-16", True), ("utf-16-le", False)]
)
def test_tables_in_other_encodings(tmp_path, encoding, read):
    write(tmp_path, *visit("1", "a"), *visit("1", "b"))
    path = tmp_path / "sub-1/sub-1_sessions.tsv"
    table = "session_id\tacq_time\tsite\nses-a\t2021-05-01\tMünchen\nses-b\t2019-05-01\tLjubljana\n"
    path.write_bytes(table.encode(encoding))
    patient = only(tmp_path)
    if read:
        assert labels(patient) == ["b", "a"]
    else:
        assert labels(patient) == ["a", "b"]
        assert f"since {path} is no UTF-8 text" in patient.cautions[1]


def test_scans_table_serves_where_the_sessions_table_is_silent(tmp_path):
    write(tmp_path, *visit("1", "a"), *visit("1", "b"))
    for session, year in (("a", 2021), ("b", 2020)):
        (tmp_path / f"sub-1/ses-{session}/sub-1_ses-{session}_scans.tsv").write_text(
            f"filename\tacq_time\nanat/sub-1_ses-{session}_FLAIR.nii.gz\t{year}-01-01T00:00:00Z\n"
        )
    assert labels(only(tmp_path)) == ["b", "a"]


def test_one_missing_date_makes_labels_decide_and_says_so(tmp_path):
    write(tmp_path, *visit("1", "a"), *visit("1", "b"))
    (tmp_path / "sub-1/sub-1_sessions.tsv").write_text("session_id\tacq_time\nses-a\t2021-05-01\nses-b\tn/a\n")
    patient = only(tmp_path)
    assert labels(patient) == ["a", "b"]
    assert "not every visit has an acq_time" in patient.order


def test_a_date_that_is_none_makes_labels_decide_and_is_told(tmp_path):
    write(tmp_path, *visit("1", "a"), *visit("1", "b"))
    (tmp_path / "sub-1/sub-1_sessions.tsv").write_text("session_id\tacq_time\nses-a\tlast May\nses-b\t2020-01-01\n")
    patient = only(tmp_path)
    assert labels(patient) == ["a", "b"]
    assert "not every visit has an acq_time" in patient.order
    assert not patient.problems
    assert f"{tmp_path / 'sub-1/sub-1_sessions.tsv'}: acq_time 'last May' is not a date" in patient.cautions[1]
    one = only(tmp_path, sessions=["a"])  # which has no order
    assert not one.cautions
    assert "'last May' is not a date" in one.notes[0]


def with_table(
    root: Path, text: str, name: str = "sub-1_sessions.tsv", sessions: tuple[str, ...] = ("1", "2")
) -> Patient:
    write(root, *(image for session in sessions for image in visit("1", session)))
    (root / "sub-1" / name).parent.mkdir(parents=True, exist_ok=True)
    (root / "sub-1" / name).write_text(text, newline="")
    return only(root)


@pytest.mark.parametrize(
    "table",
    [
        "session_id,acq_time\r\nses-1,2021-05-01\r\nses-2,2019-05-01\r\n",
        "session_id;acq_time\nses-1;2021-05-01\nses-2;2019-05-01\n",
        "session_id\tacq_time\rses-1\t2021-05-01\rses-2\t2019-05-01\r",
        "session_id\tAcq_time\nses-1\t2021-05-01\nses-2\t2019-05-01\n",
        "Session_ID\t acq_time \nses-1 \t 2021-05-01\nses-2 \t2019-05-01 \n",
        '"session_id"\t"acq_time"\n"ses-1"\t"2021-05-01"\n"ses-2"\t"2019-05-01"\n',
        "session_id\tACQ_TIME\tacq_time\nses-1\t2001-01-01\t2021-05-01\nses-2\t2002-01-01\t2019-05-01\n",
        "\n\nsession_id\tacq_time\n\nSES-1\t2021-05-01\n\nSES-2\t2019-05-01\n\n",
        'session_id\tnote\tacq_time\nses-1\t"bad scan\t2021-05-01\nses-2\t\t2019-05-01\n',
    ],
)
@pytest.mark.parametrize("name", ["sub-1_sessions.tsv", "sub-1_Sessions.TSV"])
def test_tables_are_read_as_people_keep_them(tmp_path, table, name):
    """By their labels the visits would come the other way round, which is told of."""
    patient = with_table(tmp_path, table, name)
    assert (labels(patient), patient.order) == (["2", "1"], "acq_time")
    said = "visits are ordered by acq_time, and their labels are numbers in another order (ses-2, ses-1): correct one"
    assert patient.cautions == (said,)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("session_id acq_time\nses-1 2021-05-01\nses-2 2019-05-01\n", "needs one column session_id, separated by tabs"),
        ("session\tacq_time\nses-1\t2021-05-01\n", "session_id, separated by tabs, and has 'session', 'acq_time'"),
        ("session_id\tscan_date\nses-1\t2021-05-01\n", "needs one column acq_time"),
        ("session_id\tacq_time\tacq_time\nses-1\t2021-05-01\t\n", "needs one column acq_time"),
        ("session_id\tacq_time\nses-01\t2021-05-01\nses-02\t2019-05-01\n", "names 01, 02, which are no folders ses-*"),
        ("session_id\tacq_time\nses-1\t01.05.2021\nses-2\t01.05.2019\n", "'01.05.2021' is not a date"),
        (
            "session_id\tacq_time\nses-1\t2018-05-01\nses-1\t2021-05-01\nses-2\t2019-05-01\n",
            "has ses-1 on several days",
        ),
    ],
)
def test_a_table_that_dates_nothing_is_a_caution(tmp_path, table, said):
    patient = with_table(tmp_path, table)
    assert labels(patient) == ["1", "2"]
    assert patient.cautions[0].startswith(
        f"visits are ordered by session labels, since {tmp_path}/sub-1/sub-1_sessions"
    )
    assert said in patient.cautions[0]


@pytest.mark.parametrize("name", ["sub-1_sessions.csv", "sessions.tsv", "sub-1_session.tsv", "sub-01_sessions.tsv"])
def test_a_table_of_another_name_is_a_caution(tmp_path, name):
    patient = with_table(tmp_path, "session_id\tacq_time\nses-1\t2021-05-01\nses-2\t2019-05-01\n", name)
    (caution,) = patient.cautions
    assert f"since {tmp_path / 'sub-1' / name} is not read: only sub-1_sessions.tsv is" in caution


@pytest.mark.parametrize("table", ["session_id\nses-1\nses-2\n", "session_id\tage\nses-1\t30\nses-2\t31\n", "", "\n"])
def test_a_table_without_dates_is_no_caution(tmp_path, table):
    """As BIDS allows it; also one whose dates are taken out, and one beside a file of a Mac."""
    (tmp_path / "sub-1").mkdir()
    (tmp_path / "sub-1/._sub-1_sessions.tsv").write_bytes(b"\0\5\x16\7")
    assert not with_table(tmp_path, table).cautions
    assert not with_table(tmp_path, "session_id\tacq_time\nses-1\tN/A\nses-2\tNaN\nn/a\t\n").cautions


@pytest.mark.parametrize(
    "written",
    ["anat/{}.nii.gz", "anat\\{}.nii.gz", "./anat/{}.nii.gz", "{}.nii.gz ", "ses-x/anat/{}.NII.GZ", "anat/{}.nii"],
)
def test_files_in_tables_of_scans_are_known_by_their_names(tmp_path, written):
    write(tmp_path, *visit("1", "1"), *visit("1", "2"))
    for session, day in (("1", "2021-05-01"), ("2", "2019-05-01")):
        name = written.format(f"sub-1_ses-{session}_FLAIR")
        table = tmp_path / f"sub-1/ses-{session}/sub-1_ses-{session}_scans.tsv"
        table.write_text(f"filename\tacq_time\n{name}\t{day}\n")
    assert labels(only(tmp_path)) == ["2", "1"]
    assert list(times(tmp_path / "sub-1", "12")) == ["1", "2"]


def test_one_table_of_scans_for_all_sessions(tmp_path):
    rows = [
        f"ses-{ses}/anat/sub-1_ses-{ses}_FLAIR.nii.gz\t{day}\n"
        for ses, day in (("1", "2021-05-01"), ("2", "2019-05-01"))
    ]
    assert labels(with_table(tmp_path, f"filename\tacq_time\n{''.join(rows)}", "sub-1_scans.tsv")) == ["2", "1"]


def test_a_table_of_other_scans_is_a_caution(tmp_path):
    table = "filename\tacq_time\nanat/sub-1_ses-1_acq-3D_FLAIR.nii.gz\t2021-05-01\n"
    patient = with_table(tmp_path, table, "ses-1/sub-1_ses-1_scans.tsv")
    assert "sub-1_ses-1_scans.tsv does not name sub-1_ses-1_FLAIR, sub-1_ses-1_T1w: correct" in patient.cautions[0]


def dated(root: Path, *rows: str) -> Patient:
    """A patient with these rows in its table of sessions, and the sessions named there."""
    write(root, *(name for row in rows for name in visit("1", row.split()[0].removeprefix("ses-"))))
    table = "".join("\t".join(row.split()) + "\n" for row in ("session_id acq_time", *rows))
    (root / "sub-1/sub-1_sessions.tsv").write_text(table)
    return only(root)


@pytest.mark.parametrize(
    "rows",
    [
        ("ses-1 1900-01-01T15:10:00", "ses-2 1900-01-01T09:05:00"),  # as those who take dates away leave them
        ("ses-1 2019-05-01T15:10:00", "ses-2 2019-05-01T09:05:00", "ses-3 2020-05-01"),
        ("ses-1 2019-05-01", "ses-2 2020-05-01T15:10:00", "ses-3 2020-05-01T09:05:00"),
        ("ses-1 2019-05-01", "ses-2 2019-05-01", "ses-3 n/a"),
    ],
)
def test_days_that_repeat_order_nothing_and_count_for_nothing(tmp_path, rows):
    patient = dated(tmp_path, *rows)
    assert labels(patient) == [str(number) for number in range(1, len(rows) + 1)]
    assert patient.order == "session label, natural order (not every visit has an acq_time on a day of its own)"
    assert {visit.acquired for visit in patient.visits} == {None}
    assert not patient.problems
    assert not patient.cautions


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (("ses-1 2021-05-01", "ses-2 2019-05-01", "ses-3 n/a"), r"ses-2 \(2019-05-01\) before ses-1 \(2021-05-01\)"),
        (("ses-post 2019-05-01", "ses-pre 2018-05-01", "ses-x n/a"), r"ses-pre \(2018.* before ses-post \(2019"),
        (("ses-1 2019-05-01", "ses-2 2018-05-01", "ses-3 2018-05-01"), r"ses-2 \(2018-05-01\) before ses-1"),
    ],
)
def test_dates_of_some_visits_that_contradict_the_labels_stop_the_patient(tmp_path, rows, said):
    patient = dated(tmp_path, *rows)
    assert not patient.visits
    assert list(patient.problems) == [row.split()[0].removeprefix("ses-") for row in rows]
    for problem in patient.problems.values():
        assert re.search(f"{tmp_path / 'sub-1'}: acq_time puts {said}.* in sub-1_sessions.tsv or _scans.tsv", problem)


def test_sessions_of_the_table_may_lack_their_prefix(tmp_path):
    assert labels(dated(tmp_path, "a 2021-05-01", "b 2019-05-01")) == ["b", "a"]
    assert times(tmp_path / "sub-1", "abc") == {"a": datetime(2021, 5, 1), "b": datetime(2019, 5, 1)}


def test_dates_of_sessions_without_a_table_are_those_of_their_scans(tmp_path):
    for session, other, image in (("a", "2018-01-01", "2021-05-01"), ("b", "2018-01-02", "n/a")):
        table = tmp_path / f"sub-1/ses-{session}/sub-1_ses-{session}_scans.tsv"
        table.parent.mkdir(parents=True)
        rows = f"dwi/sub-1_ses-{session}_dwi.nii.gz\t{other}\nanat/sub-1_ses-{session}_FLAIR.nii.gz\t{image}\n"
        table.write_text(f"filename\tacq_time\n{rows}")
    assert times(tmp_path / "sub-1", "abc") == {"a": datetime(2021, 5, 1)}
    images = "anat/sub-1_ses-b_FLAIR.nii.gz\t2020-01-02\nanat/sub-1_ses-b_T1w.nii.gz\t2020-01-01\n"
    table.write_text(f"filename\tacq_time\n{images}")
    assert times(tmp_path / "sub-1", "abc")["b"] == datetime(2020, 1, 2)  # the FLAIR's
    (tmp_path / "sub-1/ses-c").mkdir()
    (tmp_path / "sub-1/ses-c/sub-1_ses-c_scans.tsv").write_text(
        "filename\tacq_time\nsub-1_ses-c_FLAIR.nii.gz\tn/a\nsub-1_ses-c_T1w.nii.gz\t2020-05-01\n"
        "sub-1_ses-c_acq-old_T1w.nii.gz\t2019-01-01\n"
    )
    assert "c" not in times(tmp_path / "sub-1", "abc")
    (tmp_path / "sub-1/ses-c/sub-1_ses-c_scans.tsv").unlink()
    with table.open("a") as rows:  # of two days, one of them that of an image which `run` did not take
        rows.write("anat/sub-1_ses-b_acq-old_FLAIR.nii.gz\t2019-01-01\n")
    assert "b" not in times(tmp_path / "sub-1", "abc")
    table.write_bytes(b"\xff\xfe\0f")  # not read, as the sessions' table says it
    (tmp_path / "sub-1/sub-1_sessions.tsv").write_text("session_id\tacq_time\nses-b\t2020-05-01\nses-a\t2022-05-01\n")
    assert times(tmp_path / "sub-1", "abc") == {"a": datetime(2022, 5, 1), "b": datetime(2020, 5, 1)}


@pytest.mark.parametrize(
    ("sessions", "named"),
    [
        (("pre", "post"), "ses-post, ses-pre"),
        (("baseline", "1"), "ses-1, ses-baseline"),
        (("M12", "m6"), "ses-M12, ses-m6"),
        (("1", "2", "10"), ""),
        (("m6", "m12"), ""),
        (("pre",), ""),
    ],
)
def test_labels_that_are_no_numbers_are_told_of(tmp_path, sessions, named):
    """Where they differ in their numbers alone, these order them."""
    patient = only(write(tmp_path, *(name for session in sessions for name in visit("1", session))))
    said = f"visits are ordered by session labels, which are not numbers: {named}; give acq_time in sub-1_sessions.tsv"
    assert patient.cautions == ((said,) if named else ())
    assert not dated(tmp_path, *(f"ses-{session} 20{10 + n}-01-01" for n, session in enumerate(sessions))).cautions


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("sub-1/ses-2/anat", "sub-1_ses-1"),
        ("sub-1/ses-2/anat", "sub-2_ses-2"),
        ("sub-1/anat", "sub-1_ses-2"),
        ("derivatives/reference/sub-1/ses-2/anat", "sub-2_ses-2"),
    ],
)
def test_a_file_in_the_folder_of_something_else_is_a_problem(tmp_path, folder, name):
    write(tmp_path, *visit("1", "1"), *visit("1", "2"))
    added = [f"{folder}/{name}_{what}.nii.gz" for what in ("acq-x_T1w", "acq-x_FLAIR", "space-orig_label-L_mask")]
    patient = only(write(tmp_path, *added))
    session = "2" if "ses-2" in folder else ""
    assert labels(patient) == [label for label in ("1", "2") if label != session]
    place = f"sub-1/ses-{session}" if session else "sub-1"
    said = (
        f"{tmp_path / folder / name}_acq-x_FLAIR.nii.gz is in the folder of {place}, and its name says something else"
    )
    assert said in patient.problems[session]


def test_a_dataset_without_sessions(tmp_path):
    patient = only(write(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz", "sub-1/anat/sub-1_FLAIR.nii"))
    assert labels(patient) == [""]
    assert patient.visits[0].images["FLAIR"].name == "sub-1_FLAIR.nii"


def test_the_last_run_counts(tmp_path):
    files = [f"sub-1/anat/sub-1_run-{run}_{c}.nii.gz" for run in (1, 2, 10) for c in ("T1w", "FLAIR")]
    patient = only(write(tmp_path, *files))
    assert patient.visits[0].images["T1w"].name == "sub-1_run-10_T1w.nii.gz"
    assert "run-10" in patient.notes[0]


def test_images_without_contrast_agent_come_first(tmp_path):
    patient = only(write(tmp_path, *visit("1", "1"), *visit("1", "1", "ce-gadolinium", "run-2")))
    assert [path.name for path in patient.visits[0].images.values()] == [
        "sub-1_ses-1_T1w.nii.gz",
        "sub-1_ses-1_FLAIR.nii.gz",
    ]


@pytest.mark.parametrize("entity", ["acq-postGd", "acq-mprageGd", "acq-3DGad", "rec-postcontrast", "acq-KM", "ce-gad"])
def test_an_agent_that_a_name_says_is_a_doubt(tmp_path, entity):
    """Whatever entity says it; where there is an image without an agent, that is taken."""
    (taken,) = only(write(tmp_path / "a", *visit("1", "1", entity))).visits
    assert sum("contrast agent" in doubt for doubt in taken.doubts) == 2
    (taken,) = only(write(tmp_path / "b", *visit("1", "1", entity), *visit("1", "1"))).visits
    assert taken.images["T1w"].name == "sub-1_ses-1_T1w.nii.gz"
    assert not taken.doubts


@pytest.mark.parametrize("entity", ["acq-preGd", "acq-noContrast", "acq-mprage", "acq-posterior", "rec-norm", "run-2"])
def test_other_names_say_no_agent(tmp_path, entity):
    (taken,) = only(write(tmp_path, *visit("1", "1", entity))).visits
    assert not taken.doubts


@pytest.mark.parametrize("part", ["phase", "real", "imag"])
def test_what_is_no_magnitude_image_is_not_used(tmp_path, part):
    patient = only(write(tmp_path, *visit("1", "1", f"part-{part}"), *visit("1", "2", f"part-{part}")[:1]))
    assert f"no magnitude image of T1w and FLAIR, only sub-1_ses-1_part-{part}_T1w.nii.gz" in patient.problems["1"]
    write(tmp_path, *visit("1", "1", "part-mag"), visit("1", "2")[1])
    patient = only(tmp_path)
    assert f"no magnitude image of T1w, only sub-1_ses-2_part-{part}_T1w.nii.gz" in patient.problems["2"]
    assert patient.visits[0].images["FLAIR"].name == "sub-1_ses-1_part-mag_FLAIR.nii.gz"


def test_other_ambiguity_is_a_problem_of_that_visit_alone(tmp_path):
    patient = only(write(tmp_path, *visit("1", "1", "acq-a"), *visit("1", "1", "acq-b"), *visit("1", "2")))
    assert labels(patient) == ["2"]
    assert "--bids-filter-file" in patient.problems["1"]


@pytest.mark.parametrize(
    ("wanted", "chosen"), [("b", "acq-b_"), (["x", "a"], "acq-a_"), (None, "ses-1_T1w"), ("*", None)]
)
def test_a_filter_file_chooses(tmp_path, wanted, chosen):
    write(tmp_path, *visit("1", "1"), *visit("1", "1", "acq-a"), *visit("1", "1", "acq-b"))
    path = tmp_path / "filter.json"
    path.write_text(json.dumps({"t1w": {"datatype": "anat", "acquisition": wanted}, "flair": {"acq": "a"}, "bold": {}}))
    patient = only(tmp_path, filters=read_filters(path))
    if chosen is None:
        assert "2 T1w images" in patient.problems["1"]
    else:
        assert chosen in patient.visits[0].images["T1w"].name
        assert patient.visits[0].images["FLAIR"].name == "sub-1_ses-1_acq-a_FLAIR.nii.gz"


def test_a_run_number_is_a_number(tmp_path):
    write(tmp_path, *visit("1", "1", "run-01"), *visit("1", "1", "run-02"))
    patient = only(tmp_path, filters={"T1w": {"run": 1}})
    assert patient.visits[0].images["T1w"].name == "sub-1_ses-1_run-01_T1w.nii.gz"


@pytest.mark.parametrize("text", ["not json", "[]", '{"t1w": "mprage"}'])
def test_a_bad_filter_file_is_named(tmp_path, text):
    path = tmp_path / "filter.json"
    path.write_text(text)
    with pytest.raises(CohortError, match=r"filter\.json"):
        read_filters(path)


def test_a_missing_contrast_and_an_empty_session_are_problems_of_their_visits(tmp_path):
    t1w = visit("1", "2")[0]
    write(tmp_path, *visit("1", "1"), t1w, *visit("2", "1"))
    (tmp_path / "sub-1/ses-3").mkdir()
    first, second = read_cohort(tmp_path).patients
    assert labels(first) == ["1"]
    assert "no FLAIR image" in first.problems["2"]
    assert "has no images" in first.problems["3"]
    assert labels(second) == ["1"]
    assert not second.problems


def test_a_patient_without_anything_is_a_problem_of_the_cohort(tmp_path):
    write(tmp_path, *visit("1", "1"))
    (tmp_path / "sub-2").mkdir()
    cohort = read_cohort(tmp_path)
    assert [patient.label for patient in cohort.patients] == ["1"]
    assert "no session and no image" in cohort.problems["2"]


def test_participants_of_the_table_without_a_folder_are_named(tmp_path, caplog):
    write(tmp_path, *visit("1", "1"))
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-1\t30\nsub-2\t40\nsub-3\t50\n")
    assert not read_cohort(tmp_path, participants=["1"]).problems
    assert not caplog.records
    read_cohort(tmp_path)
    assert f"{tmp_path / 'participants.tsv'} lists participants without a folder: sub-2, sub-3" in caplog.text


def test_participants_and_sessions_are_selected_with_and_without_prefix(tmp_path):
    write(tmp_path, *visit("01", "1"), *visit("01", "2"), *visit("02", "1"))
    patient = only(tmp_path, participants=["sub-01"], sessions=["2"])
    assert (patient.label, labels(patient)) == ("01", ["2"])
    assert [patient.label for patient in read_cohort(tmp_path, sessions=["ses-2"]).patients] == ["01"]


@pytest.mark.parametrize("participants", [None, ["01", "03"]])
def test_patients_without_a_session_asked_for_are_named(tmp_path, caplog, participants):
    write(tmp_path, *visit("01", "1"), *visit("03", "2"))
    cohort = read_cohort(tmp_path, participants=participants, sessions=["ses-1"])
    assert ([patient.label for patient in cohort.patients], cohort.problems) == (["01"], {})
    assert caplog.messages == ["sub-03 has no session 1"]
    caplog.clear()
    read_cohort(tmp_path, participants=participants, sessions=["1", "2"])
    assert caplog.messages == ["sub-03 has no session 1", "sub-01 has no session 2"]


def test_what_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(CohortError, match="not a folder"):
        read_cohort(tmp_path / "absent")
    with pytest.raises(CohortError, match="no sub-"):
        read_cohort(tmp_path)
    (tmp_path / "sub-1").mkdir()
    with pytest.raises(CohortError, match="skip-bids-validation"):
        read_cohort(tmp_path)
    write(tmp_path, *visit("1", "1"))
    with pytest.raises(CohortError, match="no participant 9"):
        read_cohort(tmp_path, participants=["9"])
    with pytest.raises(CohortError, match="no session 9, ses-8: check --session-label"):
        read_cohort(tmp_path, sessions=["1", "9", "ses-8"])


def test_participants_are_read_with_blanks_and_capitals(tmp_path, caplog):
    write(tmp_path, *visit("1", "1"))
    table = tmp_path / "participants.TSV"
    table.write_text("Participant_ID,age\nsub-1 ,30\nsub-2 ,40\n", encoding="utf-8-sig")
    read_cohort(tmp_path)
    assert f"{table} lists participants without a folder: sub-2" in caplog.messages
    table.write_text("participant age\nsub-2 30\n")
    read_cohort(tmp_path)
    assert f"{table} has no column participant_id" in caplog.text


@pytest.mark.parametrize("name", ["Sub-2", "SUB-2", "sub2", "sub_2", "sub 2", "subject2", "Subject-2", "2"])
def test_the_folder_of_a_patient_that_is_named_otherwise_is_told_of(tmp_path, name):
    write(tmp_path, *visit("1", "1"), *visit("2", "1"))
    (tmp_path / "sub-2").rename(tmp_path / name)
    cohort = read_cohort(tmp_path)
    said = f"{tmp_path / name} is not a BIDS name: rename it, and its files, to sub-2, or move it elsewhere."
    assert ([patient.label for patient in cohort.patients], cohort.problems) == (["1"], {"2": said})
    assert read_cohort(tmp_path, participants=["2"]).problems == {"2": said}
    assert not read_cohort(tmp_path, participants=["1"]).problems
    write(tmp_path, *visit("2", "2"))
    cohort = read_cohort(tmp_path)
    taken = f"{tmp_path / name} is not a BIDS name, and sub-2 is there: move its files there, or move it elsewhere."
    assert ([patient.label for patient in cohort.patients], cohort.problems) == (["1", "2"], {name: taken})
    assert [patient.cautions for patient in cohort.patients] == [(), (taken.rstrip("."),)]


def test_a_dataset_of_misnamed_patients_says_so(tmp_path):
    write(tmp_path, *visit("1", "1"))
    (tmp_path / "sub-1").rename(tmp_path / "SUB-1")
    with pytest.raises(CohortError, match=r"no sub-\* folder\. .*SUB-1 is not a BIDS name: rename it.* to sub-1"):
        read_cohort(tmp_path)


@pytest.mark.parametrize("name", ["SES-3", "ses_3", "ses3", "session-3", "Session 3", "ses-", "month6"])
def test_a_session_that_is_named_otherwise_stops_its_patient(tmp_path, name):
    write(tmp_path, *(image for session in "123" for image in visit("1", session)), *visit("2", "1"))
    (tmp_path / "sub-1/ses-3").rename(tmp_path / "sub-1" / name)
    cohort = read_cohort(tmp_path)
    meant = {"ses-": "LABEL", "month6": "month6"}.get(name, "3")
    assert [patient.label for patient in cohort.patients] == ["2"]
    said = f"{tmp_path / 'sub-1' / name} is not a BIDS name: rename it, and its files, to ses-{meant}, or move it"
    assert cohort.problems == {"1": f"{said} elsewhere."}
    assert labels(read_cohort(tmp_path, participants=["1"], sessions=["1", "2"]).patients[0]) == ["1", "2"]


def test_other_folders_are_no_patients_and_no_sessions(tmp_path):
    write(tmp_path, *visit("1", "1"), "sub-1/log/x", "sub-1/dwi/x", "code/anat/x", "subcortical/x", "subject_lists/x")
    write(tmp_path, "derivatives/ses-1/x", ".git/anat/x", "sourcedata/sub-1/ses-1/x", "sub-1/sessions/x")
    assert not read_cohort(tmp_path).problems
    assert labels(only(tmp_path)) == ["1"]


NEAR = ["ses-1_flair.nii.gz", "ses-1_acq-0.7mm_FLAIR.nii.gz", "ses-1_FLAIR (1).nii.gz", "ses-1_run-02b_FLAIR.nii.gz",
        "ses-1_FLAIR_1.nii.gz", "ses-1_acq-3D_iso_FLAIR.nii.gz", "ses-1_FLAIR.mgz", "ses-1_FLAIR.img",
        "ses-1_run-1_run-2_FLAIR.nii.gz", "ses-1_FLAIR1.NII.GZ"]  # fmt: skip


@pytest.mark.parametrize("name", NEAR)
def test_an_image_that_is_nearly_named_as_in_bids_is_named(tmp_path, name):
    t1w, flair = visit("1", "1")
    write(tmp_path, t1w, f"sub-1/ses-1/anat/sub-1_{name}")
    said = (
        f"sub-1_{name} may be meant, and is not a BIDS name of one. Rename or convert it to ..._FLAIR.nii.gz, or leave "
        "the visit out."
    )
    assert only(tmp_path).problems["1"] == f"{tmp_path}/sub-1/ses-1/anat has no FLAIR image: {said}"
    (found,) = only(write(tmp_path, flair)).visits
    assert found.images["FLAIR"].name == "sub-1_ses-1_FLAIR.nii.gz"
    assert found.doubts == (
        f"sub-1_{name} was not considered as the FLAIR, since that is not the name of a BIDS image",
    )


@pytest.mark.parametrize(
    "name",
    [
        "rsub-02_ses-1_FLAIR.nii",  # as SPM resamples to this patient
        "rsub-1_ses-1_FLAIR.nii",
        "Sub-02_ses-1_FLAIR.nii.gz",
        "subject-02_FLAIR.nii.gz",
        "sub-1_Ses-2_FLAIR.nii.gz",
        "sub-1_session-2_FLAIR.nii.gz",
        "sub-1_ses-1_CE-gad_FLAIR.nii.gz",
        "acq-x_FLAIR.nii.gz",
        "sub-1_ses-1_acq-flair_T2w.nii.gz",
    ],
)
def test_an_image_of_nobody_known_is_not_taken(tmp_path, name):
    patient = only(write(tmp_path, visit("1", "1")[0], f"sub-1/ses-1/anat/{name}"))
    assert not patient.visits
    assert f"has no FLAIR image: {name} may be meant, and is not a BIDS name of one." in patient.problems["1"]


def test_what_spm_makes_of_an_image_is_no_doubt(tmp_path):
    names = [f"{made}sub-1_ses-1_{c}.nii" for made in ("r", "m", "wm", "c1", "y_") for c in ("T1w", "FLAIR")]
    patient = only(write(tmp_path, *visit("1", "1"), *(f"sub-1/ses-1/anat/{name}" for name in names)))
    assert patient.visits[0].doubts == ()
    (doubt,) = only(write(tmp_path, "sub-1/ses-1/anat/rsub-2_ses-1_FLAIR.nii")).visits[0].doubts
    assert doubt.startswith("rsub-2_ses-1_FLAIR.nii was not considered as the FLAIR")


def test_an_mp2rage_is_named(tmp_path):
    write(tmp_path, visit("1", "1")[1], "sub-1/ses-1/anat/sub-1_ses-1_UNIT1.nii.gz")
    said = "no T1w image: sub-1_ses-1_UNIT1.nii.gz is of MP2RAGE, whose background is noise. Remove that noise and save"
    assert said in only(tmp_path).problems["1"]


@pytest.mark.parametrize(
    ("names", "used"),
    [
        (("desc-brain_mask", "space-MNI152NLin2009cAsym_res-2_desc-brain_mask"), "desc-brain_mask"),
        (("desc-brain_mask", "space-T1w_desc-brain_mask"), "desc-brain_mask"),
        (("space-FLAIR_desc-brain_mask", "space-MNI152_desc-brain_mask"), "space-FLAIR_desc-brain_mask"),
        (("space-MNI152_desc-brain_mask",), ""),
        (("brainmask", "label-brain_mask"), ""),
    ],
)
def test_the_brain_mask_is_that_of_the_images(tmp_path, names, used):
    files = [f"sub-1/ses-1/anat/sub-1_ses-1_{name}.nii.gz" for name in names]
    patient = only(write(tmp_path, *visit("1", "1"), *files))
    (found,) = patient.visits
    assert found.brain_mask == (tmp_path / f"sub-1/ses-1/anat/sub-1_ses-1_{used}.nii.gz" if used else None)
    said = f"not used as brain mask, as the name is not ..._desc-brain_mask.nii.gz: sub-1_ses-1_{names[0]}.nii.gz"
    assert used or said in patient.notes[0]


def test_a_reference_that_is_there_twice_is_a_problem(tmp_path):
    reference = "derivatives/reference/sub-1/ses-1/anat/sub-1_ses-1_space-orig_label-L_mask"
    patient = only(write(tmp_path, *visit("1", "1"), f"{reference}.nii", f"{reference}.nii.gz"))
    assert "has several references" in patient.problems["1"]


@pytest.mark.parametrize(("name", "used"), [("space-orig_label-lesion", True), ("label-L", False)])
def test_a_reference_is_read_by_its_names_and_told_of_by_others(tmp_path, name, used):
    path = f"derivatives/reference/sub-1/ses-1/anat/sub-1_ses-1_{name}_mask.nii.gz"
    patient = only(write(tmp_path, *visit("1", "1"), path))
    assert patient.visits[0].reference == (tmp_path / path if used else None)
    assert ["not used as reference" in note for note in patient.notes] == ([] if used else [True])


def test_an_empty_patient_is_missed_whatever_its_tables_say(tmp_path):
    write(tmp_path, *visit("1", "1"), "sub-2/x")
    (tmp_path / "sub-2/sub-2_sessions.tsv").write_text("session\nses-1\n")
    assert "holds no session and no image" in read_cohort(tmp_path).problems["2"]


def test_other_images_and_files_are_nothing_to_tell(tmp_path):
    names = ["T2w.nii.gz", "T1map.nii.gz", "UNIT1.nii.gz", "FLAIR.json", "desc-brain_mask.nii.gz",
             "mod-T1w_defacemask.nii.gz", "acq-x.y_T2w.nii.gz", "FLAIR_lesion_mask.nii.gz"]  # fmt: skip
    write(tmp_path, *visit("1", "1"), *(f"sub-1/ses-1/anat/sub-1_ses-1_{name}" for name in names))
    write(tmp_path, "sub-1/ses-1/anat/._sub-1_ses-1_FLAIR.nii.gz")
    assert only(tmp_path).visits[0].doubts == ()


def test_run_numbers_are_compared_as_numbers(tmp_path):
    files = [f"sub-1/anat/sub-1_run-{run}_{c}.nii.gz" for run in ("9", "010") for c in ("T1w", "FLAIR")]
    assert only(write(tmp_path, *files)).visits[0].images["T1w"].name == "sub-1_run-010_T1w.nii.gz"
    patient = only(write(tmp_path, "sub-1/anat/sub-1_run-10_T1w.nii.gz"))
    assert "has 3 T1w images" in patient.problems[""]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_filter_file_may_begin_with_a_byte_order_mark(tmp_path, encoding):
    path = tmp_path / "filter.json"
    path.write_text('{"t1w": {"run": 1}}', encoding=encoding)
    assert read_filters(path) == {"T1w": {"run": 1}}


def test_brain_masks_and_references_are_found(tmp_path):
    anat = "sub-1/ses-1/anat/sub-1_ses-1"
    write(
        tmp_path / "bids",
        *visit("1", "1"),
        f"{anat}_desc-brain_mask.nii.gz",
        f"derivatives/reference/{anat}_space-orig_label-L_mask.nii.gz",
        f"derivatives/reference/{anat}_space-patient_label-L_mask.nii.gz",
    )
    found = only(tmp_path / "bids").visits[0]
    assert found.brain_mask == tmp_path / "bids" / f"{anat}_desc-brain_mask.nii.gz"
    assert found.reference == tmp_path / "bids/derivatives/reference" / f"{anat}_space-orig_label-L_mask.nii.gz"
    elsewhere = write(tmp_path / "masks", f"{anat}_space-orig_desc-brain_mask.nii.gz")
    write(tmp_path / "bids", *visit("1", "2"))
    first, second = (patient := only(tmp_path / "bids", brain_masks=elsewhere)).visits
    assert first.brain_mask.parent == elsewhere / "sub-1/ses-1/anat"
    assert second.brain_mask is None
    assert patient.notes == (
        f"sub-1/ses-1: brain mask {first.brain_mask}",
        f"sub-1/ses-2: brain mask absent from {elsewhere}",
    )


def test_a_folder_without_brain_masks_is_refused(tmp_path):
    write(tmp_path / "bids", *visit("1", "1"))
    with pytest.raises(CohortError, match="absent is not a folder: check --brain-mask-dir"):
        only(tmp_path / "bids", brain_masks=tmp_path / "absent")
    with pytest.raises(CohortError, match=r"holds no .*brain_mask.*: check --brain-mask-dir"):
        only(tmp_path / "bids", brain_masks=write(tmp_path / "masks", "sub-1/ses-1/sub-1_ses-1_desc-brain_mask.nii.gz"))


def test_names_are_taken_apart_strictly():
    file = parse_name(Path("sub-1_ses-02_acq-x_T1w.nii.gz"))
    assert (file.entities, file.suffix) == ({"sub": "1", "ses": "02", "acq": "x"}, "T1w")
    assert [parse_name(Path(name)) for name in ("T1w.nii.gz", "sub-1_T1w.mgz", "sub_1_T1w.nii", "sub-1__T1w.nii")] == [
        None
    ] * 4


def test_natural_order():
    assert sorted(["10", "2", "m12", "m6", "1"], key=natural) == ["1", "2", "10", "m6", "m12"]


def test_loose_files(tmp_path):
    images = [tmp_path / f"{name}.nii.gz" for name in ("t1_a", "flair_a", "t1_b", "flair_b")]
    with pytest.raises(ImageError, match="t1_a"):
        loose_patient([(images[0], images[1])], "patient", tmp_path)
    for path in images:
        path.touch()
    patient = loose_patient([(images[0], images[1]), (images[2], images[3])], "x1", tmp_path)
    assert labels(patient) == ["1", "2"]
    assert patient.visits[1].images == {"T1w": images[2], "FLAIR": images[3]}
    with pytest.raises(CohortError, match=f"^{re.escape(str(images[0]))} is given more than once"):
        loose_patient([(images[0], images[1]), (images[0], images[3])], "patient", tmp_path)
    with pytest.raises(CohortError, match="letters and digits"):
        loose_patient([(images[0], images[1])], "a b", tmp_path)


@pytest.mark.data
def test_the_open_longitudinal_set(data_folder):
    cohort = read_cohort(data_folder / "ljubljana-longitudinal")
    assert {patient.label: labels(patient) for patient in cohort.patients} == {
        "04": ["1"],
        "12": ["1", "2"],
        "20": ["2"],
    }
    assert not cohort.problems
