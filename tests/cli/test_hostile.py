"""Names and contents that nobody means well with: they stay text on the whole way from the dataset to the pages."""

import json
import re
import shutil

import pytest

from tests.models import export_tiny_model
from tests.report.test_patient_page import CHROMIUM, opened
from tests.tiny import OPTIONS, call, image_path, rows, write_patient

HOSTILE = "<script>alert(1)<!--{{ 7*7 }}{% raw %}\"'&<img src=x onerror=alert(1)>[bold]"


def write_hostile(root):
    """A dataset in a folder of that name; of its two visits one is damaged, so that a page has to name the file."""
    bids = root / HOSTILE.replace("/", "")
    write_patient(bids, "01", ("1", "2", "3"))
    image_path(bids, "01", "2", "FLAIR").write_text(HOSTILE)
    (bids / "dataset_description.json").write_text(json.dumps({"Name": HOSTILE, "BIDSVersion": "1.10.0"}))
    (bids / "participants.tsv").write_text(f"participant_id\tgroup\nsub-01\t{HOSTILE}\nsub-{HOSTILE}\t{HOSTILE}\n")
    (bids / "sub-01/sub-01_sessions.tsv").write_text(f"session_id\tacq_time\nses-1\t{HOSTILE}\nses-3\t{HOSTILE}\n")
    (bids / "sub-01/ses-1/sub-01_ses-1_scans.tsv").write_text(f"filename\tacq_time\n{HOSTILE}\t{HOSTILE}\n")
    for contrast in ("T1w", "FLAIR"):
        sidecar = image_path(bids, "01", "1", contrast).with_name(f"sub-01_ses-1_{contrast}.json")
        sidecar.write_text(json.dumps({"SeriesDescription": HOSTILE, "PatientName": HOSTILE}))
    model = export_tiny_model(root / "model" / HOSTILE)
    description = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(description | {"name": HOSTILE, "caution": HOSTILE}))
    return bids, model


def run(capsys, bids, model, out):
    return call(capsys, "run", bids, out, "participant", "--model", model, *OPTIONS, "--threshold", "0.2")


def test_hostile_content_stays_text_in_both_pages(capsys, tmp_path):
    bids, model = write_hostile(tmp_path)
    done = run(capsys, bids, model, tmp_path / "out")
    assert done.code == 1
    assert "Traceback" not in done.out + done.err
    for name in ("sub-01.html", "group.html"):
        page = (tmp_path / "out" / name).read_text()
        own = re.sub(r"<script>/\*!?.*?</script>|<script>\(?[^a].*?</script>", "", page, flags=re.DOTALL)
        assert "{{ 7*7 }}{% raw %}" in page
        assert "49{%" not in page
        assert "&lt;script&gt;alert(1)" in page
        assert "<script>alert" not in own
        assert "<img src=x" not in page
    table = (tmp_path / "out/lesiondelta.tsv").read_text().splitlines()
    assert {len(line.split("\t")) for line in table} == {len(table[0].split("\t"))}


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
def test_a_browser_runs_nothing_of_it(capsys, tmp_path):
    bids, model = write_hostile(tmp_path)
    run(capsys, bids, model, tmp_path / "out")
    for name in ("sub-01.html", "group.html"):
        with opened(tmp_path / "out" / name) as page:
            page.tab.on("dialog", lambda dialog: page.said.append(dialog.message))
            page.tab.reload()
            assert "{{ 7*7 }}" in page.tab.inner_text("body")
            assert page.tab.locator("img[src='x']").count() == 0
        assert not page.said


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("<script>alert(1)<", "is not a BIDS label"),
        ("Zoë", "is not a BIDS label"),
        ("x" * 51, "a label of 51 characters is too long"),
        ("x" * 240, "a label of 240 characters is too long"),
    ],
)
def test_a_label_that_makes_no_name_is_refused_and_the_others_run(capsys, tmp_path, label, said):
    write_patient(tmp_path / "bids", "01")
    write_patient(tmp_path / "bids", "02", ("1", "2"))
    (tmp_path / "bids/sub-02").rename(tmp_path / f"bids/sub-{label}")
    shutil.copytree(tmp_path / "bids/sub-01/ses-1", tmp_path / "bids/sub-01/ses-é")
    done = run(capsys, tmp_path / "bids", export_tiny_model(tmp_path / "model"), tmp_path / "out")
    assert done.code == 1
    assert said in done.out
    assert "Traceback" not in done.out + done.err
    table = rows(tmp_path / "out")
    assert table["sub-01", "ses-1"]["status"] == "flagged"
    assert "'é' is not a BIDS label" in table["sub-01", "ses-é"]["reason"]
    if "<" in label:
        assert "<script>" not in (tmp_path / "out/group.html").read_text()


def test_labels_of_50_characters_are_names_of_files(capsys, tmp_path):
    label, sessions = "p" * 50, ("a" * 50, "b" * 50)
    write_patient(tmp_path / "bids", label, sessions)
    done = run(capsys, tmp_path / "bids", export_tiny_model(tmp_path / "model"), tmp_path / "out")
    assert done.code == 0, done.out
    assert (tmp_path / f"out/sub-{label}.html").is_file()
