"""Masks of simulated visits, as they are and as a scan and a segmentation leave them (for `tracking_accuracy.py`)."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from lesiondelta.evaluation.instances import MIN_LESION_MM3, lesion_mask
from lesiondelta.images import Array, Volume
from lesiondelta.inference.model import bundled_model, load_model
from lesiondelta.inference.window import lesion_probabilities
from lesiondelta.simulation import Acquisition, LesionPlan, simulate_patient
from lesiondelta.simulation.acquisition import draw_protocols
from lesiondelta.simulation.evolution import Rates
from lesiondelta.simulation.native import draw_poses, reference_on, scan_grid
from lesiondelta.tracking import TrackedVisit, VisitImage

RESIDUAL_MM = 0.5  # registrations are off by as much at most
OUTLINE_MM, VISIT_MM, ALONG_MM = 0.4, 0.2, 2.0
NOTHING = Rates(new=0, enlarging=0, shrinking=0, resolved=0, quiet=1)


def reference(rng: np.random.Generator, lesions: Volume) -> TrackedVisit:
    """The lesions (X, Y, Z) int of a visit as they are, on 1 mm voxels, sure of every one."""
    return sure(lesions.data > 0, 1.0, 0.0)


def rescanned(rng: np.random.Generator, lesions: Volume) -> TrackedVisit:
    """As the FLAIR of a protocol drawn at random would have them, brought back with a registration error.

    The pose, tilt, thickness of the slices (1 to 5 mm) and gaps are those of the simulator. On the scan's grid, and
    back on the patient's, every lesion has the voxels that it fills most, as many as its volume needs (decision 021).
    """
    protocol = draw_protocols(rng, Acquisition())["FLAIR"]
    pose = draw_poses(rng, lesions.grid)["FLAIR"]
    grid = scan_grid(rng, lesions.grid, pose, protocol, least_mm=0.7)
    scan = Volume(reference_on(lesions, grid, pose), grid.affine)
    shift = rng.normal(size=3)
    shift *= rng.uniform(0, RESIDUAL_MM) / np.linalg.norm(shift)
    back = np.linalg.inv(pose).astype(np.float64)
    back[:3, 3] += shift
    mask = without_specks(reference_on(scan, lesions.grid, back) > 0)
    return sure(mask, protocol.step_mm, float(np.linalg.norm(shift)))


def outlined(rng: np.random.Generator, lesions: Volume) -> TrackedVisit:
    """`rescanned`, and its outlines are moved at random, each lesion's for itself and a visit's all in one direction.

    The probabilities know by how much: those of a segmentation that is calibrated.
    """
    seen = rescanned(rng, lesions)
    noise = ndimage.gaussian_filter(rng.standard_normal(seen.mask.shape, dtype=np.float32), ALONG_MM / 2)
    moved = depth_mm(seen.mask) + OUTLINE_MM * noise / noise.std() + rng.normal(0, VISIT_MM)
    probability = likely(moved, float(np.hypot(OUTLINE_MM, VISIT_MM)))
    return TrackedVisit(without_specks(moved > 0), probability, seen.slice_mm, seen.residual_mm)


MASKS: dict[str, Callable[[np.random.Generator, Volume], TrackedVisit]] = {
    "reference": reference,
    "rescanned": rescanned,
    "rescanned, noisy outlines": outlined,
}


def sure(mask: Array, slice_mm: float, residual_mm: float) -> TrackedVisit:
    """A visit with no doubt about any voxel of its mask."""
    return TrackedVisit(mask, np.where(mask, 0.99, 0.01).astype(np.float32), slice_mm, residual_mm)


def without_specks(mask: Array) -> Array:
    """The mask without pieces under 3 mm3, as segmentation leaves them out."""
    return lesion_mask(mask.astype(np.float32), 0.5, MIN_LESION_MM3, (1, 1, 1))


def depth_mm(mask: Array) -> Array:
    """Signed distance to the border of a mask on 1 mm voxels, positive inside."""
    inside, outside = (ndimage.distance_transform_edt(side) for side in (mask, ~mask))
    depth: Array = np.where(mask, inside - 0.5, 0.5 - outside).astype(np.float32)
    return depth


def likely(depth: Array, deviation_mm: float) -> Array:
    """Probability of lesion at a depth that is known with a standard deviation (the normal one, by a logistic)."""
    p: Array = 1 / (1 + np.exp(-np.clip(1.702 * depth / deviation_mm, -30, 30)))
    return p


def segmented(
    seed: int, rates: Rates, slices_mm: Sequence[float] = (1.0, 3.0)
) -> tuple[list[Volume], list[TrackedVisit], float]:
    """A patient whose lesions change by `rates`: lesions and the bundled model's visits, by slices; its threshold."""
    model = load_model(bundled_model())
    scanned = [
        simulate_patient(seed, len(slices_mm), acquisition=Acquisition(slice_mm=mm), lesions=LesionPlan(rates=rates))
        for mm in slices_mm
    ]
    visits = [
        patient.visits[index] for index, patient in enumerate(scanned)
    ]  # of the same lesions, on another day each
    images = [np.stack([visit.images[name].data for name in model.contrasts]) for visit in visits]
    brain = ndimage.find_objects(np.any([image.any(axis=0) for image in images], axis=0).astype(np.uint8))[0]
    seen = lesion_probabilities(
        [image[:, *brain] for image in images], [model], mirroring=False, overlap=0.1, device="cpu"
    )
    found = []
    for visit, probability, mm in zip(visits, seen, slices_mm, strict=True):
        flair = visit.images["FLAIR"].data[brain]
        mask = lesion_mask(probability, model.threshold, model.min_lesion_mm3, (1, 1, 1))
        found.append(
            TrackedVisit(mask, probability, mm, image=visit_image(flair, slice_axis(visit.images["FLAIR"].data), mm))
        )
    return [Volume(visit.instances.data[brain], visit.instances.affine) for visit in visits], found, model.threshold


def visit_image(flair: Array, axis: int, slice_mm: float) -> VisitImage:
    """A FLAIR (X, Y, Z) of 1 mm voxels whose slices lie along an axis."""
    blur = np.eye(3) / 12
    blur[axis, axis] = slice_mm**2 / 12
    return VisitImage(flair, blur)


def slice_axis(flair: Array) -> int:
    """The axis that an image is blurred along, as slices do."""
    inside = ndimage.binary_erosion(flair > 0, iterations=3)

    def sharpness(axis: int) -> float:
        both = np.delete(inside, 0, axis) & np.delete(inside, -1, axis)
        return float((np.diff(flair, axis=axis)[both] ** 2).mean())

    return int(np.argmin([sharpness(axis) for axis in range(3)]))
