"""The recurrence, by hand."""

import pytest
import torch
from torch import nn

from lesiondelta.networks.simunet import RecurrentResidualBlock, RecurrentResidualUNet, RecurrentUnit
from tests.models import KWARGS

PARTS = {"conv_op": nn.Conv3d, "norm_op": nn.InstanceNorm3d, "nonlin": nn.LeakyReLU}


def build(**changes):
    torch.manual_seed(0)
    return RecurrentResidualUNet(**KWARGS | PARTS | changes)


def block_size(inputs, features, kernel):
    """conv1 with bias, and two layers of convolution with bias and a norm with gamma and beta."""
    return inputs * features + features + 2 * (kernel * features * features + 3 * features)


def test_parameters_counted_by_hand():
    encoder = block_size(4, 4, 9) + block_size(4, 8, 27) + block_size(8, 16, 27)
    decoder = block_size(16, 8, 27) + block_size(8, 4, 9)
    upsampling = (16 * 8 * 8 + 8) + (8 * 4 * 4 + 4)  # by 2x2x2, then by 1x2x2
    logits = (8 * 2 + 2) + (4 * 2 + 2)
    network = build(
        kernel_sizes=[[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        norm_op_kwargs={"affine": True},
    )
    assert sum(p.numel() for p in network.parameters()) == encoder + decoder + upsampling + logits


def test_one_convolution_per_unit_applied_three_times():
    block = RecurrentResidualBlock(nn.Conv3d, 2, 4, 3)
    convolutions = [m for m in block.modules() if isinstance(m, nn.Conv3d)]
    calls = []
    for convolution in convolutions:
        convolution.register_forward_hook(lambda module, *_: calls.append(convolutions.index(module)))
    block(torch.randn(1, 2, 4, 4, 4))
    assert [c.kernel_size for c in convolutions] == [(1, 1, 1), (3, 3, 3), (3, 3, 3)]
    assert calls == [0, 1, 1, 1, 2, 2, 2]


def test_the_recurrence():
    """f doubles: h = 2, then 2 (1 + 2) = 6, then 2 (1 + 6) = 14."""
    double = nn.Conv3d(1, 1, 1, bias=False)
    nn.init.constant_(double.weight, 2)
    assert RecurrentUnit(double)(torch.ones(1, 1, 1, 1, 1)).item() == 14


def test_the_block():
    """p = 3 x, f doubles, norm and activation the identity: 3 + 14 * 14 * 3."""
    block = RecurrentResidualBlock(nn.Conv3d, 1, 1, 1)
    for convolution, weight in zip((m for m in block.modules() if isinstance(m, nn.Conv3d)), (3, 2, 2), strict=True):
        nn.init.constant_(convolution.weight, weight)
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
    assert block(torch.ones(1, 1, 1, 1, 1)).item() == 3 + 14 * 14 * 3


def test_a_gradient_of_a_shared_layer_sums_its_three_uses():
    """d/dw of h3 = w (x + w (x + w x)) with x = 1 is 1 + 2w + 3w^2: 17 at w = 2."""
    layer = nn.Conv3d(1, 1, 1, bias=False)
    nn.init.constant_(layer.weight, 2)
    RecurrentUnit(layer)(torch.ones(1, 1, 1, 1, 1)).sum().backward()
    assert layer.weight.grad.item() == 1 + 2 * 2 + 3 * 2**2


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_logits(deep_supervision):
    output = build(deep_supervision=deep_supervision)(torch.randn(1, 4, 16, 8, 16))
    shapes = [tuple(x.shape) for x in output] if deep_supervision else tuple(output.shape)
    assert shapes == ([(1, 2, 16, 8, 16), (1, 2, 8, 4, 8)] if deep_supervision else (1, 2, 16, 8, 16))


def test_first_weights_are_drawn_as_nnunet_does():
    network = build(features_per_stage=[16, 32, 32])
    network.apply(network.initialize)
    convolution = network.encoder.stages[1][1].units[0].layer.conv
    expected = (2 / (1 + 0.01**2) / (32 * 27)) ** 0.5  # He et al. (2015), slope 0.01
    assert convolution.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert not convolution.bias.any()
