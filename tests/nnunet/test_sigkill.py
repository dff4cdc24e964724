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
from lesiondelta.nnunet.job import TrainingOptions
from lesiondelta.nnunet.training import plan_job, train
from tests.conftest import REPOSITORY
from tests.synthetic import write_patients

KILLS = 20
MOST_REPORTS = 5  # a life sees one report an iteration and one an epoch
LONGEST_PAUSE_S = 0.3
PRESET = replace(presets.load("smoke"), epochs=60, iterations_per_epoch=1, patch=(16, 16, 16), max_features=16)

CHILD = """
import sys
from pathlib import Path
import lesiondelta.nnunet.trainer, torch.utils.tensorboard
from tests.nnunet.test_sigkill import run
print("ready", flush=True)
run(Path(sys.argv[1]), lambda p: print(p.epoch + (p.dice is not None), flush=True))  # finished epochs
"""


def run(folder, progress=None):
    """Train with all patients stored in `folder`; the child process of the test calls it too."""
    patients = write_patients(folder / "images", (2, 2))
    job = plan_job(
        patients, folder / "out", methods.load("difference_weighting"), PRESET, TrainingOptions(device="cpu")
    )
    return train(patients, job, progress)


def live(folder, reports=None, pause_s=0.0):
    """Start a training, kill it `pause_s` after a number of reports; returns the epochs it reported as finished."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert process.stdout is not None
    heard = [process.stdout.readline() for _ in range(1 + (reports or 0))]
    assert heard[0] == "ready\n"
    if reports is not None:
        time.sleep(pause_s)
        process.kill()
    heard += process.communicate()[0].splitlines()
    assert process.returncode in ((0,) if reports is None else (0, -9))  # 0: it was faster
    return max((int(line) for line in heard[1:] if line.strip()), default=0)


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
        reported = live(tmp_path / "killed", draw.randrange(MOST_REPORTS + 1), draw.uniform(0, LONGEST_PAUSE_S))
        reached.append(epochs_done(tmp_path / "killed"))
        assert reached[-1] >= max(reported, reached[-2])  # at most the epoch under way is lost
    assert len(set(reached)) > KILLS / 2, reached  # most kills fell into the training, and it went on
    live(tmp_path / "killed")
    expected = load_file(run(tmp_path / "alone") / "weights.safetensors")
    found = load_file(tmp_path / "killed" / "out" / "model" / "weights.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
