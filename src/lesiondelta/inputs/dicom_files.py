"""DICOM files one by one: what is one, whether it is whole, and its header and pixels.

A file that begins as DICOM and cannot be read is never taken for another file: without it, its volume would be shorter.
"""

import hashlib
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
)
from pydicom.valuerep import VR

from lesiondelta.errors import ImageError

MR_IMAGES = (MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage)
IDENTIFIERS = ("SOPInstanceUID", "SeriesInstanceUID")
SIZE = ("Rows", "Columns", "BitsAllocated")
PREAMBLE = 128
GROUP_LENGTH_BYTES = 12
"""Of the first element of a file header, which says how long the rest is."""
CHUNK = 2**20
LARGEST_DEFLATED = 2**30
"""Bytes that a deflated file may unpack to."""
FIRST_GROUPS, LAST_FIRST_ELEMENT, LONGEST_FIRST_VALUE = (0x0002, 0x0008), 0x0020, 256
"""What a file without preamble and file header begins with."""
UNCOMPRESSED = ("", ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
PIXELS, END_OF_SEQUENCE = b"\xe0\x7f\x10\x00O", b"\xfe\xff\xdd\xe0"
OTHER_ENDINGS = {
    ".bat", ".bin", ".bmp", ".bval", ".bvec", ".cfg", ".csv", ".css", ".dat", ".db", ".dll", ".doc", ".docx", ".dylib",
    ".exe", ".gif", ".hdr", ".htm", ".html", ".ico", ".img", ".inf", ".ini", ".iso", ".jar", ".jpeg", ".jpg", ".js",
    ".json", ".lock", ".log", ".mat", ".md", ".mgh", ".mgz", ".nii", ".npy", ".npz", ".pak", ".par", ".pdf", ".png",
    ".py", ".raw", ".rec", ".roi", ".sh", ".so", ".tif", ".tiff", ".tsv", ".ttf", ".txt", ".xls", ".xlsx", ".xml",
}  # fmt: skip
"""Of files that may be empty or hold anything without being an image that was lost."""
IMAGE_ENDINGS = {".dcm", ".dicom", ".ima"}
ARCHIVE_ENDINGS = {".7z", ".rar", ".tar", ".tgz", ".zip"}
PACKED_ENDINGS = ARCHIVE_ENDINGS | {".bz2", ".gz", ".xz", ".zst"}
PACKED = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ\x00", b"7z\xbc\xaf", b"Rar!")
"""What packed files begin with."""
OTHER_FILES = (
    b"\x7fELF", b"MZ", b"\xfe\xed\xfa", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"%PDF",
    b"\xff\xd8\xff", b"\x89PNG",
)  # fmt: skip
"""What programs, documents and pictures begin with, such as those of the viewer on a CD."""
PAGES = (b"<", b"version https://git-lfs", b"/annex/")
"""What a server's page of an error, or a file that stands for one kept elsewhere, begins with."""


def read_header(path: Path, tags: Sequence[str]) -> Dataset | None:
    """Read these attributes of an MR image; None for any other file.

    Raises
    ------
    ImageError
        It is empty, cannot be opened, is named as an image and is none, is packed, or begins as DICOM and is damaged,
        cut off or unpacks to more than any image.
    """
    if not begins_as_dicom(path):
        _require_no_lost_image(path)
        return None
    _require_no_bomb(path)
    try:
        wanted = list({*tags, *SIZE, "SOPClassUID", "NumberOfFrames", "SamplesPerPixel"})
        header = dcmread(path, force=True, stop_before_pixels=True, specific_tags=wanted)
        kind = _kind(path) or header.get("SOPClassUID")
        if kind and kind not in MR_IMAGES and (_kind(path) or "SOPInstanceUID" in header):
            return None  # a class at whose end the file ends may have been cut off
        list(public(header))  # pydicom decodes a value when it is asked for
    except Exception as error:  # pydicom raises a dozen kinds
        if _kind(path) not in ("", *MR_IMAGES):
            return None
        raise ImageError(
            f"The header of {path} is damaged ({type(error).__name__}): copy or export it again."
        ) from error
    if not kind and not any(name in header for name in ("Rows", *IDENTIFIERS)):
        if has_preamble(path):
            raise ImageError(f"{path} begins as a DICOM image and is cut off: copy or export it again.")
        _require_no_lost_image(path)  # numbers that look like the beginning of one, or no more than that of an image
        return None
    absent = [name for name in IDENTIFIERS if not header.get(name)] if "Rows" in header else []
    if absent:
        raise ImageError(f"{path} lacks {' and '.join(absent)}, which says where it belongs: export it again.")
    if kind not in MR_IMAGES or not _is_whole(path, header):
        raise ImageError(f"{path} begins as a DICOM image and is cut off: copy or export it again.")
    header.SOPClassUID = kind  # some files say it in their file header only
    return header


def other_image(path: Path, tags: Sequence[str]) -> Dataset | None:
    """Read these attributes of an image that is no MR image, such as a secondary capture; None for any other file."""
    try:
        if not begins_as_dicom(path) or _kind(path) in MR_IMAGES:
            return None
        header = dcmread(path, force=True, stop_before_pixels=True, specific_tags=[*tags, *SIZE, "SOPClassUID"])
        list(public(header))
    except Exception:  # pydicom raises a dozen kinds; without it, no volume of MR images is shorter
        return None
    header.SOPClassUID = header.get("SOPClassUID") or _kind(path)
    return header if "Rows" in header and all(header.get(name) for name in IDENTIFIERS) else None


def begins_as_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM, with or without preamble and file header.

    Raises
    ------
    ImageError
        It cannot be opened, or is empty and not named as another kind of file.
    """
    try:
        with path.open("rb") as file:
            start = file.read(PREAMBLE + 4)
    except OSError as error:
        if _is_something_else(path):
            return False
        raise ImageError(
            f"{path} cannot be opened ({error.strerror or error}): see to its permissions or to the link, or take it "
            "away if it is not an image."
        ) from error
    if not start and not _is_something_else(path) and _may_be_image(path):
        raise ImageError(f"{path} is empty: copy or export it again, or take it away if it is not an image.")
    return start[PREAMBLE:] == b"DICM" or _begins_with_element(start)


def has_preamble(path: Path) -> bool:
    """Whether a file has the mark of DICOM, behind 128 bytes that may be anything."""
    with path.open("rb") as file:
        return file.read(PREAMBLE + 4)[PREAMBLE:] == b"DICM"


def _is_something_else(path: Path) -> bool:
    """Whether a file is not an image, to judge by its name; packed or not."""
    name = path.with_suffix("") if path.suffix.lower() in PACKED_ENDINGS else path
    return name.suffix.lower() in OTHER_ENDINGS or path.name.startswith(".")


def _may_be_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_ENDINGS or any(letter.isdigit() for letter in path.name)


def _bare(path: Path) -> bool:
    """Whether a file is named as images are: without an ending, or with one of theirs."""
    return path.suffix.lower() in IMAGE_ENDINGS or path.suffix[1:].isdigit() or not path.suffix


def require_unpacked(path: Path) -> None:
    """Raise ImageError if a file is a packed image, or an archive that holds some."""
    if path.suffix.lower() in PACKED_ENDINGS and not _is_something_else(path) and _packs_image(path):
        raise ImageError(f"{path} is packed: unpack it, or take it away if its images are not needed.")


def _packs_image(path: Path) -> bool:
    """Whether a packed file, or one in an archive, is named as an image; archives that cannot be listed count."""
    names = [path.stem]
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = [one.filename for one in archive.infolist() if not one.is_dir()]
        elif path.suffix.lower() in ARCHIVE_ENDINGS or path.stem.lower().endswith(".tar"):
            with tarfile.open(path) as tar:
                names = [one.name for one in tar if one.isfile()]
    except Exception:  # the packers raise a dozen kinds
        return True
    return any(_bare(name) and _may_be_image(name) for name in map(Path, names))


def _require_no_lost_image(path: Path) -> None:
    """Raise ImageError if a file that does not begin as DICOM, in a folder of images, may once have been one."""
    if _is_something_else(path):
        return
    require_unpacked(path)
    with path.open("rb") as file:
        start = file.read(PREAMBLE + 4)
    if not start or (start.startswith(OTHER_FILES) and path.suffix.lower() not in IMAGE_ENDINGS):
        return
    bare = _bare(path)
    if bare and start.startswith(PACKED):
        raise ImageError(f"{path} is packed: unpack it, or take it away if its images are not needed.")
    page = bare and start.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(PAGES)
    empty = not any(start) and not path.read_bytes().strip(b"\0")
    if empty or page or (bare and _may_be_image(path)):
        what = "holds only zeros" if empty else "holds a page or a placeholder" if page else "is no DICOM file"
        raise ImageError(
            f"{path} {what} where an image is expected: copy or export it again, or take it away if it is not an image."
        )


def _begins_with_element(start: bytes) -> bool:
    """Whether the first bytes are an attribute as DICOM images begin with, in any byte order."""
    if len(start) < 8:
        return False
    for order in "<>":
        group, element = struct.unpack(f"{order}HH", start[:4])
        (length,) = struct.unpack(f"{order}I", start[4:8])
        typed = start[4:6].decode("latin-1") in VR.__members__
        if group in FIRST_GROUPS and element <= LAST_FIRST_ELEMENT and (typed or length <= LONGEST_FIRST_VALUE):
            return True
    return False


def _kind(path: Path) -> str:
    """The class of object that the file header names; empty where there is none."""
    try:
        return str(read_file_meta_info(path).get("MediaStorageSOPClassUID", ""))
    except Exception:  # pydicom raises a dozen kinds
        return ""


def _require_no_bomb(path: Path) -> None:
    """Raise ImageError for a deflated file that pydicom, which unpacks it at once, could not hold."""
    try:
        meta = read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return
        with path.open("rb") as file:
            file.seek(PREAMBLE + 4 + GROUP_LENGTH_BYTES + meta.FileMetaInformationGroupLength)
            unpacker, size, chunk = zlib.decompressobj(-zlib.MAX_WBITS), 0, file.read(CHUNK)
            while chunk and size <= LARGEST_DEFLATED:
                size += len(unpacker.decompress(chunk, CHUNK))
                chunk = unpacker.unconsumed_tail or file.read(CHUNK)
    except Exception:  # pydicom raises a dozen kinds; reading the header tells what is damaged
        return
    if size > LARGEST_DEFLATED:
        raise ImageError(f"{path} unpacks to more than {LARGEST_DEFLATED / 1e9:.0f} GB: export it again, not deflated.")


def _is_whole(path: Path, header: Dataset) -> bool:
    """Whether the file goes on to the end of its pixels."""
    try:
        numbers = [int(header[name].value) for name in SIZE]
        numbers += [int(header.get(name) or 1) for name in ("NumberOfFrames", "SamplesPerPixel")]
    except (KeyError, TypeError, ValueError):
        return False
    rows, columns, bits, frames, samples = numbers
    syntax = header.file_meta.get("TransferSyntaxUID", "")
    if syntax in UNCOMPRESSED:
        return path.stat().st_size >= rows * columns * frames * samples * bits // 8
    if UID(syntax).is_transfer_syntax and UID(syntax).is_encapsulated:
        content = path.read_bytes()
        return content.find(END_OF_SEQUENCE, content.rfind(PIXELS)) > 0
    return True


def read_dataset(path: Path) -> Dataset:
    """The whole file as pydicom and highdicom want it: with class and transfer syntax, wherever it says them."""
    dataset = dcmread(path, force=True)
    if "SOPClassUID" not in dataset and "MediaStorageSOPClassUID" in dataset.file_meta:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def transfer_syntax(path: Path) -> UID:
    """How its pixels are stored; empty where the file cannot be read."""
    try:
        return UID(read_dataset(path).file_meta.TransferSyntaxUID)
    except Exception:  # pydicom raises a dozen kinds
        return UID("")


def pixels_of(path: Path) -> bytes:
    """A digest of the pixels, whether they are compressed or not; of the file where it cannot be read."""
    try:
        dataset = read_dataset(path)
    except Exception:  # pydicom raises a dozen kinds
        return hashlib.sha256(path.read_bytes()).digest()
    try:
        pixels = dataset.pixel_array.tobytes()
    except Exception:  # the decoders raise a dozen kinds
        pixels = dataset.get("PixelData") or b""
    return hashlib.sha256(pixels).digest()


def public(dataset: Dataset) -> Iterator[Any]:
    """The elements of a header at all depths, but for the makers' private ones: Philips keeps a second header there."""
    for element in dataset:
        if not element.tag.is_private:
            yield element
            for one in element.value if element.VR == "SQ" else ():
                yield from public(one)
