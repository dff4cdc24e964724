"""What every method must do; a new file in `methods/` is tested here without a change."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lesiondelta import methods
from lesiondelta.cohort import prior_index
from lesiondelta.inference.model import load_model
from lesiondelta.inference.window import lesion_probabilities
from lesiondelta.nnunet import presets
from lesiondelta.nnunet.job import TrainingOptions
from lesiondelta.nnunet.training import plan_job, train
from lesiondelta.preprocessing.intensity import normalise
from tests.methods.conftest import SHARE


def pair(patch, seed=0):
    torch.manual_seed(seed)
    return torch.randn(2, 4, *patch)


def scales(output):
    """Logits of every resolution; methods without deep supervision give the finest alone."""
    return output if isinstance(output, list) else [output]


def window(model):
    """The size it segments at once; what segments whole volumes takes any."""
    return model.description.patch or (32, 32, 32)


def extras(network, both):
    """What the network gives beside logits, where it does."""
    if not hasattr(network, "extras"):
        return []
    current, prior = (network.encode(visit) for visit in both.chunk(2, dim=1))
    return list(network.extras(current, prior).values())


def test_the_declaration(method):
    assert methods.load(method.name) == method
    assert method.title
    assert "et al." in method.citation


@pytest.mark.parametrize("patch", [(32, 32, 32), (40, 24, 56), (16, 64, 8)])
def test_logits_have_the_shape_of_the_patch(network_of, patch):
    network, plan = network_of(patch, deep_supervision=False)
    shape = plan["patch_size"]
    with torch.no_grad():
        assert network(pair(shape)).shape == (2, 2, *shape)


def test_anisotropic_kernels(network_of, method):
    """A plan for thick slices: no pooling along the first axis at the start."""
    blocks = "n_blocks_per_stage" if method.planner == "residual" else "n_conv_per_stage"
    network, plan = network_of((8, 20, 12))
    kwargs = plan["architecture"]["arch_kwargs"] | {
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "n_stages": 3,
        "features_per_stage": [8, 8, 8],
        blocks: [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "conv_op": torch.nn.Conv3d,
        "norm_op": torch.nn.InstanceNorm3d,
        "nonlin": torch.nn.LeakyReLU,
    }
    built = type(network)(input_channels=2, num_classes=2, deep_supervision=method.deep_supervision, **kwargs)
    x, y, z = plan["patch_size"]
    with torch.no_grad():
        finest, *others = (tuple(logits.shape[2:]) for logits in scales(built(pair((x, y, z)))))
    assert finest == (x, y, z)
    if method.trainer == methods.Method.trainer:  # its resolutions; others have outputs of their own
        assert others == ([(x, y // 2, z // 2)] if method.deep_supervision else [])


def test_encoding_and_decoding_equals_the_forward_pass(network_of):
    network, plan = network_of((16, 16, 16), deep_supervision=False)
    network.eval()  # without dropout
    both = pair(plan["patch_size"])
    current, prior = both.chunk(2, dim=1)
    with torch.no_grad():
        parts = network.decode(network.encode(current), network.encode(prior))
        torch.testing.assert_close(parts, network(both), atol=1e-5, rtol=1e-4)


def test_the_prior_matters_to_longitudinal_methods_alone(network_of, method):
    network, plan = network_of((16, 16, 16), deep_supervision=False)
    network.eval()
    one, other = pair(plan["patch_size"]), pair(plan["patch_size"], seed=1)
    mixed = torch.cat((one[:, :2], other[:, 2:]), dim=1)
    with torch.no_grad():
        assert torch.equal(network(one), network(mixed)) != method.longitudinal


def test_a_gradient_reaches_every_parameter(network_of):
    network, plan = network_of((32, 32, 32))
    with torch.no_grad():
        for weights in network.parameters():  # residual branches begin with a factor of 0
            weights += 0.01 * torch.randn_like(weights)
    both = pair(plan["patch_size"])
    outputs = [*scales(network(both)), *extras(network, both)]
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_first_weights_follow_the_seed(network_of):
    one, again, other = (network_of((16, 16, 16), seed=seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_trained_model_loads_and_describes_itself(trained, method):
    model = load_model(trained)
    assert (model.method, model.contrasts, model.spacing_mm) == (method.name, ("T1w", "FLAIR"), 1.0)
    assert model.description.training["epochs_done"] == 2
    assert model.description.training["validation"]


def test_the_exported_network_equals_the_trained_one(trained, network_of):
    network, plan = network_of((32, 32, 32), deep_supervision=False)
    checkpoint = torch.load(trained.parent / "checkpoint.pth", weights_only=True)
    network.load_state_dict(checkpoint["network"])
    patch = pair(plan["patch_size"])
    with torch.no_grad():
        torch.testing.assert_close(load_model(trained).network(patch), network.eval()(patch), atol=0, rtol=0)


def test_half_precision_export_loads_and_stays_close(trained, tmp_path):
    from lesiondelta.nnunet.export import export_model

    whole = load_model(trained)
    description = json.loads((trained / "model.json").read_text())
    half = load_model(export_model(tmp_path / "half", whole.network, description, half=True))
    stored = (load_file(folder / "weights.safetensors") for folder in (trained, tmp_path / "half"))
    for one, other in zip(*(tensors.values() for tensors in stored), strict=True):
        assert other.dtype == (torch.float16 if one.is_floating_point() else one.dtype)
    patch = pair(window(whole))
    with torch.no_grad():
        difference = (half.network(patch).softmax(1) - whole.network(patch).softmax(1)).abs().max()
    assert difference < 0.01


@pytest.mark.parametrize("count", [1, 3])
def test_n_visits(trained, count):
    rng = np.random.default_rng(0)
    visits = [rng.normal(100, 20, (2, 40, 20, 32)).astype(np.float32) for _ in range(count)]
    probabilities = lesion_probabilities(visits, [load_model(trained)], device="cpu")
    assert [p.shape for p in probabilities] == [(40, 20, 32)] * count
    assert all(((p >= 0) & (p <= 1)).all() for p in probabilities)


def test_each_visit_is_segmented_with_its_prior(trained, method):
    rng = np.random.default_rng(0)
    model = load_model(trained)
    visits = [rng.normal(100, 20, (2, *window(model))).astype(np.float32) for _ in range(2)]
    together = lesion_probabilities(visits, [model], device="cpu")
    for index, probability in enumerate(together):
        prior = visits[prior_index(index, 2)]
        both = torch.from_numpy(np.concatenate([normalise(visits[index]), normalise(prior)]))[None]
        with torch.no_grad():
            expected = model.network(both).softmax(1)[0, 1].numpy()
        np.testing.assert_allclose(probability, expected, atol=1e-4)


def test_two_trainings_of_one_seed_are_identical(method, patients, data, tmp_path):
    preset = replace(presets.load("smoke"), epochs=1, iterations_per_epoch=2, patch=(16, 16, 16))
    options = TrainingOptions(device="cpu", self_prior_share=SHARE)
    jobs = [plan_job(patients, tmp_path / str(k), method, preset, options, data) for k in range(2)]
    models = [train(patients, job) for job in jobs]
    one, other = (load_file(model / "weights.safetensors") for model in models)
    assert all(torch.equal(one[name], other[name]) for name in one)
