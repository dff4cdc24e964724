"""Seconds of one training iteration: reading, and the training step in several ways.

    python benchmarks/training_iteration.py DATA [--method M] [--preset small] [--patch 64] [--threads 1 2]

DATA is a folder of stored patients, as `lesiondelta train` keeps them.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lesiondelta import methods
from lesiondelta.nnunet import dataset, presets
from lesiondelta.nnunet.environment import environment
from lesiondelta.nnunet.job import TrainingJob
from lesiondelta.nnunet.training import build_trainer
from lesiondelta.nnunet.training_patients import Fold

REPEATS = 5
WAITING = os.environ.get("OMP_WAIT_POLICY", "default")


def main() -> None:
    """Print one row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--method", default="difference_weighting")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    arguments = parser.parse_args()
    labels = tuple(dataset.description(arguments.data)["patients"])
    method, preset = (
        methods.load(arguments.method),
        replace(presets.load(arguments.preset), patch=(arguments.patch,) * 3),
    )
    with tempfile.TemporaryDirectory() as output:
        job = TrainingJob(arguments.data, Path(output), method, preset, "all", Fold(labels, labels), seed=0)
        with environment(job.data):
            from lesiondelta.nnunet.planning import make_plan

            plan = make_plan(preset, method)
        with environment(job.data, loader_processes=0):
            trainer = build_trainer(job, plan, None)
            loader, _ = trainer.get_dataloaders()
            trainer.network.train()
            print(f"{method.name} {preset.name} {arguments.patch}^3, OMP_WAIT_POLICY {WAITING}")
            print(f"reading: {spent(lambda: next(loader))}")
            batch = next(loader)
            for threads in arguments.threads:
                torch.set_num_threads(threads)
                for name, prepared in variants(trainer).items():
                    prepared()
                    print(f"{threads} threads, {name}: {spent(lambda: trainer.train_step(batch))}", flush=True)


def variants(trainer: Any) -> dict[str, Callable[[], object]]:  # noqa: ANN401
    """What turns the trainer into each of its variants, one after the other."""
    network = trainer.network
    own, exact = network.forward, partial(type(network).forward, network)

    def forward(chosen: Callable[..., object], layout: torch.memory_format = torch.contiguous_format) -> None:
        network.to(memory_format=layout)
        network.forward = chosen

    return {
        trainer.precision: lambda: forward(own),
        "float32": lambda: forward(exact),
        "float32, channels last": lambda: forward(exact, torch.channels_last_3d),
        "float32, compiled": lambda: forward(torch.compile(exact)),
    }


def spent(action: Callable[[], object]) -> str:
    """Mean wall clock and processor time of an action after one that is not counted."""
    action()
    begun = time.perf_counter(), time.process_time()
    for _ in range(REPEATS):
        action()
    wall, processor = time.perf_counter() - begun[0], time.process_time() - begun[1]
    return f"{wall / REPEATS:.2f} s, {processor / REPEATS:.2f} CPU s"


if __name__ == "__main__":
    main()
