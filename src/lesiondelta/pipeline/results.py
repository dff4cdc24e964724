"""All that follows from a patient's masks: corrections by hand, lesions over time, tables, maps, pictures, the report.

It is done after segmentation, and again by `run --reports-only` once a reader has corrected a mask.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from lesiondelta import records
from lesiondelta.cohort import CONTRASTS, visit_name
from lesiondelta.errors import LesionDeltaError, OutputError
from lesiondelta.files import sha256
from lesiondelta.images import Volume, read_mask, read_probabilities
from lesiondelta.inference.segmenter import SegmentedVisit, Thresholds, counted
from lesiondelta.outputs.corrections import (
    CORRECTED,
    correction_hash,
    derived_hashes,
    drawn_on,
    edits_of,
    note_correction,
    require_own_visit,
    take_edits,
    usable_correction,
)
from lesiondelta.outputs.derivatives import (
    AUTOMATIC,
    MASK,
    PATIENT_AUTOMATIC,
    PATIENT_PROBABILITY,
    Place,
    own_uri,
    read_sidecar,
    write_masks,
)
from lesiondelta.outputs.lesions import map_files, table_files, write_lesion_tables
from lesiondelta.outputs.segmentations import DicomSource, segmentation_files
from lesiondelta.pipeline.changes import (
    Followed,
    change_figures,
    change_map,
    follow,
    lesion_rows,
    step_rows,
    unseen,
    write_maps,
)
from lesiondelta.pipeline.corrected import Correction, correct
from lesiondelta.preprocessing.preparation import PreparedPatient, PreparedVisit
from lesiondelta.preprocessing.store import described, restored
from lesiondelta.records import Record, VisitResult
from lesiondelta.report.patient_page import Report, ReportVisit, write_report
from lesiondelta.report.pictures import Panel, write_picture
from lesiondelta.settings import TrackingSettings

log = logging.getLogger(__name__)

LARGE_LESIONS_ML = 200.0
BRAIN_ML = (700.0, 2200.0)
LEAST_COVERED = 0.95
DAYS_A_YEAR = 365.25


@dataclass(frozen=True)
class Told:
    """What the masks came from, as plain JSON.

    `order` has the labels of all visits, those that failed (`problems`) too; `priors` the index of the visit that each
    segmented one was seen with; `acquired` ISO dates; `dicom` the files of the FLAIR's series, of visits from DICOM.
    """

    order: list[str]
    acquired: dict[str, str | None]
    dicom: dict[str, list[str]]
    problems: dict[str, str]
    priors: list[int]
    probability: float
    min_lesion_mm3: float
    method: str
    models: list[dict[str, str]]
    cautions: list[str]
    settings: dict[str, Any]

    def date(self, visit: str) -> datetime | None:
        """When a visit was acquired, if that is known."""
        said = self.acquired.get(visit)
        return datetime.fromisoformat(said) if said else None

    def source(self, visit: str) -> DicomSource | None:
        """The DICOM that a visit came as, if it did."""
        if visit not in self.dicom:
            return None
        baseline = next(files[0] for files in self.dicom.values())
        return DicomSource(tuple(map(Path, self.dicom[visit])), Path(baseline))


@dataclass(frozen=True, eq=False)
class Made:
    """A prepared patient and its visits as the model has segmented them."""

    prepared: PreparedPatient
    segmented: Sequence[SegmentedVisit]
    told: Told


@dataclass(frozen=True, eq=False)
class _Counted:
    """A visit with the masks that count, after correction: in the patient's space and on its own grid.

    `masks` has the hashes of the mask and of the corrected one as this run has read and left them.
    """

    seen: SegmentedVisit
    own: Volume
    masks: Mapping[str, str]
    correction: Correction | None = None
    unused: str = ""


@dataclass(frozen=True, eq=False)
class Written:
    """A result for every visit, the files written, and the hashes of masks by file name."""

    results: tuple[VisitResult, ...]
    files: list[Path]
    masks: Mapping[str, str]


def write_results(
    out: Path, patient: str, made: Made, flairs: Mapping[str, str], taken: Mapping[str, str], threads: int = 1
) -> Written:
    """Write what follows from the automatic masks, which lie in `out`, and from those corrected by hand.

    `flairs` has the hash of every visit's FLAIR, `taken` those of masks as `take_corrections` has seen them.
    """
    told = made.told
    places = [Place(out, patient, seen.prepared.label) for seen in made.segmented]
    visits = [
        _counted(place, seen, flairs.get(place.visit), taken)
        for place, seen in zip(places, made.segmented, strict=True)
    ]
    segmented = [visit.seen for visit in visits]
    limits = Thresholds(told.probability, told.min_lesion_mm3)
    settings = TrackingSettings.model_validate(told.settings["tracking"])
    followed = follow(made.prepared, segmented, limits, settings, threads)
    write_lesion_tables(out, patient, lesion_rows(followed, segmented), step_rows(followed, segmented))
    results = {label: VisitResult(patient, label, "failed", why) for label, why in told.problems.items()}
    for index, (place, visit) in enumerate(zip(places, visits, strict=True)):
        results[place.visit] = _judge(patient, made, visits, index, followed)
        source, by_hand = told.source(place.visit), visit.correction is not None
        write_maps(place, visit.own, segmented, index, followed, source, by_hand=by_hand)
        _draw(place, results[place.visit], segmented, index, told.priors[index])
    write_report(report_path(out, patient), _report(patient, made, visits, followed, results))
    written = [*table_files(out, patient), report_path(out, patient)]
    for before, place in zip(["", *(p.visit for p in places)], places, strict=False):
        written += map_files(place, [before] if place is not places[0] else [])
        written += [path for path in segmentation_files(place) if path.is_file()]
    masks = {name: said for visit in visits for name, said in visit.masks.items()}
    masks |= {name: said for place in places for name, said in derived_hashes(place).items()}
    return Written(tuple(results.pop(label) for label in told.order if label in results), written, masks)


def _counted(place: Place, seen: SegmentedVisit, flair: str | None, taken: Mapping[str, str]) -> _Counted:
    """The visit as its corrected mask has it, if there is one that can be used; writes the masks that count.

    A reader may have saved a mask since it was `taken`: segmenting takes long.
    """
    ours = {place.anat(f"{name}.nii.gz").name for name in (MASK, CORRECTED)}
    now = take_edits(place, {name: said for name, said in taken.items() if name in ours}, flair)
    automatic = replace(read_mask(place.anat(f"{AUTOMATIC}.nii.gz")), affine=seen.prepared.grids["FLAIR"].affine)
    corrected, unused = usable_correction(place, automatic, flair)
    if unused:
        log.warning("sub-%s, %s: %s", place.patient, visit_name(place.visit), unused)
    result, correction = (seen, None) if corrected is None else correct(seen, automatic, corrected)
    if edits_of(place) != now:  # saved in these seconds
        return _counted(place, seen, flair, now)
    if corrected is None or correction is None:
        write_masks(place, automatic, seen.mask, {})
        return _Counted(seen, automatic, _left(place, now), unused=unused)
    log.warning("sub-%s: mask of %s corrected by hand: %s", place.patient, visit_name(place.visit), correction)
    sources = [own_uri(place, AUTOMATIC), own_uri(place, CORRECTED)]
    write_masks(place, corrected, result.mask, {"Manual": True, "Sources": sources, "Correction": correction.facts})
    about = {key: read_sidecar(place, AUTOMATIC)[key] for key in ("Type", "SpatialReference")}
    note_correction(place, drawn_on(place) or flair, {**about, "Sources": sources[:1]})
    return _Counted(result, corrected, _left(place, now), correction)


def _left(place: Place, taken: Mapping[str, str]) -> dict[str, str]:
    """The hashes of a visit's masks just after the one that counts has been written."""
    mask = place.anat(f"{MASK}.nii.gz")
    return {**taken, mask.name: sha256(mask)}


def kept_of(made: Made) -> dict[str, Any]:
    """What `read_made` needs beside the images in the output folder."""
    return {"told": asdict(made.told), "prepared": described(made.prepared)}


def read_made(out: Path, record: Record) -> Made:
    """The patient as it was segmented, from the images in the output folder and the record's `kept`.

    Raises
    ------
    ImageError, GeometryError
        An image is absent or damaged.
    """
    described_, told = record.kept["prepared"], Told(**record.kept["told"])
    contrasts = list(described_["visits"][0]["from_patient"])
    prepared = restored(
        record.patient,
        described_,
        Place(out, record.patient, "").brain(),
        contrasts,
        lambda visit, contrast: Place(out, record.patient, visit).anat(f"space-patient_{contrast}.nii.gz"),
    )
    return Made(prepared, [_automatic(out, visit, prepared) for visit in prepared.visits], told)


def _automatic(out: Path, visit: PreparedVisit, prepared: PreparedPatient) -> SegmentedVisit:
    place = Place(out, prepared.label, visit.label)
    probability = read_probabilities(place.anat(f"{PATIENT_PROBABILITY}.nii.gz")).data
    mask = read_mask(place.anat(f"{PATIENT_AUTOMATIC}.nii.gz")).data
    return counted(visit, probability, mask, prepared.grid)


def take_corrections(out: Path, patient: str, visits: Iterable[str] = ()) -> dict[str, str]:
    """Keep what a reader has edited since the last run; see `outputs.corrections.take_edits` for what it raises.

    `visits`: labels to be looked at even if no record knows them. Returns the hashes of masks by file name.
    """
    record = records.read_record(out, patient)
    known = [place.visit for place in _places(out, record)]
    flairs = flair_hashes(record.fingerprint) if record else {}
    taken: dict[str, str] = {}
    for visit in dict.fromkeys([*known, *visits]):
        taken |= take_edits(Place(out, patient, visit), record.masks if record else {}, flairs.get(visit))
    return taken


def corrections(out: Path, record: Record) -> dict[str, str]:
    """Hashes of the masks corrected by hand, by visit."""
    found = {place.visit: correction_hash(place) for place in _places(out, record)}
    return {visit: said for visit, said in found.items() if said}


def _places(out: Path, record: Record | None) -> list[Place]:
    """Of the visits that have results."""
    results = record.results if record else ()
    return [Place(out, result.patient, result.visit) for result in results if result.status != "failed"]


def finished(
    out: Path,
    patient: str,
    fingerprint: Mapping[str, Any],
    files: Iterable[Path],
    written: Written,
    made: Made,
) -> Record:
    """The record of a patient whose results have been written."""
    names = tuple(sorted({path.relative_to(out).as_posix() for path in files}))
    record = Record(patient, False, fingerprint, names, written.results, kept_of(made), written.masks)
    paths = {place.visit: place.anat(f"{CORRECTED}.nii.gz") for place in _places(out, record)}
    used = {visit: written.masks.get(path.name, "") for visit, path in paths.items()}
    return replace(record, corrections={visit: said for visit, said in used.items() if said})


def flair_hashes(fingerprint: Mapping[str, Any]) -> dict[str, str]:
    """The hash of every visit's FLAIR, as the fingerprint has them."""
    return {visit["visit"]: visit["FLAIR"] for visit in fingerprint.get("visits", ()) if "FLAIR" in visit}


def report_again(out: Path, patient: str, threads: int = 1) -> tuple[VisitResult, ...]:
    """Write again what follows from the masks of a patient with results in `out`, those corrected by hand included.

    Raises
    ------
    LesionDeltaError
        A corrected mask cannot be used, or there are no results. Nothing has been changed then.
    """
    record = records.read_record(out, patient)
    if record is None or not record.kept:
        raise OutputError(f"{out} holds no finished results of sub-{patient}: run it without --reports-only first.")
    require_own_visit(out, patient, [place.visit for place in _places(out, record)])
    taken = take_corrections(out, patient)
    log.info("sub-%s: what follows from the masks is written again", patient)
    made = read_made(out, record)
    records.write_record(out, replace(record, masks=taken))  # of a run that is killed nothing else is as it was left
    written = write_results(out, patient, made, flair_hashes(record.fingerprint), taken, threads)
    maybe = [path for place in _places(out, record) for path in segmentation_files(place)]
    files = {out / name for name in record.files}.difference(maybe).union(written.files)
    records.finish(out, finished(out, patient, record.fingerprint, files, written, made))
    return written.results


def _judge(patient: str, made: Made, visits: Sequence[_Counted], index: int, followed: Followed) -> VisitResult:
    """The status of a visit, and the row of figures for the tables."""
    told, counted_, seen = made.told, visits[index], visits[index].seen
    prior = visits[told.priors[index]].seen
    brain_mm3 = float(made.prepared.brain.data.sum() * made.prepared.grid.voxel_volume_mm3)
    lost = counted_.correction.lost if counted_.correction else 0
    reasons = [
        *([counted_.unused] if counted_.unused else []),
        *([f"{lost} lesions drawn by hand lie outside the patient's brain and do not count"] if lost else []),
        *seen.prepared.warnings,
        *(f"{visit_name(label)} failed: it is not among the visits compared" for label in told.problems),
        *implausible(seen, brain_mm3, counted_.own),
        *uncovered(seen.prepared, made.prepared.brain),
        *unseen(followed, index),
        *told.cautions,
    ]
    status: records.Status = "flagged" if reasons else "ok" if seen.lesions else "ok-zero-lesions"
    figures: dict[str, float | str] = {
        "prior_session_id": f"ses-{prior.prepared.label}" if prior is not seen else records.NOT_AVAILABLE,
        "lesion_volume_mm3": seen.lesion_volume_mm3,
        "lesions": float(seen.lesions),
        **({"correction": str(counted_.correction)} if counted_.correction else {}),
        **change_figures(followed, index),
        "brain_volume_mm3": brain_mm3,
        **seen.prepared.quality,
        **_age(told, [visit.seen.prepared.label for visit in visits], index),
    }
    said = "; ".join(dict.fromkeys(reason.rstrip(".") for reason in reasons))
    return VisitResult(patient, seen.prepared.label, status, said, figures)


def _age(told: Told, labels: Sequence[str], index: int) -> dict[str, float]:
    """Years since the first of the segmented visits, where all of them have a date."""
    known = [date for label in labels if (date := told.date(label))]
    if len(known) < len(labels):
        return {}
    return {"years_from_first_visit": (known[index] - known[0]).total_seconds() / 86400 / DAYS_A_YEAR}


def implausible(seen: SegmentedVisit, brain_mm3: float, own_mask: Volume) -> list[str]:
    """What a reader should look at before believing the mask."""
    found = []
    low, high = BRAIN_ML
    if not low <= brain_mm3 / 1000 <= high:
        found.append(f"the brain mask holds {brain_mm3 / 1000:.0f} ml ({low:.0f}-{high:.0f} ml are usual)")
    if seen.lesion_volume_mm3 / 1000 > LARGE_LESIONS_ML:
        found.append(f"{seen.lesion_volume_mm3 / 1000:.0f} ml of lesions are more than {LARGE_LESIONS_ML:.0f} ml")
    if seen.lesions and not own_mask.data.any():
        found.append("no lesion of the patient's space is left on the FLAIR's own grid")
    return found


def uncovered(visit: PreparedVisit, brain: Volume) -> list[str]:
    """Images that leave out a part of the brain: lesions there are not seen, and volumes do not compare."""
    shares = {name: float((image.data[brain.data] != 0).mean()) for name, image in visit.images.items()}
    return [f"the {name} covers {share:.0%} of the brain" for name, share in shares.items() if share < LEAST_COVERED]


def report_path(out: Path, patient: str) -> Path:
    """The patient's page."""
    return out / f"sub-{patient}.html"


def log_path(out: Path, patient: str) -> Path:
    """The log file of one patient."""
    return out / "logs" / f"sub-{patient}.log"


def reason_of(error: Exception, out: Path, patient: str) -> str:
    """Log what ended a patient's run, and say it in a sentence."""
    if isinstance(error, LesionDeltaError):
        log.error("sub-%s: %s", patient, error)
        return str(error)
    log.exception("sub-%s: a fault in lesiondelta", patient)
    return f"a fault in lesiondelta ({type(error).__name__}: {error}): see {log_path(out, patient)}"


def _report(
    patient: str,
    made: Made,
    visits: Sequence[_Counted],
    followed: Followed,
    results: Mapping[str, VisitResult],
) -> Report:
    segmented, told = [visit.seen for visit in visits], made.told
    shown = []
    for index, visit in enumerate(visits):
        label, images = visit.seen.prepared.label, visit.seen.prepared.images
        result, instances = results[label], followed.tracking.instances[index]
        shown.append(
            ReportVisit(
                label, told.date(label), result.status, result.reason, images["FLAIR"], instances,
                change_map(followed, index), result.figures, str(visit.correction or ""),
            )
        )  # fmt: skip
    return Report(
        patient=patient,
        visits=shown,
        failed=told.problems,
        lesions=lesion_rows(followed, segmented),
        steps=step_rows(followed, segmented),
        settings=told.settings,
        method=told.method,
        models=told.models,
        cautions=told.cautions,
        contrasts=[name for name in CONTRASTS if name in made.prepared.visits[0].images],
        brain_from=made.prepared.brain_from,
    )


def _draw(place: Place, result: VisitResult, segmented: Sequence[SegmentedVisit], index: int, prior: int) -> None:
    panels = [_panel(segmented[i]) for i in dict.fromkeys((prior, index))]
    seen = segmented[index]
    lesions = f"{seen.lesions} lesion{'' if seen.lesions == 1 else 's'}, {seen.lesion_volume_mm3 / 1000:.2f} ml"
    title = f"{place.stem.replace('_', '  ')}   {result.status}   {lesions}"
    write_picture(place.picture, panels, title, result.reason)


def _panel(seen: SegmentedVisit) -> Panel:
    return Panel(visit_name(seen.prepared.label), seen.prepared.images["FLAIR"], seen.mask)
