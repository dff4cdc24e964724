"""Every visit of the open data as it is, exchanged, and with its T2w as FLAIR: `python benchmarks/appearance.py $DATA`.

Prints a line each: the gate's residual with its standard error, contrast and fluid of each image, or why it is refused.
Last, T1w images of other people beside a FLAIR: their residual, and the limit that they exceed.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lesiondelta.cohort import Patient, Visit
from lesiondelta.errors import LesionDeltaError, RegistrationError
from lesiondelta.images import read_image, resample
from lesiondelta.inputs.checks import check_patient
from lesiondelta.preprocessing import gate
from lesiondelta.preprocessing.elastix import elastix, refine
from lesiondelta.preprocessing.located import Located
from lesiondelta.preprocessing.preparation import PreparedPatient
from lesiondelta.preprocessing.store import prepared_patient
from lesiondelta.settings import PreprocessingSettings

Images = dict[str, Path]
WAYS = {"right": ("T1w", "FLAIR"), "exchanged": ("FLAIR", "T1w"), "T2w as FLAIR": ("T1w", "T2w")}
OTHERS = (
    ("sub-T01", "sub-T02"), ("sub-T02", "sub-T01"), ("sub-T04", "sub-T05"), ("sub-T07", "sub-T08"),
    ("sub-T08", "sub-T06"), ("sub-T06", "sub-04"), ("sub-04", "sub-20"), ("sub-20", "sub-12"), ("sub-12", "sub-T02"),
    ("sub-T05", "sub-20"),
)  # fmt: skip
"""Whose FLAIR, whose T1w."""


def main() -> None:
    """Print what becomes of every visit in every way, then of two people's images."""
    prepared: dict[str, tuple[PreparedPatient, Images]] = {}
    for way, (t1w, flair) in WAYS.items():
        for name, images in visits(Path(sys.argv[1])):
            if flair not in images:
                continue
            try:
                found = prepare(name, {"T1w": images[t1w], "FLAIR": images[flair]})
                print(f"{way} {name}: {found.visits[0].quality} {found.visits[0].warnings}", flush=True)
                prepared.setdefault(name, (found, images))
            except LesionDeltaError as error:
                print(f"{way} {name}: refused. {error}", flush=True)
    for fixed, moving in OTHERS:
        print(f"FLAIR of {fixed}, T1w of {moving}: {others(*prepared[fixed], prepared[moving][1]['T1w'])}", flush=True)


def visits(data: Path) -> Iterator[tuple[str, Images]]:
    """A name and the images of each visit."""
    folders = sorted(path for path in data.glob("*/sub-*/**/anat") if "derivatives" not in path.parts)
    for folder in folders:
        found = {c: sorted(folder.glob(f"*_{c}.nii.gz")) for c in ("T1w", "FLAIR", "T2w")}
        if found["T1w"] and found["FLAIR"]:
            session = folder.parent.name if folder.parent.name == "ses-2" and "sub-12" in str(folder) else ""
            subject = next(part for part in folder.parts if part.startswith("sub-"))
            yield f"{subject} {session}".strip(), {c: paths[0] for c, paths in found.items() if paths}


def prepare(name: str, images: Images) -> PreparedPatient:
    """As `run` does, with the atlas."""
    checked = check_patient(Patient(name.replace(" ", ""), (Visit("1", images),)), ("T1w", "FLAIR"))
    return prepared_patient(checked, PreprocessingSettings(), ("T1w", "FLAIR"), None, atlas=True)


def others(prepared: PreparedPatient, images: Images, t1w: Path) -> str:
    """Register another person's T1w to a FLAIR and hold it against the gate."""
    flair, moving = read_image(images["FLAIR"]), read_image(t1w)
    to_flair = prepared.visits[0].from_patient["FLAIR"]
    inside = resample(prepared.brain, flair.grid, np.asarray(np.linalg.inv(to_flair)), order="nearest")
    transform = refine(flair, moving, elastix(flair, moving, degrees=6), inside)
    try:
        gate.check_alignment(Located(flair, to_flair), Located(moving, transform @ to_flair), prepared.brain)
    except RegistrationError as error:
        return f"refused. {error}"
    return "PASSED"


if __name__ == "__main__":
    main()
