"""Files found, written, hashed and logged: none is passed over, and each is whole or absent; a log may be cut short."""

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from lesiondelta.errors import CohortError, OutputError
from lesiondelta.processes import variables_set

log = logging.getLogger(__name__)

LOCK, TEMPORARY, PARTIAL = ".lock", ".lesiondelta-", ".partial-"
"""What our files that are no results are named, or begin with."""
LARGEST_TEXT = 2**24
"""Bytes of a sidecar, a table or a description; those of whole cohorts have less."""
ROOM_BYTES = 10**9
"""For the images of a patient as external programs want them."""


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted.

    Raises
    ------
    CohortError
        It cannot be entered: leaving it out would leave out images.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise no_entry(error, folder) from error


def contents(folder: Path) -> set[str]:
    """Names of what a folder holds, but for our lock and temporary files; none where it is absent."""
    found = {path.name for path in entries(folder)} if folder.is_dir() else set()
    return {name for name in found if name != LOCK and not name.startswith((TEMPORARY, PARTIAL))}


def no_entry(error: OSError, place: Path) -> CohortError:
    """What to say where the system does not let a folder be entered, or a link leads nowhere."""
    where = os.fsdecode(error.filename or place)
    return CohortError(
        f"{where} cannot be entered ({error.strerror or error}): see to its permissions, or to the link."
    )


def files_below(folder: Path, pattern: str = "*") -> list[Path]:
    """All files in a folder and in those below it whose names fit a pattern, in capitals or not, sorted.

    Names that begin with a dot are passed over: macOS keeps `._NAME` beside NAME. Links to folders are followed, each
    folder once, but for those above the first. A link that leads nowhere counts as a file, so that whoever reads it
    says so.

    Raises
    ------
    CohortError
        A folder cannot be entered.
    """
    return sorted(path for path in _below(folder) if fnmatchcase(path.name.lower(), pattern.lower()))


def _below(start: Path) -> Iterator[Path]:
    seen = {str(above) for above in start.resolve().parents}
    folders, links = [start], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        try:
            for path in (path for path in entries(folder) if not path.name.startswith(".")):
                if path.is_dir():
                    (links if path.is_symlink() else folders).append(path)
                elif path.is_file() or (path.is_symlink() and not path.exists()):
                    yield path
        except OSError as error:  # its names can be read, and nothing else
            raise no_entry(error, folder) from error


def small_content(path: Path, largest: int = LARGEST_TEXT) -> bytes:
    """The content of a file of text that people or programs wrote.

    Raises
    ------
    OSError
        It is absent or cannot be opened.
    ValueError
        It is larger than any such file, or not a file: reading a pipe would never end.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is a folder, a pipe or a device")
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it is larger than {largest / 1e6:.0f} MB")
    return content


def parsed_json(content: str | bytes) -> Any:  # noqa: ANN401
    """What JSON holds; ValueError where it is not JSON or nested too deeply."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def is_text(path: Path) -> bool:
    """Whether a path is text: ITK ends the process where it holds bytes that are not."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def as_text(path: Path) -> str:
    """A path with `/`, its bytes that are no text spelled out, as `write_json` does: what is read back is the same."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode()


@contextmanager
def room_for_temporary_files(out: Path) -> Iterator[None]:
    """Inside the block, temporary files of this process and of those it starts lie where there is room for them.

    That is the system's folder, or, where that is small or cannot be written, the nearest folder above `out`.

    Raises
    ------
    OutputError
        Neither folder can be written.
    """
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    system = _free_bytes(None)
    if system > ROOM_BYTES or system >= _free_bytes(place) > 0:
        yield
        return
    try:
        made = tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=place)
    except OSError as error:
        if system:
            yield
            return
        raise OutputError(
            f"Neither the system's folder for temporary files nor {place} can be written ({error.strerror or error}): "
            "set TMPDIR to a folder that can."
        ) from error
    before = tempfile.tempdir
    with made as folder:
        # matplotlib would make a folder of its own, and miss it at the end
        plots = os.environ.get("MPLCONFIGDIR", str(Path(folder) / "matplotlib"))
        with variables_set({"TMPDIR": folder, "MPLCONFIGDIR": plots}):
            tempfile.tempdir = folder
            try:
                yield
            finally:
                tempfile.tempdir = before


def _free_bytes(folder: Path | None) -> int:
    """Room for temporary files in a folder, None for the system's; 0 where it cannot be written."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
        return shutil.disk_usage(folder or tempfile.gettempdir()).free
    except OSError:
        return 0


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place once the block ends without an error.

    The temporary file keeps the suffixes of `path`, so that writers which choose a format by name still do.

    Raises
    ------
    OutputError
        The folder cannot be written, or the disk is full.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=PARTIAL, suffix=f"-{path.name}", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        with suppress(OSError):  # some shares (CIFS, FUSE) know no modes
            temporary.chmod(0o666 & ~_umask())
        yield temporary
        with temporary.open("r+b") as written:  # Windows flushes only what is open for writing
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"Cannot write {path}: {error.strerror or error}. Check its folder and the free space."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `folder` that takes its place once the block ends without an error.

    Raises
    ------
    OutputError
        `folder` exists and is not to be replaced, or cannot be written.
    """
    if not replace:
        require_new(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=folder.parent) as made:
            partial = Path(made) / "whole"
            partial.mkdir()
            yield partial
            if replace and folder.exists():
                shutil.rmtree(folder)
            require_new(folder)  # another process may have been faster
            partial.rename(folder)
    except OSError as error:
        raise OutputError(
            f"Cannot write {folder}: {error.strerror or error}. Check its folder and the free space."
        ) from error


def require_new(folder: Path) -> None:
    """OutputError where there is something already."""
    if folder.exists():
        raise OutputError(f"{folder} exists: give a new folder.")


def require_writable(folder: Path) -> None:
    """Make the folder where it is absent; OutputError where files cannot be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"Cannot write into {folder}: {error.strerror or error}. Give another folder.") from error


@contextmanager
def alone(folder: Path, *, wait: bool, lock: str = LOCK, busy: str = "", needed: bool = True) -> Iterator[None]:
    """Keep other processes that ask the same out of `folder`; the system frees the lock of a process that is killed.

    `lock` names the file in it that is locked, `busy` is what is said where another process has it. Where no lock can
    be had (some network disks know none) and none is `needed`, the log says so and the block continues.

    Raises
    ------
    OutputError
        The folder cannot be locked, or, without `wait`, another process has it.
    """
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # a soft lock instead would outlive a killed process
            held.enter_context(_acquired(FileLock(folder / lock, fallback_to_soft=False), folder, wait))
        except Timeout as error:
            busy = busy or f"Another lesiondelta is working in {folder}: wait for it, or give another."
            raise OutputError(busy) from error
        except OSError as error:
            said = f"Cannot lock {folder}: {error.strerror or error}."
            if needed:
                raise OutputError(f"{said} Choose another folder or another disk.") from error
            log.warning("%s See to it that no other run works on the same files meanwhile.", said)
        yield


def _acquired(lock: BaseFileLock, folder: Path, wait: bool) -> AbstractContextManager[object]:
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise
        log.info("another lesiondelta is working in %s: waiting for it", folder)
        return lock.acquire()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; bytes of a path that are no text are written as escapes."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write indented JSON atomically; bytes of a path that are no text, which JSON cannot hold, are spelled out."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, re.sub("[\udc80-\udcff]", lambda byte: rf"\\u{ord(byte[0]):x}", text) + "\n")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


class _QuietFile(logging.FileHandler):
    """A log that a full disk cuts short, without a traceback for every line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Go on; the results say what could not be written."""


@contextmanager
def logged_by(handler: logging.Handler) -> Iterator[None]:
    """What the package logs inside the block also goes to `handler`."""
    package = logging.getLogger("lesiondelta")
    level = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """What the package logs inside the block is added to a file; OutputError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _QuietFile(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OutputError(
            f"Cannot write {path}: {error.strerror or error}. Check its folder and the free space."
        ) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    try:
        with logged_by(handler):
            yield
    finally:
        with suppress(OSError):
            handler.close()
