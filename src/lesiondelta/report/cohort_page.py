"""The page of a cohort: every patient in one table, those to be looked at first on top, with links to their reports."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lesiondelta import __version__
from lesiondelta.cohort import Change, visit_name
from lesiondelta.files import write_text
from lesiondelta.outputs.tables import NOT_AVAILABLE
from lesiondelta.records import VisitResult
from lesiondelta.report.rates import a_year

ORDER = {"failed": 0, "flagged": 1, "ok": 2, "ok-zero-lesions": 2}


def write_group_page(path: Path, results: Sequence[VisitResult], cautions: Sequence[str] = ()) -> None:
    """Write the page atomically, with the cautions on top; reports are linked where they lie beside it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("lesiondelta.report"), autoescape=True, undefined=StrictUndefined)
    patients = [_patient(path.parent, label, own) for label, own in _by_patient(results).items()]
    patients.sort(key=lambda patient: ORDER[patient["status"]])
    page = environment.get_template("group.html").render(
        patients=patients,
        visits=len(results),
        cautions=cautions,
        counts={status: sum(result.status == status for result in results) for status in ORDER},
        changes=[str(change) for change in Change],
        version=__version__,
    )
    write_text(path, page)


def _by_patient(results: Sequence[VisitResult]) -> Mapping[str, list[VisitResult]]:
    found: dict[str, list[VisitResult]] = {}
    for result in results:
        found.setdefault(result.patient, []).append(result)
    return found


def _patient(folder: Path, label: str, results: Sequence[VisitResult]) -> dict[str, Any]:
    """A line of the table; rates are a year's, from the first visit to the last."""
    seen = [result for result in results if "lesion_volume_mm3" in result.figures]
    volumes = [float(result.figures["lesion_volume_mm3"]) / 1000 for result in seen]
    changes = {str(c): sum(_number(r, f"{c}_lesions") for r in seen) for c in Change}
    years = _number(seen[-1], "years_from_first_visit") if seen else 0.0
    by_hand = [(result.visit, result.figures.get("correction", NOT_AVAILABLE)) for result in results]
    reasons = dict.fromkeys(result.reason for result in results if result.reason)
    reasons |= dict.fromkeys(
        f"mask of {visit_name(visit)} corrected by hand: {done}" for visit, done in by_hand if done != NOT_AVAILABLE
    )
    return {
        "label": label,
        "link": f"sub-{label}.html" if (folder / f"sub-{label}.html").is_file() else "",
        "visits": len(results),
        "status": min((result.status for result in results), key=lambda status: ORDER[status]),
        "volumes": volumes,
        "changes": changes,
        "ml_a_year": a_year(volumes[-1] - volumes[0], years) if seen else None,
        "new_a_year": a_year(changes[str(Change.NEW)], years) if seen else None,
        "reasons": list(reasons),
    }


def _number(result: VisitResult, name: str) -> float:
    value = result.figures.get(name, NOT_AVAILABLE)
    return 0.0 if value == NOT_AVAILABLE else float(value)
