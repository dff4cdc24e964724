"""The command line itself: help, versions, usage, the commands on tiny data."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lesiondelta import __version__
from lesiondelta.cli import app
from lesiondelta.cli.console import paths_together, spread
from lesiondelta.files import alone
from lesiondelta.images import read_image, read_mask, require_same_grid
from lesiondelta.preprocessing.programs import find_program
from lesiondelta.simulation import Acquisition, CohortPlan, write_cohort
from tests.models import export_tiny_model
from tests.tiny import OPTIONS, call, image_path, rows, write_patient, write_references

COMMANDS = (
    "demo", "run", "segment", "simulate", "convert ljubljana", "convert mslesseg", "convert isbi2015", "train",
    "evaluate", "compare", "models list", "models show", "models calibrate", "models export", "models import", "doctor",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_in_80_columns(capsys, monkeypatch, command):
    """Nothing is cut off, and every example stands on a line of its own."""
    monkeypatch.setenv("COLUMNS", "80")
    outcome = call(capsys, *command.split(), "--help")
    assert outcome.code == 0
    assert outcome.out.startswith("Usage: lesiondelta")
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert "\u2026" not in outcome.out
    assert "For example:" in outcome.out
    lines = outcome.out.splitlines()
    examples = [number for number, line in enumerate(lines) if line.startswith("    lesiondelta ")]
    assert any(lines[number].split()[1] == command.split()[0] for number in examples)
    assert all(lines[number + 1] == "" for number in examples)


def test_the_list_of_commands_cuts_no_sentence(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for group in ((), ("models",), ("convert",)):
        assert "..." not in call(capsys, *group, "--help").out.split("Commands:")[1]


@pytest.mark.parametrize("where", [(), ("run",)])
def test_version(capsys, where):
    outcome = call(capsys, *where, "--version")
    assert (outcome.code, outcome.out.strip()) == (0, f"lesiondelta {__version__}")


def test_help_imports_nothing_heavy():
    """What makes a start slow is not imported: `lesiondelta --help` stays quick."""
    code = "import sys, lesiondelta.cli; print([m for m in sys.modules if m in %r])"
    heavy = ("torch", "nibabel", "scipy", "numpy", "pandas", "matplotlib", "itk", "SimpleITK", "nnunetv2")
    said = subprocess.run([sys.executable, "-c", code % (heavy,)], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_only_training_needs_what_the_extra_train_brings(tmp_path):
    """Not even through a library: a broken nnU-Net must not keep anyone from segmenting."""
    model = export_tiny_model(tmp_path / "model")
    swin = shutil.copytree(model, tmp_path / "swin")
    described = (swin / "model.json").read_text()
    (swin / "model.json").write_text(described.replace("DifferenceWeightingUNet", "SingleVisitSwinUNETR"))
    write_patient(tmp_path / "bids", "1", ("1", "2"))
    write_references(tmp_path / "bids", "1", ("1", "2"))
    run = ["run", tmp_path / "bids", tmp_path / "out", "participant", "--model", model, *OPTIONS]
    references = tmp_path / "bids" / "derivatives" / "reference"
    commands = {
        "run": run,
        "group": ["run", tmp_path / "bids", tmp_path / "out", "group"],
        "evaluate": ["evaluate", references, tmp_path / "out", "-o", tmp_path / "scores"],
        "swin": [*run[:5], swin, *OPTIONS],
        "train": ["train", tmp_path / "bids", "-o", tmp_path / "trained"],
        "compare": ["compare", tmp_path / "bids", "-o", tmp_path / "compared"],
    }
    code = f"""
import sys
from lesiondelta.packages import TRAINING
for name in (*TRAINING, "batchgenerators", "torch.utils.tensorboard"):
    sys.modules[name] = None  # as if it was not there
from lesiondelta.cli import main
for name, given in { {name: [str(part) for part in given] for name, given in commands.items()}!r}.items():
    try:
        main(given)
    except SystemExit as ended:
        print(name, ended.code or 0, file=sys.stderr)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    lines = said.splitlines()
    for name, ended in {"run": 0, "group": 0, "evaluate": 0, "swin": 70, "train": 1, "compare": 1}.items():
        assert f"{name} {ended}" in lines, said
    assert set(rows(tmp_path / "out")) == {("sub-1", "ses-1"), ("sub-1", "ses-2")}
    assert said.count("Training needs nnunetv2, batchgeneratorsv2, blosc2, monai, tensorboard, not installed") == 2
    assert said.count("pip install 'lesiondelta[train]'") == 3
    assert "needs the package monai, not installed here" in said
    assert "Traceback" not in said


def test_wrong_usage_ends_with_2(capsys, tmp_path):
    assert call(capsys, "run", tmp_path).code == 2
    assert call(capsys, "run", tmp_path, tmp_path, "cohort").code == 2
    assert call(capsys, "run", tmp_path, tmp_path, "participant", "--nprocs", "0").code == 2
    assert call(capsys, "segment", "--visit", "a", "b", "c", "-o", tmp_path).code == 2


def test_list_options_take_their_values_as_fmriprep_does():
    lists = {"--participant-label", "--visit"}
    assert spread(["B", "O", "--participant-label", "1", "2", "--nprocs", "3"], lists, {}) == [
        "B", "O", "--participant-label", "1", "--participant-label", "2", "--nprocs", "3",
    ]  # fmt: skip
    assert spread(["--visit", "a", "b", "--visit", "c"], lists, {"--visit": 2}) == ["--visit", "a\0b", "--visit", "c"]
    assert spread(["--visit=a", "b"], lists, {"--visit": 2}) == ["--visit", "a\0b"]
    assert paths_together("a\0b") == (Path("a"), Path("b"))


def test_an_impossible_setting_is_named(capsys, tmp_path):
    write_patient(tmp_path / "bids", "1")
    outcome = call(capsys, "run", tmp_path / "bids", tmp_path / "out", "participant", "--threshold", "1.5")
    assert outcome.code == 70
    assert "threshold" in outcome.err
    assert outcome.err.count("Error:") == 1


def test_a_fault_of_ours_leaves_a_log_and_no_traceback(capsys):
    @app.command("broken")
    def broken() -> None:
        raise ZeroDivisionError

    try:
        outcome = call(capsys, "broken")
    finally:
        app.registered_commands.pop()
    assert outcome.code == 70
    assert "A fault in lesiondelta" in outcome.err
    assert "Traceback" not in outcome.err
    log = outcome.err.split()[-1]
    assert "ZeroDivisionError" in Path(log).read_text()


def test_an_interrupt_ends_with_a_sentence(capsys):
    @app.command("interrupted")
    def interrupted() -> None:
        raise KeyboardInterrupt

    try:
        outcome = call(capsys, "interrupted")
    finally:
        app.registered_commands.pop()
    assert outcome.code == 130
    assert outcome.err.strip() == "Interrupted. Finished patients are kept; the same command resumes."


def test_segment_loose_files(capsys, tmp_path):
    model = export_tiny_model(tmp_path / "model")
    write_patient(tmp_path / "bids", "x", ("1", "2"))
    visits = [image_path(tmp_path / "bids", "x", s, c) for s in ("1", "2") for c in ("T1w", "FLAIR")]
    outcome = call(
        capsys, "segment", "--visit", *visits[:2], "--visit", *visits[2:], "-o", tmp_path / "out", "--patient", "p1",
        "--model", model, *OPTIONS,
    )  # fmt: skip
    assert outcome.code == 0
    assert set(rows(tmp_path / "out")) == {("sub-p1", "ses-1"), ("sub-p1", "ses-2")}
    sidecar = image_path(tmp_path / "out", "p1", "2", "space-orig_label-L_mask").with_suffix("").with_suffix(".json")
    assert json.loads(sidecar.read_text())["SpatialReference"] == visits[3].resolve().as_uri()


@pytest.mark.parametrize("given", [("",), ("T1.nii", ""), ("", "FLAIR.nii")])
def test_an_empty_path_is_not_the_current_folder(capsys, tmp_path, monkeypatch, given):
    """As of `--visit "$STUDY"` where the variable is not set."""
    monkeypatch.chdir(tmp_path)
    refused = call(capsys, "segment", "-o", tmp_path / "out", "--visit", *given)
    assert refused.code == 2
    assert "a path is empty" in refused.err
    assert not (tmp_path / "out").exists()


def test_segment_refuses_a_copy_of_another_visits_image(capsys, tmp_path):
    model = export_tiny_model(tmp_path / "model")
    write_patient(tmp_path / "bids", "x", ("1", "2"))
    visits = [image_path(tmp_path / "bids", "x", s, c) for s in ("1", "2") for c in ("T1w", "FLAIR")]
    shutil.copy(visits[0], visits[2])
    given = ("--visit", *visits[:2], "--visit", *visits[2:], "-o", tmp_path / "out", "--model", model)
    assert call(capsys, "segment", *given, *OPTIONS).code == 1
    for row in rows(tmp_path / "out").values():
        assert (row["status"], row["reason"].partition(" are")[0]) == ("failed", f"{visits[0]} and {visits[2]}")


def test_sidecars_say_how_windows_were_averaged(capsys, tmp_path):
    model = export_tiny_model(tmp_path / "model")
    write_patient(tmp_path / "bids", "1")
    run = ("run", tmp_path / "bids", tmp_path / "out", "participant", "--model", model, *OPTIONS)
    sidecar = tmp_path / "out/sub-1/ses-1/anat/sub-1_ses-1_space-orig_label-L_mask.json"
    for options, overlap, mirroring in (((), [0.25], False), (("--overlap", "0.5", "--mirroring"), [0.5], True)):
        assert call(capsys, *run, *options).code == 0
        facts = json.loads(sidecar.read_text())
        assert (facts["WindowOverlap"], facts["Mirroring"]) == (overlap, mirroring)
    assert "overlap" in call(capsys, *run, "--overlap", "1").err


def test_segment_keeps_another_patients_results(capsys, tmp_path):
    model = export_tiny_model(tmp_path / "model")
    write_patient(tmp_path / "bids", "x", ("1", "2", "3"))
    a, added, b = ([image_path(tmp_path / "bids", "x", s, c) for c in ("T1w", "FLAIR")] for s in ("1", "2", "3"))
    segment = ("segment", "-o", tmp_path / "out", "--model", model, *OPTIONS)
    assert call(capsys, *segment, "--visit", *a).code == 0
    before = (tmp_path / "out/.lesiondelta/sub-patient.json").read_bytes()
    refused = call(capsys, *segment, "--visit", *b)
    assert refused.code == 70
    assert f"{tmp_path / 'out'} holds results of other images" in refused.err
    assert (tmp_path / "out/.lesiondelta/sub-patient.json").read_bytes() == before
    assert call(capsys, *segment, "--visit", *b, "--patient", "b").code == 0
    assert call(capsys, *segment, "--visit", *a, "--visit", *added).code == 0
    assert set(rows(tmp_path / "out")) == {("sub-b", "ses-1"), ("sub-patient", "ses-1"), ("sub-patient", "ses-2")}


def test_evaluate_prints_and_writes_the_scores(capsys, tmp_path):
    write_references(tmp_path / "bids", "1", ("1", "2"))
    reference = tmp_path / "bids/derivatives/reference"
    outcome = call(capsys, "evaluate", reference, reference, "-o", tmp_path / "scores")
    assert outcome.code == 0
    assert "2 visits of 1 patients" in outcome.out
    assert json.loads((tmp_path / "scores/summary.json").read_text())["measures"]["dsc"]["mean"] == 1


def test_a_missing_prediction_is_said_once(capsys, caplog, tmp_path):
    for folder, sessions in (("truth", ("1", "2")), ("guess", ("1",))):
        write_references(tmp_path / folder, "1", sessions)
    command = ("evaluate", tmp_path / "truth", tmp_path / "guess", "-o", tmp_path / "scores")
    refused = call(capsys, *command)
    assert refused.code == 1
    assert refused.err.count("no mask of sub-1 ses-2") == 1
    outcome = call(capsys, *command, "--allow-missing")
    assert outcome.err.count("sub-1 ses-2 has a reference and no prediction") == 1
    assert not caplog.records  # without a handler, Python would print them too


def test_simulated_heads_can_be_stripped(capsys, tmp_path):
    """A stripped cohort whose one patient is there: the flag alone says that it is the same cohort."""
    write_cohort(tmp_path / "c", CohortPlan(0, 2, 0, Acquisition("native", whole_head=False)))
    (tmp_path / "c/sub-001").mkdir()
    (tmp_path / "c/sub-001/sub-001_sessions.tsv").touch()
    given = ("simulate", tmp_path / "c", "--patients", "1", "--visits", "2")
    assert "other settings" in call(capsys, *given).err
    assert call(capsys, *given, "--stripped").code == 0


@pytest.fixture
def labelled(tmp_path):
    """Two tiny patients with references."""
    for label in ("1", "2"):
        write_patient(tmp_path / "bids", label, ("1", "2"))
        write_references(tmp_path / "bids", label, ("1", "2"))
    return tmp_path / "bids"


def train(capsys, bids, *more):
    return call(capsys, "train", bids, "-o", bids.parent / "out", "--fold", "all", *OPTIONS, *more)


def test_train_without_a_terminal_tells_its_course(capsys, labelled):
    outcome = train(capsys, labelled, "--preset", "smoke")
    assert outcome.code == 0, outcome.err
    log = (labelled.parent / "out/train.log").read_text()
    for said in ("sub-2 is prepared", "epoch 1 of 2: loss", "epoch 2 of 2: loss"):
        assert outcome.err.count(said) == log.count(said) == 1


def test_the_prior_can_be_chosen(capsys, labelled):
    assert train(capsys, labelled, "--preset", "smoke", "--epochs", "1", "--prior", "baseline").code == 0
    assert json.loads((labelled.parent / "out/model/model.json").read_text())["prior"] == "baseline"


@pytest.mark.parametrize(("preset", "warned"), [((), True), (("--preset", "paper"), False)])
def test_the_papers_preset_on_a_cpu_is_warned_about_unless_chosen(capsys, labelled, preset, warned):
    image_path(labelled, "1", "2", "FLAIR").write_bytes(b"")  # so that it ends at once
    said = train(capsys, labelled, *preset).err
    assert ("takes 1000 epochs and is meant for a GPU" in said) == ("--preset small" in said) == warned


def test_a_training_that_fails_says_why_once_and_in_its_log(capsys, labelled):
    image_path(labelled, "1", "2", "FLAIR").write_bytes(b"")
    outcome = train(capsys, labelled, "--preset", "smoke")
    assert outcome.code == 1
    assert outcome.err.count("is empty") == 1
    assert "is empty" in (labelled.parent / "out/train.log").read_text()


def test_two_trainings_in_one_folder_keep_apart(capsys, labelled):
    with alone(labelled.parent / "out", wait=False):
        outcome = train(capsys, labelled, "--preset", "smoke")
    assert outcome.code == 1
    assert "Another lesiondelta is working in" in outcome.err


def test_doctor_runs(capsys, tmp_path):
    outcome = call(capsys, "doctor", tmp_path)
    assert outcome.code in (0, 1)  # 1 where no bundled model is installed
    for word in ("torch", "flirt", "GPU", "bundled model", "free space"):
        assert word in outcome.out


def test_doctor_finds_the_programs_that_run_finds(capsys, monkeypatch, tmp_path):
    """Beside the interpreter too, where pip puts them."""
    (tmp_path / "hd-bet").write_text("#!/bin/sh\n")
    (tmp_path / "hd-bet").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert find_program("hd-bet") == str(tmp_path / "hd-bet")
    assert re.search(r"^\s*ok\s+hd-bet", call(capsys, "doctor", tmp_path).out, re.MULTILINE)


def test_doctor_shows_the_scheduler(capsys, monkeypatch, tmp_path):
    sinfo = tmp_path / "sinfo"
    for said, shown in (("slurm 23.11\n", "slurm 23.11: long:up:idle"), ("", "installed, and does not answer")):
        lines = "echo long:up:idle" if said else "exit 1"
        sinfo.write_text(f"#!/bin/sh\n[ $1 = --version ] && echo '{said.strip()}' && exit\n{lines}\n")
        sinfo.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        assert shown in " ".join(call(capsys, "doctor", tmp_path).out.split())


def test_a_patient_is_prepared_once_for_two_thresholds(capsys, tmp_path):
    model = export_tiny_model(tmp_path / "model")
    write_patient(tmp_path / "bids", "1")
    run = ("run", tmp_path / "bids", tmp_path / "out", "participant", "--model", model, *OPTIONS)
    for threshold in ("0.2", "0.3"):
        assert call(capsys, *run, "--work-dir", tmp_path / "work", "--threshold", threshold).code == 0
    assert "taken from" in (tmp_path / "out/logs/sub-1.log").read_text()


@pytest.mark.slow
def test_simulate_train_run_evaluate(capsys, tmp_path):
    """A model trained for a moment on simulated patients goes through every command; its scores do not matter."""
    assert call(capsys, "simulate", tmp_path / "bids", "--patients", "2", "--visits", "2", "--seed", "3").code == 0
    trained = call(
        capsys, "train", tmp_path / "bids", "-o", tmp_path / "training", "--preset", "smoke", "--fold", "all",
        "--registration", "none", "--no-gate", "--no-bias-correction", "--device", "cpu", "--omp-nthreads", "1",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    model = tmp_path / "training/model"
    out = tmp_path / "out"
    options = ("--model", model, "--registration", "none", "--no-gate", "--no-bias-correction", "--device", "cpu")
    done = call(capsys, "run", tmp_path / "bids", out, "participant", *options, "--participant-label", "001")
    assert done.code == 0, done.err
    flair = read_image(image_path(tmp_path / "bids", "001", "01", "FLAIR"))
    require_same_grid(read_mask(image_path(out, "001", "01", "space-orig_label-L_mask")), flair)
    reference = tmp_path / "bids/derivatives/reference"
    scored = call(capsys, "evaluate", reference, out, "-o", tmp_path / "scores", "--allow-missing")
    assert scored.code == 0
    assert "sub-002 ses-01 has a reference and no prediction" in scored.err


def test_the_module_runs_as_a_program():
    said = subprocess.run(
        [sys.executable, "-m", "lesiondelta", "--version"], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == f"lesiondelta {__version__}"
