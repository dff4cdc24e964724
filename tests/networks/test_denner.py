"""The architecture and the losses of Denner et al. 2020, worked out by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from lesiondelta.networks import denner
from lesiondelta.networks.denner import MultitaskNetwork

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


@pytest.fixture(scope="module")
def network():
    """With two modalities, and norms away from their neutral start."""
    torch.manual_seed(0)
    built = MultitaskNetwork(2, 2, deep_supervision=False, n_stages=3)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
    return built.eval()


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def dense(channels):
    """Parameters of a dense block: 4 layers of BN (2 a channel) and a 3x3 convolution to 12 channels."""
    return sum(2 * n + n * 12 * 9 + 12 for n in range(channels, channels + 48, 12))


def test_parameters(network):
    """FC-DenseNet57 with 4 input channels and 2 outputs, twice its decoder."""
    skips = [96, 144, 192, 240, 288]
    down = sum(dense(n - 48) for n in skips) + sum(2 * n + n * n + n for n in skips)
    encoder = (4 * 48 * 9 + 48) + down + dense(288)
    up = 5 * (48 * 48 * 9 + 48) + sum(dense(48 + n) for n in skips)
    decoder = up + (192 * 2 + 2)
    assert (encoder, decoder) == (703_344, 672_146)
    assert parameters(network.encoder) == encoder
    assert parameters(network.segmentation) == parameters(network.displacement) == decoder
    assert parameters(network) == encoder + 2 * decoder


def test_layers(network):
    """56 convolutions and the softmax: 1 + 5 x (4 + 1) + 4 down, 5 x (1 + 4) + 1 up."""
    down, up = (
        [m for m in part.modules() if isinstance(m, CONVOLUTIONS)] for part in (network.encoder, network.segmentation)
    )
    assert (len(down), len(up)) == (30, 26)
    assert sum(isinstance(m, nn.ConvTranspose2d) for m in up) == 5


def test_channels(network):
    with torch.no_grad():
        states = network.encoder(torch.rand(1, 4, 64, 64))
    expected = [(96, 64), (144, 32), (192, 16), (240, 8), (288, 4), (48, 2)]
    assert [(x.shape[1], x.shape[2]) for x in states] == expected
    assert [block.channels for block in network.segmentation.blocks] == [48, 48, 48, 48, 192]


def test_one_layer_by_hand():
    layer = denner.DenseLayer(1, 1).eval()
    with torch.no_grad():
        layer[2].weight.fill_(1)
        layer[2].bias.fill_(0.5)
    out = layer(torch.tensor([[[[1.0, -2], [3, 4]]]]))  # the norm divides by sqrt(1 + 1e-5) alone
    torch.testing.assert_close(out, torch.full((1, 1, 2, 2), 8.5), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(33, 61), (64, 32), (95, 47)])
def test_slices_of_odd_sizes(network, shape):
    with torch.no_grad():
        logits, displacement = network(torch.rand(2, 4, *shape))
    assert logits.shape == displacement.shape == (2, 2, *shape)


def test_the_centre_is_cropped():
    x = torch.arange(35.0).reshape(1, 1, 5, 7)
    assert torch.equal(denner.centre_crop(x, 3, 5), x[:, :, 1:4, 1:6])
    assert torch.equal(denner.centre_crop(x, 4, 6), x[:, :, :4, :6])  # an odd rest stays behind
    up = denner.TransitionUp(1)
    nn.init.zeros_(up.convolution.bias)
    joined = up(torch.ones(1, 1, 3, 3), torch.full((1, 2, 6, 6), 7.0))
    assert joined.shape == (1, 3, 6, 6)
    assert torch.equal(joined[:, :1], up.convolution(torch.ones(1, 1, 3, 3))[:, :, :6, :6])  # of 7 x 7
    assert (joined[:, 1:] == 7).all()


@pytest.mark.parametrize("shape", [(5, 7), (6, 4)])
def test_padding_is_undone_by_the_crop(shape):
    x = torch.rand(2, 3, *shape)
    padded = denner.centre_pad(x, 8)
    assert padded.shape == (2, 3, 8, 8)
    assert padded.sum() == pytest.approx(x.sum().item(), rel=1e-5)
    assert torch.equal(denner.centre_crop(padded, *shape), x)


# Three views


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_views_are_transpositions(axis):
    volume = torch.rand(2, 3, 4, 5, 6)
    slices = denner.slices_across(volume, axis)
    expected = np.moveaxis(volume[1].numpy(), axis + 1, 0)  # the second volume's slices
    assert np.array_equal(slices[slices.shape[0] // 2 :].numpy(), expected)
    assert torch.equal(denner.volume_of(slices, axis, 2), volume)


def single_view(network, decoder, current, prior, axis):
    """Slice by slice, in numpy's way of cutting."""
    both = torch.cat((denner.scale(prior), denner.scale(current)), dim=1)  # moving first
    planes = []
    for index in range(both.shape[axis + 2]):
        plane = both.select(axis + 2, index)
        height, width = plane.shape[2:]
        padded = torch.zeros(*plane.shape[:2], 32, 32)
        top, left = (32 - height) // 2, (32 - width) // 2
        padded[:, :, top : top + height, left : left + width] = plane
        planes.append(decoder(network.encoder(padded))[:, :, top : top + height, left : left + width])
    return torch.stack(planes, dim=axis + 2)


@pytest.fixture(scope="module")
def visits():
    torch.manual_seed(1)
    return torch.randn(2, 1, 2, 9, 29, 6)


def test_the_probability_is_the_mean_of_the_views(network, visits):
    current, prior = visits
    with torch.no_grad():
        views = [single_view(network, network.segmentation, current, prior, axis) for axis in range(3)]
        expected = sum(view.softmax(1) for view in views) / 3
        torch.testing.assert_close(network(torch.cat((current, prior), dim=1)).softmax(1), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_one_by_one_as_on_a_cpu_and_eight_at_once_as_on_a_gpu(network, visits, axis):
    pair = torch.cat(tuple(visits), dim=1)
    with torch.no_grad():
        alone, together = (network.view(pair, axis, 32, network.segmentation, n) for n in (1, denner.SLICES))
    torch.testing.assert_close(alone, together)


def test_the_displacement_is_the_mean_of_the_two_views_of_an_axis(network, visits):
    current, prior = visits
    with torch.no_grad():
        a, b, c = (single_view(network, network.displacement, current, prior, axis) for axis in range(3))
        found = network.extras(current, prior)["displacement"]
    expected = [(b[:, 0] + c[:, 0]) / 2, (a[:, 0] + c[:, 1]) / 2, (a[:, 1] + b[:, 1]) / 2]
    torch.testing.assert_close(found, torch.stack(expected, dim=1))


def test_what_surrounds_the_brain_makes_no_difference(network, visits):
    current, prior = (torch.nn.functional.pad(visit, (3, 0, 1, 40, 0, 7)) for visit in visits)
    inside = (..., slice(0, 9), slice(1, 30), slice(3, 9))
    with torch.no_grad():
        found, displacement = network.decode(current, prior).softmax(1)[:, 1], network.extras(current, prior)
        expected = network.decode(*visits).softmax(1)[:, 1]
    torch.testing.assert_close(found[inside], expected)
    assert found.sum().item() == pytest.approx(expected.sum().item(), rel=1e-2)
    assert displacement["displacement"].shape == (1, 3, *current.shape[2:])
    assert not network.decode(torch.zeros(1, 2, 5, 6, 7), torch.zeros(1, 2, 5, 6, 7)).isnan().any()


def test_probabilities_of_0_and_1_have_finite_logits():
    probability = torch.tensor([0, 1e-3, 0.5, 1]).reshape(1, 1, 4, 1, 1)
    logits = denner.logits_of(probability)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits.softmax(1)[:, 1:], probability, atol=2e-6, rtol=1e-4)


def test_scaling_is_over_the_nonzero_voxels_of_each_volume():
    volume = torch.tensor([[[-1.0, 0, 1, 3]], [[0, 0, 2, 2]], [[0, 0, 0, 0]]]).reshape(1, 3, 4, 1, 1)
    expected = torch.tensor([[[0, 0, 0.5, 1]], [[0, 0, 0, 0]], [[0, 0, 0, 0]]]).reshape(1, 3, 4, 1, 1)
    torch.testing.assert_close(denner.scale(volume), expected)


# Warp and losses


def displaced(shape, rows, columns):
    return torch.tensor([rows, columns], dtype=torch.float32).reshape(1, 2, 1, 1).expand(1, 2, *shape)


def test_no_displacement_is_the_identity():
    image = torch.rand(1, 3, 5, 8)
    torch.testing.assert_close(denner.warp(image, torch.zeros(1, 2, 5, 8)), image)


def test_whole_voxels_along_each_axis():
    image = torch.rand(1, 2, 5, 8)
    down = denner.warp(image, displaced((5, 8), 1, 0))
    torch.testing.assert_close(down[:, :, :-1], image[:, :, 1:])
    torch.testing.assert_close(down[:, :, -1], torch.zeros(1, 2, 8))  # from outside
    left = denner.warp(image, displaced((5, 8), 0, -2))
    torch.testing.assert_close(left[..., 2:], image[..., :-2])
    torch.testing.assert_close(left[..., :2], torch.zeros(1, 2, 5, 2))


def test_half_voxels_are_the_mean_of_two():
    image = torch.rand(1, 1, 6, 4)
    warped = denner.warp(image, displaced((6, 4), 0.5, 0))
    torch.testing.assert_close(warped[:, :, :-1], (image[:, :, :-1] + image[:, :, 1:]) / 2)


def test_segmentation_loss_by_hand():
    logits = torch.tensor([[0.0, 0], [0, np.log(3)]]).reshape(1, 2, 1, 2)  # P(lesion) = 1/2 and 3/4
    loss = denner.segmentation_loss(logits, torch.tensor([[[1.0, 0]]]))
    assert loss.item() == pytest.approx((2 * 0.5**2 + 2 * 0.75**2) / 4)


def test_registration_loss_by_hand():
    prior, current = torch.tensor([[[[1.0, 2], [3, 4]]]]), torch.tensor([[[[2.0, 0], [4, 3]]]])
    assert denner.registration_loss(torch.zeros(1, 2, 2, 2), current, prior).item() == pytest.approx(
        (1 + 4 + 1 + 1) / 4
    )
    moved = displaced((2, 2), 0, 1)  # the warped prior is [[2, 0], [4, 0]]
    assert denner.registration_loss(moved, current, prior).item() == pytest.approx(9 / 4)


def test_smoothness_loss_by_hand():
    displacement = torch.zeros(1, 2, 2, 3)
    displacement[0, 0] = torch.tensor([[0.0, 1, 3], [2, 1, 3]])
    along_h = (2**2) / 6  # of 2 x 1 x 3 differences
    along_w = (1 + 4 + 1 + 4) / 8  # of 2 x 2 x 2
    assert denner.smoothness_loss(displacement).item() == pytest.approx((along_h + along_w) / 2)
    assert denner.smoothness_loss(displaced((4, 5), 3, -2)).item() == 0


def test_the_whole_loss(network):
    pair, labels = torch.rand(2, 4, 32, 32), (torch.rand(2, 32, 32) > 0.8).float()
    with torch.no_grad():
        logits, displacement = network(pair)
        parts = (
            denner.segmentation_loss(logits, labels),
            denner.registration_loss(displacement, pair[:, :2], pair[:, 2:]),
            0.01 * denner.smoothness_loss(displacement),
        )
        torch.testing.assert_close(denner.multitask_loss([logits, displacement], labels, pair), sum(parts))
