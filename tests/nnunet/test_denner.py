"""The slices that Denner et al. 2020 train on, and the trainer that draws them."""

from collections import Counter
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lesiondelta import methods
from lesiondelta.errors import CohortError
from lesiondelta.images import read_image, read_mask, write_volume
from lesiondelta.inference.model import load_model
from lesiondelta.networks.denner import scale
from lesiondelta.nnunet import dataset, presets
from lesiondelta.nnunet.environment import environment
from lesiondelta.nnunet.job import TrainingOptions
from lesiondelta.nnunet.training import plan_job, train
from lesiondelta.preprocessing.intensity import normalise
from tests.synthetic import write_patients

METHOD = methods.load("denner")
TINY = replace(presets.load("smoke"), epochs=3, iterations_per_epoch=2)
OWN = replace(TINY, epochs=100, batch=16)  # as many epochs as the method's own schedule


class StoppedError(Exception):
    """What a test interrupts a training with."""


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """With three visits, one and two."""
    return write_patients(tmp_path_factory.mktemp("images"), (3, 1, 2))


@pytest.fixture(scope="module")
def stored(patients, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return folder, dataset.build(patients, folder, (32, 32, 32))["patients"]


@pytest.fixture(scope="module")
def module(stored):
    """The module, imported where nnU-Net's variables are set."""
    with environment(stored[0]):
        from lesiondelta.nnunet import slices

        yield slices


def open_slices(module, stored, labels=("001", "002", "003")):
    folder, visits = stored
    pairs = module.PairDataset(
        dataset.visits_folder(folder), {label: visits[label] for label in labels}, longitudinal=True
    )
    return module.Slices(pairs)


@pytest.fixture(scope="module")
def slices(module, stored):
    return open_slices(module, stored)


@pytest.fixture(scope="module")
def cropped(patients, stored):
    """Of every stored visit the z-scored images (C, X, Y, Z) and the mask, as read from the patients' files."""
    found = {}
    for patient in patients:
        images = [np.stack([read_image(v.images[c]).data for c in ("T1w", "FLAIR")]) for v in patient.visits]
        box = dataset.bounding_box(np.logical_or.reduce([(image != 0).any(axis=0) for image in images]))
        for name, image, visit in zip(stored[1][patient.label], images, patient.visits, strict=True):
            found[name] = normalise(image)[:, *box], read_mask(visit.reference).data[box]
    return found


def test_all_ordered_pairs_of_a_patient(slices, stored):
    found = {(s.current, s.prior) for s in slices.slices}
    expected = {pair for visits in stored[1].values() for pair in permutations(visits, 2)}
    (single,) = stored[1]["002"]
    assert found == expected | {(single, single)}


def test_all_planes_with_a_lesion_and_no_others(slices, cropped):
    found = Counter(s[:1] + s[2:] for s in slices.slices)
    expected = Counter()
    for current, (_, mask) in cropped.items():
        priors = max(1, sum(other[:7] == current[:7] for other in cropped) - 1)
        for axis in range(3):
            planes = [int(i) for i in range(mask.shape[axis]) if mask.take(i, axis).any()]
            expected.update({(current, axis, plane): priors for plane in planes})
    assert found == expected


def test_a_plane_without_brain_is_left_out(module):
    data, labels = np.ones((2, 3, 3, 3)), np.zeros((3, 3, 3))
    labels[0, 1, 1] = labels[2, 1, 1] = 1
    data[:, 2] = 0
    assert module.lesion_planes(data, labels) == [(0, 0), (1, 1), (2, 1)]
    assert not module.lesion_planes(data, -labels)  # what lies outside the brain


def test_what_a_slice_holds(slices, cropped):
    """cat(current, prior), scaled over the whole volume, and the current's lesions, amid the largest cube."""
    assert slices.edge == 64  # of 35 voxels
    for where in slices.slices[::17]:
        item = slices[where]
        images = [scale(torch.from_numpy(cropped[visit][0])[None])[0] for visit in (where.current, where.prior)]
        expected = torch.cat(images).select(where.axis + 1, where.place)
        top, left = ((64 - n) // 2 for n in expected.shape[1:])
        inside = (..., slice(top, top + expected.shape[1]), slice(left, left + expected.shape[2]))
        torch.testing.assert_close(item["data"][inside], expected)
        lesions = torch.from_numpy(cropped[where.current][1]).select(where.axis, where.place)
        assert torch.equal(item["target"][inside] == 1, lesions)
        assert item["target"].any()
        for whole in (item["data"], item["target"]):
            assert whole.shape[-2:] == (64, 64)
            assert whole.sum() == pytest.approx(whole[inside].sum().item())


def without_lesions(patients):
    for visit in [visit for patient in patients for visit in patient.visits]:
        mask = read_mask(visit.reference)
        write_volume(visit.reference, mask.with_data(np.zeros_like(mask.data)))


def train_without_lesions_in(part, folder):
    patients = write_patients(folder / "images", (2, 2, 2))
    job = plan_job(patients, folder / "out", METHOD, replace(TINY, epochs=1), TrainingOptions(0, 3, device="cpu"))
    without_lesions([patient for patient in patients if patient.label in getattr(job.members, part)])
    return train(patients, job)


def test_patients_without_lesions_may_be_held_out(module, tmp_path, caplog):
    model = load_model(train_without_lesions_in("validation", tmp_path))
    assert model.description.training["epochs_done"] == 1
    assert "no visit held out has a lesion" in caplog.text


def test_nothing_can_be_learned_from_patients_without_lesions(module, tmp_path):
    with pytest.raises(CohortError, match=r"No visit of 00\d, 00\d has a lesion"):
        train_without_lesions_in("train", tmp_path)


def test_no_slice_is_drawn_twice_before_all_were(module, slices):
    np.random.seed(0)
    total = len(slices.slices)
    drawn = module.draw(slices.slices, 2 * total + 5, 0)
    assert set(drawn[:total]) == set(drawn[total : 2 * total]) == set(slices.slices)
    assert drawn[:total] != drawn[total : 2 * total]
    assert len(drawn) == 2 * total + 5
    np.random.seed(0)
    assert module.draw(slices.slices, 2 * total + 5, 0) == drawn


def test_share_of_self_priors(module, slices):
    np.random.seed(0)
    several = [s for s in slices.slices if s.current != s.prior]
    drawn = module.draw(several, 4000, 0.25)
    assert sum(s.current == s.prior for s in drawn) == pytest.approx(1000, abs=100)


def test_validation_slices_are_spread_and_fixed(module, slices):
    assert module.spread(slices.slices, 4) == module.spread(slices.slices, 4)
    assert module.spread([*range(9)], 3) == [1, 4, 7]
    assert module.spread([*range(9)], 9) == [*range(9)]
    assert module.spread([*range(2)], 4) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("dice", "over"),
    [
        ([0.0] * 50, False),  # not worse
        ([0.5] + [0.4] * 10, False),
        ([0.5] + [0.4] * 11, True),
        ([0.5] + [0.4] * 10 + [0.5], False),
        ([float("nan")] * 20, False),
    ],
)
def test_when_a_training_ends_early(module, dice, over):
    assert module.exhausted(dice) is over


# Trainings


@pytest.fixture(scope="module")
def run(patients, stored):
    def call(folder, preset=TINY, progress=None, method=METHOD, **options):
        chosen = TrainingOptions(**{"fold": 0, "folds": 3, "self_prior_share": 0.25, "device": "cpu", **options})
        return train(patients, plan_job(patients, folder, method, preset, chosen, stored[0]), progress)

    return call


def stop_at(epoch, iteration):
    def progress(state):
        if (state.epoch, state.iteration) == (epoch, iteration):
            raise StoppedError

    return progress


def weights(model):
    return load_file(model / "weights.safetensors")


def same(one, other):
    return all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())


def test_an_interrupted_training_ends_in_identical_weights(run, tmp_path):
    whole = run(tmp_path / "whole")
    for moment in ((1, 1), (2, 2)):
        with pytest.raises(StoppedError):
            run(tmp_path / "out", progress=stop_at(*moment))
    assert same(run(tmp_path / "out"), whole)
    torch.load(tmp_path / "out" / "checkpoint.pth", weights_only=True)


def test_a_presets_length_is_everyones(run, tmp_path):
    states = []
    run(tmp_path / "out", replace(TINY, epochs=1), states.append)
    assert [(s.iteration, s.epochs) for s in states] == [(1, 1), (2, 1), (2, 1)]


def test_the_own_schedule(module, tmp_path, monkeypatch):
    """A pass over all slices an epoch, of 100; once it has ended early it stays so."""
    monkeypatch.setattr(module, "PATIENCE", -1)  # the first epoch is the last
    patients = write_patients(tmp_path / "images", (1,))

    def run(progress):
        return train(
            patients,
            plan_job(patients, tmp_path / "out", METHOD, OWN, TrainingOptions(device="cpu", self_prior_share=1)),
            progress,
        )

    states = []
    model = run(states.append)
    count = sum(len(np.unique(axis)) for axis in np.nonzero(read_mask(patients[0].visits[0].reference).data))
    *steps, end = states
    assert [s.iteration for s in steps] == list(range(1, -(-count // 16) + 1))
    description = load_model(model).description
    assert (end.epochs, description.training["epochs_done"]) == (100, 1)
    assert (description.mirroring, description.patch) == (False, None)
    kept = weights(model)
    (model / "model.json").unlink()  # as if killed before the export
    again = run(stop_at(1, 1))
    training = load_model(again).description.training
    assert (training["epochs_done"], training["iterations_done"]) == (1, len(steps))
    assert all(torch.equal(tensor, kept[name]) for name, tensor in weights(again).items())


def test_a_presets_recipe_goes_with_its_length(run, tmp_path):
    states = []

    def first(state):
        states.append(state)
        raise StoppedError

    with pytest.raises(StoppedError):
        run(tmp_path / "out", replace(OWN, recipe=presets.load("small").recipe), first)
    assert (states[0].epochs, states[0].iterations) == (100, 2)


@pytest.mark.parametrize(("epoch", "rate"), [(0, 1e-4), (49, 1e-4), (50, 1e-5), (99, 1e-5)])
def test_the_optimiser(module, stored, patients, tmp_path, epoch, rate):
    from lesiondelta.nnunet.planning import make_plan
    from lesiondelta.nnunet.training import build_trainer

    job = plan_job(patients, tmp_path, METHOD, OWN, TrainingOptions(self_prior_share=0.25, device="cpu"), stored[0])
    with environment(stored[0]):
        plan = make_plan(OWN, METHOD)
    with environment(stored[0], loader_processes=0):
        trainer = build_trainer(job, plan, None)
    assert isinstance(trainer.optimizer, torch.optim.Adam)
    (group,) = trainer.optimizer.param_groups
    assert (group["amsgrad"], group["betas"], group["weight_decay"]) == (True, (0.9, 0.999), 0)
    trainer.lr_scheduler.step(epoch)
    assert group["lr"] == pytest.approx(rate)
