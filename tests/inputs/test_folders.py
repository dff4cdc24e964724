"""Nothing is passed over: folders behind links and locked ones, files that cannot be read, DICOM without its header."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import RLELossless, generate_uid

from lesiondelta.errors import CohortError, ImageError
from lesiondelta.evaluation.masks import match_folders
from lesiondelta.files import files_below
from lesiondelta.images import Volume, write_volume
from lesiondelta.inputs.bids import read_cohort
from lesiondelta.inputs.dicom import find_series, holds_dicom, read_series
from lesiondelta.inputs.loose import loose_patient
from lesiondelta.simulation.sources import find_lesion_masks
from tests.dicoms import FLAIR, T1W, new_study, speckle, write_series
from tests.models import export_tiny_model
from tests.tiny import call, write_patient, write_references


@contextmanager
def locked(path: Path):
    """Root may enter everything, so the block runs as somebody else."""
    user, mode = os.geteuid(), path.stat().st_mode
    for parent in path.parents:
        if parent.owner() == "root" and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    path.chmod(0)
    try:
        if user == 0:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(user)
        path.chmod(mode)


def test_the_walk_follows_links_and_ends_in_circles(tmp_path):
    for name in ("a/one.txt", "elsewhere/two.txt", "elsewhere/below/three.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "a")
    (tmp_path / "a/self").symlink_to(tmp_path / "a")
    (tmp_path / "a/gone.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "a/pipe.txt")
    names = [path.relative_to(tmp_path / "a").as_posix() for path in files_below(tmp_path / "a", "*.txt")]
    assert names == ["gone.txt", "linked/below/three.txt", "linked/two.txt", "one.txt"]


def test_every_folder_is_walked_once_and_none_above(tmp_path):
    """Siblings that are linked to each other, and a link to the dataset that the results belong to."""
    for index in range(12):
        (tmp_path / f"out/{index}").mkdir(parents=True)
        (tmp_path / f"out/{index}/file.txt").touch()
        for other in range(12):
            (tmp_path / f"out/{index}/to{other}").symlink_to(tmp_path / f"out/{other}")
    (tmp_path / "above.txt").touch()
    (tmp_path / "out/raw").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "out/linked.txt").symlink_to(tmp_path / "pipe")
    names = [path.relative_to(tmp_path / "out").as_posix() for path in files_below(tmp_path / "out", "*.txt")]
    assert names == sorted(f"{index}/file.txt" for index in range(12))


def test_a_reference_is_no_prediction_of_itself(tmp_path):
    """Results that hold a link to the dataset, as BIDS recommends: what was not predicted stays missing."""
    for label in ("01", "02"):
        write_references(tmp_path / "bids", label, ("1",))
    reference = tmp_path / "bids/derivatives/reference"
    (tmp_path / "out/sourcedata").mkdir(parents=True)
    (tmp_path / "out/sourcedata/raw").symlink_to(tmp_path / "bids")
    shutil.copytree(reference / "sub-01", tmp_path / "out/sub-01")
    matching = match_folders(reference, tmp_path / "out")
    assert [pair.participant for pair in matching.pairs] == ["01"]
    assert matching.without_prediction == (("02", "1"),)
    assert len(match_folders(reference, reference).pairs) == 2


def test_a_locked_folder_is_named(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    with locked(tmp_path / "a/b"), pytest.raises(CohortError, match=r"a/b cannot be entered \(Permission denied\)"):
        files_below(tmp_path / "a")


def test_masks_in_linked_folders_are_scored_and_locked_ones_named(tmp_path):
    for label in ("01", "02"):
        write_references(tmp_path, label, ("1",))
    (tmp_path / "derivatives/reference").rename(tmp_path / "elsewhere")
    for side in ("reference", "prediction"):
        (tmp_path / side).mkdir()
        for label in ("01", "02"):
            (tmp_path / side / f"sub-{label}").symlink_to(tmp_path / "elsewhere" / f"sub-{label}")
    pairs = match_folders(tmp_path / "reference", tmp_path / "prediction").pairs
    assert sorted({pair.participant for pair in pairs}) == ["01", "02"]
    with locked(tmp_path / "elsewhere/sub-02"), pytest.raises(CohortError, match="sub-02 cannot be entered"):
        match_folders(tmp_path / "reference", tmp_path / "prediction")


def test_a_locked_patient_and_a_locked_visit_fail_alone(tmp_path):
    for label in ("01", "02", "03"):
        write_patient(tmp_path, label, ("1", "2"))
    with locked(tmp_path / "sub-02"):
        cohort = read_cohort(tmp_path)
    assert [patient.label for patient in cohort.patients] == ["01", "03"]
    assert "sub-02 cannot be entered (Permission denied)" in cohort.problems["02"]
    with locked(tmp_path / "sub-03/ses-2"):
        cohort = read_cohort(tmp_path)
    third = cohort.patients[2]
    assert [visit.label for visit in third.visits] == ["1"]
    assert "cannot be entered" in third.problems["2"]


def test_linked_patients_are_read_and_links_that_lead_nowhere_are_missed(tmp_path):
    write_patient(tmp_path / "elsewhere", "01", ("1", "2"))
    write_patient(tmp_path / "bids", "02", ("1", "2"))
    (tmp_path / "bids/sub-01").symlink_to(tmp_path / "elsewhere/sub-01")
    (tmp_path / "bids/sub-03").symlink_to(tmp_path / "gone")
    cohort = read_cohort(tmp_path / "bids")
    assert [patient.label for patient in cohort.patients] == ["01", "02"]
    assert "sub-03 cannot be entered (No such file or directory)" in cohort.problems["03"]


def test_people_and_masks_to_simulate_from_lie_behind_links_too(tmp_path):
    mask = np.zeros((8, 8, 8), bool)
    mask[2:5, 2:5, 2:5] = True
    write_volume(tmp_path / "elsewhere/one_mask.nii.gz", Volume(mask, np.eye(4)))
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/linked").symlink_to(tmp_path / "elsewhere")
    assert find_lesion_masks(tmp_path / "masks")


def test_models_in_linked_folders_are_listed(tmp_path, capsys):
    export_tiny_model(tmp_path / "elsewhere/model")
    (tmp_path / "models").mkdir()
    (tmp_path / "models/linked").symlink_to(tmp_path / "elsewhere")
    said = call(capsys, "models", "list", tmp_path / "models").out
    assert "linked/model" in "".join(said.split())  # the table folds it


@pytest.fixture
def series(tmp_path):
    """A folder with a series of 12 slices, its files in slice order, and the volume."""
    volume = speckle()
    return tmp_path / "dicom", write_series(tmp_path / "dicom", volume, new_study(), FLAIR), volume


def assert_shows(found, volume: Volume) -> None:
    """`read_series` counts slices the other way."""
    np.testing.assert_array_equal(read_series(found).data, volume.data[:, :, ::-1])


def headerless(path: Path, implicit: bool = False) -> None:
    image = dcmread(path)
    del image.file_meta
    image.preamble = None
    image.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=False)


@pytest.mark.parametrize("implicit", [False, True])
def test_files_without_preamble_and_file_header_are_read(series, implicit):
    folder, paths, volume = series
    for path in paths[-4:]:
        headerless(path, implicit)
        assert holds_dicom(path)
    (found,) = find_series(folder)
    assert len(found.files) == 12
    assert_shows(found, volume)
    for path in paths[:-4]:
        headerless(path, implicit)
    assert_shows(*find_series(folder), volume)


@pytest.mark.parametrize("left", [0, 140, 400, 700, 1000])
def test_a_file_that_breaks_off_is_named(series, left):
    folder, paths, _ = series
    paths[-1].write_bytes(paths[-1].read_bytes()[:left])
    with pytest.raises(ImageError, match=f"{paths[-1].name} .*copy or export it again") as raised:
        find_series(folder)
    assert ("is empty" in str(raised.value)) == (left == 0)


def test_compressed_pixels_that_break_off_are_named(series):
    folder, paths, volume = series
    for path in paths:
        image = dcmread(path)
        image.compress(RLELossless)
        image.save_as(path)
    assert_shows(*find_series(folder), volume)
    paths[3].write_bytes(paths[3].read_bytes()[:-100])
    with pytest.raises(ImageError, match=f"{paths[3].name} begins as a DICOM image and is cut off"):
        find_series(folder)


ZIP, GZIP = b"PK\x03\x04 packed", b"\x1f\x8b packed"
LOST = {
    "empty, named as an image": ("slice.dcm", b"", "is empty"),
    "zeros": ("0012", bytes(2000), "holds only zeros"),
    "zeros, named as an image": ("slice.IMA", bytes(2000), "holds only zeros"),
    "zeros, with another ending": ("slice.mr", bytes(2000), "holds only zeros"),
    "a page": ("slice", b"\n<!DOCTYPE html><html>", "holds a page"),
    "a placeholder": ("slice.dcm", b"version https://git-lfs.github.com/spec/v1", "holds a page or a placeholder"),
    "anything, named as an image": ("slice.dcm", b"anything", "is no DICOM file"),
    "anything, with a number": ("slice.12", b"\xff" * 2000, "is no DICOM file"),
    "gzip": ("slice.dcm.gz", GZIP, "is packed: unpack it"),
    "zip": ("slices.ZIP", ZIP, "is packed: unpack it"),
    "packed without saying so": ("slice.dcm", GZIP, "is packed: unpack it"),
}


@pytest.mark.parametrize("name", LOST)
def test_a_file_that_may_have_been_an_image_is_named(series, name):
    folder, _, _ = series
    called, content, said = LOST[name]
    (folder / called).write_bytes(content)
    with pytest.raises(ImageError, match=f"{folder / called} {said}"):
        find_series(folder)


@pytest.mark.parametrize("left", [4, 8, 9])
def test_a_bare_file_of_which_only_the_first_bytes_are_left_is_named(series, left):
    folder, paths, _ = series
    headerless(paths[-1])
    paths[-1].write_bytes(paths[-1].read_bytes()[:left])
    with pytest.raises(ImageError, match=f"{paths[-1].name} is no DICOM file"):
        find_series(folder)


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz"])
def test_archives_are_named_only_if_they_hold_images(series, ending, tmp_path):
    folder, paths, volume = series
    (tmp_path / "icons/v2").mkdir(parents=True)
    (tmp_path / "icons/v2/1.png").write_bytes(b"\x89PNG")
    kind = {".zip": "zip", ".tar": "tar", ".tar.gz": "gztar"}[ending]
    shutil.make_archive(str(folder / "icons1"), kind, tmp_path / "icons")
    assert_shows(*find_series(folder), volume)
    shutil.copy(paths[0], tmp_path / "icons/v2/slice.dcm")
    shutil.make_archive(str(folder / "icons1"), kind, tmp_path / "icons")
    with pytest.raises(ImageError, match=f"icons1{ending} is packed: unpack it"):
        find_series(folder)


def test_a_nifti_file_whose_voxels_look_like_dicom_is_none(tmp_path):
    (tmp_path / "image.img").write_bytes(np.array([8, 5, 3, 0] * 100, np.int16).tobytes())
    assert not holds_dicom(tmp_path / "image.img")


VIEWER = {
    "libQt5.so.5": b"\x7fELF", "Qt5Core": b"\x7fELF", "Qt5Gui": b"\xcf\xfa\xed\xfe", "viewer64": b"MZ",
    "lib1.dll": b"MZ",
    "jre/charsets.pack.gz": b"\x1f\x8b", "x1.ttf": b"", "x1.ico": b"", "scan1.rec": bytes(5000), "p.dat": bytes(200),
    "manual2": b"%PDF", "preview1": b"\xff\xd8\xff", "v8_context_snapshot.bin": bytes(200),
    "blocks.xyz": bytes(5000) + b"1",
}  # fmt: skip


@pytest.mark.parametrize("name", VIEWER)
def test_what_a_viewer_needs_is_passed_over(series, name):
    folder, _, volume = series
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(VIEWER[name])
    assert_shows(*find_series(folder), volume)


def test_a_file_that_may_not_be_opened_is_named(series):
    folder, paths, _ = series
    with locked(paths[-1]), pytest.raises(ImageError, match=f"{paths[-1].name} cannot be opened"):
        find_series(folder)


def test_what_is_no_image_may_be_locked(series):
    folder, _, volume = series
    (folder / "p1.dat").write_bytes(bytes(200))
    with locked(folder / "p1.dat"):
        assert not holds_dicom(folder / "p1.dat")
        assert_shows(*find_series(folder), volume)


def test_a_link_to_a_slice_that_is_gone_is_named(series):
    folder, paths, _ = series
    paths[0].unlink()
    paths[0].symlink_to("/nowhere")
    with pytest.raises(ImageError, match=r"cannot be opened .*to the link"):
        find_series(folder)


def test_an_image_without_its_identifiers_is_named(series):
    folder, paths, _ = series
    image = dcmread(paths[5])
    del image.SeriesInstanceUID
    image.save_as(paths[5])
    with pytest.raises(ImageError, match="lacks SeriesInstanceUID"):
        find_series(folder)


def test_a_class_that_only_the_file_header_names_is_enough(series):
    folder, paths, volume = series
    for path in paths:
        image = dcmread(path)
        del image.SOPClassUID
        image.save_as(path, enforce_file_format=False)
    assert_shows(*find_series(folder), volume)


def test_what_is_no_dicom_is_passed_over(series):
    folder, _, volume = series
    (folder / "notes.txt").touch()
    (folder / ".hidden").touch()
    (folder / "README").touch()
    (folder / ".#notes.txt").symlink_to("nobody@nowhere")
    (folder / "table.img").write_bytes(np.array([8, 12, 7, 300] * 100, np.int32).tobytes())
    (folder / "notes").write_text("\b\0 this is text")
    (folder / "image.nii").write_bytes(np.int32(348).tobytes() + bytes(400))
    (folder / "image1.nii.gz").write_bytes(GZIP)
    (folder / "image1.img").write_bytes(bytes(400))
    (folder / "index.html").write_text("<html>")
    (folder / "._slice1.dcm").write_bytes(bytes(400))
    assert_shows(*find_series(folder), volume)


def test_two_slices_with_one_identifier_are_two_and_a_copy_is_none(series):
    folder, paths, volume = series
    first, second = (dcmread(path) for path in paths[:2])
    second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = first.SOPInstanceUID
    second.save_as(paths[1])
    shutil.copy(paths[4], folder / "a copy")
    packed = dcmread(paths[5])
    packed.compress(RLELossless, generate_instance_uid=False)
    packed.save_as(folder / "a packed copy")
    (found,) = find_series(folder)
    assert len(found.files) == 12
    assert_shows(found, volume)


def test_one_plan_at_another_angle_is_left_out_and_said(tmp_path):
    study = new_study()
    write_series(tmp_path / "t1w", speckle(seed=1), study, T1W, number=1)
    flair = write_series(tmp_path / "flair", speckle(), study, FLAIR, number=2)
    plan = write_series(tmp_path / "plan", speckle("sagittal", shape=(20, 24, 1), seed=2), study, FLAIR, number=2)[0]
    image = dcmread(plan)
    image.SeriesInstanceUID = dcmread(flair[0]).SeriesInstanceUID
    image.ImagePositionPatient = [0, -40, 60]
    image.save_as(tmp_path / "flair/plan")
    patient = loose_patient([(tmp_path / "t1w", tmp_path / "flair")], "01", tmp_path / "converted")
    assert patient.visits[0].doubts == ("an image at another angle (plan) was left out of the FLAIR",)
    assert len(patient.visits[0].dicom) == len(flair) == 12
    image.SOPInstanceUID = generate_uid()
    image.ImagePositionPatient = [0, 0, 0]
    image.save_as(tmp_path / "flair/plan2")
    with pytest.raises(Exception, match=r"several angles, such as .*plan"):
        loose_patient([(tmp_path / "t1w", tmp_path / "flair")], "01", tmp_path / "converted")
