import pytest

from lesiondelta import methods
from lesiondelta.errors import InputError


def test_the_methods_of_this_version():
    assert {"nnunet", "longitudinal_concat", "difference_weighting"} <= set(methods.names())


def test_an_unknown_name_lists_what_exists():
    with pytest.raises(InputError, match=", ".join(methods.names())):
        methods.load("unet")


def test_the_recipe_of_the_paper_is_the_default():
    recipe = methods.Recipe()
    assert (recipe.optimiser, recipe.learning_rate, recipe.momentum) == ("sgd", 0.01, 0.99)
