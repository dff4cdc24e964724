"""The page of a cohort, and the level `group`."""

import re
from dataclasses import replace

import pytest

from lesiondelta import records
from lesiondelta.records import Fingerprint, Record, VisitResult
from lesiondelta.report.cohort_page import write_group_page
from tests.tiny import call, rows

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def results():
    def seen(patient, visit, volume, years, status="ok", new=0.0, reason=""):
        figures = {"lesion_volume_mm3": volume, "lesions": 3.0, "years_from_first_visit": years, "new_lesions": new}
        return VisitResult(patient, visit, status, reason, figures)

    return [
        seen("01", "1", 1000.0, 0.0),
        seen("01", "2", 3000.0, 2.0, new=4.0),
        seen("02", "1", 500.0, 0.0, "flagged", reason=HOSTILE),
        VisitResult("03", "1", "failed", "no FLAIR"),
    ]


def lines(page):
    """The cells of every patient's row, and last the reasons below it, without tags."""
    rows = re.split("<tr[^>]*>", re.sub(r"\s+", " ", page.split("<table>")[1].split("</table>")[0]))[2:]
    found = []
    for row in rows:
        cells = [re.sub("<[^>]+>", "", cell).strip() for cell in row.split("<td")[1:]]
        if 'class="why"' in row:
            found[-1][-1] = cells[0]
        else:
            found.append([*cells, ""])
    return found


def test_those_to_be_looked_at_come_first_and_rates_are_a_years(results, tmp_path):
    (tmp_path / "sub-01.html").write_text("")
    write_group_page(tmp_path / "group.html", results)
    page = (tmp_path / "group.html").read_text()
    table = [[cell.rpartition(">")[2].strip() for cell in line] for line in lines(page)]
    assert [line[0] for line in table] == ["sub-03", "sub-02", "sub-01"]
    assert table[2][1:7] == ["2", "ok", "1.00", "3.00", "+1.00", "4"]
    assert table[2][-2] == "2.0"
    assert table[0][-1] == "no FLAIR"
    assert 'href="sub-01.html"' in page
    assert 'href="sub-02.html"' not in page
    assert HOSTILE not in page


def test_masks_corrected_by_hand_are_told(results, tmp_path):
    corrected = replace(results[1], figures=results[1].figures | {"correction": "1 added, +0.10 ml"})
    write_group_page(tmp_path / "group.html", [results[0], corrected, *results[2:]])
    by_patient = {line[0].rpartition(">")[2].strip(): line[-1] for line in lines((tmp_path / "group.html").read_text())}
    assert by_patient["sub-01"].endswith("mask of ses-2 corrected by hand: 1 added, +0.10 ml")
    assert "by hand" not in by_patient["sub-02"]


def test_the_level_group_writes_it_from_all_patients(results, tmp_path, capsys):
    nothing = call(capsys, "run", tmp_path, tmp_path / "out", "group")
    assert (nothing.code, "run the level participant first" in " ".join(nothing.err.split())) == (70, True)
    for label in ("01", "02", "03"):
        own = tuple(result for result in results if result.patient == label)
        records.write_record(tmp_path / "out", Record(label, True, None, (), own))
    done = call(capsys, "run", tmp_path, tmp_path / "out", "group")
    assert (done.code, "03 1: no FLAIR" in done.out) == (1, True)
    assert len((tmp_path / "out/lesiondelta.tsv").read_text().splitlines()) == 5
    assert (tmp_path / "out/group.html").is_file()
    assert (tmp_path / "out/lesiondelta.json").is_file()


def test_a_run_that_never_ended_and_a_record_that_cannot_be_read_have_failed(results, tmp_path, capsys):
    out = tmp_path / "out"
    records.write_record(out, Record("01", True, None, (), tuple(results[:2])))
    assert call(capsys, "run", tmp_path, out, "group").code == 0
    begun = Fingerprint("0", 1, {}, (), ({"visit": "1"}, {"visit": "2"}), (None, None), {"3": "no T1w"})
    records.write_record(out, Record("02", False, begun, ("sub-02.html",)))
    for label, text in (("03", '{"patient": "03"'), ("04", "[]"), ("05", '"05"')):
        records.record_path(out, label).write_text(text)
    assert call(capsys, "run", tmp_path, out, "group").code == 1
    table = rows(out)
    assert [table["sub-02", f"ses-{visit}"]["status"] for visit in "123"] == ["failed"] * 3
    reasons = [table["sub-02", f"ses-{visit}"]["reason"] for visit in "123"]
    assert reasons == [records.UNENDED, records.UNENDED, "no T1w"]
    for label in ("03", "04", "05"):
        assert table[f"sub-{label}", "n/a"]["status"] == "failed"
        assert f"sub-{label}.json cannot be read" in table[f"sub-{label}", "n/a"]["reason"]
    assert "give the command again" in (out / "group.html").read_text()
