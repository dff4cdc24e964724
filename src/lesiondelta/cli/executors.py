"""Where patients run, as the command line says it: on this machine, or as jobs of SLURM."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lesiondelta.cli import console
from lesiondelta.cli.options import COMPUTING
from lesiondelta.cli.running import nothing_built
from lesiondelta.errors import InputError

if TYPE_CHECKING:
    from lesiondelta.pipeline.workers import Executor

ExecutorName = Annotated[
    Literal["local", "slurm"],
    typer.Option("--executor", help="Run patients on this machine or as jobs of SLURM.", rich_help_panel=COMPUTING),
]
SlurmOptions = Annotated[
    str,
    typer.Option(
        "--slurm",
        metavar="NAME=VALUE,...",
        help="Options of sbatch by their long names, such as partition=long,mem=8G. Memory and time that are not given "
        "are reckoned from the images.",
        rich_help_panel=COMPUTING,
    ),
]


@contextmanager
def executor_for(name: str, slurm: str, processes: int, cores: int) -> "Iterator[Executor]":
    """The executor of that name; on Ctrl-C, jobs of the cluster are left in the queue or cancelled, as the user says.

    `slurm` are options of sbatch, `processes` patients or jobs at a time, and `cores` those of a job.
    """
    from lesiondelta.pipeline.cluster import AN_ARRAY, SlurmExecutor
    from lesiondelta.pipeline.workers import LocalExecutor

    with nothing_built():
        options = sbatch_options(slurm)
        if options and name != "slurm":
            raise InputError("--slurm is for --executor slurm: give that too.")
        executor = (
            SlurmExecutor(options, cores, processes if processes > 1 else AN_ARRAY)
            if name == "slurm"
            else LocalExecutor(processes)
        )
        executor.require()
    try:
        yield executor
    except KeyboardInterrupt:
        if isinstance(executor, SlurmExecutor) and executor.given:
            if sys.stdin.isatty() and typer.confirm(f"Cancel {len(executor.given)} jobs?", err=True):
                executor.cancel()
            else:
                console.print_warning("The jobs stay in the queue: the same command finds them again.")
        raise


def sbatch_options(text: str) -> dict[str, str]:
    """Options of sbatch from `name=value,name=value`; a value in brackets may hold commas, as node[1,3].

    Raises InputError where a part is none.
    """
    parts = [part.strip() for part in re.split(r",(?![^\[]*\])", text) if part.strip()]
    pairs = dict(part.lstrip("-").split("=", 1) for part in parts if "=" in part)
    if len(pairs) < len(parts) or not all(name.strip() and value.strip() for name, value in pairs.items()):
        raise InputError(f"--slurm {text} is not NAME=VALUE,NAME=VALUE: each name once, with a value.")
    return {name.strip().replace("_", "-"): value.strip() for name, value in pairs.items()}
