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

from lesiondelta.errors import OutputError
from lesiondelta.files import is_text
from lesiondelta.processes import variables_set

logger = logging.getLogger(__name__)

COMPILE, RESULTS = "nnUNet_compile", "nnUNet_results"


@contextlib.contextmanager
def environment(folder: Path, *, loader_processes: int = 1, compile_network: bool = False) -> Iterator[Path]:
    """Point nnU-Net at `folder`/raw and `folder`/preprocessed, and yield `folder` under a name that nnU-Net can open.

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
        folder = _named_as_text(folder, Path(results))
        variables = {
            "nnUNet_raw": str(folder / "raw"),
            "nnUNet_preprocessed": str(folder / "preprocessed"),
            RESULTS: results,
            "nnUNet_def_n_proc": "1",
            "nnUNet_n_proc_DA": str(loader_processes),
            COMPILE: os.environ.get(COMPILE, str(compile_network)),
            "nnUNet_wandb_enabled": "0",
        }
        with variables_set(variables), warnings.catch_warnings():
            # deprecations inside nnU-Net and its dependencies are nothing a user could act on
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield folder


def require_text_name(folder: Path) -> None:
    """OutputError where `environment` could not give the folder a name that is text."""
    if not is_text(folder):
        with environment(folder):
            pass


def named_as_text(folder: Path) -> Path:
    """The folder, or a link to it that lasts as long as `environment`: TensorBoard opens only names that are UTF-8."""
    return _named_as_text(folder, Path(os.environ[RESULTS]))


def _named_as_text(folder: Path, temporary: Path) -> Path:
    """The folder, or a link to it from below a temporary one: blosc2 is like TensorBoard."""
    if is_text(folder):
        return folder
    try:
        link = Path(tempfile.mkdtemp(dir=temporary)) / "linked"
        link.symlink_to(folder.absolute())
        if is_text(link):
            return link
        why = "its name is not UTF-8 either"
    except OSError as error:  # some disks know no links
        why = error.strerror or str(error)
    raise OutputError(
        f"Nothing can be trained in {folder}: its name is not UTF-8, as nnU-Net needs it, and no link to it can lie in "
        f"{temporary.parent} ({why}). Give another folder, or set TMPDIR to one."
    )


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
