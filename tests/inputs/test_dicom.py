import subprocess
from pathlib import Path

import gdcm
import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEGLosslessSV1, RLELossless, generate_uid

from lesiondelta.errors import CohortError, GeometryError, ImageError
from lesiondelta.images import Volume, read_image
from lesiondelta.inputs.dicom import find_series, read_series
from lesiondelta.inputs.studies import weighting
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
    image = pydicom.dcmread(path)
    for name, value in tags.items():
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
    write_enhanced(tmp_path / "one.dcm", speckle(), new_study(), FLAIR)
    rewrite(tmp_path / "one.dcm", InConcatenationTotalNumber=2)
    refused(tmp_path, GeometryError, "one part of several")


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
    refused(tmp_path, ImageError, "cannot be read", "Explicit VR Little Endian")


def test_a_folder_without_mr_images_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(CohortError, match=f"{tmp_path} holds no DICOM MR image"):
        find_series(tmp_path)


def test_the_earliest_time_is_when_a_series_was_acquired(tmp_path):
    paths = write_series(tmp_path, speckle(), new_study(), FLAIR)
    rewrite(paths[7], AcquisitionTime="101010")
    assert only(tmp_path).acquired.isoformat() == "2020-03-01T10:10:10"
