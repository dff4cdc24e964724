"""Worker processes that end with the process that started them."""

import logging
import math
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread

log = logging.getLogger(__name__)


def possible_processes(asked: int) -> int:
    """As many as are asked for; one where the system has no shared memory for them, as in some containers."""
    if asked > 1:
        try:
            get_context("spawn").Lock()
        except (ImportError, OSError) as error:
            log.warning("there is no shared memory for several processes (%s): one does it all", error)
            return 1
    return asked


def shared_memory_bytes(place: str = "/dev/shm") -> float:
    """Room for what processes hand to each other; infinite where the system does not say."""
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return math.inf


@contextmanager
def variables_set(variables: Mapping[str, str]) -> Iterator[None]:
    """Inside the block, these are variables of this process and of those it starts."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def scheduler_job() -> str:
    """The job of SLURM that this process belongs to, as `squeue` calls it, and its node; nothing outside of one."""
    array, job = (os.environ.get(f"SLURM_{name}") for name in ("ARRAY_JOB_ID", "JOB_ID"))
    name = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else job
    return f"{name} on {platform.node()}" if name else ""


def worker_pool(processes: int) -> ProcessPoolExecutor:
    """A pool of spawned processes; killed with SIGKILL or by a scheduler, the parent takes them along.

    Else they would continue to write into a folder that the next run holds for its own.
    """
    return ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
