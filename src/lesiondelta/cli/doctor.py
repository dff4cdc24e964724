"""`doctor`: what is here, and what that means."""

import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from lesiondelta import __version__
from lesiondelta.cli import console
from lesiondelta.packages import INSTALL, TRAINING

PACKAGES = ("torch", "openvino", "itk-elastix", "SimpleITK", "nibabel", "numpy")
PROGRAMS = {
    "flirt": "FSL, for --registration flirt",
    "niimath": "for --registration niimath",
    "hd-bet": "for --brain-extraction hd-bet",
    "mri_synthstrip": "FreeSurfer's SynthStrip, for --brain-extraction synthstrip",
}
GIB = 2**30


def doctor(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder whose free space is shown.")] = Path(),
) -> None:
    """Show what is installed: GPU, programs and versions.

    For example:

      lesiondelta doctor

    It lists the GPU, external programs, versions of packages, the bundled model, memory and free space.
    """
    from rich.table import Table

    table = Table("", "what", "found", box=None)
    healthy = True
    for name, find, needed in _checks(folder):
        found, good = find()
        mark = "[green]ok[/]" if good else "[bold red]missing[/]" if needed else "[dim]-[/]"
        table.add_row(mark, name, console.plain(found))
        healthy &= good or not needed
    console.out.print(table, highlight=False)
    if not healthy:
        raise typer.Exit(1)


def _checks(folder: Path) -> list[tuple[str, Callable[[], tuple[str, bool]], bool]]:
    checks: list[tuple[str, Callable[[], tuple[str, bool]], bool]] = [
        ("lesiondelta", lambda: (f"{__version__}, Python {platform.python_version()}", True), True),
        ("cores", lambda: (f"{console.cores()}", True), True),
        ("memory", _memory, True),
        (f"free space in {folder.resolve()}", lambda: _space(folder), True),
        ("bundled model", _bundled, True),
        ("GPU", _gpu, False),
    ]
    checks += [(name, lambda name=name: _package(name), True) for name in PACKAGES]  # type: ignore[misc]
    checks += [(name, lambda name=name: _training_package(name), False) for name in TRAINING]  # type: ignore[misc]
    checks += [(name, lambda name=name: _program(name), False) for name in PROGRAMS]  # type: ignore[misc]
    return [*checks, ("SAMSEG", _samseg, False), ("SLURM", _slurm, False)]


def _slurm() -> tuple[str, bool]:
    """The scheduler's version and its partitions."""
    if shutil.which("sinfo") is None:
        return "not installed (for --executor slurm)", False
    version, partitions = (_said("sinfo", option) for option in ("--version", "--noheader --format=%P:%D:%T"))
    if not partitions:
        return f"{version or 'installed'}, and does not answer: is this a node of the cluster?", False
    return f"{version}: {', '.join(dict.fromkeys(partitions.split()))}", True


def _said(program: str, options: str) -> str:
    import subprocess

    try:
        return subprocess.run([program, *options.split()], capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _memory() -> tuple[str, bool]:
    import os

    if not hasattr(os, "sysconf"):
        return "unknown", True
    total_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return f"{total_gib:.1f} GiB", total_gib >= 4


def _space(folder: Path) -> tuple[str, bool]:
    existing = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    free_gib = shutil.disk_usage(existing).free / GIB
    return f"{free_gib:.1f} GiB (a patient takes about 0.1 GiB)", free_gib >= 1


def _bundled() -> tuple[str, bool]:
    from lesiondelta.errors import LesionDeltaError
    from lesiondelta.inference.model import bundled_model, load_model

    try:
        model = load_model(bundled_model())
    except LesionDeltaError as error:
        return str(error), False
    return f"{model.name} ({model.method}), sha256 {model.sha256[:12]}", True


def _gpu() -> tuple[str, bool]:
    import torch

    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())), True
    if torch.backends.mps.is_available():
        return "Apple GPU (--device mps)", True
    return "none: the network runs on the CPU", False


def _package(name: str) -> tuple[str, bool]:
    try:
        return version(name), True
    except PackageNotFoundError:
        return "not installed", False


def _training_package(name: str) -> tuple[str, bool]:
    found, good = _package(name)
    return (found if good else f"{found} (for train and compare: {INSTALL})"), good


def _program(name: str) -> tuple[str, bool]:
    from lesiondelta.preprocessing.programs import find_program

    path = find_program(name)
    return path or f"not installed ({PROGRAMS[name]})", path is not None


def _samseg() -> tuple[str, bool]:
    from lesiondelta.errors import DependencyError
    from lesiondelta.inference.samseg_program import find_samseg

    try:
        program = find_samseg()
    except DependencyError as error:
        return f"not usable (for --model samseg). {error}", False
    return f"{program.version}, {program.folder}", True


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(doctor)
