"""The score of the ISBI 2015 longitudinal lesion challenge (Carass et al. 2017, NeuroImage 148, 77-102).

Of a visit: DSC / 8 + PPV / 8 + (1 - LFPR) / 4 + LTPR / 4 + r / 4, where r is the correlation of the predicted with the
reference volumes over all visits, and the score of a method is the mean over visits. On the challenge's scale a perfect
mask has 100 and the second rater against the first 90. The weights are those that papers on the challenge quote; that
the scale is linear between these two points is inferred from published scores, which fit no other form with one value
for the raters (decision 060). Its own program was not run. What it does with small lesions, connectivity and empty
masks is not stated: here all is as in `metrics`, the size filter included.
"""

import math
from collections.abc import Sequence

from lesiondelta.evaluation.metrics import Scores
from lesiondelta.evaluation.statistics import correlation

PERFECT, RATERS = 100.0, 90.0


def isbi2015(visits: Sequence[Scores]) -> list[float]:
    """The unscaled score of each visit, 0 to 1; NaN, for all, where volumes have no correlation or a part is NaN."""
    r = correlation([v.reference_volume_mm3 for v in visits], [v.predicted_volume_mm3 for v in visits])
    scores = [v.dsc / 8 + v.ppv / 8 + (1 - v.lfpr) / 4 + v.ltpr / 4 + r / 4 for v in visits]
    return scores if all(map(math.isfinite, scores)) else [math.nan] * len(scores)


def isbi2015_scaled(mean: float, raters: float) -> float:
    """A mean score on the challenge's scale, given that of the second rater against the first; NaN if they agree."""
    return PERFECT - (PERFECT - RATERS) * (1 - mean) / (1 - raters) if raters < 1 else math.nan
