"""What images show against what their names say, on the atlas's own brain."""

from dataclasses import replace

import numpy as np
import pytest

from lesiondelta.errors import NoVisitError, RegistrationError
from lesiondelta.images import Grid, Volume, resample
from lesiondelta.inputs.checks import check_patient
from lesiondelta.preprocessing import appearance, gate
from lesiondelta.preprocessing.brain import require_extent
from lesiondelta.preprocessing.located import Located
from lesiondelta.preprocessing.preparation import NO_ATLAS, prepare_patient, with_appearance, with_atlas
from lesiondelta.preprocessing.store import prepared_patient
from lesiondelta.settings import PreprocessingSettings
from tests.brains import atlas_brain, shown
from tests.preprocessing.heads import moved, person, write_patient

MM = 2.0
GATED = PreprocessingSettings(registration="none", bias_correction=False, spacing_mm=MM)


@pytest.fixture(scope="module")
def atlas():
    return atlas_brain(MM)


def judged(atlas, images, limits=appearance.LIMITS, transform=None):
    brain = atlas[0]
    located = {name: Located(shown(atlas, kind), np.eye(4)) for name, kind in images.items()}
    found = appearance.measure(located, brain, np.eye(4) if transform is None else transform)
    return appearance.contradictions(found, {name: f"{name}.nii.gz" for name in images}, limits)


def test_right_images_are_right(atlas):
    for limits in (appearance.LIMITS, appearance.BY_EXTENT):
        assert judged(atlas, {"T1w": "T1w", "FLAIR": "FLAIR"}, limits) == ([], [])


@pytest.mark.parametrize("limits", [appearance.LIMITS, appearance.BY_EXTENT])
def test_exchanged_images_are_told_to_be_exchanged(atlas, limits):
    (wrong,), doubtful = judged(atlas, {"T1w": "FLAIR", "FLAIR": "T1w"}, limits)
    assert "T1w and FLAIR seem to be exchanged" in wrong
    assert "brighter in T1w.nii.gz than in FLAIR.nii.gz. Exchange the two." in wrong
    assert not doubtful


@pytest.mark.parametrize("limits", [appearance.LIMITS, appearance.BY_EXTENT])
@pytest.mark.parametrize("place", ["T1w", "FLAIR"])
def test_a_t2w_in_any_place_is_recognised(atlas, place, limits):
    (wrong,), _ = judged(atlas, {"T1w": "T1w", "FLAIR": "FLAIR", place: "T2w"}, limits)
    assert f"{place}.nii.gz was given as {place}, but shows fluid brighter than white matter, as a T2w does" in wrong


def test_what_is_doubtful_is_said_and_not_refused(atlas):
    for images, said in (
        ({"T1w": "T1w", "FLAIR": "PDw"}, "fluid brighter than white matter"),
        ({"T1w": "T1w without contrast", "FLAIR": "FLAIR"}, "white matter no brighter than grey"),
        ({"T1w": "T1w", "FLAIR": "FLAIR like a T1w"}, "white matter brighter than grey"),
    ):
        wrong, doubtful = judged(atlas, images)
        assert (wrong, len(doubtful)) == ([], 1), images
        assert said in doubtful[0]


@pytest.mark.parametrize("exchanged", [False, True])
def test_z_scores_are_judged_as_well(atlas, exchanged):
    brain = atlas[0]
    images = {
        "T1w": shown(atlas, "FLAIR" if exchanged else "T1w"),
        "FLAIR": shown(atlas, "T1w" if exchanged else "FLAIR"),
    }
    scored = {}
    for name, volume in images.items():
        inside = volume.data[brain.data]
        scores = np.where(brain.data, (volume.data - inside.mean()) / inside.std(), 0)
        scored[name] = Located(volume.with_data(scores.astype(np.float32)), np.eye(4))
    wrong, _ = appearance.contradictions(appearance.measure(scored, brain, np.eye(4)), dict.fromkeys(images, "x"))
    assert bool(wrong) == exchanged


@pytest.mark.parametrize(
    ("change", "kind", "wrong", "doubtful"),
    [
        (lambda data: data + 8192, "FLAIR", [], ["a constant seems to be added to the values of FLAIR.nii.gz"]),
        (lambda data: data + 32768, "FLAIR", [], ["a constant seems to be added to the values of FLAIR.nii.gz"]),
        (
            lambda data: data + 8192,
            "T2w",
            ["FLAIR.nii.gz was given as FLAIR, but shows fluid brighter"],
            ["a constant"],
        ),
        (lambda data: data + 32768, "T2w", ["FLAIR.nii.gz was given as FLAIR, but shows fluid brighter"], ["a const"]),
        (lambda data: 4095 - data, "FLAIR", ["FLAIR.nii.gz was given as FLAIR, but shows fluid brighter"], ["a const"]),
        (lambda data: -data, "FLAIR", ["FLAIR.nii.gz was given as FLAIR, but shows fluid brighter"], []),
    ],
)
def test_a_constant_on_top_hides_nothing(atlas, change, kind, wrong, doubtful):
    brain, t1w = atlas[0], shown(atlas, "T1w")
    flair = brain.with_data(np.where(brain.data, change(shown(atlas, kind).data), 0).astype(np.float32))
    located = {"T1w": Located(t1w, np.eye(4)), "FLAIR": Located(flair, np.eye(4))}
    found = appearance.measure(located, brain, np.eye(4))
    said = appearance.contradictions(found, {name: f"{name}.nii.gz" for name in located})
    for sentences, starts in zip(said, (wrong, doubtful), strict=True):
        assert [sentence[: len(start)] for sentence, start in zip(sentences, starts, strict=True)] == starts


@pytest.mark.parametrize("also", [{}, {"T1w": "T1w"}])
def test_a_t1w_twice_is_refused(atlas, also):
    wrong, _ = judged(atlas, {"FLAIR": "T1w", **also})
    assert "FLAIR.nii.gz was given as FLAIR, but shows white matter brighter than grey" in wrong[0]


def test_a_flair_twice_is_refused(atlas):
    wrong, _ = judged(atlas, {"T1w": "FLAIR", "FLAIR": "FLAIR"})
    assert "T1w.nii.gz was given as T1w, but shows white matter no brighter than grey" in wrong[0]


@pytest.mark.parametrize(("t1w", "flair"), [(0.06, 0.04), (0.0, -0.02)])
def test_two_images_that_look_alike_are_said_to_be(t1w, flair):
    found = {"T1w": appearance.Appearance(t1w, 0.4), "FLAIR": appearance.Appearance(flair, 0.4)}
    said = appearance.contradictions(found, {"T1w": "a.nii", "FLAIR": "b.nii"})
    assert said == ([], ["a.nii and b.nii show nearly the same contrast: give one T1w and one FLAIR."])


def test_the_atlas_is_laid_upon_a_brain_by_its_extent(atlas):
    brain = atlas[0]
    motion = np.diag([0.9, 0.95, 0.85, 1.0])
    motion[:3, 3] = 5, -12, 30
    there = Volume(brain.data, motion @ brain.affine)
    np.testing.assert_allclose(appearance.by_extent(there), motion, atol=0.02 * 60)
    np.testing.assert_allclose(np.diag(appearance.by_extent(there)), np.diag(motion), rtol=0.02)


def test_exchanged_images_fail_before_the_gate_and_by_their_own_reason(atlas, tmp_path):
    right = {"T1w": shown(atlas, "T1w"), "FLAIR": shown(atlas, "FLAIR")}
    wrong = {"T1w": right["FLAIR"], "FLAIR": right["T1w"]}
    checked = check_patient(write_patient(tmp_path, [wrong]), ("T1w", "FLAIR"))
    with pytest.raises(NoVisitError, match="T1w and FLAIR seem to be exchanged"):
        prepare_patient(checked, GATED)
    later = {name: volume.with_data(volume.data * 1.01) for name, volume in wrong.items()}
    checked = check_patient(write_patient(tmp_path, [right, later]), ("T1w", "FLAIR"))
    prepared = prepare_patient(checked, GATED)
    assert [visit.label for visit in prepared.visits] == ["0"]
    assert "seem to be exchanged" in prepared.failures["1"]


def test_without_the_gate_it_is_only_said(atlas, tmp_path):
    exchanged = {"T1w": shown(atlas, "FLAIR"), "FLAIR": shown(atlas, "T1w")}
    checked = check_patient(write_patient(tmp_path, [exchanged]), ("T1w", "FLAIR"))
    prepared = prepared_patient(checked, GATED.model_copy(update={"gate": False}), ("T1w", "FLAIR"), None, atlas=True)
    (visit,) = prepared.visits
    assert any("seem to be exchanged" in warning for warning in visit.warnings)
    assert visit.quality["T1w_contrast"] == pytest.approx(1 - 1.08, abs=0.06)


def test_a_brain_that_the_atlas_does_not_fit_is_flagged(atlas, tmp_path):
    right = {"T1w": shown(atlas, "T1w"), "FLAIR": shown(atlas, "FLAIR")}
    checked = check_patient(write_patient(tmp_path, [right]), ("T1w", "FLAIR"))
    prepared = with_atlas(prepare_patient(checked, GATED))
    assert with_appearance(prepared).visits[0].warnings == ()
    far = np.eye(4)
    far[0, 3] = 200
    assert with_appearance(replace(prepared, from_atlas=far)).visits[0].warnings == (NO_ATLAS,)


def test_voxels_that_are_no_millimetres_are_refused(atlas):
    """0.7 x 0.7 x 3 mm voxels that count as cubes of 1 mm, as after a loss of the header."""
    brain, *_ = atlas
    fine = resample(brain, Grid((230, 280, 58), np.diag([0.7, 0.7, 3.0, 1]) @ offset(-115, -165, -26)), None, "nearest")
    lost = Volume(fine.data, np.diag([1.0, 1.0, 1.0, 1.0]))
    with pytest.raises(RegistrationError, match=r"measures 1[78]\d x 2[012]\d x 4\d mm .*voxel sizes in its header"):
        require_extent(lost, "x_FLAIR.nii.gz")
    assert require_extent(fine, "x_FLAIR.nii.gz") == []


def offset(x, y, z):
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return matrix


def test_half_a_brain_is_doubtful(atlas):
    brain = atlas[0]
    (doubt,) = require_extent(brain.with_data(brain.data & (np.indices(brain.data.shape)[2] > 45)), "x")
    assert "it may be a part of one" in doubt


@pytest.mark.parametrize("lost", [(-1.0, 1, 1), (1, 1, 1), (-0.7, -0.7, 3)])
def test_a_lost_header_is_named(tmp_path, lost):
    images = {name: Volume(volume.data, np.diag([*lost, 1.0])) for name, volume in person(0).items()}
    (visit,) = check_patient(write_patient(tmp_path, [images]), ("T1w", "FLAIR")).visits
    assert len(visit.visit.doubts) == 2
    assert "has no origin and no rotation: its geometry was probably lost" in visit.visit.doubts[0]
    (visit,) = check_patient(write_patient(tmp_path, [person(0)]), ("T1w", "FLAIR")).visits
    assert visit.visit.doubts == ()


def test_a_flair_of_a_part_of_the_brain_is_flagged_in_a_single_visit(atlas, tmp_path):
    """The brain comes from the whole T1w; the FLAIR shows 40 mm of it."""
    brain, low = atlas[0], atlas[0].affine.copy()
    low[2, 3] += 40.0
    slab = moved(shown(atlas, "FLAIR"), affine=low, shape=(*brain.data.shape[:2], 20))
    patient = write_patient(tmp_path, [{"T1w": shown(atlas, "T1w"), "FLAIR": slab}])
    settings = GATED.model_copy(update={"gate": False, "skull_strip": "force"})
    (visit,) = prepare_patient(check_patient(patient, ("T1w", "FLAIR")), settings).visits
    assert 0.3 < visit.quality["FLAIR_coverage"] < 0.7
    assert any("the FLAIR shows " in warning for warning in visit.warnings)
    assert visit.quality["T1w_coverage"] == 1


@pytest.mark.parametrize("slice_mm", [1.0, 6.8])
def test_the_gate_knows_how_sharp_it_is(slice_mm):
    """A shift of 1.5 mm within the slices is refused whatever their thickness, the right place never."""
    head = person(0, 1.0)
    affine = np.diag([1.0, 1.0, slice_mm, 1.0])
    shape = (180, 210, int(170 / slice_mm))
    affine[:3, 3] = [-(n - 1) * edge / 2 for n, edge in zip(shape, (1, 1, slice_mm), strict=True)]
    images = {name: moved(volume, affine=affine, shape=shape) for name, volume in head.items()}
    brain = head["FLAIR"].with_data(head["FLAIR"].data > 0)
    fixed = Located(images["FLAIR"], np.eye(4))
    right = gate.check_alignment(fixed, Located(images["T1w"], np.eye(4)), brain)
    assert right.error_mm < gate.SHARP_MM
    for shift in ((1.5, 0, 0), (0, 1.5, 0)):
        with pytest.raises(
            RegistrationError, match=r"1\.\d\d mm out of line \(standard error 0\.\d\d mm, limit 1\.\d\d"
        ):
            gate.check_alignment(fixed, Located(images["T1w"], offset(*shift)), brain)
