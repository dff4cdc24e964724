"""Batches drawn from label maps, as nnU-Net's loaders give theirs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform

from lesiondelta import methods
from lesiondelta.nnunet.drawn import DrawnBatches, DrawnPairs
from lesiondelta.nnunet.job import TrainingOptions
from lesiondelta.nnunet.training import plan_job, train
from lesiondelta.simulation.generator.pair_generator import DrawnPair, GeneratorPlan
from tests.nnunet.test_training import TINY, weights
from tests.synthetic import write_patients

PAIRS, SINGLE = methods.load("difference_weighting"), methods.load("nnunet")
SCALES = [[1, 1, 1], [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]]


class Numbered:
    """A generator whose images say what they are: visit, contrast, and the number that was drawn."""

    seed = 3
    plan = GeneratorPlan()

    def draw(self, *number):
        rng = np.random.default_rng(number)
        images = torch.from_numpy(rng.normal(size=(2, 2, 16, 16, 16)).astype(np.float32))
        images[:, :, 0, 0, 0] = torch.tensor([[10.0, 11], [20, 21]])
        return DrawnPair(images, torch.from_numpy(rng.random((2, 16, 16, 16)) > 0.5))


def batches(method=PAIRS, share=1.0, stored=(), scales=SCALES):
    return DrawnBatches(iter(stored), Numbered(), batch=2, share=share, scales=scales, method=method)


def test_the_current_visit_comes_first():
    batch = next(batches())
    assert batch["data"].shape == (2, 4, 16, 16, 16)
    assert batch["data"][0, :, 0, 0, 0].tolist() == [20, 21, 10, 11]
    pair = Numbered().draw(0, 0, 0)
    assert torch.equal(batch["target"][0][0, 0], pair.lesions[1].float())
    single = next(batches(SINGLE))
    assert single["data"][0, :, 0, 0, 0].tolist() == [20, 21]
    both = next(batches(replace(PAIRS, labels="both")))["target"][0]
    assert torch.equal(both[0], pair.lesions.flip(0).float())


def test_targets_are_those_of_nnunet_at_every_resolution():
    batch = next(batches())
    expected = DownsampleSegForDSTransform(SCALES)._apply_to_segmentation(batch["target"][0][0])
    for one, other in zip(batch["target"], expected, strict=True):
        assert torch.equal(one[0], other)
    assert torch.equal(next(batches(scales=None))["target"], batch["target"][0])


def test_what_is_drawn_depends_on_the_epoch_alone():
    one, other = batches(), batches()
    one.start(4)
    expected = [next(one)["data"] for _ in range(2)]
    next(other)
    other.start(4)
    assert all(torch.equal(a, next(other)["data"]) for a in expected)
    assert not torch.equal(*expected)
    other.start(4, first=1)  # another process
    assert not torch.equal(expected[0], next(other)["data"])


def test_a_training_that_continues_another_draws_other_pairs(tmp_path):
    first, second = (DrawnPairs((), (), tmp_path, passed=passed) for passed in (0, 250))
    assert first.seed(0) == replace(first).seed(0)
    assert len({first.seed(0), second.seed(0), first.seed(1)}) == 3
    assert second.identity() == first.identity() | {"passed": 250}
    assert second.generator((16, 16, 16), 0, torch.device("cpu")).seed == second.seed(0)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_rest_is_of_stored_patients(share):
    mixed = batches(share=share, stored=({"data": torch.ones(2, 4, 2, 2, 2)} for _ in range(200)))
    drawn = sum(next(mixed)["data"].shape[-1] == 16 for _ in range(200))
    assert drawn == pytest.approx(200 * share, abs=25)


@pytest.mark.parametrize("method", [PAIRS, SINGLE])
@pytest.mark.parametrize("itself", [True, False])
def test_visits_of_stored_patients_lack_images_too(method, itself):
    visits = 2 if method is PAIRS else 1
    stored = [torch.rand(2, 2, 2, 3, 3, 3) + 1 for _ in range(300)]
    if itself:
        stored = [pair[:, :1].expand(-1, 2, -1, -1, -1, -1) for pair in stored]
    stored = [pair[:, :visits].flatten(1, 2) for pair in stored]
    whole = torch.stack(stored)
    mixed = batches(method, share=0.0, stored=({"data": data, "target": None} for data in stored))
    seen = torch.stack([next(mixed)["data"] for _ in stored])
    assert torch.equal(whole, torch.stack(stored)), "the loader's own images stay"
    lacks = (seen == 0).flatten(3).all(3).unflatten(2, (visits, 2))  # (batches, cases, visits, contrasts)
    assert torch.equal(seen[seen != 0], whole[seen != 0])
    assert not lacks.all(-1).any()
    assert lacks.float().mean((0, 1, 2)).tolist() == pytest.approx([0.15, 0.05], abs=0.04)
    if method is PAIRS:
        assert torch.equal(lacks[:, :, 0], lacks[:, :, 1]) is itself


class TwoPatches(DrawnPairs):
    """Drawn pairs without any label map."""

    def generator(self, patch, seed, device):
        return Numbered()


def test_a_training_on_drawn_pairs_is_another_one(tmp_path):
    patients = write_patients(tmp_path / "images", (2, 2))
    folders = {}
    for name, drawn in (("stored", None), ("drawn", TwoPatches((), (), tmp_path))):
        options = TrainingOptions(device="cpu", drawn=drawn)
        job = plan_job(patients, tmp_path / name, PAIRS, replace(TINY, epochs=1, batch=2), options, tmp_path / "data")
        folders[name] = train(patients, job)
        assert ("drawn" in job.identity()) is (drawn is not None)
    stored, drawn = (weights(folder) for folder in folders.values())
    assert any(not torch.equal(stored[name], drawn[name]) for name in stored)
