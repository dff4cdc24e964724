"""One patient's visits, from their files into one space: register, check, find the brain, resample once, correct bias.

The patient's space has the axes of the world (RAS+) where the baseline visit's FLAIR lies, or half-way between the
visits, in cubic voxels.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from lesiondelta.cohort import CONTRASTS
from lesiondelta.errors import ImageError, LesionDeltaError, NoVisitError, RegistrationError
from lesiondelta.images import (
    Affine,
    Grid,
    Volume,
    corners_mm,
    isotropic_grid,
    resample,
)
from lesiondelta.inputs.checks import CheckedPatient, CheckedVisit
from lesiondelta.preprocessing import appearance, brain, gate, image_quality, intensity, programs
from lesiondelta.preprocessing.located import Located
from lesiondelta.preprocessing.midway import midway
from lesiondelta.preprocessing.points import apply, coarse_mask, dilate, inside_mm
from lesiondelta.preprocessing.regions import atlas_to, regions_of
from lesiondelta.preprocessing.registration import ENGINES, REFINERS
from lesiondelta.settings import PreprocessingSettings

log = logging.getLogger(__name__)

PREPARATION = 7
"""Raised with every change of what is prepared from the same images and settings: older results are redone then."""
NOT_CHECKED = "the atlas does not fit the brain: what the images show was not checked"
NO_ATLAS = f"{NOT_CHECKED}, and lesions have no location"
MARGIN_MM = 3.0
"""Around the brain, in the patient's grid."""
REACH_MM = 20.0
"""How far the brain may reach beyond the baseline's field of view."""
NEAR_MM = 10.0
"""Around the brain, where the registration of visits looks."""
COVERAGE_MM, LEAST_COVERED = 3.0, 0.95
"""Distance of the points that have to lie within an image, and the share of them below which it is doubtful."""


@dataclass(frozen=True)
class PreparedVisit:
    """A visit in the patient's space.

    Attributes
    ----------
    images : contrast -> float32 on the patient's grid, bias-corrected, 0 outside the brain
    from_patient : contrast -> (4, 4), point of the patient's space -> that image's own point, RAS+ mm
    grids : contrast -> the image's own grid
    quality : registration figures, such as "T1w_residual_mm"
    """

    label: str
    images: Mapping[str, Volume]
    from_patient: Mapping[str, Affine]
    grids: Mapping[str, Grid]
    quality: Mapping[str, float]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class PreparedPatient:
    """A patient's visits on one grid; `failures` tells why the others are not among them.

    `brain_from` says where the first one's brain comes from: `given` by the user, its `own`, stripped as it is, or the
    method that found it. `from_atlas` takes points of the atlas to the patient's space (RAS+ mm); None where it was not
    asked for, or could not be registered. `parts` are labels of `atlas.parts.Part` on the grid, None where not known.
    """

    label: str
    grid: Grid
    brain: Volume
    visits: tuple[PreparedVisit, ...]
    failures: Mapping[str, str]
    brain_from: str = ""
    from_atlas: Affine | None = None
    parts: Volume | None = None


@dataclass(frozen=True)
class _Loaded:
    """A visit as read; `transforms` take points of its reference, then the baseline's, then the patient's, to images.

    `own_brain` is the mask it brings; `stripped` says that its reference shows nothing but the brain.
    """

    label: str
    images: Mapping[str, Volume]
    transforms: Mapping[str, Affine]
    own_brain: Volume | None
    stripped: bool
    quality: Mapping[str, float]
    warnings: tuple[str, ...] = ()


V = TypeVar("V", CheckedVisit, _Loaded)
R = TypeVar("R")


def prepare_patient(
    patient: CheckedPatient, settings: PreprocessingSettings, contrasts: Sequence[str] = CONTRASTS
) -> PreparedPatient:
    """Bring every visit that can be trusted into the patient's space; the others are named in `failures`.

    A visit may lack some of the contrasts, but not the FLAIR where that is one of them.

    Raises
    ------
    LesionDeltaError
        No visit at all could be prepared.
    """
    reference = "FLAIR" if "FLAIR" in contrasts else contrasts[0]
    failures: dict[str, str] = {}
    loaded = _each(patient.visits, lambda visit: _load(visit, contrasts, reference, settings), failures)
    anatomy: list[tuple[_Loaded, Volume]] = []
    while loaded and not anatomy:
        anatomy = _each(loaded[:1], lambda visit: _become_baseline(visit, reference, settings), failures)
        loaded = loaded[1:]
    _require_visits(patient, anatomy, failures)
    baseline, mask = anatomy[0]
    placed = _each(loaded, lambda visit: _place(visit, baseline, mask, reference, settings), failures)
    visits = [_warned(visit, loaded, failures) for visit in (baseline, *placed)]
    if settings.space == "midway":
        visits, mask = _half_way(visits, mask, reference, settings.spacing_mm)
    visits = [_measured(visit, mask) for visit in visits]
    mask = _common_brain(visits, mask, reference, settings.spacing_mm)
    prepared = _each(visits, lambda visit: _resample(visit, mask, settings), failures)
    _require_visits(patient, prepared, failures)
    origin = _brain_from(patient, baseline, settings)
    return PreparedPatient(patient.label, mask.grid, mask, tuple(prepared), failures, origin)


def with_atlas(prepared: PreparedPatient, threads: int = 1) -> PreparedPatient:
    """The patient with the atlas registered to its brain, so that lesions get a location."""
    t1ws = [visit.images["T1w"] for visit in prepared.visits if "T1w" in visit.images]
    image = t1ws[0] if t1ws else next(iter(prepared.visits[0].images.values()))
    try:
        return replace(prepared, from_atlas=atlas_to(image, threads))
    except RegistrationError as error:
        log.warning("sub-%s: %s The atlas cannot locate lesions", prepared.label, error)
        return prepared


def with_appearance(prepared: PreparedPatient, refuse: bool = True) -> PreparedPatient:
    """The patient without visits whose images show something else than their names say, if `refuse`.

    What is doubtful becomes a warning of its visit, and the figures become part of its quality.
    """
    kept, failures, from_atlas = [], dict(prepared.failures), _fitting_atlas(prepared)
    for visit in prepared.visits:
        located = {name: Located(image, np.eye(4)) for name, image in visit.images.items()}
        found = {} if from_atlas is None else appearance.measure(located, prepared.brain, from_atlas)
        wrong, doubtful = appearance.contradictions(found, {name: image.name for name, image in visit.images.items()})
        if wrong and refuse:
            failures[visit.label] = " ".join(wrong)
            continue
        figures = {
            f"{name}_{what}": getattr(one, what) for name, one in found.items() for what in ("contrast", "fluid")
        }
        warnings = [*wrong, *doubtful] if found else [NO_ATLAS]
        kept.append(replace(visit, quality={**visit.quality, **figures}, warnings=(*visit.warnings, *warnings)))
    return replace(prepared, visits=tuple(kept), failures=failures)


def _fitting_atlas(prepared: PreparedPatient) -> Affine | None:
    """Where the atlas lies, if it was registered and lies on the brain."""
    try:
        return (
            prepared.from_atlas
            if prepared.from_atlas is not None and regions_of(prepared.brain, prepared.from_atlas).any()
            else None
        )
    except RegistrationError:
        return None


def _require_visits(patient: CheckedPatient, found: Sequence[object], failures: Mapping[str, str]) -> None:
    if not found:
        raise NoVisitError(patient.label, failures)


def _each(items: Sequence[V], step: Callable[[V], R], failures: dict[str, str]) -> list[R]:
    """Results of a step over visits; a visit that fails is noted and left out."""
    results = []
    for item in items:
        try:
            results.append(step(item))
        except LesionDeltaError as error:
            failures[item.label] = str(error)
            log.warning("visit %s: %s", item.label or "(only one)", error)
    return results


def _load(visit: CheckedVisit, contrasts: Sequence[str], reference: str, settings: PreprocessingSettings) -> _Loaded:
    """Register the other contrasts of a visit to its reference."""
    images = {contrast: visit.images[contrast] for contrast in contrasts if contrast in visit.images}
    own_brain, stripped = _own_brain(visit, images, reference, settings)
    transforms = {reference: np.eye(4)}
    for contrast in images:
        if contrast != reference:
            engine = ENGINES[settings.registration]
            transforms[contrast] = engine(images[reference], images[contrast], degrees=6, threads=settings.threads)
    missing = [f"there is no {c}, without which masks are less accurate" for c in contrasts if c not in images]
    return _Loaded(visit.label, images, transforms, own_brain, stripped, {}, (*visit.visit.doubts, *missing))


def _own_brain(
    visit: CheckedVisit, images: Mapping[str, Volume], reference: str, settings: PreprocessingSettings
) -> tuple[Volume | None, bool]:
    """The mask the visit brings, and whether its reference is stripped.

    That mask is the user's, or the reference's foreground if every image is stripped: one alone may be a thin slab.
    """
    if visit.brain_mask is not None:
        return visit.brain_mask, brain.own_mask(images[reference]) is not None
    if settings.skull_strip == "force":
        return None, False
    masks = {c: brain.own_mask(image, certain=settings.skull_strip == "skip") for c, image in images.items()}
    all_stripped = all(mask is not None for mask in masks.values())
    if all_stripped:
        log.info("visit %s: its images show only the brain", visit.label or "(only one)")
    return masks[reference] if all_stripped else None, masks[reference] is not None


def _brain_from(patient: CheckedPatient, baseline: _Loaded, settings: PreprocessingSettings) -> str:
    """See PreparedPatient."""
    if baseline.own_brain is None:
        return settings.brain_extraction
    given = any(v.label == baseline.label and v.brain_mask is not None for v in patient.visits)
    return "given" if given else "own"


def _become_baseline(visit: _Loaded, reference: str, settings: PreprocessingSettings) -> tuple[_Loaded, Volume]:
    """The visit, checked, and the brain in the space of its reference."""
    mask, doubts = _find_brain(visit, reference, settings)
    visit = replace(visit, warnings=(*visit.warnings, *doubts))
    if settings.gate:
        doubts = brain.require_extent(mask, visit.images[reference].name)
        visit = replace(visit, warnings=(*visit.warnings, *doubts))
        _require_names(visit, mask)
    visit = _refined(visit, reference, mask, np.eye(4), settings)
    return (_checked_contrasts(visit, reference, mask) if settings.gate else visit), mask


def _require_names(visit: _Loaded, mask: Volume) -> None:
    """Raise ImageError where the images plainly show something else than their names say.

    Before the gate, which refuses them without knowing why; the atlas is not registered yet.
    """
    images = {name: Located(image, visit.transforms[name]) for name, image in visit.images.items()}
    found = appearance.measure(images, mask, appearance.by_extent(mask))
    names = {name: image.name for name, image in visit.images.items()}
    wrong, _ = appearance.contradictions(found, names, appearance.BY_EXTENT)
    if wrong:
        raise ImageError(wrong[0])


def _find_brain(visit: _Loaded, reference: str, settings: PreprocessingSettings) -> tuple[Volume, list[str]]:
    """The brain in the space of the visit's reference, on cubic voxels that reach beyond its field of view; doubts."""
    grid = isotropic_grid(corners_mm(visit.images[reference].grid), settings.spacing_mm, REACH_MM)
    if visit.own_brain is not None:
        mask = _as_mask(resample(visit.own_brain, grid, order="linear"))
        if not mask.data.any():
            raise ImageError(f"The brain mask of {visit.images[reference].name} is too small for a brain: look at it.")
        return mask, []
    log.info("visit %s: the brain is found by %s", visit.label or "(only one)", settings.brain_extraction)
    seen = brain.looked_at(settings.brain_extraction, list(visit.images))
    heads = {name: resample(visit.images[name], grid, visit.transforms[name], "linear") for name in seen}
    mask = brain.extract(heads, settings.brain_extraction, settings.threads)
    if settings.brain_extraction == "atlas" and list(heads) == ["FLAIR"]:
        return brain.confirmed(mask, heads["FLAIR"])
    return mask, []


def _place(visit: _Loaded, baseline: _Loaded, mask: Volume, reference: str, settings: PreprocessingSettings) -> _Loaded:
    """Register a visit to the baseline, compose its transforms, and check that both are aligned and one person's."""
    fixed, moving = baseline.images[reference], visit.images[reference]
    near = mask if baseline.stripped or visit.stripped else dilate(mask, NEAR_MM)
    engine = ENGINES[settings.registration]
    transform = engine(fixed, moving, degrees=12, threads=settings.threads, mask=near)
    visit = _refined(visit, reference, mask, transform, settings)
    transforms = {contrast: own @ transform for contrast, own in visit.transforms.items()}
    ratio = float(np.linalg.det(transform[:3, :3]))
    quality = {**visit.quality, "brain_to_first_visit": ratio}
    warnings = (*visit.warnings, *image_quality.doubts_of_size(ratio))
    placed = replace(visit, transforms=transforms, quality=quality, warnings=warnings)
    if not settings.gate:
        return placed
    _require_names(placed, mask)
    placed = _checked_contrasts(placed, reference, mask)
    before, now = Located(fixed, np.eye(4)), Located(moving, transform)
    placed = _noted(placed, "baseline_residual_mm", gate.check_alignment(before, now, mask))
    for contrast, image in visit.images.items():
        if contrast not in baseline.images:
            continue
        before = Located(baseline.images[contrast], baseline.transforms[contrast])
        refuse = contrast == reference  # another person's T1w does not fit its own visit's FLAIR: refused above
        checked = gate.check_person(before, Located(image, transforms[contrast]), mask, refuse=refuse)
        placed = _noted(placed, f"baseline_{contrast}_person_mm", checked)
    return placed


def _refined(
    visit: _Loaded, reference: str, mask: Volume, to_reference: Affine, settings: PreprocessingSettings
) -> _Loaded:
    """The visit, its contrasts registered to its reference once more, by the brain only.

    `to_reference` takes points of the brain mask's space to the reference's.
    """
    refine = REFINERS.get(settings.registration)
    if refine is None:
        return visit
    fixed = visit.images[reference]
    to_mask = np.asarray(np.linalg.inv(to_reference), dtype=np.float64)
    inside = resample(mask, fixed.grid, to_mask, order="nearest")
    for contrast, start in visit.transforms.items():
        if contrast != reference:
            try:
                better = refine(fixed, visit.images[contrast], start, inside, settings.threads)
                visit = replace(visit, transforms={**visit.transforms, contrast: better})
            except RegistrationError as error:  # a thin slab: what was found before is judged by the gate
                log.warning("visit %s: %s", visit.label or "(only one)", error)
                warning = f"The {contrast} could not be registered by the brain only: compare it with the {reference}."
                visit = replace(visit, warnings=(*visit.warnings, warning))
    return visit


def _checked_contrasts(visit: _Loaded, reference: str, mask: Volume) -> _Loaded:
    """The visit with a residual for each contrast that was registered to its reference."""
    fixed = Located(visit.images[reference], visit.transforms[reference])
    for contrast, image in visit.images.items():
        if contrast != reference:
            checked = gate.check_alignment(fixed, Located(image, visit.transforms[contrast]), mask)
            visit = _noted(visit, f"{contrast}_residual_mm", checked)
    return visit


def _noted(visit: _Loaded, name: str, check: gate.Check) -> _Loaded:
    error = {} if check.error_mm is None else {name.replace("_mm", "_error_mm"): check.error_mm}
    quality = {**visit.quality, name: check.value_mm, **error}
    return replace(visit, quality=quality, warnings=visit.warnings + check.warnings)


def _warned(visit: _Loaded, later: Sequence[_Loaded], failures: Mapping[str, str]) -> _Loaded:
    """The visit with a warning for each later one that would not fit: which of them is wrong, nobody knows."""
    refused = [other.label for other in later if other.label in failures]
    warnings = tuple(f"Visit {label} does not fit the baseline: {failures[label]}" for label in refused)
    return replace(visit, warnings=visit.warnings + warnings)


def _half_way(
    visits: Sequence[_Loaded], mask: Volume, reference: str, spacing_mm: float
) -> tuple[list[_Loaded], Volume]:
    """Visits and brain in the space half-way between the visits."""
    to_baseline = midway([visit.transforms[reference] for visit in visits])
    corners = apply(np.linalg.inv(to_baseline), corners_mm(mask.grid))
    moved = resample(mask, isotropic_grid(corners, spacing_mm), to_baseline, order="linear")
    placed = [replace(v, transforms={c: own @ to_baseline for c, own in v.transforms.items()}) for v in visits]
    return placed, _as_mask(moved)


def _measured(visit: _Loaded, mask: Volume) -> _Loaded:
    """The visit with each image's quality and the share of the brain that it shows, before the brain is cut to that."""
    points = inside_mm(coarse_mask(mask, COVERAGE_MM))
    quality, warnings = dict(visit.quality), list(visit.warnings)
    for contrast, image in visit.images.items():
        share = float(Located(image, visit.transforms[contrast]).covers(points).mean())
        quality[f"{contrast}_coverage"] = share
        if share < LEAST_COVERED:
            warnings.append(f"the {contrast} shows {share:.0%} of the brain")
        to_mask = np.asarray(np.linalg.inv(visit.transforms[contrast]), dtype=np.float64)
        inside = resample(mask, image.grid, to_mask, order="nearest").data
        quality |= {f"{contrast}_{name}": value for name, value in image_quality.measured(image, inside).items()}
    return replace(visit, quality=quality, warnings=tuple(warnings))


def _common_brain(visits: Sequence[_Loaded], mask: Volume, reference: str, spacing_mm: float) -> Volume:
    """Union of the visits' brains where any of them was imaged, cropped to its box."""
    found, seen = mask.data, np.zeros(mask.data.shape, bool)
    for visit in visits:
        place = visit.transforms[reference]
        if visit.own_brain is not None:
            found = found | _as_mask(resample(visit.own_brain, mask.grid, place, order="linear")).data
        imaged = visit.images[reference].with_data(np.ones(visit.images[reference].data.shape, bool))
        seen |= resample(imaged, mask.grid, place, order="nearest").data
    inside = mask.with_data(found & seen)
    grid = isotropic_grid(inside_mm(inside), spacing_mm, MARGIN_MM)
    return replace(resample(inside, grid, order="nearest"), name="brain")


def _resample(visit: _Loaded, mask: Volume, settings: PreprocessingSettings) -> PreparedVisit:
    """Each image once through its composed transform; then masked and corrected. Images side by side, on threads."""

    def of_patient(contrast: str) -> Volume:
        moved = resample(visit.images[contrast], mask.grid, visit.transforms[contrast])
        moved = replace(moved, data=np.where(mask.data, moved.data, 0).astype(np.float32))
        return intensity.correct_bias(moved, mask) if settings.bias_correction else moved

    images = intensity.side_by_side(of_patient, list(visit.images), settings.threads)
    grids = {contrast: image.grid for contrast, image in visit.images.items()}
    return PreparedVisit(visit.label, images, visit.transforms, grids, visit.quality, visit.warnings)


def _as_mask(share: Volume) -> Volume:
    return share.with_data(share.data > 0.5)


def require_programs(settings: PreprocessingSettings) -> None:
    """Raise DependencyError where an external program that the settings name is not installed."""
    if settings.registration in programs.ADVICE:
        programs.require_program(settings.registration, programs.ADVICE[settings.registration])
    if settings.brain_extraction in brain.PROGRAMS and settings.skull_strip != "skip":
        brain.require_extraction(settings.brain_extraction)
