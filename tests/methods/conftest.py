from dataclasses import replace

import pytest

from lesiondelta import methods
from lesiondelta.nnunet import dataset, presets
from lesiondelta.nnunet.environment import environment
from lesiondelta.nnunet.job import TrainingOptions
from lesiondelta.nnunet.training import plan_job, train
from tests.synthetic import write_patients

SMOKE = presets.load("smoke")
SHARE = 0.25  # of self-priors: one of the patients has a single visit


@pytest.fixture(scope="session")
def patients(tmp_path_factory):
    """Patients with two, one and three visits."""
    return write_patients(tmp_path_factory.mktemp("contract-images"))


@pytest.fixture(scope="session")
def data(patients, tmp_path_factory):
    folder = tmp_path_factory.mktemp("contract-data")
    dataset.build(patients, folder, (32, 32, 32))
    return folder


@pytest.fixture(scope="session", params=methods.names())
def method(request):
    return methods.load(request.param)


@pytest.fixture(scope="session")
def trained(method, patients, data, tmp_path_factory):
    """The exported model of an end-to-end `smoke` training."""
    output = tmp_path_factory.mktemp("contract") / method.name
    options = TrainingOptions(fold=0, folds=3, device="cpu", self_prior_share=SHARE)
    return train(patients, plan_job(patients, output, method, SMOKE, options, data))


@pytest.fixture(scope="session")
def network_of(method, data):
    """Build the method's network from the plan of a patch, in front of any training."""

    def build(patch, deep_supervision=None, seed=0):
        with environment(data):
            from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

            from lesiondelta.nnunet.planning import make_plan
            from lesiondelta.nnunet.trainer import seed_everything

            plan = make_plan(replace(SMOKE, patch=patch), method)["configurations"]["3d_fullres"]
            architecture = plan["architecture"]
            seed_everything(seed)
            return get_network_from_plans(
                architecture["network_class_name"],
                architecture["arch_kwargs"],
                architecture["_kw_requires_import"],
                2,
                2,
                deep_supervision=method.deep_supervision if deep_supervision is None else deep_supervision,
            ), plan

    return build
