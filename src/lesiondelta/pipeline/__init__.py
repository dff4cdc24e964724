"""`run`: the way of one patient from images to results (`patient_run`), then that of a cohort (`cohort_run`)."""

from lesiondelta.pipeline.cohort_run import run_cohort
from lesiondelta.pipeline.patient_run import RunPlan, run_patient

__all__ = ["RunPlan", "run_cohort", "run_patient"]
