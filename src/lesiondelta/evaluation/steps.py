"""Every step from a visit to the next, with all four masks in one space, or the reason why that cannot be."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np

from lesiondelta.evaluation.change_tables import StepKey
from lesiondelta.evaluation.changes import Located2, changed_lesions, common_grid, on_grid
from lesiondelta.evaluation.detection import StepDetection, detect
from lesiondelta.evaluation.longitudinal import ChangeScores, score_change
from lesiondelta.evaluation.masks import MaskPair, Matching, read_pair
from lesiondelta.evaluation.results import RunStep, read_calls, read_transform, run_step
from lesiondelta.images import GRID_TOLERANCE_MM, Affine, Volume
from lesiondelta.preprocessing.located import Located
from lesiondelta.preprocessing.points import apply, inside_mm
from lesiondelta.processes import possible_processes, worker_pool

APART_MM = 2.0
"""Visits on one grid lie in place unless a run's transforms move some lesion by more: registrations differ by less."""

Transforms = tuple[Affine, Affine]
Masks = tuple[Volume, Volume]
IN_PLACE: Transforms = (np.eye(4), np.eye(4))
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ScoredSteps:
    """Scores of steps, and why other steps have none; a key has the patient and both visits as tables name them."""

    changes: dict[StepKey, ChangeScores]
    detections: dict[StepKey, StepDetection]
    skipped: dict[str, str]


def score_changes(matching: Matching, min_lesion_mm3: float, processes: int) -> ScoredSteps:
    """Score the steps between the visits of every patient.

    Raises
    ------
    OutputError, ImageError, GeometryError
        A file that a run wrote beside its masks is damaged.
    """
    steps: dict[StepKey, tuple[MaskPair, MaskPair]] = {}
    scored = ScoredSteps({}, {}, {})
    people: dict[str, list[MaskPair]] = {}
    for pair in matching.pairs:
        people.setdefault(pair.participant, []).append(pair)
    for a, b in chain.from_iterable(map(pairwise, people.values())):
        key = (*a.names, b.names[1])
        if matching.gap(a, b):
            scored.skipped[" ".join(key)] = "a visit between them has no prediction"
        else:
            steps[key] = (a, b)
    results = each(partial(score_step, min_lesion_mm3=min_lesion_mm3), list(steps.values()), processes)
    for key, result in zip(steps, results, strict=True):
        if isinstance(result, str):
            scored.skipped[" ".join(key)] = result
        else:
            scored.changes[key], scored.detections[key] = result
    return scored


def score_step(step: tuple[MaskPair, MaskPair], min_lesion_mm3: float) -> tuple[ChangeScores, StepDetection] | str:
    """Score one step, or say why it cannot be."""
    (truth_before, guess_before), (truth, guess) = (read_pair(pair) for pair in step)
    truths, guesses = (truth_before, truth), (guess_before, guess)
    run = run_step(step[0].prediction, step[1].prediction)
    transforms = _transforms(run, (*truths, *guesses))
    if transforms is None:
        return _why_not(run, step[1].prediction)
    references, predictions = (_located(masks, transforms) for masks in (truths, guesses))
    scores = _score_change(references, predictions, min_lesion_mm3)
    return scores, _detected(run, references, predictions, min_lesion_mm3)


def each(work: Callable[[T], R], items: Sequence[T], processes: int) -> Iterator[R]:
    """The results in order, worked out in several processes if there are so many."""
    processes = possible_processes(min(processes, len(items)))
    if processes <= 1:
        yield from map(work, items)
        return
    with worker_pool(processes) as pool:
        yield from pool.map(work, items)


def _transforms(run: RunStep | None, masks: Sequence[Volume]) -> Transforms | None:
    """What takes points of one common space to those of the masks of either visit; None where that is not known.

    `masks` are those of the visit before and of the visit, of the reference and then of the prediction.
    """
    shared = masks[0].grid.distance_mm(masks[1].grid) <= GRID_TOLERANCE_MM
    files = run.transforms if run else ()
    if not files or not all(path.is_file() for path in files):
        return IN_PLACE if shared else None
    before, after = (read_transform(path) for path in files)
    return IN_PLACE if shared and _lie_in_place(after @ np.linalg.inv(before), masks) else (before, after)


def _lie_in_place(between: Affine, masks: Sequence[Volume]) -> bool:
    """Whether a transform between the visits leaves all lesions where they are."""
    points = np.concatenate([inside_mm(mask) for mask in masks])
    return bool((np.linalg.norm(apply(between, points) - points, axis=1) <= APART_MM).all())


def _why_not(run: RunStep | None, mask: Path) -> str:
    """Why two visits cannot be brought into one space."""
    missing = next((path for path in run.transforms if not path.is_file()), None) if run else None
    what = f"{missing} is not there" if missing else f"no transforms of `run` lie beside {mask}"
    return f"the visits lie on different grids, and {what}: run the patient again, or give masks in one space"


def _located(masks: Masks, transforms: Transforms) -> Located2:
    before, after = (Located(mask, transform) for mask, transform in zip(masks, transforms, strict=True))
    return before, after


def _score_change(references: Located2, predictions: Located2, min_lesion_mm3: float) -> ChangeScores:
    """The scores of a step, on the grid of the masks if they share one."""
    places = (*references, *predictions)
    in_place = all(place.transform is own for place, own in zip(references, IN_PLACE, strict=True))
    grid = references[1].image.grid if in_place else common_grid(places)
    masks = [place.image.data if in_place else on_grid(place, grid) for place in places]
    return score_change((masks[0], masks[1]), (masks[2], masks[3]), grid, min_lesion_mm3=min_lesion_mm3)


def _detected(run: RunStep | None, references: Located2, predictions: Located2, min_lesion_mm3: float) -> StepDetection:
    """What a run calls against the changes of the reference; without a run, what the predicted masks say."""
    reference, note = changed_lesions(references, min_lesion_mm3), ""
    if run is not None and run.table.is_file():
        calls = read_calls(run, (references[0].image, references[1].image), min_lesion_mm3)
        if not isinstance(calls, str):
            return detect(reference, calls, "calls")
        note = calls
    return detect(reference, changed_lesions(predictions, min_lesion_mm3), "masks", note)
