"""The order of a BIDS patient's visits: by the dates of one kind of table, else by session labels."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import pairwise
from pathlib import Path

from lesiondelta.errors import CohortError
from lesiondelta.inputs.acquisition import crossed_days
from lesiondelta.inputs.bids_names import natural
from lesiondelta.inputs.bids_tables import Dates, sessions_table

DAY_FIRST = {4: ("%m%y",), 6: ("%d%m%y", "%m%d%y"), 8: ("%d%m%Y", "%m%d%Y")}
"""By the number of digits, how a label may be read as a date that is not in order as a number."""
YEAR_FIRST = ("%Y", "%Y%m", "%Y%m%d")
"""As dates that are, as long as they have the same number of digits."""
BASELINE = re.compile(r"(baseline|base|bl|pre|preop|pretreatment|screening|initial|first)\d*", re.IGNORECASE)
"""Labels of sessions that no others come before."""


@dataclass(frozen=True)
class TimeOrder:
    """The sessions of a patient in the order of time, what that rests on, and what there is to say of it.

    `times` are of one kind of table, and none where a day repeats; `doubts` make the order no less certain.
    """

    labels: Sequence[str]
    basis: str
    times: Mapping[str, datetime]
    doubts: Sequence[str]
    cautions: Sequence[str]


def time_order(sessions: Collection[str], tables: Sequence[Dates], patient: Path) -> TimeOrder:
    """Order sessions by the first table that gives each of them a day of its own, else by their labels.

    Raises
    ------
    CohortError
        Labels have to decide, and the dates that are known contradict them; or T1w and FLAIR are exchanged.
    """
    _require_pairs(tables, patient)
    labels = sorted(sessions, key=natural)
    used = next((table for table in tables if len(set(table.days.values())) == len(labels)), None)
    if used is None or len(labels) < 2:
        return _order_of_labels(labels, tables, patient)
    days, asked = used.days, tables[: tables.index(used) + 1]
    labels.sort(key=lambda label: days[label])
    doubts = list(dict.fromkeys(doubt for table in asked for doubt in table.doubts))
    cautions = [*_contradictions(labels, used, tables), *_of_several_days(tables)]
    return TimeOrder(labels, "acq_time", used.times, [*doubts, *_differences(used, tables)], cautions)


def _require_pairs(tables: Sequence[Dates], patient: Path) -> None:
    """T1w and FLAIR of the visits run in the same order of days, where a table says so."""
    for table in tables:
        days = {ses: (found["T1w"], found["FLAIR"]) for ses, found in table.of_images.items() if len(found) > 1}
        if crossed := crossed_days(days):
            (t1w, flair), (other_t1w, other_flair) = (days[session] for session in crossed)
            one, other = map(_named, crossed)
            raise CohortError(
                f"{patient}: by {table.table}, T1w and FLAIR are exchanged between visits: those of {t1w} and {flair} "
                f"are together in {one}, those of {other_t1w} and {other_flair} in {other}."
            )


def _of_several_days(tables: Sequence[Dates]) -> Iterator[str]:
    for table in tables:
        for session, days in table.of_images.items():
            if len({*days.values()}) > 1:
                dated = " and ".join(f"{contrast} ({days[contrast]})" for contrast in sorted(days, reverse=True))
                yield f"the {dated} of {_named(session)} were acquired on different days, by {table.table}"


def _order_of_labels(labels: Sequence[str], tables: Sequence[Dates], patient: Path) -> TimeOrder:
    for table in tables:
        if wrong := _backwards(labels, table.days):
            first, second = wrong
            raise CohortError(
                f"{patient}: acq_time puts {_named(second)} ({table.days[second]}) before {_named(first)} "
                f"({table.days[first]}), their labels the other way round, and not every session has a day of its own, "
                f"which would decide: complete or correct acq_time in {sessions_table(patient)} or _scans.tsv."
            )
    used = max(tables, key=lambda table: len(table.times), default=Dates("", {}))
    times = used.times if len(set(used.days.values())) == len(used.times) else {}
    doubts = list(dict.fromkeys(doubt for table in tables for doubt in table.doubts)) + _differences(used, tables)
    several_days = [*_of_several_days(tables)]
    if len(labels) < 2:
        return TimeOrder(labels, "session label, natural order", times, doubts, several_days)
    basis = "session label, natural order (not every visit has an acq_time on a day of its own)"
    cautions = [*_cautions_of_labels(labels, patient)]
    if doubts:
        cautions.append(f"visits are ordered by session labels, since {'; '.join(doubts)}")
    return TimeOrder(labels, basis, times, (), [*cautions, *several_days])


def _backwards(labels: Sequence[str], days: Mapping[str, date]) -> tuple[str, str] | None:
    """Two sessions whose dates, where they are known, are not in the order of the labels given."""
    known = (label for label in labels if label in days)
    return next((pair for pair in pairwise(known) if days[pair[0]] > days[pair[1]]), None)


def _differences(used: Dates, tables: Sequence[Dates]) -> list[str]:
    """Tables that give other days to the same sessions."""
    differ = {
        table.table: [ses for ses in table.days if used.days.get(ses, table.days[ses]) != table.days[ses]]
        for table in tables
    }
    return [
        f"{used.table} and {table} have different days of {', '.join(map(_named, sessions))}"
        for table, sessions in differ.items()
        if sessions
    ]


def _contradictions(labels: Sequence[str], used: Dates, tables: Sequence[Dates]) -> Iterator[str]:
    """What puts sessions that dates have ordered in another order: a second table, or labels (numbers, a baseline)."""
    for table in tables:
        if wrong := _backwards(labels, table.days):
            first, second = map(_named, wrong)
            yield f"{used.table} puts {first} before {second}, and {table.table} the other way round: correct one"
    by_label = sorted(labels, key=natural)
    if list(labels) != by_label and _differ_in_numbers(labels) and not _ambiguous(by_label):
        names = ", ".join(map(_named, labels))
        yield f"visits are ordered by acq_time, and their labels are numbers in another order ({names}): correct one"
    is_baseline = [bool(BASELINE.fullmatch(label)) for label in labels]
    if is_baseline != sorted(is_baseline, reverse=True):
        names = ", ".join(map(_named, labels))
        yield f"visits are ordered by acq_time, and their labels say another order ({names}): correct one"


def _cautions_of_labels(labels: Sequence[str], patient: Path) -> Iterator[str]:
    """What is doubtful where labels order: those that do not differ only in numbers, as m06 and m12 do."""
    why = ""
    if not _differ_in_numbers(labels):
        why = "which are not numbers"
    elif len({natural(label) for label in labels}) < len(labels):
        why = "some of which are the same number"
    elif _ambiguous(labels):
        why = "whose numbers have another order if read as dates"
    if why:
        names = ", ".join(map(_named, labels))
        yield f"visits are ordered by session labels, {why}: {names}; give acq_time in {sessions_table(patient)}"


def _differ_in_numbers(labels: Sequence[str]) -> bool:
    return len({re.sub(r"\d+", "0", label) for label in labels}) == 1


def _ambiguous(labels: Sequence[str]) -> bool:
    """Whether labels in natural order that differ in numbers may mean another order, as dates with the year last do.

    So may dates of which some lack the day, or the zero in front.
    """
    groups = [
        group for group in zip(*(re.findall(r"\d+", label) for label in labels), strict=True) if len({*group}) > 1
    ]
    if len(groups) > 1:
        reverse = [[int(number) for number in reversed(numbers)] for numbers in zip(*groups, strict=True)]
        return reverse != sorted(reverse)
    numbers = [number.zfill(len(number) + len(number) % 2) for group in groups for number in group]
    digits = {len(number) for number in numbers}
    if len(digits) > 1:
        days = [[day for form in _forms(number) for day in _as_dates([number], form)] for number in numbers]
        return all(days) and any(max(one) > min(other) for one, other in pairwise(days))
    if not digits or _as_dates(numbers, "%Y%m%d"):
        return False
    readings = [_as_dates(numbers, form) for form in DAY_FIRST.get(digits.pop(), ())]
    return any(days != sorted(days) for days in readings)


def _forms(number: str) -> tuple[str, ...]:
    return (*YEAR_FIRST, *DAY_FIRST.get(len(number), ()))


def _as_dates(numbers: Sequence[str], form: str) -> list[datetime]:
    """Nothing if one of them is none, or before there was MR."""
    try:
        days = [datetime.strptime(number, form) for number in numbers]
    except ValueError:
        return []
    return (
        days
        if all(day.year > 1970 and day.strftime(form) == number for day, number in zip(days, numbers, strict=True))
        else []
    )


def _named(session: str) -> str:
    return f"ses-{session}" if session else "images outside of sessions"
