"""The methods of the comparison: every file here that exports METHOD is a method, named like its file.

Programs of other groups are in `external`.
"""

import importlib
import pkgutil

from lesiondelta.errors import InputError
from lesiondelta.methods.external import EXTERNAL, ExternalMethod
from lesiondelta.methods.method import Method, PriorPolicy, Recipe

__all__ = ["EXTERNAL", "ExternalMethod", "Method", "PriorPolicy", "Recipe", "load", "names"]


def names() -> tuple[str, ...]:
    """Names of all methods that can be trained, sorted."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in ("method", "external")))


def load(name: str) -> Method:
    """The method of that name; InputError lists what exists."""
    if name not in names():
        raise InputError(f"There is no method {name!r}: choose one of {', '.join(names())}.")
    method: Method = importlib.import_module(f"{__name__}.{name}").METHOD
    return method
