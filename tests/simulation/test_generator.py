"""Pairs drawn from label maps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lesiondelta.errors import ImageError
from lesiondelta.images import Volume, write_volume
from lesiondelta.simulation import fields
from lesiondelta.simulation.acquisition import Protocol
from lesiondelta.simulation.evolution import Rates
from lesiondelta.simulation.generator.label_map import DEPTH_MM, DISTANCE_MM, Tissue, label_map, prepared
from lesiondelta.simulation.generator.lesion_depth import DrawnLesion, patch_lesions
from lesiondelta.simulation.generator.pair_generator import GeneratorPlan, PairGenerator
from lesiondelta.simulation.generator.patch import Place
from lesiondelta.simulation.generator.sampling import lattice_points, smooth_field
from lesiondelta.simulation.generator.scanner import scanned

CPU = torch.device("cpu")
STILL = Rates(0, 0, 0, 0, quiet=0)
PLAN = GeneratorPlan(randomised_share=0, without_t1w=0, without_flair=0, same_share=0)


def ball(shape, centre, radius):
    return sum((axis - c) ** 2 for axis, c in zip(np.indices(shape), centre, strict=True)) <= radius**2


@pytest.fixture(scope="module")
def labels():
    """A head of balls: fluid, cortex, white matter, two ventricles, cerebellum, and two lesions of its own."""
    shape, middle = (80, 84, 80), (40, 42, 40)
    data = np.zeros(shape, np.int16)
    for radius, label in ((34, 24), (32, 3), (28, 2)):
        data[ball(shape, middle, radius)] = label
    data[40:][data[40:] == 2], data[40:][data[40:] == 3] = 41, 42
    data[ball(shape, (34, 42, 40), 5)], data[ball(shape, (46, 42, 40), 5)] = 4, 43
    data[ball(shape, (40, 22, 20), 6)] = 8
    data[ball(shape, (40, 60, 40), 3)], data[ball(shape, (55, 42, 50), 2)] = 25, 57
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
    assert person.depth[tuple(there)] * DEPTH_MM == pytest.approx(2.5 + 0.7, abs=0.5)  # a ball of radius 3
    assert person.depth[tuple(there + np.array((0, 6, 0)))] * DEPTH_MM == pytest.approx(-2.5, abs=0.11)
    assert person.owner[tuple(there)] == person.owner[tuple(there + np.array((0, 6, 0)))]
    assert sorted(person.volumes_mm3.tolist()) == [33, 123]
    assert np.abs(person.centres - there).sum(axis=1).min() < 1e-6
    side = np.array((60, 42, 40)) - low
    assert person.to_ventricles[tuple(side)] * DISTANCE_MM == pytest.approx(
        9, abs=1.05
    )  # 46 + 5 is the ventricle's last
    assert person.to_cortex[tuple(side)] * DISTANCE_MM == pytest.approx(9, abs=1.05)
    np.testing.assert_array_equal(np.unique(person.tips[:, 1] + low[1]), (37, 47))
    assert person.shares.sum() == pytest.approx(1)
    assert person.shares[Tissue.OUTSIDE] == 0


def test_how_a_map_is_stored_makes_no_difference(labels, person):
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = labels.data.shape[0] - 1
    other = label_map(Volume(labels.data[::-1].copy(), flipped, "head.nii.gz"), register=lambda _: np.eye(4))
    for name in ("tissue", "to_ventricles", "depth", "owner", "tips", "from_masks"):
        np.testing.assert_array_equal(getattr(other, name), getattr(person, name), err_msg=name)


def test_sulci_are_fluid_and_what_lies_beyond_is_outside(labels, person):
    shape = (60, 60, 60)
    data = np.zeros(shape, np.int16)
    data[ball(shape, (30, 30, 30), 22)], data[ball(shape, (30, 30, 30), 18)] = 3, 2
    data[ball(shape, (30, 30, 30), 3)] = 4
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


def test_a_lesion_that_doubles_has_twice_the_volume(person):
    """Its surface moves by as much everywhere."""
    at = lattice_points((60, 60, 60), CPU) + torch.tensor([12.0, 20, 12]).reshape(3, 1, 1, 1)
    matrix = np.eye(4)
    matrix[:3, 3] = (12, 20, 12)
    radius = 8.0
    volume = 4 / 3 * np.pi * radius**3
    turn = np.diag([1 / radius] * 3 + [1])
    one = DrawnLesion(np.array([42.0, 50, 42]), volume, None, turn)
    rng, bare = np.random.default_rng(0), replace(person, volumes_mm3=np.zeros(0))
    found = patch_lesions(rng, bare, [one], Place(at, matrix), torch.full((60, 60, 60), 50.0), STILL)
    assert found.owner.max() == 1
    drawn = (found.at(0) > 0).sum()
    assert float(drawn) == pytest.approx(volume, rel=0.12)
    larger = replace(found, change_mm=found.change_mm + radius * (2 ** (1 / 3) - 1))
    assert float((larger.at(0) > 0).sum()) == pytest.approx(2 * volume, rel=0.1)


def perfect(**options):
    return replace(Protocol(1.0, 1.0, (0, 1, 2), (0.0, 0.0, 0.0), 0.0, 0.0), **options)


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (0, 2, 1)])
def test_a_perfect_scan_is_the_image(axes, monkeypatch):
    monkeypatch.setattr("lesiondelta.simulation.generator.scanner.RESIDUAL_DEG", 0.0)
    image = 2 + smooth_field(np.random.default_rng(0), (40, 44, 48), 12, CPU)
    seen = scanned(np.random.default_rng(1), image, (16, 20, 24), perfect(axes=axes), 0.0)
    assert float((seen - image[12:28, 12:32, 12:36]).abs().max()) < 0.1


@pytest.mark.parametrize(("axes", "slow"), [((0, 1, 2), 2), ((1, 2, 0), 0), ((0, 2, 1), 1)])
def test_thick_slices_blur_along_their_axis_only(axes, slow):
    """A point becomes as long as a slice is thick, and keeps its sum."""
    image = torch.zeros(48, 48, 48)
    image[22:26, 22:26, 22:26] = 1
    lengths = []
    for seed in range(6):
        seen = scanned(np.random.default_rng(seed), image, (32, 32, 32), perfect(axes=axes, slice_mm=6.0), 0.0)
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
