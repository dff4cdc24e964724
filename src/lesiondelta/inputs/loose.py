"""One patient from loose files or DICOM folders, without BIDS."""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from importlib.metadata import version
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from lesiondelta.cohort import CONTRASTS, Patient, Visit
from lesiondelta.errors import CohortError, ImageError
from lesiondelta.files import atomic, write_json
from lesiondelta.images import write_volume
from lesiondelta.inputs.acquisition import DATED_BY, contradiction, crossed_days
from lesiondelta.inputs.bids import LABEL
from lesiondelta.inputs.dicom import discreet, holds_dicom, read_series, thinned
from lesiondelta.inputs.dicom_files import require_unpacked
from lesiondelta.inputs.parts import differing, same_images
from lesiondelta.inputs.series import DATES, TIMES, Series, plausible
from lesiondelta.inputs.studies import acquisition_of, choose_visits, enhanced, named_series, unsuitable

PERSON = ("PatientID", "PatientBirthDate", "PatientSex")
AS_GIVEN, BY_DATE = "as given on the command line", "date of acquisition in the DICOM headers"
CALLED = {"t1": "T1w", "t1w": "T1w", "mprage": "T1w", "flair": "FLAIR"}
"""Whole words in the names of files that say the contrast."""
Images = Mapping[str, Path | Series]


@discreet()
def loose_patient(visits: Sequence[tuple[Path, ...]], label: str, converted: Path) -> Patient:
    """A patient from the images of each visit; the visits are called 1, 2, ...

    A visit is a T1w and a FLAIR, each a NIfTI file, a folder with a DICOM series or a file of one; or a FLAIR only, a
    file; or one folder with the DICOM series of a study, or of several, which become as many visits. Different days in
    the DICOM headers of all visits decide their order; else it is as given.

    Parameters
    ----------
    visits : sequence of one or two paths each
    label : str
        Of the patient. What names a person in the DICOM headers is not used.
    converted : Path
        Folder for the NIfTI files that DICOM series become, laid out as in BIDS.

    Raises
    ------
    CohortError
        The label would make no BIDS name, an image is given twice, known dates contradict the order that has to count,
        T1w and FLAIR are exchanged by their names, DICOM series are absent or ambiguous, their headers speak of several
        people, or T1w and FLAIR of a visit are of different ones.
    ImageError, GeometryError
        A file is absent, or a series is no volume that can be read.
    """
    if not LABEL.fullmatch(label):
        raise CohortError(f"The label {label!r} makes no file name: use only letters and digits.")
    given = [_images(paths) for paths in visits]
    images = _with_telling_dates([one for several in given for one in several])
    _require_once(images)
    _require_one_person(list(_series(images)))
    for paths, found in zip(visits, given, strict=True):
        _require_one_pseudonym(paths[0], found)
    _require_pairs(images)
    days = _days(images)
    order = BY_DATE if len({*days} - {None}) == len(images) else AS_GIVEN
    if order == BY_DATE:
        images.sort(key=lambda visit: _acquired(visit) or datetime.max)
    elif len(images) > len(visits):
        several = next(paths[0] for paths, found in zip(visits, given, strict=True) if len(found) > 1)
        raise CohortError(
            f"{several} holds several studies without dates of their own: give a --visit for each, in time order."
        )
    else:
        _require_no_return(days)
    made = [_visit(visit, label, number, order == BY_DATE, converted) for number, visit in enumerate(images, 1)]
    return Patient(label, tuple(made), order=order, notes=tuple(_notes(images)))


def keep_converted(patient: Patient, old: Path, new: Path) -> Patient:
    """Copy what was converted to the folder `old` to the folder `new`; returns the patient with the images there."""
    for path in (path for path in old.rglob("*") if path.is_file()):
        with atomic(new / path.relative_to(old)) as temporary:
            shutil.copyfile(path, temporary)

    def kept(path: Path) -> Path:
        return new / path.relative_to(old) if path.is_relative_to(old) else path

    visits = [replace(v, images={name: kept(path) for name, path in v.images.items()}) for v in patient.visits]
    return replace(patient, visits=tuple(visits))


def _images(paths: tuple[Path, ...]) -> Sequence[Images]:
    """The visits that one `--visit` gives."""
    for path in paths:
        if not path.exists():
            raise ImageError(f"{path} does not exist.")
        if path.is_file():
            require_unpacked(path)
    if len(paths) == 1 and paths[0].is_dir():
        return choose_visits(paths[0])
    pairs = list(zip(CONTRASTS[-len(paths) :], paths, strict=True))
    for name, path in pairs:
        _require_called(name, path)
    return [{name: named_series(path, name) if holds_dicom(path) else path for name, path in pairs}]


def _require_called(contrast: str, path: Path) -> None:
    """Patterns of the shell give FLAIR before T1w; a name with the words of both, or of none, says nothing."""
    called = {CALLED[word] for word in re.findall(r"[a-z0-9]+", path.name.lower()) if word in CALLED}
    if len(called) == 1 and contrast not in called:
        raise CohortError(
            f"{path} was given as {contrast}, but its name says {called.pop()}: --visit takes T1w, then FLAIR, or "
            "a FLAIR only; exchange the two, or rename the file."
        )


def _require_once(images: Sequence[Images]) -> None:
    pairs = combinations([one for visit in images for one in visit.values()], 2)
    if twice := sorted({str(_file(one)) for pair in pairs if _same(*pair) for one in pair}):
        verb = "is" if len(twice) == 1 else "are"
        raise CohortError(f"{', '.join(twice)} {verb} given more than once: every visit needs images of its own.")


def _same(one: Path | Series, other: Path | Series) -> bool:
    """Whether two images are one, or one is a copy of the other DICOM series."""
    copied = isinstance(one, Series) and isinstance(other, Series) and same_images(one, other)
    return copied or _file(one) == _file(other)


def _file(image: Path | Series) -> Path:
    return (image.files[0] if isinstance(image, Series) else image).resolve()


def _require_one_person(series: Sequence[Series]) -> None:
    differing = [name for name in PERSON if len(_known(series, name)) > 1]
    if len(differing) > 1:
        raise CohortError(
            f"The DICOM headers speak of several people ({', '.join(differing)} differ between "
            f"{series[0].files[0].parent} and the others): give the images of one."
        )


def _require_one_pseudonym(folder: Path, found: Sequence[Images]) -> None:
    """What one `--visit` gives is of one person only if all of it says so: a pseudonym stands for a visit at least."""
    series = list(_series(found))
    known = all(len(_known(series, name)) == 1 for name in PERSON[1:])
    if len(_known(series, "PatientID")) > 1 and not known:
        raise CohortError(
            f"The DICOM images of {folder} and what was given with it differ in PatientID: give the images of one "
            "person, and every study of them as a --visit of its own."
        )


def _require_pairs(images: Sequence[Images]) -> None:
    """T1w and FLAIR of the visits run in the same order of days, where they say so."""
    days = [(_day({"T1w": v["T1w"]}), _day({"FLAIR": v["FLAIR"]})) for v in images if "T1w" in v]
    known = {str(number): (t1w, flair) for number, (t1w, flair) in enumerate(days) if t1w and flair}
    if crossed := crossed_days(known):
        one, other = (known[number] for number in crossed)
        raise CohortError(
            f"T1w and FLAIR are exchanged between visits: those of {one[0]} and {one[1]} were given together, and "
            f"those of {other[0]} and {other[1]}."
        )


def _known(series: Sequence[Series], name: str) -> set[str]:
    return {str(header.get(name)) for one in series for header in one.headers if header.get(name)}


def _series(images: Sequence[Images]) -> Iterator[Series]:
    return (one for visit in images for one in visit.values() if isinstance(one, Series))


def _acquired(visit: Images) -> datetime | None:
    return next((one.acquired for name in DATED_BY if isinstance(one := visit.get(name), Series)), None)


def _day(visit: Images) -> date | None:
    """Without the time of day, which those who change dates sometimes leave."""
    time = _acquired(visit)
    return time.date() if time else None


def _with_telling_dates(images: Sequence[Images]) -> list[Images]:
    """The images without the kinds of dates that are the same day at all visits, as those who anonymise leave some."""

    def dated(dates: tuple[str, ...]) -> list[Images]:
        return [
            {name: replace(one, dates=dates) if isinstance(one, Series) else one for name, one in visit.items()}
            for visit in images
        ]

    days = {name: {_day(visit) for visit in dated((name,))} for name in DATES}
    return dated(tuple(name for name in DATES if len(images) == 1 or len(days[name]) > 1))


def _days(images: Sequence[Images]) -> list[date | None]:
    """The day of every visit. Days on which no scan can have been count only if all that are known are such."""
    times = [_acquired(visit) for visit in images]
    real = {time for time in times if time and plausible(time)}
    return [time.date() if time and (time in real or not real) else None for time in times]


def _require_no_return(days: Sequence[date | None]) -> None:
    """Not every visit has a day of its own, so that the order given counts: the days that are known must follow it."""
    known = [(number, day) for number, day in enumerate(days, 1) if day]
    for (before, day), (after, other) in pairwise(known):
        if day > other:
            raise CohortError(
                f"--visit number {before} is of {day}, number {after} of {other}, and not every visit has a day of its "
                "own in its DICOM headers, which would decide: give the visits in time order."
            )


def _visit(images: Images, label: str, number: int, dated: bool, converted: Path) -> Visit:
    folder = converted / f"sub-{label}" / f"ses-{number}" / "anat"
    paths = {
        name: _converted(one, folder / f"sub-{label}_ses-{number}_{name}.nii.gz") if isinstance(one, Series) else one
        for name, one in images.items()
    }
    flair = images["FLAIR"]
    files = flair.files if isinstance(flair, Series) else ()
    doubts = [doubt for name, one in images.items() if isinstance(one, Series) for doubt in _doubts(name, one)]
    alone = f"{_file(flair)} was given without a T1w: give --visit T1W FLAIR, or a model that works without it."
    absent = {} if "T1w" in images else {"T1w": alone}
    date = _acquired(images) if dated else None
    return Visit(str(number), paths, date, dicom=files, doubts=tuple(doubts), absent=absent)


def _doubts(contrast: str, series: Series) -> Iterator[str]:
    if series.left_out:
        yield f"an image at another angle ({series.left_out.name}) was left out of the {contrast}"
    for other in series.others:
        if unsuitable(other) not in ("localiser", "no magnitude", "computed"):
            how = "continue" if other.stack else "may continue"
            yield (
                f"{len(other.frames) or 1} images of {_called(other)} (such as {other.files[0].name}), which {how} the "
                f"stack of the {contrast}, were not used"
            )
    if differing(series):
        yield (
            f"the images of the {contrast} differ in {' and '.join(differing(series))}: they were used as one series, "
            "since they lie in one stack"
        )
    if distance := thinned(series):
        yield f"the slices of the {contrast} {distance}"
    if series.inverted:
        yield f"the pixels of the {contrast} are declared as inverted (low values are white): they were used as stored"
    if enhanced(series):
        yield f"the {contrast} was acquired with a contrast agent"
    yield from contradiction(contrast, _called(series), "header", acquisition_of(series))


def _called(series: Series) -> str:
    """By its number, since descriptions are free text."""
    return f"DICOM series {series.value('SeriesNumber') or '-'}"


def _converted(series: Series, path: Path) -> Path:
    """Write a series as NIfTI, with what of its header BIDS asks for."""
    write_volume(path, read_series(series))
    write_json(path.with_suffix("").with_suffix(".json"), _sidecar(series))
    return path


def _sidecar(series: Series) -> dict[str, Any]:
    facts: dict[str, Any] = {"Modality": "MR", "Manufacturer": series.value("Manufacturer")}
    facts["MagneticFieldStrength"] = series.value("MagneticFieldStrength")
    facts |= {names[0]: series.number(*names, scale=0.001) for names in TIMES}
    facts |= {"ConversionSoftware": "highdicom", "ConversionSoftwareVersion": version("highdicom")}
    return {name: value for name, value in facts.items() if value is not None}


def _notes(images: Sequence[Images]) -> Iterator[str]:
    """What was chosen, for the log."""
    for number, visit in enumerate(images, 1):
        for name, one in visit.items():
            if isinstance(one, Series):
                doubt = f" ({unsuitable(one)})" if unsuitable(one) else ""
                what = f"{_called(one)}, {len(one.frames)} images{doubt}"
                yield f"the {name} of ses-{number} is {what}"
        days = {_day({name: one}) for name, one in visit.items()} - {None}
        if len(days) > 1:
            yield f"the T1w and FLAIR of ses-{number} were acquired on different days"
    for name in PERSON:
        if len(_known(list(_series(images)), name)) > 1:
            yield f"the DICOM headers of the images differ in {name}"
