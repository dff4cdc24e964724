import pickle

import numpy as np
import pytest
import SimpleITK as sitk

from lesiondelta.cohort import Visit
from lesiondelta.errors import CohortError, ImageError, NoVisitError, RegistrationError
from lesiondelta.images import Grid, Volume, corners_mm, isotropic_grid, resample, to_sitk, write_itk_transform
from lesiondelta.inputs.checks import CheckedVisit
from lesiondelta.preprocessing import preparation as way_of_one_patient
from lesiondelta.preprocessing.elastix import between_centres
from lesiondelta.preprocessing.intensity import correct_bias
from lesiondelta.preprocessing.preparation import _own_brain
from lesiondelta.settings import PreprocessingSettings
from tests.prepared import prepare
from tests.preprocessing.heads import SPACING_MM, moved, person, rigid, write_patient, write_sheared

QUICK = PreprocessingSettings(registration="none", bias_correction=False, gate=False, spacing_mm=SPACING_MM)
GATED = QUICK.model_copy(update={"gate": True})


def brain_of(images):
    return images["FLAIR"].with_data(images["FLAIR"].data > 0)


def test_single_visit(tmp_path):
    images = person(0)
    patient = write_patient(tmp_path, [images])
    prepared = prepare(patient, QUICK)
    (visit,) = prepared.visits
    assert prepared.failures == {}
    assert prepared.brain_from == "own"
    assert visit.images["FLAIR"].data.dtype == np.float32
    assert set(visit.images) == {"T1w", "FLAIR"}
    truth = resample(brain_of(images), prepared.grid, order="nearest").data
    assert 2 * (truth & prepared.brain.data).sum() / (truth.sum() + prepared.brain.data.sum()) > 0.95
    for image in visit.images.values():
        assert not image.data[~prepared.brain.data].any()
    np.testing.assert_array_equal(visit.from_patient["T1w"], np.eye(4))


def test_values_are_the_images_own(tmp_path):
    """On a grid of the same spacing and phase, resampling changes nothing."""
    images = person(0)
    prepared = prepare(write_patient(tmp_path, [images]), QUICK)
    expected = resample(images["FLAIR"], prepared.grid).data * prepared.brain.data
    np.testing.assert_allclose(prepared.visits[0].images["FLAIR"].data, expected, atol=1e-3)


def test_grid_is_ras_and_the_box_of_the_union(tmp_path):
    first, second = person(0), person(0)
    wide = brain_of(second)
    wide.data[-3:, 20:24, 20:24] = True
    patient = write_patient(tmp_path, [first, second], masks={0: brain_of(first), 1: wide}.items())
    prepared = prepare(patient, QUICK)
    np.testing.assert_array_equal(prepared.grid.affine[:3, :3], np.eye(3) * SPACING_MM)
    assert prepared.brain_from == "given"
    union = Volume(wide.data | brain_of(first).data, wide.affine)
    points = np.argwhere(union.data) @ union.affine[:3, :3].T + union.affine[:3, 3]
    corners = corners_mm(prepared.grid)
    assert (corners.min(axis=0) <= points.min(axis=0) - 2).all()
    assert (corners.max(axis=0) >= points.max(axis=0) + 2).all()
    assert (corners.max(axis=0) <= points.max(axis=0) + 2 * SPACING_MM + 3).all()


ORIENTED = {
    "LPS": np.diag([-3.0, -3.0, 5.0, 1.0]),
    "LAS": np.diag([-3.0, 3.0, 5.0, 1.0]),
    "oblique": rigid(0.4) @ rigid(0.2, axis=0) @ np.diag([3.0, 3.0, 5.0, 1.0]),
    "permuted": np.array([[0, 0, 4.0, 0], [3.0, 0, 0, 0], [0, -3.0, 0, 0], [0, 0, 0, 1]]),
}


@pytest.mark.parametrize("name", [*ORIENTED, "sheared"])
def test_any_grid_gives_the_same_brain_in_the_same_place(tmp_path, name):
    images = person(0)
    affine = ORIENTED.get(name, np.array([[3.0, 0.6, 0, 0], [0, 3.0, 0, 0], [0, 0, 4.0, 0], [0, 0, 0, 1]]))
    shape = (76, 84, 60) if name != "permuted" else (84, 76, 60)
    affine = affine.copy()
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    other = {"FLAIR": moved(images["FLAIR"], None, affine, shape), "T1w": images["T1w"]}
    patient = write_patient(
        tmp_path, [other], masks={0: resample(brain_of(images), other["FLAIR"].grid, None, "nearest")}.items()
    )
    if name == "sheared":
        for kind in ("FLAIR", "brain"):
            path = tmp_path / f"01_0_{kind}.nii.gz"
            data = other["FLAIR"].data if kind == "FLAIR" else (other["FLAIR"].data > 20).astype(np.uint8)
            write_sheared(path, Volume(data, affine))
    prepared = prepare(patient, QUICK)
    truth = resample(images["FLAIR"], prepared.grid).data
    inside = prepared.brain.data & (resample(brain_of(images), prepared.grid, None, "linear").data > 0.99)
    found = prepared.visits[0].images["FLAIR"].data
    assert np.corrcoef(truth[inside], found[inside])[0, 1] > 0.9
    assert prepared.brain.data.sum() * SPACING_MM**3 == pytest.approx(
        brain_of(images).data.sum() * SPACING_MM**3, rel=0.08
    )


def test_no_usable_visit(tmp_path):
    patient = write_patient(tmp_path, [{"FLAIR": person(0)["FLAIR"]}])
    with pytest.raises(NoVisitError, match="no T1w") as raised:
        prepare(patient, QUICK)
    assert "no T1w" in raised.value.failures["0"]
    assert pickle.loads(pickle.dumps(raised.value)).failures == raised.value.failures


@pytest.mark.parametrize(
    ("skull", "skull_strip", "has_mask", "stripped"),
    [
        (None, "auto", True, True),
        ("T1w", "auto", False, True),
        ("FLAIR", "auto", False, False),
        ("T1w", "skip", True, True),
        (None, "force", False, False),
    ],
)
def test_a_visit_brings_its_mask_only_if_all_images_are_stripped(skull, skull_strip, has_mask, stripped):
    images = {name: person(0, skull=name == skull)[name] for name in ("T1w", "FLAIR")}
    settings = QUICK.model_copy(update={"skull_strip": skull_strip})
    mask, found = _own_brain(CheckedVisit(Visit("0", {}), images, None, {}), images, "FLAIR", settings)
    assert (mask is not None, found) == (has_mask, stripped)


def test_a_failing_baseline_hands_over(tmp_path):
    """Its T1w lies 10 mm off, which the gate refuses."""
    off = {"T1w": moved(person(0)["T1w"], rigid(0, (10, 0, 0))), "FLAIR": person(0)["FLAIR"]}
    prepared = prepare(write_patient(tmp_path, [off, person(0)]), GATED)
    assert "T1w" in prepared.failures["0"]
    assert [visit.label for visit in prepared.visits] == ["1"]


def test_mask_on_another_grid_is_refused(tmp_path):
    images = person(0)
    wrong = Volume(np.ones((5, 5, 5), bool), np.eye(4))
    patient = write_patient(tmp_path, [images], masks={0: wrong}.items())
    with pytest.raises(CohortError, match=r"01_0_brain.nii.gz has shape"):
        prepare(patient, QUICK)


def test_another_persons_visit_is_refused_and_named(tmp_path):
    patient = write_patient(tmp_path, [person(0), person(9), person(0)])
    prepared = prepare(patient, GATED)
    assert [visit.label for visit in prepared.visits] == ["0", "2"]
    assert "01_1_FLAIR.nii.gz" in prepared.failures["1"]
    assert all("Visit 1" in visit.warnings[0] for visit in prepared.visits)


def test_another_persons_t1w_alone_is_refused(tmp_path):
    fine, other = person(0, 2.0), person(9, 2.0)
    patient = write_patient(tmp_path, [fine, {"FLAIR": fine["FLAIR"], "T1w": other["T1w"]}])
    prepared = prepare(patient, GATED)
    assert [visit.label for visit in prepared.visits] == ["0"]
    assert "01_1_T1w.nii.gz" in prepared.failures["1"]


def test_same_input_same_output_and_picklable(tmp_path):
    patient = write_patient(tmp_path, [person(0), person(0)])
    first, second = prepare(patient, GATED), pickle.loads(pickle.dumps(prepare(patient, GATED)))
    for a, b in zip(first.visits, second.visits, strict=True):
        for contrast in a.images:
            np.testing.assert_array_equal(a.images[contrast].data, b.images[contrast].data)
        assert a.quality == b.quality
    figures = {"T1w_residual_mm", "baseline_residual_mm", "baseline_FLAIR_person_mm", "baseline_T1w_person_mm"}
    figures |= {"T1w_residual_error_mm", "baseline_residual_error_mm", "brain_to_first_visit"}
    figures |= {
        f"{name}_{what}" for name in ("T1w", "FLAIR") for what in ("coverage", "noise", "slice_mm", "thickness_mm")
    }
    assert figures == set(first.visits[1].quality)


def test_bias_field_is_removed(tmp_path):
    images = person(0)
    places = np.linspace(-1, 1, images["FLAIR"].data.shape[1])[None, :, None]
    biased = {
        name: image.with_data(image.data * np.exp(0.5 * places).astype(np.float32)) for name, image in images.items()
    }
    settings = QUICK.model_copy(update={"bias_correction": True})
    prepared = prepare(write_patient(tmp_path, [biased]), settings)
    truth = resample(images["FLAIR"], prepared.grid).data
    inside = prepared.brain.data & (truth > 100)
    ratio = prepared.visits[0].images["FLAIR"].data[inside] / truth[inside]
    before = resample(biased["FLAIR"], prepared.grid).data[inside] / truth[inside]
    assert ratio.std() / ratio.mean() < 0.4 * before.std() / before.mean()


def test_where_n4_finds_no_field_the_image_is_named():
    slices = np.random.default_rng(0).normal(100, 10, (24, 24, 2)).astype(np.float32)
    image = Volume(slices, np.eye(4), "x_FLAIR.nii.gz")
    with pytest.raises(ImageError, match=r"no bias field in x_FLAIR\.nii\.gz .*--no-bias-correction"):
        correct_bias(image, image.with_data(np.ones(slices.shape, bool)))


def test_a_mask_instead_of_an_image_fails_its_own_visit(tmp_path, monkeypatch):
    """With the start of elastix, which is enough to see it."""
    monkeypatch.setitem(way_of_one_patient.ENGINES, "none", lambda fixed, moving, **_: between_centres(fixed, moving))
    first, second = person(0), person(0)
    lesions = np.zeros(second["FLAIR"].data.shape, np.float32)
    lesions[20:22, 20:22, 20:22] = 1
    second["FLAIR"] = second["FLAIR"].with_data(lesions)
    patient = write_patient(tmp_path, [first, second], masks=[(0, brain_of(first))])
    prepared = prepare(patient, QUICK)
    assert [visit.label for visit in prepared.visits] == ["0"]
    assert "01_1_FLAIR.nii.gz shows no head" in prepared.failures["1"]


def test_saved_transform_in_simpleitk_equals_ours(tmp_path):
    """The text file, read and applied by SimpleITK on an oblique pair, gives our resampling."""
    image = moved(person(0)["FLAIR"], rigid(0.1, (2, 3, 4)), rigid(0.3) @ person(0)["FLAIR"].affine)
    transform = rigid(0.2, (5, -3, 8)) @ np.diag([1.03, 0.98, 1.0, 1.0])
    grid = isotropic_grid(corners_mm(image.grid) / 2, 5.0)
    write_itk_transform(tmp_path / "xfm.txt", transform)
    target = to_sitk(Volume(np.zeros(grid.shape, np.float32), grid.affine))
    theirs = sitk.Resample(to_sitk(image), target, sitk.ReadTransform(str(tmp_path / "xfm.txt")), sitk.sitkLinear)
    ours = resample(image, Grid(grid.shape, grid.affine), transform, "linear").data
    np.testing.assert_allclose(ours, sitk.GetArrayFromImage(theirs).T, atol=0.05)


def test_contrasts_are_refined_inside_the_brain_on_the_flairs_own_grid(tmp_path, monkeypatch):
    """The second visit lies elsewhere: the refiner sees the baseline's brain where that visit's FLAIR shows it."""
    motion = rigid(0.15, (6, -4, 10))
    first = person(0)
    second = {name: moved(image, np.linalg.inv(motion)) for name, image in first.items()}
    known = lambda fixed, moving, *, degrees, **_: motion if degrees == 12 else np.eye(4)  # noqa: E731
    seen = []

    def refine(fixed, moving, start, mask, threads=1):
        seen.append((mask.data == (fixed.data > 100)).mean())
        return rigid(0.0, (0.5, 0, 0)) @ start

    monkeypatch.setitem(way_of_one_patient.ENGINES, "none", known)
    monkeypatch.setitem(way_of_one_patient.REFINERS, "none", refine)
    prepared = prepare(write_patient(tmp_path, [first, second], masks=[(0, brain_of(first))]), QUICK)
    assert len(seen) == 2
    assert min(seen) > 0.97
    for visit in prepared.visits:
        shift = visit.from_patient["T1w"] @ np.linalg.inv(visit.from_patient["FLAIR"])
        np.testing.assert_allclose(shift, rigid(0.0, (0.5, 0, 0)), atol=1e-9)


def test_a_refinement_that_fails_leaves_the_first_registration_and_a_warning(tmp_path, monkeypatch):
    def refine(*_):
        raise RegistrationError("too few samples")

    monkeypatch.setitem(way_of_one_patient.REFINERS, "none", refine)
    prepared = prepare(write_patient(tmp_path, [person(0)]), QUICK)
    np.testing.assert_array_equal(prepared.visits[0].from_patient["T1w"], np.eye(4))
    assert "T1w could not be registered by the brain only" in prepared.visits[0].warnings[0]
