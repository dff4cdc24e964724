"""Two folders of masks -> scores a visit, a patient and in all. Visits are averaged first, then patients."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd

from lesiondelta.errors import CohortError
from lesiondelta.evaluation.metrics import IOU, MIN_LESION_MM3, Scores, Undefined, score
from lesiondelta.files import write_json, write_text
from lesiondelta.formats.bids import BidsFile, natural, parse_name
from lesiondelta.images import read_mask, require_same_grid

KEYS = ["participant_id", "session_id"]
LESION_LABELS = ("L", "lesion")
MEASURES = [field.name for field in fields(Scores) if field.name != "empty"]

Visit = tuple[str, str]


def evaluate(
    reference: Path, prediction: Path, out: Path, *, min_lesion_mm3: float = MIN_LESION_MM3,
    undefined: Undefined = "penalise",
) -> dict[str, Any]:  # fmt: skip
    """Score every visit that has a reference, write per_visit.tsv, per_patient.tsv and summary.json, return the last.

    Masks are `sub-X[_ses-Y]..._label-L_mask.nii.gz` (or label-lesion) anywhere under the two folders. A visit without a
    prediction is listed under `missing_predictions`; it has no scores and is in no mean.
    """
    pairs, missing = matching_masks(reference, prediction)
    rows = [
        {**dict(zip(KEYS, _names(visit), strict=True)), **asdict(_score(*pair, min_lesion_mm3, undefined))}
        for visit, pair in pairs.items()
    ]
    visits = pd.DataFrame(rows)
    patients = per_patient(visits)
    summary = {
        **summarise(visits, patients),
        "missing_predictions": [" ".join(_names(visit)) for visit in missing],
        "settings": {"min_lesion_mm3": min_lesion_mm3, "lesion_iou": IOU, "undefined": undefined},
    }
    write_text(out / "per_visit.tsv", _tsv(visits))
    write_text(out / "per_patient.tsv", _tsv(patients))
    write_json(out / "summary.json", summary)
    return summary


def matching_masks(reference: Path, prediction: Path) -> tuple[dict[Visit, tuple[Path, Path]], list[Visit]]:
    """Reference and predicted mask of each visit, and the visits that lack a prediction."""
    truths, guesses = (find_masks(folder) for folder in (reference, prediction))
    pairs, missing = {}, []
    for visit, found in truths.items():
        truth = _only(found, None)
        guess = _only(guesses.get(visit, []), truth.entities.get("space") if truth else None)
        if truth and guess:
            pairs[visit] = (truth.path, guess.path)
        else:
            missing.append(visit)
    if not pairs:
        raise CohortError(f"No mask of {prediction} belongs to a reference of {reference}: compare their sub-* names.")
    return pairs, missing


def find_masks(folder: Path) -> dict[Visit, list[BidsFile]]:
    """All lesion masks under a folder by (participant, session)."""
    found: dict[Visit, list[BidsFile]] = {}
    for path in sorted(folder.rglob("sub-*_mask.nii*"), key=lambda path: natural(path.name)):
        file = parse_name(path)
        if file and file.suffix == "mask" and file.entities.get("label") in LESION_LABELS:
            found.setdefault((file.entities["sub"], file.entities.get("ses", "")), []).append(file)
    if not found:
        raise CohortError(f"{folder} holds no lesion mask: files named sub-X[_ses-Y]_..._label-L_mask.nii.gz are read.")
    return found


def per_patient(visits: pd.DataFrame) -> pd.DataFrame:
    """Mean over each patient's visits; values left out as NaN are left out here too."""
    groups = visits.groupby("participant_id", sort=False)
    means = groups[MEASURES].mean()
    means.insert(0, "visits", groups.size())
    return means.reset_index()


def summarise(visits: pd.DataFrame, patients: pd.DataFrame) -> dict[str, Any]:
    """Mean, standard deviation and number over patients, and how often a mask was empty."""
    measures = {
        name: {
            "mean": _number(patients[name].mean()),
            "sd": _number(patients[name].std(ddof=1)),
            "patients": int(patients[name].notna().sum()),
        }
        for name in MEASURES
    }
    counts = {kind: int((visits["empty"] == kind).sum()) for kind in ("both", "reference", "prediction")}
    return {"patients": len(patients), "visits": len(visits), "measures": measures, "empty_masks": counts}


def _score(reference: Path, prediction: Path, min_lesion_mm3: float, undefined: Undefined) -> Scores:
    truth, guess = read_mask(reference), read_mask(prediction)
    require_same_grid(truth, guess)
    return score(truth.data, guess.data, truth.grid, min_lesion_mm3=min_lesion_mm3, undefined=undefined)


def _only(files: Sequence[BidsFile], space: str | None) -> BidsFile | None:
    """The one mask of a visit: of several, the one in the reference's space, `orig` if that has none."""
    if len(files) <= 1:
        return files[0] if files else None
    fitting = [file for file in files if file.entities.get("space") == (space or "orig")]
    if len(fitting) != 1:
        names = ", ".join(file.path.name for file in files)
        raise CohortError(f"{files[0].path.parent} holds {len(files)} lesion masks of one visit ({names}): keep one.")
    return fitting[0]


def _names(visit: Visit) -> tuple[str, str]:
    return f"sub-{visit[0]}", f"ses-{visit[1]}" if visit[1] else "n/a"


def _tsv(table: pd.DataFrame) -> str:
    text: str = table.replace({"empty": {"": "no"}}).to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.6g")
    return text


def _number(value: float) -> float | None:
    return None if pd.isna(value) else float(value)
