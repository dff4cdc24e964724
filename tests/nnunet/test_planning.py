from dataclasses import replace

import pytest

from lesiondelta import methods
from lesiondelta.errors import InputError
from lesiondelta.nnunet import dataset, presets
from lesiondelta.nnunet.environment import environment
from tests.synthetic import write_patients


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    built = tmp_path_factory.mktemp("data")
    dataset.build(write_patients(tmp_path_factory.mktemp("images")), built, (32, 32, 32))
    return built


SINGLE = methods.load("nnunet")


def plan(folder, preset, method=SINGLE):
    with environment(folder):
        from lesiondelta.nnunet.planning import make_plan

        return make_plan(preset, method)["configurations"]["3d_fullres"]


@pytest.mark.parametrize(
    ("name", "patch", "features"),
    [
        ("paper", [128, 160, 128], [32, 64, 128, 256, 320, 320]),
        ("small", [64, 64, 64], [16, 32, 64, 128, 256]),
        ("smoke", [32, 32, 32], [8, 16, 32, 32]),
    ],
)
def test_presets(folder, name, patch, features):
    chosen = plan(folder, presets.load(name))
    assert chosen["patch_size"] == patch
    assert chosen["architecture"]["arch_kwargs"]["features_per_stage"] == features
    assert chosen["batch_size"] == 2
    assert chosen["normalization_schemes"] == ["ZScoreNormalization"] * 2
    assert chosen["use_mask_for_norm"] == [True] * 2


def test_methods_share_the_plan_but_for_the_network(folder):
    family = [m for m in map(methods.load, methods.names()) if m.planner == "plain" and m.patch_multiple == 1]
    plans = [plan(folder, presets.load("smoke"), method) for method in family]
    networks = [p["architecture"].pop("network_class_name") for p in plans]
    assert networks == [method.network for method in family]
    assert all(p == plans[0] for p in plans)


@pytest.mark.parametrize(
    ("change", "patch"),
    [({"patch_multiple": 32}, [128, 160, 128]), ({"largest_patch": 80}, [80, 80, 80]), ({}, [128, 160, 128])],
)
def test_a_patch_that_the_method_can_take(folder, change, patch):
    assert plan(folder, presets.load("paper"), replace(SINGLE, **change))["patch_size"] == patch


def test_a_patch_is_rounded_up(folder):
    odd = replace(presets.load("smoke"), patch=(40, 32, 16))
    assert plan(folder, odd, replace(SINGLE, patch_multiple=32))["patch_size"] == [64, 32, 32]


def test_the_residual_planner(folder):
    """nnU-Net's ResEnc: 1, 3, 4, 6, ... residual blocks in the encoder, one convolution a stage in the decoder."""
    chosen = plan(folder, presets.load("paper"), methods.load("difference_weighting_resenc"))
    assert chosen["patch_size"] == [128, 160, 128]
    kwargs = chosen["architecture"]["arch_kwargs"]
    assert kwargs["n_blocks_per_stage"] == [1, 3, 4, 6, 6, 6]
    assert kwargs["features_per_stage"] == [32, 64, 128, 256, 320, 320]


def test_trainings_that_share_the_folder_overwrite_no_plans(folder):
    before = set(folder.rglob("*"))
    plan(folder, presets.load("small"))
    assert {path.name for path in set(folder.rglob("*")) - before} <= {"dataset.json"}  # a copy that nnU-Net makes


def test_nnunet_plans_what_the_preset_leaves_open(folder):
    free = replace(presets.load("paper"), patch=None, batch=None)
    chosen = plan(folder, free)
    assert chosen["patch_size"] == [40, 40, 40]  # the whole brain of 35 mm, rounded up to the topology's multiple
    assert chosen["batch_size"] >= 2


def test_counting_the_encoder_twice_needs_more_memory(folder):
    with environment(folder):
        from lesiondelta.nnunet.planning import FamilyPlanner

        free = replace(presets.load("paper"), patch=None, batch=None, memory_gb=0.1)
        once = plan(folder, free)["patch_size"]
        twice = plan(folder, replace(free, count_encoder_twice=True))["patch_size"]
        assert FamilyPlanner(free).UNet_vram_target_GB == 0.1
    assert sum(twice) < sum(once)


def test_dice_over_the_batch_where_patches_are_small(folder):
    assert not plan(folder, presets.load("smoke"))["batch_dice"]  # 32^3 of a brain of 35^3
    assert plan(folder, replace(presets.load("smoke"), patch=(16, 16, 16)))["batch_dice"]


def test_unknown_preset():
    with pytest.raises(InputError, match="paper, small, smoke"):
        presets.load("huge")


@pytest.mark.parametrize("change", [{"epochs": 0}, {"batch": 0}, {"patch": (4, 32, 32)}])
def test_impossible_presets(change):
    with pytest.raises(InputError, match="smoke"):
        replace(presets.load("smoke"), **change)
