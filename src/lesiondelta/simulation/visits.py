"""A labelled longitudinal patient."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lesiondelta.cohort import CONTRASTS
from lesiondelta.images import Affine, Volume, resample
from lesiondelta.simulation.acquisition import Acquisition, aligned, draw_leftovers, draw_protocols, imperfect_mask
from lesiondelta.simulation.anatomy import Anatomy, mni152_anatomy
from lesiondelta.simulation.contrast import Contrast, draw_contrasts, jitter
from lesiondelta.simulation.disease import Disease, LesionPlan, changes_of, draw_disease
from lesiondelta.simulation.head import draw_head, head_values, no_head, with_head
from lesiondelta.simulation.ideal import draw_look, ideal_image, instance_map
from lesiondelta.simulation.native import draw_poses, reference_on, scan, scan_grid

RESIDUAL_MM = {"FLAIR": 0.35, "T1w": 0.7}
"""By how far aligned images are off their place at most."""


@dataclass(frozen=True, eq=False)
class SimulatedVisit:
    """Images by contrast, lesion mask (bool) and instance map (int, one number per lesion over all visits).

    `days` counts from the first visit. `to_patient` holds, by contrast, the (4, 4) matrix from the image's points to
    the patient's anatomy in RAS+ mm: the pose that a registration should find.
    """

    images: Mapping[str, Volume]
    lesions: Volume
    instances: Volume
    days: int
    to_patient: Mapping[str, Affine]


@dataclass(frozen=True, eq=False)
class SimulatedPatient:
    """Visits in time order; `changes` has, per pair of consecutive visits, what every lesion did."""

    label: str
    visits: tuple[SimulatedVisit, ...]
    changes: tuple[Mapping[int, str], ...]


def simulate_patient(
    seed: int,
    visits: int = 2,
    *,
    anatomy: Anatomy | None = None,
    acquisition: Acquisition | None = None,
    lesions: LesionPlan | None = None,
    small: bool = False,
) -> SimulatedPatient:
    """Simulate a patient: the same arguments give the same voxels.

    Parameters
    ----------
    anatomy : None draws one from the MNI152 atlas, by `seed`.
    acquisition : None is `Acquisition()`: aligned images as preprocessing leaves them.
    lesions : None is `LesionPlan()`.
    small : voxels of 2 mm instead of 1 mm, where the anatomy is drawn from the atlas.
    """
    rng = np.random.default_rng(seed)
    anatomy = mni152_anatomy(seed, 2.0 if small else 1.0) if anatomy is None else anatomy
    acquisition = acquisition or Acquisition()
    disease = draw_disease(rng, anatomy, visits, lesions or LesionPlan())
    days = np.cumsum([0, *rng.integers(90, 540, visits - 1)]).tolist()
    scanned = _aligned_visits if acquisition.mode == "aligned" else _native_visits
    made = tuple(scanned(rng, anatomy, disease, days, acquisition))
    return SimulatedPatient(f"{seed:03d}", made, changes_of(disease, visits))


def _aligned_visits(
    rng: np.random.Generator, anatomy: Anatomy, disease: Disease, days: Sequence[int], acquisition: Acquisition
) -> Iterator[SimulatedVisit]:
    """Every visit on the anatomy's own grid, zero outside an imperfect brain mask that is not the brain's alone."""
    look = draw_look(rng, anatomy)
    left, years = draw_leftovers(rng, anatomy.brain, anatomy.spacing_mm, CONTRASTS), _from_midway(days)
    for visit, contrasts in enumerate(_scanners(rng, len(days), acquisition)):
        protocols = draw_protocols(rng, acquisition)
        mask = left.where | imperfect_mask(rng, anatomy.brain, anatomy.tissues[0], anatomy.spacing_mm)
        images = {}
        for name in CONTRASTS:
            image = ideal_image(anatomy, disease, look, (visit, years[visit]), name, contrasts[name])
            image[left.where] = left.brightness[name][left.where]
            ideal = Volume(image, anatomy.affine, name)
            residual_mm = RESIDUAL_MM[name] if acquisition.residual_mm is None else acquisition.residual_mm
            data = aligned(rng, ideal, protocols[name], residual_mm)
            images[name] = ideal.with_data((np.clip(data, 1e-3, None) * mask * 500).astype(np.float32))
        instances = Volume(instance_map(anatomy, disease, visit), anatomy.affine, "instances")
        yield _visit(images, instances, days[visit], {name: np.eye(4) for name in CONTRASTS})


def _native_visits(
    rng: np.random.Generator, anatomy: Anatomy, disease: Disease, days: Sequence[int], acquisition: Acquisition
) -> Iterator[SimulatedVisit]:
    """Every image on its own grid; the reference lies on the FLAIR's."""
    look = draw_look(rng, anatomy)
    head = draw_head(rng, anatomy) if acquisition.whole_head and not anatomy.is_real else no_head(anatomy)
    values = head_values(rng)
    brain, years = Volume(anatomy.brain, anatomy.affine).grid, _from_midway(days)
    for visit, contrasts in enumerate(_scanners(rng, len(days), acquisition)):
        protocols, poses = draw_protocols(rng, acquisition), draw_poses(rng, brain)
        images = {}
        for name in CONTRASTS:
            ideal = ideal_image(anatomy, disease, look, (visit, years[visit]), name, contrasts[name])
            whole = Volume(with_head(ideal, head, anatomy.brain, values, name), head.affine, name)
            grid = scan_grid(
                rng,
                brain,
                poses[name],
                protocols[name],
                least_mm=0.7 if anatomy.spacing_mm < 1.5 else anatomy.spacing_mm,
            )
            images[name] = scan(rng, whole, grid, poses[name], protocols[name])
            if not acquisition.whole_head:
                images[name] = _stripped(images[name], anatomy, poses[name])
        fine = Volume(instance_map(anatomy, disease, visit), anatomy.affine, "instances")
        on_flair = reference_on(fine, images["FLAIR"].grid, poses["FLAIR"])
        yield _visit(images, images["FLAIR"].with_data(on_flair), days[visit], poses)


def _from_midway(days: Sequence[int]) -> list[float]:
    """Years of every visit from halfway between the first and the last: all are blurred alike by being moved."""
    return [(day - (days[0] + days[-1]) / 2) / 365 for day in days]


def _stripped(image: Volume, anatomy: Anatomy, pose: Affine) -> Volume:
    """The image with 0 outside the brain, as brain extraction leaves it."""
    inside = resample(Volume(anatomy.brain > 0, anatomy.affine), image.grid, pose, order="nearest")
    return image.with_data(np.where(inside.data, image.data, 0).astype(image.data.dtype))


def _visit(
    images: Mapping[str, Volume], instances: Volume, days: int, to_patient: Mapping[str, Affine]
) -> SimulatedVisit:
    mask = Volume(instances.data > 0, instances.affine, "lesions")
    return SimulatedVisit(images, mask, Volume(instances.data, instances.affine, "instances"), days, to_patient)


def _scanners(rng: np.random.Generator, visits: int, acquisition: Acquisition) -> Iterator[dict[str, Contrast]]:
    """Contrasts of every visit: the scanner of that number, or one drawn and mostly kept; on another day each time."""
    number, share = acquisition.scanner, acquisition.randomised_share
    scanner = draw_contrasts(rng if number is None else np.random.default_rng(number), share)
    for visit in range(visits):
        if number is None and visit and rng.random() < 0.3:
            scanner = draw_contrasts(rng, share)
        yield jitter(rng, scanner)
