"""DICOM series of MR images: found in folders by their headers, checked, and read as volumes.

Names, folders and order of the files mean nothing; the headers say what belongs together and where it lies. Geometry
and pixels are read by highdicom (decision 082).
"""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from pydicom import Dataset

from lesiondelta.errors import CohortError, GeometryError, ImageError, short
from lesiondelta.files import files_below
from lesiondelta.images import LARGEST_BYTES, RAS_TO_LPS, Array, Volume
from lesiondelta.inputs.dicom_files import (
    UNCOMPRESSED,
    begins_as_dicom,
    has_preamble,
    other_image,
    read_dataset,
    read_header,
    transfer_syntax,
)
from lesiondelta.inputs.parts import put_together
from lesiondelta.inputs.series import HEADER as HEADER
from lesiondelta.inputs.series import NO_NUMBER, TIMES, name_of, place_of, positions
from lesiondelta.inputs.series import Series as Series
from lesiondelta.inputs.stacks import LARGEST_LEAN_MM, ORIENTATION_TOLERANCE, SPACING_TOLERANCE, even, lean_mm

UNKNOWN_FRAME = "2.25.0"
NIFTI_ENDINGS = {".gz", ".hdr", ".img", ".nii"}
PART = ("ConcatenationUID", "InConcatenationNumber", "ConcatenationFrameOffsetNumber")
"""What parts of a concatenation have."""
TIMING_TOLERANCE = 0.1
"""Of echo, repetition and inversion times within one volume, as a share."""


@contextmanager
def discreet() -> Iterator[None]:
    """Keep quiet what pydicom and highdicom say of odd headers: they quote them, names of patients included."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def find_series(folder: Path) -> list[Series]:
    """Find the MR series in a folder and the folders below it, by study and number.

    Other files, other modalities and second copies of an image are passed over. Parts of a series that are one even
    stack together are one, whatever else they differ in.

    Raises
    ------
    CohortError
        There is no MR image, or a folder cannot be entered.
    ImageError
        A file is empty, damaged, cut off or cannot be opened.
    """
    files = files_below(folder)
    images = [
        (path, header)
        for path in files
        if (header := read_header(path, HEADER) or other_image(path, HEADER)) is not None
    ]
    series = put_together(images)
    if not series:
        nifti = any(path.name.lower().endswith((".nii", ".nii.gz")) for path in files)
        what = "the two NIfTI files, --visit T1w.nii.gz FLAIR.nii.gz" if nifti else "the folder of the exported series"
        raise CohortError(f"{folder} holds no DICOM MR image: give {what}.")
    return sorted(series, key=lambda one: (str(one.value("StudyInstanceUID")), one.number("SeriesNumber") or 0))


def holds_dicom(path: Path) -> bool:
    """Whether a path is a folder or a DICOM file; the first voxels of a NIfTI file may look like the start of one."""
    if path.is_dir() or not path.is_file():
        return path.is_dir()
    return begins_as_dicom(path) and (path.suffix.lower() not in NIFTI_ENDINGS or has_preamble(path))


def read_series(series: Series) -> Volume:
    """Read a series as float32, with rescaling applied: (columns, rows, slices).

    Raises
    ------
    GeometryError
        The images make no volume: `require_volume`.
    ImageError
        The pixels cannot be decoded, are colours, or more than any image has.
    """
    require_volume(series)
    _require_size(series)
    try:
        volume = _read(series)
    except Exception as error:  # pydicom, highdicom and the decoders raise a dozen kinds
        syntax = transfer_syntax(series.files[0])
        said = "; ".join(filter(None, (short(error) or type(error).__name__, syntax.name)))
        how = "" if syntax in UNCOMPRESSED else ", uncompressed if you can choose"
        name = next((str(path) for path in series.files if not _decodes(path)), series.name)
        raise ImageError(f"{name} cannot be read ({said}): export it again{how}.") from error
    if volume.array.ndim != 3:
        raise ImageError(f"{series.name} is in colour: give the series of grey images that it was made from.")
    affine = RAS_TO_LPS @ volume.affine[:, [2, 1, 0, 3]]
    data = np.ascontiguousarray(volume.array.transpose(2, 1, 0), dtype=np.float32)
    return Volume(data, affine, series.name)


def _require_size(series: Series) -> None:
    """Compressed files may say any size: raise ImageError before room for it is asked for."""
    rows, columns = (series.number(name) or 0 for name in ("Rows", "Columns"))
    voxel_bytes = (series.number("SamplesPerPixel") or 1) * max(4, (series.number("BitsAllocated") or 0) / 8)
    if rows * columns * len(series.frames) * voxel_bytes > LARGEST_BYTES:
        raise ImageError(
            f"{series.name} says that it has {len(series.frames)} images of {rows:.0f} x {columns:.0f} pixels (Rows, "
            "Columns), which is more than any has: export it again."
        )


def _decodes(path: Path) -> bool:
    try:
        return bool(read_dataset(path).pixel_array.size)
    except Exception:  # the decoders raise a dozen kinds
        return False


def require_volume(series: Series) -> None:
    """Raise GeometryError unless the images are alike, parallel, evenly spaced and perpendicular to their stack.

    Raises
    ------
    GeometryError
        Says which of these they are not, and what to do about it.
    """
    _require_common(series)
    if (series.number("InConcatenationTotalNumber") or (2 if series.value(*PART) is not None else 1)) != 1:
        raise GeometryError(f"{series.name} is one part of several (a concatenation): export it again, as one file.")
    if series.multi_frame and len(series.frames) != (series.number("NumberOfFrames") or 0):
        raise GeometryError(
            f"{series.files[0]} says that it has {series.value('NumberOfFrames') or 'no'} images (NumberOfFrames), and "
            f"describes {len(series.frames)}: export it again."
        )
    places, orientation = positions(series)
    _require_spacing(series)
    for keyword in ("ComplexImageComponent", "FrameType"):
        kinds = [str(place_of(frame, series, keyword) or "") for frame in series.frames]
        _require_alike(series, f"differ in {keyword}", kinds)
    for names in TIMES:
        _require_alike(series, f"differ in {names[0]}", _near_first(series, names))
    if len(places) < 2:
        raise GeometryError(
            f"{series.name} has only one slice: give a series that covers the brain, or export it again if every image "
            "became a series of its own."
        )
    lean = lean_mm(places, orientation)
    if lean > LARGEST_LEAN_MM:
        raise GeometryError(
            f"{series.name} leans by {lean:.1f} mm (gantry tilt): resample it to a rectangular grid first, and give "
            "the NIfTI file."
        )
    if even(places, orientation):
        return
    if even(places, orientation, allow_duplicate_positions=True, allow_missing_positions=True):
        raise GeometryError(_gaps(series, places, orientation))
    raise GeometryError(f"{series.name} has slices at uneven distances: give a series that is one volume.")


def _require_common(series: Series) -> None:
    """What all images have to say alike, or none of them; of scaling only whether they say it."""
    headers = series.headers
    frames = [_said(header, "FrameOfReferenceUID") for header in headers]
    sizes = [_said(header, "Rows", "Columns") for header in headers]
    inverted = [Series((), (header,)).inverted for header in headers]
    bits = [_said(header, "BitsAllocated") for header in headers]
    _require_alike(series, "have no common frame of reference (FrameOfReferenceUID)", frames)
    _require_alike(series, "are of several sizes (Rows, Columns)", sizes)
    _require_alike(series, "are in part declared as inverted (PhotometricInterpretation)", inverted)
    _require_alike(series, "differ in BitsAllocated", bits)
    for keyword in ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"):
        scaled = [place_of(frame, series, keyword) is not None for frame in series.frames]
        _require_alike(series, f"have a {keyword} in part", scaled)


def _said(header: Dataset, *keywords: str) -> str:
    return " ".join(str(header.get(keyword) or "") for keyword in keywords)


def _require_alike(series: Series, what: str, values: Sequence[object]) -> None:
    """Raise GeometryError if not all images have the same value, with one that differs from most."""
    usual = Counter(values).most_common(1)
    odd = next((index for index, value in enumerate(values) if value != usual[0][0]), None)
    if odd is not None:
        raise GeometryError(
            f"{series.name} is no volume: its images {what}, such as {name_of(series, odd)}. Give a series that is one "
            "volume, or export it again."
        )


def _near_first(series: Series, names: Sequence[str]) -> list[bool]:
    """Whether a time of every image (or frame) is near that of the first; one that is absent or 0 is not known."""
    values = []
    for frame in series.frames:
        found = next((value for name in names if (value := place_of(frame, series, name)) is not None), None)
        values.append(_number(next(iter(np.ravel(found)), None)) if found else 0.0)
    first = next((value for value in values if value > 0), 0.0)
    return [value <= 0 or abs(value - first) <= TIMING_TOLERANCE * max(value, first) for value in values]


def _require_spacing(series: Series) -> None:
    values = []
    for index, frame in enumerate(series.frames):
        found = place_of(frame, series, "PixelSpacing")
        try:
            spacing = np.array(found, float).reshape(2)
        except NO_NUMBER:
            spacing = np.zeros(2)
        if not (np.isfinite(spacing).all() and spacing.min() > 0):
            raise GeometryError(
                f"{name_of(series, index)} does not say how large its pixels are (PixelSpacing is absent or no size): "
                "export it again."
            )
        values.append(spacing)
    _require_alike(series, "differ in PixelSpacing", [np.allclose(one, values[0], rtol=1e-3) for one in values])


def volume_order(series: Series) -> list[int]:
    """For every image (or frame), its slice in the volume that `read_series` returns."""
    places, orientation = positions(series)
    _, order = hd.spatial.get_volume_positions(places, orientation, rtol=SPACING_TOLERANCE)
    return list(order or [])


def thinned(series: Series) -> str:
    """Say of a volume that its slices lie several times as far apart as the headers say; empty where they do not.

    Some write the gap between slices as their distance. Then the numbers of the images follow one another.
    """
    places, orientation = positions(series)
    spacing, order = hd.spatial.get_volume_positions(places, orientation, rtol=SPACING_TOLERANCE)
    said = abs(_number(place_of(series.frames[0], series, "SpacingBetweenSlices")))
    times = round(spacing / said) if spacing and said > 0 else 1
    if not spacing or not order or times < 2 or abs(spacing - times * said) > SPACING_TOLERANCE * said:
        return ""
    name = "InStackPositionNumber" if series.multi_frame else "InstanceNumber"
    numbers = np.array([_number(place_of(frame, series, name)) for frame in series.frames])
    if np.isfinite(numbers).all() and (np.abs(np.diff(numbers[np.argsort(order)])) != times).any():
        return ""
    lost = "every second slice" if times == 2 else f"{times - 1} of {times} slices"
    return f"lie {spacing:.3g} mm apart although the headers say {said:.3g} mm: {lost} may be missing"


def _number(value: Any) -> float:  # noqa: ANN401  (whatever the header holds)
    """NaN where it is absent or none."""
    try:
        return float(value)
    except NO_NUMBER:
        return float("nan")


def _gaps(series: Series, places: Array, orientation: Array) -> str:
    """What to say of slices that are there twice or not at all."""
    along = np.sort(places @ np.cross(orientation[:3], orientation[3:]))
    steps = np.diff(along)
    if steps.min() < 1e-3:
        return (
            f"{series.name} has several images at one place ({np.count_nonzero(steps < 1e-3)} of {len(along)}): it is "
            "more than one volume (echoes, repetitions, or copied twice). Give a series that is one."
        )
    missing = int(np.rint(steps / steps.min() - 1).sum())
    plan = f" ({series.left_out}, at another angle, was left out)" if series.left_out else ""
    return f"{series.name} lacks {missing} of {missing + len(along)} slices{plan}: export or copy it again, as a whole."


def _read(series: Series) -> hd.Volume:
    """With the pixels as they are stored, whatever is declared of how to show them."""
    if series.multi_frame:
        return hd.Image.from_dataset(_in_frame(read_dataset(series.files[0])), copy=False).get_volume(
            dtype=np.float32, rtol=SPACING_TOLERANCE, apply_real_world_transform=False, apply_presentation_lut=False
        )
    images = [_in_frame(read_dataset(path)) for path in series.files]
    for image in images:  # the parts of one that was torn apart
        image.SeriesInstanceUID = images[0].SeriesInstanceUID
        image.PixelSpacing = images[0].PixelSpacing
    return hd.get_volume_from_series(
        images,
        dtype=np.float32,
        rtol=SPACING_TOLERANCE,
        orientation_tol=ORIENTATION_TOLERANCE,
        apply_real_world_transform=False,
        apply_presentation_lut=False,
    )


def _in_frame(image: Dataset) -> Dataset:
    """With a frame of reference, which highdicom wants; `require_volume` has seen that all have the same, or none."""
    image.FrameOfReferenceUID = image.get("FrameOfReferenceUID") or UNKNOWN_FRAME
    return image
