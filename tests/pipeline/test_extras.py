"""`run` with a model that offers more than masks."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from lesiondelta.formats.bids import read_cohort
from lesiondelta.formats.derivatives import Place
from lesiondelta.formats.records import read_record
from lesiondelta.images import read_image, read_mask, require_same_grid
from lesiondelta.pipeline import run_cohort
from lesiondelta.pipeline.cohort import check_start
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
    settings = check_start(Settings(preprocessing=EASY, segmentation=chosen), out, bids)
    run_cohort(read_cohort(bids), out, settings, raw=bids)
    return [Place(out, "01", visit) for visit in ("1", "2")]


def test_new_lesions_are_written_in_the_patients_space_with_a_sidecar(bids, models):
    for place in run(bids, models[:1]):
        new, flair = (read_image(place.anat(f"{name}.nii.gz")) for name in (NAME, "space-patient_FLAIR"))
        require_same_grid(new, read_mask(place.anat("space-patient_label-L_mask.nii.gz")))
        assert 0 < new.data.max() <= 1
        assert not new.data[flair.data == 0].any()
        sidecar = json.loads(place.anat(f"{NAME}.json").read_text())
        assert (sidecar["Type"], sidecar["Models"][0]["Name"]) == ("Lesion", "tiny")
        assert "new lesion" in sidecar["Description"]
        assert sidecar["SpatialReference"].endswith("space-patient_FLAIR.nii.gz")


def test_the_displacement_is_a_vector_image_in_the_patients_space(bids, tmp_path):
    for place in run(bids, [export_tiny_model(tmp_path / "denner", "MultitaskNetwork")]):
        path = place.anat("space-patient_desc-displacement_xfm.nii.gz")
        field, flair = (sitk.ReadImage(str(name)) for name in (path, place.anat("space-patient_FLAIR.nii.gz")))
        assert field.GetNumberOfComponentsPerPixel() == 3
        vectors, inside = sitk.GetArrayFromImage(field), sitk.GetArrayFromImage(flair) != 0
        assert np.isfinite(vectors).all()
        assert vectors[inside].any(axis=-1).mean() > 0.9
        assert not vectors[~inside].any()
        sidecar = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        assert (sidecar["Type"], sidecar["Models"][0]["Name"]) == ("displacement field", "tiny")


def test_several_models_are_averaged(bids, models):
    def new():
        return np.stack([read_image(place.anat(f"{NAME}.nii.gz")).data for place in places])

    found = []
    for chosen in (models[:1], models[1:], models):
        places = run(bids, chosen)
        found.append(new())
    np.testing.assert_allclose(found[2], (found[0] + found[1]) / 2, atol=1e-6)


def test_they_are_on_record_redone_if_absent_and_removed_with_the_model(bids, models, tmp_path):
    place, _ = run(bids, models[:1])
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
