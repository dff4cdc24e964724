import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lesiondelta.errors import InputError, ModelError
from lesiondelta.evaluation.instances import lesion_mask
from lesiondelta.inference.model import bundled_model, load_model
from lesiondelta.inference.window import extra_outputs, lesion_probabilities, mirrors, window_starts
from lesiondelta.nnunet.export import export_model, named_weights
from lesiondelta.preprocessing.intensity import normalise
from tests.models import KWARGS, build_network, export_tiny_model

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(export_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


def brain(shape=(20, 24, 19), channels=2):
    images = RNG.normal(5, 1, (channels, *shape)).astype(np.float32)
    images[:, :2] = 0
    return images


def test_one_window_equals_the_network(model):
    visits = [brain((16, 16, 16)) for _ in range(2)]
    z = [torch.zeros(2, 16, 16, 16) for _ in visits]
    for tensor, visit in zip(z, visits, strict=True):
        for channel in range(2):
            inside = visit[channel][2:].ravel()
            tensor[channel, 2:] = torch.from_numpy((visit[channel][2:] - inside.mean()) / inside.std())
    with torch.no_grad():
        expected = build_network()(torch.cat((z[1], z[0]))[None]).softmax(1)[0, 1].numpy()
    result = lesion_probabilities(visits, [model])[1]
    np.testing.assert_allclose(result[2:], expected[2:], atol=1e-4)
    assert not result[:2].any()


def test_n_visits_cost_n_encoder_calls_a_window(model):
    calls = {"encoder": 0, "decoder": 0}
    hooks = [
        getattr(model.network, part).register_forward_hook(
            lambda *_, part=part: calls.__setitem__(part, calls[part] + 1)
        )
        for part in calls
    ]
    windows = []
    lesion_probabilities(
        [brain() for _ in range(3)], [model], progress=lambda done, total: windows.append((done, total))
    )
    for hook in hooks:
        hook.remove()
    assert windows[-1][0] == windows[-1][1] == len(windows)
    assert calls == {"encoder": 3 * len(windows), "decoder": 3 * len(windows)}


def test_the_first_visit_may_be_the_prior_of_all(model):
    """Then the third visit's result is that of the pair (first, third)."""
    visits = [brain((16, 16, 16)) for _ in range(3)]
    with_first = replace(model, description=model.description.model_copy(update={"prior": "baseline"}))
    expected = lesion_probabilities([visits[0], visits[2]], [model])[1]
    np.testing.assert_array_equal(lesion_probabilities(visits, [with_first])[2], expected)
    assert not np.array_equal(lesion_probabilities(visits, [model])[2], expected)


def test_each_visit_depends_on_its_prior_alone(model):
    visits = [brain() for _ in range(4)]
    before = lesion_probabilities(visits, [model])
    changed = lesion_probabilities([*visits[:3], brain()], [model])
    for index in range(3):
        np.testing.assert_array_equal(before[index], changed[index])
    assert not np.array_equal(before[3], changed[3])
    first = lesion_probabilities(visits[:2], [model])[0]
    np.testing.assert_array_equal(before[0], first)  # the first visit's prior is the second


def test_a_single_visit_is_its_own_prior(model):
    visit = brain()
    np.testing.assert_array_equal(
        lesion_probabilities([visit], [model])[0], lesion_probabilities([visit, visit], [model])[0]
    )


def test_every_other_visit_may_be_a_reference(model):
    """The mean of the probabilities; a single visit still has itself."""
    visits = [brain((16, 16, 16)) for _ in range(3)]
    with_all = replace(model, description=model.description.model_copy(update={"references": "all"}))
    found = lesion_probabilities(visits, [with_all])
    for index, others in enumerate([(1, 2), (0, 2), (0, 1)]):
        pairs = [lesion_probabilities([visits[other], visits[index]], [model])[1] for other in others]
        np.testing.assert_allclose(found[index], np.mean(pairs, axis=0), atol=1e-5)
    for few in (visits[:1], visits[:2]):
        for one, other in zip(*(lesion_probabilities(few, [m]) for m in (model, with_all)), strict=True):
            np.testing.assert_array_equal(one, other)


def test_models_are_averaged_as_logits(tmp_path, model):
    other = load_model(export_tiny_model(tmp_path / "other", seed=1))
    visits = [brain(), brain()]

    def logit(p):
        return np.log(p / (1 - p))

    a, b, both = (lesion_probabilities(visits, m)[0][2:] for m in ([model], [other], [model, other]))
    inside = (np.minimum(a, b) > 1e-4) & (np.maximum(a, b) < 1 - 1e-4)
    np.testing.assert_allclose(logit(both[inside]), (logit(a[inside]) + logit(b[inside])) / 2, atol=1e-2)
    assert inside.mean() > 0.2


def test_logits_are_divided_by_the_temperature(model):
    warm = replace(model, description=model.description.model_copy(update={"temperature": 2.0}))
    visit = brain()
    plain, divided = (lesion_probabilities([visit], [m])[0].astype(np.float64) for m in (model, warm))
    inside = (plain > 1e-4) & (plain < 1 - 1e-4)
    logit = np.log(plain[inside] / (1 - plain[inside]))
    np.testing.assert_allclose(divided[inside], 1 / (1 + np.exp(-logit / 2)), atol=1e-3)
    assert np.ptp(logit) > 0.1
    assert warm.fingerprint != model.fingerprint


def test_mirroring_makes_the_result_equivariant_to_flips(model):
    visits = [brain((16, 16, 16)) for _ in range(2)]
    plain = lesion_probabilities(visits, [model], mirroring=True)[0]
    flipped = lesion_probabilities([v[:, ::-1].copy() for v in visits], [model], mirroring=True)[0]
    np.testing.assert_allclose(flipped[::-1], plain, atol=1e-4)
    unmirrored = lesion_probabilities([v[:, ::-1].copy() for v in visits], [model], mirroring=False)[0]
    assert np.abs(unmirrored[::-1] - plain).max() > 1e-2


def test_a_model_may_declare_that_mirroring_is_not_for_it(model):
    without = replace(model, description=model.description.model_copy(update={"mirroring": False}))
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert mirrors(None, cuda, [model])
    assert not any((mirrors(None, cuda, [model, without]), mirrors(None, cpu, [model])))
    assert mirrors(True, cpu, [without])


def test_extra_outputs_are_the_mean_of_windows_each_visit_with_its_prior(tmp_path):
    """Two windows along X that share their middle third, uniformly weighted."""
    loaded = load_model(export_tiny_model(tmp_path / "model", "DifferenceVNet"))
    options = {"weighting": "uniform", "references": "all"}  # the latter is for lesions alone
    uniform = replace(loaded, description=loaded.description.model_copy(update=options))
    visits = [brain((24, 16, 16)) for _ in range(3)]
    result = extra_outputs(visits, uniform, overlap=0.5, device="cpu")
    z = [torch.from_numpy(normalise(visit))[None] for visit in visits]
    for index, prior in ((0, 1), (1, 0), (2, 1)):
        with torch.no_grad():
            low, high = (
                uniform.network.extras(z[index][:, :, s], z[prior][:, :, s]) for s in (slice(16), slice(8, 24))
            )
        expected = torch.zeros(2, 1, 24, 16, 16)
        expected[0, :, :16], expected[1, :, 8:] = low["new"][0], high["new"][0]
        expected[:, :, 8:16] /= 2
        inside = visits[index][0] != 0
        assert list(result[index]) == ["new"]
        np.testing.assert_allclose(result[index]["new"], expected.sum(0).numpy() * inside, atol=1e-5)


def test_a_models_own_overlap(model):
    visits = [brain((32, 16, 16)) for _ in range(2)]
    own = replace(model, description=model.description.model_copy(update={"overlap": 0.75}))
    counts = []
    for chosen, overlap in ((model, None), (own, None), (own, 0.5)):
        lesion_probabilities(visits, [chosen], overlap=overlap, device="cpu", progress=lambda _, n: counts.append(n))
    assert counts == [*[3] * 3, *[5] * 5, *[3] * 3]  # windows of 16, at most 12, 4 and 8 voxels apart


def test_most_networks_offer_nothing_extra(model):
    assert extra_outputs([brain(), brain()], model, device="cpu") == [{}, {}]


def test_images_smaller_than_the_window_and_empty_regions(model):
    small = [brain((9, 12, 7)), brain((9, 12, 7))]
    assert lesion_probabilities(small, [model])[0].shape == (9, 12, 7)
    large = [np.zeros((2, 60, 20, 20), np.float32) for _ in range(2)]
    for visit in large:
        visit[:, :10] = RNG.normal(5, 1, (2, 10, 20, 20))
    counted = []
    lesion_probabilities(large, [model], overlap=0.5, progress=lambda done, total: counted.append(total))
    assert counted[0] == 2 * 2 * 2  # two of the seven windows along X meet the brain: starts 0 and 7


def test_window_starts_cover_the_axis():
    assert window_starts(16, 16, 0.5) == [0]
    assert window_starts(17, 16, 0.5) == [0, 1]
    assert window_starts(32, 16, 0.5) == [0, 8, 16]
    assert window_starts(40, 16, 0.5) == [0, 8, 16, 24]


def test_the_size_filter_counts_millimetres_and_26_neighbours():
    probability = np.zeros((8, 8, 8), np.float32)
    probability[0, 0, 0] = probability[1, 1, 1] = probability[2, 2, 2] = 0.9  # one lesion of three voxels
    probability[6, 6, 6] = probability[6, 6, 7] = 0.9
    assert lesion_mask(probability, 0.5, 3, (1, 1, 1)).sum() == 3
    assert lesion_mask(probability, 0.5, 3, (1, 1, 1.5)).sum() == 5
    assert lesion_mask(probability, 0.5, 0, (1, 1, 1)).sum() == 5
    assert lesion_mask(probability, 0.95, 3, (1, 1, 1)).sum() == 0


def test_different_grids_are_refused(model):
    with pytest.raises(InputError, match="one grid"):
        lesion_probabilities([brain(), brain((8, 8, 8))], [model])


def test_the_bundled_model_loads_is_small_and_has_a_card():
    folder = bundled_model()
    assert load_model(folder).contrasts == ("T1w", "FLAIR")
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 12_000_000
    assert (folder / "MODEL_CARD.md").is_file()


def test_half_precision_holds_weights_that_were_rounded_to_it_exactly(tmp_path):
    def lossless(network):
        stored = export_model(tmp_path / "half", network, description, half=True)
        weights, found = named_weights(network), named_weights(load_model(stored).network)
        return all(torch.equal(found[name], weight) for name, weight in weights.items())

    tiny = load_model(export_tiny_model(tmp_path / "tiny"))
    description = tiny.description.model_dump(exclude={"weights_sha256"})
    assert not lossless(tiny.network)
    assert lossless(tiny.network.half().float())


def edit(folder, **changes):
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def unet(class_name="x.SingleVisitUNet", **kwargs):
    return {"class": class_name, "kwargs": KWARGS | kwargs}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.json").unlink(), "no model.json"),
        (lambda f: (f / "weights.safetensors").unlink(), "missing"),
        (lambda f: (f / "weights.safetensors").write_bytes(b"not a model"), "SHA-256"),
        (lambda f: (f / "model.json").write_text("{"), "not the description"),
        (lambda f: edit(f, format="something else"), "not the description"),
        (lambda f: edit(f, network=unet("os.system")), "none of ours"),
        (lambda f: edit(f, network=unet(conv_op="os.system")), "not supported"),
        (lambda f: edit(f, network=unet(bad=1)), "cannot be built"),
        (lambda f: edit(f, network=unet(features_per_stage=[-4, 8, 16])), "cannot be built"),
        (lambda f: edit(f, network=unet(conv_op=None)), "cannot be built"),
        (lambda f: edit(f, network=unet() | {"kwargs": None}), "network.kwargs"),
        (lambda f: edit(f, network=unet(strides=[1, 2, 2])), "strides"),
        (lambda f: edit(f, network=unet(strides=[[1, 1, 0]] * 3)), "strides"),
        (lambda f: edit(f, network=unet(num_classes=3)), "num_classes=3"),
        (lambda f: edit(f, network=unet(deep_supervision=True)), "deep_supervision=True"),
        (lambda f: edit(f, patch=[0, 16, 16]), "not the description"),
    ],
)
def test_damaged_and_foreign_models_are_refused(tmp_path, damage, message):
    folder = export_tiny_model(tmp_path / "model")
    damage(folder)
    with pytest.raises(ModelError, match=message) as refused:
        load_model(folder)
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors", "."])
def test_a_model_without_permission_is_one_sentence(name):
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        folder = export_tiny_model(Path(made) / "model")
        (folder / name).chmod(0)
        try:
            if user == 0:
                os.seteuid(65534)  # root may read everything
            with pytest.raises(ModelError, match=r"model.* cannot be read \(Permission denied\)"):
                load_model(folder)
        finally:
            os.seteuid(user)
            folder.chmod(0o755)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    from lesiondelta.files import sha256

    folder = export_tiny_model(tmp_path / "model")
    weights = load_file(folder / "weights.safetensors")
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, folder / "weights.safetensors")
    edit(folder, weights_sha256=sha256(folder / "weights.safetensors"))
    with pytest.raises(ModelError, match="not finite"):
        load_model(folder)


def test_output_that_is_not_finite_is_no_empty_mask(tmp_path):
    model = load_model(export_tiny_model(tmp_path / "model"))
    visit = brain()
    visit[0, 5, 5, 5] = np.float32(np.inf)
    with np.errstate(invalid="ignore"), pytest.raises(ModelError, match="not finite"):
        lesion_probabilities([visit], [model])


def test_another_threshold_is_another_model(tmp_path):
    folder = export_tiny_model(tmp_path / "model")
    before = load_model(folder)
    edit(folder, threshold=0.4)
    after = load_model(folder)
    assert after.sha256 == before.sha256
    assert after.fingerprint != before.fingerprint


def test_pickles_are_refused_even_with_a_matching_hash(tmp_path):
    from lesiondelta.files import sha256

    folder = export_tiny_model(tmp_path / "model")
    torch.save({"a": torch.zeros(20_000)}, folder / "weights.safetensors")
    edit(folder, weights_sha256=sha256(folder / "weights.safetensors"))
    with pytest.raises(ModelError, match="not a safetensors file"):
        load_model(folder)
