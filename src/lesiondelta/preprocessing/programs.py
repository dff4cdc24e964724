"""Registration by programs that may be installed: FSL's FLIRT and niimath.

FLIRT's matrices live in FSL's scaled voxels and are converted to RAS+ mm; niimath's are in RAS+ mm already.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lesiondelta.errors import DependencyError, RegistrationError
from lesiondelta.images import Affine, Grid, Volume, resample, write_volume
from lesiondelta.preprocessing.points import Degrees

ADVICE = {
    "flirt": "install FSL (https://fsl.fmrib.ox.ac.uk, licence: non-commercial), or use elastix",
    "niimath": "pip install niimath, or use elastix",
}
"""How to get each of them."""


def flirt(fixed: Volume, moving: Volume, *, degrees: Degrees, threads: int = 1, mask: Volume | None = None) -> Affine:
    """Rigid (6) or affine (12) by FLIRT, with mutual information; one thread, whatever is asked for.

    Raises
    ------
    DependencyError
        FLIRT is not installed.
    """
    command = ["flirt", "-ref", "fixed.nii.gz", "-in", "moving.nii.gz", "-omat", "matrix", "-dof", str(degrees)]
    command += ["-cost", "mutualinfo", "-searchcost", "mutualinfo"]
    matrix = _found(command, ["-refweight", "mask.nii.gz"], fixed, moving, mask)
    return from_fsl(np.array(matrix.split(), dtype=np.float64).reshape(4, 4), fixed.grid, moving.grid)


def niimath(fixed: Volume, moving: Volume, *, degrees: Degrees, threads: int = 1, mask: Volume | None = None) -> Affine:
    """Rigid (6) or affine (12) by `niimath -allineate -com`; it is quick, but unreliable between contrasts.

    Raises
    ------
    DependencyError
        niimath is not installed.
    """
    command = ["niimath", "moving.nii.gz", "-allineate", "fixed.nii.gz", "-com", "-savemat", "matrix"]
    command += ["-cost", "hel", "-warp", "shr"] if degrees == 6 else []
    matrix = _found(command, ["-weight", "mask.nii.gz"], fixed, moving, mask, last=["moved"])
    return np.array(json.loads(matrix)["fixed_to_moving"], dtype=np.float64)


def _found(
    command: list[str],
    with_mask: list[str],
    fixed: Volume,
    moving: Volume,
    mask: Volume | None,
    last: Sequence[str] = (),
) -> str:
    """What a program writes into the file `matrix`, told with `with_mask` where in `fixed` to look."""
    program = require_program(command[0], ADVICE[command[0]])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_volume(folder / "fixed.nii.gz", fixed)
        write_volume(folder / "moving.nii.gz", moving)
        if mask is not None:
            write_volume(folder / "mask.nii.gz", resample(mask, fixed.grid, order="nearest"))
            command = [*command, *with_mask]
        call([program, *command[1:], *last], folder, f"register {moving.name} to {fixed.name}")
        return (folder / "matrix").read_text(encoding="utf-8")


def from_fsl(matrix: Affine, fixed: Grid, moving: Grid) -> Affine:
    """FLIRT's matrix (moving's scaled voxels -> fixed's) as fixed point -> moving point in RAS+ mm."""
    transform: Affine = _to_world(moving) @ np.linalg.inv(matrix) @ np.linalg.inv(_to_world(fixed))
    return transform


def _to_world(grid: Grid) -> Affine:
    """FSL's coordinates (voxels times spacing, x counted from the other end where det > 0) -> RAS+ mm."""
    to_voxels = np.diag([*(1 / grid.spacing), 1.0])
    if np.linalg.det(grid.affine[:3, :3]) > 0:
        to_voxels[0] = -1 / grid.spacing[0], 0, 0, grid.shape[0] - 1
    world: Affine = grid.affine @ to_voxels
    return world


def find_program(program: str) -> str | None:
    """Path of an executable, None where it is not installed.

    Programs that come as Python packages lie beside the interpreter, on PATH only in an activated environment.
    """
    return shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))


def require_program(program: str, advice: str) -> str:
    """Path of an executable, or DependencyError that says how to get it."""
    found = find_program(program)
    if found is None:
        raise DependencyError(f"`{program}` is not on PATH: {advice}.")
    return found


def call(command: Sequence[str], folder: Path, task: str) -> None:
    """Run a program in a folder; RegistrationError with its last words where it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
        raise RegistrationError(
            f"`{Path(command[0]).name}` could not {task} (exit {done.returncode}): {last[0]}; "
            "look at the images, or use another program."
        )
