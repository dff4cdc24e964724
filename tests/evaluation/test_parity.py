"""The same numbers as other libraries on 200 random pairs of masks, where definitions agree; where not, why."""

import numpy as np
import pytest
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
    compute_surface_dice,
)
from scipy import ndimage, stats

from lesiondelta.evaluation.metrics import score
from lesiondelta.evaluation.surfaces import surface_distances
from lesiondelta.images import Grid
from tests.evaluation.test_properties import blobs

SPACING = (0.9, 1.0, 2.5)
SHAPE = (16, 14, 12)
GRID = Grid(SHAPE, np.diag([*SPACING, 1.0]))


@pytest.fixture(scope="module")
def pairs():
    """200 pairs of masks, none of them empty, of few large or many small lesions."""
    levels = np.random.default_rng(0).choice([0.05, 0.15, 0.3], (200, 2))
    made = [tuple(blobs(2 * i + k, levels[i, k], SHAPE) for k in (0, 1)) for i in range(200)]
    assert all(mask.any() for pair in made for mask in pair)
    return made


@pytest.fixture(scope="module")
def ours(pairs):
    return [score(*pair, GRID, min_lesion_mm3=0) for pair in pairs]


def one_hot(pair):
    return (torch.from_numpy(mask)[None, None].float() for mask in pair)


def of_monai(function, pairs, **options):
    """(200,) values of a MONAI metric, called as (prediction, reference)."""
    values = []
    for pair in pairs:
        reference, prediction = one_hot(pair)
        values.append(float(function(prediction, reference, include_background=True, **options)))
    return np.array(values)


def test_overlap_equals_monai(pairs, ours):
    """In float32 there."""
    np.testing.assert_allclose([s.dsc for s in ours], of_monai(compute_dice, pairs), atol=1e-5)
    np.testing.assert_allclose([s.iou for s in ours], of_monai(compute_iou, pairs), atol=1e-5)


@pytest.mark.filterwarnings("ignore:monai:FutureWarning")  # it uses an argument that it deprecates itself
def test_surface_distances_equal_monai(pairs, ours):
    """ASSD and NSD are the same; HD95 of MONAI is the larger of the two one-way percentiles, ours is of both pooled."""
    assd = of_monai(compute_average_surface_distance, pairs, symmetric=True, spacing=SPACING)
    np.testing.assert_allclose([s.assd_mm for s in ours], assd, atol=1e-5)
    nsd = of_monai(compute_surface_dice, pairs, class_thresholds=[1.0], spacing=SPACING)
    np.testing.assert_allclose([s.nsd for s in ours], nsd, atol=1e-5)
    apart = [surface_distances(*pair, GRID) for pair in pairs]
    one_way = [max(np.percentile(d.from_reference, 95), np.percentile(d.from_prediction, 95)) for d in apart]
    hd95 = of_monai(compute_hausdorff_distance, pairs, percentile=95, spacing=SPACING)
    np.testing.assert_allclose(one_way, hd95, atol=1e-5)
    whole = of_monai(compute_hausdorff_distance, pairs, spacing=SPACING)
    np.testing.assert_allclose([d.pooled.max() for d in apart], whole, atol=1e-5)


def test_hd95_equals_distance_maps_of_scipy(pairs, ours):
    structure = ndimage.generate_binary_structure(3, 1)
    for pair, scores in zip(pairs, ours, strict=True):
        edges = [mask & ~ndimage.binary_erosion(mask, structure) for mask in pair]
        maps = [ndimage.distance_transform_edt(~edge, sampling=SPACING) for edge in edges]
        pooled = np.concatenate([maps[1][edges[0]], maps[0][edges[1]]])
        assert scores.hd95_mm == pytest.approx(np.percentile(pooled, 95), abs=1e-9)


def test_lesion_counts_equal_a_labelling_of_scipy(pairs, ours):
    for (truth, guess), scores in zip(pairs, ours, strict=True):
        labels = [ndimage.label(mask, np.ones((3, 3, 3)))[0] for mask in (truth, guess)]
        ratios = stats.contingency.crosstab(*(label.ravel() for label in labels)).count
        sizes = [ratios.sum(axis=1, keepdims=True), ratios.sum(axis=0, keepdims=True)]
        iou = (ratios / (sizes[0] + sizes[1] - ratios))[1:, 1:]
        assert (scores.reference_lesions, scores.predicted_lesions) == iou.shape
        assert scores.found_lesions == (iou > 0.1).any(axis=1).sum()
        assert scores.right_lesions == (iou > 0.1).any(axis=0).sum()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what another library warns of is not ours to mend
def test_overlap_counts_and_matches_equal_panoptica(pairs, ours):
    """Matched one to one, as in the longiseg convention; here a lesion over two others finds both."""
    panoptica = pytest.importorskip(
        "panoptica",
        reason="its pins exclude our numpy: pip install --no-deps panoptica ruamel.yaml 'plotly<6' tenacity",
    )
    panoptica.disable_citation_reminder()
    evaluator = panoptica.Panoptica_Evaluator(
        expected_input=panoptica.InputType.SEMANTIC,
        instance_approximator=panoptica.ConnectedComponentsInstanceApproximator(),
        instance_matcher=panoptica.NaiveThresholdMatching(matching_threshold=0.1, strict_threshold=True),
        global_metrics=[panoptica.Metric.DSC],
    )
    for (truth, guess), scores in zip(pairs, ours, strict=True):
        theirs = evaluator.evaluate(guess.astype(np.uint8), truth.astype(np.uint8))["ungrouped"]
        assert scores.dsc == pytest.approx(theirs.global_bin_dsc, abs=1e-9)
        assert (scores.reference_lesions, scores.predicted_lesions) == (theirs.tp + theirs.fn, theirs.tp + theirs.fp)
        matched = score(truth, guess, GRID, min_lesion_mm3=0, convention="longiseg")
        assert matched.found_lesions == theirs.tp <= scores.found_lesions
