"""Processes that load patches, and the shared memory they need: nnU-Net waits forever where it is too small."""

import math
import shutil
import tempfile
from collections import namedtuple
from multiprocessing.synchronize import SemLock

import pytest
import torch

from lesiondelta import methods
from lesiondelta.nnunet import dataset, presets
from lesiondelta.nnunet.environment import environment
from lesiondelta.nnunet.job import TrainingJob
from lesiondelta.nnunet.loaders import LONGEST_FOLDER, batch_bytes, held_batches, loader_processes
from lesiondelta.nnunet.training import build_trainer
from lesiondelta.nnunet.training_patients import Fold
from lesiondelta.processes import shared_memory_bytes
from tests.synthetic import write_patients

METHOD, SMOKE = methods.load("difference_weighting"), presets.load("smoke")
PAPERS = {"patch_size": [128, 128, 128], "batch_size": 2}
NEEDED = 14 * 2 * 2 * 128**3 * (4 * 2 + 4)
"""With 16 processes: 14 batches of 2 pairs, each voxel two contrasts of 4 bytes and at most 4 of labels."""
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def paper(tmp_path):
    """On a GPU that need not be there."""
    return TrainingJob(tmp_path, tmp_path, METHOD, SMOKE, 0, Fold((), ()), seed=0, device="cuda", threads=16)


@pytest.fixture
def room(monkeypatch):
    """Set the free shared memory."""
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    return lambda free: monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(free, 0, free))


@pytest.mark.parametrize(("free", "processes"), [(NEEDED, 16), (NEEDED - 1, 0), (64 * 2**20, 0)])
def test_patches_are_loaded_by_others_where_their_batches_have_room(paper, room, caplog, free, processes):
    room(free)
    assert loader_processes(paper, {"configurations": {"3d_fullres": PAPERS}}, channels=2) == processes
    assert ("less than 1.41 (docker run --shm-size)" in caplog.text) == (processes == 0)


def test_nor_without_semaphores_or_with_a_long_name_for_temporary_files(paper, room, caplog, monkeypatch):
    def none(*_, **__):
        raise OSError

    room(NEEDED)
    plan = {"configurations": {"3d_fullres": PAPERS}}
    monkeypatch.setattr(tempfile, "tempdir", "/" + "é" * (LONGEST_FOLDER // 2))
    assert loader_processes(paper, plan, channels=2) == 0
    assert "of so long a name" in caplog.text
    monkeypatch.setattr(SemLock, "__init__", none)
    assert loader_processes(paper, plan, channels=2) == 0
    assert "without shared memory" in caplog.text


def test_sockets_fit_below_the_longest_folder():
    """Of Linux' 108 bytes one ends the name; multiprocessing adds a folder and a file, of eight random letters each."""
    assert LONGEST_FOLDER + len("/pymp-12345678/listener-12345678") <= 107


def test_shared_memory_that_nobody_measures_has_room(tmp_path):
    assert shared_memory_bytes(str(tmp_path / "absent")) == math.inf
    assert 0 < shared_memory_bytes(str(tmp_path)) < math.inf


@pytest.mark.parametrize(("processes", "held"), [(1, 6 + 3 + 2), (16, 8 + 4 + 2), (32, 16 + 8 + 2)])
def test_nnunets_queues(processes, held):
    assert held_batches(processes) == held


def tensors(content):
    if isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, list | tuple):
        for item in content:
            yield from tensors(item)


@pytest.mark.parametrize("name", ["nnunet", "difference_weighting", "coactseg"])
def test_no_batch_is_larger_than_said(tmp_path, name):
    dataset.build(write_patients(tmp_path / "images"), tmp_path / "data", (32, 32, 32))
    method = methods.load(name)
    job = TrainingJob(tmp_path / "data", tmp_path, method, SMOKE, 0, Fold(("001", "003"), ("003",)), seed=0)
    with environment(tmp_path / "data"):
        from lesiondelta.nnunet.planning import make_plan

        plan = make_plan(SMOKE, method)
    with environment(tmp_path / "data", loader_processes=0):
        batch = next(build_trainer(job, plan, None).get_dataloaders()[0])
    (configuration,) = plan["configurations"].values()
    said = batch_bytes(method, configuration, channels=2)
    assert said / 2 < sum(tensor.nbytes for tensor in tensors(list(batch.values()))) <= said
