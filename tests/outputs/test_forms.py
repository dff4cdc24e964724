"""What is written on the FLAIR's grid lies where the FLAIR does, for programs that read either form of its header."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from lesiondelta.images import Volume, read_image, require_same_grid, write_volume
from lesiondelta.inference.loading import load_segmenter
from lesiondelta.inputs.bids import read_cohort
from lesiondelta.pipeline.cohort_run import check_start
from lesiondelta.pipeline.patient_run import RunPlan, run_patient
from lesiondelta.pipeline.rebuild import report_cohort
from lesiondelta.records import read_record
from lesiondelta.settings import PreprocessingSettings, SegmentationSettings, Settings
from tests.models import export_tiny_model
from tests.tiny import image_path, write_patient

EASY = PreprocessingSettings(registration="none", skull_strip="skip", bias_correction=False, gate=False)
FIELDS = ("qform_code", "sform_code", "quatern_b", "qoffset_x", "qoffset_z", "srow_x", "srow_y", "srow_z")


def move_sform(path, turned=True):
    """As SPM, FSL and FreeSurfer do when they register: the sform is moved and turned, the qform stays."""
    image = nib.load(path)
    motion = np.eye(4)
    motion[:3, 3] = 5, -4, 4
    if turned:
        motion[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    moved = nib.Nifti1Image(np.asarray(image.dataobj), None, image.header)
    moved.set_qform(image.affine, code=1)
    moved.set_sform(motion @ image.affine, code=2)
    nib.save(moved, path)


@pytest.fixture
def plan(tmp_path):
    write_patient(tmp_path / "bids", "01", ("1", "2"))
    for session in ("1", "2"):
        for contrast in ("T1w", "FLAIR"):
            move_sform(image_path(tmp_path / "bids", "01", session, contrast))
    model = export_tiny_model(tmp_path / "model")
    chosen = SegmentationSettings(models=(model,), device="cpu", threshold=0.2)
    settings = Settings(preprocessing=EASY, segmentation=chosen)
    return check_start(RunPlan(tmp_path / "out", tmp_path / "bids", settings, tmp_path / "work"))


def run(plan):
    (patient,) = read_cohort(plan.raw).patients
    return run_patient(patient, plan, load_segmenter(plan.settings))


def same_forms(path, flair):
    headers = [nib.load(one).header for one in (path, flair)]
    return all(np.array_equal(headers[0][name], headers[1][name]) for name in FIELDS)


def test_masks_get_the_flairs_forms_also_from_kept_images_and_rebuilt(plan):
    flair = image_path(plan.raw, "01", "2", "FLAIR")
    run(plan)

    def own_grid():
        return sorted(plan.out.rglob("sub-01_ses-2_space-orig_*.nii.gz"))

    assert len(own_grid()) == 5
    assert all(same_forms(path, flair) for path in own_grid())
    report_cohort(plan.out)
    assert all(same_forms(path, flair) for path in own_grid())
    for path in own_grid():
        path.unlink()
    run(plan)  # the prepared images are kept in plan.work
    assert len(own_grid()) == 5
    assert all(same_forms(path, flair) for path in own_grid())


def test_a_mask_that_simpleitk_has_saved_is_taken(plan):
    run(plan)
    flair = sitk.ReadImage(str(image_path(plan.raw, "01", "2", "FLAIR")))
    path = next(plan.out.rglob("sub-01_ses-2_space-orig_label-L_mask.nii.gz"))
    mask = sitk.ReadImage(str(path))
    assert np.allclose(mask.GetOrigin(), flair.GetOrigin())
    assert np.allclose(mask.GetDirection(), flair.GetDirection())
    edited = sitk.GetArrayFromImage(mask) * 0
    edited[2:4, 5:8, 5:8] = 1
    saved = sitk.GetImageFromArray(edited)
    saved.CopyInformation(flair)
    sitk.WriteImage(saved, str(path))
    assert not same_forms(path, image_path(plan.raw, "01", "2", "FLAIR"))
    results, _ = report_cohort(plan.out)
    assert {result.status for result in results} == {"flagged"}, results
    assert read_record(plan.out, "01").corrections.keys() == {"2"}
    assert np.array_equal(np.asarray(nib.load(path).dataobj), edited.T)
    assert same_forms(path, image_path(plan.raw, "01", "2", "FLAIR"))


def test_a_grid_is_the_same_by_either_form_and_by_no_other(tmp_path):
    data = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
    affine = np.diag([-0.9, 0.9, 3.0, 1.0])
    affine[:3, 3] = 40, -50, 12
    write_volume(tmp_path / "flair.nii.gz", Volume(data, affine))
    move_sform(tmp_path / "flair.nii.gz")
    flair = read_image(tmp_path / "flair.nii.gz")
    by_qform = Volume(data, affine, "by qform")
    require_same_grid(flair, by_qform)
    require_same_grid(by_qform, flair)
    require_same_grid(flair, Volume(data, flair.affine, "by sform"))
    shifted = affine.copy()
    shifted[2, 3] += 3
    with pytest.raises(Exception, match="mm apart"):
        require_same_grid(flair, Volume(data, shifted, "elsewhere"))
