"""Numbered lesions as DICOM SEG, in the study that the FLAIR came from."""

import uuid
from importlib.metadata import version
from pathlib import Path

import highdicom as hd
import numpy as np
from highdicom.seg import Segmentation, SegmentDescription
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import DA, TM

from lesiondelta.cohort import Change
from lesiondelta.errors import ImageError
from lesiondelta.files import atomic
from lesiondelta.images import Array, Volume
from lesiondelta.inputs.dicom import HEADER, Series, discreet, volume_order
from lesiondelta.inputs.dicom_files import read_dataset, read_header
from lesiondelta.outputs.segmentations import Changes, lesion_colour, lesion_name, lesion_numbers

TYPE_2 = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""What a header has to have, empty or not; those who take names away sometimes take the attributes along."""
UTF_8 = "ISO_IR 192"
SERIES_NUMBER = 9000
"""Where archives list what was made from the images."""


@discreet()
def write_dicom(
    path: Path,
    labels: Volume,
    changes: Changes,
    source: tuple[Path, ...],
    baseline: Path,
    *,
    by_hand: bool = False,
) -> None:
    """Write numbered lesions as DICOM SEG into the study that the FLAIR came from, one binary segment each.

    Patient, study, frame of reference and the place of every slice are those of the source.

    Parameters
    ----------
    labels : Volume
        On the grid of the converted FLAIR: (columns, rows, slices), as `read_series` returns it.
    changes : mapping of number to Change
        Of all lesions in `labels`, at least one.
    source : files
        The FLAIR's DICOM series.
    baseline : file
        Of the patient's first DICOM visit, whose study makes the identifiers that a lesion keeps over all visits.
    by_hand : bool
        A reader has corrected the mask.

    Raises
    ------
    ImageError
        The source has changed, or its headers allow no DICOM SEG.
    """
    try:
        series = Series(source, tuple(header for file in source if (header := read_header(file, HEADER))))
        order = volume_order(series)
        images = [_complete(read_dataset(file), series, float(labels.grid.spacing[2])) for file in source]
        numbers = lesion_numbers(labels)
        planes = np.searchsorted([0, *numbers], labels.data.transpose(2, 1, 0)[order]).astype(np.uint16)
        study = str(read_dataset(baseline).StudyInstanceUID)
        segments = [_segment(index, n, changes[n], study, by_hand) for index, n in enumerate(numbers, start=1)]
        result = _segmentation(images, planes, segments)
    except Exception as error:  # highdicom refuses headers for dozens of reasons
        raise ImageError(  # without what was said, which may quote a name
            f"The headers of {source[0]} allow no DICOM SEG ({type(error).__name__}): take the lesions from the "
            "NIfTI files or .seg.nrrd."
        ) from None
    with atomic(path) as temporary:
        result.save_as(temporary)


def _segmentation(images: list[Dataset], planes: Array, segments: list[SegmentDescription]) -> Segmentation:
    made = Segmentation(
        source_images=images,
        pixel_array=planes,
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="lesiondelta",
        manufacturer_model_name="lesiondelta",
        software_versions=_version(),
        device_serial_number="0",
        content_label="LESIONS",
        content_description="MS lesions and their change; research only",
        series_description="lesiondelta: MS lesions (research only)",
    )
    made.ContentCreatorName = ""  # which the standard asks for, empty or not
    return made


def _segment(index: int, number: int, change: Change | None, study: str, by_hand: bool) -> SegmentDescription:
    segment = SegmentDescription(
        segment_number=index,
        segment_label=lesion_name(number, change),
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        anatomic_regions=[codes.SCT.Brain],
        algorithm_type="SEMIAUTOMATIC" if by_hand else "AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="lesiondelta", version=_version(), family=codes.DCM.ArtificialIntelligence
        ),
        tracking_id=f"lesion {number}",
        tracking_uid=f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{study} lesion {number}').int}",
        display_color=hd.color.CIELabColor.from_string(lesion_colour(change)),
    )
    segment.SegmentDescription = f"{change} since the visit before" if change else "first visit"
    return segment


def _complete(image: Dataset, series: Series, slice_mm: float) -> Dataset:
    """Empty what is absent or not what the standard allows, which is what anonymising leaves; one angle for all."""
    _use_unicode(image)
    for name in TYPE_2:
        if name not in image or not _allowed(name, str(image[name].value or "")):
            setattr(image, name, "")
    if series.multi_frame:
        _share(image, ("PixelMeasuresSequence", "PlaneOrientationSequence"))
    else:
        image.ImageOrientationPatient = series.headers[0].ImageOrientationPatient
        image.SliceThickness = image.get("SliceThickness") or f"{slice_mm:.6g}"
    return image


def _use_unicode(image: Dataset) -> None:
    """Text in UTF-8: highdicom refuses the character sets of Japan, Korea and China, `ISO_IR 6` and others."""
    if str(image.get("SpecificCharacterSet") or "") not in ("", UTF_8):
        if image.SpecificCharacterSet == "ISO_IR 6":  # the default, which has no name
            del image.SpecificCharacterSet
        image.decode()
        image.SpecificCharacterSet = UTF_8


def _share(image: Dataset, groups: tuple[str, ...]) -> None:
    """Say once for all frames what each of them says: highdicom looks for it only there."""
    shared, first = image.SharedFunctionalGroupsSequence[0], image.PerFrameFunctionalGroupsSequence[0]
    for name in groups:
        if name not in shared and name in first:
            setattr(shared, name, first[name].value)


def _allowed(name: str, value: str) -> bool:
    try:
        {"Date": DA, "Time": TM}.get(name[-4:], str)(value)
    except ValueError:
        return False
    return name != "PatientSex" or value in ("M", "F", "O")


def _version() -> str:
    return version("lesiondelta")
