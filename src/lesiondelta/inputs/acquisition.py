"""How an image was acquired, by its sidecar or header, held against the contrast that its name says.

An echo time tells the two apart: that of a T1w is short, that of a FLAIR long. Inversion times do not, as a T1w may
null fluid too. Sidecars are often wrong, so that what they say is a doubt, and what cannot be is passed over. Decision
014 has what the limits rest on.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import combinations
from typing import Any

LONGEST_S = {"EchoTime": 1.0, "RepetitionTime": 30.0, "InversionTime": 10.0}
"""What any protocol has; of a sidecar, a larger number is one of milliseconds."""
SHORTEST_ECHO_MS = 1.0
"""Of a T1w but for those of bone; less is a time in another unit."""
SHORT_ECHO_MS, LONG_ECHO_MS = 40.0, 60.0
"""A FLAIR has none below the first (90 and more in practice), a T1w none above the second (51 and less)."""
LONG_GRADIENT_ECHO_MS = 15.0
SHORT_REPETITION_MS = 1000.0
"""Too short for a FLAIR, which waits longer than that for the signal of fluid to pass zero."""
LONG_INVERSION_MS = 1200.0
"""That of a FLAIR."""
DATED_BY = ("FLAIR", "T1w")
"""Whose date is a visit's."""
T1W = re.compile(r"\b(t1\w*|mp ?rage|bravo|f?spgr|tfe|flash)\b")
FLAIR = re.compile(r"\b(\w*flair\w*|dark ?fluid|tirm)\b")
NOT_T1W = re.compile(r"\b(t2\w*|pdw?|hemo\w*)\b")


def crossed_days(days: Mapping[str, tuple[date, date]]) -> tuple[str, str] | None:
    """Two visits whose T1ws were acquired in one order and whose FLAIRs in the other, of the days of both, or None."""
    for (one, (t1w, flair)), (other, (other_t1w, other_flair)) in combinations(days.items(), 2):
        if (t1w < other_t1w and flair > other_flair) or (t1w > other_t1w and flair < other_flair):
            return one, other
    return None


@dataclass(frozen=True)
class Acquisition:
    """What is known of it: times in ms, all above 0, and the contrast that people called it, T1w or FLAIR."""

    echoes_ms: tuple[float, ...] = ()
    repetitions_ms: tuple[float, ...] = ()
    inversions_ms: tuple[float, ...] = ()
    gradient_echo: bool = False
    called: str = ""


def of_sidecar(fields: Mapping[str, Any]) -> Acquisition:
    """What the fields of a sidecar say: times in seconds, or by mistake in milliseconds."""
    echoes, repetitions, inversions = (_sidecar_ms(name, fields.get(name)) for name in LONGEST_S)
    pulses = set(re.findall("[A-Z]+", str(fields.get("ScanningSequence")).upper()))  # "GR_IR", "GR\\IR", ["GR", "IR"]
    names = [fields.get(name) for name in ("SeriesDescription", "ProtocolName")]
    called = called_contrast(plain_words(next((name for name in names if isinstance(name, str) and name), "")))
    return Acquisition(echoes, repetitions, inversions, "GR" in pulses and not pulses & {"SE", "EP"}, called)


def _sidecar_ms(name: str, value: object) -> tuple[float, ...]:
    longest = LONGEST_S[name]
    return possible_ms(name, (number * 1000 if number < longest else number for number in _numbers(value)))


def _numbers(value: object) -> Iterator[float]:
    """The numbers of a JSON value, which may be one, a text of one, or a list of such."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, int | float | str) and not isinstance(one, bool):
            try:
                yield float(one)
            except (ValueError, OverflowError):
                continue


def possible_ms(name: str, values: Iterable[float | None]) -> tuple[float, ...]:
    """Those that can be the time of this name; scanners and programs also write 0, NaN and 1.8e308 for none."""
    return tuple(value for value in values if value is not None and 0 < value < 1000 * LONGEST_S[name])


def plain_words(name: str) -> str:
    """A name in small letters, its words apart."""
    return re.sub(r"[^a-z0-9+]+", " ", name.lower()).strip()


def called_contrast(words: str) -> str:
    """The contrast that plain words say, T1w or FLAIR; empty where they say neither, or both as `T1 FLAIR` does."""
    t1w, flair = T1W.search(words), FLAIR.search(words)
    if flair:
        return "" if t1w or "t1" in words else "FLAIR"
    return "T1w" if t1w and not NOT_T1W.search(words) else ""


def contradiction(contrast: str, given: str, source: str, acquisition: Acquisition) -> Iterator[str]:
    """A sentence where the acquisition is not one of the contrast; `given` is the image, `source` its sidecar, say."""
    found = _no_flair(acquisition) if contrast == "FLAIR" else _no_t1w(acquisition)
    if found and _fits(acquisition):
        yield f"{given} was given as {contrast}, but its {source} {found}: see whether it is the {contrast}."


def _fits(acquisition: Acquisition) -> bool:
    """Whether its times fit one another: an echo that comes after the repetition has another unit."""
    return max(acquisition.echoes_ms, default=0) < max(acquisition.repetitions_ms, default=math.inf)


def _no_flair(one: Acquisition) -> str:
    """What it has that no FLAIR has."""
    echo = max(one.echoes_ms, default=None)
    if echo is not None and not SHORTEST_ECHO_MS <= echo < LONG_ECHO_MS:
        return ""
    if echo is not None and echo < SHORT_ECHO_MS:
        return f"has an echo time of {echo:.3g} ms, as a T1w has"
    repetition, inversion = (max(times, default=math.inf) for times in (one.repetitions_ms, one.inversions_ms))
    if repetition < SHORT_REPETITION_MS:
        return f"has a repetition time of {repetition:.3g} ms, too short for a FLAIR"
    if echo is not None and inversion < LONG_INVERSION_MS:
        return f"has an inversion time of {inversion:.0f} ms and an echo time of {echo:.3g} ms, as a T1w has"
    return "calls it a T1w" if echo is None and one.called == "T1w" else ""


def _no_t1w(one: Acquisition) -> str:
    """What it has that no T1w has."""
    echo, inversion = min(one.echoes_ms, default=None), max(one.inversions_ms, default=0.0)
    if echo is None:
        return "calls it a FLAIR" if one.called == "FLAIR" else ""
    if echo > LONG_ECHO_MS:
        what = "a FLAIR" if inversion >= LONG_INVERSION_MS else "a T2w or a FLAIR"
        return f"has an echo time of {echo:.3g} ms, as {what} has"
    if one.gradient_echo and echo > LONG_GRADIENT_ECHO_MS:
        return f"has an echo time of {echo:.3g} ms, as a T2*-weighted gradient echo has"
    return ""
