"""`run`: the way of one patient from images to results (`patient_run`), then that of a cohort (`cohort_run`)."""
