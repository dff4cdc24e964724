"""What holds for any lesions: time reversed, the patient turned, a visit added."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from lesiondelta.cohort import Change
from lesiondelta.tracking import TrackedVisit, track

SHAPE, LARGE = (14, 12, 10), (30, 26, 20)
OPPOSITE = {
    Change.NEW: Change.RESOLVED,
    Change.RESOLVED: Change.NEW,
    Change.ENLARGING: Change.SHRINKING,
    Change.SHRINKING: Change.ENLARGING,
    Change.STABLE: Change.STABLE,
}
often = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def visit(draw):
    """Up to five boxes that may touch; unsure voxels in and beside them; any slices, registration, field of view."""
    mask, unsure = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    for chosen in (mask, unsure):
        for _ in range(draw(st.integers(0, 5))):
            low = [draw(st.integers(0, n - 1)) for n in SHAPE]
            chosen[tuple(slice(a, a + draw(st.integers(1, 5))) for a in low)] = True
    probability = np.where(mask, np.where(unsure, 0.6, 0.95), np.where(unsure, 0.4, 0.05))
    slice_mm, residual_mm = draw(st.sampled_from([0.1, 1.0, 3.0])), draw(st.sampled_from([0.0, 0.5]))
    return TrackedVisit(mask, probability, slice_mm, residual_mm, draw(fields_of_view()))


@st.composite
def fields_of_view(draw):
    """What a visit's image shows: all, or from some slice of the first axis on."""
    covered = np.indices(SHAPE)[0] >= draw(st.integers(0, SHAPE[0] // 2))
    return draw(st.sampled_from([None, covered]))


@st.composite
def blobs(draw, most):
    """Visits of one random field that drifts: lesions that grow, shrink, join, part, come and go."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    common = ndimage.gaussian_filter(rng.standard_normal(LARGE), 2)
    visits = []
    for _ in range(draw(st.integers(2, most))):
        values = (common + 0.6 * ndimage.gaussian_filter(rng.standard_normal(LARGE), 2)) / common.std()
        probability = 1 / (1 + np.exp(-3 * (values - 1.6)))
        visits.append(TrackedVisit(probability > 0.5, probability, rng.uniform(1, 4), rng.uniform(0, 1)))
    return visits


def patients(most=4):
    return st.one_of(st.lists(visit(), min_size=2, max_size=most), blobs(most))


def tracked(visits):
    return track(visits, 1.0, 0.5)


def facts(tracking, turned_back=lambda array: array):
    """For every step, what every lesion does, where it lies at both visits, and how sure that is; without numbers."""
    maps = [turned_back(labels) for labels in tracking.instances]
    return [
        {
            (one.change, _place(maps[step], one.prior), _place(maps[step + 1], one.current), round(one.error_mm3, 6))
            for one in changes
        }
        for step, changes in enumerate(tracking.changes)
    ]


def _place(labels, numbers):
    return tuple(np.flatnonzero(np.isin(labels, numbers)).tolist()) if numbers else ()


@pytest.mark.parametrize("change", [one for one in Change if one is not Change.POSSIBLE])
def test_the_patients_of_these_tests_show_every_change(change):
    def shows(visits):
        return any(one.change == change for step in tracked(visits).changes for one in step)

    found = settings(max_examples=3000, deadline=None, derandomize=True, phases=[Phase.generate])
    find(patients(), shows, settings=found)


@given(visits=patients())
@often
def test_time_reversed_every_step_has_the_opposite_changes(visits):
    backward = facts(tracked(visits[::-1]))[::-1]
    opposite = [{(OPPOSITE[change], after, before, e) for change, before, after, e in step} for step in backward]
    assert facts(tracked(visits)) == opposite


@given(
    visits=patients(3),
    axes=st.sampled_from(list(permutations(range(3)))),
    flipped=st.sets(st.sampled_from(range(3))),
)
@often
def test_turned_and_mirrored_every_lesion_does_the_same(visits, axes, flipped):
    def turned(array):
        return np.flip(array, tuple(flipped)).transpose(axes)

    def turned_back(array):
        return np.flip(array.transpose(np.argsort(axes)), tuple(flipped))

    other = [
        replace(
            v,
            mask=turned(v.mask),
            probability=turned(v.probability),
            covered=v.covered if v.covered is None else turned(v.covered),
        )
        for v in visits
    ]
    assert facts(tracked(visits)) == facts(tracked(other), turned_back)


@given(visits=patients())
@often
def test_a_later_visit_changes_no_number_and_no_step(visits):
    fewer, more = tracked(visits[:-1]), tracked(visits)
    for one, two in zip(fewer.instances, more.instances[:-1], strict=True):
        np.testing.assert_array_equal(one, two)
    assert more.changes[:-1] == fewer.changes


@given(visits=patients(3))
@often
def test_every_lesion_is_in_one_change_of_a_step_and_has_one_number(visits):
    found = tracked(visits)
    for index, step in enumerate(found.changes):
        for side, labels in (("prior", found.instances[index]), ("current", found.instances[index + 1])):
            listed = [number for one in step for number in getattr(one, side)]
            assert sorted(listed) == np.unique(labels[labels > 0]).tolist()
    for one, labels in zip(visits, found.instances, strict=True):
        pieces, count = ndimage.label(one.mask, np.ones((3, 3, 3)))
        pairs = np.unique(np.stack([pieces[pieces > 0], labels[pieces > 0]]), axis=1)
        assert pairs.shape[1] == count == len(np.unique(pairs[1]))
