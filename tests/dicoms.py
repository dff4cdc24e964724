"""DICOM series on disk, written from volumes with pydicom as a scanner would."""

from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy.spatial.transform import Rotation

from lesiondelta.images import RAS_TO_LPS, Volume

T1W = {"SeriesDescription": "t1_mprage_sag_p2", "ScanningSequence": ["GR", "IR"], "EchoTime": 2.98,
       "RepetitionTime": 2300, "InversionTime": 900, "FlipAngle": 9}  # fmt: skip
FLAIR = {"SeriesDescription": "t2_space_dark-fluid", "ScanningSequence": ["SE", "IR"], "EchoTime": 388,
         "RepetitionTime": 5000, "InversionTime": 1800, "FlipAngle": 120}  # fmt: skip
T2 = {"SeriesDescription": "t2_tse_tra", "ScanningSequence": "SE", "EchoTime": 96, "RepetitionTime": 4000}
LOCALISER = {**T1W, "SeriesDescription": "localizer", "ImageType": ["ORIGINAL", "PRIMARY", "M", "LOCALIZER"]}
NAME = "VANDERBILT^JOSEPHINE"

PLANES = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "oblique": tuple(map(tuple, Rotation.from_euler("xyz", [12, -7, 20], degrees=True).as_matrix().T[:2])),
}
"""Direction cosines of rows and columns in LPS, as in ImageOrientationPatient."""


def affine_of(plane: str, spacing=(1.0, 1.0, 3.0), origin=(-20.0, 15.0, 8.0)):
    """Voxel (column, row, slice) -> RAS+ mm."""
    row, column = (np.array(cosines, float) for cosines in PLANES[plane])
    lps = np.eye(4)
    lps[:3, :3] = np.stack([row, column, np.cross(row, column)], axis=1) * spacing
    lps[:3, 3] = origin
    return RAS_TO_LPS @ lps


def new_study(date: str = "20200301", patient: str = "4711", **other) -> dict:
    """What all series of a study share."""
    return {
        "StudyInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid(), "StudyDate": date,
        "StudyTime": "101500", "AcquisitionDate": date, "AcquisitionTime": "102030.5", "PatientID": patient,
        "PatientName": NAME, "PatientBirthDate": "19800101", "PatientSex": "F", "StudyID": "1",
        "AccessionNumber": "", "ReferringPhysicianName": "WHO^DOCTOR", **other,
    }  # fmt: skip


def write_series(folder: Path, volume: Volume, study: dict, tags: dict, number: int = 1, seed: int = 0) -> list[Path]:
    """Write (columns, rows, slices) as one file a slice, under scrambled names; returns them in slice order."""
    folder.mkdir(parents=True, exist_ok=True)
    names = np.random.default_rng(seed).permutation(volume.data.shape[2])
    shared = {"SeriesInstanceUID": generate_uid(), "SeriesNumber": number, **study, **tags}
    paths = []
    for index in range(volume.data.shape[2]):
        path = folder / f"{number}_{names[index]:04}"
        image = slice_of(volume, index, shared)
        image.InstanceNumber = int(names[index]) + 1
        image.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def slice_of(volume: Volume, index: int, tags: dict) -> Dataset:
    lps = RAS_TO_LPS @ volume.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, generate_uid()
    image.Modality, image.Manufacturer, image.ImageType = "MR", "TEST", ["ORIGINAL", "PRIMARY", "M", "ND"]
    image.Rows, image.Columns = volume.data.shape[1], volume.data.shape[0]
    image.PixelSpacing = [f"{spacing[1]:.8g}", f"{spacing[0]:.8g}"]
    image.SliceThickness = f"{spacing[2]:.8g}"
    image.ImageOrientationPatient = [f"{v:.10f}" for v in (lps[:3, :2] / spacing[:2]).T.ravel()]
    image.ImagePositionPatient = [f"{v:.8f}" for v in lps[:3, 3] + index * lps[:3, 2]]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.PixelData = np.ascontiguousarray(volume.data[:, :, index].T.astype("<u2")).tobytes()
    for name, value in tags.items():
        setattr(image, name, value)
    return image


def speckle(plane: str = "axial", shape=(20, 24, 12), spacing=(1.0, 1.0, 3.0), seed: int = 0) -> Volume:
    """Whole numbers that differ from voxel to voxel."""
    data = np.random.default_rng(seed).integers(0, 2000, shape).astype(np.float32)
    return Volume(data, affine_of(plane, spacing))


def write_enhanced(path: Path, volume: Volume, study: dict, tags: dict, echoes: int = 1) -> None:
    """Write an Enhanced MR image: all slices, of every echo, in one file, in scrambled order."""
    slices = [slice_of(volume, index, study) for index in range(volume.data.shape[2]) for _ in range(echoes)]
    slices = [slices[index] for index in np.random.default_rng(0).permutation(len(slices))]
    image = slice_of(volume, 0, {"SeriesInstanceUID": generate_uid(), "SeriesNumber": 1, **study})
    image.SOPClassUID, image.NumberOfFrames = EnhancedMRImageStorage, len(slices)
    image.SeriesDescription = tags["SeriesDescription"]
    image.PixelData = b"".join(one.PixelData for one in slices)
    image.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=image.PixelSpacing, SliceThickness=image.SliceThickness)],
            PlaneOrientationSequence=[item(ImageOrientationPatient=image.ImageOrientationPatient)],
            MREchoSequence=[item(EffectiveEchoTime=tags["EchoTime"])],
            MRTimingAndRelatedParametersSequence=[item(RepetitionTime=tags["RepetitionTime"], FlipAngle=9)],
            MRModifierSequence=[item(InversionRecovery="YES", InversionTimes=tags["InversionTime"])],
        )
    ]
    image.PerFrameFunctionalGroupsSequence = [
        item(PlanePositionSequence=[item(ImagePositionPatient=one.ImagePositionPatient)]) for one in slices
    ]
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        del image[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)


def item(**values) -> Dataset:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made
