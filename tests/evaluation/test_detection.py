"""Detection of changes and FROC, by hand."""

import numpy as np
import pytest

from lesiondelta.cohort import Change
from lesiondelta.evaluation.change_tables import count_table, detection_rows, froc_rows, patient_sums
from lesiondelta.evaluation.changes import ChangedLesion
from lesiondelta.evaluation.detection import StepDetection, detect

NOWHERE = np.zeros((0, 3))


def lesion(change, x=0.0, volume=20.0, confidence=None, before=None):
    """A lesion of one voxel at (x, 0, 0), at the visit or, if `before` is given, there at the visit before."""
    after = NOWHERE if x is None else np.array([[x, 0, 0]])
    earlier = NOWHERE if before is None else np.array([[before, 0, 0]])
    return ChangedLesion(Change(change), volume, (earlier, after), confidence)


def hits(reference, called):
    found = detect(reference, called)
    return [one.hit for one in found.reference], [one.hit for one in found.called]


def row(rows, change="any", **where):
    """The first that fits: that of all sizes, if none is given."""
    return next(r for r in rows if r["change"] == change and where.items() <= r.items())


def test_a_call_is_right_where_it_shares_a_voxel_or_lies_within_a_millimetre():
    assert hits([lesion("new", 5)], [lesion("new", 5)]) == ([True], [True])
    assert hits([lesion("new", 5)], [lesion("new", 6)]) == ([True], [True])
    assert hits([lesion("new", 5)], [lesion("new", 5 - 1.00001)]) == ([True], [True])  # an affine in float32
    assert hits([lesion("new", 5)], [lesion("new", 6.1)]) == ([False], [False])


def test_a_call_of_another_class_is_wrong():
    assert hits([lesion("new")], [lesion("enlarging")]) == ([False], [False])
    assert hits([lesion("new"), lesion("shrinking", 9)], [lesion("new"), lesion("shrinking")]) == (
        [True, False],
        [True, False],
    )


def test_either_visit_will_do_and_only_like_visits_meet():
    assert hits([lesion("shrinking", 9, before=0)], [lesion("shrinking", 20, before=0)]) == ([True], [True])
    assert hits([lesion("resolved", None, before=0)], [lesion("resolved", None, before=1)]) == ([True], [True])
    assert hits([lesion("enlarging", 9, before=0)], [lesion("enlarging", 0, before=9)]) == ([False], [False])


def test_nothing_is_used_up():
    """One call over two lesions finds both; two calls at one lesion are both right."""
    assert hits([lesion("new", 0), lesion("new", 2)], [lesion("new", 1)]) == ([True, True], [True])
    assert hits([lesion("new", 1)], [lesion("new", 0), lesion("new", 2)]) == ([True], [True, True])


def test_without_lesions():
    assert hits([], []) == ([], [])
    assert hits([lesion("new")], []) == ([False], [])
    assert hits([], [lesion("new")]) == ([], [False])
    assert hits([lesion("resolved", None)], [lesion("resolved", None)]) == ([False], [False])  # a place is unknown


TWO_PATIENTS = {
    ("sub-1", "ses-1", "ses-2"): detect(
        [lesion("new", 0, 5), lesion("new", 10, 50), lesion("resolved", None, 200, before=0)],
        [lesion("new", 0, 12), lesion("new", 30, 9), lesion("resolved", None, 100, before=1), lesion("enlarging", 0)],
    ),
    ("sub-1", "ses-2", "ses-3"): detect([lesion("new", 0, 50)], [lesion("new", 0, 50)]),
    ("sub-2", "ses-1", "ses-2"): detect([lesion("new", 0, 50)], []),
    ("sub-3", "ses-1", "ses-2"): detect([], [lesion("new", 0, 50)]),
}
"""New: patient 1 has 3, of which 2 are found, and 3 calls, of which 2 are right; patient 2 has 1, and no call; patient
3 has none, and 1 call. Volumes of 10 and of 100 mm3 are medium."""


def test_counts_by_step_class_and_size():
    counts = count_table(TWO_PATIENTS)
    assert len(counts) == 4 * 4 * 3
    first = counts[counts["to_session_id"] == "ses-2"].head(12).set_index(["change", "size"])
    assert first.loc[("new", "small")].tolist()[4:] == [1, 1, 1, 0]
    assert first.loc[("new", "medium")].tolist()[4:] == [1, 0, 1, 1]
    assert first.loc[("resolved", "large")].tolist()[4:] == [1, 1, 0, 0]
    assert first.loc[("resolved", "medium")].tolist()[4:] == [0, 0, 1, 1]
    assert first.loc[("enlarging", "medium")].tolist()[4:] == [0, 0, 1, 0]


def test_patients_are_the_unit():
    """Recall of new lesions 2/3 and 0, none in patient 3; precision 2/3 and 0, none in patient 2."""
    counts = count_table(TWO_PATIENTS)
    new = row(detection_rows(counts), "new")
    assert [new[name] for name in ("reference", "found", "called", "right")] == [4, 2, 4, 2]
    assert (new["recall"], new["recall_patients"]) == (pytest.approx((2 / 3 + 0) / 2), 2)
    assert (new["precision"], new["precision_patients"]) == (pytest.approx((2 / 3 + 0) / 2), 2)
    assert (new["f1"], new["f1_patients"]) == (pytest.approx((2 / 3 + 0) / 2), 2)
    assert (new["false_per_step"], new["false_per_step_patients"]) == (pytest.approx((0.5 + 0 + 1) / 3), 3)
    assert new["recall_low"] is None
    assert patient_sums(counts, "new", "all")["steps"].tolist() == [2, 1, 1]


def test_all_classes_together():
    """Patient 1: 3 of 4 found, 3 of 5 right."""
    every = row(detection_rows(count_table(TWO_PATIENTS)))
    assert (every["recall"], every["precision"]) == (pytest.approx((3 / 4 + 0) / 2), pytest.approx((3 / 5 + 0) / 2))
    f1 = 2 * 3 / 4 * 3 / 5 / (3 / 4 + 3 / 5)
    assert every["f1"] == pytest.approx(f1 / 2)
    assert every["false_per_step"] == pytest.approx((2 / 2 + 0 + 1) / 3)


def test_f1_of_a_size_whose_lesions_are_found_by_calls_of_other_sizes_is_not_defined():
    """Of the resolved, the large one is found by a call of medium size, which is right: no F1 for either."""
    rows = detection_rows(count_table(TWO_PATIENTS))
    large, medium = row(rows, "resolved", size="large"), row(rows, "resolved", size="medium")
    assert (large["recall"], large["precision"], large["f1"]) == (1, None, None)
    assert (medium["recall"], medium["precision"], medium["f1"]) == (None, 1, None)
    assert row(rows, "resolved")["f1"] == 1
    small = row(rows, "new", size="small")  # found, and its only call is wrong
    assert (small["recall"], small["precision"], small["f1"]) == (1, 0, 0)


def test_intervals_from_six_patients_on():
    calls = {n: lesion("new", 0 if n < 3 else 9) for n in range(6)}
    steps = {(f"sub-{n}", "ses-1", "ses-2"): detect([lesion("new", 0)], [one]) for n, one in calls.items()}
    new = row(detection_rows(count_table(steps)), "new")
    assert new["recall_low"] < new["recall"] == 0.5 < new["recall_high"]
    del steps["sub-5", "ses-1", "ses-2"]
    assert row(detection_rows(count_table(steps)), "new")["recall_low"] is None


GRADED = {
    ("sub-1", "ses-1", "ses-2"): detect(
        [lesion("new", 0), lesion("new", 10), lesion("shrinking", 20), lesion("new", 30)],
        [
            lesion("new", 0, confidence=0.95), lesion("new", 0, confidence=0.6), lesion("new", 10, confidence=0.85),
            lesion("new", 50, confidence=0.92), lesion("shrinking", 20, confidence=0.55),
        ],
        "calls",
    ),
    ("sub-1", "ses-2", "ses-3"): detect([], [lesion("enlarging", 0, confidence=0.7)], "calls"),
    ("sub-2", "ses-1", "ses-2"): detect([lesion("new", 0)], [lesion("new", 0, confidence=0.8)], "calls"),
}  # fmt: skip


def test_froc_by_hand():
    """Any change: patient 1 has 4 in two steps, found at .95, .85 and .55, false at .92 and .7; patient 2 one, at .8.

    The least confidence is .55: the curve ends at the limit of .5. Limits include what equals them.
    """
    rows = froc_rows(GRADED)
    curve = [(r["limit"], r["recall"], r["false_per_step"]) for r in rows if r["change"] == "any"]
    assert curve == [
        (0.999, 0, 0),
        (0.99, 0, 0),
        (0.95, 1 / 8, 0),
        (0.9, 1 / 8, 1 / 4),
        (0.8, (2 / 4 + 1) / 2, 1 / 4),
        (0.7, (2 / 4 + 1) / 2, 2 / 4),
        (0.6, (2 / 4 + 1) / 2, 2 / 4),
        (0.5, (3 / 4 + 1) / 2, 2 / 4),
    ]
    last = row(rows, "new", limit=0.5)
    assert (last["recall"], last["false_per_step"]) == ((2 / 3 + 1) / 2, 1 / 4)
    shrinking = row(rows, "shrinking", limit=0.5)
    assert (shrinking["recall"], shrinking["recall_patients"], shrinking["false_per_step_patients"]) == (1, 1, 2)
    assert row(rows, "resolved", limit=0.5)["recall"] is None


def test_froc_only_of_steps_whose_calls_have_a_confidence():
    without = detect([lesion("new", 0)], [lesion("new", 9)], "calls")
    masks = detect([lesion("new", 0)], [lesion("new", 9)])
    assert froc_rows({**GRADED, ("sub-7", "a", "b"): without, ("sub-8", "a", "b"): masks}) == froc_rows(GRADED)
    assert froc_rows({("sub-7", "a", "b"): without}) == []
    assert froc_rows({}) == []


def test_froc_where_nothing_is_called():
    quiet = StepDetection(detect([lesion("new", 0)], []).reference, (), "calls")
    rows = froc_rows({("sub-1", "ses-1", "ses-2"): quiet})
    assert [(r["limit"], r["recall"], r["false_per_step"]) for r in rows if r["change"] == "any"] == [(0.999, 0, 0)]
