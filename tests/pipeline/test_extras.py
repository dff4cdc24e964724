"""`run` with a model that offers more than masks."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from lesiondelta.images import read_image, read_mask, require_same_grid
from lesiondelta.inference.model import load_model
from lesiondelta.inference.window import extra_outputs
from lesiondelta.inputs.bids import read_cohort
from lesiondelta.outputs.derivatives import Place
from lesiondelta.pipeline.cohort_run import check_start, run_cohort
from lesiondelta.pipeline.patient_run import RunPlan
from lesiondelta.records import read_record
from lesiondelta.settings import PreprocessingSettings, SegmentationSettings, Settings
from tests.models import export_tiny_model
from tests.tiny import write_patient

EASY = PreprocessingSettings(registration="none", skull_strip="skip", bias_correction=False, gate=False)
NAME = "space-patient_label-L_desc-new_probseg"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [export_tiny_model(folder / str(seed), "DifferenceVNet", seed) for seed in (0, 1)]


@pytest.fixture
def bids(tmp_path):
    write_patient(tmp_path / "bids", "01", ("1", "2"))
    return tmp_path / "bids"


def run(bids, models):
    chosen = SegmentationSettings(models=tuple(models), device="cpu", threshold=0.2)
    out = bids.parent / "out"
    plan = check_start(RunPlan(out, bids, Settings(preprocessing=EASY, segmentation=chosen)))
    run_cohort(read_cohort(bids), plan)
    return [Place(out, "01", visit) for visit in ("1", "2")]


def test_new_lesions_are_written_in_the_patients_space_with_a_sidecar(bids, models):
    """Of the second visit alone: what the first has and the second has not is not new."""
    first, second = run(bids, models[:1])
    assert not first.anat(f"{NAME}.nii.gz").exists()
    new, flair = (read_image(second.anat(f"{name}.nii.gz")) for name in (NAME, "space-patient_FLAIR"))
    require_same_grid(new, read_mask(second.anat("space-patient_label-L_mask.nii.gz")))
    assert 0 < new.data.max() <= 1
    assert not new.data[flair.data == 0].any()
    sidecar = json.loads(second.anat(f"{NAME}.json").read_text())
    assert (sidecar["Type"], sidecar["Models"][0]["Name"], sidecar["PriorSession"]) == ("Lesion", "tiny", "ses-1")
    assert "new lesion" in sidecar["Description"]
    assert sidecar["SpatialReference"].endswith("space-patient_FLAIR.nii.gz")


def test_the_displacement_is_that_of_the_prior_in_mm(bids, tmp_path):
    """Of the whole image at once, as vectors that ITK reads, against the network's own in voxels."""
    folder = export_tiny_model(tmp_path / "denner", "MultitaskNetwork", patch=None)
    places = run(bids, [folder])
    images = [[read_image(p.anat(f"space-patient_{name}.nii.gz")) for name in ("T1w", "FLAIR")] for p in places]
    expected = extra_outputs([np.stack([i.data for i in visit]) for visit in images], load_model(folder), device="cpu")
    to_lps = np.diag([-1, -1, 1]) @ images[0][0].affine[:3, :3]
    for place, prior, voxels in zip(places, ("ses-2", "ses-1"), expected, strict=True):
        path = place.anat("space-patient_desc-displacement_xfm.nii.gz")
        field = sitk.GetArrayFromImage(sitk.ReadImage(str(path), sitk.sitkVectorFloat64)).transpose(3, 2, 1, 0)
        assert np.abs(field).max() > 0.1
        np.testing.assert_allclose(field, np.tensordot(to_lps, voxels["displacement"], axes=1), rtol=1e-3, atol=1e-3)
        sidecar = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        assert (sidecar["Type"], sidecar["PriorSession"]) == ("displacement field", prior)


def test_several_models_are_averaged(bids, models):
    found = []
    for chosen in (models[:1], models[1:], models):
        _, place = run(bids, chosen)
        found.append(read_image(place.anat(f"{NAME}.nii.gz")).data)
    np.testing.assert_allclose(found[2], (found[0] + found[1]) / 2, atol=1e-6)


def test_they_are_on_record_redone_if_absent_and_removed_with_the_model(bids, models, tmp_path):
    _, place = run(bids, models[:1])
    image, sidecar = (place.anat(f"{NAME}{suffix}") for suffix in (".nii.gz", ".json"))
    files = read_record(place.out, "01").files
    assert {path.relative_to(place.out).as_posix() for path in (image, sidecar)} <= set(files)
    image.unlink()
    run(bids, models[:1])
    assert image.is_file()
    run(bids, [export_tiny_model(tmp_path / "unet")])
    assert not image.exists()
    assert not sidecar.exists()
    assert place.anat("space-orig_label-L_mask.nii.gz").is_file()
    assert not any("desc-new" in name for name in read_record(place.out, "01").files)
