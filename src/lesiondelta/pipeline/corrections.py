"""Which masks count: what a reader has edited is kept as a correction, and stands before the automatic mask.

Wherever it was edited, a correction is kept as `..._desc-corrected_mask`, which no run ever removes, and
`..._desc-automatic_mask` stays what the model made. Taking the corrected mask away takes the correction back.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lesiondelta.cohort import visit_name
from lesiondelta.errors import CohortError, LesionDeltaError
from lesiondelta.files import sha256
from lesiondelta.images import Volume, read_mask, write_volume
from lesiondelta.inference.segmenter import SegmentedVisit
from lesiondelta.outputs.corrections import (
    CORRECTED,
    correction_hash,
    derived_files,
    drawn_on,
    editable_masks,
    is_manual,
    mask_hashes,
    needs_a_run,
    note_correction,
    read_correction,
    require_read,
)
from lesiondelta.outputs.derivatives import AUTOMATIC, MASK, PatientFiles, Place, own_uri, read_sidecar, write_masks
from lesiondelta.pipeline.mask_correction import Correction, correct
from lesiondelta.records import MaskHashes, Record

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FinalVisit:
    """A visit with the masks that count, after correction.

    Attributes
    ----------
    segmented : with the mask in the patient's space
    own_mask : on the grid of its own FLAIR
    hashes : of the mask and of the corrected one, as this run has read and left them
    correction : what the reader has changed, if the mask was corrected
    unused : why a corrected mask that is there is not used, or nothing
    """

    segmented: SegmentedVisit
    own_mask: Volume
    hashes: MaskHashes
    correction: Correction | None = None
    unused: str = ""

    @property
    def label(self) -> str:
        """The visit's label."""
        return self.segmented.label


def final_visit(place: Place, visit: SegmentedVisit, flair: str | None, known: MaskHashes) -> FinalVisit:
    """The visit as its corrected mask has it, if there is one that can be used; writes the masks that count.

    `flair` is the hash of its FLAIR, `known` has those of masks as they were seen last: a reader may have saved one
    since, while the visit was segmented.
    """
    own_names = {place.anat(f"{name}.nii.gz").name for name in (MASK, CORRECTED)}
    hashes = take_edits(place, {name: digest for name, digest in known.items() if name in own_names}, flair)
    automatic = replace(read_mask(place.anat(f"{AUTOMATIC}.nii.gz")), affine=visit.prepared.grids["FLAIR"].affine)
    corrected, unused = usable_correction(place, automatic, flair)
    if unused:
        log.warning("sub-%s, %s: %s", place.patient, visit_name(place.visit), unused)
    if corrected is not None:
        log.info("%s: bringing the corrected mask into the patient's space", place.stem)
    result, correction = (visit, None) if corrected is None else correct(visit, automatic, corrected)
    if mask_hashes(place) != hashes:  # saved in these seconds
        return final_visit(place, visit, flair, hashes)
    if corrected is None or correction is None:
        write_masks(place, automatic, visit.mask, {})
        return FinalVisit(visit, automatic, _as_written(place, hashes), unused=unused)
    log.warning("sub-%s: mask of %s corrected by hand: %s", place.patient, visit_name(place.visit), correction)
    sources = [own_uri(place, AUTOMATIC), own_uri(place, CORRECTED)]
    write_masks(place, corrected, result.mask, {"Manual": True, "Sources": sources, "Correction": correction.facts})
    about = {key: read_sidecar(place, AUTOMATIC)[key] for key in ("Type", "SpatialReference")}
    note_correction(place, drawn_on(place) or flair, {**about, "Sources": sources[:1]})
    return FinalVisit(result, corrected, _as_written(place, hashes), correction)


def _as_written(place: Place, hashes: MaskHashes) -> dict[str, str]:
    """The hashes of a visit's masks just after the one that counts has been written."""
    mask = place.anat(f"{MASK}.nii.gz")
    return {**hashes, mask.name: sha256(mask)}


def take_all_edits(patient: PatientFiles, record: Record | None, visits: Iterable[str] = ()) -> dict[str, str]:
    """Keep what a reader has edited in any visit since the last run; see `take_edits` for what it raises.

    `visits` are labels to be looked at even if the record does not know them. Returns the hashes of masks. A mask that
    no visit would take, by its name or format, raises CohortError before anything is touched.
    """
    require_read(patient, record.files if record else ())
    known = record.segmented_visits if record else []
    flairs = record.fingerprint.flairs if record and record.fingerprint else {}
    hashes: dict[str, str] = {}
    for label in dict.fromkeys([*known, *visits]):
        hashes |= take_edits(patient.visit(label), record.masks if record else {}, flairs.get(label))
    return hashes


def take_edits(place: Place, written: MaskHashes, flair: str | None) -> dict[str, str]:
    """Keep what a reader has edited since the last run as the visit's correction; a mask edited back ends it.

    `written` has the hashes of masks as they were left; `flair` that of the FLAIR they belong to, if it is known.
    Returns the hashes as they are now.

    Raises
    ------
    ImageError, GeometryError
        It is not a mask, or not on the grid of the visit's FLAIR. Nothing has been touched then.
    CohortError
        Several files of one visit are edited, or one that nothing is read from. Nothing has been touched then.
    """
    _require_unedited(place, written)
    automatic, kept = place.anat(f"{AUTOMATIC}.nii.gz"), place.anat(f"{CORRECTED}.nii.gz")
    hashes = {path: sha256(path) for path in editable_masks(place)}
    edited = [path for path, digest in hashes.items() if path.suffix == ".nii" or digest != written.get(path.name)]
    if not automatic.is_file():  # then what no record knows may be an automatic mask
        edited = [path for path in edited if path.suffix == ".nii" or path.name in written]
    before = read_mask(automatic) if edited and automatic.is_file() else None
    masks = {path: read_correction(path, before) if before is not None else read_mask(path) for path in edited}
    new = {path: mask for path, mask in masks.items() if before is None or not np.array_equal(mask.data, before.data)}
    if len({mask.data.tobytes() for mask in new.values()}) > 1:
        names = " and ".join(str(path) for path in new)
        raise CohortError(f"{names} are both corrections of one mask: keep one of them.")
    if new:
        _keep(place, next(iter(new.values())), flair, in_place=set(new) != {kept})
    elif kept.is_file() and (kept in masks or (masks and is_manual(place))):
        log.warning("sub-%s: the mask of %s is the automatic one again", place.patient, visit_name(place.visit))
        kept.unlink()
        place.anat(f"{CORRECTED}.json").unlink(missing_ok=True)
    for path in masks:
        if path.suffix == ".nii":
            path.unlink()
    own = {path.name: digest for path, digest in hashes.items() if path.suffix != ".nii"}
    return {place.anat(f"{MASK}.nii.gz").name: "", **own, kept.name: correction_hash(place) or ""}


def _require_unedited(place: Place, written: MaskHashes) -> None:
    """Raise CohortError where an output has been edited that a run writes anew."""
    for path in derived_files(place):
        if path.name in written and sha256(path) != written[path.name]:
            mask = place.anat(f"{MASK}.nii.gz").name
            again = ", and run the patient again without --reports-only" if needs_a_run(place, path) else ""
            raise CohortError(
                f"{path} has been edited, but only {mask} is followed, and this file would be written anew: bring what "
                f"was edited into that mask, then remove this one{again}."
            )


def _keep(place: Place, mask: Volume, flair: str | None, *, in_place: bool) -> None:
    """Write the corrected mask; one that was edited in place was drawn on the FLAIR that the results belong to."""
    path, sidecar = place.anat(f"{CORRECTED}.nii.gz"), place.anat(f"{CORRECTED}.json")
    if in_place and not _holds(path, mask):
        sidecar.unlink(missing_ok=True)
    write_volume(path, mask)
    if flair and (in_place or not sidecar.is_file()):
        note_correction(place, flair, {})


def _holds(path: Path, mask: Volume) -> bool:
    try:
        return np.array_equal(read_mask(path).data, mask.data)
    except LesionDeltaError:
        return False


def usable_correction(place: Place, automatic: Volume, flair: str | None) -> tuple[Volume | None, str]:
    """The corrected mask of a visit, bool on the grid of the automatic one, or why the one that lies there is not used.

    `flair` is the hash of the visit's FLAIR.
    """
    path = place.anat(f"{CORRECTED}.nii.gz")
    if not path.is_file():
        return None, ""
    if flair is not None and drawn_on(place) not in (None, flair):
        return None, (
            f"its FLAIR has changed since the mask was corrected by hand: {path} is not used (if it is still right, "
            f"remove the .json of the same name)"
        )
    try:
        return read_correction(path, automatic), ""
    except LesionDeltaError as error:
        return None, f"the corrected mask is not used: {error}"


def corrections_now(patient: PatientFiles, visits: Iterable[str]) -> dict[str, str]:
    """Hashes of the masks corrected by hand, by visit."""
    found = {label: correction_hash(patient.visit(label)) for label in visits}
    return {label: digest for label, digest in found.items() if digest}


def removed_masks(files: Iterable[str]) -> dict[str, str]:
    """No hash for masks that a run removes: one that appears there later is a reader's, whose editor was still open."""
    names = (name.rpartition("/")[2] for name in files)
    return {name: "" for name in names if name.endswith(f"_{MASK}.nii.gz")}


def used_corrections(patient: PatientFiles, visits: Iterable[str], masks: Mapping[str, str]) -> dict[str, str]:
    """The corrected masks, by visit, that results were made with; `masks` has the hashes by file name."""
    names = {label: patient.visit(label).anat(f"{CORRECTED}.nii.gz").name for label in visits}
    return {label: masks[name] for label, name in names.items() if masks.get(name)}
