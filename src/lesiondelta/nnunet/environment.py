"""The variables nnU-Net reads, set around every use of it and restored afterwards; its prints become log records.

nnunetv2 must be imported inside `environment`, never at the top of a module that others import.
"""

import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

COMPILE = "nnUNet_compile"


@contextlib.contextmanager
def environment(folder: Path, *, loader_processes: int = 1, compile_network: bool = False) -> Iterator[None]:
    """Point nnU-Net at `folder`/raw and `folder`/preprocessed.

    Parameters
    ----------
    folder : path
        The training data's folder (`dataset.build`).
    loader_processes : int
        Processes that load and augment; 0: in this process. Planning needs 1 or more.
    compile_network : bool
        torch.compile, where the user has not set nnU-Net's own variable for it.
    """
    with tempfile.TemporaryDirectory(prefix="lesiondelta-") as results:
        # nnU-Net's trainer insists on a results folder of its own; ours write elsewhere.
        variables = {
            "nnUNet_raw": str(folder / "raw"),
            "nnUNet_preprocessed": str(folder / "preprocessed"),
            "nnUNet_results": results,
            "nnUNet_def_n_proc": "1",
            "nnUNet_n_proc_DA": str(loader_processes),
            COMPILE: os.environ.get(COMPILE, str(compile_network)),
            "nnUNet_wandb_enabled": "0",
        }
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            with warnings.catch_warnings():
                # deprecations inside nnU-Net and its dependencies are nothing a user could act on
                warnings.filterwarnings("ignore", category=DeprecationWarning)
                warnings.filterwarnings("ignore", category=FutureWarning)
                yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


@contextlib.contextmanager
def prints_logged() -> Iterator[None]:
    """Turn what nnU-Net prints into debug records."""
    stream = io.StringIO()
    try:
        with contextlib.redirect_stdout(stream):
            yield
    finally:
        for line in filter(str.strip, stream.getvalue().splitlines()):
            logger.debug("nnU-Net: %s", line)
