"""Patients one after another in this process, or several at a time in processes that may die."""

import logging
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from lesiondelta import records
from lesiondelta.cohort import Patient
from lesiondelta.errors import LesionDeltaError
from lesiondelta.inference.loading import load_models, load_segmenter
from lesiondelta.inference.model import Model
from lesiondelta.outputs.derivatives import PatientFiles
from lesiondelta.pipeline.failures import failed_results, record_failure
from lesiondelta.pipeline.patient_run import Results, RunPlan, run_patient
from lesiondelta.processes import possible_processes, worker_pool
from lesiondelta.records import any_failed

log = logging.getLogger(__name__)


class Executor(Protocol):
    """Runs patients, here or elsewhere."""

    def require(self) -> None:
        """Raise LesionDeltaError where it cannot run any."""

    def run(self, patients: Sequence[Patient], plan: RunPlan, stop: bool) -> Iterator[tuple[Patient, Results]]:
        """Yield each patient's results as it ends; with `stop`, start no other after the first one that failed."""


@dataclass(frozen=True)
class LocalExecutor:
    """Runs patients on this machine, so many at a time."""

    processes: int = 1

    def require(self) -> None:
        """Nothing is needed: every machine is one."""

    def run(self, patients: Sequence[Patient], plan: RunPlan, stop: bool) -> Iterator[tuple[Patient, Results]]:
        """See `Executor`."""
        if possible_processes(min(self.processes, len(patients))) > 1:
            yield from _run_in_pool(patients, plan, self.processes, stop)
            return
        for patient in patients:
            results = run_here(patient, plan)
            yield patient, results
            if stop and any_failed(results):
                return


def _run_in_pool(
    patients: Sequence[Patient], plan: RunPlan, processes: int, stop: bool
) -> Iterator[tuple[Patient, Results]]:
    """A process that dies (out of memory, a library's fault) breaks its pool: its patients run again, one by one."""
    broken, failed = [], False
    pool = worker_pool(processes)
    try:
        futures = {pool.submit(run_here, patient, plan): patient for patient in patients}
        for future in completed(futures, stop):
            if isinstance(future.exception(), BrokenProcessPool):
                broken.append(futures[future])
            else:
                failed |= any_failed(future.result())
                yield futures[future], future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    for patient in broken:
        if stop and failed:
            return
        log.warning("sub-%s: its process pool broke; it runs again by itself", patient.label)
        with worker_pool(1) as pool:
            results = _results_of(pool.submit(run_here, patient, plan), patient, plan.out)
        failed |= any_failed(results)
        yield patient, results


def completed(futures: Collection[Future[Results]], stop: bool) -> Iterator[Future[Results]]:
    """Futures as they end; with `stop`, after the first failed patient only those that run already."""
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        yield from done
        if stop and any(future.exception() is None and any_failed(future.result()) for future in done):
            waiting = {future for future in waiting if not future.cancel()}


def _results_of(future: Future[Results], patient: Patient, out: Path) -> Results:
    try:
        return future.result()
    except BrokenProcessPool:
        why = "its process was killed, most likely for want of memory: run fewer patients at a time (--nprocs)"
        results = failed_results(patient, why)
        with suppress(LesionDeltaError), records.only_run(out, patient.label):
            record_failure(PatientFiles(out, patient.label), results)
        return results


def run_here(patient: Patient, plan: RunPlan) -> Results:
    """Run a patient in this process; the models stay loaded for the next one."""
    import torch

    torch.set_num_threads(plan.settings.segmentation.threads)
    return run_patient(patient, plan, load_segmenter(plan.settings, _models))


@lru_cache(maxsize=1)
def _models(folders: tuple[Path, ...]) -> tuple[Model, ...]:
    return load_models(folders)
