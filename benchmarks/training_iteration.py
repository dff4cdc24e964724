"""CPU seconds of one training iteration: reading, and the training step in the precision of training and in float32.

    OMP_NUM_THREADS=1 python benchmarks/training_iteration.py DATA [--method M] [--preset small] [--patch 64]

DATA is a folder of stored patients, as `lesiondelta train` keeps them.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from lesiondelta import methods
from lesiondelta.nnunet import dataset, presets
from lesiondelta.nnunet.environment import environment
from lesiondelta.nnunet.job import TrainingJob
from lesiondelta.nnunet.training import build_trainer
from lesiondelta.nnunet.training_patients import Fold

REPEATS = 5


def main() -> None:
    """Print one row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--method", default="difference_weighting")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--patch", type=int, default=64)
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
            reading = cpu_seconds(lambda: next(loader))
            batch = next(loader)
            mixed = cpu_seconds(lambda: trainer.train_step(batch))
            trainer.network.forward = partial(type(trainer.network).forward, trainer.network)
            exact = cpu_seconds(lambda: trainer.train_step(batch))
    title = f"{method.name} {preset.name} {arguments.patch}^3"
    print(f"{title}: read {reading:.2f} s, step {mixed:.2f} s ({trainer.precision}), {exact:.2f} s (float32)")


def cpu_seconds(action: Callable[[], object]) -> float:
    """Mean CPU time of an action after one that is not counted."""
    action()
    begun = time.process_time()
    for _ in range(REPEATS):
        action()
    return (time.process_time() - begun) / REPEATS


if __name__ == "__main__":
    main()
