"""Every layout that owners distribute, written small, converted, and read back.

One long file, because every test needs the same small copies of the owners' layouts, which its first part writes.
"""

import gzip
import json
import logging
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lesiondelta.datasets.conversion import convert
from lesiondelta.datasets.finding import find
from lesiondelta.datasets.layouts import ISBI2015, LJUBLJANA, MSLESSEG
from lesiondelta.errors import CohortError, GeometryError, ImageError, OutputError
from lesiondelta.evaluation.masks import find_masks
from lesiondelta.files import alone
from lesiondelta.images import read_image, read_mask
from lesiondelta.inputs.bids import read_cohort

SHAPE = (7, 8, 5)
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", (20, -10, 175), degrees=True).as_matrix() * (0.7, 0.7, 3)
OBLIQUE[:3, 3] = 12, -20, -9
MASK_WORDS = ("mask", "MASK", "gt", "label-")


def nifti(path: Path, data: np.ndarray | None = None, affine: np.ndarray = OBLIQUE) -> Path:
    """An image of noise, or a mask whose voxels differ from file name to file name."""
    rng = np.random.default_rng(sum(map(ord, path.name)))
    is_mask = any(word in path.name for word in MASK_WORDS)
    if data is None:
        data = (rng.random(SHAPE) > 0.7).astype(np.uint8) if is_mask else rng.integers(1, 900, SHAPE).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, 1)
    nib.save(image, path)
    return path


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def longitudinal(root: Path, patients: int = 3) -> Path:
    """`patientX/raw/patientX_studyY_modality.nii.gz`, from the archive's readme."""
    for number in range(1, patients + 1):
        folder = root / f"patient{number:02d}"
        for study in (1, 2):
            for name in ("FLAIR", "T1W", "T2W"):
                nifti(folder / "raw" / f"{folder.name}_study{study}_{name}.nii.gz")
                nifti(folder / f"{folder.name}_study{study}_{name}reg.nii.gz", affine=np.eye(4))
            text(folder / f"{folder.name}_study{study}_FLAIR_to_common_space.txt", "#Insight Transform File V1.0\n")
            text(folder / "raw" / f"{folder.name}_study{study}_T1W_intrastudy_to_FLAIR.txt", "#Insight\n")
        for name in ("gt", "brainmask"):
            nifti(folder / f"{folder.name}_{name}.nii.gz", affine=np.eye(4))
    return root


def longitudinal_mirror(root: Path, patients: int = 3) -> Path:
    for number in range(1, patients + 1):
        raw, coregistered = (root / kind / f"patient{number:02d}" for kind in ("raw", "coregistered"))
        for study in (1, 2):
            for name in ("FLAIR", "T1W", "T2W"):
                nifti(raw / f"study{study}_{name}.nii.gz")
                nifti(coregistered / f"study{study}_{name}.nii.gz", affine=np.eye(4))
            text(raw / f"study{study}_FLAIR_to_common_space.txt", "#Insight Transform File V1.0\n")
            text(raw / f"study{study}_T1W_intrastudy_to_FLAIR.txt", "#Insight\n")
        for folder in (raw, coregistered):
            nifti(folder / "gt.nii.gz", affine=np.eye(4))
        nifti(coregistered / "brainmask.nii.gz", affine=np.eye(4))
    return root


def cross_sectional(root: Path, patients: int = 3) -> Path:
    for number in range(1, patients + 1):
        folder = root / "patient01-05" / f"patient{number:02d}"
        for name in ("FLAIR", "T1W", "T1WKS", "T2W"):
            nifti(folder / "raw" / f"{folder.name}_{name}.nii.gz")
            nifti(folder / f"{folder.name}_{name}.nii.gz")
        nifti(folder / f"{folder.name}_consensus_gt.nii.gz")
        nifti(folder / f"{folder.name}_brainmask.nii.gz")
    return root


def cross_sectional_mirror(root: Path, patients: int = 3) -> Path:
    for number in range(1, patients + 1):
        for kind in ("raw", "coregistered", "coregistered_resampled"):
            for name in ("FLAIR", "T1W", "T1WKS", "T2W", "consensus_gt"):
                nifti(root / kind / f"patient{number:02d}" / f"{name}.nii.gz")
    return root


def bids(root: Path, patients: int = 3) -> Path:
    for number in range(1, patients + 1):
        for session in ("a", "b"):
            place, stem = f"sub-{number}/ses-{session}/anat", f"sub-{number}_ses-{session}"
            for name in ("FLAIR", "T1w"):
                nifti(root / place / f"{stem}_{name}.nii.gz")
            nifti(root / "derivatives/reference" / place / f"{stem}_space-orig_label-L_mask.nii.gz")
            nifti(root / "derivatives/other" / place / f"{stem}_T1w.nii.gz")
        text(
            root / f"sub-{number}/sub-{number}_sessions.tsv",
            "session_id\tacq_time\nses-b\t2019-02-03\nses-a\t2020-02-03\n",
        )
    return root


def isbi(root: Path, patients: int = 2, kind: str = "training", visits: int = 3) -> Path:
    for number in range(1, patients + 1):
        folder = root / kind / f"{kind}{number:02d}"
        for visit in range(1, visits + 1):
            stem = f"{folder.name}_{visit:02d}"
            for name in ("flair", "mprage", "t2", "pd"):
                nifti(folder / "orig" / f"{stem}_{name}.nii.gz", affine=np.eye(4))
                nifti(folder / "preprocessed" / f"{stem}_{name}_pp.nii")
            for rater in (1, 2) if kind == "training" else ():
                nifti(folder / "masks" / f"{stem}_mask{rater}.nii")
    return root


def mslesseg(root: Path) -> Path:
    """For training 1 and 2 with two visits, 3 and 4 with one; for testing 5, whose visit has no folder."""
    for number, visits in ((1, 2), (2, 2), (3, 1), (4, 1)):
        for visit in range(1, visits + 1):
            for name in ("FLAIR", "T1", "T2", "MASK"):
                nifti(root / f"train/P{number}/T{visit}/P{number}_T{visit}_{name}.nii.gz")
    for name in ("FLAIR", "T1", "T2", "MASK"):
        nifti(root / f"test/P5/P5_{name}.nii.gz")
    return root


LAYOUTS = {
    "longitudinal": (LJUBLJANA, longitudinal, ["1", "2"], "longitudinal"),
    "mirror, longitudinal": (LJUBLJANA, longitudinal_mirror, ["1", "2"], "longitudinal as in open_ms_data"),
    "cross-sectional": (LJUBLJANA, cross_sectional, ["1"], "cross-sectional"),
    "mirror, cross-sectional": (LJUBLJANA, cross_sectional_mirror, ["1"], "cross-sectional as in open_ms_data"),
    "BIDS": (LJUBLJANA, bids, ["b", "a"], "BIDS"),
    "training": (ISBI2015, isbi, ["01", "02", "03"], "training data"),
    "test": (ISBI2015, lambda root: isbi(root, kind="test"), ["01", "02", "03"], "test data"),
    "MSLesSeg": (MSLESSEG, mslesseg, ["1", "2"], "train and test"),
}
UNLABELLED = ("longitudinal", "mirror, longitudinal", "test")


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_recognised_and_reads_back_as_a_cohort(tmp_path, name):
    dataset, build, visits, layout = LAYOUTS[name]
    found = find(dataset, build(tmp_path / "source"))
    assert found.layout.name == layout
    convert(found, tmp_path / "bids")
    cohort = read_cohort(tmp_path / "bids")
    assert not cohort.problems
    assert len(cohort.patients) == len(found.patients)
    assert [visit.label for visit in cohort.patients[0].visits] == visits
    for patient in cohort.patients:
        assert not patient.problems
        assert (patient.order == "acq_time") == (name == "BIDS")
        for visit in patient.visits:
            assert (visit.reference is None) == (name in UNLABELLED)
            flair = read_image(visit.images["FLAIR"])
            np.testing.assert_allclose(flair.affine, OBLIQUE, atol=1e-5)
            if visit.reference:
                assert flair.grid.distance_mm(read_mask(visit.reference).grid) < 1e-4
    description = json.loads((tmp_path / "bids/dataset_description.json").read_text())
    assert description["License"] == dataset.licence
    assert description["HowToAcknowledge"] == dataset.cite
    assert description["SourceDatasets"] == [{"URL": dataset.source}]


def test_images_and_masks_are_copied_byte_for_byte(tmp_path):
    source = mslesseg(tmp_path / "source")
    convert(find(MSLESSEG, source), tmp_path / "bids")
    copies = {
        "train/P1/T2/P1_T2_FLAIR": "sub-P1/ses-2/anat/sub-P1_ses-2_FLAIR",
        "train/P1/T2/P1_T2_T1": "sub-P1/ses-2/anat/sub-P1_ses-2_T1w",
        "train/P1/T1/P1_T1_T2": "sub-P1/ses-1/anat/sub-P1_ses-1_T2w",
        "test/P5/P5_T1": "sub-P5/ses-1/anat/sub-P5_ses-1_T1w",
        "train/P1/T2/P1_T2_MASK": "derivatives/reference/sub-P1/ses-2/anat/sub-P1_ses-2_space-orig_label-L_mask",
    }
    for original, copy in copies.items():
        assert (tmp_path / f"bids/{copy}.nii.gz").read_bytes() == (source / f"{original}.nii.gz").read_bytes()
    sidecar = json.loads((tmp_path / "bids/sub-P1/ses-2/anat/sub-P1_ses-2_T1w.json").read_text())
    assert sidecar == {"Modality": "MR", "SourceFile": "train/P1/T2/P1_T2_T1.nii.gz", "SkullStripped": True}
    assert (tmp_path / "bids/sub-P3/sub-P3_sessions.tsv").read_text() == "session_id\nses-1\n"
    assert "sub-P2\t2\nsub-P3\t1\n" in (tmp_path / "bids/participants.tsv").read_text()


def test_plain_nifti_is_compressed_and_nothing_else(tmp_path):
    source = isbi(tmp_path / "source")
    for out in ("one", "two"):
        convert(find(ISBI2015, source), tmp_path / out)
    packed = (tmp_path / "one/sub-training01/ses-02/anat/sub-training01_ses-02_PDw.nii.gz").read_bytes()
    assert gzip.decompress(packed) == (source / "training/training01/preprocessed/training01_02_pd_pp.nii").read_bytes()
    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.mark.parametrize("name", LAYOUTS)
def test_capitals_in_names_do_not_count(tmp_path, name):
    """`.NII.GZ` and `Patient01`, as some archives have it, become the same, byte for byte."""
    dataset, build, *_ = LAYOUTS[name]
    source = build(tmp_path / "source")
    convert(find(dataset, source), tmp_path / "plain")
    for path in [path for path in source.rglob("*") if path.name.endswith((".nii.gz", ".nii"))]:
        stem, _, ending = path.name.partition(".")
        path.rename(path.with_name(f"{stem}.{ending.upper()}"))
    for path in list(source.glob("patient*")):
        path.rename(path.with_name(path.name.capitalize()))
    convert(find(dataset, source), tmp_path / "capitals")
    plain, capitals = (
        {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.nii.gz")}
        for out in (tmp_path / "plain", tmp_path / "capitals")
    )
    assert plain
    assert capitals == plain


@pytest.mark.parametrize("name", ["longitudinal", "mirror, longitudinal"])
def test_masks_of_change_are_never_references(tmp_path, name):
    dataset, build, _, _ = LAYOUTS[name]
    convert(find(dataset, build(tmp_path / "source")), tmp_path / "bids")
    assert sorted(path.name for path in (tmp_path / "bids/derivatives").iterdir()) == ["change"]
    assert not list((tmp_path / "bids").rglob("*label-L_mask*"))
    with pytest.raises(CohortError):
        find_masks(tmp_path / "bids")
    assert sorted(path.name for path in (tmp_path / "bids/derivatives/change/sub-01").iterdir()) == [
        "study1_FLAIR_to_common_space.txt", "study1_T1W_intrastudy_to_FLAIR.txt", "study2_FLAIR_to_common_space.txt",
        "study2_T1W_intrastudy_to_FLAIR.txt", "sub-01_space-common_label-brain_mask.nii.gz",
        "sub-01_space-common_label-change_mask.nii.gz",
    ]  # fmt: skip


def test_the_contrast_agent_is_named(tmp_path):
    convert(find(LJUBLJANA, cross_sectional(tmp_path / "source")), tmp_path / "bids")
    assert (tmp_path / "bids/sub-01/ses-1/anat/sub-01_ses-1_ce-gadolinium_T1w.nii.gz").is_file()
    assert read_cohort(tmp_path / "bids").patients[0].visits[0].images["T1w"].name == "sub-01_ses-1_T1w.nii.gz"


@pytest.mark.parametrize("rater", ["rater1", "rater2", "union", "intersection"])
def test_both_raters_are_there_whatever_the_reference(tmp_path, rater):
    source = isbi(tmp_path / "source")
    convert(find(ISBI2015, source), tmp_path / "bids", rater)
    masks = {
        folder: read_mask(find_masks(tmp_path / "bids/derivatives" / folder)["training02", "03"][0].path)
        for folder in ("reference", "rater1", "rater2")
    }
    drawn = [read_mask(source / f"training/training02/masks/training02_03_mask{n}.nii").data for n in (1, 2)]
    expected = {
        "rater1": drawn[0],
        "rater2": drawn[1],
        "union": drawn[0] | drawn[1],
        "intersection": drawn[0] & drawn[1],
    }
    assert (drawn[0] != drawn[1]).any()
    for folder, data in {"reference": expected[rater], "rater1": drawn[0], "rater2": drawn[1]}.items():
        np.testing.assert_array_equal(masks[folder].data, data)
        np.testing.assert_allclose(masks[folder].affine, OBLIQUE, atol=1e-5)


def test_a_stopped_conversion_goes_on_and_ends_the_same(tmp_path):
    found = find(MSLESSEG, mslesseg(tmp_path / "source"))
    convert(found, tmp_path / "whole")

    class StopError(Exception):
        pass

    def stop(label: str) -> None:
        if label == "P2":
            raise StopError

    with pytest.raises(StopError):
        convert(found, tmp_path / "bids", progress=stop)
    (tmp_path / "bids/sub-P2/sub-P2_sessions.tsv").unlink()  # as if stopped within the patient
    text(tmp_path / "bids/sub-P2/ses-1/anat/.partial-x-sub-P2_ses-1_FLAIR.nii.gz", "as if killed")
    kept = tmp_path / "bids/sub-P1/ses-1/anat/sub-P1_ses-1_FLAIR.nii.gz"
    before = kept.stat().st_mtime_ns
    convert(found, tmp_path / "bids")
    assert files(tmp_path / "bids") == files(tmp_path / "whole")
    assert kept.stat().st_mtime_ns == before


def grow(source: Path) -> None:
    """Another mask, and a third visit for P1."""
    nifti(source / "train/P1/T1/P1_T1_MASK.nii.gz", np.ones(SHAPE, np.uint8))
    for name in ("FLAIR", "T1", "T2", "MASK"):
        nifti(source / f"train/P1/T3/P1_T3_{name}.nii.gz")


def test_a_changed_source_is_converted_anew_and_the_rest_left_alone(tmp_path):
    source, out = mslesseg(tmp_path / "source"), tmp_path / "bids"
    convert(find(MSLESSEG, source), out)
    untouched = out / "sub-P2/ses-1/anat/sub-P2_ses-1_FLAIR.nii.gz"
    before = untouched.stat().st_mtime_ns
    grow(source)
    convert(find(MSLESSEG, source), out)
    convert(find(MSLESSEG, source), tmp_path / "fresh")
    assert files(out) == files(tmp_path / "fresh")
    assert untouched.stat().st_mtime_ns == before
    shutil.rmtree(source / "train/P1/T3")
    text(out / "sub-P1/notes.txt", "mine")
    convert(find(MSLESSEG, source), out)
    assert [visit.label for visit in read_cohort(out).patients[0].visits] == ["1", "2"]
    assert (out / "sub-P1/notes.txt").read_text() == "mine"
    (out / "sub-P1/ses-2/anat/sub-P1_ses-2_FLAIR.nii.gz").unlink()
    convert(find(MSLESSEG, source), out)
    assert not read_cohort(out).patients[0].problems


def cut(content: bytes) -> bytes:
    return content[:-4]


def flip(content: bytes) -> bytes:
    return content[:-6] + bytes([content[-6] ^ 1]) + content[-5:]


@pytest.mark.parametrize("damage", [cut, flip])
@pytest.mark.parametrize("name", ["T1", "MASK"])
def test_a_damaged_file_is_named_and_what_was_begun_is_no_dataset(tmp_path, damage, name):
    source, out = mslesseg(tmp_path / "source"), tmp_path / "bids"
    grow(source)
    path = source / f"train/P1/T3/P1_T3_{name}.nii.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ImageError, match="cannot be unpacked") as raised:
        convert(find(MSLESSEG, source), out)
    assert str(path) in str(raised.value)
    (out / "sub-P1/ses-1").mkdir(parents=True, exist_ok=True)
    for validate in (True, False):
        with pytest.raises(CohortError, match="was not converted to its end: run the same `lesiondelta convert` again"):
            read_cohort(out, validate=validate)


def test_what_a_killed_conversion_left_does_not_stay(tmp_path):
    source, out = mslesseg(tmp_path / "source"), tmp_path / "bids"
    grow(source)
    nifti(source / "train/P1/T3/P1_T3_MASK.nii.gz", affine=SHIFTED)  # the last file of the visit
    with pytest.raises(GeometryError):
        convert(find(MSLESSEG, source), out)
    assert (out / "sub-P1/ses-3/anat/sub-P1_ses-3_FLAIR.nii.gz").is_file()
    shutil.rmtree(source / "train/P1/T3")
    convert(find(MSLESSEG, source), out)
    convert(find(MSLESSEG, source), tmp_path / "fresh")
    assert files(out) == files(tmp_path / "fresh")
    assert not (out / "sub-P1/ses-3").exists()


def test_the_dataset_is_whole_only_with_its_protocol(tmp_path):
    found, out = find(MSLESSEG, mslesseg(tmp_path / "source")), tmp_path / "bids"
    seen = []
    convert(found, out, before_the_end=lambda: seen.append((out / "dataset_description.json").exists()))
    convert(found, out, before_the_end=lambda: seen.append((out / "dataset_description.json").exists()))
    assert seen == [False, False]
    assert (out / "dataset_description.json").exists()


def test_two_conversions_into_one_folder_are_refused(tmp_path):
    found = find(MSLESSEG, mslesseg(tmp_path / "source"))
    with alone(tmp_path / "bids", wait=False), pytest.raises(OutputError, match="Another lesiondelta is working"):
        convert(found, tmp_path / "bids")
    convert(found, tmp_path / "bids")


def test_a_header_half_a_voxel_off_is_replaced_and_said(tmp_path, caplog):
    source = mslesseg(tmp_path / "source")
    path = nifti(source / "train/P1/T1/P1_T1_MASK.nii.gz", affine=moved(0.5, 0.5, -0.5))
    with caplog.at_level(logging.WARNING):
        convert(find(MSLESSEG, source), tmp_path / "bids")
    assert "The headers of 1 masks, derivatives/reference/sub-P1/ses-1/" in caplog.text
    reference = read_mask(find_masks(tmp_path / "bids/derivatives/reference")["P1", "1"][0].path)
    np.testing.assert_allclose(reference.affine, OBLIQUE, atol=1e-5)
    np.testing.assert_array_equal(reference.data, read_mask(path).data)


def moved(*voxels: float) -> np.ndarray:
    affine = OBLIQUE.copy()
    affine[:3, 3] += OBLIQUE[:3, :3] @ voxels
    return affine


SHIFTED = OBLIQUE + np.array([[0, 0, 0, 5.0], *[[0] * 4] * 3])
STRETCHED = moved(-0.5, -0.5, -0.5) @ np.diag([*(1 + 1 / (np.array(SHAPE) - 1)), 1])
BAD_MASKS = {
    "shape": (np.ones((3, 3, 3), np.uint8), OBLIQUE, GeometryError, "has shape"),
    "place": (None, SHIFTED, GeometryError, "5.00 mm apart"),
    "two voxels within thick slices": (None, moved(2.2, 0, 0), GeometryError, "1.54 mm apart"),
    "half a voxel along one axis": (None, moved(0.5, 0, 0), GeometryError, "0.35 mm apart"),
    "half a voxel, another way at each end": (None, STRETCHED, GeometryError, "mm apart"),
    "labels": (np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.uint16), OBLIQUE, ImageError, "several labels"),
    "probabilities": (
        np.linspace(0, 1, np.prod(SHAPE)).reshape(SHAPE),
        OBLIQUE,
        ImageError,
        "probabilities or other fractions",
    ),
}


@pytest.mark.parametrize("mistake", BAD_MASKS)
def test_a_mask_that_is_none_or_lies_elsewhere_is_named(tmp_path, mistake):
    data, affine, error, said = BAD_MASKS[mistake]
    source = mslesseg(tmp_path / "source")
    path = nifti(source / "train/P2/T2/P2_T2_MASK.nii.gz", data, affine)
    with pytest.raises(error, match=said) as raised:
        convert(find(MSLESSEG, source), tmp_path / "bids")
    assert str(path) in str(raised.value)
    assert not (tmp_path / "bids/sub-P2/sub-P2_sessions.tsv").exists()
    assert not list((tmp_path / "bids").rglob(".partial-*"))
    nifti(path)
    convert(find(MSLESSEG, source), tmp_path / "bids")
    assert len(read_cohort(tmp_path / "bids").patients) == 5


@pytest.mark.parametrize(
    ("removed", "said"),
    [
        ("train/P2/T2/P2_T2_FLAIR.nii.gz", "Visit 2 of patient P2 .* has no FLAIR "),
        ("train/P2/T1/P2_T1_T1.nii.gz", "Visit 1 of patient P2 .* has no T1w "),
        ("train/P2/T1/P2_T1_MASK.nii.gz", "Visit 1 of patient P2 .* has no mask "),
    ],
)
def test_a_visit_that_lacks_something_is_named(tmp_path, removed, said):
    source = mslesseg(tmp_path / "source")
    (source / removed).unlink()
    with pytest.raises(CohortError, match=said):
        find(MSLESSEG, source)


def test_a_rater_who_left_out_a_visit_is_named(tmp_path):
    source = isbi(tmp_path / "source")
    (source / "training/training02/masks/training02_01_mask2.nii").unlink()
    with pytest.raises(CohortError, match=r"Visit 01 of patient training02 .* has no mask2 "):
        find(ISBI2015, source)


def test_what_is_no_such_dataset_says_what_was_looked_for_and_found(tmp_path):
    text(tmp_path / "holiday/beach.jpg", "")
    with pytest.raises(CohortError, match=r"is no MSLesSeg: looked for files as train/P1/.*, and found beach.jpg"):
        find(MSLESSEG, tmp_path / "holiday")
    with pytest.raises(CohortError, match="is not a folder"):
        find(MSLESSEG, tmp_path / "absent")


def test_two_layouts_in_one_folder_are_refused(tmp_path):
    isbi(isbi(tmp_path / "source"), kind="test")
    with pytest.raises(CohortError, match="holds training data and test data: give the folder of one"):
        find(ISBI2015, tmp_path / "source")
    assert find(ISBI2015, tmp_path / "source/training").layout.name == "training data"
    longitudinal_mirror(cross_sectional_mirror(tmp_path / "both/cross_sectional").parent / "longitudinal")
    with pytest.raises(CohortError, match="give the folder of one"):
        find(LJUBLJANA, tmp_path / "both")
    assert find(LJUBLJANA, tmp_path / "both/longitudinal/raw").layout.name == "longitudinal as in open_ms_data"


def test_the_same_image_twice_is_refused(tmp_path):
    source = isbi(tmp_path / "source")
    nifti(source / "training/training01/preprocessed/training01_01_flair_pp.nii.gz")
    with pytest.raises(CohortError, match="are the same FLAIR: keep one"):
        find(ISBI2015, source)


def test_files_of_one_name_that_differ_are_refused(tmp_path):
    source = longitudinal(tmp_path / "source")
    shutil.copy(source / "patient01/patient01_gt.nii.gz", source / "patient01/raw")
    find(LJUBLJANA, source)
    nifti(source / "patient01/raw/patient01_gt.nii.gz", np.ones(SHAPE, np.uint8))
    with pytest.raises(
        CohortError, match=r"would both become sub-01_space-common_label-change_mask\.nii\.gz, and diff"
    ):
        find(LJUBLJANA, source)


def test_a_patient_for_training_and_testing_is_refused(tmp_path):
    source = mslesseg(tmp_path / "source")
    shutil.copytree(source / "train/P1", source / "test/P1")
    shutil.rmtree(source / "train/P1/T1")
    shutil.rmtree(source / "test/P1/T2")
    with pytest.raises(CohortError, match=r"Patient P1 is for training .* and for testing"):
        find(MSLESSEG, source)


def intricate_bids(root: Path) -> Path:
    """Runs, acquisitions, a contrast agent, brain masks and dates of scans; the second session is the first visit."""
    bids(root)
    for number in (1, 2, 3):
        home = root / f"sub-{number}"
        (home / f"sub-{number}_sessions.tsv").unlink()
        for session, date in (("a", "2020-02-03"), ("b", "2019-02-03T10:00:00")):
            anat, stem = home / f"ses-{session}/anat", f"sub-{number}_ses-{session}"
            (anat / f"{stem}_FLAIR.nii.gz").rename(anat / f"{stem}_acq-3d_run-2_FLAIR.nii.gz")
            nifti(anat / f"{stem}_acq-3d_run-1_FLAIR.nii.gz", affine=SHIFTED)
            nifti(anat / f"{stem}_ce-gadolinium_T1w.nii")
            nifti(anat / f"{stem}_desc-brain_mask.nii.gz")
            name = f"anat/{stem}_acq-3d_run-2_FLAIR.nii.gz"
            text(home / f"ses-{session}/{stem}_scans.tsv", f"filename\tacq_time\n{name}\t{date}\n")
        text(home / "notes.txt", "private")
    return root


@pytest.mark.parametrize("build", [bids, intricate_bids])
def test_a_bids_dataset_reads_as_before(tmp_path, build):
    source, out = build(tmp_path / "source"), tmp_path / "bids"
    convert(find(LJUBLJANA, source), out)
    before, after = read_cohort(source, validate=False), read_cohort(out)
    assert [patient.label for patient in after.patients] == ["1", "2", "3"]
    for old, new in zip(before.patients, after.patients, strict=True):
        assert new.order == old.order == "acq_time"
        assert [visit.label for visit in new.visits] == ["b", "a"]
        for was, is_ in zip(old.visits, new.visits, strict=True):
            assert (is_.label, is_.acquired) == (was.label, was.acquired)
            assert {k: path.read_bytes() for k, path in is_.images.items()} == {
                k: path.read_bytes() for k, path in was.images.items()
            }
            for name in ("reference", "brain_mask"):
                assert bool(getattr(is_, name)) == bool(getattr(was, name))
                assert not getattr(was, name) or getattr(is_, name).read_bytes() == getattr(was, name).read_bytes()
    assert not list(out.rglob("notes.txt"))


def test_bids_without_sessions_becomes_one_visit(tmp_path):
    for name in ("FLAIR", "T1w", "acq-2d_T2w"):
        nifti(tmp_path / f"source/sub-1/anat/sub-1_{name}.nii.gz")
    convert(find(LJUBLJANA, tmp_path / "source"), tmp_path / "bids")
    assert [visit.label for visit in read_cohort(tmp_path / "bids").patients[0].visits] == ["1"]
    assert (tmp_path / "bids/sub-1/ses-1/anat/sub-1_ses-1_acq-2d_T2w.nii.gz").is_file()


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("derivatives/reference/sub-1/sub-1_ses-a_space-orig_label-L_mask.nii.gz", "is where nobody looks"),
        ("sub-1/ses-a/anat/sub-1_ses-a_label-lesion_mask.nii.gz", "is where nobody looks"),
        ("sub-1/anat/sub-1_{}.nii.gz", "inside and outside of sessions"),
        ("sub-1/ses-c/anat/sub-1_ses-c_T1w.nii.gz", "has no FLAIR image"),
        ("sub-1/ses-a/anat/sub-1_ses-a_acq-x_FLAIR.nii.gz", "has 2 FLAIR images"),
    ],
)
def test_a_bids_file_that_would_be_lost_is_refused(tmp_path, added, said):
    source = bids(tmp_path / "source")
    (source / "sub-1/sub-1_sessions.tsv").unlink()  # which knows no date of what is added
    for contrast in ("FLAIR", "T1w"):
        nifti(source / added.format(contrast))
    with pytest.raises(CohortError, match=said):
        find(LJUBLJANA, source)


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_the_owners_distribute_beside_gives_no_warning(tmp_path, name, caplog):
    dataset, build, *_ = LAYOUTS[name]
    source = build(tmp_path / "source")
    for path in list(source.rglob("*.nii*")):
        text(path.with_name(f"._{path.name}"), "macOS")
    found = find(dataset, source)
    assert found.cautions == ()
    convert(found, tmp_path / "bids")
    assert not caplog.text
    assert not list((tmp_path / "bids").rglob("._*"))


def test_images_that_fit_no_pattern_are_named(tmp_path, caplog):
    """A visit in the folder of another, a patient's folder called otherwise, another separator, another format."""
    source = mslesseg(tmp_path / "source")
    strange = [
        "train/P1/T3/P1_T3-FLAIR.nii.gz", "train/P2/T3/P2_T3_MASK.mgz", "train/P6/T1/P6_T2_FLAIR.nii.gz",
        "train/P6/T1/P6_T2_T1.nii.gz", "train/Patient4/T1/P4_T1_FLAIR.nii.gz", "train/Patient4/T1/P4_T1_MASK.nii.gz",
    ]  # fmt: skip
    for name in strange:
        text(source / name, "")
    found = find(MSLESSEG, source)
    assert [patient.label for patient in found.patients] == ["P1", "P2", "P3", "P4", "P5"]
    named = ", ".join(str(source / name) for name in strange[:5])
    (caution,) = found.cautions
    assert caution == f"not converted, as they are not named as train/P1/T1/P1_T1_FLAIR.nii.gz (6): {named}, ..."
    convert(found, tmp_path / "bids")
    assert caution in caplog.text


def test_doubts_about_a_bids_dataset_are_said(tmp_path, caplog):
    source = bids(tmp_path / "source")
    text(source / "sub-2/sub-2_sessions.tsv", "session_id\tacq_time\nses-a\t31/05/2019\nses-b\t01/06/2018\n")
    convert(find(LJUBLJANA, source), tmp_path / "bids")
    assert "sub-2: visits are ordered by session labels" in caplog.text
    assert "acq_time '31/05/2019'" in caplog.text
    assert "sub-1" not in caplog.text


def test_somebody_elses_folder_is_refused(tmp_path):
    found = find(ISBI2015, isbi(tmp_path / "source"))
    text(tmp_path / "thesis/chapter.txt", "years of work")
    with pytest.raises(OutputError, match="is not empty and was not written by `convert isbi2015`"):
        convert(found, tmp_path / "thesis")
    with pytest.raises(OutputError, match="lies inside"):
        convert(found, tmp_path / "source/bids")
    text(tmp_path / "strange/dataset_description.json", '{"GeneratedBy": ["me"]}')
    with pytest.raises(OutputError, match="was not written by"):
        convert(found, tmp_path / "strange")
    convert(found, tmp_path / "bids")
    with pytest.raises(OutputError, match=r"was converted otherwise \(training data, reference: rater1\)"):
        convert(found, tmp_path / "bids", "union")
    shutil.rmtree(tmp_path / "source/training/training02")
    with pytest.raises(OutputError, match="holds sub-training02"):
        convert(find(ISBI2015, tmp_path / "source"), tmp_path / "bids")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]


@pytest.mark.data
def test_real_longitudinal_patients(data_folder, tmp_path):
    source = data_folder / "ljubljana-longitudinal"
    found = find(LJUBLJANA, source)
    assert found.layout.name == "BIDS"
    convert(found, tmp_path)
    visits = {(p.label, v.label): v for p in read_cohort(tmp_path).patients for v in p.visits}
    assert set(visits) == {("04", "1"), ("12", "1"), ("12", "2"), ("20", "2")}
    for (patient, session), visit in visits.items():
        assert visit.reference is None
        original = source / visit.images["FLAIR"].relative_to(tmp_path)
        assert visit.images["FLAIR"].read_bytes() == original.read_bytes(), (patient, session)
    change = tmp_path / "derivatives/change/sub-12"
    for path in (source / "derivatives/reference/sub-12").iterdir():
        assert (change / path.name).read_bytes() == path.read_bytes()
    assert (change / "sub-12_space-common_label-change_mask.nii.gz").is_file()
    assert not list(tmp_path.rglob("*label-L_mask*"))
