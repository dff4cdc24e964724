"""Where a brain is looked for, with a network that takes bright voxels for white matter."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from lesiondelta.anatomy.finding import SHAPE, find_anatomy
from lesiondelta.anatomy.network import (
    DESCRIPTION,
    WEIGHTS,
    anatomy_network,
    read_anatomy_network,
    standardised,
    write_anatomy_network,
)
from lesiondelta.atlas.parts import Part
from lesiondelta.errors import GeometryError, ImageError, ModelError
from lesiondelta.images import Grid, Volume


class Bright(nn.Module):
    """Bright voxels of either image are white matter; `boxes` are the shapes that it was shown."""

    def __init__(self):
        super().__init__()
        self.boxes = []

    def forward(self, heads):
        self.boxes.append(tuple(heads.shape[2:]))
        logits = torch.zeros(1, len(Part), *heads.shape[2:])
        logits[:, Part.OUTSIDE] = 5.0
        logits[:, Part.WHITE] = 10.0 * heads[:, :2].amax(dim=1)
        return logits


def ball(shape, affine, centre_mm, radii_mm):
    points = np.indices(shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    inside = (((points - centre_mm) / radii_mm) ** 2).sum(axis=1) <= 1
    return inside.reshape(shape)


def head(affine, shape, centre_mm, radii_mm=(60, 75, 60), name="head.nii.gz"):
    return Volume(ball(shape, affine, centre_mm, radii_mm).astype(np.float32) * 900 + 50, affine, name)


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


TURNED = np.array([[-0.97, 0.1, -0.6, 95], [0.1, 0.98, 0.2, -120], [0.07, -0.05, 2.9, -110], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("contrast", ["T1w", "FLAIR"])
@pytest.mark.parametrize("up_mm", [-70, 0, 60])
def test_brain_is_found_wherever_it_lies(contrast, up_mm):
    image = head(np.diag([2.0, 2, 2, 1]), (110, 110, 170), (105, 110, 170 + up_mm))
    network = Bright()
    found = find_anatomy({contrast: image}, network)
    assert dice(found.brain(image.grid), image.data > 500) > 0.97
    assert network.boxes[-1] == SHAPE
    assert found.volumes_ml()[Part.WHITE] == pytest.approx(4 / 3 * np.pi * 60 * 75 * 60 / 1000, rel=0.06)


def test_oblique_slices_and_another_grid():
    image = head(TURNED, (190, 200, 60), (0, 0, 0))
    found = find_anatomy({"T1w": image, "FLAIR": image}, Bright())
    fine = Grid((150, 170, 150), np.array([[0, 0, 1.0, -75], [0, 1, 0, -85], [-1, 0, 0, 75], [0, 0, 0, 1]]))
    truth = ball(fine.shape, fine.affine, (0, 0, 0), (60, 75, 60))
    assert dice(found.brain(fine), truth) > 0.96
    assert set(np.unique(found.parts(fine))) == {Part.OUTSIDE, Part.WHITE}


def test_a_brain_larger_than_the_box_is_seen_whole():
    image = head(np.diag([2.0, 2, 2, 1]), (110, 130, 110), (110, 130, 110), radii_mm=(90, 110, 90))
    network = Bright()
    found = find_anatomy({"T1w": image}, network)
    assert dice(found.brain(image.grid), image.data > 500) > 0.98
    assert all(size % 16 == 0 and size >= least for size, least in zip(network.boxes[-1], SHAPE, strict=True))


def test_a_slab_of_a_brain():
    """A field of view that ends inside the brain."""
    image = head(np.diag([1.0, 1, 5, 1]), (160, 190, 12), (80, 95, 30))
    found = find_anatomy({"FLAIR": image}, Bright())
    assert dice(found.brain(image.grid), image.data > 500) > 0.95


def test_islands_do_not_belong_to_the_brain():
    image = head(np.diag([2.0, 2, 2, 1]), (100, 110, 100), (100, 110, 100))
    brain = image.data > 500
    image.data[14:18, 14:18, 14:18] = 950
    image.data[48:52, 53:57, 48:52] = 50  # and holes do
    seen = find_anatomy({"T1w": image}, Bright())
    assert seen.volumes_ml()[Part.WHITE] == pytest.approx(8 * np.count_nonzero(brain) / 1000, rel=0.03)
    found = seen.brain(image.grid)
    assert not found[14:18, 14:18, 14:18].any()
    assert found[48:52, 53:57, 48:52].all()
    assert dice(found, brain) > 0.97


def test_a_stray_voxel_does_not_move_the_box():
    image = head(np.diag([2.0, 2, 2, 1]), (100, 110, 100), (100, 110, 100))
    plain, stray = Bright(), Bright()
    alone = find_anatomy({"T1w": image}, plain)
    image.data[10:12, 8:10, 11:13] = 950
    beside = find_anatomy({"T1w": image}, stray)
    assert plain.boxes == stray.boxes
    np.testing.assert_array_equal(alone.affine, beside.affine)


def test_images_on_different_grids_are_refused():
    image = head(np.diag([2.0, 2, 2, 1]), (90, 90, 90), (90, 90, 90))
    with pytest.raises(GeometryError):
        find_anatomy({"T1w": image, "FLAIR": Volume(image.data, np.diag([1.9, 2, 2, 1]), "flair.nii.gz")}, Bright())


def test_nothing_that_looks_like_a_brain_names_the_file():
    with pytest.raises(ImageError, match=r"No brain was found in empty\.nii\.gz"):
        find_anatomy(
            {"T1w": Volume(np.zeros((60, 60, 60), np.float32), np.diag([3.0, 3, 3, 1]), "empty.nii.gz")}, Bright()
        )


def test_standardised_counts_from_the_darkest_to_the_brightest():
    image = torch.linspace(-3, 5, 50 * 50 * 50).reshape(50, 50, 50)
    values = standardised(image)
    assert float(values.min()) == pytest.approx(-0.02, abs=0.01)
    assert float(values.max()) == pytest.approx(1.02, abs=0.01)
    torch.testing.assert_close(values, standardised(170 * image + 40), atol=1e-4, rtol=0)
    assert not standardised(torch.full((9, 9, 9), 7.0)).any()


def test_weights_are_kept_whole(tmp_path):
    network = anatomy_network().eval()
    write_anatomy_network(tmp_path / "anatomy", network, {"iterations": 3})
    head = torch.rand(1, 2, 32, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(
            read_anatomy_network(tmp_path / "anatomy")(head), network(head), atol=0.02, rtol=0.02
        )
    assert json.loads((tmp_path / "anatomy" / DESCRIPTION).read_text())["training"] == {"iterations": 3}
    other = anatomy_network((8, 16, 32))
    write_anatomy_network(tmp_path / "other", other, {})
    with pytest.raises(ModelError, match="those of another network"):
        read_anatomy_network(tmp_path / "other")
    weights = tmp_path / "anatomy" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-8] + b"\0" * 8)
    with pytest.raises(ModelError, match="changed or is damaged"):
        read_anatomy_network(tmp_path / "anatomy")
    with pytest.raises(ModelError, match="holds no anatomy network"):
        read_anatomy_network(tmp_path / "absent")
