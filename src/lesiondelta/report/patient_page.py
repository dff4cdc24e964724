"""The report of a patient: one HTML file that opens offline: tables, pictures, and a viewer where scripts run."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from lesiondelta import __version__
from lesiondelta.cohort import Change, visit_name
from lesiondelta.files import write_text
from lesiondelta.outputs.lesions import COLOURS
from lesiondelta.preprocessing.own_anatomy import RESCAN_ERRORS
from lesiondelta.report.content import Report, ReportVisit
from lesiondelta.report.lesion_pictures import HALF_MM, LEAST_SD, MOST_SD
from lesiondelta.report.rates import a_year
from lesiondelta.report.steps import percent, steps_of
from lesiondelta.report.viewer import for_script, gradient, viewer_data
from lesiondelta.timings import timed
from lesiondelta.tracking.calls import LIMITS
from lesiondelta.tracking.places import FAINT, LIKELY, STRONG, WEAK

QUALITY = {
    "FLAIR_noise": "noise", "FLAIR_contrast": "contrast", "FLAIR_thickness_mm": "slices, mm",
    "FLAIR_ghosting": "ghosts", "FLAIR_coverage": "coverage",
    "T1w_noise": "T1w noise", "T1w_contrast": "contrast", "T1w_residual_mm": "off, mm",
    "baseline_residual_mm": "first visit off, mm",
}  # fmt: skip
"""Figures of a visit that are shown, and their titles; docs/outputs.md says what they mean."""
COVERED = 0.95
"""Of the brain, by an image; below, volumes are not compared."""


@timed("report")
def write_report(path: Path, report: Report) -> None:
    """Write the page atomically."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("lesiondelta.report"), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("patient.html").render(
        report=report,
        version=__version__,
        colours={str(change): colour for change, colour in COLOURS.items()},
        failed={visit_name(label): why for label, why in report.failed.items()},
        quality={name: title for name, title in QUALITY.items() if any(name in v.figures for v in report.visits)},
        volumes=_volumes(report.visits),
        rates=_rates(report),
        steps=steps_of(report),
        preparation=_preparation(report),
        tracking=_tracking(report),
        locations=_locations(report),
        brain=_brain(report),
        brain_errors=RESCAN_ERRORS,
        script=(files("lesiondelta.report") / "vendor" / "niivue.umd.js").read_text(encoding="utf-8"),
        data=for_script(viewer_data(report)),
        gradient=gradient(),
        most_sd=MOST_SD,
        least_sd=LEAST_SD,
        width_cm=HALF_MM / 5,
        settings=json.dumps(report.settings.model_dump(mode="json"), indent=1),
    )
    write_text(path, page)


def _preparation(report: Report) -> str:
    """What was done to the images before segmentation, in a sentence."""
    chosen, brain = report.settings.preprocessing, report.brain_from
    engine = chosen.registration
    brains = {
        "given": "cut to the brain by the mask that was given",
        "own": "taken as showing only the brain",
        "": "cut to the brain",
    }
    steps = [
        "were taken as lying in one space" if engine == "none" else f"were registered to one space by {engine}",
        "resampled once to cubic voxels",
        brains.get(brain, f"cut to the brain that {brain} found"),
    ]
    bias = "corrected for the bias field by N4" if chosen.bias_correction else "not corrected for the bias field"
    return f"{_images(report.contrasts, len(report.visits))} {', '.join(steps)}, and {bias}."


def _images(contrasts: Mapping[str, int], visits: int) -> str:
    """Such as "T1w and FLAIR of all visits", or "FLAIR of all 3 visits and T1w of 2"."""
    whole = [name for name, count in contrasts.items() if count == visits]
    some = [f"{name} of {count}" for name, count in contrasts.items() if 0 < count < visits]
    if some:
        return " and ".join([f"{' and '.join(whole)} of all {visits} visits", *some])
    return " and ".join(whole) + (" of all visits" if visits > 1 else "")


def _tracking(report: Report) -> str:
    """What a change is, in a few sentences; nothing of a single visit."""
    chosen = report.settings.tracking
    if len(report.visits) == 1:
        return ""
    matched = "Lesions of consecutive visits that overlap or lie near each other are one. "
    if not report.compared:
        return matched + (
            "A change counts if the volume differs by more than the set share and by more than the estimated "
            "measurement error."
        )
    return matched + (
        "A change counts only if the images bear it out. The FLAIRs of both visits are brought to one sharpness, "
        "brightness and bias field, and subtracted; the difference (evidence) is in standard deviations (sd) of tissue "
        f"that did not change. A place may have changed if its difference is above {WEAK:g} sd everywhere and above "
        f"{STRONG:g} sd somewhere, and if the segmentation gives lesion a probability above {FAINT:.1%} everywhere and "
        f"above {LIKELY:.0%} somewhere. Confidence is the probability that it changed, calibrated on simulated "
        f"rescans; {percent(LIMITS[chosen.sensitivity])} and more counts. Where the difference is strong and the "
        "segmentation sees nothing, a lesion is only possible."
    )


def _brain(report: Report) -> list[tuple[str, list[str]]]:
    """A row a visit: tissue and ventricles in ml, and by how many percent they differ from the first visit's.

    No difference where other contrasts were seen, or not the whole brain.
    """
    rows, first = [], report.visits[0]
    for visit in report.visits:
        volumes = [visit.figures.get(name) for name in RESCAN_ERRORS]
        cells = ["" if volume is None else f"{float(volume) / 1000:.0f}" for volume in volumes]
        if len(report.visits) > 1:
            alike = visit is not first and _whole(visit) and _whole(visit) == _whole(first)
            cells += [_since(first.figures[name], visit.figures[name]) if alike else "" for name in RESCAN_ERRORS]
        rows.append((visit.name, cells))
    return rows


def _whole(visit: ReportVisit) -> tuple[object, ...]:
    """The contrasts by which all of a visit's brain was measured; nothing where it was not."""
    coverage = [float(value) for name, value in visit.figures.items() if name.endswith("_coverage")]
    measured = all(name in visit.figures for name in RESCAN_ERRORS)
    return (visit.figures.get("contrasts"),) if measured and min(coverage, default=1.0) >= COVERED else ()


def _since(before: float | str, now: float | str) -> str:
    return f"{100 * float(now) / float(before) - 100:+.1f} %" if float(before) else ""


def _volumes(visits: Sequence[ReportVisit]) -> dict[str, Any]:
    """Points of the curve of lesion volumes, in a box of 600 x 180."""
    known = all(visit.acquired for visit in visits) and len(visits) > 1
    days = [(v.acquired - visits[0].acquired).days if known else n for n, v in enumerate(visits)]  # type: ignore[operator]
    volumes = [float(visit.figures["lesion_volume_mm3"]) / 1000 for visit in visits]
    top, last = max([*volumes, 0.1]) * 1.15, max(days[-1], 1)
    points = [
        {"x": 60 + 500 * day / last, "y": 150 - 130 * ml / top, "ml": ml, "label": visit.label}
        for day, ml, visit in zip(days, volumes, visits, strict=True)
    ]
    return {
        "points": points,
        "line": " ".join(f"{p['x']:.1f},{p['y']:.1f}" for p in points),
        "known": known,
    }


def _rates(report: Report) -> list[dict[str, Any]]:
    """What happened a year in every step, and from the first visit to the last; nothing where no rate is known."""
    visits = report.visits
    spans = [(index - 1, index) for index in range(1, len(visits))]
    if len(spans) > 1:
        spans.append((0, len(visits) - 1))
    rates = []
    for first, last in spans:
        between = {visit.label for visit in visits[first + 1 : last + 1]}
        changes = [row.step.change for row in report.steps if row.visit in between]
        ml = [float(visits[index].figures["lesion_volume_mm3"]) / 1000 for index in (first, last)]
        start, end = visits[first].acquired, visits[last].acquired
        years = (end - start).total_seconds() / 86400 / 365.25 if start and end else None
        rates.append(
            {
                "span": f"{visits[first].name} to {visits[last].name}",
                "years": years,
                "ml": a_year(ml[1] - ml[0], years),
                "new": a_year(changes.count(Change.NEW), years),
                "enlarging": a_year(changes.count(Change.ENLARGING), years),
            }
        )
    return [rate for rate in rates if rate["ml"] is not None]


def _locations(report: Report) -> list[tuple[str, int, float]]:
    """Location, number of lesions and ml at the last visit."""
    last = [row for row in report.lesions if row.visit == report.visits[-1].label]
    names = dict.fromkeys(row.location or "not located" for row in last)
    found = [(str(name), [row for row in last if (row.location or "not located") == name]) for name in sorted(names)]
    return [(name, len(rows), sum(row.volume_mm3 for row in rows) / 1000) for name, rows in found]
