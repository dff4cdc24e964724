"""Two folders of masks -> scores a visit, a patient, a step between visits, and in all; patients are the unit."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesiondelta.errors import CohortError
from lesiondelta.evaluation import Convention, Undefined, challenges, change_tables
from lesiondelta.evaluation.change_tables import STEP_KEYS
from lesiondelta.evaluation.instances import IOU, MIN_LESION_MM3
from lesiondelta.evaluation.longitudinal import ChangeScores
from lesiondelta.evaluation.masks import MaskPair, Matching, match_folders, match_table, names, read_pair
from lesiondelta.evaluation.metrics import SIZES, Scores, score
from lesiondelta.evaluation.statistics import LEAST_PATIENTS, correlation, figures, number
from lesiondelta.evaluation.steps import ScoredSteps, each, score_changes
from lesiondelta.files import require_writable, write_json, write_text
from lesiondelta.images import Array

KEYS = ["participant_id", "session_id"]
MEASURES = [field.name for field in fields(Scores) if field.name not in ("empty", "by_size")]
BY_SIZE = [f"lesion_{side}_{size}" for size in SIZES for side in ("recall", "precision")]
CHANGES = [field.name for field in fields(ChangeScores)]

ScoringCallback = Callable[[int, int], object]


@dataclass(frozen=True)
class Options:
    """What decides the scores."""

    min_lesion_mm3: float = MIN_LESION_MM3
    undefined: Undefined = "penalise"
    convention: Convention = "lesiondelta"
    participants: tuple[str, ...] = ()
    allow_missing: bool = False


@dataclass(frozen=True)
class MaskFolders:
    """What is scored: `masks.match_folders` tells how masks are named, `mapping` names them otherwise.

    `second_rater` has masks of another rater of the same visits, for the scale of the ISBI 2015 score.
    """

    reference: Path
    prediction: Path
    mapping: Path | None = None
    second_rater: Path | None = None


def evaluate(
    folders: MaskFolders,
    out: Path,
    options: Options = Options(),
    *,
    processes: int = 1,
    progress: ScoringCallback = lambda done, of: None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Score every visit that has a reference; write the tables and summary.json, and return it and the patients' table.

    Parameters
    ----------
    progress : callable
        Called with (visits done, visits in all).

    Raises
    ------
    CohortError, ImageError, GeometryError
        Visits without a prediction (unless allowed), files that are not masks, grids that differ. Nothing is written.
    """
    matching = _matching(folders, options)
    raters = _raters(folders, matching, options, processes)
    return score_matching(matching, out, options, raters=raters, processes=processes, progress=progress)


def score_matching(
    matching: Matching,
    out: Path,
    options: Options = Options(),
    *,
    raters: float | None = None,
    processes: int = 1,
    progress: ScoringCallback = lambda done, of: None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The same for pairs of masks; `raters` is the ISBI 2015 score of the second rater against the first."""
    by_visit = _score_all(matching.pairs, options, processes, progress)
    changes = score_changes(matching, options.min_lesion_mm3, processes)
    visits, steps = visit_table(matching.pairs, by_visit), step_table(changes)
    patients = patient_table(visits, steps)
    counts = change_tables.count_table(changes.detections)
    summary = summarise(visits, patients, steps) | {
        "isbi2015": _isbi2015(by_visit, raters),
        "change_not_scored": changes.skipped,
        "changes": change_tables.summarise(changes.detections, counts),
        "missing_predictions": [" ".join(names(visit)) for visit in matching.without_prediction],
        "predictions_without_reference": [" ".join(names(visit)) for visit in matching.without_reference],
        "settings": {**asdict(options), "participants": list(options.participants), "lesion_iou": IOU},
    }
    require_writable(out)
    tables = {
        "per_visit": visits, "per_patient": patients, "per_step": steps, "changes_per_step": counts,
        **{name: change_tables.frame(name, summary["changes"][of]) for name, of in change_tables.SUMMARISED.items()},
    }  # fmt: skip
    for name, table in tables.items():
        write_text(out / f"{name}.tsv", tsv(table))
    change_tables.write_dictionaries(out)
    write_json(out / "summary.json", summary)
    return summary, patients


def visit_table(pairs: Sequence[MaskPair], scores: Sequence[Scores]) -> pd.DataFrame:
    """A row a visit; counts by size as reference_small, found_small, predicted_small, right_small and so on."""
    isbi = challenges.isbi2015(scores)
    rows = []
    for pair, visit, challenge in zip(pairs, scores, isbi, strict=True):
        plain = asdict(visit)
        by_size = plain.pop("by_size")
        counts = {f"{what}_{size}": count for size in SIZES for what, count in by_size[size].items()}
        empty = plain.pop("empty") or "no"
        rows.append(
            {**dict(zip(KEYS, pair.names, strict=True)), **plain, **counts, "isbi2015": challenge, "empty": empty}
        )
    return pd.DataFrame(rows)


def step_table(changes: ScoredSteps) -> pd.DataFrame:
    """A row a step from a visit to the next."""
    rows = [{**dict(zip(STEP_KEYS, key, strict=True)), **asdict(one)} for key, one in changes.changes.items()]
    return pd.DataFrame(rows, columns=[*STEP_KEYS, *CHANGES])


def patient_table(visits: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """Means over each patient's visits and steps; values left out as NaN are left out here too.

    `empty_visits` counts those with an empty mask after the size filter. Recall and precision by size divide the sums
    of the patient's visits; NaN where the patient has no such lesion.
    """
    groups = visits.groupby("participant_id", sort=False)
    means = groups[[*MEASURES, "isbi2015"]].mean()
    means.insert(0, "visits", groups.size())
    means.insert(1, "empty_visits", groups["empty"].agg(lambda kinds: int((kinds != "no").sum())))
    for size in SIZES:
        sums = groups[[f"{what}_{size}" for what in ("reference", "found", "predicted", "right")]].sum()
        sums.columns = ["reference", "found", "predicted", "right"]
        means[f"lesion_recall_{size}"] = sums["found"] / sums["reference"].replace(0, np.nan)
        means[f"lesion_precision_{size}"] = sums["right"] / sums["predicted"].replace(0, np.nan)
    changes = steps.groupby("participant_id", sort=False)[CHANGES].mean()
    return means.join(changes).reset_index()


def summarise(visits: pd.DataFrame, patients: pd.DataFrame, steps: pd.DataFrame) -> dict[str, Any]:
    """Means over patients with BCa intervals, correlations over visits and steps, and how often a mask was empty."""
    columns = [name for name in (*MEASURES, "isbi2015", *BY_SIZE, *CHANGES) if patients[name].notna().any()]
    empty = Counter(visits["empty"])
    return {
        "patients": len(patients),
        "visits": len(visits),
        "steps": len(steps),
        "measures": {name: figures(patients[name].to_numpy(dtype=float)) for name in columns},
        "interval": f"95 % BCa bootstrap over patients, from {LEAST_PATIENTS} patients on",
        "empty_masks": {kind: empty[kind] for kind in ("both", "reference", "prediction")},
        "volume_correlation": number(correlation(*_columns(visits, "reference_volume_mm3", "predicted_volume_mm3"))),
        "volume_change": _volume_change(patients, steps),
    }


def tsv(table: pd.DataFrame) -> str:
    """As BIDS writes tables."""
    text: str = table.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.9g")
    return text


def _matching(folders: MaskFolders, options: Options) -> Matching:
    match = partial(match_table, folders.mapping) if folders.mapping else match_folders
    matching = match(folders.reference, folders.prediction, options.participants)
    if matching.without_prediction and not options.allow_missing:
        missing = ", ".join(" ".join(names(visit)) for visit in matching.without_prediction)
        raise CohortError(
            f"{folders.prediction} has no mask of {missing}: predict them, choose participants, or give "
            "--allow-missing, which leaves them out of every mean."
        )
    return matching


def _score_all(
    pairs: Sequence[MaskPair], options: Options, processes: int, progress: ScoringCallback = lambda done, of: None
) -> list[Scores]:
    scores = []
    for result in each(partial(_score, options=options), pairs, processes):
        scores.append(result)
        progress(len(scores), len(pairs))
    return scores


def _score(pair: MaskPair, options: Options) -> Scores:
    truth, guess = read_pair(pair)
    return score(
        truth.data, guess.data, truth.grid,
        min_lesion_mm3=options.min_lesion_mm3, undefined=options.undefined, convention=options.convention,
    )  # fmt: skip


def _raters(folders: MaskFolders, matching: Matching, options: Options, processes: int) -> float | None:
    """Mean ISBI 2015 score of the second rater against the first, over the visits that are scored."""
    second = folders.second_rater
    if second is None:
        return None
    rated = {pair.visit: pair for pair in match_folders(folders.reference, second, options.participants).pairs}
    missing = [" ".join(pair.names) for pair in matching.pairs if pair.visit not in rated]
    if missing:
        raise CohortError(
            f"The second rater in {second} has no mask of {', '.join(missing)}: the scale of the ISBI 2015 score needs "
            "both raters of every visit."
        )
    scores = _score_all([rated[pair.visit] for pair in matching.pairs], options, processes)
    return float(np.mean(challenges.isbi2015(scores)))


def _isbi2015(scores: Sequence[Scores], raters: float | None) -> dict[str, float | None]:
    mean = float(np.mean(challenges.isbi2015(scores)))
    scaled = math.nan if raters is None else challenges.isbi2015_scaled(mean, raters)
    return {"mean_over_visits": number(mean), "raters": number(raters), "scaled": number(scaled)}


def _volume_change(patients: pd.DataFrame, steps: pd.DataFrame) -> dict[str, float | int | None]:
    """Bland and Altman's agreement on the volume change of a step in mm3, over patients; correlation over steps."""
    apart = (patients["predicted_change_mm3"] - patients["reference_change_mm3"]).dropna()
    bias, sd = apart.mean(), apart.std(ddof=1)
    return {
        "patients": len(apart),
        "bias_mm3": number(bias),
        "lower_limit_mm3": number(bias - 1.96 * sd),
        "upper_limit_mm3": number(bias + 1.96 * sd),
        "correlation": number(correlation(*_columns(steps, "reference_change_mm3", "predicted_change_mm3"))),
    }


def _columns(table: pd.DataFrame, first: str, second: str) -> tuple[Array, Array]:
    return table[first].to_numpy(dtype=float), table[second].to_numpy(dtype=float)
