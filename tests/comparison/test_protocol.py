"""Who trains, who tests, and in which fold."""

import numpy as np
import pytest

from lesiondelta.comparison.protocol import draw_test, fold_of, read_test_list, write_protocol
from lesiondelta.datasets.layouts import LJUBLJANA
from lesiondelta.errors import CohortError
from lesiondelta.nnunet.training_patients import patient_folds

LABELS = [str(number) for number in range(162)]


def test_the_papers_split_is_129_and_33_patients():
    assert round(len(LABELS) * LJUBLJANA.test_share) == 33
    test = draw_test(LABELS, 33, 0)
    held_out = fold_of([label for label in LABELS if label not in test], 5, 0)
    assert (len(test), len(held_out)) == (33, 129)
    assert not test & set(held_out)
    assert sorted(np.bincount(list(held_out.values()))) == [25, 26, 26, 26, 26]


def test_a_seed_gives_one_split_whatever_the_order():
    assert draw_test(LABELS, 33, 7) == draw_test(LABELS[::-1], 33, 7) != draw_test(LABELS, 33, 8)
    assert fold_of(LABELS, 5, 7) == fold_of(LABELS[::-1], 5, 7) != fold_of(LABELS, 5, 8)


def test_folds_are_those_of_compare():
    held_out = fold_of(LABELS, 5, 3)
    for fold, part in enumerate(patient_folds(LABELS, 5, 3)):
        assert set(part.validation) == {label for label, number in held_out.items() if number == fold}


def test_too_few_patients_are_refused():
    with pytest.raises(CohortError, match="3 of 3 patients cannot be kept for testing"):
        draw_test(["a", "b", "c"], 3, 0)
    with pytest.raises(CohortError, match="3 patients are left for training, too few for 5 folds"):
        fold_of(["a", "b", "c"], 5, 0)


def test_a_test_list_names_known_participants(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("sub-1\n2\n")
    assert read_test_list(path, LABELS) == {"1", "2"}
    path.write_text("\ufeffsub-1\n\n# of the clinic\n  2  # twice scanned\n", encoding="utf-8")
    assert read_test_list(path, LABELS) == {"1", "2"}
    path.write_text("sub-1 sub-2\n")
    with pytest.raises(CohortError, match="names 1 sub-2: give participants"):
        read_test_list(path, LABELS)
    path.write_text("sub-1\nsub-x\n")
    with pytest.raises(CohortError, match="names x: give participants"):
        read_test_list(path, LABELS)
    with pytest.raises(CohortError, match="cannot be read"):
        read_test_list(tmp_path / "absent.txt", LABELS)


def test_the_protocol_on_disk(tmp_path):
    write_protocol(tmp_path, {"c"}, {"a": 1, "b": 0}, {"seed": 4})
    assert (tmp_path / "folds.tsv").read_text().splitlines() == [
        "participant_id\tsplit\tfold", "sub-a\ttrain\t1", "sub-b\ttrain\t0", "sub-c\ttest\tn/a",
    ]  # fmt: skip
    assert read_test_list(tmp_path / "test.txt", "abc") == {"c"}
    write_protocol(tmp_path, (), {"a": 1, "b": 0}, {"seed": 4}, ["d"])
    assert not (tmp_path / "test.txt").exists()
    assert "sub-d\texternal\tn/a" in (tmp_path / "folds.tsv").read_text()
