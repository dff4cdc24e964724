"""`convert` on the command line: what is said, the protocol, and that `evaluate` and `compare` can use it."""

import json

import numpy as np
import pytest

from lesiondelta.inputs.bids import read_cohort
from lesiondelta.nnunet.training_patients import patient_folds
from tests.cli.test_bad_input import one_sentence
from tests.datasets.test_datasets import OBLIQUE, cross_sectional, files, grow, isbi, longitudinal, mslesseg, nifti
from tests.tiny import call


def splits(bids) -> dict[str, tuple[str, str]]:
    _, *rows = (bids / "protocol/folds.tsv").read_text().splitlines()
    return {name.removeprefix("sub-"): (split, fold) for name, split, fold in (row.split("\t") for row in rows)}


@pytest.mark.parametrize("dataset", ["ljubljana", "isbi2015", "mslesseg"])
def test_every_dataset_explains_itself_with_an_example(capsys, dataset):
    for words in ((dataset, "--help"), ("-h",)):
        outcome = call(capsys, "convert", *words)
        assert outcome.code == 0
        assert f"lesiondelta convert {dataset} " in outcome.out.split("For example:")[1]


def test_ljubljana_draws_the_papers_share_for_testing(capsys, tmp_path):
    source, bids = cross_sectional(tmp_path / "source", 12), tmp_path / "bids"
    outcome = call(capsys, "convert", "ljubljana", source, bids, "--split-seed", 3)
    assert outcome.code == 0, outcome.err
    assert "12 patients with 12 visits, 12 with lesion masks, are in" in outcome.out
    assert "10 patients are for training in 5 folds, 2 for testing" in outcome.out
    split = splits(bids)
    test = (bids / "protocol/test.txt").read_text().split()
    assert sorted(label for label, (kind, _) in split.items() if kind == "test") == [
        n.removeprefix("sub-") for n in test
    ]
    labels = [p.label for p in read_cohort(bids).patients if p.label not in {n.removeprefix("sub-") for n in test}]
    for fold, part in enumerate(patient_folds(labels, 5, 3)):  # as `compare --seed 3 --folds 5` does
        assert set(part.validation) == {label for label, (_, number) in split.items() if number == str(fold)}
    assert json.loads((bids / "protocol/protocol.json").read_text())["seed"] == 3
    before = files(bids)
    assert call(capsys, "convert", "ljubljana", source, bids, "--split-seed", 3).code == 0
    assert files(bids) == before
    assert call(capsys, "convert", "ljubljana", source, bids, "--split-seed", 4).code == 0
    assert splits(bids) != split


def test_a_test_list_instead_of_a_draw(capsys, tmp_path):
    source = cross_sectional(tmp_path / "source", 4)
    (tmp_path / "list.txt").write_text("sub-02\n04\n")
    given = ("convert", "ljubljana", source, tmp_path / "bids", "--folds", 2, "--test-list", tmp_path / "list.txt")
    assert call(capsys, *given).code == 0
    assert (tmp_path / "bids/protocol/test.txt").read_text() == "sub-02\nsub-04\n"
    assert {label for label, (kind, _) in splits(tmp_path / "bids").items() if kind == "train"} == {"01", "03"}


def test_masks_of_change_are_announced_as_such_and_nothing_is_split(capsys, tmp_path):
    outcome = call(capsys, "convert", "ljubljana", longitudinal(tmp_path / "source"), tmp_path / "bids")
    assert outcome.code == 0, outcome.err
    assert "Masks of lesion change are not lesion masks" in outcome.out
    assert "0 with lesion masks" in outcome.out
    assert "nothing can be trained or scored on them: there is no protocol" in outcome.out
    assert "folds" not in outcome.out
    assert not list((tmp_path / "bids").glob("protocol/*"))


def test_a_changed_source_is_what_is_counted_and_what_is_there(capsys, tmp_path):
    source, out = mslesseg(tmp_path / "source"), tmp_path / "bids"
    assert "5 patients with 7 visits, 7 with" in call(capsys, "convert", "mslesseg", source, out, "--folds", 2).out
    grow(source)
    assert "5 patients with 8 visits, 8 with" in call(capsys, "convert", "mslesseg", source, out, "--folds", 2).out
    assert len(read_cohort(out).patients[0].visits) == 3


def test_mslesseg_keeps_its_owners_split_and_can_leave_out_single_visits(capsys, tmp_path):
    source = mslesseg(tmp_path / "source")
    assert call(capsys, "convert", "mslesseg", source, tmp_path / "all", "--folds", 2).code == 0
    assert (tmp_path / "all/protocol/test.txt").read_text() == "sub-P5\n"
    assert {kind for kind, _ in splits(tmp_path / "all").values()} == {"train", "test"}
    outcome = call(capsys, "convert", "mslesseg", source, tmp_path / "two", "--folds", 2, "--min-visits", 2)
    assert "2 patients with fewer than 2 visits are left out" in outcome.out
    assert set(splits(tmp_path / "two")) == {"P1", "P2", "P5"}
    assert [len(patient.visits) for patient in read_cohort(tmp_path / "two").patients] == [2, 2, 1]
    drawn = call(capsys, "convert", "mslesseg", source, tmp_path / "all", "--folds", 2, "--test-patients", 0)
    assert drawn.code == 0
    assert not (tmp_path / "all/protocol/test.txt").exists()


def test_isbi_is_an_external_test_set_that_evaluate_scores_with_the_second_rater(capsys, tmp_path):
    outcome = call(capsys, "convert", "isbi2015", isbi(tmp_path / "source"), tmp_path / "bids")
    assert outcome.code == 0, outcome.err
    assert splits(tmp_path / "bids") == {"training01": ("external", "n/a"), "training02": ("external", "n/a")}
    assert not (tmp_path / "bids/protocol/test.txt").exists()
    derivatives = tmp_path / "bids/derivatives"
    scored = call(
        capsys, "evaluate", derivatives / "reference", derivatives / "rater2", "-o", tmp_path / "scores",
        "--second-rater", derivatives / "rater2", "--nprocs", 1, "--min-lesion-volume", 0,
    )  # fmt: skip
    assert scored.code == 0, scored.err
    assert "6 visits of 2 patients" in scored.out


def test_half_a_voxel_is_mentioned_once(capsys, tmp_path):
    source = mslesseg(tmp_path / "source")
    for visit in (1, 2):
        path = source / f"train/P1/T{visit}/P1_T{visit}_MASK.nii.gz"
        half = OBLIQUE.copy()
        half[:3, 3] += OBLIQUE[:3, :3] @ (0.5, 0.5, 0.5)
        nifti(path, affine=half)
    outcome = call(capsys, "convert", "mslesseg", source, tmp_path / "bids", "--folds", 2)
    assert outcome.code == 0
    assert outcome.err.count("half a voxel") == 1


MISTAKES = {
    "another layout": (("isbi2015", "SOURCE", "OUT"), "is no ISBI 2015"),
    "no folder": (("mslesseg", "ABSENT", "OUT"), "is not a folder"),
    "somebody else's folder": (("mslesseg", "SOURCE", "THESIS", "--folds", "2"), "is not empty and was not written by"),
    "inside the source": (("mslesseg", "SOURCE", "INSIDE", "--folds", "2"), "lies inside"),
    "too few patients": (("mslesseg", "SOURCE", "OUT"), "4 patients are left for training, too few for 5 folds"),
    "too many for testing": (("mslesseg", "SOURCE", "OUT", "--test-patients", "9"), "9 of 5 patients cannot be kept"),
    "unknown participant": (
        ("mslesseg", "SOURCE", "OUT", "--test-list", "LIST"),
        "names nobodyknows: give participants",
    ),
    "list and number": (
        ("mslesseg", "SOURCE", "OUT", "--test-list", "LIST", "--test-patients", "1"),
        "--test-patients or --test-list, not both",
    ),
    "no visits": (("mslesseg", "TRAIN", "OUT", "--min-visits", "9"), "lower --min-visits"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_nothing_is_written(capsys, tmp_path, mistake):
    source = mslesseg(tmp_path / "source")
    (tmp_path / "list.txt").write_text("sub-nobodyknows\n")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("years of work")
    places = {
        "SOURCE": source, "OUT": tmp_path / "bids", "ABSENT": tmp_path / "absent", "THESIS": tmp_path / "thesis",
        "INSIDE": source / "bids", "LIST": tmp_path / "list.txt", "TRAIN": source / "train",
    }  # fmt: skip
    words, said = MISTAKES[mistake]
    before = files(tmp_path)
    outcome = call(capsys, "convert", *(places.get(word, word) for word in words))
    assert outcome.code == 1
    assert one_sentence(outcome, said)
    assert files(tmp_path) == before


def test_a_mask_elsewhere_is_one_sentence(capsys, tmp_path):
    source = mslesseg(tmp_path / "source")
    path = nifti(source / "train/P2/T1/P2_T1_MASK.nii.gz", affine=np.diag([3, 3, 3, 1]))
    outcome = call(capsys, "convert", "mslesseg", source, tmp_path / "bids", "--folds", 2)
    assert outcome.code == 1
    assert one_sentence(outcome, str(path))
