"""A training killed at random moments ends in the weights of one that was left alone."""

import random
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from lesiondelta import methods
from lesiondelta.nnunet import presets
from lesiondelta.nnunet.training import train
from tests.conftest import REPOSITORY
from tests.synthetic import write_patients

KILLS = 20
LONGEST_LIFE_S = 2.5
PRESET = replace(presets.load("smoke"), epochs=40, iterations_per_epoch=1, patch=(16, 16, 16), max_features=16)

CHILD = """
import sys
from pathlib import Path
import lesiondelta.nnunet.trainer
from tests.nnunet.test_sigkill import run
print("ready", flush=True)
run(Path(sys.argv[1]), lambda p: p.dice is not None and print(p.epoch + 1, flush=True))
"""


def run(folder, progress=None):
    """Train with all patients stored in `folder`; the child process of the test calls it too."""
    patients = write_patients(folder / "images", (2, 1))
    return train(
        patients, folder / "out", methods.load("difference_weighting"), PRESET, device="cpu", progress=progress
    )


def live(folder, seconds=None):
    """Start a training, kill it `seconds` after its imports; returns the last epoch it reported as finished."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    if seconds is not None:
        time.sleep(seconds)
        process.kill()
    said, _ = process.communicate()
    assert process.returncode == (0 if seconds is None else -9)
    return int(said.split()[-1]) if said.split() else 0


def epochs_done(folder):
    checkpoint = folder / "out" / "checkpoint.pth"
    return torch.load(checkpoint, weights_only=True)["epochs_done"] if checkpoint.is_file() else 0


@pytest.mark.slow
def test_twenty_kills(tmp_path):
    (tmp_path / "alone").mkdir()
    (tmp_path / "killed").mkdir()
    draw = random.Random(0)
    reached = [0]
    for _ in range(KILLS):
        reported = live(tmp_path / "killed", draw.uniform(0, LONGEST_LIFE_S))
        reached.append(epochs_done(tmp_path / "killed"))
        assert reached[-1] >= max(reported, reached[-2])  # at most the epoch under way is lost
        if reached[-1] == PRESET.epochs:
            break
    assert len(set(reached)) > 2, f"no kill fell into the training: {reached}"
    live(tmp_path / "killed")
    expected = load_file(run(tmp_path / "alone") / "weights.safetensors")
    found = load_file(tmp_path / "killed" / "out" / "model" / "weights.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
