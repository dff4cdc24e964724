"""CoactSeg's architecture and loss, worked out by hand."""

import pytest
import torch
from torch import nn

from lesiondelta.networks.coactseg import DifferenceVNet, coactseg_loss, new_lesion_loss, soft_dice_loss


def build(contrasts=1, features=32, deep_supervision=True, seed=0):
    torch.manual_seed(seed)
    return DifferenceVNet(contrasts, 2, features_per_stage=[features, 99], deep_supervision=deep_supervision).eval()


def tiny(**options):
    """With norms away from their neutral start."""
    network = build(contrasts=2, features=8, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network


def unit(kernel, inputs, features):
    """Parameters of a convolution with bias, and two a channel of the norm."""
    return kernel**3 * inputs * features + features + 2 * features


def test_parameters():
    """With 16 filters and one contrast, as in the authors' code."""
    encoder = unit(3, 3, 16) + 2 * unit(3, 32, 32) + 3 * (unit(3, 64, 64) + unit(3, 128, 128) + unit(3, 256, 256))
    down = unit(2, 16, 32) + unit(2, 32, 64) + unit(2, 64, 128) + unit(2, 128, 256)
    up = unit(2, 256, 128) + unit(2, 128, 64) + unit(2, 64, 32) + unit(2, 32, 16)
    decoder = 3 * (unit(3, 128, 128) + unit(3, 64, 64)) + 2 * unit(3, 32, 32)
    branches = 3 * unit(3, 16, 16) + unit(3, 48, 16)
    heads = 3 * (16 * 2 + 2)
    network = build()
    assert sum(p.numel() for p in network.parameters()) == encoder + down + up + decoder + branches + heads
    second_contrast = 27 * 3 * 16  # weights of the first convolution alone
    assert sum(p.numel() for p in build(2).parameters()) == encoder + down + up + decoder + branches + heads + (
        second_contrast
    )


def test_convolutions():
    """1 + 2 + 3 + 3 + 3 down and 3 + 3 + 2 up, three branches, the fusion; four steps each way; three heads."""
    network = build()
    sizes = [m.kernel_size[0] for m in network.modules() if type(m) is nn.Conv3d]
    assert [sizes.count(kernel) for kernel in (3, 2, 1)] == [12 + 8 + 3 + 1, 4, 3]
    assert sum(isinstance(m, nn.ConvTranspose3d) for m in network.modules()) == 4
    assert sum(isinstance(m, nn.BatchNorm3d) for m in network.modules()) == 24 + 4 + 4


@pytest.mark.parametrize(("planned", "filters"), [(32, 16), (16, 8), (8, 4)])
def test_filters_are_half_of_the_plans(planned, filters):
    network = build(features=planned)
    assert network.heads[0].in_channels == filters
    assert network.encoder[4][0][0].out_channels == 16 * filters


def test_the_input_is_prior_current_difference():
    network = tiny()
    seen = []
    network.encoder[0].register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    pair = torch.randn(1, 4, 16, 16, 16)
    with torch.no_grad():
        network(pair)
    current, prior = pair[:, :2], pair[:, 2:]
    torch.testing.assert_close(seen[0], torch.cat((prior, current, current - prior), dim=1), rtol=0, atol=0)


def test_skips_are_added():
    """What a decoder block sees is the step up plus the encoder's features of the same size."""
    network = tiny()
    features, steps, sums = {}, {}, {}
    for stage in range(4):
        network.encoder[stage].register_forward_hook(lambda _, __, x, s=stage: features.__setitem__(s, x))
        network.up[3 - stage].register_forward_hook(lambda _, __, x, s=stage: steps.__setitem__(s, x))
        following = network.decoder[3 - stage] if stage else network.branches[0]
        following.register_forward_pre_hook(lambda _, inputs, s=stage: sums.__setitem__(s, inputs[0]))
    with torch.no_grad():
        network(torch.randn(1, 4, 32, 16, 16))
    assert sorted(sums) == [0, 1, 2, 3]
    for stage, x in sums.items():
        assert x.shape[1] == 4 * 2**stage
        torch.testing.assert_close(x, steps[stage] + features[stage])


def test_heads():
    """y2 and y1 read their branch, y3 a block over cat(f2 - f1, f1, f3)."""
    network = tiny()
    current, prior = torch.randn(2, 1, 2, 16, 16, 16)
    with torch.no_grad():
        x = network.trunk(current, prior)
        f2, f1, f3 = (branch(x) for branch in network.branches)
        y2, y1, y3 = network(torch.cat((current, prior), dim=1))
        torch.testing.assert_close(y2, network.heads[0](f2))
        torch.testing.assert_close(y1, network.heads[1](f1))
        torch.testing.assert_close(y3, network.heads[2](network.fusion(torch.cat((f2 - f1, f1, f3), dim=1))))
        torch.testing.assert_close(network.decode(current, prior), y2)
        torch.testing.assert_close(network.extras(current, prior)["new"], y3.softmax(1)[:, 1:])


def test_dropout_of_whole_channels_at_the_bottleneck_and_on_the_branches():
    network = tiny().train()
    seen = []
    network.dropout.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0], out)))
    network(torch.randn(2, 4, 16, 16, 16))
    assert [x.shape[1] for x, _ in seen] == [64, 4, 4, 4]
    for x, out in seen:
        dropped = (out == 0).flatten(2).all(2)
        torch.testing.assert_close(out, 2 * x * ~dropped[:, :, None, None, None])
    assert 0.2 < (seen[0][1] == 0).flatten(2).all(2).float().mean() < 0.8


def test_soft_dice_by_hand():
    probability, mask = torch.tensor([[0.5, 1.0], [0.0, 0.5]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert soft_dice_loss(probability, mask) == pytest.approx(1 - 2 * 1.5 / (2 + 2))
    assert soft_dice_loss(mask, mask) == pytest.approx(0)
    assert soft_dice_loss(probability, torch.zeros(2, 2)) == pytest.approx(1)
    assert soft_dice_loss(torch.zeros(2), torch.zeros(2)) == pytest.approx(0)


def test_new_lesion_loss_by_hand():
    """Two voxels are new: (0.5^2 + 0.1^2) / 2 of the prior, (0.2^2 + 0.6^2) / 2 of the current."""
    prior, current = torch.tensor([0.5, 0.1, 0.9]), torch.tensor([0.8, 0.4, 0.3])
    loss = new_lesion_loss(current, prior, torch.tensor([1.0, 1.0, 0.0]))
    assert loss == pytest.approx((0.25 + 0.01) / 2 + (0.04 + 0.36) / 2)


def test_no_new_lesion_is_no_loss_and_a_finite_gradient():
    prior, current = torch.rand(2, 2, 4, 4, 4, requires_grad=True)
    loss = new_lesion_loss(current, prior, torch.zeros(2, 4, 4, 4))
    assert loss == 0
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(loss, (prior, current)))


def heads(*probabilities):
    """Logits (1, 2, 2, 1, 1) of three heads with these probabilities of lesion in two voxels."""
    logit = torch.tensor(probabilities).logit()
    return [torch.stack((torch.zeros_like(one), one))[None, :, :, None, None] for one in logit]


def test_the_whole_loss_by_hand():
    """Two voxels: a lesion that both visits have, and a new one."""
    outputs = heads((0.9, 0.6), (0.8, 0.3), (0.2, 0.7))  # y2, y1, y3
    targets = [torch.tensor(mask)[None, None, :, None, None] for mask in ([1, 1], [1, 0], [0, 1])]
    dice = (1 - 2 * 1.5 / (1.5 + 2)) + (1 - 2 * 0.8 / (1.1 + 1)) + (1 - 2 * 0.7 / (0.9 + 1))
    assert coactseg_loss(outputs, targets, regularised=False) == pytest.approx(dice)
    assert coactseg_loss(outputs, targets, regularised=True) == pytest.approx(dice + 0.3**2 + 0.4**2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_without_lesions_has_a_finite_loss_and_gradient(dtype):
    outputs = [torch.randn(2, 2, 4, 4, 4, dtype=dtype, requires_grad=True) for _ in range(3)]
    targets = [torch.zeros(2, 1, 4, 4, 4, dtype=torch.int16)] * 3
    loss = coactseg_loss(outputs, targets, regularised=True)
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, outputs))
