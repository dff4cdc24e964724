import json
import subprocess

import highdicom as hd
import numpy as np
import pydicom
import pytest
import slicerio

from lesiondelta.cohort import Change
from lesiondelta.errors import ImageError
from lesiondelta.images import RAS_TO_LPS, Volume, read_labels
from lesiondelta.inputs.dicom import find_series, read_series
from lesiondelta.outputs.derivatives import Place
from lesiondelta.outputs.dicom_seg import write_dicom
from lesiondelta.outputs.lesions import COLOURS
from lesiondelta.outputs.segmentations import (
    DicomSource,
    dicom_path,
    slicer_path,
    write_segmentations,
    write_slicer,
)
from tests.dicoms import FLAIR, NAME, PLANES, new_study, speckle, write_enhanced, write_series
from tests.places import apart_mm, same_places

CHANGES = {2: Change.NEW, 5: None, 9: Change.RESOLVED}


def lesions_on(volume: Volume) -> Volume:
    """Three lesions whose shapes have no symmetry, in (columns, rows, slices)."""
    labels = np.zeros(volume.data.shape, np.int32)
    labels[3:6, 4, 2] = labels[3, 5:8, 2:4] = 2
    labels[10:12, 11:16, 7] = labels[10, 11, 7:10] = 5
    labels[15, 2:4, 9:11] = labels[16, 2, 10] = 9
    return volume.with_data(labels)


def written(tmp_path, plane, **other):
    """A FLAIR series in `plane`, and lesions on its grid, written beside it as DICOM SEG."""
    return segmented(tmp_path, written_series(tmp_path, plane, **other))


def written_series(tmp_path, plane, **other):
    write_series(tmp_path / "flair", speckle(plane), new_study(**other), FLAIR, number=7)
    (series,) = find_series(tmp_path / "flair")
    return series


def segmented(tmp_path, series):
    labels = lesions_on(read_series(series))
    path = tmp_path / "lesions.dcm"
    write_dicom(path, labels, CHANGES, series.files, series.files[0])
    return path, labels


def volume_of(segmentation: hd.seg.Segmentation, segment: int) -> Volume:
    """A segment as highdicom reads it, in the place that highdicom gives it."""
    volume = segmentation.get_volume(segment_numbers=[segment], combine_segments=True, relabel=True)
    return Volume(volume.array, RAS_TO_LPS @ volume.affine)


@pytest.mark.parametrize("plane", PLANES)
def test_highdicom_finds_every_lesion_where_it_is(plane, tmp_path):
    path, labels = written(tmp_path, plane)
    segmentation = hd.seg.segread(path)
    for segment, number in enumerate(CHANGES, start=1):
        mask = labels.with_data(labels.data == number)
        assert apart_mm(volume_of(segmentation, segment), mask) < 1e-4


@pytest.mark.parametrize("plane", PLANES)
def test_dcmqi_finds_every_lesion_where_it_is(plane, tmp_path):
    path, labels = written(tmp_path, plane)
    command = ["segimage2itkimage", "--inputDICOM", path, "--outputDirectory", tmp_path, "-t", "nii", "-p", "lesion"]
    subprocess.run(command, check=True, capture_output=True)
    for segment, number in enumerate(CHANGES, start=1):
        mask = labels.with_data(labels.data == number)
        found = read_labels(tmp_path / f"lesion-{segment}.nii.gz")
        assert apart_mm(found, mask) < 1e-3
    names = [entry[0]["SegmentLabel"] for entry in json.loads((tmp_path / "lesion-meta.json").read_text())[
        "segmentAttributes"
    ]]  # fmt: skip
    assert names == ["lesion 2: new", "lesion 5", "lesion 9: resolved"]


@pytest.mark.parametrize("shared", [True, False])
def test_lesions_of_a_multi_frame_source_are_where_they_are(shared, tmp_path):
    """Also of one that says spacing and angle with every frame."""
    write_enhanced(tmp_path / "enhanced/one.dcm", speckle("oblique"), new_study(), FLAIR)
    if not shared:
        image = pydicom.dcmread(tmp_path / "enhanced/one.dcm")
        for name in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
            group = image.SharedFunctionalGroupsSequence[0].pop(name)
            for frame in image.PerFrameFunctionalGroupsSequence:
                frame[name] = group
        image.save_as(tmp_path / "enhanced/one.dcm")
    (series,) = find_series(tmp_path / "enhanced")
    labels = lesions_on(read_series(series))
    write_dicom(tmp_path / "seg.dcm", labels, CHANGES, series.files, series.files[0])
    found = volume_of(hd.seg.segread(tmp_path / "seg.dcm"), 1)
    assert apart_mm(found, labels.with_data(labels.data == 2)) < 1e-4


def test_segments_say_what_became_of_a_lesion(tmp_path):
    path, _ = written(tmp_path, "axial")
    segments = pydicom.dcmread(path).SegmentSequence
    assert [one.SegmentLabel for one in segments] == ["lesion 2: new", "lesion 5", "lesion 9: resolved"]
    assert [one.SegmentDescription for one in segments] == [
        "new since the visit before", "first visit", "resolved since the visit before",
    ]  # fmt: skip


def test_patient_and_study_are_those_of_the_source(tmp_path):
    path, _ = written(tmp_path, "axial")
    result, source = pydicom.dcmread(path), pydicom.dcmread(next((tmp_path / "flair").iterdir()))
    for name in (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "StudyInstanceUID",
        "FrameOfReferenceUID",
        "StudyDate",
    ):
        assert result[name].value == source[name].value
    assert str(result.PatientName) == NAME
    assert result.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    assert result.SeriesInstanceUID != source.SeriesInstanceUID


# PS3.3 A.51: attributes of type 1 and 2 in the mandatory modules of the Segmentation IOD, but for pixels and frames
TYPE_1 = [
    "StudyInstanceUID", "Modality", "SeriesInstanceUID", "SeriesNumber", "FrameOfReferenceUID", "Manufacturer",
    "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "InstanceNumber", "ContentDate",
    "ContentTime", "ImageType", "ContentLabel", "SegmentationType", "SegmentSequence", "SOPClassUID",
    "SOPInstanceUID", "DimensionOrganizationSequence", "DimensionIndexSequence", "LossyImageCompression",
    "ReferencedSeriesSequence",
]  # fmt: skip
TYPE_2 = [
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber", "PositionReferenceIndicator", "ContentDescription",
    "ContentCreatorName",
]  # fmt: skip
FRAME = {"PlanePositionSequence", "DerivationImageSequence", "FrameContentSequence"}


@pytest.mark.parametrize("name", [None, *TYPE_2[:9]])
def test_what_the_standard_asks_for_is_there_whatever_the_source_lacks(name, tmp_path):
    for path in write_series(tmp_path / "flair", speckle(), new_study(), FLAIR, number=7):
        image = pydicom.dcmread(path)
        if name:
            del image[name]
        image.save_as(path)
    (series,) = find_series(tmp_path / "flair")
    path, _ = segmented(tmp_path, series)
    result = pydicom.dcmread(path)
    assert not [keyword for keyword in TYPE_1 if result.get(keyword) in (None, "")]
    assert not [keyword for keyword in TYPE_2 if keyword not in result]
    assert [one.SegmentNumber for one in result.SegmentSequence] == [1, 2, 3]
    instances = {image.SOPInstanceUID: image.ImagePositionPatient for image in map(pydicom.dcmread, series.files)}
    for frame in result.PerFrameFunctionalGroupsSequence:
        assert {element.keyword for element in frame} >= FRAME
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        assert instances[source.ReferencedSOPInstanceUID] == place


def test_a_lesion_keeps_its_identifier_over_the_visits(tmp_path):
    files = write_series(tmp_path / "first", speckle(), new_study(), FLAIR)
    identifiers = []
    for visit in ("first", "second"):
        if visit == "second":
            write_series(tmp_path / visit, speckle(), new_study("20210101"), FLAIR)
        (series,) = find_series(tmp_path / visit)
        write_dicom(tmp_path / f"{visit}.dcm", lesions_on(read_series(series)), CHANGES, series.files, files[0])
        segments = pydicom.dcmread(tmp_path / f"{visit}.dcm").SegmentSequence
        identifiers.append([(one.TrackingID, one.TrackingUID) for one in segments])
    assert identifiers[0] == identifiers[1]
    assert len({uid for _, uid in identifiers[0]}) == 3


ODD = {
    "emptied": {"PatientName": "", "PatientSex": "", "StudyTime": "", "StudyID": ""},
    "replaced": {"PatientBirthDate": "ANON", "StudyTime": "25:99", "PatientSex": "FEMALE"},
    "too long": {"PatientID": "VANDERBILT" * 8, "PatientName": "Josephine Vanderbilt"},
}


@pytest.mark.filterwarnings("ignore::UserWarning:tests.dicoms", "ignore::UserWarning:pydicom")
@pytest.mark.parametrize("how", ODD)
def test_odd_headers_are_enough_and_never_quoted(how, tmp_path, recwarn, caplog, capsys):
    series = written_series(tmp_path, "axial", **ODD[how])
    recwarn.clear()
    caplog.clear()
    path, _ = segmented(tmp_path, series)
    assert hd.seg.segread(path).number_of_segments == 3
    assert not recwarn.list
    assert "VANDERBILT" not in "".join([caplog.text, *capsys.readouterr()]).upper()


def test_angles_that_swing_and_an_absent_thickness_are_enough(tmp_path):
    """As `read_series` takes them."""
    rng = np.random.default_rng(0)
    for path in write_series(tmp_path / "flair", speckle(), new_study(), FLAIR):
        image = pydicom.dcmread(path)
        image.ImageOrientationPatient = [f"{v:.8f}" for v in np.add([1, 0, 0, 0, 1, 0], rng.normal(0, 1e-5, 6))]
        del image.SliceThickness
        image.save_as(path)
    (series,) = find_series(tmp_path / "flair")
    path, labels = segmented(tmp_path, series)
    found = hd.seg.segread(path)
    assert apart_mm(volume_of(found, 1), labels.with_data(labels.data == 2)) < 1e-2
    assert found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == pytest.approx(3, abs=1e-3)


def test_a_name_in_another_alphabet_is_kept(tmp_path):
    path, _ = written(tmp_path, "axial", SpecificCharacterSet="ISO_IR 192", PatientName="ŁUKASZ^Ż")
    assert str(pydicom.dcmread(path).PatientName) == "ŁUKASZ^Ż"


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of what the test writes
@pytest.mark.parametrize(
    ("charset", "name"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce"),
        ("ISO_IR 13", "\uff94\uff8f\uff80\uff9e^\uff80\uff9b\uff73"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=\u6d2a^\u5409\u6d1e=\ud64d^\uae38\ub3d9"),
        ("GB18030", "Wang^XiaoDong=\u738b^\u5c0f\u4e1c"),
        ("ISO_IR 6", "MILLER^ANN"),
        ("ISO 2022 IR 100", "M\u00dcLLER^\u00c9VE"),
        (["ISO_IR 100", "ISO 2022 IR 144"], "M\u00dcLLER^ANN"),
    ],
)
def test_names_of_japan_korea_china_and_odd_character_sets_are_kept(charset, name, tmp_path):
    path, _ = written(tmp_path, "axial", SpecificCharacterSet=charset, PatientName=name)
    found = pydicom.dcmread(path)
    assert str(found.PatientName) == name
    assert found.SpecificCharacterSet == "ISO_IR 192"


def test_a_source_that_is_gone_is_named(tmp_path):
    _, labels = written(tmp_path, "axial")
    with pytest.raises(ImageError, match=r"The headers of .*gone allow no DICOM SEG"):
        write_dicom(tmp_path / "new.dcm", labels, CHANGES, (tmp_path / "gone",), tmp_path / "gone")
    assert not (tmp_path / "new.dcm").exists()


def test_headers_that_allow_no_dicom_seg_cost_no_other_result(tmp_path):
    series = written_series(tmp_path, "axial")
    labels, place = lesions_on(read_series(series)), Place(tmp_path / "out", "x", "1")
    for file in series.files:
        image = pydicom.dcmread(file)
        del image.FrameOfReferenceUID
        image.save_as(file)
    (missing,) = write_segmentations(place, labels, CHANGES, DicomSource(series.files, series.files[0]))
    assert slicer_path(place).is_file()
    assert not dicom_path(place).exists()
    assert "there is no DICOM SEG: The headers of " in missing


@pytest.mark.parametrize("plane", PLANES)
def test_slicer_finds_every_lesion_by_name_and_place(plane, tmp_path):
    """As Slicer's own package reads it."""
    labels = lesions_on(speckle(plane))
    path = tmp_path / "lesions.seg.nrrd"
    write_slicer(path, labels, CHANGES)
    read = slicerio.read_segmentation(str(path))
    assert slicerio.segment_names(read) == ["lesion 2: new", "lesion 5", "lesion 9: resolved"]
    assert [one["labelValue"] for one in read["segments"]] == [2, 5, 9]
    affine = RAS_TO_LPS @ read["ijkToLPS"]
    assert same_places(Volume(read["voxels"].astype(np.int32), affine), labels)


def test_slicer_shows_the_colours_of_the_report(tmp_path):
    write_slicer(tmp_path / "lesions.seg.nrrd", lesions_on(speckle()), CHANGES)
    read = slicerio.read_segmentation(str(tmp_path / "lesions.seg.nrrd"))
    new = [round(255 * value) for value in read["segments"][0]["color"]]
    assert "#" + "".join(f"{value:02x}" for value in new) == COLOURS[Change.NEW]


def test_slicer_opens_a_visit_without_lesions(tmp_path):
    volume = speckle()
    write_slicer(tmp_path / "none.seg.nrrd", volume.with_data(np.zeros(volume.data.shape, np.int32)), {})
    assert slicerio.read_segmentation(str(tmp_path / "none.seg.nrrd"))["segments"] == []


def test_a_sheared_visit_has_no_segmentation_for_slicer_not_even_an_older_one(tmp_path):
    place, straight = Place(tmp_path, "01", "1"), lesions_on(speckle("axial"))
    assert write_segmentations(place, straight, CHANGES, None) == []
    assert slicer_path(place).is_file()
    shear = np.eye(4)
    shear[0, 1] = 0.2
    (missing,) = write_segmentations(place, Volume(straight.data, straight.affine @ shear), CHANGES, None)
    assert not slicer_path(place).exists()
    assert "there is no .seg.nrrd, which cannot hold the FLAIR's sheared axes" in missing
