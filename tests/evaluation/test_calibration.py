"""Temperature, threshold and smallest lesion, on probabilities whose right answer is known."""

import numpy as np
import pytest
from scipy.special import expit, logit

from lesiondelta.errors import CohortError
from lesiondelta.evaluation.calibration import (
    Agreement,
    GridPoint,
    LabelledVisit,
    OperatingPoint,
    agreement,
    best_point,
    calibrate,
    cooled,
    likeliest_temperature,
    log_loss,
)
from lesiondelta.evaluation.metrics import score
from lesiondelta.images import Grid

GRID = Grid((24, 24, 24), np.eye(4))


def drawn(seed, sharpness, patient="1"):
    """Truth drawn from probabilities, which the model then makes `sharpness` times as sure."""
    rng = np.random.default_rng(seed)
    honest = expit(rng.normal(-1, 1.5, GRID.shape))
    return LabelledVisit(patient, expit(sharpness * logit(honest)), rng.random(GRID.shape) < honest, GRID)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.0])
def test_the_temperature_undoes_what_made_a_model_too_sure_or_unsure(sharpness):
    assert likeliest_temperature([drawn(1, sharpness)]) == pytest.approx(sharpness, rel=0.05)


def test_the_log_loss_of_one_voxel_by_hand():
    visit = LabelledVisit(
        "1", np.array([[[0.8, 0.0, 0.4]]]), np.array([[[True, True, False]]]), Grid((1, 1, 3), np.eye(4))
    )
    assert log_loss(visit, 1.0) == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2)  # 0 lies outside the brain
    np.testing.assert_allclose(
        cooled(visit.probability, 2.0)[0, 0], [expit(np.log(4) / 2), 0, expit(np.log(2 / 3) / 2)]
    )


def test_patients_count_alike_however_many_visits_they_have():
    once = likeliest_temperature([drawn(1, 2.0, "a"), drawn(2, 0.5, "b")])
    thrice = likeliest_temperature([drawn(1, 2.0, "a"), *[drawn(2, 0.5, "b")] * 3])
    assert once == pytest.approx(thrice, rel=0.02)
    assert likeliest_temperature([drawn(1, 2.0, "a"), *[drawn(2, 0.5, f"{n}") for n in range(3)]]) < once


def blobs(*boxes):
    mask = np.zeros(GRID.shape, bool)
    for x, edge in boxes:
        mask[x : x + edge, 4 : 4 + edge, 4 : 4 + edge] = True
    return mask


def test_agreement_is_that_of_the_metrics():
    reference, mask = blobs((2, 4), (12, 3)), blobs((3, 4), (18, 2))
    found = agreement(LabelledVisit("1", mask.astype(float), reference, GRID), mask)
    expected = score(reference, mask, GRID)
    assert (found.dsc, found.lesion_f1) == pytest.approx((expected.dsc, expected.lesion_f1))


@pytest.mark.parametrize("predicted", [(), ((12, 3),)])
@pytest.mark.parametrize("known", [(), ((2, 4),)])
def test_visits_without_lesions_agree_as_in_the_metrics(known, predicted):
    reference, mask = blobs(*known), blobs(*predicted)
    found, expected = (
        agreement(LabelledVisit("1", mask.astype(float), reference, GRID), mask),
        score(reference, mask, GRID),
    )
    assert (found.dsc, found.lesion_f1) == (expected.dsc, expected.lesion_f1)


def test_the_best_threshold_and_size_are_found():
    """Lesions have 0.45, a false blob of 4 mm3 has 0.45 too, and a large false one has 0.25."""
    probability = np.full(GRID.shape, 0.001)
    reference = blobs((2, 4), (8, 3))
    probability[reference] = 0.45
    probability[16:18, 4:6, 4:5] = 0.45
    probability[20:24, 10:16, 10:16] = 0.25
    result = calibrate([LabelledVisit("1", probability, reference, GRID)], OperatingPoint())
    mask = result.point.mask(LabelledVisit("1", probability, reference, GRID))
    np.testing.assert_array_equal(mask, reference)
    assert result.point.min_lesion_mm3 == 5.0
    assert result.after["1"] == Agreement(1.0, pytest.approx(1.0))
    assert result.before["1"].dsc < 1
    assert len(result.grid) == 27


def test_of_points_alike_the_one_nearest_to_one_half_is_taken():
    def at(threshold, smallest, dsc):
        return GridPoint(threshold, smallest, {"1": Agreement(dsc, dsc)})

    grid = [at(0.7, 8.0, 0.805), at(0.4, 3.0, 0.8), at(0.5, 5.0, 0.8), at(0.5, 3.0, 0.797), at(0.5, 8.0, 0.79)]
    assert best_point(2.0, grid) == OperatingPoint(2.0, 0.5, 3.0)


def test_without_lesions_nothing_is_chosen():
    with pytest.raises(CohortError, match="without lesions"):
        calibrate([LabelledVisit("1", np.full(GRID.shape, 0.1), np.zeros(GRID.shape, bool), GRID)], OperatingPoint())
