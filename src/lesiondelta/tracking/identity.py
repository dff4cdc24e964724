"""Which lesions of two visits belong together, and the numbers that lesions keep over all visits."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lesiondelta.images import Array


@dataclass(frozen=True)
class Group:
    """Lesions of two visits that belong together: numbers in the prior's map and in the current visit's.

    One and one: the same lesion. None and one: it was not there before; several and one: they have merged; and the
    other way round.
    """

    prior: tuple[int, ...]
    current: tuple[int, ...]


def groups_of(prior: Array, current: Array, tolerance_voxels: float) -> list[Group]:
    """Group the lesions of two visits; exchanging the visits exchanges the sides of every group.

    Lesions belong together where they share voxels. One that shares none with anything belongs to what is within the
    tolerance of it, since two visits never lie on each other exactly. Of these links, those are kept that are the
    strongest one of either lesion, so that two neighbours that touch each other's outline stay two lesions.

    Parameters
    ----------
    prior, current : (X, Y, Z) int
        0, and a number for each lesion, on one grid.
    tolerance_voxels : float
        Distance between the nearest voxels of two lesions.
    """
    numbers = [np.unique(labels[labels > 0]) for labels in (prior, current)]
    pairs, shared = _links(prior, current, tolerance_voxels)
    rows, columns = (np.searchsorted(n, pairs[:, side]) for side, n in enumerate(numbers))
    strongest = _strongest(rows, shared) | _strongest(columns, shared)
    rows, columns = rows[strongest], columns[strongest]
    total, first = sum(map(len, numbers)), len(numbers[0])
    graph = coo_array((np.ones(len(rows)), (rows, first + columns)), shape=(total, total))
    count, of = connected_components(graph, directed=False)
    members: list[tuple[list[int], list[int]]] = [([], []) for _ in range(count)]
    for side, (lesions, own) in enumerate(zip(numbers, (of[:first], of[first:]), strict=True)):
        for lesion, group in zip(lesions.tolist(), own.tolist(), strict=True):
            members[group][side].append(lesion)
    return [Group(tuple(before), tuple(after)) for before, after in members]


def name_lesions(
    instances: Sequence[Array], vanished: Sequence[Array], tolerance_voxels: float
) -> tuple[list[Array], list[Array]]:
    """The same lesions with numbers that stay over all visits; and, for every step, `Tracking.before`.

    A lesion takes the number of the one that it shares most with at the visit before; one that has none there, the
    number of one that was at its place at an earlier visit and has vanished since; else a new number. `vanished` has,
    for every step, lesions of its earlier visit that only that step knows; their numbers are new. A visit more at the
    end changes no number of the others.
    """
    named: list[Array] = []
    before: list[Array] = []
    last = 0
    for index, labels in enumerate(instances):
        names = np.zeros(int(labels.max()) + 1, np.int32)
        free = {int(number) for number in np.unique(labels[labels > 0])}
        for earlier in reversed(named):  # the nearest visit first; lesions that vanished are further back
            taken = set(names.tolist())
            for old, number in _by_strength(earlier, labels, tolerance_voxels):
                if number in free and old not in taken:
                    names[number] = old
                    free.discard(number)
                    taken.add(old)
        for number in sorted(free):
            last += 1
            names[number] = last
        named.append(names[labels])
        if index:
            gone = vanished[index - 1]
            before.append(np.where(gone > 0, gone + last, named[index - 1]).astype(np.int32))
            last += int(gone.max(initial=0))
    return named, before


def _by_strength(prior: Array, current: Array, tolerance_voxels: float) -> list[tuple[int, int]]:
    """Pairs of lesions that belong together, those that share most first."""
    pairs, shared = _links(prior, current, tolerance_voxels)
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -shared))
    return [(int(old), int(new)) for old, new in pairs[order]]


def _links(prior: Array, current: Array, tolerance_voxels: float) -> tuple[Array, Array]:
    """Pairs (N, 2) of lesions that belong together, and how strongly (N,): by shared voxels, else by contacts (< 1)."""
    prior, current = (np.pad(labels, math.ceil(tolerance_voxels)) for labels in _cropped(prior, current))
    pairs, shared = _common(prior, current)
    partners = [set(side.tolist()) for side in pairs.T]
    contacts: Counter[tuple[int, int]] = Counter()
    for offset in _ball(tolerance_voxels):
        near, count = _common(prior, np.roll(current, offset, axis=(0, 1, 2)))
        contacts.update(dict(zip(map(tuple, near.tolist()), count.tolist(), strict=True)))
    lonely = {p: n for p, n in contacts.items() if p[0] not in partners[0] or p[1] not in partners[1]}
    near = np.array(list(lonely), int).reshape(-1, 2)
    strength = np.array([n / (n + 1) for n in lonely.values()])
    return np.concatenate([pairs, near]), np.concatenate([shared, strength])


def _common(prior: Array, current: Array) -> tuple[Array, Array]:
    """Pairs of numbers that share voxels, and how many."""
    both = (prior > 0) & (current > 0)
    pairs, shared = np.unique(np.stack([prior[both], current[both]], axis=1), axis=0, return_counts=True)
    return pairs.astype(int), shared.astype(float)


def _strongest(lesions: Array, strength: Array) -> Array:
    """Which links are the strongest of their lesion; all that are."""
    best = np.zeros(int(lesions.max(initial=-1)) + 1)
    np.maximum.at(best, lesions, strength)
    strongest: Array = strength >= best[lesions]
    return strongest


def _ball(radius: float) -> list[tuple[int, int, int]]:
    """Offsets up to the radius, without that of nothing."""
    steps = range(-math.floor(radius), math.floor(radius) + 1)
    return [(x, y, z) for x, y, z in product(steps, repeat=3) if 0 < x * x + y * y + z * z <= radius**2 + 1e-6]


def _cropped(*labels: Array) -> list[Array]:
    """Cut to what any of them marks."""
    box = ndimage.find_objects(np.any([one > 0 for one in labels], axis=0).astype(np.uint8))
    return [one[box[0]] if box else one[:1, :1, :1] for one in labels]
