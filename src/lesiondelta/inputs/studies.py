"""Which DICOM series of a study are the visit's T1w and FLAIR: recognised by their tags, asked for where in doubt."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from lesiondelta.cohort import CONTRASTS
from lesiondelta.errors import CohortError
from lesiondelta.inputs.acquisition import FLAIR, NOT_T1W, T1W, Acquisition, called_contrast, plain_words, possible_ms
from lesiondelta.inputs.dicom import find_series
from lesiondelta.inputs.dicom_files import read_header
from lesiondelta.inputs.parts import COMPUTED, FEWEST_ALONE, NAMES, NO_MAGNITUDE, same_images
from lesiondelta.inputs.series import HEADER, TIMES, Series

log = logging.getLogger(__name__)

FEWEST_SLICES = 10
OTHER = re.compile(
    r"\b(\w*dir(2d|3d)?|psir|stir|double inversion|fgatir|wmn|\w*tof\w*|mr[av]|angio\w*|veno\w*|pca|phase contrast|swi|"
    r"swan|dwi|dti|diff\w*|adc|trace\w*|perf\w*|asl|\w*fmri\w*|bold|field ?map\w*|b0|map|\w*mapping|t1 images|"
    r"inv ?[12]|mip|minip|mtc|mtr|mt|mt ?o(n|ff)|ciss\w*|fiesta\w*|\w*fisp\w*|tru(e|fi)\w*|b ?ffe|b?ssfp|balanced|"
    r"dess\w*|calib\w*|sense ?ref\w*|ref sense|\w*spine|cerv\w*|thor\w*|lumb\w*|neck|[hbl]ws|rachis|orbit\w*)\b"
)
LOCALISER = re.compile(r"\b(loc|locali[sz]er\w*|\w*scout\w*|\w*survey\w*|3 ?pl(ane)?)\b")
AGENT = (
    r"(gad\w*|gd\w*|ce|km|mdc|[ck]ontr(ast\w*)?|i ?v(?! ventr)|dota\w*|magnevist|prohance|clariscan|vueway|elucirem|"
    r"omniscan|multihance|artirem|optimark|primovist|eovist|ablavar|vasovist)"
)
WITHOUT = r"pre|non?|not|without|w ?o|ohne|kein\w*|vor|sans|sin|senza|sem|bez|zonder|pred|przed"
ENHANCED = re.compile(
    rf"\b({AGENT}|\w*post(?!erior|ur| ?proc)\w*|enhanc\w*|inj\w*|\w*km|(?<!ac )pc|t1w?(c|ce|gd\w*|gad\w*))\b|"
    rf"\+ ?c\b|\w ?\+( |$)|\+ ?{AGENT}\b"
)
NOT_ENHANCED = re.compile(rf"\b({WITHOUT})( i ?v)? ?({AGENT}|enhanc\w*)\b|\b{AGENT} (frei|free)\b")
NO_AGENT = re.compile(
    rf"(({WITHOUT}|none|n|n ?a|nil|null|nein|false|0[0 ]*|nativ\w*)"
    r"( ?(ml|agent|media|medium|given|used|administered|applicable))*)?"
)
"""All that the tag of the agent says where there is none."""
LONGEST_GRADIENT_ECHO_MS = 12
"""Of a gradient echo that T1 weights; with a longer one it is T2*."""
DERIVED = {"DERIVED", "MPR", "REFORMATTED"}


def choose_visits(folder: Path) -> list[dict[str, Series]]:
    """T1w and FLAIR of every study in a folder; a study with neither (of the spine, say) is passed over.

    Raises
    ------
    CohortError
        There is no MR image, none of a contrast, or more than one that it could be: the message lists the series.
    """
    studies: dict[str, list[Series]] = {}
    found = find_series(folder)
    for series in found:
        studies.setdefault(str(series.value("StudyInstanceUID")), []).append(series)
    wanted = [study for study in studies.values() if any(weighting(one) for one in study)] or list(studies.values())
    if len(wanted) < len(studies):
        log.warning("%s: %d studies with neither T1w nor FLAIR are passed over", folder, len(studies) - len(wanted))
    return [{contrast: choose(study, contrast, folder, found) for contrast in CONTRASTS} for study in wanted]


def named_series(path: Path, contrast: str) -> Series:
    """The series of a folder, or that of one of its files, which the user says is of this contrast.

    Raises
    ------
    CohortError
        There is none, it is of the other contrast, there are several and the tags do not say which, or the file is not
        an image of any of them.
    """
    found = find_series(path if path.is_dir() else path.parent)
    if path.is_file():
        found = [one for one in found if path in (*one.files, one.left_out)] or _with_copy(found, path)
    if not found:
        raise CohortError(
            f"{path} is not an image of any MR series in its folder (but a secondary capture, a report or a DICOMDIR, "
            "say): name a file of the series."
        )
    if len(found) > 1:
        return choose(found, contrast, path)
    other = next(name for name in CONTRASTS if name != contrast)
    if weighting(found[0]) == other:
        raise CohortError(f"{path} was given as {contrast}, but its tags say {other}: --visit takes T1w, then FLAIR.")
    return found[0]


def _with_copy(found: Sequence[Series], path: Path) -> list[Series]:
    """Those that have an image of which the file is a copy."""
    header = read_header(path, HEADER)
    return [one for one in found if header and same_images(one, Series((path,), (header,)))]


def choose(found: Sequence[Series], contrast: str, place: Path, nearby: Sequence[Series] = ()) -> Series:
    """The only series of a contrast; reformatted ones count where no other is there.

    Where none is, those `nearby`, of other studies, are listed too.

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
    if not best and _lies_apart(contrast, nearby):
        what = "its T1w and FLAIR in different studies (StudyInstanceUID)"
    raise CohortError(
        f"{place} holds {what}. Name one file of each series, --visit T1FILE FLAIRFILE, chosen from:\n"
        + "\n".join(_listed(found if best else nearby or found))
    )


def _lies_apart(contrast: str, series: Sequence[Series]) -> bool:
    """Whether a study has this contrast only."""
    kinds: dict[object, set[str | None]] = {}
    for one in series:
        kinds.setdefault(one.value("StudyInstanceUID"), set()).add(weighting(one))
    return any(found - {None} == {contrast} for found in kinds.values())


def _listed(found: Sequence[Series]) -> list[str]:
    """A line for each, but one for all that have a single image, where there are many of them."""
    single = [one for one in found if len(one.frames) == 1]
    if len(single) < FEWEST_ALONE:
        return [describe(one) for one in found]
    return [
        *(describe(one) for one in found if len(one.frames) != 1),
        f"  and {len(single)} series of one image each (such as {single[0].files[0]}): if they were one series, export "
        "it again, or convert it with dcm2niix and give the NIfTI file",
    ]


def weighting(series: Series) -> str | None:
    """The contrast that the tags say, T1w or FLAIR; None for all others.

    The timing decides: a FLAIR has a long echo and a long inversion, a T1w a short echo with either a shorter
    inversion or a short repetition. Names exclude, and decide where the times were taken away.
    """
    words, pulses = " ".join(names_of(series)), _pulses(series)
    if OTHER.search(words) or LOCALISER.search(words) or series.value("AngioFlag") == "Y" or "EP" in pulses:
        return None
    called = next(iter(names_of(series)), "")  # what the whole examination is called stands after the series' own name
    echo, repetition, inversion = (series.number(*names) for names in TIMES)
    no_t1w = NOT_T1W.search(called) and "t1" not in called
    if echo is None or repetition is None:
        return "T1w" if T1W.search(called) and not no_t1w else "FLAIR" if FLAIR.search(called) else None
    inverts = "IR" in pulses or bool(FLAIR.search(called))
    if echo >= 60 and (inversion >= 1200 if inversion else inverts):
        return "FLAIR"
    longest = LONGEST_GRADIENT_ECHO_MS if "GR" in pulses else 40
    return "T1w" if echo <= longest and not no_t1w and _saturates(series, repetition, inversion) else None


def _pulses(series: Series) -> set[str]:
    """SE, IR, GR, EP: ScanningSequence, or what multi-frame files say instead."""
    sequence = series.headers[0].get("ScanningSequence") or ""
    pulses = {sequence} if isinstance(sequence, str) else set(sequence)
    pulses |= {"IR"} if series.value("InversionRecovery") == "YES" else set()
    pulses |= {"EP"} if series.value("EchoPlanarPulseSequence") == "YES" else set()
    return pulses | ({"GR"} if series.value("EchoPulseSequence") == "GRADIENT" else set())


def _saturates(series: Series, repetition: float, inversion: float | None) -> bool:
    """Whether inversion, or a short repetition with a flip angle that is not small, weights the image by T1."""
    if inversion:
        return 300 <= inversion < 1600
    flip = series.number("FlipAngle")
    return repetition <= 1200 and (flip is None or flip > 5)


def acquisition_of(series: Series) -> Acquisition:
    """What the header says, its times in milliseconds."""
    pulses, called = _pulses(series), next(iter(names_of(series)), "")
    echoes, repetitions, inversions = (possible_ms(names[0], [series.number(*names)]) for names in TIMES)
    return Acquisition(echoes, repetitions, inversions, pulses in ({"GR"}, {"GR", "IR"}), called_contrast(called))


def unsuitable(series: Series) -> str:
    """Why a series is never chosen, though its owner may name it; empty where nothing speaks against it."""
    kind = series.image_type
    if "LOCALIZER" in kind or LOCALISER.search(" ".join(names_of(series))):
        return "localiser"
    if kind & NO_MAGNITUDE or str(series.value("ComplexImageComponent") or "MAGNITUDE").upper() in NO_MAGNITUDE:
        return "no magnitude"
    if kind & COMPUTED:
        return "computed"
    if enhanced(series):
        return "contrast agent"
    if len(series.frames) < FEWEST_SLICES:
        return "few slices"
    return ""


def enhanced(series: Series) -> bool:
    """Whether an agent, its amount or any name of any image says so; `pre contrast` and `W/WO CONTRAST` do not."""
    different = {str([header.get(name) for name in NAMES]): header for header in series.headers}
    return any(_says_agent(Series((), (header,))) for header in different.values())


def _says_agent(series: Series) -> bool:
    agent = plain_words(str(series.value("ContrastBolusAgent", "ContrastBolusAgentSequence") or ""))
    amounts = [series.number(name) or 0 for name in ("ContrastBolusVolume", "ContrastBolusTotalDose")]
    named = any(ENHANCED.search(NOT_ENHANCED.sub(" ", name)) for name in names_of(series))
    return names_an_agent(agent) or max(amounts) > 0 or named


def names_an_agent(said: str) -> bool:
    """Whether what a tag or a sidecar says of an agent, in plain words, is that one was given."""
    return not NO_AGENT.fullmatch(NOT_ENHANCED.sub("no", said))


def derived(series: Series) -> bool:
    """Whether it was computed from another series."""
    return bool(DERIVED & series.image_type)


def describe(series: Series) -> str:
    """One line of a list to choose from."""
    notes = [weighting(series) or "", unsuitable(series), "derived" if derived(series) else ""]
    notes.append("a part of its stack" if series.others else "")
    date = f"{series.acquired:%Y-%m-%d}" if series.acquired else "no date"
    about = ", ".join(note for note in [f"{len(series.frames)} images", *notes] if note)
    text = " ".join(str(series.value("SeriesDescription", "ProtocolName") or "no description").split())
    return f"  {date}  series {series.value('SeriesNumber') or '-'}  {text}  ({about})  {series.files[0]}"


def names_of(series: Series) -> list[str]:
    """What people and scanner call it, most specific first, in small letters, words apart."""
    names = (series.value(name) for name in ("SeriesDescription", "ProtocolName", "SequenceName"))
    return [plain_words(str(name)) for name in names if name]
