"""SAMSEG's row of a comparison, with a program in its place."""

import pytest

from lesiondelta.comparison.programs import SAMSEG, Source, with_samseg
from lesiondelta.comparison.study import Study
from lesiondelta.images import read_image, read_mask
from lesiondelta.inputs.bids import read_cohort
from lesiondelta.nnunet import presets
from lesiondelta.nnunet.preparation import prepare_training
from lesiondelta.settings import PreprocessingSettings
from tests.samseg import BRIGHT, calls, install, write_heads
from tests.tiny import write_patient, write_references

EASY = PreprocessingSettings(registration="none", bias_correction=False, gate=False)


@pytest.fixture(autouse=True)
def installed(monkeypatch, tmp_path):
    folder, log = install(tmp_path / "program")
    monkeypatch.setenv("LESIONDELTA_SAMSEG", str(folder))
    return log


def made(tmp_path, write=write_heads):
    """A study of one patient with two visits, and where the images came from."""
    write(tmp_path / "cohort", "01", ("1", "2"))
    write_references(tmp_path / "cohort", "01", ("1", "2"))
    cohort = read_cohort(tmp_path / "cohort")
    patients = prepare_training(cohort, tmp_path / "work", EASY)
    study = Study((), tuple(patients), (), (), presets.load("smoke"), 2, 0, tmp_path / "out")
    return study, {"cv": Source(cohort, tmp_path / "work", EASY)}


def test_its_masks_are_scored_and_kept(tmp_path, installed):
    study, sources = made(tmp_path)
    for _ in range(2):
        found, results = with_samseg(study, {}, sources)
        assert found.programs == {SAMSEG: "freesurfer-linux-7.4.1-20230614"}
        assert results["cv", "samseg"].filtered["dsc"].item() > 0.6
        assert len(calls(installed)) == 1
    for visit, path in zip(study.cohort[0].visits, sorted((tmp_path / "out").rglob("*_mask.nii.gz")), strict=True):
        assert (read_mask(path).data == (read_image(visit.images["FLAIR"]).data > BRIGHT)).all()


def test_a_failure_is_the_reason_and_the_next_call_tries_again(tmp_path):
    study, sources = made(tmp_path)
    install(tmp_path / "program", "sys.exit('no atlas')")
    found, results = with_samseg(study, {}, sources)
    assert "failed (exit 1; its last line: no atlas): see" in found.absent[SAMSEG]
    assert (results, found.programs) == ({}, {})
    install(tmp_path / "program")
    assert with_samseg(study, {}, sources)[0].absent == {}


def test_stripped_images_are_the_reason(tmp_path, installed):
    study, sources = made(tmp_path, write_patient)
    assert "T1w.nii.gz shows only the brain" in with_samseg(study, {}, sources)[0].absent[SAMSEG]
    said_so = {"cv": Source(sources["cv"].cohort, tmp_path / "work", EASY.model_copy(update={"skull_strip": "skip"}))}
    assert "--skull-strip skip says" in with_samseg(study, {}, said_so)[0].absent[SAMSEG]
    assert not calls(installed)


def test_an_absent_program_is_the_reason(tmp_path, monkeypatch):
    study, sources = made(tmp_path)
    monkeypatch.setenv("LESIONDELTA_SAMSEG", str(tmp_path))
    assert "`run_samseg_long` is not in" in with_samseg(study, {}, sources)[0].absent[SAMSEG]
