"""`segment` from DICOM folders to results, with a tiny model."""

import csv
import gzip
import shutil
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest

from lesiondelta.cli import main
from lesiondelta.images import RAS_TO_LPS, Volume, read_image, read_mask, write_volume
from tests.dicoms import FLAIR, NAME, T1W, T2, affine_of, new_study, write_series
from tests.models import export_tiny_model
from tests.places import apart_mm, same_places
from tests.tiny import OPTIONS, call, image, rows

SHAPE = (12, 14, 12)
NUMBER, BIRTH = "MRN-90125", "19611213"


def head(seed: int) -> Volume:
    """A ball with a bright spot, in whole numbers."""
    data = np.zeros(SHAPE, np.float32)
    data[:, :, 2:10] = np.rint(np.maximum(image(seed).data, 0))
    return Volume(data, affine_of("axial", (2.0, 2.0, 3.0)))


def write_study(folder, date="20200301", seed=0):
    study = new_study(date, NUMBER, PatientBirthDate=BIRTH)
    for number, tags in enumerate((T2, T1W, FLAIR), start=1):
        write_series(folder, head(seed + number), study, tags, number)
    return folder


@dataclass(frozen=True)
class Finished:
    out: Path
    arguments: tuple[object, ...]

    def anat(self, visit: int, name: str) -> Path:
        return self.out / f"sub-patient/ses-{visit}/anat/sub-patient_ses-{visit}_space-orig_{name}"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return export_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model):
    """Two studies, the later one given first."""
    folder = tmp_path_factory.mktemp("dicom")
    late, early = write_study(folder / "late", "20220301", 5), write_study(folder / "early")
    arguments = (
        "segment", "--visit", late, "--visit", early, "-o", folder / "out", "--model", model, *OPTIONS,
        "--threshold", "0.4",
    )  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 0
    return Finished(folder / "out", arguments)


def test_visits_are_ordered_and_dated_by_the_headers(finished):
    table = rows(finished.out)
    assert float(table["sub-patient", "ses-2"]["years_from_first_visit"]) == pytest.approx(2.0, abs=0.01)
    converted = finished.out / "sourcedata/sub-patient/ses-1/anat/sub-patient_ses-1_FLAIR.nii.gz"
    assert same_places(read_image(converted), head(3))


def test_every_visit_has_lesions_for_slicer_and_for_its_study(finished):
    for visit, folder in ((1, "early"), (2, "late")):
        assert finished.anat(visit, "seg-lesions_dseg.seg.nrrd").is_file()
        result = pydicom.dcmread(finished.anat(visit, "seg-lesions_dseg.dcm"))
        source = pydicom.dcmread(next(finished.out.parent.joinpath(folder).iterdir()))
        assert result.StudyInstanceUID == source.StudyInstanceUID


def test_the_segments_are_the_mask(finished):
    """The lesions that are there, as highdicom reads them, lie where the mask of the visit has them."""
    segmentation = hd.seg.segread(finished.anat(1, "seg-lesions_dseg.dcm"))
    volume = segmentation.get_volume(combine_segments=True)
    mask = read_mask(finished.anat(1, "label-L_mask.nii.gz"))
    marked = Volume(volume.array > 0, RAS_TO_LPS @ volume.affine)
    assert apart_mm(marked, mask) < 1e-3


def test_segments_name_the_changes(finished):
    segments = pydicom.dcmread(finished.anat(2, "seg-lesions_dseg.dcm")).SegmentSequence
    with (finished.out / "sub-patient/sub-patient_changes.tsv").open() as table:
        changed = list(csv.DictReader(table, delimiter="\t"))
    assert len(segments) >= 1
    changes = {number: row["change"] for row in changed for number in row["lesion_ids"].split("+")}
    for segment in segments:
        number, change = segment.SegmentLabel.removeprefix("lesion ").split(": ")
        assert change == changes.get(number, "resolved")


def test_nothing_that_names_the_patient_is_in_what_is_not_dicom(finished):
    words = [word.encode() for word in (*NAME.split("^"), NUMBER, BIRTH, "WHO^DOCTOR")]
    for path in (path for path in finished.out.rglob("*") if path.is_file() and path.suffix != ".dcm"):
        content = path.name.encode() + path.read_bytes()
        content += gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else b""
        assert not [word for word in words if word in content], path


def test_a_mask_corrected_by_hand_is_followed_by_its_dicom_seg(capsys, finished, tmp_path):
    copy = Finished(Path(shutil.copytree(finished.out, tmp_path / "out")), ())
    path, seg = copy.anat(2, "label-L_mask.nii.gz"), copy.anat(2, "seg-lesions_dseg.dcm")
    mask = read_mask(path)
    half = mask.data.copy()
    half[: SHAPE[0] // 2] = False
    write_volume(path, mask.with_data(half))
    again = ("run", copy.out, copy.out, "participant", "--reports-only")
    assert call(capsys, *again).code == 0
    there = [s for s in pydicom.dcmread(seg).SegmentSequence if "resolved" not in s.SegmentLabel]
    assert {segment.SegmentAlgorithmType for segment in there} == {"SEMIAUTOMATIC"}
    volume = hd.seg.segread(seg).get_volume(combine_segments=True, segment_numbers=[s.SegmentNumber for s in there])
    assert np.count_nonzero(volume.array) == np.count_nonzero(half)

    path, seg = copy.anat(1, "label-L_mask.nii.gz"), copy.anat(1, "seg-lesions_dseg.dcm")
    write_volume(path, mask.with_data(np.zeros_like(half)))
    assert call(capsys, *again).code == 0
    assert not seg.exists(), "it would show lesions that have been taken away"


def test_a_second_run_is_skipped(capsys, finished):
    mask = finished.anat(1, "label-L_mask.nii.gz")
    before = mask.stat().st_mtime_ns
    assert call(capsys, *finished.arguments).code == 0
    assert mask.stat().st_mtime_ns == before


def refused(capsys, out, model, *arguments):
    outcome = call(capsys, "segment", *arguments, "-o", out, "--model", model, *OPTIONS)
    assert outcome.code == 70
    assert "Traceback" not in outcome.err
    assert not out.exists()
    return outcome.err


def test_a_bad_second_visit_leaves_nothing_written(capsys, tmp_path, model):
    good, bad = write_study(tmp_path / "a"), write_study(tmp_path / "b", "20210301", 5)
    paths = {pydicom.dcmread(path).ImagePositionPatient[2]: path for path in bad.iterdir() if path.name[0] == "3"}
    paths[8 + 3 * 5].unlink()
    said = refused(capsys, tmp_path / "out", model, "--visit", good, "--visit", bad)
    assert "lacks 1 of 12 slices" in said
    assert str(bad) in said


def test_what_cannot_be_told_apart_is_asked_for(capsys, tmp_path, model):
    write_series(write_study(tmp_path / "a"), head(9), new_study(), T1W, 4)
    said = refused(capsys, tmp_path / "out", model, "--visit", tmp_path / "a")
    assert "Name one file of each series" in said
