"""FreeSurfer's SAMSEG: where it is, its version, and one run of it on the whole heads of a patient.

All visits go into one run of `run_samseg_long`, a single one into `run_samseg`. Either writes `seg.mgz`, whose label 99
is lesion, and `posteriors/Lesions.mgz`, on the grid of the first image: into OUT/tp001, OUT/tp002 ... for several
visits, into OUT for one.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lesiondelta.cohort import CONTRASTS
from lesiondelta.errors import DependencyError, ImageError, ProgramError
from lesiondelta.files import require_writable, sha256
from lesiondelta.images import Volume, read_labels, read_probabilities, write_volume

SEVERAL, SINGLE = "run_samseg_long", "run_samseg"
FOLDER = "LESIONDELTA_SAMSEG"
"""Environment variable: the folder of the two programs, looked into before FREESURFER_HOME/bin and PATH."""
ADVICE = (
    "install FreeSurfer 7.3 or later, or, with Python 3.11 in an environment of its own, `pip install --pre "
    f'samseg==0.4a0 "numpy<2" tensorflow-cpu==2.16.2`, and set {FOLDER} to its bin folder'
)
OPTIONS = ("--lesion", "--lesion-mask-pattern", "--pallidum-separate", "--save-posteriors", "--threads")
THRESHOLD = 0.3
"""That SAMSEG applies to the posterior: a fixed one, whatever `--threshold` says to `run_samseg_long`."""
LESION, WHITE_MATTER = 99, (2, 41)
"""FreeSurfer's labels."""


@dataclass(frozen=True)
class Lesions:
    """What it found in one visit: label 99, and the posterior probability of lesion."""

    mask: Volume
    probability: Volume


@dataclass(frozen=True)
class Samseg:
    """The installed program."""

    folder: Path
    version: str
    name: str = "SAMSEG"
    contrasts: tuple[str, ...] = CONTRASTS

    @property
    def identity(self) -> dict[str, str]:
        """Name and version, for the record."""
        return {"Name": self.name, "Version": self.version}

    @property
    def fingerprint(self) -> str:
        """What decides its results."""
        return f"{self.name} {self.version}"

    def segment(
        self, visits: Sequence[Sequence[Volume]], log_file: Path, *, threads: int, hours: float
    ) -> list[Lesions]:
        """Segment whole heads, co-registered on one grid: T1w and FLAIR of each visit.

        Raises
        ------
        ProgramError
            It failed, took more than `hours`, or left a visit out; `log_file` keeps what it said.
        """
        with tempfile.TemporaryDirectory(prefix="lesiondelta-samseg-") as name:
            folder = Path(name)
            names = [[f"visit{n}_{c}.nii.gz" for c in self.contrasts] for n in range(1, len(visits) + 1)]
            for images, paths in zip(visits, names, strict=True):
                for image, path in zip(images, paths, strict=True):
                    write_volume(folder / path, image)
            _call(self.command(names, threads), folder, log_file, threads, hours)
            places = [f"tp{n:03d}" for n in range(1, len(visits) + 1)] if len(visits) > 1 else [""]
            return [_read(folder / "out", place, log_file) for place in places]

    def command(self, visits: Sequence[Sequence[str]], threads: int) -> list[str]:
        """The command line for the files of each visit; it writes into the folder `out`."""
        several = len(visits) > 1
        inputs = [word for images in visits for word in ("-t" if several else "-i", *images)]
        return [
            str(self.folder / (SEVERAL if several else SINGLE)), *inputs, "--lesion", "--lesion-mask-pattern", "0", "1",
            "--pallidum-separate", "--save-posteriors", "Lesions", "--threads", str(threads), "-o", "out",
        ]  # fmt: skip


def find_samseg() -> Samseg:
    """The installed program; DependencyError, which says how to get it, where it is absent or too old."""
    given, home = os.environ.get(FOLDER), os.environ.get("FREESURFER_HOME")
    places = [given] if given else [*([f"{home}/bin"] if home else []), os.environ.get("PATH", os.defpath)]
    found = shutil.which(SEVERAL, path=os.pathsep.join(places))
    if found is None:
        where = f"in {given}, which {FOLDER} names" if given else "in FREESURFER_HOME/bin or on PATH"
        raise DependencyError(f"`{SEVERAL}` is not {where}: {ADVICE}.")
    program = Path(found).resolve()
    version = _version(program)
    for name in (SEVERAL, SINGLE):
        _require_options(program.with_name(name), version)
    return Samseg(program.parent, version)


def _version(program: Path) -> str:
    """FreeSurfer's build stamp, else the version of the wheel beside it, else the program's own hash."""
    home = program.parent.parent
    stamp = home / "build-stamp.txt"
    if stamp.is_file():
        return stamp.read_text(encoding="utf-8").strip()
    for wheel in home.glob("lib/python*/site-packages/samseg-*.dist-info"):
        return wheel.name.removesuffix(".dist-info")
    return f"unknown, sha256 {sha256(program)[:12]}"


def _require_options(program: Path, version: str) -> None:
    """Raise DependencyError where the program does not know all that it will be given."""
    try:
        asked = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DependencyError(f"`{program}` ({version}) cannot be started ({error}): {ADVICE}.") from error
    if asked.returncode:
        last = (asked.stderr or asked.stdout).strip().splitlines()[-1:] or ["no message"]
        raise DependencyError(f"`{program} --help` ({version}) ends with {asked.returncode} ({last[0]}): {ADVICE}.")
    if unknown := [option for option in OPTIONS if option not in asked.stdout]:
        raise DependencyError(f"`{program}` ({version}) is too old, it has no {', '.join(unknown)}: {ADVICE}.")


def _call(command: Sequence[str], folder: Path, log_file: Path, threads: int, hours: float) -> None:
    """Run the program with what it says in `log_file`; beyond the time limit, it is killed with all it has started."""
    name = Path(command[0]).name
    require_writable(log_file.parent)
    surroundings = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    with log_file.open("wb") as said:
        said.write(f"{' '.join(command)}\n".encode())
        said.flush()
        with (
            subprocess.Popen(
                command, cwd=folder, env=surroundings, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
            ) as process,
            _ends_with_this_process(process.pid),
        ):
            try:
                code = process.wait(hours * 3600)
            except subprocess.TimeoutExpired as error:
                raise ProgramError(
                    f"`{name}` was stopped after {hours:g} hours: see {log_file}, and allow more (--samseg-hours)."
                ) from error
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
    if code:
        last = log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
        how = f"exit {code}" if code > 0 else f"killed by signal {-code}, often for want of memory"
        raise ProgramError(f"`{name}` failed ({how}; its last line: {last}): see {log_file}.")


WATCH = "import os, signal, sys; sys.stdin.read() or os.killpg(int(sys.argv[1]), signal.SIGKILL)"


@contextmanager
def _ends_with_this_process(group: int) -> Iterator[None]:
    """Kill a process group if this process is killed: then the watcher's standard input ends without a word."""
    command = [sys.executable, "-c", WATCH, str(group)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as watcher:
        try:
            yield
        finally:
            watcher.communicate(b"ended")


def _read(out: Path, place: str, log_file: Path) -> Lesions:
    paths = [out / place / name for name in ("seg.mgz", "posteriors/Lesions.mgz")]
    if missing := [path.relative_to(out).as_posix() for path in paths if not path.is_file()]:
        raise ProgramError(f"SAMSEG ended without an error, but left no {' and no '.join(missing)}: see {log_file}.")
    try:
        labels, probability = read_labels(paths[0]), read_probabilities(paths[1])
    except ImageError as error:
        raise ProgramError(f"What SAMSEG left cannot be used ({error}): see {log_file}.") from error
    if not np.isin(labels.data, WHITE_MATTER).any():
        raise ProgramError(f"SAMSEG found no white matter in the images: look at them, and see {log_file}.")
    return Lesions(labels.with_data(labels.data == LESION), probability)
