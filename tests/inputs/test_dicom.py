"""DICOM series, right and wrong, and what is read of them.

One long file, because every test changes one thing in the same small series.
"""

import subprocess
from pathlib import Path

import gdcm
import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEGLosslessSV1, RLELossless, SecondaryCaptureImageStorage, generate_uid

from lesiondelta.errors import CohortError, GeometryError, ImageError
from lesiondelta.images import Volume, read_image
from lesiondelta.inputs.dicom import find_series, read_series, thinned
from lesiondelta.inputs.parts import differing
from lesiondelta.inputs.stacks import Stack
from lesiondelta.inputs.studies import describe, weighting
from tests.dicoms import (
    FLAIR,
    LOCALISER,
    PLANES,
    T1W,
    affine_of,
    item,
    new_study,
    slice_of,
    speckle,
    write_enhanced,
    write_series,
)  # fmt: skip
from tests.places import same_places


def only(folder):
    (series,) = find_series(folder)
    return series


def rewrite(path, **tags):
    """None takes an attribute away."""
    image = pydicom.dcmread(path)
    for name, value in tags.items():
        if value is None:
            del image[name]
        else:
            setattr(image, name, value)
    image.save_as(path)


@pytest.mark.parametrize("plane", PLANES)
def test_voxels_are_where_the_headers_say(plane, tmp_path):
    volume = speckle(plane)
    write_series(tmp_path, volume, new_study(), FLAIR)
    assert same_places(read_series(only(tmp_path)), volume)


@pytest.mark.parametrize("plane", PLANES)
def test_dcm2niix_puts_every_voxel_in_the_same_place(plane, tmp_path):
    """An independent converter, compared voxel by voxel."""
    write_series(tmp_path / "dicom", speckle(plane, shape=(20, 24, 40), spacing=(1, 1, 1)), new_study(), T1W)
    command = ["dcm2niix", "-z", "n", "-b", "n", "-f", "image", "-o", tmp_path, tmp_path / "dicom"]
    subprocess.run(command, check=True, capture_output=True)
    assert same_places(read_series(only(tmp_path / "dicom")), read_image(tmp_path / "image.nii"))


def test_values_are_rescaled_slice_by_slice(tmp_path):
    volume = speckle()
    paths = write_series(tmp_path, volume, new_study(), FLAIR)
    for index, path in enumerate(paths):
        rewrite(path, RescaleSlope=index + 1, RescaleIntercept=-5)
    scaled = volume.with_data(volume.data * np.arange(1, 13) - 5)
    assert same_places(read_series(only(tmp_path)), scaled)


def test_series_of_a_folder_are_kept_apart_whatever_their_files_are_called(tmp_path):
    study = new_study()
    for number, tags in enumerate((LOCALISER, T1W, FLAIR), start=1):
        write_series(tmp_path, speckle(seed=number), study, tags, number, seed=number)
    (tmp_path / "DICOMDIR").write_text("no image")
    found = find_series(tmp_path)
    assert [int(series.value("SeriesNumber")) for series in found] == [1, 2, 3]
    assert same_places(read_series(found[2]), speckle(seed=3))


def test_an_image_copied_twice_counts_once(tmp_path):
    paths = write_series(tmp_path / "a", speckle(), new_study(), FLAIR)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "copy").write_bytes(paths[3].read_bytes())
    assert same_places(read_series(only(tmp_path)), speckle())


def test_echoes_of_one_series_are_two_volumes(tmp_path):
    study = new_study()
    uid = generate_uid()
    for echo in (20, 90):
        tags = FLAIR | {"EchoTime": echo, "SeriesInstanceUID": uid}
        write_series(tmp_path / str(echo), speckle(seed=echo), study, tags)
    assert [series.value("EchoTime") for series in find_series(tmp_path)] == [20, 90]


def test_an_echo_time_that_swings_from_slice_to_slice_is_one_echo(tmp_path):
    """As GE writes it: with every second slice apart, half a volume would be as even as the whole."""
    for index, path in enumerate(write_series(tmp_path, speckle(), new_study(), FLAIR)):
        rewrite(path, EchoTime=(119.016, 119.048)[index % 2])
    assert same_places(read_series(only(tmp_path)), speckle())


@pytest.mark.parametrize("plane", PLANES)
def test_enhanced_images_are_read_and_recognised(plane, tmp_path):
    write_enhanced(tmp_path / "one.dcm", speckle(plane), new_study(), FLAIR)
    assert same_places(read_series(only(tmp_path)), speckle(plane))
    assert weighting(only(tmp_path)) == "FLAIR"


def test_the_second_header_that_philips_keeps_is_not_read(tmp_path):
    path = tmp_path / "one.dcm"
    write_enhanced(path, speckle("oblique"), new_study(), FLAIR)
    image = pydicom.dcmread(path)
    for frame in image.PerFrameFunctionalGroupsSequence:
        block = frame.private_block(0x2005, "Philips MR Imaging DD 005", create=True)
        other = item(EchoTime=1, RepetitionTime=2, ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
        block.add_new(0x0F, "SQ", [other])
    image.save_as(path)
    assert same_places(read_series(only(tmp_path)), speckle("oblique"))
    assert weighting(only(tmp_path)) == "FLAIR"


def test_echoes_in_one_enhanced_image_are_no_volume(tmp_path):
    write_enhanced(tmp_path / "one.dcm", speckle(), new_study(), FLAIR, echoes=2)
    refused(tmp_path, GeometryError, "several images at one place (12 of 24)")


def test_legacy_enhanced_images_are_read(tmp_path):
    volume = speckle("oblique")
    paths = write_series(tmp_path / "single", volume, new_study(), FLAIR)
    enhanced = hd.legacy.LegacyConvertedEnhancedMRImage(
        [pydicom.dcmread(path) for path in paths], generate_uid(), 5, generate_uid(), 1
    )
    (tmp_path / "enhanced").mkdir()
    enhanced.save_as(tmp_path / "enhanced" / "one.dcm")
    series = only(tmp_path / "enhanced")
    assert same_places(read_series(series), volume)
    assert series.value("EchoTime") == FLAIR["EchoTime"]


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLosslessSV1])
def test_compressed_images_are_read(syntax, tmp_path):
    for path in write_series(tmp_path, speckle(), new_study(), FLAIR):
        compress(path, syntax)
    assert same_places(read_series(only(tmp_path)), speckle())


def compress(path: Path, syntax: str) -> None:
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def refused(folder, error, *words):
    with pytest.raises(error) as raised:
        read_series(only(folder))
    said = str(raised.value)
    assert str(folder) in said
    assert "\n" not in said
    for word in words:
        assert word in said


def test_missing_slices_are_counted(tmp_path):
    paths = write_series(tmp_path, speckle(), new_study(), FLAIR)
    for path in (paths[4], paths[5], paths[9]):
        path.unlink()
    refused(tmp_path, GeometryError, "lacks 3 of 12 slices")


def test_several_images_at_one_place_are_no_volume(tmp_path):
    study, uid = new_study(), generate_uid()
    for repetition in (1, 2):
        write_series(tmp_path / str(repetition), speckle(), study, FLAIR | {"SeriesInstanceUID": uid})
    refused(tmp_path, GeometryError, "several images at one place (12 of 24)")


def test_a_tilted_gantry_is_named(tmp_path):
    for index, path in enumerate(write_series(tmp_path, speckle(), new_study(), FLAIR)):
        rewrite(path, ImagePositionPatient=[-20.0, 15.0 + 0.1 * index, 8.0 + 3 * index])
    refused(tmp_path, GeometryError, "leans by 1.1 mm (gantry tilt)")


def test_images_at_several_angles_are_no_volume(tmp_path):
    paths = write_series(tmp_path, speckle(), new_study(), FLAIR)
    rewrite(paths[2], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    refused(tmp_path, GeometryError, "several angles")


def test_uneven_distances_are_no_volume(tmp_path):
    paths = write_series(tmp_path, speckle(), new_study(), FLAIR)
    rewrite(paths[-1], ImagePositionPatient=[-20, 15, 8 + 3 * 11 + 1.4])
    refused(tmp_path, GeometryError, "uneven distances")


def test_small_errors_of_distance_that_add_up_are_no_volume(tmp_path):
    """Every step is within 5 % of the mean, and the middle slice 3 mm from its place."""
    places = np.cumsum([0, *[1.04] * 80, *[0.96] * 79])
    paths = write_series(tmp_path, speckle(shape=(4, 4, 160), spacing=(1, 1, 1)), new_study(), FLAIR)
    for path, place in zip(paths, places, strict=True):
        rewrite(path, ImagePositionPatient=[0, 0, f"{place:.2f}"])
    refused(tmp_path, GeometryError, "uneven distances")


def test_one_part_of_several_is_no_volume(tmp_path):
    path = tmp_path / "one.dcm"
    for tags in (
        {"InConcatenationTotalNumber": 2},
        {"ConcatenationUID": "1.2.3"},
        {"InConcatenationNumber": 1},
        {"ConcatenationFrameOffsetNumber": 0},
    ):
        write_enhanced(path, speckle(), new_study(), FLAIR)
        rewrite(path, **tags)
        refused(tmp_path, GeometryError, "one part of several")
    rewrite(path, InConcatenationTotalNumber=1)
    assert same_places(read_series(only(tmp_path)), speckle())


def test_colours_are_refused(tmp_path):
    for path in write_series(tmp_path, speckle(), new_study(), FLAIR):
        rewrite(path, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0, BitsAllocated=8,
                BitsStored=8, HighBit=7, PixelData=bytes(20 * 24 * 3))  # fmt: skip
    refused(tmp_path, ImageError, "is in colour")


DAMAGED = {"place": (b"-20.00000000", b"-20.0x000000"), "orientation": (b"1.0000000000", b"1.0000z00000")}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_place_is_none(what, tmp_path):
    paths = write_series(tmp_path, speckle(), new_study(), FLAIR)
    paths[3].write_bytes(paths[3].read_bytes().replace(*DAMAGED[what]))
    refused(tmp_path, GeometryError, "do not say where they lie")


def test_a_damaged_header_is_named_and_its_slice_not_passed_over(tmp_path):
    paths = write_series(tmp_path, speckle(), new_study(), FLAIR)
    paths[0].write_bytes(paths[0].read_bytes().replace(b"\x08\x00\x22\x00DA", b"\x08\x00\x22\x00DN"))
    with pytest.raises(ImageError, match=f"header of {paths[0]} is damaged"):
        find_series(tmp_path)


@pytest.mark.parametrize("plane", PLANES)
def test_signed_pixels_keep_their_sign(plane, tmp_path):
    """12 bits of 16, as Siemens stores phase and GE everything."""
    volume = speckle(plane)
    signed = volume.with_data(volume.data - 1000)
    for index, path in enumerate(write_series(tmp_path, volume, new_study(), FLAIR)):
        pixels = (signed.data[:, :, index].T.astype("<i2").view("<u2") & 0x0FFF).tobytes()
        rewrite(path, PixelRepresentation=1, BitsStored=12, HighBit=11, PixelData=pixels)
    assert same_places(read_series(only(tmp_path)), signed)


def test_images_without_a_place_are_refused(tmp_path):
    paths = write_series(tmp_path, speckle(), new_study(), FLAIR)
    image = pydicom.dcmread(paths[2])
    del image.ImagePositionPatient
    image.save_as(paths[2])
    refused(tmp_path, GeometryError, "do not say where they lie")


def test_one_slice_is_no_volume(tmp_path):
    write_series(tmp_path, speckle(shape=(20, 24, 1)), new_study(), FLAIR)
    refused(tmp_path, GeometryError, "only one slice")


def test_images_of_several_sizes_are_no_volume(tmp_path):
    study = new_study()
    write_series(tmp_path, speckle(), study, FLAIR | {"SeriesInstanceUID": "1.2.3"})
    image = slice_of(
        Volume(np.ones((8, 8, 20)), affine_of("axial")), 12, study | FLAIR | {"SeriesInstanceUID": "1.2.3"}
    )
    image.save_as(tmp_path / "small", enforce_file_format=True)
    refused(tmp_path, GeometryError, "several sizes")


def test_cut_off_pixels_are_an_image_that_cannot_be_read(tmp_path):
    paths = write_series(tmp_path, speckle(), new_study(), FLAIR)
    paths[5].write_bytes(paths[5].read_bytes()[:-400])
    refused(tmp_path, ImageError, f"{paths[5]} cannot be read", "Explicit VR Little Endian): export it again.")


def test_a_folder_without_mr_images_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(CohortError, match=f"{tmp_path} holds no DICOM MR image"):
        find_series(tmp_path)


def test_the_earliest_time_is_when_a_series_was_acquired(tmp_path):
    paths = write_series(tmp_path, speckle(), new_study(), FLAIR)
    rewrite(paths[7], AcquisitionTime="101010")
    assert only(tmp_path).acquired.isoformat() == "2020-03-01T10:10:10"


OTHER_TYPE = ["ORIGINAL", "PRIMARY", "M", "NORM"]
SWINGS = ("RepetitionTime", "InversionTime", "FlipAngle")
PARTS = {
    "echo time absent": ({"EchoTime": None}, "EchoTime"),
    "echo time 2 ms longer": ({"EchoTime": 390}, "EchoTime"),
    "other image type": ({"ImageType": OTHER_TYPE}, "ImageType"),
    "no image type": ({"ImageType": None}, "ImageType"),
    "other series": ({"SeriesInstanceUID": "1.2.3"}, "SeriesInstanceUID"),
}


@pytest.mark.parametrize("which", [slice(9, None), slice(4, 7), slice(0, None, 2)], ids=["end", "middle", "turns"])
@pytest.mark.parametrize("name", PARTS)
def test_parts_that_make_one_stack_are_one_series(name, which, tmp_path):
    tags, differs = PARTS[name]
    for path in write_series(tmp_path, speckle("oblique"), new_study(), FLAIR)[which]:
        rewrite(path, **tags)
    series = only(tmp_path)
    assert same_places(read_series(series), speckle("oblique"))
    assert differing(series) == [differs]
    assert not series.others


DIFFERING = {
    "times": ({"RepetitionTime": 5100, "InversionTime": 1850, "FlipAngle": 90}, [*SWINGS]),
    "rounded times": ({"RepetitionTime": 5000.01, "InversionTime": 1799.99}, []),
    "no inversion time": ({"InversionTime": None}, ["InversionTime"]),
    "names": ({"SeriesNumber": 7, "SeriesDescription": "t2 stir"}, ["SeriesNumber", "SeriesDescription"]),
    "agent": ({"ContrastBolusVolume": 8}, ["ContrastBolusVolume"]),
    "fifth image type": ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"]}, ["ImageType"]),
    "another year": ({"AcquisitionDate": "20230101"}, ["AcquisitionDate"]),
}


@pytest.mark.parametrize("name", DIFFERING)
def test_what_images_of_one_series_differ_in_is_known(name, tmp_path):
    tags, differs = DIFFERING[name]
    for path in write_series(tmp_path, speckle(), new_study(), FLAIR)[6:]:
        rewrite(path, **tags)
    series = only(tmp_path)
    assert same_places(read_series(series), speckle())
    assert differing(series) == differs


def test_a_scan_over_midnight_differs_in_nothing(tmp_path):
    for index, path in enumerate(write_series(tmp_path, speckle(), new_study(), FLAIR)):
        date, time = (("20200301", "235900"), ("20200302", "000100"))[index % 2]
        rewrite(path, AcquisitionDate=date, AcquisitionTime=time)
    assert differing(only(tmp_path)) == []


def test_an_image_type_of_one_value_is_a_word(tmp_path):
    for path in write_series(tmp_path, speckle(), new_study(), FLAIR):
        rewrite(path, ImageType="PRIMARY")
    assert only(tmp_path).image_type == {"PRIMARY"}


def test_half_a_stack_with_identifiers_of_its_own_is_kept_beside(tmp_path):
    """Its frame of reference is another, too; number, description and times are the same."""
    paths = write_series(tmp_path, speckle(shape=(6, 6, 24)), new_study(), FLAIR)
    for path in paths[12:]:
        rewrite(path, SeriesInstanceUID="1.2.3", FrameOfReferenceUID="1.2.4")
    assert [[len(other.files) for other in series.others] for series in find_series(tmp_path)] == [[12], [12]]


def test_images_that_are_a_series_each_are_one(tmp_path):
    """As some who anonymise leave them; those of another scan stay apart."""
    study = new_study()
    for number, tags in enumerate((T1W, FLAIR)):
        for path in write_series(tmp_path, speckle(seed=number), study, tags, number):
            rewrite(path, SeriesInstanceUID=generate_uid())
    found = find_series(tmp_path)
    assert [len(series.files) for series in found] == [12, 12]
    assert same_places(read_series(found[1]), speckle(seed=1))
    assert differing(found[1]) == ["SeriesInstanceUID"]


def test_images_that_are_a_series_each_show_that_one_is_missing(tmp_path):
    paths = write_series(tmp_path, speckle(), new_study(), FLAIR)
    for path in paths:
        rewrite(path, SeriesInstanceUID=generate_uid())
    paths[4].unlink()
    refused(tmp_path, GeometryError, "lacks 1 of 12 slices")


NOT_JOINED = {
    "phase": {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]},
    "projection": {"ImageType": ["DERIVED", "PRIMARY", "MIP", "ND"]},
    "other echo": {"EchoTime": 90},
    "other size of pixels": {"ImageType": OTHER_TYPE, "PixelSpacing": [2, 2]},
    "no place": {"ImageType": OTHER_TYPE, "ImagePositionPatient": None},
    "no MR image": {"SOPClassUID": SecondaryCaptureImageStorage},
    "other scan": {"SeriesInstanceUID": "1.2.3", "SeriesDescription": "other"},
    "map": {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]},
    "other day": {"SeriesInstanceUID": "1.2.3", "AcquisitionDate": "20230101"},
    "other study": {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2.4"},
}


@pytest.mark.parametrize("name", NOT_JOINED)
def test_what_goes_on_and_is_not_the_same_is_kept_beside(name, tmp_path):
    paths = write_series(tmp_path, speckle(), new_study(), FLAIR)
    for path in paths[9:]:
        rewrite(path, **NOT_JOINED[name])
        if name == "no MR image":
            image = pydicom.dcmread(path)
            image.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
            image.save_as(path)
    series = max(find_series(tmp_path), key=lambda one: len(one.files))
    assert set(series.files) == set(paths[:9])
    assert [set(other.files) for other in series.others] == [set(paths[9:])]
    assert read_series(series).data.shape == (20, 24, 9)


def test_halves_of_a_stack_in_two_multi_frame_files_are_kept_beside(tmp_path):
    whole, study = speckle(), new_study() | {"SeriesInstanceUID": "1.2.3"}
    for name, first in (("a", 0), ("b", 6)):
        affine = whole.affine.copy()
        affine[:3, 3] += first * affine[:3, 2]
        write_enhanced(tmp_path / name, Volume(whole.data[:, :, first : first + 6], affine), study, FLAIR)
    assert [[other.files[0].name for other in series.others] for series in find_series(tmp_path)] == [["b"], ["a"]]


def test_series_at_the_same_places_or_elsewhere_are_not_beside(tmp_path):
    """Echoes, phase images, a reconstruction with more slices, one at other distances, and a localiser."""
    study, uid = new_study(), generate_uid()
    write_series(tmp_path, speckle(), study, FLAIR | {"SeriesInstanceUID": uid}, 1)
    write_series(tmp_path / "echo", speckle(), study, FLAIR | {"SeriesInstanceUID": uid, "EchoTime": 390}, 1)
    phase = {"SeriesInstanceUID": uid, "ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}
    write_series(tmp_path / "phase", speckle(), study, FLAIR | phase, 1)
    write_series(tmp_path, speckle(shape=(20, 24, 20)), study, FLAIR, 2)
    write_series(tmp_path, speckle(spacing=(1, 1, 3.7)), study, T1W, 3)
    write_series(tmp_path, speckle("sagittal", shape=(20, 24, 3)), study, LOCALISER, 4)
    found = find_series(tmp_path)
    assert sorted(len(series.files) for series in found) == [3, 12, 12, 12, 12, 20]
    assert not any(series.others for series in found)


def test_a_part_that_fits_two_echoes_is_kept_beside_both(tmp_path):
    study, uid = new_study(), generate_uid()
    for echo in (20, 90):
        paths = write_series(tmp_path, speckle(), study, FLAIR | {"EchoTime": echo, "SeriesInstanceUID": uid}, echo)
        for path in paths[9:]:
            path.unlink() if echo == 20 else rewrite(path, EchoTime=None)
    assert sorted(len(series.others) for series in find_series(tmp_path)) == [1, 1, 2]


def test_two_parts_that_fit_one_stack_at_one_place_are_kept_beside_it(tmp_path):
    paths = write_series(tmp_path, speckle(), new_study(), FLAIR)
    for path in paths[9:]:
        image = pydicom.dcmread(path)
        image.ImageType, image.SOPInstanceUID = OTHER_TYPE, generate_uid()
        image.save_as(path.with_name(f"7{path.name}"))
        rewrite(path, EchoTime=None)
    assert sorted(len(series.others) for series in find_series(tmp_path)) == [1, 1, 2]


@pytest.mark.parametrize("tags", [{"PhotometricInterpretation": "MONOCHROME1"}, {"PresentationLUTShape": "INVERSE"}])
def test_pixels_that_are_declared_as_inverted_are_read_as_stored(tags, tmp_path):
    for path in write_series(tmp_path / "single", speckle(), new_study(), FLAIR):
        rewrite(path, **tags)
    write_enhanced(tmp_path / "enhanced/one.dcm", speckle(), new_study(), FLAIR)
    rewrite(tmp_path / "enhanced/one.dcm", **tags)
    for name in ("single", "enhanced"):
        assert only(tmp_path / name).inverted
        assert same_places(read_series(only(tmp_path / name)), speckle())


ODD = {
    "inverted": ({"PhotometricInterpretation": "MONOCHROME1"}, "in part declared as inverted"),
    "frame of reference": ({"FrameOfReferenceUID": "1.2.3"}, "no common frame of reference"),
    "no frame of reference": ({"FrameOfReferenceUID": None}, "no common frame of reference"),
    "pixel spacing": ({"PixelSpacing": [1, 1.2]}, "differ in PixelSpacing, such as "),
    "no pixel spacing": ({"PixelSpacing": None}, "does not say how large its pixels are (PixelSpacing"),
    "pixel spacing of 0": ({"PixelSpacing": [0, 0]}, "does not say how large its pixels are (PixelSpacing"),
    "rescale slope": ({"RescaleSlope": 2, "RescaleIntercept": 0}, "have a RescaleSlope in part"),
    "no position": ({"ImagePositionPatient": None}, "(ImagePositionPatient of "),
    "no orientation": ({"ImageOrientationPatient": None}, "(ImageOrientationPatient of "),
    "bits": ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, "differ in BitsAllocated"),
    "rescale intercept": ({"RescaleIntercept": -50}, "have a RescaleIntercept in part"),
    "table of values": ({"ModalityLUTSequence": [item(ModalityLUTType="US")]}, "have a ModalityLUTSequence in part"),
    "repetition time": ({"RepetitionTime": 9000}, "differ in RepetitionTime"),
    "inversion time": ({"InversionTime": 2500}, "differ in InversionTime"),
    "size": ({"Rows": 20, "Columns": 24}, "of several sizes (Rows, Columns)"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_image_that_differs_is_named_with_its_field(name, tmp_path):
    tags, said = ODD[name]
    paths = write_series(tmp_path, speckle(), new_study(), FLAIR)
    rewrite(paths[3], **tags)
    refused(tmp_path, GeometryError, said, str(paths[3]), "export it again")


def test_a_series_without_a_frame_of_reference_is_read(tmp_path):
    for path in write_series(tmp_path / "single", speckle(), new_study(), FLAIR):
        rewrite(path, FrameOfReferenceUID=None)
    write_enhanced(tmp_path / "enhanced/one.dcm", speckle(), new_study(), FLAIR)
    rewrite(tmp_path / "enhanced/one.dcm", FrameOfReferenceUID=None)
    for name in ("single", "enhanced"):
        assert same_places(read_series(only(tmp_path / name)), speckle())


def test_a_frame_without_a_place_of_its_own_has_none(tmp_path):
    path = tmp_path / "one.dcm"
    write_enhanced(path, speckle(), new_study(), FLAIR)
    image = pydicom.dcmread(path)
    del image.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence
    image.save_as(path)
    refused(tmp_path, GeometryError, f"(ImagePositionPatient of frame 4 of {path} is absent or damaged)")


def test_frames_that_are_not_described_are_counted(tmp_path):
    write_enhanced(tmp_path / "one.dcm", speckle(), new_study(), FLAIR)
    rewrite(tmp_path / "one.dcm", NumberOfFrames=11)
    refused(tmp_path, GeometryError, "says that it has 11 images (NumberOfFrames), and describes 12")


def test_magnitude_and_phase_in_one_multi_frame_file_are_no_volume(tmp_path):
    path = tmp_path / "one.dcm"
    write_enhanced(path, speckle(), new_study(), FLAIR)
    image = pydicom.dcmread(path)
    for index, frame in enumerate(image.PerFrameFunctionalGroupsSequence):
        frame.MRImageFrameTypeSequence = [item(ComplexImageComponent=("MAGNITUDE", "PHASE")[index % 2])]
    image.save_as(path)
    refused(tmp_path, GeometryError, "differ in ComplexImageComponent")


def frames_differ(path, kind, second):
    """With a functional group of its own in the second half of the frames, as in the first half by default."""
    write_enhanced(path, speckle(), new_study(), FLAIR)
    image = pydicom.dcmread(path)
    for index, frame in enumerate(image.PerFrameFunctionalGroupsSequence):
        if kind == "FrameType":
            types = ["DERIVED", "PRIMARY", second if index >= 6 else "M", "NONE"]
            frame.MRImageFrameTypeSequence = [item(FrameType=types)]
        else:
            frame.MREchoSequence = [item(EffectiveEchoTime=second if index >= 6 else 388.0)]
    del image.SharedFunctionalGroupsSequence[0].MREchoSequence
    image.save_as(path)


@pytest.mark.parametrize(("kind", "second"), [("FrameType", "T2 MAP"), ("EchoTime", 20.0)])
def test_frames_of_several_kinds_are_no_volume(kind, second, tmp_path):
    frames_differ(tmp_path / "one.dcm", kind, second)
    refused(tmp_path, GeometryError, f"differ in {kind}, such as frame 7 of {tmp_path / 'one.dcm'}")


@pytest.mark.parametrize(("kind", "second"), [("FrameType", "M"), ("EchoTime", 390.0)])
def test_frames_that_are_alike_are_a_volume(kind, second, tmp_path):
    frames_differ(tmp_path / "one.dcm", kind, second)
    assert same_places(read_series(only(tmp_path)), speckle())


def test_multi_frame_files_with_one_identifier_at_two_places_are_two(tmp_path):
    for name, first in (("a", 0), ("b", 36)):
        volume = Volume(np.full((20, 24, 12), 5.0), affine_of("axial", origin=(0, 0, first)))
        write_enhanced(tmp_path / name, volume, new_study(), FLAIR)
        rewrite(tmp_path / name, SOPInstanceUID="1.2.3")
    assert {series.files[0].name for series in find_series(tmp_path)} == {"a", "b"}


def test_blank_images_with_one_identifier_are_all_kept(tmp_path):
    """A constant SOPInstanceUID is what some who anonymise leave; places tell the images apart."""
    volume = speckle()
    blank = volume.with_data(np.where(np.arange(12) % 11, volume.data, 0))
    for path in write_series(tmp_path, blank, new_study(), FLAIR):
        rewrite(path, SOPInstanceUID="1.2.3")
    assert same_places(read_series(only(tmp_path)), blank)


def test_rounding_of_pixel_spacing_is_no_difference(tmp_path):
    for index, path in enumerate(write_series(tmp_path, speckle(), new_study(), FLAIR)):
        rewrite(path, PixelSpacing=[("0.4995", "0.49949")[index % 2]] * 2)
    assert read_series(only(tmp_path)).data.shape == (20, 24, 12)


def test_stacks_are_apart_if_no_two_images_are_near():
    def at(*places):
        return Stack(np.array([(0, 0, z) for z in places], float), np.array([1, 0, 0, 0, 1, 0.0]), np.ones(4))

    stack = at(6, 0, 3)
    assert stack.apart(at(-3, 1, 9, 4.5))
    for place in (0, 3.05, 6.05, -0.05):
        assert not stack.apart(at(-3, 1, place))


def by_turns(folder, parts=2, **tags):
    """A FLAIR whose second, fourth, ... images are of another series."""
    paths = write_series(folder, speckle(shape=(6, 6, 24)), new_study(), FLAIR, 2)
    for index, path in enumerate(paths):
        if index % parts:
            rewrite(path, SeriesInstanceUID="1.2.3", SeriesNumber=3, **tags)
    return paths


@pytest.mark.parametrize("tags", [{}, {"SeriesDescription": "flair post"}, {"EchoTime": 400}, {"EchoTime": None}])
def test_slices_of_another_series_between_those_of_one_are_kept_beside(tags, tmp_path):
    paths = by_turns(tmp_path, **tags)
    one, other = find_series(tmp_path)
    assert (set(one.files), set(other.files)) == (set(paths[::2]), set(paths[1::2]))
    assert [beside.files for beside in (*one.others, *other.others)] == [other.files, one.files]
    assert describe(other).count("a part of its stack") == 1


def test_a_third_of_a_stack_has_the_rest_beside_it(tmp_path):
    paths = by_turns(tmp_path, parts=3)
    third = next(series for series in find_series(tmp_path) if paths[0] in series.files)
    assert [set(other.files) for other in third.others] == [{path for i, path in enumerate(paths) if i % 3}]


@pytest.mark.parametrize("tags", [{"EchoTime": 90}, {"InversionTime": 0}, {"RepetitionTime": 9000}])
def test_another_contrast_between_the_slices_is_not_beside(tags, tmp_path):
    by_turns(tmp_path, **tags)
    assert not any(series.others for series in find_series(tmp_path))


def test_a_second_scan_between_the_slices_that_makes_no_even_stack_is_not_beside(tmp_path):
    study = new_study()
    for number, shift in enumerate((0, 0, 0.7)):
        whole = speckle(seed=number)
        affine = whole.affine.copy()
        affine[:3, 3] += shift * np.array([0, 0, 1])
        write_series(tmp_path, Volume(whole.data, affine), study, FLAIR, number)
    assert not any(series.others for series in find_series(tmp_path))


def spaced(folder, spacing, first, step):
    """A volume at 3 mm, its distance and the numbers of its images as given."""
    for index, path in enumerate(write_series(folder, speckle("oblique"), new_study(), FLAIR)):
        rewrite(path, SpacingBetweenSlices=spacing, InstanceNumber=None if step is None else first + step * index)
    return thinned(only(folder))


@pytest.mark.parametrize(("first", "step"), [(1, 2), (0, 2), (99, -2), (0, None)])
def test_slices_at_twice_their_distance_are_said(first, step, tmp_path):
    assert spaced(tmp_path, 1.5, first, step) == (
        "lie 3 mm apart although the headers say 1.5 mm: every second slice may be missing"
    )


def test_slices_at_a_multiple_of_their_distance_are_said(tmp_path):
    assert "say 1 mm: 2 of 3 slices may be missing" in spaced(tmp_path, 1, 1, 3)


GAPS = {"numbers follow": (1.5, 1), "distance": (3, 2), "no multiple": (1.3, 2), "none": (0, 2), "other step": (1.5, 3)}


@pytest.mark.parametrize("name", GAPS)
def test_a_distance_that_says_nothing_is_not_said(name, tmp_path):
    spacing, step = GAPS[name]
    assert spaced(tmp_path, spacing, 1, step) == ""


def test_frames_at_twice_their_distance_are_said(tmp_path):
    write_enhanced(tmp_path / "one.dcm", speckle(), new_study(), FLAIR)
    image = pydicom.dcmread(tmp_path / "one.dcm")
    image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = 1.5
    image.save_as(tmp_path / "one.dcm")
    assert "every second slice may be missing" in thinned(only(tmp_path))


@pytest.mark.parametrize("stamp", ["19000101000000", "29990101000000"])
def test_a_day_on_which_no_scan_can_have_been_is_passed_over(stamp, tmp_path):
    write_series(tmp_path / "a", speckle(), new_study() | {"AcquisitionDateTime": stamp}, FLAIR)
    assert only(tmp_path / "a").acquired.isoformat() == "2020-03-01T10:20:30"
    shifted = new_study("19050607") | {"AcquisitionDateTime": ""}
    write_series(tmp_path / "b", speckle(), shifted, FLAIR)
    assert only(tmp_path / "b").acquired.year == 1905
