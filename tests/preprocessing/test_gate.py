import numpy as np
import pytest

from lesiondelta.errors import RegistrationError
from lesiondelta.images import Volume
from lesiondelta.preprocessing import gate
from lesiondelta.preprocessing.located import Located
from lesiondelta.preprocessing.person import displacement_mm
from tests.preprocessing.heads import moved, person, rigid

MM = 3.0


@pytest.fixture(scope="module")
def head():
    return person(0, MM)


@pytest.fixture(scope="module")
def brain(head):
    return head["FLAIR"].with_data(head["FLAIR"].data > 0)


def located(volume, transform=None):
    return Located(volume, np.eye(4) if transform is None else transform)


def test_aligned_contrasts_pass(head, brain):
    check = gate.check_alignment(located(head["FLAIR"]), located(head["T1w"]), brain)
    assert check.value_mm < 0.5
    assert check.warnings == ()


@pytest.mark.parametrize("error", [rigid(0, (2, 0, 0)), rigid(0, (0, 0, -2.5)), rigid(0.06), rigid(0.06, axis=0)])
def test_misalignment_is_measured_and_refused(head, brain, error):
    points = np.argwhere(brain.data) @ brain.affine[:3, :3].T + brain.affine[:3, 3]
    truth = np.linalg.norm(points @ (error[:3, :3] - np.eye(3)).T + error[:3, 3], axis=1).mean()
    found = gate.residual(located(head["FLAIR"]), located(head["T1w"], error), brain).value_mm
    assert 0.5 * truth < found < 2 * truth
    with pytest.raises(RegistrationError, match=r"T1w and FLAIR are .* mm out of line"):
        gate.check_alignment(located(head["FLAIR"]), located(head["T1w"], error), brain)


def test_a_small_error_warns(head, brain):
    error = rigid(0, (0.8, 0, 0))
    check = gate.check_alignment(located(head["FLAIR"]), located(head["T1w"], error), brain)
    assert "look at both" in check.warnings[0]


def test_stretch_is_refused(head, brain):
    with pytest.raises(RegistrationError, match=r"scales 1.10, 1.00, 1.00"):
        gate.check_alignment(located(head["FLAIR"]), located(head["FLAIR"], np.diag([1.1, 1, 1, 1])), brain)


def test_parabola_by_hand():
    assert gate._top([-((share - 0.3) ** 2) for share in gate.SCAN]) == pytest.approx(0.3)
    assert gate._top([share**2 + share for share in gate.SCAN]) == 1


def test_information_of_equal_levels_is_their_entropy():
    levels, groups = np.repeat([0.0, 10.0], 500), np.arange(1000) % gate.GROUPS
    rows = gate._rows(levels, groups)
    joint = gate._joint(rows, levels)
    assert gate._information(joint.sum(axis=0)) == pytest.approx(np.log(2))
    assert joint.sum(axis=(1, 2)).tolist() == [125] * gate.GROUPS
    other = gate._joint(rows, np.tile([0.0, 10.0], 500)).sum(axis=0)
    assert gate._information(other) == pytest.approx(0, abs=1e-12)


def test_one_person_under_bias_contrast_and_lesions(head, brain):
    """A follow-up with another gain, a bias field, noise and 40 ml of new lesions is the same person."""
    rng = np.random.default_rng(1)
    first = head["FLAIR"]
    bias = 1 + 0.3 * np.linspace(-1, 1, first.data.shape[1])[None, :, None]
    later = np.where(brain.data, first.data * bias * 2 + rng.normal(0, 15, first.data.shape), 0)
    chosen = np.argwhere(brain.data)[:: brain.data.sum() // 55]
    for x, y, z in chosen:
        later[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2] += 100
    follow_up = Volume((later * brain.data).astype(np.float32), first.affine, "later")
    assert gate.check_person(located(first), located(follow_up), brain).warnings == ()


def test_two_people_are_refused(head, brain):
    other = person(7, MM)["FLAIR"]
    for fixed, moving in ((head["FLAIR"], other), (other, head["FLAIR"])):
        with pytest.raises(RegistrationError, match="do not show one person"):
            gate.check_person(located(fixed), located(moving), brain)


def test_two_people_are_only_flagged_where_the_contrast_may_have_changed(head, brain):
    other = person(9)["T1w"]
    checked = gate.check_person(located(head["T1w"]), located(other), brain, refuse=False)
    assert checked.value_mm > gate.PERSON_FAIL_MM
    assert "may not show one person" in checked.warnings[0]


def test_displacement_by_hand(head, brain):
    """A shift of 1.5 mm that nobody has corrected is found as 1.5 mm."""
    shifted = moved(head["FLAIR"], rigid(0, (1.5, 0, 0)))
    found = displacement_mm(located(head["FLAIR"]), located(shifted), brain)
    assert found == pytest.approx(1.5, abs=0.7)
