"""Which DICOM series of a study are the visit's T1w and FLAIR: recognised by their tags, asked for where in doubt."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from lesiondelta.cohort import CONTRASTS
from lesiondelta.errors import CohortError
from lesiondelta.formats.dicom import Series, find_series

log = logging.getLogger(__name__)

FEWEST_SLICES = 10
TIMES = (("EchoTime", "EffectiveEchoTime"), ("RepetitionTime",), ("InversionTime", "InversionTimes"))
"""In milliseconds; each with its name in multi-frame files."""
OTHER = re.compile(
    r"\b(dir|psir|stir|double inversion|tof|mra|angio\w*|swi|swan|dwi|dti|diff\w*|adc|trace\w*|perf\w*|asl|fmri|bold|"
    r"field ?map|b0|map|inv ?[12]|mip|minip|mtc|spine|cervical|thoracic|lumbar|orbit\w*)\b"
)
LOCALISER = re.compile(r"\b(loc|localiser\w*|localizer\w*|scout\w*|survey\w*|3 ?plane)\b")
ENHANCED = re.compile(r"\b(post|gad\w*|gd|ce|km|contrast|dotarem|gadovist)\b|\+ ?c\b|\bc ?\+|\+ ?gd")
NOT_ENHANCED = re.compile(r"\b(pre|no|without|non|w ?o)\b")
T1W = re.compile(r"\b(t1\w*|mp ?rage|bravo|f?spgr|tfe|flash)\b")
FLAIR = re.compile(r"\b(\w*flair\w*|dark ?fluid|tirm)\b")
DERIVED = {"DERIVED", "MPR", "REFORMATTED", "PROJECTION IMAGE", "MIP", "MIN_IP", "SUBTRACTION"}
NO_MAGNITUDE = {"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY", "VELOCITY MAP"}


def choose_visits(folder: Path) -> list[dict[str, Series]]:
    """T1w and FLAIR of every study in a folder; a study with neither (of the spine, say) is passed over.

    Raises
    ------
    CohortError
        There is no MR image, none of a contrast, or more than one that it could be: the message lists the series.
    """
    studies: dict[str, list[Series]] = {}
    for series in find_series(folder):
        studies.setdefault(str(series.value("StudyInstanceUID")), []).append(series)
    wanted = [study for study in studies.values() if any(weighting(one) for one in study)] or list(studies.values())
    if len(wanted) < len(studies):
        log.warning("%s: %d studies with neither T1w nor FLAIR are passed over", folder, len(studies) - len(wanted))
    return [{contrast: choose(study, contrast, folder) for contrast in CONTRASTS} for study in wanted]


def named_series(path: Path, contrast: str) -> Series:
    """The series of a folder, or that of one of its files, which the user says is of this contrast.

    Raises
    ------
    CohortError
        There is none, it is of the other contrast, or there are several and the tags do not say which.
    """
    found = find_series(path if path.is_dir() else path.parent)
    if path.is_file():
        found = [series for series in found if path in series.files] or found
    if len(found) > 1:
        return choose(found, contrast, path)
    other = next(name for name in CONTRASTS if name != contrast)
    if weighting(found[0]) == other:
        raise CohortError(f"{path} was given as {contrast}, but its tags say {other}: --visit takes T1w, then FLAIR.")
    return found[0]


def choose(found: Sequence[Series], contrast: str, place: Path) -> Series:
    """The only series of a contrast; reformatted ones count where no other is there.

    Raises
    ------
    CohortError
        There is none, or several.
    """
    candidates = [one for one in found if weighting(one) == contrast and not unsuitable(one)]
    best = [one for one in candidates if not derived(one)] or candidates
    if len(best) == 1:
        return best[0]
    what = f"{len(best)} series that could be the {contrast}" if best else f"no series that is certainly the {contrast}"
    raise CohortError(
        f"{place} holds {what}. Name one file of each series, --visit T1FILE FLAIRFILE, chosen from:\n"
        + "\n".join(map(describe, found))
    )


def weighting(series: Series) -> str | None:
    """The contrast that the tags say, T1w or FLAIR; None for all others.

    The timing decides: a FLAIR has a long echo and a long inversion, a T1w a short echo with either a shorter
    inversion or a short repetition. Names decide what is neither, and where the times were taken away.
    """
    words = name_of(series)
    if OTHER.search(words) or LOCALISER.search(words) or series.value("AngioFlag") == "Y":
        return None
    echo, repetition, inversion = (series.number(*names) for names in TIMES)
    if echo is None or repetition is None:
        return "T1w" if T1W.search(words) else "FLAIR" if FLAIR.search(words) else None
    inverts = _inverts(series) or bool(FLAIR.search(words))
    if echo >= 60 and (inversion >= 1200 if inversion else inverts):
        return "FLAIR"
    return "T1w" if echo <= 40 and _saturates(series, repetition, inversion) else None


def _inverts(series: Series) -> bool:
    sequence = series.headers[0].get("ScanningSequence") or ""
    return "IR" in ([sequence] if isinstance(sequence, str) else list(sequence)) or (
        series.value("InversionRecovery") == "YES"
    )


def _saturates(series: Series, repetition: float, inversion: float | None) -> bool:
    """Whether inversion, or a short repetition with a flip angle that is not small, weights the image by T1."""
    if inversion:
        return 300 <= inversion < 1600
    flip = series.number("FlipAngle")
    return repetition <= 1200 and (flip is None or flip > 5)


def unsuitable(series: Series) -> str:
    """Why a series is never chosen, though its owner may name it; empty where nothing speaks against it."""
    words, kind = name_of(series), set(series.image_type)
    if "LOCALIZER" in kind or LOCALISER.search(words):
        return "localiser"
    if kind & NO_MAGNITUDE:
        return "no magnitude"
    agent = str(series.value("ContrastBolusAgent", "ContrastBolusAgentSequence") or "no").strip().lower()
    if agent not in ("no", "none") or (ENHANCED.search(words) and not NOT_ENHANCED.search(words)):
        return "contrast agent"
    if len(series.frames) < FEWEST_SLICES:
        return "few slices"
    return ""


def derived(series: Series) -> bool:
    """Whether it was computed from another series."""
    return bool(DERIVED & set(series.image_type))


def describe(series: Series) -> str:
    """One line of a list to choose from."""
    notes = [weighting(series) or "", unsuitable(series), "derived" if derived(series) else ""]
    date = f"{series.acquired:%Y-%m-%d}" if series.acquired else "no date"
    about = ", ".join(note for note in [f"{len(series.frames)} images", *notes] if note)
    text = " ".join(str(series.value("SeriesDescription", "ProtocolName") or "no description").split())
    return f"  {date}  series {series.value('SeriesNumber') or '-'}  {text}  ({about})  {series.files[0]}"


def name_of(series: Series) -> str:
    """What people and scanner call it, in small letters, words apart."""
    names = (series.value(name) for name in ("SeriesDescription", "ProtocolName", "SequenceName"))
    return re.sub(r"[^a-z0-9+]+", " ", " ".join(str(name) for name in names if name).lower())
