"""Where the time goes: stages count once, and are written and printed."""

import time

import pytest

from lesiondelta.timings import OTHER, read_timings, recorded, timed, write_timings
from tests.models import export_tiny_model
from tests.tiny import OPTIONS, call, write_patient


@timed("inner")
def inner():
    time.sleep(0.05)


@timed("outer")
def outer():
    time.sleep(0.02)
    inner()
    time.sleep(0.02)


def test_a_stage_within_another_counts_once():
    with recorded() as timings:
        outer()
        inner()
    assert set(timings.stages) == {OTHER, "outer", "inner"}
    assert 0.1 <= timings.stages["inner"].wall < 0.1 + 0.1
    assert 0.04 <= timings.stages["outer"].wall < 0.04 + 0.1
    assert all(spent.processor < 0.1 for spent in timings.stages.values()), "sleeping costs no processor time"


def test_a_stage_that_fails_ends():
    with recorded() as timings:
        with pytest.raises(ValueError, match="no"), timed("failing"):
            raise ValueError("no")
        assert timings.running == [OTHER]


def test_nothing_is_recorded_unasked():
    outer()
    with recorded() as timings:
        pass
    assert set(timings.stages) == {OTHER}


def test_the_table_comes_back(tmp_path):
    with recorded() as timings:
        outer()
    write_timings(tmp_path / "t.tsv", timings)
    found = read_timings(tmp_path / "t.tsv")
    assert list(found) == [OTHER, "outer", "inner"]
    assert found["inner"].wall == pytest.approx(timings.stages["inner"].wall, abs=0.006)
    (tmp_path / "t.tsv").write_text("stage\tseconds\nbroken")
    assert read_timings(tmp_path / "t.tsv") == read_timings(tmp_path / "absent.tsv") == {}


def test_run_records_and_prints_its_stages(capsys, tmp_path):
    model = export_tiny_model(tmp_path / "model")
    write_patient(tmp_path / "bids", "1", ("1", "2"))
    ended = call(
        capsys, "run", tmp_path / "bids", tmp_path / "out", "participant", "--model", model, *OPTIONS, "--timings"
    )
    assert ended.code == 0
    found = read_timings(tmp_path / "out" / "logs" / "sub-1_timings.tsv")
    for stage in ("reading images", "resampling", "network", "tracking", "report", "pictures"):
        assert found[stage].wall >= 0
        assert stage in ended.out
    assert "stage (patients: 1)" in ended.out
