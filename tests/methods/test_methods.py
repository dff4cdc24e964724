import pytest

from lesiondelta import methods
from lesiondelta.cli.compare import PAPERS
from lesiondelta.errors import InputError


def test_the_papers_methods_are_compared_by_default():
    assert PAPERS.split(",") == [
        "nnunet", "swinunetr", "samseg", "simunet", "denner", "coactseg", "longitudinal_concat", "difference_weighting",
    ]  # fmt: skip
    assert set(PAPERS.split(",")) <= {*methods.names(), *methods.EXTERNAL}


def test_an_unknown_name_lists_what_exists():
    with pytest.raises(InputError, match=", ".join(methods.names())):
        methods.load("unet")


def test_the_recipe_of_the_paper_is_the_default():
    recipe = methods.Recipe()
    assert (recipe.optimiser, recipe.learning_rate, recipe.momentum) == ("sgd", 0.01, 0.99)
