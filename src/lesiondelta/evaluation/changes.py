"""What became of lesions from a visit to the next, by two masks alone, each on the grid that it was drawn on.

Which lesions belong together, and what their volumes say, is decided as `tracking` does it where it has no images: a
lesion is enlarging or shrinking if its volume differs by more than 30 % of the smaller one, and by more than slices and
pixels cut at random explain. Volumes are counted where the masks were drawn, so that no resampling alters them; only
which lesion is which is looked up on a common grid.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lesiondelta.cohort import Change
from lesiondelta.evaluation.instances import at_least, lesions
from lesiondelta.images import GRID_TOLERANCE_MM, Array, Grid, isotropic_grid, resample
from lesiondelta.preprocessing.located import Located
from lesiondelta.preprocessing.points import apply, inside_mm
from lesiondelta.settings import TrackingSettings
from lesiondelta.tracking.change import LEAST_GROWTH, MUCH_THICKER, by_slices, classify
from lesiondelta.tracking.identity import Group, groups_of

CHANGED = (Change.NEW, Change.ENLARGING, Change.SHRINKING, Change.RESOLVED)
TRACKING = TrackingSettings()
COMMON_MM = 1.0
"""Voxel edge of the grid on which masks of different grids meet."""
MARGIN_MM = 2.0
CUBIC = 0.01
"""Relative; voxels whose edges differ by less count as cubic."""

Located2 = tuple[Located, Located]


@dataclass(frozen=True, eq=False)
class ChangedLesion:
    """A lesion that is new, enlarging, shrinking or resolved.

    Attributes
    ----------
    change : Change
    volume_mm3 : float
        The larger of its volumes at both visits.
    places : (N, 3) and (M, 3) float
        Centres in mm of its voxels at the visit before, and at the visit, each in the space of that visit's mask.
    confidence : float or None
        Probability that it changed, if the program that says so gives one.
    """

    change: Change
    volume_mm3: float
    places: tuple[Array, Array]
    confidence: float | None = None


@dataclass(frozen=True, eq=False)
class _Drawn:
    """The lesions of one visit: where its mask lies, their numbers (X, Y, Z) from 1, and by number from 0 their points.

    `volumes` are in mm3 of the patient's space.
    """

    place: Located
    labels: Array
    points: tuple[Array, ...]
    volumes: Array

    @property
    def slice_mm(self) -> float:
        """The thickest voxel edge."""
        return float(max(self.place.image.grid.spacing))

    @property
    def pixel_mm(self) -> float:
        """Edge of a square as large as a pixel of a slice."""
        return math.sqrt(float(np.prod(self.place.image.grid.spacing)) / self.slice_mm)


def changed_lesions(step: Located2, min_lesion_mm3: float) -> list[ChangedLesion]:
    """The lesions that changed between the masks of two visits; those under the limit at both visits are left out.

    `step` has both masks, bool, and the transforms that take points of one common space to theirs.
    """
    before, after = (_drawn(place) for place in step)
    grid = common_grid(step)
    groups = groups_of(_moved(before, grid), _moved(after, grid), TRACKING.tolerance_mm / float(grid.spacing[0]))
    return [one for group in groups for one in _changed(group, before, after, min_lesion_mm3)]


def common_grid(places: Sequence[Located]) -> Grid:
    """The grid of all masks, if it is one of cubic voxels and they lie in place; else one around what they mark."""
    first = places[0].image.grid
    if all(np.array_equal(p.transform, np.eye(4)) and p.image.grid.distance_mm(first) <= GRID_TOLERANCE_MM
           for p in places) and _is_cubic(first):  # fmt: skip
        return first
    marked = [apply(np.linalg.inv(place.transform), inside_mm(place.image)) for place in places]
    points = np.concatenate([*marked, np.zeros((0 if any(map(len, marked)) else 1, 3))])
    return isotropic_grid(points, COMMON_MM, MARGIN_MM)


def on_grid(place: Located, grid: Grid) -> Array:
    """A mask or numbers on the common grid, by the nearest voxel."""
    return resample(place.image, grid, place.transform, order="nearest").data


def size_mm3(volumes: Sequence[float]) -> float:
    """What a lesion's size is judged by: its larger volume, so that both directions of time see one size."""
    return float(max(volumes))


def _is_cubic(grid: Grid) -> bool:
    axes = grid.affine[:3, :3]
    edge = grid.voxel_volume_mm3 ** (2 / 3)
    return bool(np.allclose(axes.T @ axes, edge * np.eye(3), atol=2 * CUBIC * edge))


def _drawn(place: Located) -> _Drawn:
    grid = place.image.grid
    labels = lesions(place.image.data, grid.voxel_volume_mm3, min_lesion_mm3=0)
    points = lesion_points(labels, grid)
    scale = abs(float(np.linalg.det(place.transform[:3, :3])))
    volumes = np.array([len(points[number]) for number in sorted(points)]) * grid.voxel_volume_mm3 / scale
    return _Drawn(place, labels, tuple(points[number] for number in sorted(points)), volumes)


def lesion_points(labels: Array, grid: Grid) -> dict[int, Array]:
    """Centres (N, 3) in mm of the voxels of every lesion, by its number."""
    voxels = np.argwhere(labels)
    owners = labels[tuple(voxels.T)]
    order = np.argsort(owners, kind="stable")
    numbers, starts = np.unique(owners[order], return_index=True)
    parts = np.split(apply(grid.affine, voxels[order]), starts[1:])
    return {int(number): part for number, part in zip(numbers, parts, strict=False)}


def _moved(drawn: _Drawn, grid: Grid) -> Array:
    """The lesions' numbers on the common grid, where each has one voxel at least."""
    numbers = drawn.place.image.with_data(drawn.labels.astype(np.int32))
    moved = on_grid(Located(numbers, drawn.place.transform), grid)
    to_grid = np.linalg.inv(grid.affine) @ np.linalg.inv(drawn.place.transform)
    for number in np.setdiff1d(np.arange(1, len(drawn.points) + 1), moved):
        points = drawn.points[number - 1]
        moved[tuple(np.rint(apply(to_grid, points[len(points) // 2 :][:1])[0]).astype(int))] = number
    return moved


def _changed(group: Group, before: _Drawn, after: _Drawn, min_lesion_mm3: float) -> Iterator[ChangedLesion]:
    """The lesion of a group, if it changed and is large enough."""
    sides, members = (before, after), (group.prior, group.current)
    volumes = [float(sum(own.volumes[n - 1] for n in numbers)) for own, numbers in zip(sides, members, strict=True)]
    places = [_joined(own, numbers) for own, numbers in zip(sides, members, strict=True)]
    hidden = [
        _unseen_mm3(places[i], volumes[i], sides[i].place, sides[1 - i].place) if members[i] else 0.0 for i in (0, 1)
    ]
    too_small = any(
        members[i] and not members[1 - i] and _may_be_missed(volumes[i], sides[i], sides[1 - i]) for i in (0, 1)
    )
    error = TRACKING.error_sd * math.hypot(*_chance_mm3(volumes, sides), *hidden)
    change, _ = classify(group, (volumes[0], volumes[1]), error, LEAST_GROWTH, sum(hidden), too_small=too_small)
    size = size_mm3(volumes)
    if change in CHANGED and at_least(np.array(size), min_lesion_mm3):
        yield ChangedLesion(change, size, (places[0], places[1]))


def _joined(drawn: _Drawn, numbers: Sequence[int]) -> Array:
    return np.concatenate([np.zeros((0, 3)), *(drawn.points[number - 1] for number in numbers)])


def _chance_mm3(volumes: Sequence[float], sides: tuple[_Drawn, _Drawn]) -> list[float]:
    """Standard deviations by how slices cut a lesion; nothing for one of one visit, which is there or is not."""
    if not all(volumes):
        return []
    return [by_slices(volume, own.slice_mm, own.pixel_mm) for volume, own in zip(volumes, sides, strict=True)]


def _unseen_mm3(points: Array, volume_mm3: float, own: Located, other: Located) -> float:
    """How much of a lesion lies outside the other visit's field of view, which ends with the faces of its voxels."""
    to_other = np.linalg.inv(other.image.affine) @ other.transform @ np.linalg.inv(own.transform)
    index = apply(to_other, points)
    shape = np.array(other.image.data.shape)
    shown = ((index >= -0.5 - 1e-6) & (index <= shape - 0.5 + 1e-6)).all(axis=1)
    return volume_mm3 * float(np.mean(~shown))


def _may_be_missed(volume_mm3: float, own: _Drawn, other: _Drawn) -> bool:
    """Whether a lesion is smaller than a ball as wide as the other visit's slices, where these are much thicker."""
    thicker = other.slice_mm > (MUCH_THICKER - 1e-3) * own.slice_mm
    return thicker and volume_mm3 < math.pi / 6 * other.slice_mm**3
