"""Damaged and hostile files of every kind that is read, drawn from a seed, and the functions of ours that read them.

A kind writes one input into an empty folder with `write(folder, rng)`, and reads it with `read(folder)`, which either
returns or raises a LesionDeltaError.
"""

import gzip
import io
import json
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from lesiondelta.errors import LesionDeltaError
from lesiondelta.images import read_image, read_labels, read_mask
from lesiondelta.inference.archive import unpack
from lesiondelta.inference.model import read_description
from lesiondelta.inputs.bids_images import doubts_of_images
from lesiondelta.inputs.bids_names import read_filters
from lesiondelta.inputs.bids_tables import dates_of, listed_without_folder, said_of_participants
from lesiondelta.inputs.dicom import find_series, read_series, thinned, volume_order
from lesiondelta.inputs.loose import loose_patient
from lesiondelta.inputs.parts import differing
from lesiondelta.inputs.sidecars import sidecars_in
from lesiondelta.inputs.studies import acquisition_of, describe, weighting
from tests.dicoms import FLAIR, T1W, new_study, speckle, write_enhanced, write_series
from tests.models import export_tiny_model

LONGEST_SENTENCE = 2000
LISTED = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029](?!  )")
"""Between two lines, unless the second is one of a list of series to choose from."""
ODD_NUMBERS = (0.0, -0.0, -1.0, 1e-45, 1e-10, 1e10, 3e38, -3e38, 1e300, float("nan"), float("inf"), float("-inf"))
ODD_INTEGERS = (0, 1, -1, 2, 3, 7, 8, 16, 127, 255, 256, 1000, 4096, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**62)
SCRIPT = "<script>alert(1)</script>"

Rng = np.random.Generator


@dataclass(frozen=True)
class Kind:
    """How inputs of a kind are written and read; `read` returns what is said beside the result."""

    write: Callable[[Path, Rng], object]
    read: Callable[[Path], list[str]]


@dataclass(frozen=True)
class Verdict:
    """What became of an input: `read`, `refused` with one of our errors, or `fault`."""

    result: str
    said: str


def judge(kind: str, folder: Path) -> Verdict:
    """Read an input; warnings of other libraries are no faults, but a sentence nobody can read is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sentences = KINDS[kind].read(folder)
        result = "read"
    except LesionDeltaError as error:
        result, sentences = "refused", [str(error)]
        if folder.name not in str(error):
            return Verdict("fault", f"does not name the file: {error}")
    except Exception as error:
        return Verdict("fault", f"{type(error).__name__}: {error}")
    long = next((said for said in sentences if len(said) > LONGEST_SENTENCE or len(LISTED.split(said)) > 1), None)
    return Verdict("fault", f"{len(long)} characters: {long[:200]!r}") if long else Verdict(result, " ".join(sentences))


def written(kind: str, folder: Path, seed: int, index: int) -> Path:
    """The input of this number, in a new folder."""
    place = folder / f"{kind}_{index}"
    place.mkdir(parents=True)
    KINDS[kind].write(place, np.random.default_rng([seed, index, *kind.encode()]))
    return place


def scrambled(content: bytes, rng: Rng, start: int = 0, end: int | None = None) -> bytes:
    """Random bytes here and there, a piece cut out, doubled or zeroed, or the end cut off or gone on with."""
    changed, end = bytearray(content), len(content) if end is None else min(end, len(content))
    if end <= start:
        return content
    for _ in range(int(rng.choice([1, 2, 4, 16]))):
        where = int(rng.integers(start, end))
        size = int(rng.choice([1, 1, 2, 4, 8, 40]))
        piece = [rng.bytes(size), b"\0" * size, b"\xff" * size, b"\x7f" * size][rng.integers(4)]
        changed[where : where + size] = piece
    cut = int(rng.integers(start, end))
    what = rng.integers(10)
    if what == 0:
        del changed[cut:]
    elif what == 1:
        changed += rng.bytes(int(rng.integers(1, 5000)))
    elif what == 2:
        del changed[cut : cut + int(rng.integers(1, 40))]
    elif what == 3:
        changed[cut:cut] = changed[cut : cut + int(rng.integers(1, 400))]
    return bytes(changed)


# NIfTI


def write_nifti(folder: Path, rng: Rng) -> None:
    image = _image(rng)
    header_bytes = image.header.sizeof_hdr
    content = bytearray(image.to_bytes())
    fields = image.header.template_dtype.fields
    how = rng.integers(4)
    if how in (0, 1):
        for _ in range(int(rng.choice([1, 1, 2, 5]))):
            _set_field(content, fields, str(rng.choice(list(fields))), rng)
    elif how == 2:
        content = bytearray(scrambled(bytes(content), rng, 0, header_bytes + 4))
    else:
        for name in rng.choice(["dim", "datatype", "bitpix", "vox_offset", "magic", "scl_slope"], 2):
            _set_field(content, fields, str(name), rng)
    if rng.random() < 0.1:
        content = bytearray(scrambled(bytes(content), rng))
    ending = str(rng.choice([".nii", ".nii.gz"]))
    (folder / f"image{ending}").write_bytes(_packed(bytes(content), rng) if ending == ".nii.gz" else content)


def _image(rng: Rng):
    affine = np.diag([1.0, 1.5, 2.0, 1.0])
    affine[:3, 3] = -9, 4, 3
    kind = nib.Nifti2Image if rng.random() < 0.25 else nib.Nifti1Image
    dtype = [np.int16, np.float32, np.uint8, np.float64][rng.integers(4)]
    image = kind(np.arange(120).reshape(4, 5, 6).astype(dtype) % (2 if dtype == np.uint8 else 97), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    if rng.random() < 0.3:
        image.header.extensions.append(nib.nifti1.Nifti1Extension(int(rng.choice([0, 2, 4, 6])), rng.bytes(40)))
    return image


def _set_field(content: bytearray, fields, name: str, rng: Rng) -> None:
    """An odd value in one place of a header's field."""
    dtype, offset = fields[name][:2]
    count = int(np.prod(dtype.shape, dtype=int)) or 1
    base = dtype.base
    where = offset + int(rng.integers(count)) * base.itemsize
    if base.kind == "f":
        value = np.array(rng.choice(ODD_NUMBERS), np.float64)
    elif base.kind in "iu":
        value = np.array(int(rng.choice(np.array(ODD_INTEGERS))), np.int64)
    else:
        content[where : where + base.itemsize] = rng.bytes(base.itemsize)
        return
    with np.errstate(all="ignore"):
        content[where : where + base.itemsize] = value.astype(base).tobytes()


def _packed(content: bytes, rng: Rng) -> bytes:
    packed = gzip.compress(content, 1, mtime=0)
    how = rng.integers(10)
    if how == 0:
        return packed[:-8] + rng.bytes(4) + packed[-4:]
    if how == 1:
        return packed + rng.bytes(50)
    if how == 2:
        return packed + gzip.compress(bytes(int(rng.integers(1, 10**7))))
    if how == 3:
        return scrambled(packed, rng)
    return packed


def read_nifti(folder: Path) -> list[str]:
    (path,) = folder.iterdir()
    for reader in (read_mask, read_labels):
        try:
            reader(path)
        except LesionDeltaError as error:
            if str(path) not in str(error):
                raise AssertionError(f"does not name the file: {error}") from error
    read_image(path)
    return []


# DICOM


@cache
def _studies() -> dict[str, list[tuple[str, bytes]]]:
    """Two series of a study, as they are written: names and contents, the T1w first."""
    found = {}
    with tempfile.TemporaryDirectory() as made:
        base = Path(made)
        for name in ("classic", "enhanced"):
            study = new_study()
            for number, tags in enumerate((T1W, FLAIR), 1):
                volume = speckle("axial", (8, 10, 3), seed=number)
                if name == "classic":
                    write_series(base / name, volume, study, tags, number)
                else:
                    write_enhanced(base / name / f"{number}.dcm", volume, study, tags)
            found[name] = [(path.name, path.read_bytes()) for path in sorted((base / name).iterdir())]
    return found


def write_dicom(folder: Path, rng: Rng) -> None:
    study = list(_studies()["enhanced" if rng.random() < 0.25 else "classic"])
    index = int(rng.integers(len(study) // 2))
    name, content = study[index]
    study[index] = name, _mutated(content, rng)
    for name, content in study:
        (folder / name).write_bytes(content)


def _mutated(content: bytes, rng: Rng) -> bytes:
    how = rng.integers(4)
    if how == 0:
        return scrambled(content, rng, 132)
    if how == 1:  # only what comes before the pixels
        return scrambled(content, rng, 132, max(content.rfind(b"\xe0\x7f\x10\x00"), 200))
    image = dcmread(io.BytesIO(content))
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        _set_tag(image, rng)
    if rng.random() < 0.3:
        syntaxes = [
            ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEGBaseline8Bit,
            JPEG2000Lossless,
        ]  # fmt: skip
        image.file_meta.TransferSyntaxUID = syntaxes[rng.integers(len(syntaxes))]
    changed = io.BytesIO()
    try:
        image.save_as(changed, enforce_file_format=False)
    except Exception:  # what pydicom refuses to write
        return scrambled(content, rng, 132)
    return changed.getvalue() if rng.random() < 0.8 else scrambled(changed.getvalue(), rng, 132)


SIZES = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel", "PixelRepresentation")
TEXTS = (
    "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "EchoTime", "RepetitionTime", "InstanceNumber",
    "SeriesNumber", "NumberOfFrames", "RescaleSlope", "RescaleIntercept", "AcquisitionDate", "AcquisitionTime",
    "StudyDate", "SeriesInstanceUID", "SOPInstanceUID", "SeriesDescription", "PatientID", "MagneticFieldStrength",
    "SpacingBetweenSlices", "ImageType", "ScanningSequence", "InversionTime",
)  # fmt: skip
VALUES = (
    b"", b"0", b"-1", b"nan", b"inf", b"1e400", b"1e30", b"1e-30", b"0\\0", b"1\\1\\1", b"0\\0\\0\\0\\0\\0",
    b"99999999", b"2147483647", b"abc", SCRIPT.encode(), b"\xff\xfe\x00", b"20209999", b"00000000", b"1.2.3",
    b"9" * 400, b"../../x", b"1\\0\\0\\1\\0\\0", b"1e300\\1e300\\1e300",
)  # fmt: skip


def _set_tag(image: Dataset, rng: Rng) -> None:
    """A tag taken away, a size that does not fit, a text in place of a number, or sequences in one another."""
    tags = [element.tag for element in image if element.keyword != "PixelData"]
    how = rng.integers(4)
    if how == 0:
        del image[tags[rng.integers(len(tags))]]
    elif how == 1:
        setattr(image, str(rng.choice(SIZES)), int(rng.choice([0, 1, 7, 8, 12, 16, 32, 64, 255, 4096, 65535])))
    elif how == 2:
        keyword = str(rng.choice(TEXTS))
        setattr(image, keyword, None)
        image[keyword]._value = VALUES[rng.integers(len(VALUES))]
        image[keyword].VR = "UN" if rng.random() < 0.3 else "LO"
    else:
        inner = Dataset()
        for _ in range(int(rng.choice([1, 5, 60]))):
            outer = Dataset()
            outer.ContrastBolusAgentSequence = DicomSequence([inner])
            inner = outer
        names = ("ContrastBolusAgentSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
        setattr(image, str(rng.choice(names)), DicomSequence([inner]))


def read_dicom(folder: Path) -> list[str]:
    """What `segment` does with a folder of DICOM, and, of every second one, what it would with each series in it."""
    if int(folder.name.rpartition("_")[2]) % 2:
        with tempfile.TemporaryDirectory() as converted:
            loose_patient([(folder,)], "1", Path(converted))
        return []
    said = []
    for series in find_series(folder):
        said += [describe(series), str(weighting(series)), str(acquisition_of(series)), str(differing(series))]
        read_series(series)
        volume_order(series)
        said.append(thinned(series))
    return said


# JSON, TSV and archives of models


def _value(rng: Rng, depth: int = 0) -> object:
    """Anything that JSON can hold."""
    how = rng.integers(12 if depth < 3 else 8)
    if how >= 10:
        return {str(rng.integers(9)): _value(rng, depth + 1) for _ in range(rng.integers(4))}
    if how >= 8:
        return [_value(rng, depth + 1) for _ in range(rng.integers(4))]
    return [
        None, True, "", SCRIPT, "\0\ud800", float(rng.choice(ODD_NUMBERS)), 10 ** int(rng.integers(1, 400)), "1" * 5000,
    ][how]  # fmt: skip


SIDECAR = ("EchoTime", "RepetitionTime", "InversionTime", "ScanningSequence", "SeriesDescription", "ProtocolName",
           "ContrastBolusIngredient")  # fmt: skip


def write_json_files(folder: Path, rng: Rng) -> None:
    anat = folder / "sub-1/ses-1/anat"
    anat.mkdir(parents=True)
    (anat / "sub-1_ses-1_FLAIR.nii.gz").touch()
    sidecar = {str(name): _value(rng) for name in rng.choice(SIDECAR, 3)}
    filters = {"flair": {str(rng.choice(["run", "acq", "x"])): _value(rng)}, "t1w": _value(rng)}
    fields = ("spacing_mm", "patch", "network", "threshold", "contrasts", "training", "tested", "format_version")
    model = _model()[0] | {str(rng.choice(fields)): _value(rng)}
    for path, content in (
        (anat / "sub-1_ses-1_FLAIR.json", sidecar), (folder / "filter.json", filters), (folder / "model.json", model),
    ):  # fmt: skip
        text = json.dumps(content if rng.random() < 0.9 else _value(rng)).encode()
        path.write_bytes(scrambled(text, rng) if rng.random() < 0.4 else text)


def read_json_files(folder: Path) -> list[str]:
    said = list(doubts_of_images({"FLAIR": folder / "sub-1/ses-1/anat/sub-1_ses-1_FLAIR.nii.gz"}, folder, sidecars_in))
    for read in (lambda: read_filters(folder / "filter.json"), lambda: read_description(folder)):
        try:
            read()
        except LesionDeltaError as error:
            said.append(str(error))
    return said


def write_table(folder: Path, rng: Rng) -> None:
    for session in ("1", "2"):
        (folder / f"sub-1/ses-{session}").mkdir(parents=True)
    columns = [str(name) for name in rng.choice(["session_id", "acq_time", "Acq_Time", "age", SCRIPT, "days"], 3)]
    cells = ["ses-1", "ses-2", "2", "n/a", "2020-01-01", "2020-13-45T99:99", "99999-01-01", '"', SCRIPT, "x" * 200_000]
    lines = [columns, *(rng.choice(cells, 3).tolist() for _ in range(rng.integers(6)))]
    if rng.random() < 0.3:
        lines = [["session_id", "acq_time"], ["ses-1", "2020-01-01"], *lines]
    separator = str(rng.choice(["\t", ",", ";", " ", "\0"], p=[0.6, 0.15, 0.1, 0.1, 0.05]))
    text = str(rng.choice(["\n", "\r\n", "\r"])).join(separator.join(line) for line in lines)
    encoding = str(rng.choice(["utf-8", "utf-16", "latin-1", "utf-8-sig"]))
    content = text.encode(encoding)
    for name in ("sub-1/sub-1_sessions.tsv", "participants.tsv"):
        (folder / name).write_bytes(scrambled(content, rng) if rng.random() < 0.5 else content)


def read_tables(folder: Path) -> list[str]:
    patient = folder / "sub-1"
    dates = dates_of(patient, {"1": [], "2": []})
    said = [doubt for one in dates for doubt in one.doubts]
    said += [text for _, text in listed_without_folder(patient)]
    return [*said, *said_of_participants(folder, ["sub-1"])]


@cache
def _model() -> tuple[dict, bytes]:
    with tempfile.TemporaryDirectory() as made:
        folder = export_tiny_model(Path(made) / "model")
        return json.loads((folder / "model.json").read_text()), (folder / "weights.safetensors").read_bytes()


STRANGERS = ("../evil.py", "/tmp/evil", "weights.pkl", "a/../model.json", "C:\\evil", "MODEL_CARD.md")
"""Names that have no place in an archive, but for the last."""


def write_archive(folder: Path, rng: Rng) -> None:
    description, weights = _model()
    if rng.random() < 0.6:
        description = json.loads(json.dumps(description))
        kwargs = description["network"]["kwargs"]
        kwargs[str(rng.choice(list(kwargs)))] = [_value(rng), int(rng.choice(ODD_INTEGERS)), [1e9, 2**40, -1]][
            rng.integers(3)
        ]
    names = {"model.json": json.dumps(description).encode(), "weights.safetensors": weights}
    if rng.random() < 0.2:
        names[str(rng.choice(STRANGERS))] = b"x"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED if rng.random() < 0.5 else zipfile.ZIP_STORED) as archive:
        for name, content in names.items():
            archive.writestr(name, scrambled(content, rng) if rng.random() < 0.2 else content)
    content = packed.getvalue()
    (folder / "model.zip").write_bytes(scrambled(content, rng) if rng.random() < 0.4 else content)


def read_archive(folder: Path) -> list[str]:
    before = {path.name for path in folder.iterdir()}
    try:
        unpack(folder / "model.zip", folder / "unpacked")
    finally:
        shutil.rmtree(folder / "unpacked", ignore_errors=True)
        left = {path.name for path in folder.iterdir()} - before
        if left or (folder.parent / "evil.py").exists():
            raise AssertionError(f"left behind: {left}")
    return []


KINDS = {
    "nifti": Kind(write_nifti, read_nifti),
    "dicom": Kind(write_dicom, read_dicom),
    "json": Kind(write_json_files, read_json_files),
    "tsv": Kind(write_table, read_tables),
    "model": Kind(write_archive, read_archive),
}
