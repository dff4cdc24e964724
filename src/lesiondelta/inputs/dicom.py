"""DICOM series of MR images: found in folders by their headers, checked, and read as volumes.

Names, folders and order of the files mean nothing; the headers say what belongs together and where it lies. Geometry
and pixels are read by highdicom (decision 082).
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.uid import EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage

from lesiondelta.errors import CohortError, GeometryError, ImageError
from lesiondelta.files import files_below
from lesiondelta.images import RAS_TO_LPS, Array, Volume
from lesiondelta.inputs.dicom_files import (
    begins_as_dicom,
    public,
    read_dataset,
    read_header,
    same_image,
    transfer_syntax,
)

MULTI_FRAME = (EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage)
FUNCTIONAL_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
HEADER = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality",
    "PatientID", "PatientBirthDate", "PatientSex", "SeriesNumber", "SeriesDescription", "ProtocolName", "SequenceName",
    "ImageType", "ScanningSequence", "EchoPulseSequence", "EchoPlanarPulseSequence", "ComplexImageComponent",
    "InversionRecovery", "AngioFlag", "EchoTime", "EffectiveEchoTime", "RepetitionTime", "InversionTime", "FlipAngle",
    "ContrastBolusAgent", "ContrastBolusAgentSequence", "ContrastBolusVolume", "ContrastBolusTotalDose",
    "MagneticFieldStrength", "Manufacturer", "AcquisitionDateTime", "AcquisitionDate",
    "AcquisitionTime", "SeriesDate", "SeriesTime", "StudyDate", "StudyTime", "Rows", "Columns", "PixelSpacing",
    "ImagePositionPatient", "ImageOrientationPatient", "NumberOfFrames", "InConcatenationTotalNumber",
    *FUNCTIONAL_GROUPS,
]  # fmt: skip
SPACING_TOLERANCE = 0.05
"""Of the distance between slices, as a share of it."""
ORIENTATION_TOLERANCE = 1e-3
LARGEST_LEAN_MM = 0.5
LARGEST_DRIFT_MM = 0.5
"""Of a slice from its place in an even stack."""
FEWEST_BESIDE_PLAN = 6
"""Images of a series before one at another angle counts as its plan."""
LEAST_ECHO_STEP_MS = 0.5
"""Between echoes; the echo time of one swings by less from slice to slice."""


@dataclass(frozen=True, eq=False)
class Series:
    """Images that make one volume: those of a series that share echo and image type, or one multi-frame file.

    `headers` are those of `files`, in the same order, without pixels and cut to HEADER. `left_out` is the only image of
    the series at another angle, if there is one: its plan.
    """

    files: tuple[Path, ...]
    headers: tuple[Dataset, ...]
    left_out: Path | None = None

    def value(self, *keywords: str) -> Any:  # noqa: ANN401  (whatever the header holds)
        """The first of these attributes that the header has, the first of several values; None where there is none."""
        for keyword in keywords:
            for value in _values(self.headers[0], keyword):
                if isinstance(value, str) or not isinstance(value, Sequence):
                    return value
                if value:
                    return value[0]
        return None

    def number(self, *keywords: str, scale: float = 1.0) -> float | None:
        """`value` as a number, times `scale`; None where it is none."""
        try:
            return float(self.value(*keywords)) * scale
        except (TypeError, ValueError):
            return None

    @property
    def frames(self) -> list[Dataset]:
        """What holds position and orientation: the headers, or the frames of a multi-frame file."""
        if self.multi_frame:
            return list(self.headers[0].get("PerFrameFunctionalGroupsSequence", []))
        return list(self.headers)

    @property
    def multi_frame(self) -> bool:
        """Whether it is one file with all slices."""
        return self.headers[0].SOPClassUID in MULTI_FRAME

    @property
    def image_type(self) -> list[str]:
        """Values of ImageType in capitals, such as ORIGINAL, PRIMARY, M."""
        return [str(value).upper() for value in self.headers[0].get("ImageType") or []]

    @property
    def acquired(self) -> datetime | None:
        """When its first image was acquired, or the series or study begun, as far as the headers say."""
        times = [time for header in self.headers if (time := _acquired(header))]
        return min(times, default=None)

    @property
    def name(self) -> str:
        """For messages about what is wrong with it: the first of its files."""
        return f"The series of {self.files[0]}"


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

    Other files, other modalities and second copies of an image are passed over.

    Raises
    ------
    CohortError
        There is no MR image, or a folder cannot be entered.
    ImageError
        A file is empty, damaged, cut off or cannot be opened.
    """
    groups: dict[tuple[str, str], list[tuple[Path, Dataset]]] = {}
    for path in files_below(folder):
        header = read_header(path, HEADER)
        if header is not None:
            groups.setdefault(_group(header), []).append((path, header))
    if not groups:
        raise CohortError(f"{folder} holds no DICOM MR image: give the folder of the exported series.")
    whole = [_series(part) for images in groups.values() for part in _volumes(_originals(images))]
    series = [_without_plan(one) for several in whole for one in _echoes(several)]
    return sorted(series, key=lambda one: (str(one.value("StudyInstanceUID")), one.number("SeriesNumber") or 0))


def _series(images: Sequence[tuple[Path, Dataset]]) -> Series:
    return Series(tuple(path for path, _ in images), tuple(header for _, header in images))


def _originals(images: Sequence[tuple[Path, Dataset]]) -> list[tuple[Path, Dataset]]:
    """Without second copies. An identifier says that one may be a copy, its place and its pixels that it is."""
    kept: dict[str, list[tuple[Path, Dataset]]] = {}
    for path, header in images:
        others = kept.setdefault(str(header.SOPInstanceUID), [])
        if not any(same_image(path, other) for other, _ in others):
            others.append((path, header))
    return [image for others in kept.values() for image in others]


def _volumes(images: Sequence[tuple[Path, Dataset]]) -> list[Sequence[tuple[Path, Dataset]]]:
    """A multi-frame file is a volume of its own, whatever its identifier."""
    return [[image] for image in images] if images[0][1].SOPClassUID in MULTI_FRAME else [images]


def _without_plan(series: Series) -> Series:
    """The series without the one image that lies at another angle than all others and beside their stack: its plan."""
    fields = (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6))
    try:
        places, cosines = (
            np.array([next(_values(header, name)) for header in series.headers], float).reshape(-1, count)
            for name, count in fields
        )
    except (StopIteration, RuntimeError, TypeError, ValueError):
        return series
    odd = np.abs(cosines - np.median(cosines, axis=0)).max(axis=1) > ORIENTATION_TOLERANCE
    if series.multi_frame or len(odd) < FEWEST_BESIDE_PLAN or odd.sum() != 1 or _in_stack(places[odd][0], places[~odd]):
        return series
    plan = int(odd.argmax())
    files, headers = ((*values[:plan], *values[plan + 1 :]) for values in (series.files, series.headers))
    return Series(files, headers, series.files[plan])


def _in_stack(place: Array, others: Array) -> bool:
    """Whether an image begins where one of an even stack of `others` would, within it or next to it."""
    way = others[np.linalg.norm(others - others[0], axis=1).argmax()] - others[0]
    ends = others[[(others @ way).argmin(), (others @ way).argmax()]]
    step = (ends[1] - ends[0]) / (len(others) - 1)
    count = (place - ends[0]) @ step / (step @ step)
    beside = np.linalg.norm(place - ends[0] - count * step)
    return bool(beside < np.linalg.norm(step) / 2 and -1.5 < count < len(others) + 0.5)


def holds_dicom(path: Path) -> bool:
    """Whether a path is a folder or a DICOM file."""
    return path.is_dir() or (path.is_file() and begins_as_dicom(path))


def read_series(series: Series) -> Volume:
    """Read a series as float32, with rescaling applied: (columns, rows, slices).

    Raises
    ------
    GeometryError
        The images make no volume: `require_volume`.
    ImageError
        The pixels cannot be decoded, or are colours.
    """
    require_volume(series)
    try:
        volume = _read(series)
    except Exception as error:  # pydicom, highdicom and the decoders raise a dozen kinds
        syntax = transfer_syntax(series.files[0])
        said = " ".join(str(error).split())
        raise ImageError(
            f"{series.name} cannot be read ({said}; {syntax.name}): export it again, uncompressed if you can choose."
        ) from error
    if volume.array.ndim != 3:
        raise ImageError(f"{series.name} is in colour: give the series of grey images that it was made from.")
    affine = RAS_TO_LPS @ volume.affine[:, [2, 1, 0, 3]]
    data = np.ascontiguousarray(volume.array.transpose(2, 1, 0), dtype=np.float32)
    return Volume(data, affine, series.name)


def require_volume(series: Series) -> None:
    """Raise GeometryError unless the images are parallel, of one size, evenly spaced and perpendicular to their stack.

    Raises
    ------
    GeometryError
        Says which of these they are not, and what to do about it.
    """
    frames_of_reference = {str(header.get("FrameOfReferenceUID") or "") for header in series.headers}
    if len(frames_of_reference) > 1 or "" in frames_of_reference:
        raise GeometryError(f"{series.name} has no common frame of reference (FrameOfReferenceUID): export it again.")
    if len({(str(header.get("Rows")), str(header.get("Columns"))) for header in series.headers}) > 1:
        raise GeometryError(f"{series.name} has images of several sizes: give a series that is one volume.")
    if (series.number("InConcatenationTotalNumber") or 1) > 1:
        raise GeometryError(f"{series.name} is one part of several (a concatenation): export it again, as one file.")
    places, orientation = positions(series)
    if len(places) < 2:
        raise GeometryError(f"{series.name} has only one slice: give a series that covers the brain.")
    lean_mm = _lean_mm(places, orientation)
    if lean_mm > LARGEST_LEAN_MM:
        raise GeometryError(
            f"{series.name} leans by {lean_mm:.1f} mm (gantry tilt): resample it to a rectangular grid first, and give "
            "the NIfTI file."
        )
    if _even(places, orientation):
        return
    if _even(places, orientation, allow_duplicate_positions=True, allow_missing_positions=True):
        raise GeometryError(_gaps(series, places, orientation))
    raise GeometryError(f"{series.name} has slices at uneven distances: give a series that is one volume.")


def positions(series: Series) -> tuple[Array, Array]:
    """Position of every image (N, 3) in mm along LPS axes, and the direction cosines (6,) that they share.

    Raises
    ------
    GeometryError
        Images without a place, or at several angles.
    """
    found = [[_place(frame, series, name) for frame in series.frames] for name in (
        "ImagePositionPatient", "ImageOrientationPatient",
    )]  # fmt: skip
    try:
        places, cosines = (np.array(values, float).reshape(len(values) or -1, count) for values, count in zip(
            found, (3, 6), strict=True,
        ))  # fmt: skip
    except (TypeError, ValueError):
        places = np.empty((0, 3))
    if not len(places):
        raise GeometryError(f"{series.name} has images that do not say where they lie: export it again.")
    if np.abs(cosines - cosines[0]).max() > ORIENTATION_TOLERANCE:
        odd = int(np.abs(cosines - np.median(cosines, axis=0)).max(axis=1).argmax())
        raise GeometryError(
            f"{series.name} has images at several angles, such as {series.files[odd if len(series.files) > 1 else 0]}: "
            "give a series that is one volume."
        )
    return places, cosines[0]


def volume_order(series: Series) -> list[int]:
    """For every image (or frame), its slice in the volume that `read_series` returns."""
    places, orientation = positions(series)
    _, order = hd.spatial.get_volume_positions(places, orientation, rtol=SPACING_TOLERANCE)
    return list(order or [])


def _even(places: Array, orientation: Array, **allowed: Any) -> bool:  # noqa: ANN401
    spacing, order = hd.spatial.get_volume_positions(places, orientation, rtol=SPACING_TOLERANCE, **allowed)
    if spacing is None:
        return False
    along = np.sort(places @ np.cross(orientation[3:], orientation[:3]))  # the way that highdicom counts
    drift = along - along[0] - np.sort(order) * spacing
    return bool(np.abs(drift).max() <= LARGEST_DRIFT_MM)


def _lean_mm(places: Array, orientation: Array) -> float:
    """How far the last slice lies beside the place that is straight over the first."""
    along = places @ np.cross(orientation[:3], orientation[3:])
    span = places[along.argmax()] - places[along.argmin()]
    return float(np.sqrt(max(0.0, span @ span - np.ptp(along) ** 2)))


def _gaps(series: Series, places: Array, orientation: Array) -> str:
    """What to say of slices that are there twice or not at all."""
    along = np.sort(places @ np.cross(orientation[:3], orientation[3:]))
    steps = np.diff(along)
    if steps.min() < 1e-3:
        return (
            f"{series.name} has several images at one place ({np.count_nonzero(steps < 1e-3)} of {len(along)}): it is "
            "more than one volume (echoes, repetitions). Give a series that is one."
        )
    missing = int(np.rint(steps / steps.min() - 1).sum())
    plan = f" ({series.left_out}, at another angle, was left out)" if series.left_out else ""
    return f"{series.name} lacks {missing} of {missing + len(along)} slices{plan}: export or copy it again, as a whole."


def _read(series: Series) -> hd.Volume:
    if series.multi_frame:
        return hd.Image.from_dataset(read_dataset(series.files[0]), copy=False).get_volume(
            dtype=np.float32, rtol=SPACING_TOLERANCE, apply_real_world_transform=False
        )
    return hd.get_volume_from_series(
        [read_dataset(path) for path in series.files],
        dtype=np.float32,
        rtol=SPACING_TOLERANCE,
        orientation_tol=ORIENTATION_TOLERANCE,
        apply_real_world_transform=False,
    )


def _group(header: Dataset) -> tuple[str, str]:
    if header.SOPClassUID in MULTI_FRAME:
        return str(header.SOPInstanceUID), ""
    return str(header.SeriesInstanceUID), "\\".join(map(str, (header.get("ImageType") or [])[:4]))


def _echoes(series: Series) -> list[Series]:
    """One series for every echo, shortest first."""
    times = np.array([_own(header).number("EchoTime") or 0 for header in series.headers])
    order = np.argsort(times, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(times[order]) > LEAST_ECHO_STEP_MS) + 1)
    return [
        Series(tuple(series.files[i] for i in sorted(part)), tuple(series.headers[i] for i in sorted(part)))
        for part in parts
    ]


def _own(header: Dataset) -> Series:
    return Series((), (header,))


def _values(header: Dataset, keyword: str) -> Iterator[Any]:
    """The values of an attribute that are not empty: the header's own, then those in the functional groups."""
    if header.get(keyword) not in (None, ""):
        yield header[keyword].value
    for name in FUNCTIONAL_GROUPS:
        for group in list(header.get(name) or [])[:1]:
            found = (element for element in public(group) if element.keyword == keyword)
            yield from (element.value for element in found if element.value not in (None, ""))


def _place(frame: Dataset, series: Series, keyword: str) -> Any:  # noqa: ANN401
    """The attribute of an image or a frame; where frames have none, what all of the file share."""
    own = next((element.value for element in public(frame) if element.keyword == keyword), None)
    return next(_values(series.headers[0], keyword), None) if own is None and series.multi_frame else own


def _acquired(header: Dataset) -> datetime | None:
    """Parse the first date and time that are there; those of patients born are not asked for."""
    stamps = [str(value) for value in _values(header, "AcquisitionDateTime")]
    for what in ("Acquisition", "Series", "Study"):
        stamps.append(f"{header.get(f'{what}Date') or ''}{header.get(f'{what}Time') or ''}")
    for stamp in stamps:
        try:
            return datetime.strptime(stamp[:14].split(".")[0].ljust(14, "0"), "%Y%m%d%H%M%S")
        except ValueError:
            continue
    return None
