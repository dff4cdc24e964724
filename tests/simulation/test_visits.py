from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from lesiondelta.images import Grid, Volume, read_image, read_mask, require_same_grid, resample
from lesiondelta.simulation import Anatomy, LesionPlan, deformed, image_anatomy, simulate_patient
from lesiondelta.simulation.anatomy import draw_atrophy, shrunken, ventricles
from lesiondelta.simulation.contrast import Contrast, recoloured, tissue_means
from lesiondelta.simulation.disease import draw_disease
from lesiondelta.simulation.evolution import CHANGES, Rates, changes_between
from lesiondelta.simulation.fields import rigid
from lesiondelta.simulation.native import reference_on

from .conftest import LESIONS, SEED


def test_same_seed_same_voxels(anatomy, aligned_patient):
    again = simulate_patient(SEED, visits=3, anatomy=anatomy, lesions=LesionPlan(count=LESIONS))
    for a, b in zip(aligned_patient.visits, again.visits, strict=True):
        for name, image in a.images.items():
            np.testing.assert_array_equal(image.data, b.images[name].data)
        np.testing.assert_array_equal(a.instances.data, b.instances.data)
    assert aligned_patient.changes == again.changes


def test_a_real_image_moves_three_quarters_of_the_way_to_a_contrast():
    """White matter 200, fluid 60 and grey matter 260 on FLAIR: 1, 0.3 and 1.3; wanted 0.1 and 1.1."""
    tissues = np.zeros((3, 3, 1, 1), np.float32)
    tissues[[0, 1, 2], [0, 1, 2]] = 1
    flair = np.array([60, 260, 200], np.float32).reshape(3, 1, 1)
    shape = (3, 1, 1)
    regions = np.zeros(shape, np.uint8)
    anatomy = Anatomy(np.eye(4), np.ones(shape, bool), tissues, regions, {"FLAIR": flair}, {"FLAIR": flair})
    contrast = Contrast((0.1, 1.1, 1.0), 0.0)
    moved = recoloured(anatomy, "FLAIR", contrast, flair).ravel()
    np.testing.assert_allclose(moved, [0.15, 1.15, 1.0], atol=1e-6)
    np.testing.assert_allclose(tissue_means(anatomy, "FLAIR", contrast), (0.15, 1.15), atol=1e-6)


def test_another_seed_is_another_person(aligned_patient):
    other = simulate_patient(SEED + 1, visits=1, small=True).visits[0].images["T1w"].data
    same = aligned_patient.visits[0].images["T1w"].data
    assert other.shape == same.shape
    assert np.corrcoef(other.ravel(), same.ravel())[0, 1] < 0.98


def test_stable_lesions_are_identical_and_changes_say_the_truth(aligned_patient):
    seen = set()
    for pair, changes in enumerate(aligned_patient.changes):
        before, after = (visit.instances.data for visit in aligned_patient.visits[pair : pair + 2])
        assert set(changes) == (set(np.unique(before)) | set(np.unique(after))) - {0}
        for lesion, change in changes.items():
            assert change == changes_between((before == lesion).sum(), (after == lesion).sum())
            if change == "stable":
                np.testing.assert_array_equal(before == lesion, after == lesion)
        seen |= set(changes.values())
    assert "stable" in seen
    assert seen <= set(CHANGES)


def test_labels_lie_on_the_images_grid(aligned_patient, native_patient):
    for visit in (*aligned_patient.visits, *native_patient.visits):
        require_same_grid(visit.lesions, visit.images["FLAIR"])
        np.testing.assert_array_equal(visit.lesions.data, visit.instances.data > 0)
    for visit in aligned_patient.visits:
        require_same_grid(visit.images["T1w"], visit.images["FLAIR"])


@pytest.mark.parametrize("patient", ["aligned_patient", "native_patient"])
def test_lesions_are_brighter_than_what_surrounds_them_on_flair(patient, request):
    for visit in request.getfixturevalue(patient).visits:
        flair, mask = visit.images["FLAIR"].data.astype(float), visit.lesions.data
        around = ndimage.binary_dilation(mask, iterations=3) & ~ndimage.binary_dilation(mask) & (flair > 0)
        assert flair[mask].mean() > 1.1 * flair[around].mean()


def test_aligned_images_are_masked_and_keep_their_lesions(aligned_patient, anatomy):
    for visit in aligned_patient.visits:
        for image in visit.images.values():
            assert image.data.dtype == np.float32
            outside = image.data[~anatomy.brain]
            assert np.count_nonzero(outside) < 0.15 * anatomy.brain.sum()  # what brain extraction left
            assert np.count_nonzero(image.data) > 0.8 * anatomy.brain.sum()
            assert np.mean(image.data[visit.lesions.data] > 0) > 0.9


def test_native_reference_comes_back_to_the_truth_through_the_pose(aligned_patient, native_patient):
    """Same seed, same disease: the truth is the aligned patient's map on the anatomy's grid."""
    for truth, visit in zip(aligned_patient.visits, native_patient.visits, strict=True):
        dice, wrong = (
            overlap(truth.lesions, resample(visit.lesions, truth.lesions.grid, to_image, order="linear"))
            for to_image in (np.linalg.inv(visit.to_patient["FLAIR"]), np.eye(4))
        )
        assert dice > max(0.4, 2 * wrong)  # voxels of 2 mm and slices of up to 5 mm, lesions of a few voxels
        assert set(np.unique(visit.instances.data)) == set(np.unique(truth.instances.data))  # none is lost


def overlap(truth: Volume, back: Volume) -> float:
    """Dice of a mask with one that was resampled."""
    inside = back.data > 0.5
    return 2 * (inside & truth.data).sum() / (inside.sum() + truth.data.sum())


def _agreement(image, anatomy, to_image):
    found = resample(image, Volume(anatomy.brain, anatomy.affine).grid, to_image, order="linear").data
    inside = anatomy.brain & (found > 0)
    return np.corrcoef(found[inside], anatomy.healthy["T1w"][inside])[0, 1]


def test_native_images_match_the_anatomy_through_their_poses_and_not_5_mm_off(native_patient, anatomy):
    for visit in native_patient.visits:
        to_image = np.linalg.inv(visit.to_patient["T1w"])
        wrong = to_image @ rigid(np.zeros(3), np.zeros(3), np.array([0.0, 5, 0]))
        assert (
            _agreement(visit.images["T1w"], anatomy, to_image) > _agreement(visit.images["T1w"], anatomy, wrong) + 0.1
        )


def test_native_volumes_are_those_of_the_anatomy(aligned_patient, native_patient):
    for truth, visit in zip(aligned_patient.visits, native_patient.visits, strict=True):
        expected = truth.lesions.data.sum() * truth.lesions.grid.voxel_volume_mm3
        found = visit.lesions.data.sum() * visit.lesions.grid.voxel_volume_mm3
        assert abs(found / expected - 1) < 0.3


def test_a_labelled_visit_becomes_a_longitudinal_patient(aligned_patient):
    visit = aligned_patient.visits[0]
    real = image_anatomy(visit.images["T1w"], visit.images["FLAIR"], visit.lesions, register=lambda t1w: np.eye(4))
    assert real.lesions is not None
    count = int(real.lesions.max())
    inside = real.lesions > 0
    white = real.lesioned["FLAIR"][(real.tissues[2] > 0.8) & ~inside].mean()
    assert abs(real.healthy["FLAIR"][inside].mean() - white) < 0.5 * (real.lesioned["FLAIR"][inside].mean() - white)
    patient = simulate_patient(1, visits=2, anatomy=real)
    kept = [i for i, change in patient.changes[0].items() if change == "stable" and i <= count]
    added = [i for i in patient.changes[0] if i > count]
    assert len(kept) > 0.5 * count
    assert added
    for lesion in kept:
        np.testing.assert_array_equal(patient.visits[0].instances.data == lesion, real.lesions == lesion)


def test_real_lesions_come_and_go_at_the_stated_rates_but_for_large_ones_and_quiet_patients(anatomy):
    """Counts within 4 binomial standard deviations."""
    labels = np.zeros(anatomy.brain.shape, np.int32)
    labels[2:14, 2:14, 2:14] = 1
    for number in range(2, 242):
        labels[2 * (number % 16), 2 * (number // 16), 20:22] = number
    real, rng = replace(anatomy, lesions=labels), np.random.default_rng(3)

    def changes(rates: Rates) -> list[str]:
        """Of the real lesions, the large one first."""
        present = draw_disease(rng, real, 2, LesionPlan(rates=rates, count=1)).present
        return [changes_between(*map(int, there)) for _, there in sorted(present.items())]

    rates = Rates(new=0.5, enlarging=0.2, shrinking=0, resolved=0.3, quiet=0)
    large, *small = changes(rates)
    assert large == "stable"
    for name in ("new", "resolved"):
        rate, n = getattr(rates, name), len(small)
        assert abs(small.count(name) - n * rate) < 4 * np.sqrt(n * rate * (1 - rate)), name
    assert "enlarging" not in small
    assert set(changes(Rates(new=0.5, resolved=0.5, quiet=1))) == {"stable"}


def test_no_lesion_loses_its_last_voxel_to_a_neighbour():
    """Two lesions in one thick slice, and the larger one fills more of their common voxel."""
    instances = np.zeros((12, 12, 12), np.int32)
    instances[4:8, 4:8, 2:6] = 1
    instances[5:7, 5:7, 7:8] = 2
    thick = Grid((4, 4, 2), np.diag([3.0, 3.0, 6.0, 1.0]))
    on_scan = reference_on(Volume(instances, np.eye(4)), thick, np.eye(4))
    assert set(np.unique(on_scan)) == {0, 1, 2}
    column = np.zeros((3, 3, 24), np.int32)  # slices of 6 mm around 0, 6, 12, 18; the third has no other choice
    for number, (first, last) in enumerate(((2, 5), (13, 16), (8, 10)), start=1):
        column[1, 1, first : last + 1] = number
    on_scan = reference_on(Volume(column, np.eye(4)), Grid((3, 3, 4), np.diag([1.0, 1.0, 6.0, 1.0])), np.eye(4))
    assert set(np.unique(on_scan)) == {0, 1, 2, 3}


def test_a_deformed_person_has_another_brain_with_the_same_lesions_in_it(aligned_patient):
    visit = aligned_patient.visits[0]
    real = image_anatomy(visit.images["T1w"], visit.images["FLAIR"], visit.lesions, register=lambda t1w: np.eye(4))
    other = deformed(real, seed=1)
    assert 0.02 < np.mean(other.brain ^ real.brain) / np.mean(real.brain) < 0.4
    np.testing.assert_allclose(other.tissues[:, other.brain].sum(axis=0), 1, atol=1e-3)
    assert not other.tissues[:, ~other.brain].any()
    assert set(np.unique(other.lesions)) <= set(np.unique(real.lesions))
    assert 0.5 < (other.lesions > 0).sum() / (real.lesions > 0).sum() < 2
    for anatomy in (real, other):  # lesions moved with the images
        inside, around = anatomy.lesions > 0, anatomy.tissues[2] > 0.8
        assert anatomy.lesioned["FLAIR"][inside].mean() > anatomy.lesioned["FLAIR"][around & ~inside].mean() * 1.1
    np.testing.assert_array_equal(deformed(real, seed=1).lesions, other.lesions)


@pytest.mark.slow
@pytest.mark.data
def test_an_open_patient_becomes_longitudinal(data_folder):
    stem = data_folder / "ljubljana-cross-sectional/sub-07/anat/sub-07_space-MNI152"
    t1w, flair = (read_image(Path(f"{stem}_{name}.nii.gz")) for name in ("T1w", "FLAIR"))
    real = image_anatomy(t1w, flair, read_mask(Path(f"{stem}_label-lesion_mask.nii.gz")))
    assert 1.0e6 < real.brain.sum() < 1.4e6  # mm3
    patient = simulate_patient(5, visits=2, anatomy=real)
    kept = patient.visits[0].lesions.data & patient.visits[1].lesions.data & (real.lesions > 0)
    assert kept.sum() > 0.5 * (real.lesions > 0).sum()
    assert "new" in patient.changes[0].values() or "resolved" in patient.changes[0].values()


def test_a_visit_later_the_ventricles_are_wider_and_nothing_moved_by_half_a_voxel(anatomy):
    atrophy = draw_atrophy(np.random.default_rng(3), anatomy)
    csf = anatomy.tissues[0]
    deep = ventricles(csf, anatomy.regions, anatomy.spacing_mm)
    near = ndimage.binary_dilation(deep, iterations=2)
    first, later, much_later = (shrunken(csf, atrophy, years)[near].sum() for years in (0, 1, 50))
    assert first < later < much_later
    place = np.indices(csf.shape, dtype=np.float32)
    moved = np.stack([shrunken(axis, atrophy, 50) for axis in place]) - place
    inner = (slice(None), *[slice(2, -2)] * 3)
    assert 0.3 < np.linalg.norm(moved[inner], axis=0).max() < 0.5


def test_ventricles_are_those_of_the_atlas_and_no_fissure(anatomy):
    inner = ventricles(anatomy.tissues[0], anatomy.regions, anatomy.spacing_mm)
    places = np.argwhere(inner) @ anatomy.affine[:3, :3].T + anatomy.affine[:3, 3]
    assert 5 < np.count_nonzero(inner) * anatomy.spacing_mm**3 / 1000 < 80
    assert np.abs(places[:, 0]).max() < 55
    assert places[:, 2].max() < 45
    assert places[:, 2].min() > -40
