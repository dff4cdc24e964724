"""A model in one file, to send and to keep: a zip of its folder."""

import lzma
import zipfile
import zlib
from pathlib import Path

from lesiondelta.errors import ModelError, OutputError
from lesiondelta.files import atomic, atomic_folder, require_new, require_writable
from lesiondelta.inference.model import DESCRIPTION, WEIGHTS, load_model

CARD = "MODEL_CARD.md"
NAMES = (DESCRIPTION, WEIGHTS, CARD)
LARGEST_BYTES = 2**31
"""Of a file in an archive; a model of the paper's preset has 0.13 GB."""
DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError,
    RuntimeError, NotImplementedError,  # encrypted, or packed in a way that Python does not know
)  # fmt: skip


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
        The folder exists, or cannot be written.
    """
    require_new(folder)
    require_writable(folder.parent)
    with atomic_folder(folder) as partial:
        for name, content in _files_in(archive).items():
            with atomic(partial / name) as temporary:
                temporary.write_bytes(content)
        load_model(partial)
    return folder


def _files_in(archive: Path) -> dict[str, bytes]:
    """The files of a model by their plain names; anything else in the archive is refused."""
    try:
        with zipfile.ZipFile(archive) as packed:
            for member in packed.infolist():
                if member.filename not in NAMES:
                    raise ModelError(f"{archive} holds {member.filename!r}, which is not part of a model: not opened.")
                if member.file_size > LARGEST_BYTES:
                    raise ModelError(f"{archive} holds a {member.filename} of over 2 GiB: give the model's folder.")
            return {member.filename: packed.read(member) for member in packed.infolist()}
    except DAMAGED as error:
        raise ModelError(f"{archive} cannot be read as a zip ({error}): copy it again.") from error
