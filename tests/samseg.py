"""A program that stands where SAMSEG does, and whole heads for it."""

import json
import stat
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lesiondelta.images import Volume, write_volume
from lesiondelta.inference.samseg_program import OPTIONS
from tests.tiny import AFFINE, SHAPE, image, image_path, write_patient
from tests.tiny import OPTIONS as TINY

HEADS = tuple(word for word in TINY if word not in ("--skull-strip", "skip"))
"""Options of `run` for whole heads, whose brain masks lie beside them."""
BRIGHT = 600
"""On the FLAIR: lesion."""
PROGRAM = """#!{python}
import json, pathlib, sys, time

arguments = sys.argv[1:]
if "--help" in arguments:
    print({help!r})
    sys.exit()

import nibabel as nib
import numpy as np

name = pathlib.Path(sys.argv[0]).name
with open({calls!r}, "a") as file:
    file.write(json.dumps([name, *arguments]) + chr(10))
visits, images = [], None
for argument in arguments:
    if argument in ("-t", "-i"):
        visits.append(images := [])
    elif argument.startswith("-"):
        images = None
    elif images is not None:
        images.append(nib.load(argument))
out = pathlib.Path(arguments[arguments.index("-o") + 1])
places = [out / f"tp{{n:03d}}" for n in range(1, len(visits) + 1)] if name == "run_samseg_long" else [out]


def write(path, data, affine):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.MGHImage(data.astype(np.float32), affine), path)


def segment():
    for place, (t1w, flair) in zip(places, visits):
        lesion, affine = flair.get_fdata() > {bright}, t1w.affine
        {grid}
        write(place / "seg.mgz", np.where(lesion, 99, {tissue}), affine)
        write(place / "posteriors" / "Lesions.mgz", lesion * 0.9, affine)


{body}
"""
OTHER_GRID = """
        flip = [[-1, 0, 0, len(lesion) - 1], [0, 1, 0, 20], [0, 0, 1, 0], [0, 0, 0, 1]]
        lesion, affine = lesion[::-1, 20:], affine @ flip
"""


def install(
    folder: Path, body: str = "segment()", *, options: Sequence[str] = OPTIONS, grid: str = "", tissue: int = 2
):
    """Write both programs into `folder`/bin; returns that folder and the file that logs their calls."""
    places = folder / "bin", folder / "calls.jsonl"
    places[0].mkdir(parents=True, exist_ok=True)
    (folder / "build-stamp.txt").write_text("freesurfer-linux-7.4.1-20230614\n")
    text = PROGRAM.format(
        python=sys.executable, help="usage: " + " ".join(options), calls=str(places[1]), bright=BRIGHT,
        grid=grid.strip(), tissue=tissue, body=body,
    )  # fmt: skip
    for name in ("run_samseg", "run_samseg_long"):
        path = places[0] / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return places


def calls(log: Path) -> list[list[str]]:
    """Command lines, in order."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def write_heads(bids: Path, label: str, sessions: Sequence[str] = ("1",), seed: int = 0) -> None:
    """A patient of whole heads: noise around the ball of `tiny.image`, which is the brain."""
    write_patient(bids, label, sessions, seed)
    for number, session in enumerate(sessions):
        for contrast in ("T1w", "FLAIR"):
            ball = image(1000 * seed + 10 * number + len(contrast))
            noise = np.random.default_rng(number).uniform(0, 60, SHAPE)
            whole = replace(ball, data=np.where(ball.data > 0, ball.data, noise).astype(np.float32))
            write_volume(image_path(bids, label, session, contrast), whole)
        write_volume(image_path(bids, label, session, "desc-brain_mask"), Volume(ball.data > 0, AFFINE))
