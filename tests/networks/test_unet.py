"""The paper's Eq. 2, checked against an independent version in float64."""

import copy

import numpy as np
import pytest
import torch

from lesiondelta.networks.unet import DifferenceWeighting, DifferenceWeightingUNet
from tests.models import KWARGS, build_network

PARTS = {"conv_op": torch.nn.Conv3d, "norm_op": torch.nn.InstanceNorm3d, "nonlin": torch.nn.LeakyReLU}


def equation_2(current, prior, gamma, beta, eps=1e-5):
    """x' = x_c * InstNorm(x_c - x_p) + x_c in numpy, one sample and channel at a time."""
    out = np.empty_like(current)
    for b in range(current.shape[0]):
        for f in range(current.shape[1]):
            difference = current[b, f] - prior[b, f]
            variance = ((difference - difference.mean()) ** 2).mean()
            normalised = (difference - difference.mean()) / np.sqrt(variance + eps) * gamma[f] + beta[f]
            out[b, f] = current[b, f] * normalised + current[b, f]
    return out


def test_one_stage_equals_equation_2():
    rng = np.random.default_rng(0)
    current, prior = rng.normal(size=(2, 2, 3, 4, 5, 6))
    module = DifferenceWeighting(3).double()
    with torch.no_grad():
        module.norm.weight.copy_(torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64))
        module.norm.bias.copy_(torch.tensor([0.1, -0.3, 0.0], dtype=torch.float64))
    ours = module(torch.from_numpy(current), torch.from_numpy(prior)).detach().numpy()
    expected = equation_2(current, prior, np.array([0.5, 2.0, -1.0]), np.array([0.1, -0.3, 0.0]))
    np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_the_decoder_sees_equation_2_at_every_stage_bottleneck_included():
    network = build_network().double()
    pair = torch.randn(1, 4, 16, 16, 16, dtype=torch.float64)
    seen = []
    network.decoder.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0]))
    with torch.no_grad():
        network(pair)
        current, prior = network.encoder(pair[:, :2]), network.encoder(pair[:, 2:])
    assert len(seen) == len(KWARGS["features_per_stage"])
    for stage, x in enumerate(seen):
        norm = network.fusion[stage].norm
        gamma, beta = norm.weight.detach().numpy(), norm.bias.detach().numpy()
        expected = equation_2(current[stage].numpy(), prior[stage].numpy(), gamma, beta)
        np.testing.assert_allclose(x.numpy(), expected, atol=1e-10)


def test_identical_visits_pass_through_at_initialisation():
    x = torch.randn(2, 3, 8, 8, 8)
    torch.testing.assert_close(DifferenceWeighting(3)(x, x), x, rtol=0, atol=0)


def test_parameters_added_are_twice_the_features():
    def count(name):
        return sum(p.numel() for p in build_network(name).parameters())

    assert count("DifferenceWeightingUNet") - count("SingleVisitUNet") == 2 * sum(KWARGS["features_per_stage"])


@pytest.mark.parametrize("name", ["SingleVisitUNet", "ConcatenationUNet", "DifferenceWeightingUNet"])
def test_forward_equals_encode_and_decode(name):
    network = build_network(name)
    pair = torch.randn(2, 4, 16, 16, 16)
    with torch.no_grad():
        apart = network.decode(network.encode(pair[:, :2]), network.encode(pair[:, 2:]))
        torch.testing.assert_close(network(pair), apart, rtol=1e-4, atol=1e-4)


def test_the_prior_matters_only_to_longitudinal_networks():
    pair, other = torch.randn(2, 1, 4, 16, 16, 16)
    other[:, :2] = pair[:, :2]
    with torch.no_grad():
        for name, same in (("SingleVisitUNet", True), ("ConcatenationUNet", False), ("DifferenceWeightingUNet", False)):
            network = build_network(name)
            assert torch.equal(network(pair), network(other)) is same


def test_deep_supervision_can_be_switched_as_nnunet_does():
    network = DifferenceWeightingUNet(**copy.deepcopy(KWARGS) | PARTS)
    network.decoder.deep_supervision = True
    outputs = network(torch.randn(1, 4, 16, 16, 16))
    assert [tuple(o.shape[2:]) for o in outputs] == [(16, 16, 16), (8, 8, 8)]
