import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from lesiondelta import methods
from lesiondelta.errors import CohortError, InputError, ModelError, OutputError
from lesiondelta.inference.model import load_model
from lesiondelta.inference.window import choose_device
from lesiondelta.nnunet import presets
from lesiondelta.nnunet.dataset import STORAGE
from lesiondelta.nnunet.export import export_model
from lesiondelta.nnunet.job import TrainingOptions
from lesiondelta.nnunet.training import plan_job, source_commit, train
from tests.synthetic import write_patients

CPU = TrainingOptions(device="cpu")
TINY = replace(presets.load("smoke"), epochs=3, iterations_per_epoch=2, patch=(16, 16, 16), max_features=16)
METHOD = methods.load("difference_weighting")


class StoppedError(Exception):
    """What a test interrupts a training with."""


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    return write_patients(tmp_path_factory.mktemp("images"), (2, 2, 3))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def run(patients, data):
    """Train the tiny preset into a folder, on stored data that all tests here share."""

    def call(folder, method=METHOD, preset=TINY, progress=None, **options):
        chosen = TrainingOptions(device="cpu", **options)
        return train(patients, plan_job(patients, folder, method, preset, chosen, data), progress)

    return call


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    """The uninterrupted training."""
    return run(tmp_path_factory.mktemp("trained") / "out")


def weights(model):
    return load_file(model / "weights.safetensors")


def same(one, other):
    return weights(one).keys() == weights(other).keys() and all(
        torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items()
    )


def stop_at(epoch, iteration):
    def progress(state):
        if (state.epoch, state.iteration) == (epoch, iteration):
            raise StoppedError

    return progress


def test_progress_counts_iterations_and_epochs(run, tmp_path):
    states = []
    run(tmp_path / "out", progress=states.append)
    steps = [(s.epoch, s.iteration) for s in states if s.validation_loss is None]
    assert steps == [(e, i) for e in range(3) for i in (1, 2)]
    ends = [s for s in states if s.validation_loss is not None]
    assert [(s.epoch, s.epochs, s.iteration, s.iterations) for s in ends] == [(e, 3, 2, 2) for e in range(3)]


def test_one_seed_gives_one_result(run, trained, tmp_path):
    assert same(run(tmp_path / "again"), trained)
    assert not same(run(tmp_path / "other", seed=1), trained)


@pytest.mark.parametrize("moments", [[(0, 1)], [(1, 1)], [(0, 2), (1, 2), (2, 1)]])
def test_an_interrupted_training_ends_in_identical_weights(run, trained, tmp_path, moments):
    for moment in moments:
        with pytest.raises(StoppedError):
            run(tmp_path / "out", progress=stop_at(*moment))
    states = []
    model = run(tmp_path / "out", progress=states.append)
    assert (states[0].epoch, states[0].iteration) == (moments[-1][0], 1)  # the current epoch at most is lost
    assert same(model, trained)


def test_a_complete_training_returns_at_once(run, trained):
    assert run(trained.parent, progress=stop_at(0, 1)) == trained


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"preset": replace(TINY, epochs=4)}, "preset"),
        ({"method": methods.load("nnunet")}, "method"),
        ({"self_prior_share": 0.5}, "self_prior_share"),
        ({"method": replace(METHOD, recipe=replace(METHOD.recipe, momentum=0.9))}, "method"),
    ],
)
def test_a_folder_with_another_training_is_refused(run, trained, options, named):
    with pytest.raises(OutputError, match=named):
        run(trained.parent, **options)


def test_a_training_goes_on_with_data_of_its_own_version_alone(run, tmp_path):
    with pytest.raises(StoppedError):
        run(tmp_path / "out", progress=stop_at(0, 1))
    settings = json.loads((tmp_path / "out" / "training.json").read_text())
    (tmp_path / "out" / "training.json").write_text(json.dumps(settings | {"storage": STORAGE + 1}))
    with pytest.raises(OutputError, match="another storage"):
        run(tmp_path / "out")


def test_what_the_exported_model_records(run, tmp_path):
    content = json.loads((run(tmp_path / "out", fold=1, folds=3, seed=7) / "model.json").read_text())
    training = content["training"]
    assert content["method"] == "difference_weighting"
    assert content["contrasts"] == ["T1w", "FLAIR"]
    assert content["spacing_mm"] == 1.0
    assert content["patch"] == [16, 16, 16]
    assert (training["fold"], training["seed"], training["epochs_done"], training["batch"]) == (1, 7, 3, 2)
    assert training["iterations_done"] == 3 * TINY.iterations_per_epoch
    assert sorted(training["train"] + training["validation"]) == ["001", "002", "003"]
    assert len(training["validation"]) == 1
    assert training["method"]["recipe"]["momentum"] == 0.99
    assert set(training["versions"]) == {"lesiondelta", "nnunetv2", "torch"}
    assert 0 <= training["last_validation_dice"] <= 1


@pytest.mark.parametrize("recorded", [True, False])
def test_every_commit_that_trained_is_recorded(run, tmp_path, recorded):
    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        run(out, progress=stop_at(1, 1))
    checkpoint = torch.load(out / "checkpoint.pth", weights_only=True)
    assert checkpoint.pop("commits") == [source_commit()]
    torch.save(checkpoint | ({"commits": ["earlier"]} if recorded else {}), out / "checkpoint.pth")
    settings = json.loads((out / "training.json").read_text())
    (out / "training.json").write_text(json.dumps(settings | {"commit": "first"}))
    training = load_model(run(out)).description.training
    assert training["commits"] == ["earlier" if recorded else "first", source_commit()]
    assert training["commit"] == source_commit()


def test_fold_all_has_no_validation_score(trained):
    assert load_model(trained).description.training["last_validation_dice"] is None


def test_a_single_visit_needs_self_priors(tmp_path):
    patients = write_patients(tmp_path, (2, 1, 1))
    with pytest.raises(CohortError, match=r"002, 003\. Leave them out, or give a self-prior share"):
        plan_job(patients, tmp_path / "out", METHOD, TINY, CPU)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("others", [slice(0, 2), slice(0, 4)])
def test_other_patients_than_planned_are_refused(tmp_path, others):
    patients = write_patients(tmp_path, (2, 2, 2, 2))
    job = plan_job(patients[:3], tmp_path / "out", METHOD, TINY, CPU)
    with pytest.raises(CohortError, match=r"planned with other patients: 00[34] are"):
        train(patients[others], job)
    assert not (tmp_path / "out").exists()


def test_the_folder_holds_checkpoint_and_tensorboard_and_nothing_unfinished(trained):
    folder = trained.parent
    assert list((folder / "tensorboard").glob("events.*"))
    assert not list(folder.rglob(".partial-*"))
    checkpoint = torch.load(folder / "checkpoint.pth", weights_only=True)
    assert checkpoint["epochs_done"] == 3
    assert len(checkpoint["history"]["train_losses"]) == 3


def test_what_a_killed_run_was_writing_is_deleted(run, tmp_path):
    (tmp_path / "out" / ".partial-model").mkdir(parents=True)
    (tmp_path / "out" / ".partial-x-checkpoint.pth").touch()
    run(tmp_path / "out")
    assert not list((tmp_path / "out").glob(".partial-*"))


def test_warm_start(run, trained, tmp_path):
    losses = {}
    for name, start in (("cold", None), ("warm", trained)):
        states = []
        run(tmp_path / name, initial_weights=start, preset=replace(TINY, epochs=1), progress=states.append)
        losses[name] = states[0].train_loss
    assert losses["warm"] < losses["cold"]  # the first loss of the same batch


def test_warm_start_from_another_network(run, trained, tmp_path):
    with pytest.raises(ModelError, match="do not fit"):
        run(tmp_path / "out", method=methods.load("longitudinal_concat"), initial_weights=trained)


def test_a_foreign_checkpoint_is_refused(run, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        run(out, progress=stop_at(1, 1))
    torch.save({"model": object()}, out / "checkpoint.pth")  # needs unpickling
    with pytest.raises(ModelError, match="delete it"):
        run(out)
    torch.save({"model": 1}, out / "checkpoint.pth")
    with pytest.raises(ModelError, match="not a checkpoint"):
        run(out)


def stopped_in(run, out, precision=None):
    """A training stopped in its second epoch; the first is said to be of another precision."""
    with pytest.raises(StoppedError):
        run(out, progress=stop_at(1, 1))
    checkpoint = torch.load(out / "checkpoint.pth", weights_only=True)
    torch.save(checkpoint | ({"precision": precision} if precision else {}), out / "checkpoint.pth")
    return checkpoint["precision"]


def test_a_training_continues_in_the_precision_it_began_in(run, tmp_path, caplog):
    own = stopped_in(run, tmp_path / "own")
    other = "float32" if own == "mixed bfloat16" else "mixed bfloat16"
    stopped_in(run, tmp_path / "other", other)
    with caplog.at_level("INFO"):
        models = {precision: run(tmp_path / name) for name, precision in (("own", own), ("other", other))}
    assert {load_model(model).description.training["precision"] for model in models.values()} == {own, other}
    assert not same(models[own], models[other])
    assert caplog.text.count("continuing in") == 1


def test_a_training_of_cuda_is_not_continued_on_the_cpu(run, tmp_path):
    stopped_in(run, tmp_path / "out", "mixed float16")
    with pytest.raises(ModelError, match="continue on the device it began on"):
        run(tmp_path / "out")


def test_a_gpu_that_is_too_small_is_one_sentence(run, tmp_path):
    def full(state):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(InputError, match=r"difference_weighting with the preset smoke does not fit .* with --gpus"):
        run(tmp_path / "out", progress=full)


def test_a_full_disk_is_one_sentence_and_the_training_goes_on_later(run, trained, tmp_path, full_disk):
    with full_disk(), pytest.raises(OutputError, match=r"Cannot write .*checkpoint\.pth: File too large\."):
        run(tmp_path / "out")
    assert not list((tmp_path / "out").glob(".partial-*"))
    with full_disk(1000), pytest.raises(OutputError, match=r"training in .*out cannot be .* File too large"):
        run(tmp_path / "out")  # what nnU-Net itself writes at the start does not fit
    assert same(run(tmp_path / "out"), trained)


def test_a_model_is_exported_whole_or_not_at_all(trained, tmp_path, full_disk):
    network = load_model(trained).network
    export_model(tmp_path / "model", network, {"name": "first"})
    with full_disk(), pytest.raises(OutputError, match=r"Cannot write .*model: File too large\."):
        export_model(tmp_path / "model", network, {"name": "second"})
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert json.loads((tmp_path / "model" / "model.json").read_text())["name"] == "first"


def test_adamw(run, tmp_path):
    recipe = methods.Recipe(optimiser="adamw", learning_rate=1e-3, momentum=0.9)
    model = run(tmp_path / "out", method=replace(METHOD, recipe=recipe), preset=replace(TINY, epochs=1))
    assert load_model(model).description.training["method"]["recipe"]["optimiser"] == "adamw"


def test_a_presets_recipe_takes_the_place_of_nnunets(run, tmp_path):
    model = run(tmp_path / "out", preset=replace(TINY, epochs=1, recipe=presets.load("small").recipe))
    training = load_model(model).description.training
    assert training["method"]["recipe"]["learning_rate"] == presets.load("small").recipe.learning_rate
    assert (model / "weights.safetensors").stat().st_mode & 0o044 == 0o044  # others may read it


@pytest.mark.parametrize(("policy", "prior"), [("baseline", "baseline"), ("random", "previous")])
def test_a_model_says_which_visit_it_compares_with(run, tmp_path, policy, prior):
    model = run(tmp_path / "out", method=replace(METHOD, prior=policy), preset=replace(TINY, epochs=1))
    assert load_model(model).description.prior == prior


def test_absent_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type in ("cpu", "mps")
    with pytest.raises(InputError, match="cuda"):
        choose_device("cuda")
