"""A model in one file, to send and to keep: a zip of its folder."""

import lzma
import shutil
import zipfile
import zlib
from pathlib import Path

from lesiondelta.errors import ModelError, OutputError, short
from lesiondelta.files import LARGEST_TEXT, atomic, atomic_folder, require_new, require_writable
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
        _unpack(archive, partial)
        try:
            load_model(partial)
        except ModelError as error:
            raise ModelError(str(error).replace(str(partial), str(archive))) from error
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    """Write the files of a model under their plain names; an archive with anything else in it is refused."""
    try:
        with zipfile.ZipFile(archive) as packed:
            members = packed.infolist()
            for member in members:
                _require_part(member, archive)
            if len(members) > len({member.filename for member in members}):
                raise ModelError(f"{archive} holds a file twice: export the model again.")
            for member in members:
                with (
                    packed.open(member) as content,
                    atomic(folder / member.filename) as temporary,
                    temporary.open("wb") as written,
                ):
                    shutil.copyfileobj(content, written)
    except DAMAGED as error:
        raise ModelError(f"{archive} cannot be read as a zip ({short(error)}): copy it again.") from error


def _require_part(member: zipfile.ZipInfo, archive: Path) -> None:
    """Raise ModelError for what is not part of a model, or is larger than such a part can be."""
    if member.filename not in NAMES:
        raise ModelError(f"{archive} holds {short(repr(member.filename))}, which is not part of a model: not opened.")
    if member.file_size > (LARGEST_BYTES if member.filename == WEIGHTS else LARGEST_TEXT):
        raise ModelError(
            f"{archive} holds a {member.filename} of {member.file_size / 1e6:,.0f} MB, larger than any model's: get it "
            "from its makers again."
        )
