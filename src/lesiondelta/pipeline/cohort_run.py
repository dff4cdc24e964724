"""The way of a cohort: every patient, several at a time, then the table."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lesiondelta import __version__
from lesiondelta.cohort import Cohort, Patient
from lesiondelta.files import require_writable
from lesiondelta.inference.loading import load_segmenter
from lesiondelta.inference.segmenter import Segmenter
from lesiondelta.inference.window import choose_device
from lesiondelta.outputs.derivatives import prepare_output
from lesiondelta.pipeline.failures import failed_results
from lesiondelta.pipeline.group import write_group
from lesiondelta.pipeline.patient_run import Results, RunPlan
from lesiondelta.pipeline.workers import Executor, LocalExecutor
from lesiondelta.preprocessing.preparation import require_programs
from lesiondelta.records import VisitResult
from lesiondelta.settings import Settings


def check_start(plan: RunPlan) -> RunPlan:
    """See that models, device, programs and folders can be used, before anything runs.

    Returns the plan with the models' spacing and cautions. Raises LesionDeltaError if nothing can be started.
    """
    settings = plan.settings
    choose_device(settings.segmentation.device)
    require_programs(settings.preprocessing)
    segmenter = load_segmenter(settings)
    preprocessing = settings.preprocessing.model_copy(update={"spacing_mm": segmenter.facts.spacing_mm})
    settings = settings.model_copy(update={"preprocessing": preprocessing})
    if plan.work:
        require_writable(plan.work)
    prepare_output(plan.out, plan.raw, _description(settings, segmenter))
    return replace(plan, settings=settings, cautions=segmenter.facts.cautions)


def _description(settings: Settings, segmenter: Segmenter) -> dict[str, Any]:
    named = [
        {"method": segmenter.facts.method, **{key.lower(): value for key, value in identity.items()}}
        for identity in segmenter.facts.identities
    ]
    about = "the latest run; what decided a patient's results is the fingerprint in .lesiondelta/sub-X.json"
    return {"about": about, "lesiondelta": __version__, "settings": settings.model_dump(mode="json"), "models": named}


def run_cohort(
    cohort: Cohort,
    plan: RunPlan,
    *,
    executor: Executor | None = None,
    stop_on_first_crash: bool = False,
    report: Callable[[Patient, Results], None] | None = None,
) -> list[VisitResult]:
    """Run every patient and write the cohort table; `report` is called as each patient ends.

    `executor` is where they run: None, one after another in this process. `plan` comes from `check_start`. Raises
    OutputError if the table cannot be written, and what the executor raises.
    """
    patients = [*(Patient(label, (), problems={"": why}) for label, why in cohort.problems.items()), *cohort.patients]
    results: dict[str, Results] = {}
    for patient, own in (executor or LocalExecutor()).run(patients, plan, stop_on_first_crash):
        results[patient.label] = own
        if report:
            report(patient, own)
    for patient in patients:
        stopped = "not run: an earlier patient failed and --stop-on-first-crash was given"
        results.setdefault(patient.label, failed_results(patient, stopped))
    write_group(plan.out)
    return [result for patient in patients for result in results[patient.label]]
