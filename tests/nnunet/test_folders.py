"""Model folders of nnU-Net and LongiSeg, made and read; the reading is checked by nnU-Net's own builder."""

import json
import shutil

import numpy as np
import pytest
import torch

from lesiondelta.errors import ModelError, OutputError
from lesiondelta.inference.model import load_model
from lesiondelta.nnunet.environment import environment
from lesiondelta.nnunet.folders import CHECKPOINT, export_folder, import_fold, trained_folds
from tests.models import export_tiny_model

CLASSES = {
    "nnunet": "SingleVisitUNet",
    "longitudinal_concat": "ConcatenationUNet",
    "difference_weighting": "DifferenceWeightingUNet",
}


@pytest.fixture(params=CLASSES)
def model(request, tmp_path):
    """Of each method, with a window of another edge along every axis."""
    return tiny(tmp_path / "ours", request.param)


def tiny(folder, method="difference_weighting", **changes):
    export_tiny_model(folder, CLASSES[method], patch=(16, 32, 24))
    change(folder / "model.json", method=method, **changes)
    return load_model(folder)


def change(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def change_plan(source, **changes):
    plans = json.loads((source / "plans.json").read_text())
    plans["configurations"]["3d_fullres"] |= changes
    (source / "plans.json").write_text(json.dumps(plans))


def pair(shape=(16, 32, 24)):
    torch.manual_seed(0)
    return torch.randn(1, 4, *shape)


def test_out_and_back_is_the_same_network(model, tmp_path):
    theirs = export_folder(model, tmp_path / "theirs")
    assert trained_folds(theirs) == ["all"]
    back = load_model(import_fold(theirs, "all", tmp_path / "back"))
    assert (back.method, back.contrasts, back.description.patch) == (model.method, model.contrasts, (16, 32, 24))
    assert back.caution
    with torch.no_grad():
        torch.testing.assert_close(back.network(pair()), model.network(pair()), atol=0, rtol=0)


def test_a_full_disk_is_one_sentence(tmp_path, full_disk):
    model = tiny(tmp_path / "ours")
    with full_disk(), pytest.raises(OutputError, match=r"Cannot write .*checkpoint_final\.pth: File too large\."):
        export_folder(model, tmp_path / "theirs")
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_nnunets_own_network_gives_the_same_logits_of_turned_images(model, tmp_path):
    """Theirs is built by nnU-Net from the folder's plans, and fed (Z, Y, X) as its readers do."""
    theirs = export_folder(model, tmp_path / "theirs")
    plans = json.loads((theirs / "plans.json").read_text())
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    channels = 4 if model.method == "longitudinal_concat" else 2
    with environment(tmp_path):
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

        backbone = get_network_from_plans(
            architecture["network_class_name"], architecture["arch_kwargs"], architecture["_kw_requires_import"],
            channels, 2, allow_init=False, deep_supervision=False,
        )  # fmt: skip
    weights = torch.load(theirs / "fold_all" / CHECKPOINT, weights_only=True)["network_weights"]
    backbone.load_state_dict({
        name.removeprefix("backbone."): weight for name, weight in weights.items() if "skip_diff" not in name
    })  # fmt: skip
    backbone.eval()
    turned = pair().permute(0, 1, 4, 3, 2)
    with torch.no_grad():
        if model.method == "difference_weighting":
            current, prior = (backbone.encoder(visit) for visit in turned.chunk(2, dim=1))
            for stage, (c, p) in enumerate(zip(current, prior, strict=True)):
                norm = {part: weights[f"skip_diff_weighting.norm_{stage}.{part}"] for part in ("weight", "bias")}
                current[stage] = c * torch.nn.functional.instance_norm(c - p, **norm) + c
            logits = backbone.decoder(current)
        else:
            logits = backbone(turned[:, :channels])
        torch.testing.assert_close(logits.permute(0, 1, 4, 3, 2), model.network(pair()), atol=1e-4, rtol=1e-4)


def test_the_plans_are_nnunets(tmp_path):
    theirs = export_folder(tiny(tmp_path / "ours", "nnunet"), tmp_path / "theirs")
    with environment(tmp_path):
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        manager = PlansManager(str(theirs / "plans.json"))
        chosen = manager.get_configuration("3d_fullres")
        assert chosen.patch_size == [24, 32, 16]
        assert chosen.network_arch_class_name.endswith("PlainConvUNet")
        labels = manager.get_label_manager(json.loads((theirs / "dataset.json").read_text()))
        assert labels.num_segmentation_heads == 2
        assert callable(chosen.resampling_fn_data)
        assert manager.image_reader_writer_class.__name__ == "NibabelIOWithReorient"  # the axes that ours have


def test_transposed_axes_are_turned_back(tmp_path):
    """A plan that transposes (Z, Y, X) to (X, Z, Y), written by hand."""
    model = tiny(tmp_path / "ours")
    theirs = export_folder(model, tmp_path / "theirs")
    change(theirs / "plans.json", transpose_forward=[2, 0, 1])
    path = theirs / "fold_all" / CHECKPOINT
    checkpoint = torch.load(path, weights_only=True)
    for name, weight in checkpoint["network_weights"].items():
        if weight.ndim == 5:
            checkpoint["network_weights"][name] = weight.permute(0, 1, 4, 2, 3)
    torch.save(checkpoint, path)
    change_plan(theirs, patch_size=[16, 24, 32])
    back = load_model(import_fold(theirs, "all", tmp_path / "back"))
    assert back.description.patch == (16, 32, 24)
    with torch.no_grad():
        torch.testing.assert_close(back.network(pair()), model.network(pair()), atol=0, rtol=0)


def test_numbers_of_nnunets_log_are_read_and_code_is_refused(tmp_path):
    theirs = export_folder(tiny(tmp_path / "ours"), tmp_path / "theirs")
    path = theirs / "fold_all" / CHECKPOINT
    checkpoint = torch.load(path, weights_only=True)
    logged = {
        "logging": {"dice": [np.float64(0.5), np.float32(1)], "mean": np.array([0.1])},
        "_best_ema": np.float64(1),
    }
    torch.save(checkpoint | logged, path)
    import_fold(theirs, "all", tmp_path / "read")
    torch.save(checkpoint | {"init_args": shutil.rmtree}, path)
    with pytest.raises(ModelError, match=r"holds shutil\.rmtree that could run code, and was not opened"):
        import_fold(theirs, "all", tmp_path / "refused")
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match="damaged"):
        import_fold(theirs, "all", tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalization_schemes": ["CTNormalization"] * 2}, "normalises by"),
        ({"use_mask_for_norm": [False, False]}, "normalises by"),
        ({"spacing": [3.0, 1.0, 1.0]}, "not cubes"),
        ({"previous_stage": "3d_lowres"}, "cascade"),
        ({"patch_size": None}, "not laid out as nnU-Net"),
        ({"patch_size": [16, 32]}, "not laid out as nnU-Net"),
        ({"patch_size": [17, 32, 24]}, "strides do not divide"),
        ({"inherits_from": "3d_fullres"}, "not laid out as nnU-Net"),
    ],
)
def test_what_would_be_segmented_wrongly_is_refused(tmp_path, changes, message):
    theirs = export_folder(tiny(tmp_path / "ours"), tmp_path / "theirs")
    change_plan(theirs, **changes)
    with pytest.raises(ModelError, match=message):
        import_fold(theirs, "all", tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    "changes",
    [{"channel_names": ["T1w", "FLAIR"]}, {"labels": [0, 1]}, {"labels": None}, {"channel_names": {"first": "T1w"}}],
)
def test_a_malformed_dataset_is_refused_in_a_sentence(tmp_path, changes):
    theirs = export_folder(tiny(tmp_path / "ours"), tmp_path / "theirs")
    change(theirs / "dataset.json", **changes)
    with pytest.raises(ModelError, match="not laid out as nnU-Net"):
        import_fold(theirs, "all", tmp_path / "refused")


def test_weights_that_are_no_dictionary(tmp_path):
    theirs = export_folder(tiny(tmp_path / "ours"), tmp_path / "theirs")
    path = theirs / "fold_all" / CHECKPOINT
    torch.save(torch.load(path, weights_only=True) | {"network_weights": [1]}, path)
    with pytest.raises(ModelError, match="not laid out as nnU-Net"):
        import_fold(theirs, "all", tmp_path / "refused")


def test_channels_are_told_by_their_names_or_by_the_user(tmp_path):
    theirs = export_folder(tiny(tmp_path / "ours"), tmp_path / "theirs")
    change(theirs / "dataset.json", channel_names={"0": "flair", "1": "T1"})
    assert load_model(import_fold(theirs, "all", tmp_path / "named")).contrasts == ("FLAIR", "T1w")
    change(theirs / "dataset.json", channel_names={"0": "MR", "1": "MR2"})
    with pytest.raises(ModelError, match=r"are MR, MR2.*--contrasts"):
        import_fold(theirs, "all", tmp_path / "unnamed")
    given = import_fold(theirs, "all", tmp_path / "given", ["FLAIR", "T1w"])
    assert load_model(given).contrasts == ("FLAIR", "T1w")


def test_labels_and_networks_of_another_kind(tmp_path):
    theirs = export_folder(tiny(tmp_path / "ours"), tmp_path / "theirs")
    change(theirs / "dataset.json", labels={"background": 0, "lesion": 1, "tumour": 2})
    with pytest.raises(ModelError, match="its labels are"):
        import_fold(theirs, "all", tmp_path / "refused")
    change(theirs / "dataset.json", labels={"background": 0, "lesion": 1})
    path = theirs / "fold_all" / CHECKPOINT
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["network_weights"]["skip_diff_weighting.norm_0.weight"]
    torch.save(checkpoint, path)
    with pytest.raises(ModelError, match="do not fit the network"):
        import_fold(theirs, "all", tmp_path / "refused")
    torch.save({"weights": 1}, path)
    with pytest.raises(ModelError, match="no network_weights"):
        import_fold(theirs, "all", tmp_path / "refused")


def test_what_is_no_model_folder(tmp_path):
    tiny(tmp_path / "ours")
    with pytest.raises(ModelError, match="is a model of lesiondelta already"):
        trained_folds(tmp_path / "ours")
    with pytest.raises(ModelError, match=r"no plans\.json and no dataset\.json"):
        trained_folds(tmp_path)
    (tmp_path / "plans.json").write_text("{}")
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(ModelError, match="finish its training"):
        trained_folds(tmp_path)


def test_only_methods_of_both_sides_are_exported_and_nothing_is_overwritten(tmp_path):
    model = tiny(tmp_path / "ours")
    export_folder(model, tmp_path / "theirs")
    with pytest.raises(OutputError, match="exists"):
        export_folder(model, tmp_path / "theirs")
    change(tmp_path / "ours" / "model.json", method="simunet")
    with pytest.raises(ModelError, match="nnU-Net and LongiSeg know"):
        export_folder(load_model(tmp_path / "ours"), tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write into"):
        export_folder(model, tmp_path / "file" / "theirs")
