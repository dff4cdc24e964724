"""What lesions do between visits."""

from dataclasses import dataclass

import numpy as np

CHANGES = ("new", "enlarging", "shrinking", "resolved", "stable")
LARGE_MM3 = 1000.0


@dataclass(frozen=True)
class Rates:
    """Probability, per lesion and pair of visits, of each change; the rest stays exactly as it is.

    `quiet` is the share of patients in whom nothing changes at all. Lesions over 1 ml do not come and go: where one
    would, it stays as it is. With three and more visits a lesion that is new at
    a later pair was absent before, so that earlier pairs see slightly fewer changes.
    """

    new: float = 0.04
    enlarging: float = 0.05
    shrinking: float = 0.04
    resolved: float = 0.02
    quiet: float = 0.2


def draw_sizes(rng: np.random.Generator, voxels: int, visits: int, rates: Rates, spacing_mm: float) -> tuple[int, ...]:
    """Size in voxels at every visit, 0 where the lesion is absent."""
    chances = (rates.new, rates.enlarging, rates.shrinking, rates.resolved)
    sizes, large = [voxels], voxels * spacing_mm**3 > LARGE_MM3
    for pair in range(visits - 1):
        outcome = int(np.searchsorted(np.cumsum(chances), rng.random(), side="right"))
        change = "stable" if large and CHANGES[outcome] in ("new", "resolved") else CHANGES[outcome]
        if change == "new":
            sizes = [0] * (pair + 1) + [voxels]
        else:
            sizes.append(_changed(rng, sizes[-1], change, large))
    return tuple(sizes)


def _changed(rng: np.random.Generator, voxels: int, change: str, large: bool) -> int:
    """Size after a change; small lesions grow by more than large ones, and by one voxel at least."""
    share = rng.random()
    if change == "resolved" or not voxels:
        return 0
    if change == "enlarging":
        return max(voxels + 1, round(voxels * (1.25 + 0.35 * share if large else 1.5 + 1.2 * share)))
    if change == "shrinking":
        return max(1, min(voxels - 1, round(voxels * (0.35 + 0.35 * share))))
    return voxels


def changes_between(before: int, after: int) -> str:
    """Name of the change from one size to another; both 0 is no change and no lesion."""
    if before == after:
        return "stable" if before else "absent"
    if not before or not after:
        return "resolved" if before else "new"
    return "enlarging" if after > before else "shrinking"
