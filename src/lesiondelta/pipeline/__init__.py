"""`run`: the way of one patient from images to lesion masks (`patient`), then that of a cohort (`cohort`)."""

from lesiondelta.pipeline.cohort_run import run_cohort
from lesiondelta.pipeline.patient_run import run_patient

__all__ = ["run_cohort", "run_patient"]
