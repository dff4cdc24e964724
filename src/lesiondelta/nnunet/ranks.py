"""Processes that share one training, as nnU-Net starts them: a rank a GPU."""

import logging
import socket
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing import get_context
from typing import Any

from lesiondelta.errors import LesionDeltaError, ProgramError
from lesiondelta.files import logged_by

POLL_S = 1.0


def run_in_ranks(work: Callable[..., None], arguments: tuple[Any, ...], ranks: int, backend: str = "nccl") -> None:
    """Call `work(*arguments)` in every rank; what rank 0 logs, and the error that ends a rank, come back to here.

    Raises
    ------
    LesionDeltaError
        That of a rank; the others are ended.
    ProgramError
        A rank was killed.
    """
    from torch.multiprocessing.spawn import ProcessException, ProcessExitedException, spawn

    context = get_context("spawn")
    records, errors = context.Queue(), context.SimpleQueue()
    shared = _Shared(work, arguments, ranks, backend, _free_port(), records, errors)
    started = spawn(_run_rank, args=(shared,), nprocs=ranks, join=False)  # type: ignore[no-untyped-call]
    try:
        while not started.join(POLL_S):
            _log(records)
    except ProcessException as ended:
        if not errors.empty():
            raise errors.get() from ended
        signal = ended.signal_name if isinstance(ended, ProcessExitedException) else None
        if signal == "SIGKILL":
            raise ProgramError(
                f"Training process {ended.error_index + 1} of {ranks} was killed, most likely for want of memory: free "
                "memory and give the command again, which resumes from the last checkpoint."
            ) from ended
        raise
    finally:
        _log(records)


@dataclass(frozen=True)
class _Shared:
    """What every rank is given."""

    work: Callable[..., None]
    arguments: tuple[Any, ...]
    ranks: int
    backend: str
    port: int
    records: Any
    errors: Any


def _run_rank(rank: int, shared: _Shared) -> None:
    import torch
    from torch import distributed

    if shared.backend == "nccl":
        torch.cuda.set_device(rank)
    address = f"tcp://localhost:{shared.port}"
    distributed.init_process_group(shared.backend, address, rank=rank, world_size=shared.ranks)
    try:
        with logged_by(QueueHandler(shared.records)) if rank == 0 else nullcontext():
            shared.work(*shared.arguments)
    except LesionDeltaError as error:
        shared.errors.put(error)
        raise
    finally:
        distributed.destroy_process_group()


def _log(records: Any) -> None:  # noqa: ANN401
    while not records.empty():
        record = records.get()
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
    return port
