"""OpenVINO in place of torch: the same numbers, no network traffic, and clear words where it cannot be used."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from lesiondelta.errors import DependencyError, ModelError
from lesiondelta.inference import backend, window
from lesiondelta.inference.model import bundled_model, load_model
from lesiondelta.inference.window import lesion_probabilities
from tests.models import export_tiny_model

RNG = np.random.default_rng(3)
NETWORKS = [
    "SingleVisitUNet", "ConcatenationUNet", "DifferenceWeightingUNet", "DifferenceVNet", "RecurrentResidualUNet",
]  # fmt: skip


def visits(count, shape=(20, 24, 19)):
    return [RNG.normal(5, 1, (2, *shape)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("mirroring", [False, True])
def test_openvino_gives_torchs_probabilities(tmp_path, name, mirroring):
    model = load_model(export_tiny_model(tmp_path / "tiny", name))
    seen = visits(3)
    ours, theirs = (
        lesion_probabilities(seen, [model], mirroring=mirroring, device="cpu", backend=which)
        for which in ("torch", "openvino")
    )
    assert all(np.ptp(one) > 0.005 for one in ours), "there is something to compare"
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


def test_the_bundled_network_gives_the_same_masks():
    model = load_model(bundled_model())
    small = replace(model, description=model.description.model_copy(update={"patch": (48, 48, 48)}))
    pair = visits(2, (48, 48, 48))
    for visit in pair:
        visit[1, 20:26, 20:26, 20:26] += 6  # bright in the FLAIR
    ours, theirs = (lesion_probabilities(pair, [small], device="cpu", backend=which) for which in ("torch", "openvino"))
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(one - other).max() < 0.01
        both, either = (one > 0.5) & (other > 0.5), (one > 0.5) | (other > 0.5)
        assert either.sum() > 50
        assert both.sum() >= 0.98 * either.sum()


def test_every_visit_is_encoded_once(tmp_path, monkeypatch):
    model = load_model(export_tiny_model(tmp_path / "tiny"))
    calls = {"encode": 0, "decode": 0}
    for part in calls:
        original = getattr(backend.CompiledNetwork, part)

        def counted(self, *given, part=part, original=original):
            calls[part] += 1
            return original(self, *given)

        monkeypatch.setattr(backend.CompiledNetwork, part, counted)
    windows = []
    lesion_probabilities(
        visits(4), [model], device="cpu", backend="openvino", progress=lambda done, total: windows.append(total)
    )
    assert calls == {"encode": 4 * len(windows), "decode": 4 * len(windows)}


def test_nothing_is_reported_to_anybody(tmp_path, monkeypatch):
    import openvino_telemetry

    monkeypatch.setattr(openvino_telemetry.Telemetry, "__init__", lambda *_, **__: pytest.fail("it reports its use"))
    model = load_model(export_tiny_model(tmp_path / "tiny"))
    assert isinstance(backend._compiled(model, (16, 16, 16), 1), backend.CompiledNetwork)


def test_a_network_without_a_fixed_window_stays_in_torch(tmp_path):
    model = load_model(export_tiny_model(tmp_path / "tiny", patch=None))
    seen = visits(2, (16, 16, 16))
    for which in ("auto", "torch"):
        assert lesion_probabilities(seen, [model], device="cpu", backend=which)[0].shape == (16, 16, 16)
    with pytest.raises(ModelError, match=r"no fixed size.*--backend torch"):
        lesion_probabilities(seen, [model], device="cpu", backend="openvino")


def test_a_network_that_cannot_be_converted_is_said_and_stays_in_torch(tmp_path, monkeypatch, caplog):
    model = load_model(export_tiny_model(tmp_path / "tiny"))
    decode = model.network.decode
    model.network.decode = lambda current, prior: torch.special.bessel_j0(decode(current, prior))
    caplog.set_level("INFO")
    lesion_probabilities(visits(1), [model], device="cpu", backend="auto")
    assert not caplog.text, "few windows are not worth a graph"
    monkeypatch.setattr(window, "WORTH_A_GRAPH", 1)
    lesion_probabilities(visits(1), [model], device="cpu", backend="auto")
    assert "tiny runs in torch, as OpenVINO cannot hold it:" in caplog.text
    with pytest.raises(ModelError, match="cannot be a graph of OpenVINO"):
        lesion_probabilities(visits(1), [model], device="cpu", backend="openvino")


def test_without_openvino(tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "find_spec", lambda _: None)
    model = load_model(export_tiny_model(tmp_path / "tiny"))
    assert backend.runnable(model, (16, 16, 16), torch.device("cpu"), "auto") is model.network
    with pytest.raises(DependencyError, match="pip install openvino"):
        backend.runnable(model, (16, 16, 16), torch.device("cpu"), "openvino")


def test_graphs_are_made_once_for_a_network(tmp_path, monkeypatch):
    made = []
    compiled = backend._compile
    monkeypatch.setattr(backend, "_compile", lambda *given: made.append(given) or compiled(*given))
    model = load_model(export_tiny_model(tmp_path / "tiny"))
    other = replace(model, description=model.description.model_copy(update={"temperature": 2.0}))
    for one in (model, other, model):
        lesion_probabilities(visits(1), [one], device="cpu", backend="openvino")
    assert len(made) == 1


def test_a_broken_installation_does_not_keep_anyone_from_segmenting(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(backend, "find_spec", lambda _: "found")
    monkeypatch.setattr(window, "WORTH_A_GRAPH", 1)
    model = load_model(export_tiny_model(tmp_path / "tiny"))
    caplog.set_level("INFO")
    lesion_probabilities(visits(1), [model], device="cpu", backend="auto")
    assert "tiny runs in torch" in caplog.text


def test_a_gpu_needs_torch(tmp_path):
    model = load_model(export_tiny_model(tmp_path / "tiny"))
    with pytest.raises(ModelError, match="--device cpu or --backend torch"):
        backend.runnable(model, (16, 16, 16), torch.device("cuda"), "openvino")
