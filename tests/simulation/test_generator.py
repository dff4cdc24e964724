"""Pairs drawn from label maps.

One long file, because every test draws from the same small head, which its first part makes.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lesiondelta.errors import ImageError
from lesiondelta.images import Volume, write_volume
from lesiondelta.simulation import fields
from lesiondelta.simulation.acquisition import Protocol
from lesiondelta.simulation.anatomy import ATLAS_CENTER_MM
from lesiondelta.simulation.contrast import Contrast
from lesiondelta.simulation.evolution import Rates, draw_sizes
from lesiondelta.simulation.generator.brightness import draw_look, draw_tissues, normal_variants, tissue_means
from lesiondelta.simulation.generator.label_map import (
    DEPTH_MM,
    DISTANCE_MM,
    FLUIDS,
    GREY_MATTER,
    Tissue,
    label_map,
    prepared,
    solid_tissue,
)
from lesiondelta.simulation.generator.lesion_depth import _fate, patch_lesions
from lesiondelta.simulation.generator.pair_generator import GeneratorPlan, PairGenerator, seeded
from lesiondelta.simulation.generator.patch import Place, cut_patch
from lesiondelta.simulation.generator.placed import PersonLesions, PlacedLesion, draw_lesions, placed_depth
from lesiondelta.simulation.generator.sampling import lattice_points, moved, nearest, sampled, smooth_field
from lesiondelta.simulation.generator.scanner import Scan, draw_scans, scanned
from lesiondelta.simulation.generator.surfaces import SIZES, eighths, surface_mm, surfaces_mm
from tests.synthetic import ball

CPU = torch.device("cpu")
STILL = Rates(0, 0, 0, 0, quiet=0)
PLAN = GeneratorPlan(randomised_share=0, without_t1w=0, without_flair=0, same_share=0)


@pytest.fixture(scope="module")
def labels():
    """A head of balls: fluid, cortex, white matter, two ventricles, cerebellum, and two lesions of its own."""
    shape, middle = (80, 84, 80), (40, 42, 40)
    data = np.zeros(shape, np.int16)
    for radius, label in ((34, 24), (32, 3), (28, 2)):
        data[ball(middle, radius, shape)] = label
    data[40:][data[40:] == 2], data[40:][data[40:] == 3] = 41, 42
    data[ball((34, 42, 40), 5, shape)], data[ball((46, 42, 40), 5, shape)] = 4, 43
    data[ball((40, 22, 20), 6, shape)] = 8
    data[ball((40, 60, 40), 3, shape)], data[ball((55, 42, 50), 2, shape)] = 25, 57
    data[0, 0, 0] = 511  # scalp
    return Volume(data, np.diag([1.0, 1, 1, 1]), "head.nii.gz")


@pytest.fixture(scope="module")
def person(labels):
    return label_map(labels, register=lambda _: np.eye(4))


def generator(person, plan=PLAN, edge=32, **options):
    return PairGenerator([person], [], (edge,) * 3, plan, **options)


def test_a_label_map_is_cut_to_the_brain_and_knows_its_distances(labels, person):
    low = np.argwhere(np.isin(labels.data, (2, 3, 24, 41, 42))).min(axis=0) - 20
    there = np.array((40, 60, 40)) - low  # the middle of a lesion
    assert person.tissue[tuple(there)] == Tissue.WHITE
    assert person.depth[tuple(there)] * DEPTH_MM == pytest.approx(3, abs=1)  # a ball of radius 3, roughened
    assert person.depth[tuple(there + np.array((0, 6, 0)))] * DEPTH_MM == pytest.approx(-3, abs=1)
    assert person.owner[tuple(there)] == person.owner[tuple(there + np.array((0, 6, 0)))]
    assert sorted(person.volumes_mm3.tolist()) == [33, 123]
    assert np.abs(person.centres - there).sum(axis=1).min() < 1e-6
    side = np.array((60, 42, 40)) - low
    assert person.to_ventricles[tuple(side)] * DISTANCE_MM == pytest.approx(9, abs=0.3)  # 46 + 5 is its last voxel
    assert person.to_cortex[tuple(side)] * DISTANCE_MM == pytest.approx(np.hypot(8, 1), abs=0.3)  # 68, 43, 40
    beside = np.array((52, 42, 40)) - low
    assert person.to_ventricles[tuple(beside)] * DISTANCE_MM == pytest.approx(1, abs=0.3)
    np.testing.assert_allclose((person.from_masks @ [*0.9 * ATLAS_CENTER_MM, 1])[:3], ATLAS_CENTER_MM - low, atol=1e-6)
    np.testing.assert_array_equal(np.unique(person.tips[:, 1] + low[1]), (37, 47))
    assert person.shares.sum() == pytest.approx(1)
    assert person.shares[Tissue.OUTSIDE] == 0


@pytest.fixture(scope="module")
def with_rim(labels):
    """Beside its two lesions, a shell about half a ventricle, and a lesion that touches the other one and leaves it."""
    data = labels.data.copy()
    shell = ball((46, 42, 40), 7, data.shape) & ~ball((46, 42, 40), 5, data.shape)
    shell[:47] = False
    data[shell] = 57
    data[18:29, 41:44, 39:42] = 25
    return label_map(replace(labels, data=data), register=lambda _: np.eye(4)), np.count_nonzero(shell)


def test_what_hugs_a_ventricle_is_a_rim_and_no_lesion(person, with_rim):
    person_with_rim, voxels = with_rim
    assert np.count_nonzero(person_with_rim.rim) == voxels
    assert not person.rim.any()
    assert sorted(person_with_rim.volumes_mm3.tolist()) == [33, 99, 123]  # 18 to 28 from a ventricle's side: a lesion
    assert (person_with_rim.tissue[person_with_rim.rim] == Tissue.WHITE).all()


def test_rims_are_bright_on_flair_dark_on_t1w_and_never_lesions(with_rim):
    person, _ = with_rim
    low, high = np.argwhere(person.rim).min(axis=0) - 12, np.argwhere(person.rim).max(axis=0) + 13
    at = lattice_points(tuple(high - low), CPU) + torch.from_numpy(low.astype(np.float32)).reshape(3, 1, 1, 1)
    patch = cut_patch(person, at)
    rim = patch.rim > 0.5
    looks = [draw_look(np.random.default_rng(seed), patch) for seed in range(20)]
    assert max(float(look.variants[rim].mean()) for look in looks) > 0.6  # as bright as lesions, in some
    assert min(float(look.variants[rim].mean()) for look in looks) < 0.35
    assert 0.2 < max(float(look.darker[rim].mean()) for look in looks) < 0.5
    assert all(float(look.darker[patch.to_ventricles > 8].abs().max()) < 1e-3 for look in looks)
    lesions = patch_lesions(np.random.default_rng(0), person, PersonLesions(True, ()), Place(at, np.eye(4)), STILL)
    assert not (lesions.at(1)[rim] > 0).any()


def test_how_a_map_is_stored_makes_no_difference(labels, person):
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = labels.data.shape[0] - 1
    other = label_map(Volume(labels.data[::-1].copy(), flipped, "head.nii.gz"), register=lambda _: np.eye(4))
    for name in ("tissue", "to_ventricles", "depth", "owner", "tips", "from_masks"):
        np.testing.assert_array_equal(getattr(other, name), getattr(person, name), err_msg=name)


def test_sulci_are_fluid_and_what_lies_beyond_is_outside(labels, person):
    shape = (60, 60, 60)
    data = np.zeros(shape, np.int16)
    data[ball((30, 30, 30), 22, shape)], data[ball((30, 30, 30), 18, shape)] = 3, 2
    data[ball((30, 30, 30), 3, shape)] = 4
    data[29:32, 45:] = 0  # a sulcus, 3 mm wide
    made = label_map(Volume(data, np.eye(4), "brain.nii.gz"), register=lambda _: np.eye(4))
    low = np.argwhere(data > 0).min(axis=0) - 20
    assert made.tissue[tuple(np.array((30, 48, 30)) - low)] == Tissue.FLUID
    assert made.tissue[5, 5, 5] == Tissue.OUTSIDE


def test_labels_of_something_else_are_refused():
    data = np.zeros((30, 30, 30), np.int16)
    data[5:25, 5:25, 5:25] = 1
    with pytest.raises(ImageError, match=r"tumour\.nii\.gz lacks white matter"):
        label_map(Volume(data, np.eye(4), "tumour.nii.gz"), register=lambda _: np.eye(4))


def test_a_prepared_map_is_read_again(labels, person, tmp_path, monkeypatch):
    path = tmp_path / "head.nii.gz"
    write_volume(path, labels)
    monkeypatch.setattr("lesiondelta.simulation.generator.label_map.label_map", lambda _: person)
    first = prepared(path, tmp_path / "kept")
    monkeypatch.undo()
    again = prepared(path, tmp_path / "kept")  # registering the atlas to balls would fail
    for made in (first, again):
        np.testing.assert_array_equal(made.depth, person.depth)


def test_fields_are_those_of_the_simulator():
    one = smooth_field(np.random.default_rng(1), (20, 24, 28), 5, CPU).numpy()
    np.testing.assert_allclose(one, fields.smooth_field(np.random.default_rng(1), (20, 24, 28), 5), atol=1e-4)


def test_a_number_is_always_the_same_pair(person):
    forth, back = ([generator(person).draw(n) for n in order] for order in ((0, 1), (1, 0)))
    for one, other in zip(forth, back[::-1], strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.lesions, other.lesions)
    assert not torch.equal(forth[0].images, forth[1].images)
    assert not torch.equal(generator(person, seed=1).draw(0).images, forth[0].images)


def test_images_are_standardised_and_masked(person):
    pairs = [generator(person, edge=72).draw(n) for n in range(6)]
    for contrast in range(2):
        values = [pair.images[1, contrast] for pair in pairs]
        inside = torch.cat([image[image != 0] for image in values])
        assert abs(float(inside.mean())) < 0.35
        assert 0.7 < float(inside.std()) < 1.4
    corner = torch.stack([pair.images[:, :, :3, :3, :3] for pair in pairs])
    assert (corner == 0).float().mean() > 0.8  # outside the brain
    assert all(pair.images.shape == (2, 2, 72, 72, 72) for pair in pairs)


def test_lesions_are_bright_on_flair(person):
    plan, found = replace(PLAN, lesion_share=1.0, rates=STILL), []
    for number in range(8):
        pair = generator(person, plan, edge=40).draw(number)
        flair, t1w, lesion = pair.images[1, 1], pair.images[1, 0], pair.lesions[1] & (pair.images[1, 1] != 0)
        rest = ~pair.lesions[1] & (t1w != 0) & (t1w > 0)  # white matter
        if lesion.sum() > 20:
            found.append(float(flair[lesion].mean() - flair[rest].mean()))
    assert len(found) > 3
    assert np.mean(found) > 0.3


@pytest.mark.parametrize(
    ("rates", "compare"),
    [
        (STILL, lambda before, after: torch.equal(before, after)),
        (Rates(1, 0, 0, 0, quiet=0), lambda before, after: (before <= after).all() and after.sum() > before.sum()),
        (Rates(0, 0, 0, 1, quiet=0), lambda before, after: (after <= before).all() and before.sum() > after.sum()),
        (
            Rates(0, 1, 0, 0, quiet=0),
            lambda before, after: (before <= after).all() and after.sum() > 1.2 * before.sum(),
        ),
        (
            Rates(0, 0, 1, 0, quiet=0),
            lambda before, after: (after <= before).all() and before.sum() > 1.2 * after.sum(),
        ),
        (Rates(1, 0, 0, 0, quiet=1), lambda before, after: torch.equal(before, after)),
    ],
)
def test_lesions_do_what_the_rates_say(person, rates, compare):
    plan = replace(PLAN, rates=rates, lesion_share=1.0)
    pairs = [generator(person, plan, seed=5).draw(number) for number in range(4)]
    seen = [pair for pair in pairs if pair.lesions.sum() > 30]
    assert seen
    assert all(compare(*pair.lesions) for pair in seen)
    assert not any(torch.equal(*pair.images) for pair in pairs)


def test_a_visit_is_compared_with_itself(person):
    for number in range(3):
        pair = generator(person, replace(PLAN, same_share=1.0)).draw(number)
        assert torch.equal(*pair.images)
        assert torch.equal(*pair.lesions)


def test_a_visit_lacks_one_image_but_never_both(person):
    plan = replace(PLAN, without_t1w=0.8, without_flair=0.8)
    there = [(generator(person, plan).draw(number).images != 0).flatten(2).any(dim=2) for number in range(6)]
    assert all(visit.any() for pair in there for visit in pair)
    assert not all(pair.all() for pair in there)


FORMS = {"flat": (18, 14, 2), "long": (3, 3, 24), "plate": (14, 14, 1), "ball": (7, 7, 7), "tiny": (2, 2, 1)}


def slab(shape, edges):
    low = [(n - e) // 2 for n, e in zip(shape, edges, strict=True)]
    inside = np.zeros(shape, bool)
    inside[tuple(slice(a, a + e) for a, e in zip(low, edges, strict=True))] = True
    return inside


@pytest.fixture(scope="module")
def with_forms(labels):
    """The same head, whose own lesions are slabs, in the order of `FORMS`."""
    data = labels.data.copy()
    data[np.isin(data, (25, 57))] = 2
    starts = ((31, 48, 28), (20, 42, 28), (33, 25, 55), (55, 45, 37), (40, 30, 28))
    for start, edges in zip(starts, FORMS.values(), strict=True):
        data[tuple(slice(c, c + e) for c, e in zip(start, edges, strict=True))] = 25
    made = label_map(Volume(data, labels.affine, "head.nii.gz"), register=lambda _: np.eye(4))
    assert sorted(made.volumes_mm3) == sorted(np.prod(edges) for edges in FORMS.values())
    return made


def everywhere(person):
    return Place(lattice_points(person.tissue.shape, CPU), np.eye(4))


HALF = np.array([[0.5, 0, 0, 25.25], [0, 0.5, 0, 25.25], [0, 0, 0.5, 25.25], [0, 0, 0, 1]])
FINE = Place(moved(lattice_points((120, 120, 120), CPU), HALF), HALF)
"""The middle of the head at twice the resolution, between its voxels, as patches see it."""


def volume_mm3(person, found, number, change_mm=0.0):
    solid = nearest(torch.from_numpy(solid_tissue(person.tissue)), FINE.at)
    return float(((found.depth + change_mm > 0) & (found.owner == number) & solid).sum()) / 8


def placed_mm3(person, found):
    solid = solid_tissue(
        person.tissue[tuple(slice(a, a + n) for a, n in zip(found.start, found.depth.shape, strict=True))]
    )
    return sum(np.count_nonzero(part[solid] > 0) for part in eighths(found.depth)) / 8


def test_surfaces_move_by_what_the_wanted_volume_needs():
    flat = surfaces_mm(np.repeat([0.5, -0.5, -1.5, -2.5], 100), 100)  # sheets
    assert surface_mm(flat, 1) == pytest.approx(0, abs=0.02)
    assert surface_mm(flat, 2) == pytest.approx(1, abs=0.02)
    away = np.linalg.norm(np.indices((31, 31, 31)) - np.array((15.1, 15.3, 14.8)).reshape(3, 1, 1, 1), axis=0)
    found = surfaces_mm((5 - away).ravel(), 4 / 3 * np.pi * 5**3)
    for size in (0.5, 1, 2, 3):
        assert surface_mm(found, size) == pytest.approx(5 * (size ** (1 / 3) - 1), abs=0.05)


@pytest.mark.parametrize("rates", [Rates(0, 1, 0, 0, quiet=0), Rates(0, 0, 1, 0, quiet=0)])
def test_own_lesions_of_any_form_get_the_volume_that_is_drawn(with_forms, rates):
    found = patch_lesions(np.random.default_rng(0), with_forms, PersonLesions(True, []), FINE, STILL)
    for number, (volume, surfaces) in enumerate(zip(with_forms.volumes_mm3, with_forms.surfaces_mm, strict=True), 1):
        assert volume_mm3(with_forms, found, number) == pytest.approx(volume, rel=0.1)
        for seed in range(6):
            first, second = draw_sizes(np.random.default_rng(seed), max(round(volume), 2), 2, rates, 1.0)
            before, after = _fate(np.random.default_rng(seed), volume, surfaces, rates)
            assert before == pytest.approx(0, abs=1e-6)
            assert volume_mm3(with_forms, found, number, after) == pytest.approx(volume * second / first, rel=0.15)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rates", [STILL, Rates(0, 1, 0, 0, quiet=0), Rates(0, 0, 1, 0, quiet=0)])
def test_real_lesions_of_any_form_get_the_volume_that_is_drawn(person, tmp_path, form, rates):
    """Of a mask on the grid of MNI152, through the whole way to a patch."""
    mask = slab((60, 60, 60), FORMS[form])
    write_volume(tmp_path / "x_mask.nii.gz", Volume(mask.astype(np.uint8), np.eye(4)))
    middle = np.eye(4)
    middle[:3, 3] = np.array((55, 55, 55)) - 30
    placed = next(
        lesions.placed[0]
        for lesions in (
            draw_lesions(np.random.default_rng(seed), replace(person, from_masks=middle), [tmp_path / "x_mask.nii.gz"])
            for seed in range(20)
        )
        if lesions.placed[0].is_real
    )
    placed = replace(placed, centre=np.array((54, 70, 54)))
    assert placed.volume_mm3 == mask.sum()
    found = patch_lesions(np.random.default_rng(2), person, PersonLesions(False, [placed]), FINE, rates)
    surfaces = placed_depth(np.random.default_rng(2), placed, person).surfaces_mm
    assert volume_mm3(person, found, 1) == pytest.approx(mask.sum(), rel=0.03)
    share = np.interp(float(found.change_mm[1, 1]), surfaces, SIZES)
    assert volume_mm3(person, found, 1, found.change_mm[1, 1]) == pytest.approx(mask.sum() * share, rel=0.15)
    for seed in range(4):
        first, second = draw_sizes(np.random.default_rng(seed), int(mask.sum()), 2, rates, 1.0)
        change = _fate(np.random.default_rng(seed), float(mask.sum()), surfaces, rates)[1]
        assert volume_mm3(person, found, 1, change) == pytest.approx(mask.sum() * second / first, rel=0.15)


def test_real_lesions_lie_where_the_mask_has_them_or_mirrored(person, tmp_path):
    at = np.diag([1.0, 1, 1, 1])
    at[:3, 3] = (15, -5, -5)  # the slab's middle is at 20, 0, 0 mm
    write_volume(tmp_path / "x_mask.nii.gz", Volume(slab((10, 10, 10), (8, 8, 8)).astype(np.uint8), at))
    turn = np.eye(4)
    turn[:3, :3] = [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    turn[:3, 3] = (50, 52, 54)
    drawn = [
        draw_lesions(np.random.default_rng(seed), replace(person, from_masks=turn), [tmp_path / "x_mask.nii.gz"])
        for seed in range(60)
    ]
    centres = np.array([one.placed[0].centre for one in drawn if one.placed[0].is_real])
    assert len(centres) > 15
    for sign in (-1, 1):
        side = centres[np.sign(centres[:, 1] - 52) == sign]
        np.testing.assert_allclose(side.mean(axis=0), (50, 52 + sign * 20, 54), atol=3)  # jittered by 3 mm each


def test_what_is_placed_has_the_wanted_volume(person):
    """Ellipsoids and those along the ventricles."""
    off = {False: [], True: []}
    for seed in range(12):
        rng = np.random.default_rng(seed)
        for lesion in draw_lesions(rng, person, []).placed:
            found = placed_depth(rng, lesion, person)
            off[lesion.along].append(abs(placed_mm3(person, found) / lesion.volume_mm3 - 1) < 0.1)
    assert len(off[True]) > 20
    assert all(np.mean(ones) > 0.95 for ones in off.values())


def test_lesions_along_a_ventricle_are_flat(person):
    """Their distance to it varies less than their place does."""
    beside = np.argwhere((person.tissue == Tissue.WHITE) & (person.to_ventricles * DISTANCE_MM == 3))[7]
    lesion = PlacedLesion(beside, 200.0, np.eye(3) / 3.6, along=True)
    spreads = []
    for along in (True, False):
        found = placed_depth(np.random.default_rng(0), replace(lesion, along=along), person)
        box = tuple(slice(a, a + n) for a, n in zip(found.start, found.depth.shape, strict=True))
        inside = (found.depth > 0) & solid_tissue(person.tissue[box])
        spreads.append((person.to_ventricles[box] * DISTANCE_MM)[inside].std())
    assert spreads[0] < 0.8 * spreads[1]


def test_lesions_hardly_enter_grey_matter(person):
    near = np.argwhere((person.tissue == Tissue.WHITE) & (person.to_cortex * DISTANCE_MM == 2))
    shares = []
    for seed in range(20):
        lesion = PlacedLesion(near[seed * len(near) // 20], 400.0, np.eye(3) / 4.57)
        found = placed_depth(np.random.default_rng(seed), lesion, person)
        box = tuple(slice(a, a + n) for a, n in zip(found.start, found.depth.shape, strict=True))
        inside = (found.depth > 0) & solid_tissue(person.tissue[box])
        shares.append(np.isin(person.tissue[box], GREY_MATTER)[inside].mean())
    assert np.mean(shares) < 0.1  # of a ball, a third
    assert max(shares) > 0  # some do


def test_a_real_lesion_in_fluid_is_left_out(person):
    depth = np.where(slab((21, 21, 21), (9, 9, 9)), 1.0, -1.0)
    middle = np.argwhere(person.tissue == Tissue.VENTRICLE).mean(axis=0)
    ventricle = np.rint(middle + np.array((6, 0, 0))).astype(int)
    assert person.tissue[tuple(ventricle)] == Tissue.VENTRICLE
    assert placed_depth(np.random.default_rng(0), PlacedLesion(ventricle, 729.0, depth), person) is None
    white = PlacedLesion(ventricle + np.array((13, 0, 0)), 729.0, depth)
    assert placed_depth(np.random.default_rng(0), white, person).volume_mm3 == 729


@pytest.mark.parametrize("mirrored", [1, -1])
def test_a_turned_patch_shows_the_same_lesions(person, mirrored):
    """What is drawn on the whole map, and then cut, is what is drawn into a patch."""
    placed = [
        PlacedLesion(np.array(centre), 500.0, np.diag((0.2, 0.15, 0.25)))
        for centre in ((40, 50, 60), (60, 60, 50), (54, 40, 68))
    ]
    lesions = PersonLesions(True, placed)
    whole = patch_lesions(np.random.default_rng(1), person, lesions, everywhere(person), STILL)
    angle = np.deg2rad(15)
    matrix = np.eye(4)
    matrix[:2, :2] = 1.1 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix[:3, :3] = matrix[:3, :3] * [mirrored, 1, 1]
    matrix[:3, 3] = np.array((54, 56, 54)) - matrix[:3, :3] @ [29.5, 29.5, 29.5]
    place = Place(moved(lattice_points((60, 60, 60), CPU), matrix), matrix)
    patch = patch_lesions(np.random.default_rng(1), person, lesions, place, STILL)
    expected = sampled(whole.depth[None], place.at)[0] > 0
    assert float(expected.sum()) > 900
    assert float((expected != (patch.depth > 0)).sum()) < 0.03 * float(expected.sum())
    assert len(patch.owner[patch.depth > 0].unique()) == 5


def test_a_persons_tissues_hardly_differ_between_visits():
    contrast = Contrast((0.2, 1.2, 1.0), 0.0)
    people = [draw_tissues(np.random.default_rng(seed), "FLAIR") for seed in range(50)]
    rng = np.random.default_rng(99)
    visits = np.array([[tissue_means(contrast, one.varied(rng)) for _ in range(2)] for one in people])
    for tissue in (Tissue.FLUID, Tissue.DEEP_GREY, Tissue.BRAIN_STEM, Tissue.CEREBELLAR_CORTEX):
        within = np.diff(visits[..., tissue], axis=1).std() / np.sqrt(2)
        between = visits[:, 0, tissue].std()
        assert 0 < within < 0.3 * between, tissue.name


def test_what_is_bright_at_the_midline_is_tissue(person):
    at = lattice_points(person.tissue.shape, CPU)
    patch = cut_patch(person, at)
    nothing_flows = [
        normal_variants(np.random.default_rng(seed), patch)[patch.shares(*FLUIDS) > 0] for seed in range(8)
    ]
    far = patch.to_ventricles[patch.shares(*FLUIDS) > 0] > 3  # neither choroid plexus
    between = patch.between[patch.shares(*FLUIDS) > 0] < 3
    assert all(float(one[between & far].abs().sum()) == 0 for one in nothing_flows)


def test_numbers_with_a_zero_more_are_others():
    values = {float(seeded(0, *number).random()) for number in ((1,), (1, 0), (1, 0, 0), (0, 1), (0, 1, 0))}
    assert len(values) == 5


def test_a_t1w_on_the_slices_of_the_flair_lies_on_all_of_them():
    drawn = [draw_scans(np.random.default_rng(seed)) for seed in range(300)]
    same = [one for one in drawn if one["T1w"].protocol.tilt_deg == one["FLAIR"].protocol.tilt_deg]
    assert len(same) / 300 == pytest.approx(0.35, abs=0.1)
    assert all(one["T1w"].phase == one["FLAIR"].phase for one in same)
    assert all(one["T1w"].phase != one["FLAIR"].phase for one in drawn if one not in same)
    phases = [one["FLAIR"].phase for one in drawn]
    assert min(phases) < -0.4
    assert max(phases) > 0.4


def perfect(phase=0.0, **options):
    return Scan(replace(Protocol(1.0, 1.0, (0, 1, 2), (0.0, 0.0, 0.0), 0.0, 0.0), **options), phase)


@pytest.mark.parametrize("tilt", [(0.0, 0.0, 0.0), (10.0, -8.0, 12.0)])
@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (0, 2, 1)])
def test_a_perfect_scan_is_the_image(axes, tilt, monkeypatch):
    monkeypatch.setattr("lesiondelta.simulation.generator.scanner.RESIDUAL_DEG", 0.0)
    image = 2 + smooth_field(np.random.default_rng(0), (40, 44, 48), 12, CPU)
    seen = scanned(np.random.default_rng(1), image, (16, 20, 24), perfect(0.3, axes=axes, tilt_deg=tilt), 0.0)
    assert float((seen - image[12:28, 12:32, 12:36]).abs().max()) < 0.1


@pytest.mark.parametrize(("axes", "slow"), [((0, 1, 2), 2), ((1, 2, 0), 0), ((0, 2, 1), 1)])
def test_thick_slices_blur_along_their_axis_only(axes, slow):
    """A point becomes as long as a slice is thick, and keeps its sum."""
    image = torch.zeros(48, 48, 48)
    image[22:26, 22:26, 22:26] = 1
    lengths = []
    for seed in range(6):
        seen = scanned(
            np.random.default_rng(seed), image, (32, 32, 32), perfect(seed / 6 - 0.4, axes=axes, slice_mm=6.0), 0.0
        )
        profile = [seen.sum(dim=tuple({0, 1, 2} - {axis})).numpy() for axis in range(3)]
        places = np.arange(32)
        spread = [
            float(
                np.sqrt(
                    np.average(
                        (places - np.average(places, weights=np.clip(p, 0, None))) ** 2, weights=np.clip(p, 0, None)
                    )
                )
            )
            for p in profile
        ]
        lengths.append(spread)
        assert float(seen.sum()) == pytest.approx(64, rel=0.45)
    mean = np.mean(lengths, axis=0)
    assert mean[slow] > 1.7
    assert all(mean[axis] < 1.6 for axis in {0, 1, 2} - {slow})


def test_an_image_is_off_by_the_residual(monkeypatch):
    monkeypatch.setattr("lesiondelta.simulation.generator.scanner.RESIDUAL_DEG", 0.0)
    image = lattice_points((40, 40, 40), CPU)[0].contiguous()  # a ramp: its value is the place
    off = [float(scanned(np.random.default_rng(n), image, (8, 8, 8), perfect(), 3.0)[4, 4, 4]) - 20 for n in range(8)]
    assert max(map(abs, off)) <= 3 / np.sqrt(3) + 0.01
    assert max(map(abs, off)) > 0.5
