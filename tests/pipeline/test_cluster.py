"""Patients as jobs of a cluster: a stand-in for SLURM's programs, and, where it is installed, SLURM itself."""

import os
import shutil
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from lesiondelta.cli.executors import executor_for, sbatch_options
from lesiondelta.cohort import Patient, Visit
from lesiondelta.errors import DependencyError, InputError, OutputError, ProgramError
from lesiondelta.inputs.bids import read_cohort
from lesiondelta.pipeline import cluster
from lesiondelta.pipeline.cluster import Needs, SlurmExecutor, gigabytes, minutes_of, needs_of
from lesiondelta.pipeline.cohort_run import check_start, run_cohort
from lesiondelta.pipeline.patient_run import RunPlan
from lesiondelta.settings import PreprocessingSettings, SegmentationSettings, Settings
from tests.models import export_tiny_model
from tests.pipeline.fake_slurm import FakeSlurm
from tests.tiny import write_patient

EASY = PreprocessingSettings(registration="none", skull_strip="skip", bias_correction=False, gate=False)
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two patients, and a model."""
    root = tmp_path_factory.mktemp("cluster")
    for label in ("01", "02"):
        write_patient(root / "bids", label)
    export_tiny_model(root / "model")
    return root


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    programs = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{programs.folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY / 'src'}{os.pathsep}{REPOSITORY}")
    yield programs
    programs.end()


def plan_for(dataset, out, threshold=0.2):
    chosen = SegmentationSettings(models=(dataset / "model",), device="cpu", threshold=threshold)
    return check_start(RunPlan(out, dataset / "bids", Settings(preprocessing=EASY, segmentation=chosen)))


def executor(**options):
    return SlurmExecutor(options, poll_s=0.1, late_s=0.3)


def run(dataset, out, chosen=None, **options):
    return run_cohort(read_cohort(dataset / "bids"), plan_for(dataset, out), executor=chosen, **options)


def images(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*.nii.gz"))}


def test_jobs_write_what_a_run_on_this_machine_writes(dataset, slurm, tmp_path):
    here, there = run(dataset, tmp_path / "here"), run(dataset, tmp_path / "there", executor(partition="long"))
    assert [(r.patient, r.visit, r.status) for r in there] == [(r.patient, r.visit, r.status) for r in here]
    assert images(tmp_path / "there") == images(tmp_path / "here")
    assert "sub-01: job 1_0 on " in (tmp_path / "there/logs/sub-01.log").read_text()
    (batch,) = slurm.batches
    assert "#SBATCH --partition=long" in batch
    assert "#SBATCH --array=0-1" in batch
    assert "#SBATCH --mem=2560M" in batch
    assert "#SBATCH --time=20" in batch


def test_a_job_that_dies_is_given_once_more_with_more(dataset, slurm, tmp_path):
    slurm.doom(1)
    results = run(dataset, tmp_path / "out", executor())
    assert {result.status for result in results} == {"flagged"}
    assert len(slurm.batches) == 2
    assert "#SBATCH --mem=5120M" in slurm.batches[1]
    assert "#SBATCH --time=40" in slurm.batches[1]


def test_a_job_that_dies_twice_fails_its_patient_and_nobody_else(dataset, slurm, tmp_path):
    plan, (first, second) = plan_for(dataset, tmp_path / "out"), read_cohort(dataset / "bids").patients
    slurm.doom(2)
    ((_, results),) = executor().run([first], plan, stop=False)
    assert {result.status for result in results} == {"failed"}
    assert "its job died twice (out of memory): see " in results[0].reason
    ((_, others),) = executor().run([second], plan, stop=False)
    assert {result.status for result in others} == {"flagged"}


def test_started_again_it_waits_for_the_jobs_that_run_and_gives_none_twice(dataset, slurm, tmp_path):
    patients, plan = read_cohort(dataset / "bids").patients, plan_for(dataset, tmp_path / "out")
    slurm.hold()
    killed = executor()
    ((needs, parts),) = killed._jobs(patients)
    killed._submit(parts, plan, needs, again=False)
    threading.Timer(1, slurm.release).start()
    found = {patient.label for patient, _ in executor().run(patients, plan, stop=False)}
    assert sorted(found) == ["01", "02"]
    assert len(slurm.batches) == 1


def test_jobs_with_other_settings_are_left_and_named(dataset, slurm, tmp_path):
    patients, plan = read_cohort(dataset / "bids").patients, plan_for(dataset, tmp_path / "out")
    slurm.hold()
    chosen = executor()
    chosen.given = chosen._submit([(patients[0],)], plan, Needs(1, 1), again=False)
    with pytest.raises(InputError, match="are in the queue: wait for them, or `scancel --name=lesiondelta-"):
        next(executor().run(patients, plan_for(dataset, tmp_path / "out", 0.3), stop=False))
    chosen.cancel()
    assert not cluster.queue_states(cluster._name(plan))


def test_jobs_of_other_images_are_left_too(dataset, slurm, tmp_path):
    patients, plan = read_cohort(dataset / "bids").patients, plan_for(dataset, tmp_path / "out")
    slurm.hold()
    chosen = executor()
    chosen.given = chosen._submit([(replace(patients[0], visits=()),)], plan, Needs(1, 1), again=False)
    with pytest.raises(InputError, match="with other settings or images"):
        next(executor().run(patients, plan, stop=False))
    chosen.cancel()


def test_a_job_whose_run_was_killed_while_it_gave_it_is_no_matter(dataset, slurm, tmp_path):
    patients, plan = read_cohort(dataset / "bids").patients[:1], plan_for(dataset, tmp_path / "out")
    slurm.hold()
    chosen = executor()
    chosen.given = chosen._submit([tuple(patients)], plan, Needs(1, 1), again=False)
    chosen.given[0].job.paths.submitted_pickle.unlink()
    slurm.release()
    ((_, results),) = executor().run(patients, plan, stop=False)
    assert {result.status for result in results} == {"flagged"}
    assert len(slurm.batches) == 2


def test_two_runs_do_not_wait_for_the_same_jobs(dataset, slurm, tmp_path):
    patients, plan = read_cohort(dataset / "bids").patients[:1], plan_for(dataset, tmp_path / "out")
    slurm.hold()
    first = executor()
    thread = threading.Thread(target=lambda: list(first.run(patients, plan, stop=False)), daemon=True)
    thread.start()
    while not first.given:
        time.sleep(0.05)
    with pytest.raises(OutputError, match="Another run waits for its jobs"):
        next(executor().run(patients, plan, stop=False))
    slurm.release()
    thread.join(120)
    assert not first.given


def test_a_job_that_cannot_be_given_again_fails_its_patient_and_nobody_else(dataset, slurm, tmp_path):
    patients, plan = read_cohort(dataset / "bids").patients, plan_for(dataset, tmp_path / "out")
    slurm.doom(1)
    slurm.refuse()
    found = {patient.label: results[0] for patient, results in executor().run(patients, plan, stop=False)}
    first, second = found["01"], found["02"]
    assert first.status == "failed"
    assert "could not be given again (out of memory; with 5 GB and 40 minutes, sbatch did not take" in first.reason
    assert second.status == "flagged"


def test_after_a_failure_the_rest_is_cancelled_if_asked(dataset, slurm, tmp_path):
    patients, plan = read_cohort(dataset / "bids").patients, plan_for(dataset, tmp_path / "out")
    slurm.doom(1)
    slurm.refuse()
    slurm.hold_next()
    assert [results[0].status for _, results in executor().run(patients, plan, stop=True)] == ["failed"]
    assert not cluster.queue_states(cluster._name(plan))


def test_a_queue_that_does_not_answer_is_asked_again(dataset, slurm, tmp_path, caplog):
    patients, plan = read_cohort(dataset / "bids").patients[:1], plan_for(dataset, tmp_path / "out")
    (slurm.folder / "deaf").touch()
    threading.Timer(1.5, (slurm.folder / "deaf").unlink).start()
    ((_, results),) = executor().run(patients, plan, stop=False)
    assert {result.status for result in results} == {"flagged"}
    assert len(slurm.batches) == 1
    assert "squeue does not answer (slurm_load_jobs error: Unable to contact slurm controller)" in caplog.text


def test_what_sbatch_refuses_is_said_in_its_words(dataset, slurm, tmp_path):
    with pytest.raises(ProgramError, match=r"sbatch did not take the jobs: .*invalid partition specified: nowhere"):
        run(dataset, tmp_path / "out", executor(partition="nowhere"))


def test_without_slurm_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DependencyError, match="There is no SLURM here"):
        executor().require()


def test_many_patients_share_jobs_and_few_do_not():
    patients = [Patient(f"{n}", (Visit("1", {}), Visit("2", {}))) for n in range(640)]
    (few,) = executor()._jobs(patients[:10])
    assert few[0] == Needs(2.5, 30)
    assert [len(part) for part in few[1]] == [1] * 10
    (many,) = executor()._jobs(patients)
    assert many[0] == Needs(2.5, 120)  # four patients of half an hour
    assert [len(part) for part in many[1]] == [4] * 160
    ((asked, parts),) = executor(mem="8G", time="1:00:00")._jobs(patients)
    assert asked == Needs(8, 60)
    assert len(parts) == 640  # the time that was asked for is a job's, and nobody said how many fit into it


def test_all_patients_are_given_however_they_mix_and_however_many():
    visits = tuple(Visit(f"{n}", {}) for n in range(5))
    patients = [Patient(f"{n}", visits[: 1 + n % 5]) for n in range(2500)]
    for chosen in (executor(), executor(mem="8G"), executor(mem="8G", time="1:00:00")):
        jobs = chosen._jobs(patients)
        given = [patient.label for _, parts in jobs for part in parts for patient in part]
        assert sorted(given) == sorted(patient.label for patient in patients)
        assert max(len(parts) for _, parts in jobs) <= 1000


def test_large_images_and_many_visits_need_more(tmp_path):
    write_patient(tmp_path, "01", ("1", "2", "3", "4"))
    (patient,) = read_cohort(tmp_path, validate=False).patients
    assert needs_of(patient) == Needs(3.5, 50)
    assert needs_of(replace(patient, visits=())).gb == 2.5


@pytest.mark.parametrize(("text", "gb"), [("8G", 8), ("500M", 500 / 1024), ("2048", 2), ("1T", 1024), ("1.5gb", 1.5)])
def test_memory_is_read_as_sbatch_does(text, gb):
    assert gigabytes(text) == pytest.approx(gb)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("90:30", 90.5), ("1:30:00", 90), ("2-12", 3600), ("1-0:30", 1470), ("0-1:2:3", 62.05)],
)
def test_time_is_read_as_sbatch_does(text, minutes):
    assert minutes_of(text) == pytest.approx(minutes)


@pytest.mark.parametrize("text", ["mem=much", "time=soon", "time=1:2:3:4", "mem=-3G", "time=0"])
def test_options_that_say_nothing_are_refused(text):
    with pytest.raises(InputError, match="in --slurm is no"):
        SlurmExecutor(sbatch_options(text))._chosen(Needs(1, 1))


def test_options_that_would_break_the_jobs_are_refused(slurm):
    with pytest.raises(InputError, match="cannot set cpus-per-task: give --omp-nthreads"):
        SlurmExecutor(sbatch_options("cpus_per_task=2")).require()
    executor(partition="long").require()


def test_options_of_sbatch_are_read(capsys):
    options = sbatch_options("partition=long, --account=ms,gpus_per_node=1,nodelist=node[1,3-4]")
    assert options == {"partition": "long", "account": "ms", "gpus-per-node": "1", "nodelist": "node[1,3-4]"}
    for text in ("long", "partition=", "partition=a,partition=b"):
        with pytest.raises(InputError, match="is not NAME=VALUE"):
            sbatch_options(text)
    with pytest.raises(typer.Exit), executor_for("local", "partition=long", 1, 1):
        raise AssertionError("it was taken")
    assert "--slurm is for --executor slurm: give that too." in capsys.readouterr().err


@pytest.fixture(scope="module")
def real_slurm(tmp_path_factory):
    """A cluster of two nodes on this machine."""
    if shutil.which("slurmctld") is None or os.geteuid():
        pytest.skip("SLURM is not installed here (Debian's slurm-wlm and munge), or this is not root")
    folder = tmp_path_factory.mktemp("slurm") / "cluster"
    subprocess.run([REPOSITORY / "scripts" / "slurm", "start", folder], check=True)
    with pytest.MonkeyPatch.context() as surroundings:
        surroundings.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        surroundings.setenv("PYTHONPATH", f"{REPOSITORY / 'src'}{os.pathsep}{REPOSITORY}")
        yield folder
    subprocess.run([REPOSITORY / "scripts" / "slurm", "stop", folder], check=True)


@pytest.mark.slow
def test_slurm_itself_runs_the_patients(dataset, real_slurm, tmp_path):
    here, there = run(dataset, tmp_path / "here"), run(dataset, tmp_path / "there", executor())
    assert [(r.patient, r.status) for r in there] == [(r.patient, r.status) for r in here]
    assert images(tmp_path / "there") == images(tmp_path / "here")


@pytest.mark.slow
def test_slurm_kills_a_job_for_its_memory_and_it_is_given_again(dataset, real_slurm, tmp_path):
    results = run(dataset, tmp_path / "out", SlurmExecutor({"mem": "250M"}, poll_s=0.5, late_s=2))
    assert all("its job died twice" in result.reason for result in results)
    stderr = [path.read_text() for path in (tmp_path / "out/.lesiondelta/slurm").rglob("*_log.err")]
    assert len(stderr) == 4
    assert all("exceeded memory limit" in text for text in stderr)
    batches = sorted((tmp_path / "out/.lesiondelta/slurm").rglob("*_submission.sh"), key=lambda p: p.stat().st_mtime)
    assert ["#SBATCH --mem=500M" in path.read_text() for path in batches] == [False, True, True]
