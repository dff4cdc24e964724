"""The way of a cohort: every patient, several at a time, then the table."""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lesiondelta import __version__, records
from lesiondelta.cohort import Cohort, Patient
from lesiondelta.errors import LesionDeltaError, OutputError
from lesiondelta.files import logged_to, require_writable
from lesiondelta.inference import Model, choose_device
from lesiondelta.inference.samseg import require_not_stripped
from lesiondelta.inference.segmenter import Segmenter
from lesiondelta.inference.segmenters import load_models, load_segmenters
from lesiondelta.outputs.derivatives import prepare_output
from lesiondelta.pipeline.group import write_group
from lesiondelta.pipeline.patient_run import failed_results, run_patient
from lesiondelta.pipeline.results import log_path, reason_of, report_again
from lesiondelta.preprocessing.preparation import require_programs
from lesiondelta.processes import worker_pool
from lesiondelta.records import VisitResult
from lesiondelta.settings import Settings

log = logging.getLogger(__name__)

Results = tuple[VisitResult, ...]


@dataclass(frozen=True)
class Job:
    """What all patients of one run share; it travels to the worker processes."""

    out: Path
    raw: Path | None
    settings: Settings
    work: Path | None = None


def run_cohort(
    cohort: Cohort,
    out: Path,
    settings: Settings,
    *,
    raw: Path | None = None,
    work: Path | None = None,
    processes: int = 1,
    stop_on_first_crash: bool = False,
    report: Callable[[Patient, Results], None] | None = None,
) -> list[VisitResult]:
    """Run every patient and write the cohort table; `report` is called as each patient ends.

    `settings` come from `check_start`. Raises OutputError if the table cannot be written.
    """
    patients = [*(Patient(label, (), problems={"": why}) for label, why in cohort.problems.items()), *cohort.patients]
    results: dict[str, Results] = {}
    for patient, outcome in _run_all(patients, Job(out, raw, settings, work), processes, stop_on_first_crash):
        results[patient.label] = outcome
        if report:
            report(patient, outcome)
    for patient in patients:
        stopped = "not run: an earlier patient failed and --stop-on-first-crash was given"
        results.setdefault(patient.label, failed_results(patient, stopped))
    write_group(out)
    return [result for patient in patients for result in results[patient.label]]


def report_cohort(out: Path, participants: Sequence[str] | None = None, threads: int = 1) -> list[VisitResult]:
    """Write again what follows from the masks in `out`, those corrected by hand included, and the cohort's table.

    `participants` are labels with or without sub-; None for all that have results. A patient of whom this fails keeps
    what it has, and has status `failed` in what is returned.

    Raises
    ------
    OutputError
        There are no results of a participant.
    """
    there = [path.stem.removeprefix("sub-") for path in (out / records.RECORDS).glob("sub-*.json")]
    asked = sorted(there) if participants is None else [name.removeprefix("sub-") for name in participants]
    absent = [label for label in asked if label not in there]
    if absent or not there:
        whom = ", ".join(f"sub-{label}" for label in absent)
        raise OutputError(f"{out} holds no results{f' of {whom}' if whom else ''}: run without --reports-only first.")
    results = [result for label in asked for result in _reported(out, label, threads)]
    write_group(out)
    return results


def _reported(out: Path, label: str, threads: int) -> Results:
    try:
        with logged_to(log_path(out, label)), records.only_run(out, label):
            return report_again(out, label, threads)
    except Exception as error:
        record = records.read_record(out, label)
        visits = tuple(result.visit for result in records.results_of(record)) if record else ()
        reason = reason_of(error, out, label)
        return tuple(VisitResult(label, visit, "failed", reason) for visit in visits or ("",))


def check_start(settings: Settings, out: Path, raw: Path | None = None, work: Path | None = None) -> Settings:
    """See that models, device, programs and folders can be used, before anything runs.

    Returns the settings with the spacing that the models work at. Raises LesionDeltaError if nothing can be started.
    """
    choose_device(settings.segmentation.device)
    require_programs(settings.preprocessing)
    models = load_segmenters(settings.segmentation.models)
    if models[0].method == "samseg":
        require_not_stripped(settings.preprocessing)
    preprocessing = settings.preprocessing.model_copy(update={"spacing_mm": models[0].spacing_mm})
    settings = settings.model_copy(update={"preprocessing": preprocessing})
    if work:
        require_writable(work)
    prepare_output(out, raw, _description(settings, models))
    return settings


def any_failed(results: Sequence[VisitResult]) -> bool:
    """Whether a visit failed."""
    return any(result.status == "failed" for result in results)


def _run_all(patients: Sequence[Patient], job: Job, processes: int, stop: bool) -> Iterator[tuple[Patient, Results]]:
    if min(processes, len(patients)) > 1:
        yield from _run_in_pool(patients, job, processes, stop)
        return
    for patient in patients:
        outcome = _work(patient, job)
        yield patient, outcome
        if stop and any_failed(outcome):
            return


def _run_in_pool(
    patients: Sequence[Patient], job: Job, processes: int, stop: bool
) -> Iterator[tuple[Patient, Results]]:
    """A process that dies (out of memory, a library's fault) breaks its pool: those it took along run again, alone."""
    broken, failed = [], False
    pool = worker_pool(processes)
    try:
        futures = {pool.submit(_work, patient, job): patient for patient in patients}
        for future in _completed(futures, stop):
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
        log.warning("sub-%s: its process pool broke; it runs again, alone", patient.label)
        with worker_pool(1) as pool:
            outcome = _outcome(pool.submit(_work, patient, job), patient, job.out)
        failed |= any_failed(outcome)
        yield patient, outcome


def _completed(futures: Collection[Future[Results]], stop: bool) -> Iterator[Future[Results]]:
    """Futures as they end; with `stop`, after the first failed patient only those that run already."""
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        yield from done
        if stop and any(future.exception() is None and any_failed(future.result()) for future in done):
            waiting = {future for future in waiting if not future.cancel()}


def _outcome(future: Future[Results], patient: Patient, out: Path) -> Results:
    try:
        return future.result()
    except BrokenProcessPool:
        why = "its process was killed, most likely for want of memory: run fewer patients at a time (--nprocs)"
        results = failed_results(patient, why)
        with suppress(LesionDeltaError), records.only_run(out, patient.label):
            records.fail(out, patient.label, results)
        return results


def _work(patient: Patient, job: Job) -> Results:
    import torch

    torch.set_num_threads(job.settings.segmentation.threads)
    models = load_segmenters(job.settings.segmentation.models, _models)
    return run_patient(patient, job.out, job.settings, models, job.raw, job.work)


@lru_cache(maxsize=1)
def _models(folders: tuple[Path, ...]) -> tuple[Model, ...]:
    return load_models(folders)


def _description(settings: Settings, models: Sequence[Segmenter]) -> dict[str, Any]:
    named = [
        {"method": model.method, **{key.lower(): value for key, value in model.identity.items()}} for model in models
    ]
    about = "the latest run; what decided a patient's results is the fingerprint in .lesiondelta/sub-X.json"
    return {"about": about, "lesiondelta": __version__, "settings": settings.model_dump(mode="json"), "models": named}
