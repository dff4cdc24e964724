"""A series of DICOM images: its headers, what they say, and where the images lie."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.uid import EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage

from lesiondelta.errors import GeometryError
from lesiondelta.images import Array
from lesiondelta.inputs.dicom_files import public
from lesiondelta.inputs.stacks import ORIENTATION_TOLERANCE, Stack

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
    "ImagePositionPatient", "ImageOrientationPatient", "SpacingBetweenSlices", "InstanceNumber",
    "NumberOfFrames", "InConcatenationTotalNumber",
    "ConcatenationUID", "InConcatenationNumber", "ConcatenationFrameOffsetNumber", "PhotometricInterpretation",
    "PresentationLUTShape", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "BitsAllocated",
    *FUNCTIONAL_GROUPS,
]  # fmt: skip
TIMES = (("EchoTime", "EffectiveEchoTime"), ("RepetitionTime",), ("InversionTime", "InversionTimes"))
"""In milliseconds; each with its name in multi-frame files."""
DATES = ("AcquisitionDateTime", "AcquisitionDate", "SeriesDate", "StudyDate")
"""Of a series, in the order in which they count."""
EARLIEST_YEAR = 1985
"""Of scans that there are; dates before it are placeholders, or shifted."""
CLOCKS_DIFFER = timedelta(days=1)
"""Between a scanner and this computer, by their time zones."""
IDENTITY = ("SOPInstanceUID", "SeriesInstanceUID", "Rows", "Columns", "EchoTime")
"""What copies of an image share, and their place."""
NO_NUMBER = (TypeError, ValueError, OverflowError)
"""What is raised where a value is none, or has hundreds of digits."""
Images = list[tuple[Path, Dataset]]
"""Files with their headers."""


@dataclass(frozen=True, eq=False)
class Series:
    """Images that make one volume: those of a series that share echo and image type, or one multi-frame file.

    `headers` are those of `files`, in the same order, without pixels and cut to HEADER. `left_out` is the only image of
    the series at another angle, if there is one: its plan. `others` are series that lie where slices of its stack would
    and are not part of it. `dates` are those attributes of DATES that count.
    """

    files: tuple[Path, ...]
    headers: tuple[Dataset, ...]
    left_out: Path | None = None
    others: tuple["Series", ...] = ()
    dates: tuple[str, ...] = DATES

    def value(self, *keywords: str) -> Any:  # noqa: ANN401  (whatever the header holds)
        """The first of these attributes that the header has, the first of several values; None where there is none."""
        for keyword in keywords:
            for value in values_of(self.headers[0], keyword):
                if isinstance(value, str) or not isinstance(value, Sequence):
                    return value
                if value:
                    return value[0]
        return None

    def number(self, *keywords: str, scale: float = 1.0) -> float | None:
        """`value` as a number, times `scale`; None where it is none."""
        try:
            return float(self.value(*keywords)) * scale
        except NO_NUMBER:
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

    @cached_property
    def image_type(self) -> set[str]:
        """Values of ImageType that any image has, in capitals, such as ORIGINAL, PRIMARY, M."""
        return {value.upper() for header in self.headers for value in image_type(header)}

    @cached_property
    def identifiers(self) -> set[str]:
        """Those of its images (SOPInstanceUID)."""
        return {str(header.SOPInstanceUID) for header in self.headers}

    @property
    def acquired(self) -> datetime | None:
        """When its first image was acquired, or the series or study begun, as far as the headers say."""
        times = [time for header in self.headers if (time := _acquired(header, self.dates))]
        return min([time for time in times if plausible(time)] or times, default=None)

    @cached_property
    def stack(self) -> Stack | None:
        """Where its images lie; None where not all say it, or at several angles."""
        try:
            places, orientation = positions(self)
            spacing = np.array(place_of(self.frames[0], self, "PixelSpacing"), float).reshape(2)
            return Stack(places, orientation, np.array([self.number("Rows"), self.number("Columns"), *spacing], float))
        except (GeometryError, *NO_NUMBER):
            return None

    @property
    def inverted(self) -> bool:
        """Whether the first header says that its lowest values are shown white."""
        declared = {self.value("PresentationLUTShape"), self.value("PhotometricInterpretation")}
        return bool(declared & {"INVERSE", "MONOCHROME1"})

    @property
    def name(self) -> str:
        """For messages about what is wrong with it: the first of its files."""
        return f"The series of {self.files[0]}"


def positions(series: Series) -> tuple[Array, Array]:
    """Position of every image (N, 3) in mm along LPS axes, and the direction cosines (6,) that they share.

    Raises
    ------
    GeometryError
        Images without a place, or at several angles.
    """
    places, cosines = (
        np.array([_numbers(series, index, frame, name, count) for index, frame in enumerate(series.frames)])
        for name, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6))
    )
    if not len(places):
        raise GeometryError(f"{series.name} has images that do not say where they lie: export it again.")
    apart = np.abs(cosines - np.median(cosines, axis=0)).max(axis=1)
    if np.abs(cosines - cosines[0]).max() > ORIENTATION_TOLERANCE:
        raise GeometryError(
            f"{series.name} has images at several angles, such as {name_of(series, int(apart.argmax()))}: "
            "give a series that is one volume."
        )
    return places, cosines[0]


def _numbers(series: Series, index: int, frame: Dataset, keyword: str, count: int) -> Array:
    """Of the place of an image (count,)."""
    try:
        numbers = np.array(place_of(frame, series, keyword), float).reshape(count)
    except NO_NUMBER:
        numbers = np.full(count, np.nan)
    if not np.isfinite(numbers).all():
        raise GeometryError(
            f"{series.name} has images that do not say where they lie ({keyword} of {name_of(series, index)} is absent "
            "or damaged): export it again."
        )
    return numbers


def name_of(series: Series, index: int) -> str:
    """For messages: an image or frame by its file."""
    return f"frame {index + 1} of {series.files[0]}" if series.multi_frame else str(series.files[index])


def values_of(header: Dataset, keyword: str) -> Iterator[Any]:
    """The values of an attribute that are not empty: the header's own, then those in the functional groups."""
    if header.get(keyword) not in (None, ""):
        yield header[keyword].value
    for name in FUNCTIONAL_GROUPS:
        for group in list(header.get(name) or [])[:1]:
            found = (element for element in public(group) if element.keyword == keyword)
            yield from (element.value for element in found if element.value not in (None, ""))


def place_of(frame: Dataset, series: Series, keyword: str) -> Any:  # noqa: ANN401
    """The attribute of an image or a frame; where frames have none, what all of the file share."""
    shared = list(series.headers[0].get("SharedFunctionalGroupsSequence") or [])[:1] if series.multi_frame else []
    return next((e.value for group in (frame, *shared) for e in public(group) if e.keyword == keyword), None)


def image_type(header: Dataset) -> list[str]:
    """The values of ImageType, which is a text where there is only one."""
    values = header.get("ImageType") or []
    return [values] if isinstance(values, str) else list(map(str, values))


def identity(path: Path, header: Dataset) -> tuple[str, ...]:
    """What a copy of an image has in common with it, but for its pixels: identifiers, size and place."""
    one = Series((path,), (header,))
    names = ("ImagePositionPatient", "ImageOrientationPatient")
    places = [str([place_of(frame, one, name) for name in names]) for frame in one.frames]
    return *(str(header.get(name)) for name in IDENTITY), *places


def _acquired(header: Dataset, dates: Sequence[str]) -> datetime | None:
    """The first plausible one of these dates, with its time; else the first, which may have been shifted.

    Those of patients born are not asked for.
    """
    times = [time for name in dates for stamp in _stamps(header, name) if (time := _parsed(stamp))]
    return next(filter(plausible, times), times[0] if times else None)


def _stamps(header: Dataset, name: str) -> list[str]:
    if name == "AcquisitionDateTime":
        return [str(value) for value in values_of(header, name)]
    return [f"{header.get(name) or ''}{header.get(name.replace('Date', 'Time')) or ''}"]


def _parsed(stamp: str) -> datetime | None:
    try:
        return datetime.strptime(stamp[:14].split(".")[0].ljust(14, "0"), "%Y%m%d%H%M%S")
    except ValueError:
        return None


def plausible(time: datetime) -> bool:
    """Whether a scan can have been acquired then."""
    return time.year >= EARLIEST_YEAR and time <= datetime.now() + CLOCKS_DIFFER
