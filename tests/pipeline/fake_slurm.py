"""Programs named as SLURM's that run jobs on this machine, and what a test can do to them."""

import os
import signal
import sys
from pathlib import Path

PROGRAM = """#!{python}
import os, pathlib, re, signal, subprocess, sys, time

home, name = pathlib.Path({home!r}), pathlib.Path(sys.argv[0]).name


def alive(entry):
    try:
        state = pathlib.Path("/proc", entry.read_text().split()[0], "stat").read_text()
        return state.rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False


if name == "sbatch":
    text = pathlib.Path(sys.argv[1]).read_text()
    if "--partition=nowhere" in text:
        sys.exit("sbatch: error: invalid partition specified: nowhere")
    if (home / "refusing").exists() and list(home.glob("batch-*")):
        sys.exit("sbatch: error: Memory specification can not be satisfied")
    array = re.search(r"--array=0-(\\d+)", text)
    label = re.search(r"--job-name=(\\S+)", text)[1]
    number = str(len(list(home.glob("batch-*"))) + 1)
    (home / f"batch-{{number}}").write_text(text)
    for element in range(int(array[1]) + 1) if array else [None]:
        surroundings = os.environ | {{"SLURM_JOB_ID": number}}
        job = number
        if element is not None:
            surroundings |= {{"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(element)}}
            job = f"{{number}}_{{element}}"
        command = ["bash", sys.argv[1]]
        doomed = sorted(home.glob("doomed-*"))
        if doomed:
            doomed[0].unlink()
            command = ["sleep", "0.1"]
        if (home / "slow-next").exists() and element:
            (home / "slow").touch()
        if (home / "slow").exists():
            command = ["bash", "-c", f"while [ -e {{home}}/slow ]; do sleep 0.1; done; exec bash {{sys.argv[1]}}"]
        quiet = {{"stdin": subprocess.DEVNULL, "stdout": open(home / f"{{job}}.out", "w"), "stderr": subprocess.STDOUT}}
        process = subprocess.Popen(command, env=surroundings, start_new_session=True, **quiet)
        (home / f"job-{{job}}").write_text(f"{{process.pid}} {{label}}")
    print(f"Submitted batch job {{number}}")
elif name == "squeue":
    if (home / "deaf").exists():
        sys.exit("slurm_load_jobs error: Unable to contact slurm controller")
    asked = next(one.partition("=")[2] for one in sys.argv if one.startswith("--name="))
    for entry in sorted(home.glob("job-*")):
        if alive(entry) and entry.read_text().split()[1] == asked:
            print(entry.name.removeprefix("job-") + "|RUNNING")
elif name == "scancel":
    for job in sys.argv[1:]:
        os.killpg(int((home / f"job-{{job}}").read_text().split()[0]), signal.SIGKILL)
elif name == "scontrol":
    print("JobId=1 JobState=OUT_OF_MEMORY Reason=None")
"""


class FakeSlurm:
    """A folder of programs to put on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("sbatch", "srun", "squeue", "scancel", "scontrol"):
            program = folder / name
            program.write_text(PROGRAM.format(python=sys.executable, home=str(folder)))
            program.chmod(0o755)

    def doom(self, jobs: int) -> None:
        """The next so many jobs die at once."""
        for number in range(jobs):
            (self.folder / f"doomed-{number}").touch()

    def refuse(self) -> None:
        """Take the first jobs, and no others."""
        (self.folder / "refusing").touch()

    def hold(self) -> None:
        """Jobs given from now on do nothing until `release`."""
        (self.folder / "slow").touch()

    def hold_next(self) -> None:
        """Hold all jobs of an array but its first."""
        (self.folder / "slow-next").touch()

    def release(self) -> None:
        """Let held jobs run."""
        (self.folder / "slow").unlink(missing_ok=True)

    @property
    def batches(self) -> list[str]:
        """The batch files given so far."""
        return [path.read_text() for path in sorted(self.folder.glob("batch-*"))]

    def end(self) -> None:
        """Kill what is left."""
        for entry in self.folder.glob("job-*"):
            try:
                os.killpg(int(entry.read_text().split()[0]), signal.SIGKILL)
            except (OSError, ValueError):
                continue
