"""What happened from visit to visit, as the report lists and pictures it: the surest changes first."""

from collections.abc import Sequence
from typing import Any

from lesiondelta.cohort import Change, LesionChange
from lesiondelta.outputs.lesions import StepRow
from lesiondelta.report.content import Report
from lesiondelta.report.lesion_pictures import StepImages, as_uri, change_mm, checkerboard, lesion_picture

MOST_PICTURES = 40
"""Of a page."""
COUNTED = [change for change in Change if change is not Change.POSSIBLE]
SURE = 0.995
"""A confidence that would be rounded to 100 %."""


def steps_of(report: Report) -> list[dict[str, Any]]:
    """Every step from a visit to the next."""
    wanted = _surest_first([row for row in report.steps if row.step.change is not Change.STABLE])[:MOST_PICTURES]
    pictured = {id(row) for row in wanted}
    return [_step(report, index, pictured) for index in range(1, len(report.visits))]


def _step(report: Report, index: int, pictured: set[int]) -> dict[str, Any]:
    before, after = report.visits[index - 1 : index + 1]
    first, second = report.greys[index - 1 : index + 1]
    instances = before.instances if after.before is None else after.before, after.instances
    images = StepImages((first, second), instances, after.difference, after.flair.affine)
    rows = _surest_first([row for row in report.steps if row.visit == after.label])
    listed = [_row(images, row, with_picture=id(row) in pictured) for row in rows]
    apart = (Change.STABLE, Change.POSSIBLE)
    return {
        "index": index,
        "prior": before.name,
        "current": after.name,
        "compared": after.difference is not None,
        "counts": [(str(change), sum(row["change"] == change for row in listed)) for change in COUNTED],
        "changed": [row for row in listed if row["change"] not in apart],
        "stable": [row for row in listed if row["change"] is Change.STABLE],
        "possible": [row for row in listed if row["change"] is Change.POSSIBLE],
        "left_out": sum(row["change"] is not Change.STABLE and not row["picture"] for row in listed),
        "checkerboard": as_uri(checkerboard(first, second)),
    }


def _surest_first(rows: Sequence[StepRow]) -> list[StepRow]:
    """By confidence; where images were not compared, by change and volume."""
    order = list(Change)

    def place(row: StepRow) -> tuple[float, int, float]:
        one = row.step
        return -(one.confidence or 0.0), order.index(one.change), -max(one.current_mm3, one.prior_mm3)

    return sorted(rows, key=place)


def _row(images: StepImages, row: StepRow, *, with_picture: bool) -> dict[str, Any]:
    step = row.step
    return {
        "change": step.change,
        "numbers": _joined(step.current or step.prior),
        "prior_mm3": step.prior_mm3,
        "current_mm3": step.current_mm3,
        "error_mm3": step.error_mm3,
        "gained_mm3": step.gained_mm3,
        "lost_mm3": step.lost_mm3,
        "evidence": step.evidence,
        "confidence": percent(step.confidence),
        "later": percent(step.later_confidence),
        "location": row.location or "",
        "why": "; ".join(filter(None, (step.reason, _lineage(step), _returned(step)))),
        "centre": row.centre_mm if step.change is Change.STABLE else change_mm(images, row),
        "picture": as_uri(lesion_picture(images, row)) if with_picture else "",
    }


def percent(confidence: float | None) -> str:
    """A probability in percent, never quite 100."""
    if confidence is None:
        return ""
    return f"> {SURE - 0.005:.0%}" if confidence >= SURE else f"{confidence:.0%}"


def _lineage(step: LesionChange) -> str:
    if step.lineage == "merged":
        return f"merged from lesions {_joined(step.prior)}"
    return f"split from lesion {_joined(step.prior)}" if step.lineage else ""


def _returned(step: LesionChange) -> str:
    return "at an earlier visit it was there" if step.returned else ""


def _joined(numbers: Sequence[int]) -> str:
    return " + ".join(map(str, numbers))
