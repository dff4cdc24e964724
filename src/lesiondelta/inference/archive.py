"""A model in one file, to send and to keep: a zip of its folder."""

import shutil
import tempfile
import zipfile
from pathlib import Path

from lesiondelta.errors import ModelError, OutputError
from lesiondelta.files import atomic
from lesiondelta.inference.model import DESCRIPTION, WEIGHTS, load_model

CARD = "MODEL_CARD.md"
NAMES = (DESCRIPTION, WEIGHTS, CARD)
LARGEST_BYTES = 2**31
"""Of a file in an archive; a model of the paper's preset has 0.13 GB."""


def pack(folder: Path, archive: Path) -> Path:
    """Write description, weights and card into a zip; ModelError where they are not a sound model."""
    load_model(folder)
    if archive.exists():
        raise OutputError(f"{archive} exists: give a new file.")
    with atomic(archive) as temporary, zipfile.ZipFile(temporary, "w") as written:
        for name in NAMES:
            if (folder / name).is_file():
                written.write(folder / name, name)
    return archive


def unpack(archive: Path, folder: Path) -> Path:
    """Read such a zip into a new folder, once its weights are those that its description names.

    Raises
    ------
    ModelError
        It is no zip of a model, or damaged.
    OutputError
        The folder exists.
    """
    if folder.exists():
        raise OutputError(f"{folder} exists: give a new folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder.parent) as made:
        partial = Path(made) / "model"
        partial.mkdir()
        try:
            with zipfile.ZipFile(archive) as packed:
                for member in packed.infolist():
                    _extract(packed, member, partial, archive)
        except (OSError, zipfile.BadZipFile) as error:
            raise ModelError(f"{archive} cannot be read as a zip ({error}): copy it again.") from error
        load_model(partial)
        partial.rename(folder)
    return folder


def _extract(packed: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, archive: Path) -> None:
    """Extract a file of a model by its plain name, and nothing else."""
    if member.filename not in NAMES or member.file_size > LARGEST_BYTES:
        raise ModelError(f"{archive} holds {member.filename!r}, which is no part of a model: it was not opened.")
    with packed.open(member) as source, (folder / member.filename).open("wb") as target:
        shutil.copyfileobj(source, target)
