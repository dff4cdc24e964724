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


SINGLE = methods.load("nnunet").network


def plan(folder, preset, network=SINGLE):
    with environment(folder):
        from lesiondelta.nnunet.planning import make_plan

        return make_plan(preset, network)["configurations"]["3d_fullres"]


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
    plans = [plan(folder, presets.load("smoke"), methods.load(name).network) for name in methods.names()]
    networks = [p["architecture"].pop("network_class_name") for p in plans]
    assert networks == [methods.load(name).network for name in methods.names()]
    assert all(p == plans[0] for p in plans)


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
