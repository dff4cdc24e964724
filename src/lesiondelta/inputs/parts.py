"""Which images make a series: echoes are taken apart, and what makes one stack is put together.

What lies where slices of a stack would, and is not part of it, is kept beside it, so that it can be said.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
from pydicom import Dataset

from lesiondelta.inputs.dicom_files import MR_IMAGES, pixels_of
from lesiondelta.inputs.series import MULTI_FRAME, TIMES, Images, Series, identity, image_type, values_of
from lesiondelta.inputs.stacks import ORIENTATION_TOLERANCE, begins_in, goes_on, make_one, takes_turns

FEWEST_BESIDE_PLAN = 6
"""Images of a series before one at another angle counts as its plan."""
FEWEST_ALONE = 6
"""Images that are each a series of their own before they count as one that was torn apart."""
FEWEST_OF_A_STACK = 3
"""Images before they say where the next one would lie."""
LEAST_ECHO_STEP_MS = 0.5
"""Between echoes; the echo time of one swings by less from slice to slice."""
ECHO_TOLERANCE = 0.1
"""Between parts of one stack, as a share: they are joined, and it is said."""
COMPUTED = {
    "PROJECTION IMAGE", "MIP", "MIN_IP", "MIN IP", "MINIP", "MAX_IP", "SUBTRACTION", "SUB", "T1 MAP", "T2 MAP", "F",
    "FAT", "FF", "FAT_FRACTION", "ADC", "TRACEW", "FA",
}  # fmt: skip
"""Types of images that are derived and show something else."""
NO_MAGNITUDE = {"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY", "VELOCITY MAP"}
TIMING = ("RepetitionTime", "InversionTime", "FlipAngle")
NAMES = (
    "SeriesNumber", "SeriesDescription", "ProtocolName", "SequenceName", "ContrastBolusAgent",
    "ContrastBolusAgentSequence", "ContrastBolusVolume", "ContrastBolusTotalDose",
)  # fmt: skip
SCAN = ("StudyInstanceUID", "SOPClassUID", "AcquisitionDate", *NAMES, *TIMING)
"""What parts of one series that was torn apart share, and their frame of reference."""
TIMING_TOLERANCE = 0.01
LONGEST_SCAN = timedelta(days=1)
"""Between images of one scan, which may go on past midnight."""


def put_together(images: Images) -> list[Series]:
    """The series of MR images, each with the `others` that lie where slices of its stack would."""
    groups: dict[tuple[str, str], Images] = {}
    for path, header in images:
        groups.setdefault(_group(header), []).append((path, header))
    whole = [_series(part) for several in _lone_together(groups) for part in _volumes(_originals(several))]
    found = _joined([_without_plan(one) for several in whole for one in _echoes(several)])
    return [replace(one, others=_others(one, found)) for one in found if one.headers[0].SOPClassUID in MR_IMAGES]


def _series(images: Images) -> Series:
    return Series(tuple(path for path, _ in images), tuple(header for _, header in images))


def _originals(images: Images) -> Images:
    """Without second copies. Identifier and place say that one may be a copy, its pixels that it is."""
    groups = [images]
    for key in (lambda image: str(image[1].SOPInstanceUID), lambda image: identity(*image), lambda i: pixels_of(i[0])):
        groups = [part for group in groups for part in _split(group, key)]
    return [group[0] for group in groups]


def _split(images: Images, key: Callable[[tuple[Path, Dataset]], object]) -> list[Images]:
    parts: dict[object, Images] = {}
    for image in images:
        parts.setdefault(key(image) if len(images) > 1 else None, []).append(image)
    return list(parts.values())


def same_images(one: Series, other: Series) -> bool:
    """Whether one is a copy of the other, or of a part: by identifiers, places and pixels."""
    if not one.identifiers & other.identifiers:
        return False
    known, given = (
        {identity(path, header): path for path, header in zip(series.files, series.headers, strict=True)}
        for series in (one, other)
    )
    both = known.keys() & given.keys()
    return bool(both) and all(pixels_of(known[key]) == pixels_of(given[key]) for key in both)


def _volumes(images: Images) -> list[Images]:
    """A multi-frame file is a volume of its own, whatever its identifier."""
    return [[image] for image in images] if images[0][1].SOPClassUID in MULTI_FRAME else [images]


def _group(header: Dataset) -> tuple[str, str]:
    if header.SOPClassUID in MULTI_FRAME:
        return str(header.SOPInstanceUID), ""
    return str(header.SeriesInstanceUID), f"{header.SOPClassUID} {_type(header)}"


def _type(header: Dataset) -> str:
    return "\\".join(image_type(header)[:4])


def _lone_together(groups: dict[tuple[str, str], Images]) -> list[Images]:
    """Images that are each a series of their own, as some who anonymise leave them, are one where all else agrees."""
    together: dict[object, list[Images]] = {}
    for key, images in groups.items():
        header = images[0][1]
        alone = len(images) == 1 and header.SOPClassUID not in MULTI_FRAME
        together.setdefault((_torn_scan(header), _type(header)) if alone else key, []).append(images)
    torn = [several for several in together.values() if len(several) >= FEWEST_ALONE]
    whole = [images for several in together.values() if len(several) < FEWEST_ALONE for images in several]
    return [*whole, *([image for images in several for image in images] for several in torn)]


def _echoes(series: Series) -> list[Series]:
    """One series for every echo, shortest first."""
    times = np.array([_own(header).number("EchoTime") or 0 for header in series.headers])
    order = np.argsort(times, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(times[order]) > LEAST_ECHO_STEP_MS) + 1)
    return [
        Series(tuple(series.files[i] for i in sorted(part)), tuple(series.headers[i] for i in sorted(part)))
        for part in parts
    ]


def _own(header: Dataset) -> Series:
    return Series((), (header,))


def _without_plan(series: Series) -> Series:
    """The series without the one image that lies at another angle than all others and beside their stack: its plan."""
    fields = (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6))
    try:
        places, cosines = (
            np.array([next(values_of(header, name)) for header in series.headers], float).reshape(-1, count)
            for name, count in fields
        )
    except (StopIteration, RuntimeError, TypeError, ValueError):
        return series
    odd = np.abs(cosines - np.median(cosines, axis=0)).max(axis=1) > ORIENTATION_TOLERANCE
    if series.multi_frame or len(odd) < FEWEST_BESIDE_PLAN or odd.sum() != 1 or begins_in(places[odd][0], places[~odd]):
        return series
    plan = int(odd.argmax())
    files, headers = ((*values[:plan], *values[plan + 1 :]) for values in (series.files, series.headers))
    return Series(files, headers, series.files[plan])


def _joined(parts: Sequence[Series]) -> list[Series]:
    """Join parts of a scan whose images together make one even stack. A part that fits several stacks stays alone."""
    scans: list[list[Series]] = []
    known: dict[object, list[Series]] = {}
    for part in sorted(parts, key=lambda one: -len(one.files)):
        keys: list[object] = [str(part.headers[0].SeriesInstanceUID)]
        keys += [_torn_scan(part.headers[0])] if _is_named(part) else []
        scan = next((known[key] for key in keys if key in known), None)
        if scan is None:
            scans.append(scan := [])
            known |= dict.fromkeys(keys, scan)
        scan.append(part)
    return [one for scan in scans for one in _join(scan)]


def _join(parts: list[Series]) -> list[Series]:
    """Parts of one scan, longest first: all of them, or one by one where there is only one way."""
    if len(parts) > 1 and _are_one(parts):
        return [_merged(parts)]
    for number, part in reversed(list(enumerate(parts))):
        longer = [one for one in parts[:number] if len(one.files) >= FEWEST_OF_A_STACK and _are_one((one, part))]
        if len(longer) == 1 and not _has_rival(part, longer[0], parts):
            rest = [one for one in parts if one is not part and one is not longer[0]]
            return _join(sorted([_merged((longer[0], part)), *rest], key=lambda one: -len(one.files)))
    return parts


def _has_rival(part: Series, whole: Series, parts: Sequence[Series]) -> bool:
    """Whether another part would do as well, at the same places."""
    others = [one for one in parts if one is not part and one is not whole and _are_one((whole, one))]
    return any(part.stack and one.stack and not part.stack.apart(one.stack) for one in others)


def _merged(parts: Sequence[Series]) -> Series:
    plan = next((part.left_out for part in parts if part.left_out), None)
    files, headers = (tuple(one for part in parts for one in getattr(part, name)) for name in ("files", "headers"))
    return Series(files, headers, plan)


def _are_one(parts: Sequence[Series]) -> bool:
    """Whether parts of one scan are one stack of one kind of image: real echoes lie at the same places."""
    stacks = [part.stack for part in parts if part.stack and not part.multi_frame]
    first = parts[0]
    return (
        len(stacks) == len(parts)
        and all(first.value("SOPClassUID") == part.value("SOPClassUID") for part in parts)
        and all(_same_kind(first, part) for part in parts)
        and make_one(stacks)
    )


def _same_kind(one: Series, other: Series) -> bool:
    """Neither is computed or a phase image where the other is not, and their echo times are alike, where they say."""
    times = [time for series in (one, other) if (time := series.number("EchoTime"))]
    alike = len(times) < 2 or abs(times[0] - times[1]) <= max(LEAST_ECHO_STEP_MS, ECHO_TOLERANCE * max(times))
    return alike and not (one.image_type ^ other.image_type) & (COMPUTED | NO_MAGNITUDE)


def _same_times(one: Series, other: Series) -> bool:
    """Whether echo, repetition and inversion times are alike: one that is absent is none, if the echo times are known.

    Scans of several contrasts may lie between the slices of one another.
    """
    mine, theirs = ([series.number(*names) or 0 for names in TIMES] for series in (one, other))
    return not (mine[0] and theirs[0]) or np.allclose(mine, theirs, rtol=ECHO_TOLERANCE)


def _same_series(one: Series, other: Series) -> bool:
    return str(one.headers[0].SeriesInstanceUID) == str(other.headers[0].SeriesInstanceUID)


def _same_scan(one: Series, other: Series) -> bool:
    """Whether they are parts of one series, or of one that was torn apart, be it with other frames of reference."""
    return _same_series(one, other) or (_is_named(one) and _scan(one.headers[0]) == _scan(other.headers[0]))


def _is_named(series: Series) -> bool:
    return series.value("SeriesNumber", "SeriesDescription") is not None


def _scan(header: Dataset) -> tuple[str, ...]:
    return tuple(str(header.get(name) or "") for name in SCAN)


def _torn_scan(header: Dataset) -> tuple[str, ...]:
    return *_scan(header), str(header.get("FrameOfReferenceUID") or "")


def _others(series: Series, found: Sequence[Series]) -> tuple[Series, ...]:
    """Those that lie where slices of its stack would, or in its series and nowhere."""
    if series.stack is None or len(series.stack.places) < 2:
        return ()
    return tuple(other for other in found if other is not series and _belongs(series, other))


def _belongs(series: Series, other: Series) -> bool:
    same_study, same_frame = (
        series.value(name) == other.value(name) for name in ("StudyInstanceUID", "FrameOfReferenceUID")
    )
    known = same_frame and series.value("FrameOfReferenceUID") is not None
    if series.stack is None or not (same_study or known):
        return False
    if other.stack is None:
        return _same_series(series, other) and "Rows" in other.headers[0]
    if _same_scan(series, other):
        return goes_on(series.stack, other.stack, one_scan=True)
    return same_frame and (
        goes_on(series.stack, other.stack, one_scan=False)
        or (_same_kind(series, other) and _same_times(series, other) and takes_turns(series.stack, other.stack))
    )


def differing(series: Series) -> list[str]:
    """What its images differ in that the images of one scan share."""
    several = {
        "EchoTime": len(_echoes(series)) > 1,
        "ImageType": len({str(image_type(header)) for header in series.headers}) > 1,
        "SeriesInstanceUID": len({str(header.SeriesInstanceUID) for header in series.headers}) > 1,
        **{name: len({str(header.get(name) or "") for header in series.headers}) > 1 for name in NAMES},
        **{name: _swings(series, name) for name in TIMING},
    }
    times = [time for header in series.headers if (time := _own(header).acquired)]
    several["AcquisitionDate"] = bool(times) and max(times) - min(times) > LONGEST_SCAN
    return [name for name, differs in several.items() if differs]


def _swings(series: Series, name: str) -> bool:
    """Whether numbers differ by more than rounding, or some images have none."""
    values = np.array([_own(header).number(name) or 0 for header in series.headers])
    return bool(np.ptp(values) > TIMING_TOLERANCE * values.max())
