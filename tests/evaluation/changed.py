"""Two visits whose lesions changed in ways that can be counted by hand, on grids of any pose, and results of a run."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lesiondelta.cohort import Change, LesionChange
from lesiondelta.images import Volume, write_itk_transform, write_volume
from lesiondelta.outputs.derivatives import PatientFiles
from lesiondelta.outputs.lesions import StepRow, write_lesion_maps, write_lesion_tables
from tests.evaluation.test_metrics import NONE, box

OLD, GROWN = box((1, 4), (1, 4), (2, 4)), box((1, 5), (1, 5), (2, 6))  # 18 and 64
GONE = box((10, 13), (10, 13), (2, 4))  # 18
FRESH = box((10, 14), (1, 5), (10, 14))  # 64
SMALL = box((2, 4), (10, 12), (12, 14))  # 8
FALSE = box((2, 4), (13, 15), (2, 4))  # 8
TRUTH = (OLD | GONE, GROWN | FRESH | SMALL)
"""One lesion enlarges, one is resolved, two are new."""
PATIENT = np.diag([1.0, 1, 1, 1])
PATIENT[:3, 3] = (-8, -6, 3)


def turned(degrees: float, axis: int = 2, shift=(0.0, 0, 0)) -> np.ndarray:
    """A rigid transform (4, 4)."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    a, b = [i for i in range(3) if i != axis]
    matrix = np.eye(4)
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = c, -s, s, c
    matrix[:3, 3] = shift
    return matrix


@dataclass(frozen=True)
class Pose:
    """How a visit's FLAIR is stored: its place, an (X, Y, Z) array of the patient's space on its own grid.

    `transform` takes points of the patient's space to its own; `order` and `flips` are those of its axes; voxels are
    `thick` times longer along the last axis of the patient.
    """

    transform: np.ndarray
    order: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)
    thick: int = 1

    def volume(self, data: np.ndarray) -> Volume:
        """The same lesions on this grid: every voxel of it is `thick` voxels of the patient's, all alike."""
        data = data[:, :, :: self.thick]
        index = np.eye(4)  # own voxel -> the patient's
        for own, (axis, flip) in enumerate(zip(self.order, self.flips, strict=True)):
            step = self.thick if axis == 2 else 1
            index[:3, own] = 0
            index[axis, own] = -step if flip else step
            start = (self.thick - 1) / 2 if axis == 2 else 0
            index[axis, 3] = start + (data.shape[axis] - 1) * step if flip else start
        stored = data.transpose(self.order)
        stored = np.flip(stored, [own for own, flip in enumerate(self.flips) if flip])
        return Volume(np.ascontiguousarray(stored), self.transform @ PATIENT @ index)


PLAIN = Pose(np.eye(4))
TILTED = Pose(turned(25, 0, (4, -7, 2)) @ turned(-10, 2), (2, 0, 1), (True, False, True))
THICK = Pose(turned(12, 1, (-3, 1, 5)), flips=(True, True, False), thick=2)


def put(folder: Path, session: str, volume: Volume, space: str = "orig", sub: str = "1") -> None:
    """Write a mask."""
    name = f"sub-{sub}_ses-{session}_space-{space}_label-L_mask.nii.gz"
    write_volume(folder / f"sub-{sub}/ses-{session}/anat" / name, volume)


def call(change: str, confidence: float | None, before: tuple[int, ...], after: tuple[int, ...], mm3=(0.0, 0.0)):
    """A row of the table of changes, with volumes before and after."""
    return LesionChange(before, after, Change(change), *mm3, 1.0, "by hand", confidence=confidence)


def write_run(out: Path, visits, calls, sub: str = "1", centre=(0.0, 0.0, 0.0)) -> None:
    """What a run leaves of two visits: masks, numbered lesions, transforms, calls; visits are (pose, numbers) each."""
    patient, before = PatientFiles(out, sub), None
    for session, (pose, numbers) in zip("12", visits, strict=True):
        labels = pose.volume(numbers.astype(np.int32))
        put(out, session, labels.with_data(labels.data > 0), sub=sub)
        write_lesion_maps(patient.visit(session), before, labels, labels if before else None, {})
        write_itk_transform(patient.visit(session).transform("orig", ".txt"), pose.transform)
        before = session
    write_lesion_tables(patient, [], [StepRow("1", "2", one, None, centre) for one in calls])


def numbered(*lesions: np.ndarray) -> np.ndarray:
    """Lesions with the numbers 1, 2, ..."""
    labels = NONE.astype(int)
    for number, lesion in enumerate(lesions, start=1):
        labels = np.where(lesion, number, labels)
    return labels
