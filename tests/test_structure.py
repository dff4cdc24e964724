"""What keeps the code readable: few parameters, short functions, modules that one reader can hold in the head."""

import ast
from pathlib import Path

import pytest

import lesiondelta

SOURCE = Path(lesiondelta.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
MOST_PARAMETERS, MOST_LINES, MOST_IMPORTS = 6, 59, 30
COMMANDS = {"run", "train", "compare", "evaluate", "calibrate", "simulate", "ljubljana", "mslesseg", "segment"}
"""Commands have an option for each of their parameters."""
CHOICES = {"lesion_probabilities"}
"""What hands on choices of the user's."""


def functions(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def parameters(function):
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    return [one.arg for one in named if one.arg not in ("self", "cls")]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_a_module_can_be_held_in_the_head(path):
    wide = {f.name for f in functions(path) if len(parameters(f)) > MOST_PARAMETERS}
    assert wide <= (COMMANDS if path.parent.name == "cli" else CHOICES)
    assert [f.name for f in functions(path) if f.end_lineno - f.lineno + 1 > MOST_LINES] == []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = {(n.module, a.name) for n in froms if (n.module or "").startswith("lesiondelta") for a in n.names}
    assert len(ours) <= MOST_IMPORTS


def test_only_one_place_knows_samseg_by_name():
    """Whatever segments fulfils one protocol: nothing on the way asks which one it is."""
    asking = [
        path.relative_to(SOURCE).as_posix()
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare) and any(getattr(c, "value", None) == "samseg" for c in node.comparators)
    ]
    assert asking == []
