"""The score of the ISBI 2015 longitudinal lesion challenge (Carass et al. 2017, NeuroImage 148, 77-102).

Of a visit: DSC / 8 + PPV / 8 + (1 - LFPR) / 4 + LTPR / 4 + r / 4, where r is the correlation of the predicted with the
reference volumes over all visits. The challenge scales it so that the second rater against the first has 90. Weights
and scale are as papers on the challenge quote them; its own program was not run. What it does with connectivity and
empty masks is not stated there: here they are as in `metrics`.
"""

from collections.abc import Sequence

from lesiondelta.evaluation.metrics import Scores
from lesiondelta.evaluation.statistics import correlation

RATERS = 90.0


def isbi2015(visits: Sequence[Scores]) -> list[float]:
    """The unscaled score of each visit, 0 to 1; NaN where the volumes have no correlation."""
    r = correlation([v.reference_volume_mm3 for v in visits], [v.predicted_volume_mm3 for v in visits])
    return [v.dsc / 8 + v.ppv / 8 + (1 - v.lfpr) / 4 + v.ltpr / 4 + r / 4 for v in visits]


def isbi2015_scaled(mean: float, raters: float) -> float:
    """A mean score on the challenge's scale, given that of the second rater against the first."""
    return RATERS * mean / raters
