"""The brain mask: the user's, the image's own where it is stripped, HD-BET's, SynthStrip's, or an atlas's."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from lesiondelta.errors import DependencyError, RegistrationError
from lesiondelta.images import Array, Grid, Volume, corners_mm, isotropic_grid, read_mask, resample, write_volume
from lesiondelta.preprocessing.elastix import deform, elastix

STRIPPED_SPREAD = 0.008
"""Interquartile range of an image's darkest 30 % over its percentile 98: below, the background is a constant."""
BRAIN_LITRES = (0.7, 2.2)
"""Volume of a brain with its fluid; a head without its neck has more than 2.5."""
ATLAS_MARGIN_MM = 3.0
ATLAS_LATTICE_MM = 25.0
WORKING_MM = 2.0
COMMANDS = {
    "hd-bet": ("hd-bet", "pip install hd-bet"),
    "synthstrip": ("mri_synthstrip", "install FreeSurfer 7.3 or later"),
}


def own_mask(image: Volume, certain: bool = False) -> Volume | None:
    """The brain of an image that is stripped already, None for a whole head; `certain`: the user says it is stripped.

    Stripped means a constant background (near 0, not always 0) around one piece no larger than a brain. Heads with a
    zeroed background (defaced, or cleaned by the scanner) are larger.
    """
    values = np.sort(image.data, axis=None)
    top = values[int(0.98 * values.size)]
    dark = values[: int(0.3 * values.size)]
    spread = dark[int(0.75 * dark.size)] - dark[int(0.25 * dark.size)]
    background = values[int(0.15 * values.size)]
    mask = image.with_data(_largest(np.abs(image.data - background) > STRIPPED_SPREAD * top))
    found = spread < STRIPPED_SPREAD * top and litres(mask) < BRAIN_LITRES[1]
    return mask if certain or found else None


def extract(image: Volume, method: str, threads: int = 1) -> Volume:
    """The brain of a whole head, on the image's own grid: `atlas`, `hd-bet` or `synthstrip`.

    Raises
    ------
    DependencyError
        The program is not installed, or it failed.
    RegistrationError
        The result is not a plausible brain.
    """
    mask = atlas_mask(image, threads) if method == "atlas" else program_mask(image, method)
    require_plausible(mask, image.name)
    return mask


def require_plausible(mask: Volume, source: str) -> None:
    """Raise RegistrationError unless the mask is one piece of 0.7 to 2.2 litres."""
    volume = litres(mask)
    connected = volume and litres(mask.with_data(_largest(mask.data, fill=False))) / volume
    if not BRAIN_LITRES[0] <= volume <= BRAIN_LITRES[1] or connected < 0.98:
        raise RegistrationError(
            f"The brain found in {source} has {volume:.2f} litres, {connected:.0%} of it in one piece: not a brain. "
            "Look at the image, and give a brain mask or choose another way of brain extraction."
        )


def litres(mask: Volume) -> float:
    """Volume of a mask."""
    return float(np.count_nonzero(mask.data)) * mask.grid.voxel_volume_mm3 / 1e6


def atlas_mask(image: Volume, threads: int = 1) -> Volume:
    """The MNI152 brain on the grid of `image` (whole head, T1w for choice): affine, then B-spline.

    The template has no skull. The affine step sees the template's brain alone (with a margin it grows to the scalp);
    the B-spline sees a margin around it, where fluid and skull are dark in both.
    """
    template, brain = mni152()
    coarse = isotropic_grid(corners_mm(template.grid), WORKING_MM)
    grid = isotropic_grid(corners_mm(image.grid), WORKING_MM)
    working = resample(image, grid, order="linear")
    affine = elastix(
        resample(template, coarse, order="linear"),
        working,
        degrees=12,
        threads=threads,
        fixed_mask=resample(brain, coarse, order="nearest"),
    )
    back = np.linalg.inv(affine)
    spline = deform(
        working,
        resample(template, grid, back, order="linear"),
        lattice_mm=ATLAS_LATTICE_MM,
        threads=threads,
        fixed_mask=resample(brain.with_data(dilate(brain, ATLAS_MARGIN_MM)), grid, back, order="nearest"),
    )
    points = voxels_mm(image.grid)
    inside = sample(brain, (points + spline.at(points)) @ back[:3, :3].T + back[:3, 3]) > 0.5
    return image.with_data(_largest(inside.reshape(image.data.shape)))


def program_mask(image: Volume, method: str) -> Volume:
    """The mask that HD-BET or SynthStrip writes, as it stands."""
    program, install = COMMANDS[method]
    if shutil.which(program) is None:
        raise DependencyError(f"`{program}` is not on PATH: {install}, or use brain extraction by atlas.")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "head.nii.gz", Path(folder) / "brain.nii.gz"
        write_volume(source, image)
        mask = target.with_name("brain_bet.nii.gz" if method == "hd-bet" else "mask.nii.gz")
        _call(_command(program, method, source, target, mask), image.name)
        if not mask.is_file():
            raise DependencyError(f"`{program}` ended without a mask for {image.name}: run it by hand on that image.")
        return image.with_data(read_mask(mask).data)


def _command(program: str, method: str, source: Path, target: Path, mask: Path) -> list[str]:
    if method == "synthstrip":
        return [program, "-i", str(source), "-m", str(mask)]
    return [program, "-i", str(source), "-o", str(target), "-device", "cpu", "--disable_tta", "--save_bet_mask"]


def _call(command: Sequence[str], name: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
        raise DependencyError(f"`{command[0]}` failed on {name} (exit {done.returncode}): {last[0]}")


def mni152() -> tuple[Volume, Volume]:
    """The skull-stripped T1w template and its brain mask, 1 mm, as nilearn ships them."""
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    template, brain = load_mni152_template(resolution=1), load_mni152_brain_mask(resolution=1)
    return (
        Volume(np.asarray(template.dataobj, np.float32), template.affine, "the MNI152 template"),
        Volume(np.asarray(brain.dataobj) > 0, brain.affine, "the MNI152 brain mask"),
    )


def voxels_mm(grid: Grid) -> Array:
    """Centres of all voxels, (X * Y * Z, 3) in RAS+ mm."""
    index = np.indices(grid.shape, dtype=np.float32).reshape(3, -1).T
    points: Array = index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return points


def points_mm(mask: Volume) -> Array:
    """Centres of the voxels of a mask, (N, 3) in RAS+ mm."""
    points: Array = np.argwhere(mask.data) @ mask.affine[:3, :3].T + mask.affine[:3, 3]
    return points


def sample(volume: Volume, points_mm: Array) -> Array:
    """Linear interpolation at points (N, 3) in RAS+ mm; 0 outside."""
    index = np.linalg.inv(volume.affine)
    where = (points_mm @ index[:3, :3].T + index[:3, 3]).T
    values: Array = ndimage.map_coordinates(volume.data.astype(np.float32), where, order=1, cval=0)
    return values


def dilate(mask: Volume, margin_mm: float) -> Array:
    """Every voxel within `margin_mm` of the mask."""
    near: Array = ndimage.distance_transform_edt(~mask.data, sampling=mask.grid.spacing) <= margin_mm
    return near


def _largest(mask: Array, fill: bool = True) -> Array:
    pieces, _ = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    piece: Array = (pieces == sizes.argmax()) & mask
    return ndimage.binary_fill_holes(piece) if fill else piece
