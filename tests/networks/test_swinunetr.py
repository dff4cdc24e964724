"""Against MONAI's own network."""

import subprocess
import sys

import pytest
import torch
from monai.networks.nets import SwinUNETR

from lesiondelta.networks.swinunetr import SingleVisitSwinUNETR
from tests.models import KWARGS

PLAN = KWARGS | {"features_per_stage": [8, 16, 32]}


def monai(feature_size):
    return SwinUNETR(in_channels=2, out_channels=2, feature_size=feature_size)  # the rest of METHODS is its default


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return SingleVisitSwinUNETR(**PLAN).eval()


@pytest.mark.parametrize(("features", "feature_size"), [(32, 48), (16, 24), (8, 12)])
def test_weights_are_monais_at_one_and_a_half_times_the_features(features, feature_size):
    ours, theirs = SingleVisitSwinUNETR(**PLAN | {"features_per_stage": [features]}), monai(feature_size)
    shapes = [{name: weights.shape for name, weights in n.state_dict().items()} for n in (ours, theirs)]
    assert shapes[0] == shapes[1]
    if feature_size == 48:
        assert sum(p.numel() for p in ours.parameters()) == 62_188_436


def test_logits_are_monais_of_the_current_visit(network):
    theirs = monai(12).eval()
    theirs.load_state_dict(network.state_dict())
    pair = torch.randn(1, 4, 32, 32, 64)
    with torch.no_grad():
        assert torch.equal(network(pair), theirs(pair[:, :2]))


def test_the_smallest_patch_is_padded_with_zeros(network):
    visit = torch.randn(1, 2, 32, 32, 32)
    with torch.no_grad():
        padded = network(torch.cat((visit, torch.zeros_like(visit)), dim=-1))
        assert torch.equal(network(visit), padded[..., :32])


def test_first_weights_are_monais(network):
    torch.manual_seed(0)
    theirs = monai(12).state_dict()
    assert not hasattr(network, "initialize")  # with one, nnU-Net would overwrite them
    assert all(torch.equal(weights, theirs[name]) for name, weights in network.state_dict().items())


def test_bfloat16_stays_close(network):
    visit = torch.randn(1, 2, 32, 64, 32)
    with torch.no_grad():
        whole = network(visit)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = network(visit)
    assert half.dtype == torch.bfloat16
    assert (half.float() - whole).abs().max() < 0.05 * whole.abs().max()


def test_a_width_that_the_heads_do_not_divide():
    with pytest.raises(ValueError, match="divisible by 12"):
        SingleVisitSwinUNETR(**PLAN | {"features_per_stage": [4, 8]})


def test_the_command_line_does_not_import_monai():
    code = "import sys, lesiondelta.cli, lesiondelta.methods as m; [m.load(n) for n in m.names()]; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "lesiondelta.cli" in loaded
    assert "monai" not in loaded
