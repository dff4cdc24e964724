"""Where a patient's time goes: seconds of the wall clock and of this process's processor time, stage by stage."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, process_time

from lesiondelta.files import write_text

OTHER = "other"


@dataclass
class Seconds:
    """Of one stage."""

    wall: float = 0.0
    processor: float = 0.0


@dataclass
class Timings:
    """Seconds by stage; what a stage calls that is a stage itself counts there alone."""

    stages: dict[str, Seconds] = field(default_factory=dict)
    running: list[str] = field(default_factory=lambda: [OTHER])
    since: tuple[float, float] = field(default_factory=lambda: (perf_counter(), process_time()))

    def turn(self) -> None:
        """Count what has passed since the last turn for the stage that runs."""
        now = perf_counter(), process_time()
        spent = self.stages.setdefault(self.running[-1], Seconds())
        spent.wall += now[0] - self.since[0]
        spent.processor += now[1] - self.since[1]
        self.since = now


_current: ContextVar[Timings | None] = ContextVar("timings", default=None)


@contextmanager
def recorded(timings: Timings | None = None) -> Iterator[Timings]:
    """Record the stages that run meanwhile, beside those recorded before; not those of other threads."""
    timings = timings or Timings()
    timings.since = (perf_counter(), process_time())
    token = _current.set(timings)
    try:
        yield timings
    finally:
        timings.turn()
        _current.reset(token)


def write_timings(path: Path, timings: Timings) -> None:
    """A table of the stages in the order in which they ran first; OutputError where it cannot be written."""
    lines = [f"{name}\t{spent.wall:.2f}\t{spent.processor:.2f}" for name, spent in timings.stages.items()]
    write_text(path, "\n".join(["stage\tseconds\tprocessor_seconds", *lines, ""]))


def read_timings(path: Path) -> dict[str, Seconds]:
    """A table of `write_timings`; nothing where there is none, or where it is damaged."""
    try:
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
        return {name: Seconds(float(wall), float(processor)) for name, wall, processor in rows}
    except (OSError, ValueError):
        return {}


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """A stage, as `with timed("..."):` or as a decorator; nothing happens where nobody records."""
    timings = _current.get()
    if timings is None:
        yield
        return
    timings.turn()
    timings.running.append(stage)
    try:
        yield
    finally:
        timings.turn()
        timings.running.pop()
