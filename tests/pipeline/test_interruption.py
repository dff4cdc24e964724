"""SIGKILL at any point: the run started again gives the masks of an uninterrupted one."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import pytest
import torch

from lesiondelta.inputs.bids import read_cohort
from lesiondelta.pipeline.cohort_run import check_start, run_cohort
from lesiondelta.pipeline.patient_run import RunPlan
from lesiondelta.settings import PreprocessingSettings, SegmentationSettings, Settings
from tests.models import export_tiny_model
from tests.tiny import write_patient

KILLS = 20


def run(root: Path, out: Path) -> None:
    easy = PreprocessingSettings(registration="none", skull_strip="skip", bias_correction=False, gate=False)
    chosen = SegmentationSettings(models=(root / "model",), device="cpu", threshold=0.2)
    settings = Settings(preprocessing=easy, segmentation=chosen)
    plan = check_start(RunPlan(out, root / "bids", settings, out.with_name(f"{out.name}-work")))
    run_cohort(read_cohort(root / "bids"), plan)


def child(root: Path, out: Path) -> multiprocessing.Process:
    """A forked process, so that it starts at once and the kill falls into the work."""
    process = multiprocessing.get_context("fork").Process(target=run, args=(root, out))
    process.start()
    return process


def images(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*.nii.gz"))}


def wait_for(out: Path, written: int, process: multiprocessing.Process) -> None:
    """Until a run has written so many images, or is at its end."""
    while len(list(out.rglob("*.nii.gz"))) < written and process.is_alive():
        time.sleep(0.005)


@pytest.mark.slow
def test_a_killed_run_ends_as_an_uninterrupted_one(tmp_path):
    torch.set_num_threads(1)
    write_patient(tmp_path / "bids", "01", ("1", "2"))
    write_patient(tmp_path / "bids", "02")
    export_tiny_model(tmp_path / "model")
    whole = child(tmp_path, tmp_path / "whole")
    whole.join()
    expected = images(tmp_path / "whole")
    assert len(expected) == 3 * 9 + 1 + 2, "nine a visit, a map of changes, two brains"
    table = (tmp_path / "whole/lesiondelta.tsv").read_text()

    points, rng = set(), random.Random(0)
    for attempt in range(KILLS):
        out = tmp_path / f"out{attempt}"
        killed = child(tmp_path, out)
        wait_for(out, rng.randrange(len(expected) + 1), killed)
        time.sleep(rng.uniform(0, 0.1))
        os.kill(killed.pid, signal.SIGKILL)
        killed.join()
        points.add(len(images(out)) if out.is_dir() else 0)
        again = child(tmp_path, out)
        again.join()
        assert again.exitcode == 0
        assert images(out) == expected
        assert (out / "lesiondelta.tsv").read_text() == table
        assert not list(out.rglob(".partial-*-sub-*")), "what a killed run left is cleared"
    assert len(points) > 5, "the kills fell into different steps"
