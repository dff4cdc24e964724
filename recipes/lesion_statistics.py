"""Numbers, sizes and places of real and of simulated lesions, side by side (decision 070).

    python recipes/lesion_statistics.py [--data DIR] [--patients N]

Real: the open consensus masks. Drawn: what the simulator means to place. Simulated: patients drawn from the atlas,
without images. All sizes are a person's.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import ndimage

from lesiondelta.atlas import mni152_regions
from lesiondelta.atlas.location import Location, locate
from lesiondelta.images import Array, read_mask, resample
from lesiondelta.simulation.anatomy import mni152_anatomy
from lesiondelta.simulation.evolution import Rates
from lesiondelta.simulation.lesions import draw_count, draw_lesions, draw_volumes

SMALLEST_MM3 = 3
TO_PERSON = np.diag([0.9, 0.9, 0.9, 1])
"""From the atlas to the frame of the open masks: its grid is the MNI152's, but brains have their own size. With this
factor most lesion voxels lie in the atlas's white matter: 85 %, and 76 % without it (decision 070)."""
FIRST_SEED = 500
Measured = list[tuple[Location, float]]


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("LESIONDELTA_DATA", Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--patients", type=int, default=12, help="to simulate")
    given = parser.parse_args()
    describe("real", list(real(given.data)))
    describe_drawn(3000)
    describe("simulated", list(simulated(given.patients)))


def real(data: Path) -> Iterator[Measured]:
    """The lesions of every open mask."""
    atlas = mni152_regions()
    for path in sorted((data / "ljubljana-lesion-masks").glob("*_mask.nii.gz")):
        mask = read_mask(path)
        regions = resample(atlas, mask.grid, np.linalg.inv(TO_PERSON), order="nearest")
        yield measure(mask.data, regions.data)


def simulated(patients: int) -> Iterator[Measured]:
    """The lesions of patients drawn from the atlas."""
    for seed in range(FIRST_SEED, FIRST_SEED + patients):
        anatomy, rng = mni152_anatomy(seed), np.random.default_rng(seed - FIRST_SEED)
        mask = np.zeros(anatomy.brain.shape, bool)
        for lesion in draw_lesions(rng, anatomy, 1, Rates(), draw_count(rng)):
            mask[lesion.box] |= lesion.mask(0)
        yield measure(mask, anatomy.regions)


def describe_drawn(patients: int) -> None:
    """Quartiles over patients of what the simulator means to place."""
    rng = np.random.default_rng(0)
    drawn = [[volume for _, volume in draw_volumes(rng, draw_count(rng))] for _ in range(patients)]
    print(f"drawn: {patients} patients")
    print(f"  lesions of a patient {quartiles([len(volumes) for volumes in drawn])}")
    print(f"  load, ml {quartiles([sum(volumes) / 1000 for volumes in drawn])}")


def measure(mask: Array, regions: Array) -> Measured:
    """Location and volume of every lesion, on voxels of 1 mm3."""
    labels, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())
    labels[sizes[labels] < SMALLEST_MM3] = 0
    return [(location, float(sizes[number])) for number, location in locate(labels, regions, 1.0).items()]


def describe(name: str, patients: list[Measured]) -> None:
    """Quartiles over patients, and by location."""
    counts = [len(lesions) for lesions in patients]
    loads = [sum(size for _, size in lesions) / 1000 for lesions in patients]
    print(f"{name}: {len(patients)} patients, {sum(counts)} lesions")
    print(
        f"  lesions of a patient {quartiles(counts)}, "
        f"log mean {np.log(counts).mean():.2f} sd {np.log(counts).std():.2f}"
    )
    print(f"  load, ml {quartiles(loads)}")
    for location in Location:
        sizes = [size for lesions in patients for where, size in lesions if where is location]
        logs = np.log(sizes)
        print(
            f"  {location}: share {len(sizes) / sum(counts):.3f}, mm3 {quartiles(sizes)}, "
            f"log mean {logs.mean():.2f} sd {logs.std():.2f}"
        )


def quartiles(values: list[float] | list[int]) -> str:
    """Smallest, quartiles, largest."""
    return ", ".join(f"{value:.1f}" for value in np.percentile(values, [0, 25, 50, 75, 100]))


if __name__ == "__main__":
    main()
