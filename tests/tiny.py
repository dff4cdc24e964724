"""Tiny BIDS patients (24 mm heads that are all brain) and the command line, for tests of the whole way."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from lesiondelta.cli import main
from lesiondelta.images import Volume, write_volume

SHAPE = (12, 14, 8)
AFFINE = np.array([[-2.0, 0, 0, 12], [0, 2, 0, -14], [0, 0, 3, -10], [0, 0, 0, 1]])
OPTIONS = (
    "--registration", "none", "--skull-strip", "skip", "--no-bias-correction", "--no-gate", "--device", "cpu",
    "--omp-nthreads", "1",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


def image(seed: int) -> Volume:
    """A smooth ball with a bright spot, 0 outside."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    texture = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 1)
    data = np.where(x**2 + y**2 + z**2 < 0.8, 300 + 100 * texture, 0)
    data[5:8, 5:8, 3:5] = 700
    return Volume(data.astype(np.float32), AFFINE)


def write_patient(bids: Path, label: str, sessions: Sequence[str] = ("1",), seed: int = 0) -> Path:
    """Write one patient into a BIDS dataset; returns its folder."""
    (bids / "dataset_description.json").parent.mkdir(parents=True, exist_ok=True)
    (bids / "dataset_description.json").write_text(json.dumps({"Name": "tiny", "BIDSVersion": "1.10.0"}))
    for number, session in enumerate(sessions):
        for contrast in ("T1w", "FLAIR"):
            write_volume(image_path(bids, label, session, contrast), image(1000 * seed + 10 * number + len(contrast)))
    return bids / f"sub-{label}"


def image_path(bids: Path, label: str, session: str, contrast: str) -> Path:
    return bids / f"sub-{label}/ses-{session}/anat/sub-{label}_ses-{session}_{contrast}.nii.gz"


def write_references(bids: Path, label: str, sessions: Sequence[str]) -> None:
    """Reference masks of the bright spot."""
    for session in sessions:
        path = image_path(bids / "derivatives/reference", label, session, "space-orig_label-L_mask")
        mask = np.zeros(SHAPE, bool)
        mask[5:8, 5:8, 3:5] = True
        write_volume(path, Volume(mask, AFFINE))


def call(capsys: pytest.CaptureFixture[str], *args: object) -> Outcome:
    """Run the command line in this process."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in args])
    said = capsys.readouterr()
    return Outcome(int(ended.value.code or 0), said.out, said.err)


def rows(out: Path) -> dict[tuple[str, str], dict[str, str]]:
    """The cohort table by participant and session."""
    head, *lines = [line.split("\t") for line in (out / "lesiondelta.tsv").read_text().splitlines()]
    return {(line[0], line[1]): dict(zip(head, line, strict=True)) for line in lines}
