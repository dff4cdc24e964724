from dataclasses import replace
from pathlib import Path

import pytest

from lesiondelta.errors import OutputError
from lesiondelta.images import read_image, read_labels, read_mask, require_same_grid
from lesiondelta.inputs.bids import read_cohort
from lesiondelta.simulation import Acquisition, CohortPlan, write_cohort

PLAN = CohortPlan(2, 2, 5, Acquisition("native", whole_head=False), small=True)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "bids"
    write_cohort(folder, PLAN)
    return folder


def test_it_reads_as_a_bids_cohort_with_references(cohort):
    patients = read_cohort(cohort).patients
    assert [patient.label for patient in patients] == ["001", "002"]
    for patient in patients:
        assert [visit.label for visit in patient.visits] == ["01", "02"]
        assert patient.order == "acq_time"
        for visit in patient.visits:
            assert visit.reference is not None
            flair, reference = read_image(visit.images["FLAIR"]), read_mask(visit.reference)
            require_same_grid(flair, reference)
            instances = visit.reference.with_name(visit.reference.name.replace("label-L_mask", "seg-lesions_dseg"))
            assert ((read_labels(instances).data > 0) == reference.data).all()


def test_changes_are_listed(cohort):
    header, *rows = (cohort / "derivatives/reference/sub-001/sub-001_changes.tsv").read_text().splitlines()
    assert header == "prior\tcurrent\tlesion\tchange"
    assert rows
    assert {row.split("\t")[3] for row in rows} <= {"new", "enlarging", "shrinking", "resolved", "stable"}


def test_a_stopped_run_is_taken_up_and_gives_the_same_bytes(cohort, tmp_path):
    done: list[tuple[int, int]] = []
    write_cohort(tmp_path / "b", replace(PLAN, patients=1))
    finished = (tmp_path / "b/sub-001/sub-001_sessions.tsv").stat().st_mtime_ns
    write_cohort(tmp_path / "b", PLAN, lambda n, total: done.append((n, total)))
    assert done == [(1, 2), (2, 2)]
    assert (tmp_path / "b/sub-001/sub-001_sessions.tsv").stat().st_mtime_ns == finished
    assert files(tmp_path / "b") == files(cohort)
    (tmp_path / "b/dataset_description.json").unlink()  # as if it had been killed between the two descriptions
    write_cohort(tmp_path / "b", PLAN)
    assert files(tmp_path / "b") == files(cohort)


def test_folders_of_others_are_left_alone(cohort, tmp_path):
    with pytest.raises(OutputError, match="other settings"):
        write_cohort(cohort, replace(PLAN, seed=6))
    with pytest.raises(OutputError, match="sub-002, which is not among the 1 patients"):
        write_cohort(cohort, replace(PLAN, patients=1))
    assert (cohort / "participants.tsv").read_text().split() == ["participant_id", "sub-001", "sub-002"]
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        write_cohort(tmp_path, CohortPlan(1, 2, 5, small=True))
