"""Whether damaged and hostile files are read or refused in a sentence: no traceback, no hang, no unlimited memory.

    python benchmarks/hostile_input.py [--count 10000] [--seed 0] [--kind nifti dicom json tsv model] [--faults FOLDER]

The inputs are those of `tests/hostile.py`. Each is read by a process of its own kind, under a limit of address space
and of time. A fault is any other exception than ours, a message over several lines or without the file's name, a crash,
or a limit that is passed. Faulty inputs are kept in FOLDER, and each is told with its seed and number.
"""

import argparse
import logging
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.hostile import KINDS, Verdict, judge, written

SHOWN = 20
"""Faults that are printed of each kind."""


@dataclass(frozen=True)
class Limits:
    """Of each input."""

    memory_gb: float
    seconds: float


@dataclass
class Tally:
    """What became of the inputs of a kind."""

    kind: str
    results: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest: tuple[float, int] = (0.0, 0)
    peak_gb: float = 0.0

    def row(self) -> str:
        """A line of the table."""
        counts = "".join(f"{self.results[name]:>9}" for name in ("read", "refused", "fault"))
        slowest = f"{self.slowest[0]:.2f} s (number {self.slowest[1]})"
        total = sum(self.results.values())
        return f"{self.kind:<8}{total:>8}{counts}{self.seconds:>10.0f}{self.peak_gb:>9.2f}  {slowest}"


def main() -> int:
    """Print a table; 1 where there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="inputs of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--memory-gb", type=float, default=4.0, help="address space of the process that reads")
    parser.add_argument("--seconds", type=float, default=20.0, help="time limit of an input")
    parser.add_argument("--faults", type=Path, default=Path("hostile_faults"), help="where faulty inputs are kept")
    given = parser.parse_args()
    tallies = []
    for kind in given.kind:
        numbers = range(given.first, given.first + given.count)
        tallies.append(measure(kind, given.seed, numbers, Limits(given.memory_gb, given.seconds), given.faults))
        print(tallies[-1].row(), flush=True)
    print(f"\n{'kind':<8}{'inputs':>8}{'read':>9}{'refused':>9}{'faults':>9}{'seconds':>10}{'peak GB':>9}  slowest")
    print("\n".join(tally.row() for tally in tallies))
    return int(any(tally.results["fault"] for tally in tallies))


def measure(kind: str, seed: int, numbers: range, limits: Limits, faults: Path) -> Tally:
    """Read the inputs with these numbers one after another; faulty ones are kept in `faults`."""
    tally = Tally(kind)
    reader: Reader | None = None
    with tempfile.TemporaryDirectory(prefix="hostile-") as made:
        for number in numbers:
            place = written(kind, Path(made), seed, number)
            reader = reader or Reader(kind, limits)
            verdict, seconds, peak_gb = reader.read(place)
            tally.results[verdict.result] += 1
            tally.seconds += seconds
            tally.slowest = max(tally.slowest, (seconds, number))
            tally.peak_gb = max(tally.peak_gb, peak_gb)
            if verdict.result == "fault":
                if tally.results["fault"] <= SHOWN:
                    print(f"  {kind} {number} (seed {seed}): {verdict.said[:500]}", flush=True)
                shutil.copytree(place, faults / place.name, dirs_exist_ok=True)
            if not reader.process.is_alive():
                reader = None
            shutil.rmtree(place)
        if reader:
            reader.end()
    return tally


class Reader:
    """A process that reads inputs of a kind, until one ends it or takes too long."""

    def __init__(self, kind: str, limits: Limits) -> None:
        self.limits = limits
        self.ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=_serve, args=(kind, limits.memory_gb, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def read(self, place: Path) -> tuple[Verdict, float, float]:
        """The verdict, seconds, and the most memory that the process has had so far in GB."""
        start = time.perf_counter()
        self.ours.send(place)
        if not self.ours.poll(self.limits.seconds):
            self.end()
            return Verdict("fault", f"not read after {self.limits.seconds:g} s"), self.limits.seconds, 0.0
        try:
            verdict, peak_gb = self.ours.recv()
        except EOFError:
            self.process.join()
            said = f"ended the process ({self.process.exitcode})"
            return Verdict("fault", said), time.perf_counter() - start, 0.0
        return verdict, time.perf_counter() - start, peak_gb

    def end(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.join()


def _serve(kind: str, memory_gb: float, given: Connection) -> None:
    logging.disable()
    size = int(memory_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    while True:
        verdict = judge(kind, given.recv())
        given.send((verdict, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


if __name__ == "__main__":
    sys.exit(main())
