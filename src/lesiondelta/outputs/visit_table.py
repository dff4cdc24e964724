"""The tables of visits: the cohort's and every patient's own, one row a visit."""

from collections.abc import Sequence
from pathlib import Path

from lesiondelta.files import write_json, write_text
from lesiondelta.outputs.derivatives import PatientFiles
from lesiondelta.outputs.tables import NOT_AVAILABLE, cell
from lesiondelta.records import VisitResult

COLUMNS = {
    "participant_id": "Patient.",
    "session_id": "Visit.",
    "status": "ok, ok-zero-lesions, flagged (segmented, but look at it: `reason`), failed (not segmented: `reason`).",
    "reason": "Why it is flagged or has failed.",
    "contrasts": "The images that it was segmented by.",
    "prior_session_id": "The visit that it was segmented with.",
    "years_from_first_visit": "By acq_time; n/a where not all visits have a day of their own.",
    "lesion_volume_mm3": "Of all lesions, in the patient's space, so that visits compare.",
    "lesions": "Number of lesions (26-connected) of the mask.",
    "unmasked_lesions": "Number of lesions that the mask misses: the image became brighter there.",
    "*_lesions": "Number of lesions that have done this since the visit before; n/a at the first visit.",
    "correction": "What a reader has changed in the mask by hand; n/a where it is the model's.",
    "brain_volume_mm3": "Of the brain mask, the same for all visits.",
    "tissue_mm3": "Of the brain without fluid, as the anatomy network sees this visit's images.",
    "ventricles_mm3": "Of all ventricles, likewise.",
    "brain_to_first_visit": "Volume of the brain divided by that at the first visit, by their registration.",
    "*_noise": "Noise within slices / brain, in the image as it was given.",
    "*_slice_mm": "Distance of the slices, the longest edge of a voxel.",
    "*_thickness_mm": "Thickness of the slices as the image shows it: more than their distance if it was interpolated.",
    "*_ghosting": "Air beside the head, less the air in the corners / brain: ghosts of motion and pulsation.",
    "*_coverage": "Share of the brain that lies within the image.",
    "*_contrast": "(White - grey matter) / white matter, medians of the image.",
    "*_fluid": "Fluid of the ventricles / white matter, medians of the image.",
    "*_residual_mm": "How far a registration may still be off.",
    "*_residual_error_mm": "Standard error of that.",
}
"""What the columns mean; * stands for several names."""


def write_visit_tables(out: Path, table: Path, results: Sequence[VisitResult], cautions: Sequence[str] = ()) -> None:
    """Write the cohort table, its data dictionary, which says the cautions, and every patient's own table."""
    _write(table, results)
    about: dict[str, dict[str, object]] = {name: {"Description": meaning} for name, meaning in COLUMNS.items()}
    about["status"]["Cautions"] = list(cautions)
    write_json(table.with_suffix(".json"), about)
    for patient in dict.fromkeys(result.patient for result in results):
        own = [result for result in results if result.patient == patient]
        _write(PatientFiles(out, patient).visit_table, own)


def _write(path: Path, results: Sequence[VisitResult]) -> None:
    """Write a TSV with one row a visit; what a visit does not have is n/a."""
    columns = list(dict.fromkeys(name for result in results for name in result.figures))
    head = ["participant_id", "session_id", "status", "reason", *columns]
    rows = [
        [f"sub-{r.patient}", f"ses-{r.visit}" if r.visit else NOT_AVAILABLE, r.status, cell(r.reason or None)]
        + [cell(r.figures.get(name)) for name in columns]
        for r in results
    ]
    write_text(path, "".join("\t".join(row) + "\n" for row in [head, *rows]))
