"""Whole heads drawn from label maps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lesiondelta.anatomy.finding import SHAPE
from lesiondelta.atlas.parts import Part
from lesiondelta.errors import GeometryError
from lesiondelta.images import Volume
from lesiondelta.simulation.generator.label_map import Tissue
from lesiondelta.simulation.heads.head_generator import HeadGenerator, HeadPlan
from lesiondelta.simulation.heads.head_map import HeadMap, Material, head_map
from tests.synthetic import ball


@pytest.fixture(scope="module")
def labels():
    """Skin, bone, fluid, cortex, white matter with a lesion, ventricles, cerebellum and brain stem, as balls."""
    shape, middle = (140, 150, 140), (70, 75, 70)
    data = np.zeros(shape, np.int16)
    for radius, label in ((64, 511), (58, 515), (54, 24), (46, 3), (42, 2)):
        data[ball(middle, radius, shape)] = label
    for centre, radius, label in (
        ((60, 75, 70), 6, 4),
        ((80, 75, 70), 6, 43),
        ((70, 60, 45), 8, 8),
        ((70, 75, 50), 5, 16),
    ):
        data[ball(centre, radius, shape)] = label
    data[ball((70, 100, 80), 4, shape)] = 25
    return Volume(data, np.diag([1.0, 1, 1, 1]), "head.nii.gz")


@pytest.fixture(scope="module")
def person(labels):
    return head_map(labels)


def test_materials_inside_and_outside_the_brain(person):
    across = person.materials[person.materials.shape[0] // 2, person.materials.shape[1] // 2]
    seen = [int(value) for value, before in zip(across[1:], across[:-1], strict=True) if value != before]
    first_white = seen.index(Tissue.WHITE)
    assert seen[first_white - 6 : first_white + 1] == [
        Material.SKIN, Material.BONE, Material.DURA, Material.OUTER_FLUID, Tissue.FLUID, Tissue.CORTEX, Tissue.WHITE
    ]  # fmt: skip
    assert np.count_nonzero(person.materials == Material.LESION) == pytest.approx(4 / 3 * np.pi * 4**3, rel=0.1)
    assert person.whole
    assert np.diff(person.box, axis=0) == pytest.approx(2 * 46, abs=3)


def test_voxels_of_another_size_are_refused(labels):
    with pytest.raises(GeometryError):
        head_map(Volume(labels.data, np.diag([1.0, 1, 2, 1]), "head.nii.gz"))


def test_the_same_number_gives_the_same_head(person):
    first, again, other = (HeadGenerator([person]).draw(number) for number in (3, 3, 4))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.shares, again.shares)
    assert not torch.equal(first.shares, other.shares)
    assert first.images.shape == (2, *SHAPE)
    assert bool(torch.isfinite(first.images).all())


WHOLE = HeadPlan(randomised_share=0, stripped_share=0, cut_share=0, lesion_share=0, without_share=0, scale=0)


def test_parts_have_the_map_s_volumes(person):
    head = HeadGenerator([person], WHOLE).draw(0)
    table = {Part.VENTRICLES: Tissue.VENTRICLE, Part.BRAIN_STEM: Tissue.BRAIN_STEM, Part.CORTEX: Tissue.CORTEX}
    for part, tissue in table.items():
        drawn = 8 * float(head.shares[part].sum())
        assert drawn == pytest.approx(np.count_nonzero(person.materials == tissue), rel=0.1), part
    white = np.count_nonzero(np.isin(person.materials, (Tissue.WHITE, Material.LESION)))  # lesions are white matter
    assert 8 * float(head.shares[Part.WHITE].sum()) == pytest.approx(white, rel=0.1)
    torch.testing.assert_close(head.shares.sum(dim=0), torch.ones(SHAPE))


def test_contrasts_show_on_the_right_image(person):
    """White matter brighter than grey on T1w, no brighter on FLAIR; fluid is dark on both."""
    differences = []
    for number in range(6):
        head = HeadGenerator([person], WHOLE).draw(number)
        means = {part: head.images[:, head.shares[part] == 1].mean(dim=1) for part in Part}
        differences.append(means[Part.WHITE] - means[Part.CORTEX])
        assert (means[Part.VENTRICLES] < means[Part.WHITE]).all()
    t1w, flair = torch.stack(differences).mean(dim=0).tolist()
    assert t1w > 0.05
    assert flair < 0.02


@pytest.mark.parametrize("number", range(4))
def test_stripped_heads_show_the_brain_alone(person, number):
    head = HeadGenerator([person], replace(WHOLE, stripped_share=1)).draw(number)
    air = head.images[:, head.shares[Part.OUTSIDE] == 1]
    assert float((air.abs() < 0.2).float().mean()) > 0.9
    assert 0.7 < float((1 - head.shares[Part.OUTSIDE]).sum()) * 8 / (4 / 3 * np.pi * 48**3) < 1.4


@pytest.mark.parametrize("number", range(4))
def test_what_is_cut_off_is_no_brain(person, number):
    whole, cut = (HeadGenerator([person], replace(WHOLE, cut_share=share)).draw(number) for share in (0, 1))
    assert torch.equal(whole.shares, cut.shares)
    white = cut.images[:, cut.shares[Part.WHITE] == 1]
    assert float((white > 0.1).float().mean()) > 0.98


def test_one_image_may_be_missing_but_not_both(person):
    heads = HeadGenerator([person], replace(WHOLE, without_share=0.5))
    shown = [heads.draw(number).images.abs().amax(dim=(1, 2, 3)) > 0 for number in range(6)]
    assert all(int(one.sum()) == 1 for one in shown)
    assert {tuple(one.tolist()) for one in shown} == {(True, False), (False, True)}


def test_maps_of_brains_alone_are_drawn_stripped(labels):
    brain = head_map(Volume(np.where(labels.data < 500, labels.data, 0), labels.affine, "brain.nii.gz"))
    assert not brain.whole
    assert isinstance(brain, HeadMap)
    head = HeadGenerator([brain]).draw(1)
    shown = head.images.abs().amax(dim=0) > 0.3
    assert float((1 - head.shares[Part.OUTSIDE][shown]).mean()) > 0.9
