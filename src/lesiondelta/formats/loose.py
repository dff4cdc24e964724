"""One patient from loose files, without BIDS."""

from collections.abc import Sequence
from pathlib import Path

from lesiondelta.cohort import Patient, Visit
from lesiondelta.errors import CohortError, ImageError
from lesiondelta.formats.bids import LABEL


def loose_patient(visits: Sequence[tuple[Path, Path]], label: str = "patient") -> Patient:
    """A patient from (T1w, FLAIR) pairs in time order; the visits are called 1, 2, ...

    Raises
    ------
    CohortError
        The label would make no BIDS name, or one image is given twice.
    ImageError
        A file is absent.
    """
    if not LABEL.fullmatch(label):
        raise CohortError(f"The label {label!r} makes no file name: use letters and digits alone.")
    paths = [path for pair in visits for path in pair]
    for path in paths:
        if not path.is_file():
            raise ImageError(f"{path} does not exist.")
    twice = {str(path) for path in paths if [p.resolve() for p in paths].count(path.resolve()) > 1}
    if twice:
        raise CohortError(f"{', '.join(sorted(twice))} is given more than once: every visit needs images of its own.")
    numbered = [Visit(str(n), {"T1w": t1w, "FLAIR": flair}) for n, (t1w, flair) in enumerate(visits, 1)]
    return Patient(label, tuple(numbered), order="as given on the command line")
