"""Whole reports by the bundled model in a browser: a simulated patient over four visits, and a raw clinical pair.

Each runs for minutes; a browser is needed as in test_patient.py.
"""

import pytest

from tests.report.test_patient_page import check_in_a_browser
from tests.tiny import call

MOST_BYTES = 15e6


@pytest.mark.slow
def test_four_visits_of_a_simulated_patient(capsys, tmp_path):
    simulated = call(capsys, "simulate", tmp_path / "bids", "--patients", 1, "--visits", 4, "--seed", 0)
    assert simulated.code == 0
    done = call(capsys, "run", tmp_path / "bids", tmp_path / "out", "participant")
    assert done.code == 0, done.err
    report = tmp_path / "out/sub-001.html"
    assert report.stat().st_size < MOST_BYTES
    check_in_a_browser(report)


@pytest.mark.slow
@pytest.mark.data
def test_a_raw_clinical_pair(capsys, data_folder, tmp_path):
    raw = data_folder / "ljubljana-longitudinal"
    done = call(capsys, "run", raw, tmp_path / "out", "participant", "--participant-label", "12")
    assert done.code == 0, done.err
    report = tmp_path / "out/sub-12.html"
    assert report.stat().st_size < MOST_BYTES
    check_in_a_browser(report)
