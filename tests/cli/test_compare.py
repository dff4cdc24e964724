import json
import shutil
import xml.etree.ElementTree as ElementTree

import pandas as pd
import pytest

from lesiondelta.files import alone
from lesiondelta.nnunet.training import source_commit
from tests.samseg import HEADS, install, write_heads
from tests.tiny import OPTIONS, call, write_patient, write_references

BUDGET = (
    "--methods",
    "nnunet,samseg,difference_weighting",
    "--preset",
    "smoke",
    "--epochs",
    "1",
    "--patch",
    "16",
    "--folds",
    "2",
)


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory):
    """Five patients, one of them to test, and two of another site; two visits each."""
    root = tmp_path_factory.mktemp("cohorts")
    for name, labels in (("own", ("01", "02", "03", "04", "05")), ("other", ("01", "02"))):
        for seed, label in enumerate(labels, start=0 if name == "own" else 10):
            write_patient(root / name, label, ("1", "2"), seed)
            write_references(root / name, label, ("1", "2"))
    (root / "test.txt").write_text("sub-05\n")
    return root


@pytest.fixture(autouse=True)
def samseg_is_absent(monkeypatch):
    for name in ("LESIONDELTA_SAMSEG", "FREESURFER_HOME"):
        monkeypatch.delenv(name, raising=False)


def command(cohorts, out, *more):
    return ("compare", cohorts / "own", "-o", out, *BUDGET, *OPTIONS, *more)


def test_a_comparison_from_cohort_to_tables(capsys, cohorts, tmp_path):
    out = tmp_path / "out"
    everything = ("--test-list", cohorts / "test.txt", "--external", cohorts / "other", "--paper")
    outcome = call(capsys, *command(cohorts, out, *everything))
    assert outcome.code == 0, outcome.err
    assert "Table 3. External cohort" in outcome.out
    for number in (1, 2, 3, 4, 5):
        for form in ("md", "tex", "tsv"):
            assert (out / "tables" / f"table_{number}.{form}").stat().st_size
    table = pd.read_csv(out / "tables" / "table_2.tsv", sep="\t")
    assert list(table["method"]) == ["nnUNet", "SAMSEG", "Difference weighting"]
    assert list(table.columns[:3]) == ["group", "method", "cross-validation: DSC"]
    assert list(table["paper's test: DSC"]) == [0.742, 0.455, 0.756]
    assert "SAMSEG: `run_samseg_long` is not in FREESURFER_HOME/bin or on PATH: install" in outcome.out
    record = json.loads((out / "record.json").read_text())
    assert record["patients"] == {"cv": ["01", "02", "03", "04"], "test": ["05"], "external": ["01", "02"]}
    assert record["parameters"]["difference_weighting"] > record["parameters"]["nnunet"]
    folds = [fold for folds in record["trainings"].values() for fold in folds]
    assert all(fold["seconds"] > 0 for fold in folds)
    assert all(fold["commits"] == [source_commit()] for fold in folds)
    assert "Trained on cpu with 1 threads, predicted on cpu with 1 threads." in outcome.out
    assert "No interval and no test is given for cross-validation and test and external" in outcome.out
    for number in (2, 3):
        ElementTree.parse(out / "figures" / f"figure_{number}.svg")
    before = {path: path.read_bytes() for path in (out / "tables").iterdir()}
    (out / "scores" / "cv" / ".DS_Store").touch()  # what a file manager leaves
    trained = {path: path.stat().st_mtime_ns for path in out.rglob("weights.safetensors")}
    assert len(trained) == 4
    assert call(capsys, *command(cohorts, out, *everything)).code == 0
    assert {path: path.read_bytes() for path in (out / "tables").iterdir()} == before
    assert {path: path.stat().st_mtime_ns for path in trained} == trained

    changed = call(capsys, *command(cohorts, out, *everything, "--seed", "1"))
    assert changed.code == 1
    assert "holds a comparison with another seed" in changed.err
    assert call(capsys, *command(cohorts, out, "--test-list", cohorts / "test.txt")).code == 0
    assert not list(out.glob("tables/table_3*"))  # of the external cohort, which took no part this time
    assert not (out / "scores" / "external" / "nnunet").exists()


def test_one_person_in_both_cohorts_is_refused(capsys, cohorts, tmp_path):
    shutil.copytree(cohorts / "other", tmp_path / "copy")
    for path in sorted((tmp_path / "copy").rglob("*sub-02*"), key=lambda p: -len(p.parts)):
        path.rename(path.with_name(path.name.replace("sub-02", "sub-77")))
    outcome = call(
        capsys, "compare", cohorts / "other", "-o", tmp_path / "out", *BUDGET, *OPTIONS, "--external", tmp_path / "copy"
    )
    assert outcome.code == 1
    assert "have an image in common" in outcome.err
    assert not (tmp_path / "out").exists()


def test_an_external_cohort_that_is_the_cohort_is_refused(capsys, cohorts, tmp_path):
    outcome = call(capsys, *command(cohorts, tmp_path / "out", "--external", cohorts / "own"))
    assert outcome.code == 1
    assert "is the cohort itself" in outcome.err


def test_too_many_folds_are_refused_before_anything_is_prepared(capsys, cohorts, tmp_path):
    outcome = call(capsys, *command(cohorts, tmp_path / "out", "--folds", "9"))
    assert outcome.code == 1
    assert "5 patients cannot be split into 9 folds" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_left_as_it_is(capsys, cohorts, tmp_path):
    (tmp_path / "record.json").write_text("mine")
    outcome = call(capsys, *command(cohorts, tmp_path))
    assert outcome.code == 1
    assert "is not empty and holds no comparison" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_the_cohort_is_no_folder_for_results(capsys, cohorts):
    outcome = call(capsys, *command(cohorts, cohorts / "own" / "derivatives" / "comparison"))
    assert outcome.code == 1
    assert "lies inside the cohort" in outcome.err


def test_two_comparisons_in_one_folder_keep_apart(capsys, cohorts, tmp_path):
    with alone(tmp_path / "out", wait=False):
        outcome = call(capsys, *command(cohorts, tmp_path / "out"))
    assert outcome.code == 1
    assert "Another lesiondelta is working in" in outcome.err


@pytest.mark.parametrize(
    ("listed", "said"), [("sub-09\n", "names 09: give participants of the cohort"), ("", "names nobody")]
)
def test_a_wrong_test_list_is_refused(capsys, cohorts, tmp_path, listed, said):
    (tmp_path / "list.txt").write_text(listed)
    outcome = call(capsys, *command(cohorts, tmp_path / "out", "--test-list", tmp_path / "list.txt"))
    assert outcome.code == 1
    assert said in outcome.err
    assert not (tmp_path / "out").exists()


def test_an_unknown_method_is_refused_with_those_there_are(capsys, cohorts, tmp_path):
    outcome = call(capsys, "compare", cohorts / "own", "-o", tmp_path / "out", "--methods", "nnunet,magic")
    assert outcome.code == 1
    assert "magic" in outcome.err
    assert "difference_weighting" in outcome.err


@pytest.mark.parametrize("named", ["samseg", "nnunet,nnunet", ","])
def test_methods_to_train_are_named_once_each(capsys, cohorts, tmp_path, named):
    outcome = call(capsys, "compare", cohorts / "own", "-o", tmp_path / "out", "--methods", named)
    assert outcome.code == 1
    assert "must name methods to train, each once" in outcome.err


def test_samseg_fills_its_row_where_it_is(capsys, monkeypatch, tmp_path):
    cohort, out = tmp_path / "cohort", tmp_path / "out"
    for seed, label in enumerate(("01", "02")):
        write_heads(cohort, label, ("1", "2"), seed)
        write_references(cohort, label, ("1", "2"))
    folder, _ = install(tmp_path / "program")
    monkeypatch.setenv("LESIONDELTA_SAMSEG", str(folder))
    outcome = call(capsys, "compare", cohort, "-o", out, *BUDGET, "--methods", "nnunet,samseg", *HEADS)
    assert outcome.code == 0, outcome.err
    table = pd.read_csv(out / "tables/table_2.tsv", sep="\t").set_index("method")
    assert table.loc["SAMSEG", "cross-validation: DSC"] > 0.6
    sizes = pd.read_csv(out / "tables/table_5.tsv", sep="\t").set_index("method")
    assert sizes.loc["SAMSEG", "prediction, s per visit"] > 0
    assert "SAMSEG (freesurfer-linux-7.4.1-20230614) as it comes, on whole heads" in outcome.out
    record = json.loads((out / "record.json").read_text())
    assert record["programs"] == {"samseg": "freesurfer-linux-7.4.1-20230614"}
    assert record["absent"] == {}
