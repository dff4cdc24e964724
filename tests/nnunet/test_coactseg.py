import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lesiondelta import methods
from lesiondelta.inference.model import load_model
from lesiondelta.nnunet import dataset, presets
from lesiondelta.nnunet.environment import environment
from lesiondelta.nnunet.job import TrainingOptions
from lesiondelta.nnunet.training import build_trainer, plan_job, train
from tests.synthetic import write_patients

METHOD = methods.load("coactseg")
CPU = TrainingOptions(device="cpu")
TINY = replace(presets.load("smoke"), epochs=4, iterations_per_epoch=1, patch=(16, 16, 16))


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    return write_patients(tmp_path_factory.mktemp("images"), (2, 2, 3))


@pytest.fixture(scope="module")
def stored(patients, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    dataset.build(patients, folder, (32, 32, 32))
    return folder


@pytest.fixture
def module(stored):
    """The module, imported where nnU-Net's variables are set."""
    with environment(stored):
        from lesiondelta.nnunet import coactseg

        yield coactseg


@pytest.fixture
def trainer(patients, stored, tmp_path):
    """A trainer before its first epoch."""
    job = plan_job(patients, tmp_path, METHOD, presets.load("smoke"), TrainingOptions(0, 3, device="cpu"), stored)
    with environment(stored):
        from lesiondelta.nnunet.planning import make_plan

        plan = make_plan(job.preset, METHOD)
    with environment(stored, loader_processes=0):
        yield build_trainer(job, plan, None)


def test_targets_are_current_prior_and_new(module):
    current, prior = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]], dtype=torch.int16)
    masks = torch.stack((current, prior))[:, :, None, None]
    found = module.Targets()(image=None, segmentation=masks)["segmentation"]
    assert [mask.flatten().tolist() for mask in found] == [[0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 1, 0]]
    assert {mask.shape for mask in found} == {(1, 4, 1, 1)}


@pytest.mark.parametrize("side", [0, 1])
def test_batches_have_both_visits_and_three_masks_without_the_outside(trainer, side):
    batch = next(trainer.get_dataloaders()[side])
    assert batch["data"].shape == (2, 4, 32, 32, 32)
    assert [mask.shape for mask in batch["target"]] == [(2, 1, 32, 32, 32)] * 3
    assert all(set(mask.unique().tolist()) <= {0, 1} for mask in batch["target"])


def test_every_patch_is_centred_on_a_lesion_up_to_its_jitter(trainer):
    loader, _ = trainer.get_dataloaders()
    farthest = math.sqrt(3) * (32 / 8 + 1)
    distances = []
    for _ in range(10):
        for current in next(loader)["target"][0][:, 0]:
            places = torch.nonzero(current) - 15.5
            distances.append(float(places.norm(dim=1).min()))
    assert max(distances) <= farthest
    assert trainer.oversample_foreground_percent == 1


def transformed(trainer, image, labels):
    result = trainer.get_training_transforms()(image=image, segmentation=labels)
    return result["image"], result["segmentation"]


def test_images_and_masks_of_both_visits_move_alike(module, trainer):
    """Images that are their own masks stay so."""
    size = module.read_size((32, 32, 32))
    labels = (torch.rand(2, *size) > 0.7).to(torch.int16)
    image = labels.repeat_interleave(2, dim=0).float()
    seen = set()
    for _ in range(8):
        moved, (current, prior, new) = transformed(trainer, image.clone(), labels.clone())
        assert torch.equal(moved, torch.cat((current, current, prior, prior)).float())
        assert torch.equal(new, current & ~prior)
        seen.add(int(current.sum()))
    assert len(seen) > 4


def test_quarter_turns_flips_and_small_rotations_of_the_axial_plane(module, trainer):
    """Where the axes of a patch point in what was read."""
    size = module.read_size((32, 32, 32))
    places = torch.stack(torch.meshgrid(*(torch.arange(n).float() for n in size), indexing="ij"))
    turns, handed, centres = set(), set(), []
    for _ in range(60):
        moved, _ = transformed(trainer, places.clone(), torch.zeros(2, *size, dtype=torch.int16))
        assert all((plane == plane[0, 0]).all() for plane in moved[2].permute(2, 0, 1))
        along_x, along_y = (
            (moved[:2].select(axis + 1, -1) - moved[:2].select(axis + 1, 0)).mean((1, 2)) for axis in (0, 1)
        )
        angle = math.degrees(math.atan2(along_x[1], along_x[0]))
        turns.add(round(angle / 90) % 4)
        assert abs(angle - 90 * round(angle / 90)) < 20 + 1
        handed.add(bool(along_x[0] * along_y[1] - along_x[1] * along_y[0] > 0))
        centres.append((moved.mean((1, 2, 3)) - torch.tensor(size) / 2 + 0.5).numpy())
    assert turns == {0, 1, 2, 3}
    assert handed == {True, False}
    assert 3 < np.abs(centres).max() < 5  # an eighth of 32


@pytest.mark.parametrize("patch", [(32, 32, 32), (16, 48, 32)])
def test_enough_is_read_for_every_rotation_and_jitter(module, trainer, patch):
    trainer.configuration_manager.configuration["patch_size"] = list(patch)
    size = module.read_size(patch)
    for _ in range(40):
        image, _ = transformed(trainer, torch.ones(1, *size), torch.zeros(2, *size, dtype=torch.int16))
        assert image.shape == (1, *patch)
        assert image.all()


def test_a_self_prior_has_no_difference_and_no_new_lesion(trainer):
    trainer.job = replace(trainer.job, self_prior_share=1.0)
    batch = next(trainer.get_dataloaders()[0])
    current, prior = batch["data"].chunk(2, dim=1)
    assert torch.equal(current, prior)
    assert torch.equal(batch["target"][0], batch["target"][1])
    assert not batch["target"][2].any()


@pytest.mark.parametrize(("epochs", "first"), [(80, 40), (60, 30), (5, 3), (1, 1)])
def test_the_regulariser_begins_with_the_second_half(trainer, epochs, first):
    """Of 80 epochs of 250 iterations that is iteration 10,000."""
    outputs = [torch.zeros(1, 2, 2, 2, 2)] * 3
    targets = [torch.ones(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2), torch.ones(1, 1, 2, 2, 2)]
    trainer.num_epochs = epochs
    losses = []
    for trainer.current_epoch in range(epochs):
        losses.append(float(trainer.loss(outputs, targets)))
    # both regularisers are 0.5^2 where every probability is 0.5
    assert losses == pytest.approx([losses[0]] * first + [losses[0] + 0.5] * (epochs - first))


def test_the_papers_optimiser(trainer):
    (group,) = trainer.optimizer.param_groups
    assert type(trainer.optimizer) is torch.optim.Adam
    assert (group["lr"], group["betas"], group["amsgrad"], group["weight_decay"]) == (0.01, (0.9, 0.999), False, 0)
    trainer.lr_scheduler.step(1)
    assert group["lr"] == 0.01


@pytest.mark.parametrize(
    ("preset", "epochs", "expected"),
    [("paper", 1000, 80), ("paper", 50, 50), ("small", 60, 60), ("small", 100, 100), ("smoke", 2, 2)],
)
def test_a_preset_bounds_the_budget_and_the_recipe_stays(patients, tmp_path, preset, epochs, expected):
    job = plan_job(patients, tmp_path, METHOD, replace(presets.load(preset), epochs=epochs), CPU)
    assert (job.preset.epochs, job.method.recipe) == (expected, METHOD.recipe)
    other = plan_job(patients, tmp_path, methods.load("nnunet"), presets.load(preset), CPU)
    assert other.preset == presets.load(preset)


class StoppedError(Exception):
    """Raised by a progress callback."""


def test_an_interrupted_training_ends_in_identical_weights(patients, stored, tmp_path):
    """Interrupted before and after the regulariser begins."""

    def run(name, progress=None):
        return train(patients, plan_job(patients, tmp_path / name, METHOD, TINY, CPU, stored), progress)

    def stop_in(epoch):
        def progress(state):
            if state.epoch == epoch and state.validation_loss is None:
                raise StoppedError

        return progress

    states = []
    whole = run("whole", states.append)
    for epoch in (1, 3):
        with pytest.raises(StoppedError):
            run("parts", stop_in(epoch))
    one, other = (load_file(folder / "weights.safetensors") for folder in (whole, run("parts")))
    assert all(torch.equal(one[name], other[name]) for name in one)
    ends = [state for state in states if state.validation_loss is not None]
    assert len(ends) == 4
    assert all(math.isfinite(state.validation_loss) and 0 <= state.dice <= 1 for state in ends)
    assert load_model(whole).description.mirroring is False


def test_norms_statistics_are_exported(patients, stored, tmp_path):
    job = plan_job(patients, tmp_path, METHOD, TINY, CPU, stored)
    norm = load_model(train(patients, job)).network.encoder[0][0][1]
    assert norm.num_batches_tracked == 4
    assert norm.running_mean.any()
