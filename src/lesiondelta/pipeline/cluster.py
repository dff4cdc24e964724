"""Patients as jobs of a SLURM cluster: given in arrays, watched, and given once more where a job dies.

submitit writes the batch files and carries patients to the nodes; what became of a job is read from its result on the
shared disk, and from `squeue`, which every cluster has (`sacct` wants a database). A job that has left the queue
without a result died, whatever it died of: its patients are given again, each in a job of its own, with more memory and
time; those that it had finished are skipped there. Jobs outlive this process. Started again, it finds those that still
run.
"""

import importlib.util
import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, TypeVar

from lesiondelta import records
from lesiondelta.cohort import Patient
from lesiondelta.errors import DependencyError, InputError, LesionDeltaError, ProgramError
from lesiondelta.files import alone, room_for_temporary_files
from lesiondelta.outputs.derivatives import PatientFiles
from lesiondelta.pipeline.failures import failed_results, record_failure
from lesiondelta.pipeline.patient_run import Results, RunPlan
from lesiondelta.pipeline.workers import run_here
from lesiondelta.records import any_failed

if TYPE_CHECKING:
    from submitit import Job
    from submitit import SlurmExecutor as Submitter

log = logging.getLogger(__name__)
T = TypeVar("T")

FOLDER = "slurm"
"""In the folder of records: batch files, what jobs print, and their results."""
POLL_S, LATE_S = 15.0, 60.0
"""Between looks at the queue; and how late a shared disk may show the result of a job that has left it."""
BASE_GB, VISIT_GB, VOXEL_B = 2.5, 0.5, 60.0
"""Memory asked for: of every job, of each visit beyond two, and for every voxel of the largest image."""
BASE_MIN, VISIT_MIN = 10.0, 10.0
"""Time asked for, of each patient and visit on one core: four times what a raw visit of 0.7 x 0.7 x 3 mm takes."""
A_JOB_MIN, JOBS_AT_LEAST = 120.0, 64
"""Patients share a job up to this time asked, as long as there are so many jobs."""
AN_ARRAY = 1000
"""Jobs given at once at most: SLURM takes 1001 unless it is told otherwise."""
MORE = 2.0
"""Of memory and time, for a job that is given again."""
UNITS_GB = {"K": 1 / 1024**2, "M": 1 / 1024, "G": 1.0, "T": 1024.0, "": 1 / 1024}
COMPUTED = ("mem", "time")
OWN = {
    "cpus-per-task": "give --omp-nthreads", "job-name": "it tells whose jobs they are", "array": "jobs are in arrays",
    "output": "what jobs print is in OUT/.lesiondelta/slurm", "error": "what jobs print is in OUT/.lesiondelta/slurm",
    "clusters": "jobs are looked for on this cluster only", "wrap": "it replaces the job", "mem-per-cpu": "give mem",
}  # fmt: skip
"""Options that cannot be given, and why."""
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
"""States of jobs that no node will run again; squeue still lists them for a while."""
PROGRAMS = ("sbatch", "srun", "squeue", "scancel", "scontrol")


@dataclass(frozen=True)
class Needs:
    """What a job asks for."""

    gb: float
    minutes: float


@dataclass(eq=False)
class _Given:
    """A job in the queue; `gone` is when it was first missed there."""

    job: "Job[dict[str, Results]]"
    patients: tuple[Patient, ...]
    needs: Needs
    again: bool
    gone: float | None = None


@dataclass(eq=False)
class SlurmExecutor:
    """Runs patients as jobs of the cluster.

    Attributes
    ----------
    options : of sbatch by their long names, such as partition, account, time and mem
    cores : of each job
    at_once : jobs of an array that may run at a time
    poll_s, late_s : see `POLL_S` and `LATE_S`
    """

    options: Mapping[str, str]
    cores: int = 1
    at_once: int = AN_ARRAY
    poll_s: float = POLL_S
    late_s: float = LATE_S
    given: list[_Given] = field(default_factory=list)

    def require(self) -> None:
        """Raise DependencyError where there is no SLURM or no submitit, InputError where options say nothing."""
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        if missing:
            raise DependencyError(f"There is no SLURM here ({', '.join(missing)} not found): use --executor local.")
        if importlib.util.find_spec("submitit") is None:
            raise DependencyError("submitit is not installed: `pip install lesiondelta[cluster]`.")
        for name in self.options:
            if name in OWN:
                raise InputError(f"--slurm cannot set {name}: {OWN[name]}.")
        self._chosen(Needs(1, 1))

    def run(self, patients: Sequence[Patient], plan: RunPlan, stop: bool) -> Iterator[tuple[Patient, Results]]:
        """Give all patients to the cluster, and yield each one's results as its job ends.

        Raises
        ------
        InputError, OutputError, ProgramError
            Jobs of other patients or settings are still at work there, another run is waiting for its jobs, or sbatch
            refuses the options.
        """
        plan = replace(plan, out=plan.out.resolve(), raw=plan.raw and plan.raw.resolve())
        busy = f"Another run waits for its jobs in {plan.out}: end it first; its jobs go on."
        with alone(_folder(plan), wait=False, lock="run.lock", busy=busy, needed=False):
            yield from self._run({patient.label: patient for patient in patients}, plan, stop)

    def _run(self, wanted: Mapping[str, Patient], plan: RunPlan, stop: bool) -> Iterator[tuple[Patient, Results]]:
        self.given = self._still_running(wanted, plan)
        running = {patient.label for one in self.given for patient in one.patients}
        for needs, parts in self._jobs([patient for label, patient in wanted.items() if label not in running]):
            self.given += self._submit(parts, plan, needs, again=False)
        said = ""
        while self.given:
            states = queue_states(_name(plan))
            ended = [pair for one in list(self.given) for pair in self._look(one, plan, states)]
            if stop and any(any_failed(results) for _, results in ended):
                self.cancel()
            yield from ((wanted[patient.label], results) for patient, results in ended if patient.label in wanted)
            now = _counted(self.given, states)
            if now != said and self.given:
                log.info("%s", now)
                said = now
            if self.given:
                time.sleep(self.poll_s)

    def cancel(self) -> None:
        """Take all jobs out of the queue."""
        if self.given:
            subprocess.run(["scancel", *(one.job.job_id for one in self.given)], check=False, capture_output=True)
        self.given = []

    def _still_running(self, wanted: Mapping[str, Patient], plan: RunPlan) -> list[_Given]:
        """Jobs of an earlier run into the same folder that are in the queue, and whose patients are wanted."""
        from submitit.slurm.slurm import SlurmJob

        while (states := queue_states(_name(plan))) is None:
            time.sleep(self.poll_s)
        found = []
        for job_id in states:
            kept = sorted(_folder(plan).glob(f"*/{job_id}_submitted.pkl"), key=lambda path: path.stat().st_mtime)
            if not kept:
                continue  # its run was killed while it gave it: the job will find no patients, and end
            job: Job[dict[str, Results]] = SlurmJob(kept[-1].parent, job_id)
            try:
                patients, before, needs, again = job.submission().args
                same = _deciding(before) == _deciding(plan)
            except Exception:  # of another version, or damaged
                log.debug("job %s", job_id, exc_info=True)
                patients, same = (), False
            mine = [patient for patient in patients if patient.label in wanted]
            if not same or any(patient != wanted[patient.label] for patient in mine):
                raise InputError(
                    f"Jobs of another run into {plan.out}, with other settings or images, are in the queue: wait for "
                    f"them, or `scancel --name={_name(plan)}`."
                )
            if mine:
                found.append(_Given(job, patients, needs, again))
        return found

    def _jobs(self, patients: Sequence[Patient]) -> list[tuple[Needs, list[tuple[Patient, ...]]]]:
        """Patients by what they need, several to a job where they are short and many, in arrays."""
        by_needs: dict[Needs, list[Patient]] = {}
        for patient in patients:
            by_needs.setdefault(self._chosen(needs_of(patient)), []).append(patient)
        jobs = []
        for needs, alike in by_needs.items():
            together = max(1, min(int(A_JOB_MIN // needs.minutes), len(patients) // JOBS_AT_LEAST))
            if "time" in self.options:
                together = 1
            parts = _split(alike, together)
            jobs += [(replace(needs, minutes=needs.minutes * together), array) for array in _split(parts, AN_ARRAY)]
        return [(needs, list(array)) for needs, array in jobs]

    def _chosen(self, needs: Needs) -> Needs:
        """What the user has asked for, instead of what was reckoned."""
        gb = gigabytes(self.options["mem"]) if "mem" in self.options else needs.gb
        return Needs(gb, minutes_of(self.options["time"]) if "time" in self.options else needs.minutes)

    def _submit(
        self, parts: Sequence[tuple[Patient, ...]], plan: RunPlan, needs: Needs, *, again: bool
    ) -> list[_Given]:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        submitter = self._submitter(plan, needs)
        try:
            if len(parts) == 1:
                jobs = [submitter.submit(run_job, parts[0], plan, needs, again)]
            else:
                columns = zip(*((part, plan, needs, again) for part in parts), strict=True)
                jobs = submitter.map_array(run_job, *map(list, columns))
        except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError, OSError) as error:
            others = f" {len(self.given)} others are in the queue: the same command finds them." if self.given else ""
            raise ProgramError(
                f"sbatch did not take the jobs: {_last_line(str(error))}. Look at --slurm.{others}"
            ) from error
        return [_Given(job, part, needs, again) for job, part in zip(jobs, parts, strict=True)]

    def _submitter(self, plan: RunPlan, needs: Needs) -> "Submitter":
        from submitit import SlurmExecutor as Submitter

        submitter = Submitter(_folder(plan) / token_hex(4))  # of its own, as a new SLURM counts jobs from 1 again
        others = {name: value for name, value in self.options.items() if name not in COMPUTED}
        submitter.update_parameters(
            job_name=_name(plan),
            time=max(1, round(needs.minutes)),
            mem=f"{round(needs.gb * 1024)}M",
            cpus_per_task=self.cores,
            use_srun=False,
            array_parallelism=self.at_once,
            setup=["unset TMPDIR MPLCONFIGDIR  # of the process that gave the job, which may be gone"],
            additional_parameters=others,
        )
        return submitter

    def _look(self, one: _Given, plan: RunPlan, states: Mapping[str, str] | None) -> Iterator[tuple[Patient, Results]]:
        """What has become of a job: its patients' results, or none yet."""
        found, why = _result(one)
        if found is None and not why:
            why = self._died(one, states)
        if found is None and not why:
            return
        self.given.remove(one)
        if found is not None:
            yield from ((patient, found[patient.label]) for patient in one.patients)
            return
        if not one.again:
            log.warning("job %s died (%s): its patients are given again, with more", one.job.job_id, why)
            needs = Needs(one.needs.gb * MORE, one.needs.minutes * MORE)
            try:
                self.given += self._submit([(patient,) for patient in one.patients], plan, needs, again=True)
                return
            except ProgramError as error:
                why = f"{why}; with {needs.gb:g} GB and {needs.minutes:.0f} minutes, {error}"
        how = "twice" if one.again else "and could not be given again"
        for patient in one.patients:
            yield patient, _failed(patient, plan, f"its job died {how} ({why}): see {one.job.paths.stderr}")

    def _died(self, one: _Given, states: Mapping[str, str] | None) -> str:
        """Why a job without a result has left the queue for good; nothing while it may still come."""
        if states is None or one.job.job_id in states:
            one.gone = None
            return ""
        one.gone = one.gone or time.monotonic()
        if time.monotonic() - one.gone < self.late_s:
            return ""
        return _end_of(one.job.job_id) or "it left no result"


def run_job(patients: Sequence[Patient], plan: RunPlan, needs: Needs, again: bool) -> dict[str, Results]:
    """Run patients on a node; the rest is for who finds the job in the queue."""
    with room_for_temporary_files(plan.out):
        return {patient.label: run_here(patient, plan) for patient in patients}


def queue_states(name: str) -> dict[str, str] | None:
    """The user's jobs of a name that are in the queue, with their states; None where the queue does not answer."""
    command = ["squeue", "--me", "--array", "--noheader", "--states=all", f"--name={name}", "--format=%i|%T"]
    plain = {key: value for key, value in os.environ.items() if not key.startswith("SQUEUE_")}
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=plain)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("squeue does not answer (%s): asking again", _last_line(str(getattr(error, "stderr", "") or error)))
        return None
    pairs = (line.strip().split("|") for line in said.stdout.splitlines() if "|" in line)
    return {job: state for job, state in pairs if state not in ENDED}


def needs_of(patient: Patient) -> Needs:
    """What a patient's job asks for, by its visits and largest image."""
    visits = max(len(patient.visits), 1)
    voxels = max((_voxels(path) for visit in patient.visits for path in visit.images.values()), default=0)
    gb = BASE_GB + VISIT_GB * max(visits - 2, 0) + VOXEL_B * voxels / 1e9
    return Needs(round(gb * 2) / 2, BASE_MIN + VISIT_MIN * visits)


def _voxels(path: Path) -> int:
    import nibabel as nib
    import numpy as np

    with suppress(Exception):  # whatever is wrong with the file is said where it is read
        return int(np.prod(nib.load(path).header.get_data_shape()[:3]))
    return 0


def gigabytes(text: str) -> float:
    """Memory as sbatch is told it: 8G, 500M; a number alone is in MB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", text.strip().upper())
    if not found:
        raise InputError(f"mem={text} in --slurm is no memory: give it as 8G or 500M.")
    return float(found[1]) * UNITS_GB[found[2]]


def minutes_of(text: str) -> float:
    """Time as sbatch is told it: 90 (minutes), 90:00, 1:30:00, 2-12, 2-12:30, 2-12:30:00."""
    days, dash, rest = text.strip().rpartition("-")
    parts = rest.split(":")
    if not re.fullmatch(r"\d*", days) or not all(re.fullmatch(r"\d+", part) for part in parts) or len(parts) > 3:
        raise InputError(f"time={text} in --slurm is no time: give minutes, or hours:minutes:seconds.")
    numbers = [float(part) for part in parts]
    if not any(numbers) and not int(days or 0):
        raise InputError(f"time={text} in --slurm is no time to run in: give minutes, or hours:minutes:seconds.")
    if dash:
        hours, minutes, seconds = (*numbers, 0.0, 0.0)[:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, minutes, seconds = 0.0, *(*numbers, 0.0)[:2]
    return float(days or 0) * 1440 + hours * 60 + minutes + seconds / 60


def _folder(plan: RunPlan) -> Path:
    return plan.out.resolve() / records.FOLDER / FOLDER


def _name(plan: RunPlan) -> str:
    """Of all jobs that write into a folder."""
    return f"lesiondelta-{sha256(os.fsencode(plan.out.resolve())).hexdigest()[:12]}"


def _deciding(plan: RunPlan) -> tuple[Any, ...]:
    return plan.out, plan.raw, plan.settings


def _result(one: _Given) -> tuple[dict[str, Results] | None, str]:
    """What a job has left: results, or why it has none."""
    from submitit.core.utils import pickle_load

    path = one.job.paths.result_pickle
    with suppress(OSError):
        os.scandir(path.parent).close()  # some network disks show new files only to who looks at the folder
    try:
        outcome, found = pickle_load(path)
    except (OSError, EOFError):
        return None, ""
    return (found, "") if outcome == "success" else (None, _last_line(found))


def _end_of(job: str) -> str:
    """What SLURM says of a job that has left the queue, while it still knows it."""
    try:
        done = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return ""
    state = re.search(r"JobState=(\S+)", done.stdout)
    reason = re.search(r"Reason=(\S+)", done.stdout)
    said = [one[1] for one in (state, reason) if one and one[1] not in ("None", "COMPLETED")]
    return ", ".join(said).replace("_", " ").lower()


def _counted(given: Sequence[_Given], states: Mapping[str, str] | None) -> str:
    running = sum((states or {}).get(one.job.job_id) == "RUNNING" for one in given)
    waiting = sum((states or {}).get(one.job.job_id) == "PENDING" for one in given)
    others = len(given) - running - waiting
    return f"jobs: {waiting} waiting, {running} running" + (f", {others} in other states" if others else "")


def _split(items: Sequence[T], size: int) -> list[tuple[T, ...]]:
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def _failed(patient: Patient, plan: RunPlan, why: str) -> Results:
    results = failed_results(patient, why)
    with suppress(LesionDeltaError), records.only_run(plan.out, patient.label):
        record_failure(PatientFiles(plan.out, patient.label), results)
    return results


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it says nothing").rstrip(".")
