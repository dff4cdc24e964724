import pytest

from lesiondelta.cohort import prior_index


def test_the_prior_is_the_visit_before():
    assert [prior_index(i, 4) for i in range(4)] == [1, 0, 1, 2]  # the first one's is the next (paper, 2.1)
    assert prior_index(0, 1) == 0


@pytest.mark.parametrize("index", [-1, 2])
def test_there_is_no_other_visit(index):
    with pytest.raises(IndexError):
        prior_index(index, 2)


def test_the_prior_is_the_first_visit():
    assert [prior_index(i, 4, "baseline") for i in range(4)] == [1, 0, 0, 0]
