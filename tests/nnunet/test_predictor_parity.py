"""Our sliding window over n visits against nnU-Net's own predictor, on the same weights and preprocessed pair."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from lesiondelta.cohort import prior_index
from lesiondelta.inference.model import load_model
from lesiondelta.inference.window import lesion_probabilities
from lesiondelta.nnunet.environment import environment, prints_logged
from lesiondelta.nnunet.export import export_model
from lesiondelta.preprocessing.intensity import normalise
from tests.models import export_tiny_model
from tests.synthetic import ball

SHAPE = (22, 16, 26)
PATCH = (16, 16, 16)


@pytest.fixture(scope="module")
def visits():
    """Two visits of a round brain.

    In the corners of a grid nnU-Net's half-precision weights are 0 or nearly so; no brain lies there.
    """
    rng = np.random.default_rng(0)
    brain = ball([n // 2 for n in SHAPE], 10, SHAPE)
    return [(brain * rng.normal(100, 20, (2, *SHAPE))).astype(np.float32) for _ in range(2)]


CLASSES = ("DifferenceWeightingUNet", "ConcatenationUNet", "SingleVisitUNet")


@pytest.fixture(scope="module", params=[(name, mirroring) for name in CLASSES for mirroring in (False, True)])
def case(request, visits, tmp_path_factory):
    """A random network whose last layer resembles a trained one's, and mirroring.

    The logits of its two classes are opposite, and 2 % of the brain is lesion.
    """
    name, mirroring = request.param
    folder = export_tiny_model(tmp_path_factory.mktemp("model") / "m", name, patch=PATCH)
    model, description = load_model(folder), json.loads((folder / "model.json").read_text())
    last = model.network.decoder.seg_layers[-1]
    with torch.no_grad():
        last.weight[0], last.bias[:] = -last.weight[1], 0
        probability = lesion_probabilities(visits, [model], overlap=0.5, mirroring=mirroring, device="cpu")[0][
            visits[0][0] != 0
        ]
        shift = float(np.quantile(np.log(probability / (1 - probability)), 0.98))
        last.bias[0], last.bias[1] = shift / 2, -shift / 2
    return export_model(folder, model.network, description), mirroring


def nnunets_logits(folder, pair, mirroring, workplace):
    """Logits (2, X, Y, Z) of nnUNetPredictor, through `manual_initialization`."""
    with environment(workplace), prints_logged():
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        dataset = {"channel_names": {str(c): str(c) for c in range(4)}, "labels": {"background": 0, "lesion": 1}}
        configuration = {"patch_size": PATCH, "architecture": {}}
        plans = PlansManager({"configurations": {"3d_fullres": configuration}, "label_manager": "LabelManager"})
        predictor = nnUNetPredictor(0.5, True, mirroring, False, torch.device("cpu"), allow_tqdm=False)
        network = load_model(folder).network
        predictor.manual_initialization(
            network, plans, plans.get_configuration("3d_fullres"), None, dataset, "none", (0, 1, 2)
        )
        return predictor.predict_sliding_window_return_logits(torch.from_numpy(pair)).float()


@pytest.fixture
def float32_buffers(monkeypatch, tmp_path):
    """Give nnU-Net's predictor float32 where it names float16; neither is an argument of its."""
    with environment(tmp_path):
        from nnunetv2.inference import predict_from_raw_data
        from nnunetv2.inference.sliding_window_prediction import compute_gaussian
    monkeypatch.setattr(torch, "half", torch.float32)
    monkeypatch.setattr(predict_from_raw_data, "compute_gaussian", partial(compute_gaussian, dtype=torch.float32))


def compare(model_folder, mirroring, visits, workplace):
    """Largest difference of probability and share of equal lesion voxels, inside the brain, over all visits."""
    ours = lesion_probabilities(visits, [load_model(model_folder)], overlap=0.5, mirroring=mirroring, device="cpu")
    brain = visits[0][0] != 0
    differences, equal = [], []
    for index, probability in enumerate(ours):
        prior = visits[prior_index(index, len(visits))]
        pair = np.concatenate([normalise(visits[index]), normalise(prior)])
        logits = nnunets_logits(model_folder, pair, mirroring, workplace)
        lesions = logits.argmax(0).numpy() == 1
        assert 0.002 < lesions[brain].mean() < 0.2  # so that equality says something
        differences.append(np.abs(probability - logits.softmax(0)[1].numpy())[brain].max())
        equal.append(((probability > 0.5) == lesions)[brain].mean())
    return max(differences), min(equal)


def test_equal_to_nnunets_predictor_with_float32_buffers(case, visits, tmp_path, float32_buffers):
    difference, equal = compare(*case, visits, tmp_path)
    assert difference < 1e-4
    assert equal == 1


def test_close_to_nnunets_predictor_as_shipped(case, visits, tmp_path):
    difference, equal = compare(*case, visits, tmp_path)
    assert difference < 1e-2
    assert equal >= 0.999
