import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from lesiondelta import methods
from lesiondelta.errors import InputError
from lesiondelta.images import read_mask, write_volume
from lesiondelta.nnunet import dataset, presets
from lesiondelta.nnunet.environment import environment
from lesiondelta.nnunet.job import TrainingJob, TrainingOptions
from lesiondelta.nnunet.training import build_trainer, plan_job
from lesiondelta.nnunet.training_patients import Fold
from tests.synthetic import write_patients


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    built = tmp_path_factory.mktemp("data")
    dataset.build(write_patients(tmp_path_factory.mktemp("images")), built, (32, 32, 32))
    return built


FAMILY = methods.Method.trainer
"""The trainer of the nnU-Net family; others read their own samples, and are tested beside their trainers."""


@pytest.fixture(params=[name for name in methods.names() if methods.load(name).trainer == FAMILY])
def trainer(request, folder, tmp_path):
    """A trainer before its first epoch."""
    members = Fold(("001", "002"), ("003",))
    method, preset = methods.load(request.param), presets.load("smoke")
    job = TrainingJob(folder, tmp_path, method, preset, 0, members, seed=0)
    with environment(folder):
        from lesiondelta.nnunet.planning import make_plan

        plan = make_plan(preset, method)
    with environment(folder, loader_processes=0):
        yield build_trainer(job, plan, None)


def test_both_sides_read_their_own_patients(trainer):
    train, validation = trainer.get_tr_and_val_datasets()
    assert (train.identifiers, validation.identifiers) == (["001", "002"], ["003"])


def test_a_batch_is_repeated_by_the_seed_alone(trainer):
    from lesiondelta.nnunet.trainer import seed_everything

    loader, _ = trainer.get_dataloaders()
    batches = []
    for seed in (3, 3, 4):
        seed_everything(0, seed)
        batches.append([next(loader)["data"] for _ in range(3)])
    assert all(torch.equal(a, b) for a, b in zip(batches[0], batches[1], strict=True))
    assert not torch.equal(batches[0][0], batches[2][0])


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("trainer", ["longitudinal_concat", "difference_weighting"], indirect=True)
def test_a_self_prior_equals_its_visit_after_augmentation(trainer, share):
    trainer.job = replace(trainer.job, self_prior_share=share)
    loader, _ = trainer.get_dataloaders()
    pairs = [next(loader)["data"].chunk(2, dim=1) for _ in range(4)]
    assert all(torch.equal(current, prior) for current, prior in pairs) == (share == 1)


def transforms_of(trainer, kind):
    loader, _ = trainer.get_dataloaders()
    inner = [getattr(t, "transform", t) for t in loader.data_loader.transforms.transforms]
    return [t for t in inner if isinstance(t, kind)]


def test_batches_have_the_methods_channels_and_targets_of_every_resolution(trainer):
    loader, _ = trainer.get_dataloaders()
    batch = next(loader)
    assert batch["data"].shape == (2, 4 if trainer.job.method.longitudinal else 2, 32, 32, 32)
    targets = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
    edges = (32, 16, 8) if trainer.job.method.deep_supervision else (32,)
    assert [tuple(t.shape) for t in targets] == [(2, 1, *[n] * 3) for n in edges]


def test_every_channel_is_0_outside_the_brain(trainer):
    from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform

    (mask,) = transforms_of(trainer, MaskImageTransform)
    assert mask.apply_to_channels == list(range(4 if trainer.job.method.longitudinal else 2))


def test_nothing_is_chosen_by_the_clock(trainer):
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform

    blurs = transforms_of(trainer, GaussianBlurTransform)
    assert blurs
    assert not any(blur.benchmark for blur in blurs)


@pytest.mark.parametrize("trainer", ["nnunet"], indirect=True)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_gradients_in_bfloat16_are_right_for_flat_features(trainer, depth):
    """Of 16 features or more, oneDNN's are not where the first axis is 2."""
    layer, features = torch.nn.Conv3d(16, 16, 3, padding=1), torch.randn(2, 16, depth, 6, 6)

    def gradient():
        layer.zero_grad()
        output = trainer.network(features).float()
        (output * torch.linspace(-1, 1, output.numel()).reshape(output.shape)).sum().backward()
        return layer.weight.grad.clone()

    trainer.network, trainer.precision = torch.nn.Sequential(layer), "mixed bfloat16"
    exact = gradient()
    trainer.apply_precision()
    assert (gradient() - exact).norm() < 0.02 * exact.norm()


def test_bfloat16_is_for_the_pass_alone(trainer):
    """Logits and gradients are float32, and near those of a float32 pass."""
    from lesiondelta.nnunet.trainer import in_bfloat16

    network = trainer.plain_network()
    batch = next(trainer.get_dataloaders()[0])["data"]
    exact = type(network).forward(network, batch)
    rounded = in_bfloat16(lambda x: type(network).forward(network, x))(batch)
    assert len(rounded) == len(exact) > 1
    for one, other in zip(rounded, exact, strict=True):
        assert one.dtype == torch.float32
        assert 0 < (one - other).abs().mean() < 0.05 * other.std()
    sum(scale.square().sum() for scale in rounded).backward()
    assert all(
        p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in network.parameters() if p.requires_grad
    )


def test_a_torch_that_does_not_know_the_cpu_computes_in_float32(folder, monkeypatch):
    with environment(folder):
        from lesiondelta.nnunet.trainer import computes_in_bfloat16

    monkeypatch.delattr(torch.cpu, "get_capabilities")  # as in releases before 2026
    assert not computes_in_bfloat16()


PAPER = [name for name in methods.names() if methods.load(name).recipe == methods.Recipe()]


@pytest.mark.parametrize("trainer", PAPER, indirect=True)
def test_the_papers_recipe(trainer):
    group = trainer.optimizer.param_groups[0]
    assert isinstance(trainer.optimizer, torch.optim.SGD)
    assert (group["lr"], group["momentum"], group["nesterov"]) == (0.01, 0.99, True)
    np.testing.assert_allclose(trainer.loss.weight_factors, np.array([1, 1 / 2, 0]) / 1.5)
    trainer.lr_scheduler.step(1)
    assert group["lr"] == pytest.approx(0.01 * 0.5**0.9)


@pytest.mark.parametrize("trainer", ["swinunetr"], indirect=True)
def test_swinunetrs_own_recipe(trainer):
    group = trainer.optimizer.param_groups[0]
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert (group["lr"], group["eps"], group["weight_decay"]) == (8e-4, 1e-5, 0.01)
    trainer.lr_scheduler.step(1)  # of two epochs: half of the cosine
    assert group["lr"] == pytest.approx((8e-4 + 1e-6) / 2)


def test_schedules():
    from lesiondelta.nnunet.trainer import learning_rate

    rates = {
        kind: [learning_rate(methods.Recipe(learning_rate=0.1, schedule=kind), done) for done in (0, 0.49, 0.5, 1)]
        for kind in ("poly", "cosine", "step", "constant")
    }
    assert rates["poly"] == pytest.approx([0.1, 0.1 * 0.51**0.9, 0.1 * 0.5**0.9, 0])
    assert rates["cosine"][::3] == pytest.approx([0.1, 1e-6])
    assert rates["step"] == pytest.approx([0.1, 0.1, 0.01, 0.01])
    assert rates["constant"] == [0.1] * 4


def test_seeds_reach_all_three_generators():
    from lesiondelta.nnunet.trainer import seed_everything

    def draw():
        return random.random(), np.random.random(), torch.rand(1).item()

    seed_everything(1, 2)
    one = draw()
    seed_everything(1, 2)
    assert draw() == one
    seed_everything(2, 1)
    assert all(a != b for a, b in zip(draw(), one, strict=True))


def test_plain_numbers():
    from lesiondelta.nnunet.trainer import plain_numbers

    content = plain_numbers({"losses": [np.float32(0.5), [np.float64(1)]], "epoch": np.int64(3), "none": None})
    assert content == {"losses": [0.5, [1.0]], "epoch": 3, "none": None}
    assert type(content["losses"][0]) is float


def test_the_loss_ignores_what_is_unsure(tmp_path):
    """Whatever the network says there; batches around known voxels can be drawn."""
    patients = write_patients(tmp_path / "images", (1, 1, 1))
    visit = patients[0].visits[0]
    image = read_mask(visit.reference)
    unsure = image.with_data(np.indices(image.data.shape)[0] < image.data.shape[0] // 2)
    write_volume(tmp_path / "unsure.nii.gz", unsure)
    patients[0] = replace(patients[0], visits=(replace(visit, unsure=tmp_path / "unsure.nii.gz"),))
    dataset.build(patients, tmp_path / "data", (32, 32, 32))
    method, preset = methods.load("nnunet"), presets.load("smoke")
    job = TrainingJob(tmp_path / "data", tmp_path, method, preset, "all", Fold(("001",), ("001",)), seed=0)
    with environment(tmp_path / "data", loader_processes=0):
        from lesiondelta.nnunet.planning import make_plan

        trainer = build_trainer(job, make_plan(preset, method), None)
        loader, _ = trainer.get_dataloaders()
        batch = next(loader)
    target = batch["target"]
    assert (target[0] == 2).any()
    outputs = [torch.randn(len(one), 2, *one.shape[2:]) for one in target]
    others = [
        torch.where(one == 2, output + 5 * torch.randn_like(output), output)
        for one, output in zip(target, outputs, strict=True)
    ]
    assert torch.allclose(trainer.loss(outputs, target), trainer.loss(others, target))
    changed = [
        output + (one == 0) * torch.tensor([1.0, 0]).reshape(1, 2, 1, 1, 1)
        for one, output in zip(target, outputs, strict=True)
    ]
    assert not torch.allclose(trainer.loss(outputs, target), trainer.loss(changed, target))


def test_a_method_that_cannot_ignore_says_so(tmp_path):
    patients = write_patients(tmp_path, (2, 2))
    visits = tuple(replace(visit, unsure=visit.reference) for visit in patients[0].visits)
    with pytest.raises(InputError, match="coactseg cannot leave voxels out of its loss, as masks of 001"):
        plan_job(
            [replace(patients[0], visits=visits), patients[1]], tmp_path / "out", methods.load("coactseg"),
            presets.load("smoke"), TrainingOptions(device="cpu"),
        )  # fmt: skip
