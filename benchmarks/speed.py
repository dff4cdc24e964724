"""Time and memory against an earlier commit and against peers: `python benchmarks/speed.py WORK OUT --old CHECKOUT`.

Both of each pair are measured in one run, in turn, each in processes of its own; WORK keeps the figures of every part
(`--part` measures some alone), OUT gets the page of all that are there. CHECKOUT is a clone at the commit to compare
with: it runs in this environment, and both run its bundled model. PEERS (`--peers`) is a folder with
`pip install --no-deps --target PEERS picsl_greedy`. Nothing else should run meanwhile.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from speed_page import NNUNET, write_page

from lesiondelta.files import write_json
from lesiondelta.images import Affine, Array, read_image, read_itk_transform, read_mask, resample, write_volume
from lesiondelta.inference.model import load_model
from lesiondelta.inference.window import lesion_probabilities
from lesiondelta.preprocessing.elastix import euler_matrix
from lesiondelta.preprocessing.intensity import normalise
from lesiondelta.preprocessing.points import apply, inside_mm
from lesiondelta.preprocessing.registration import ENGINES
from lesiondelta.timings import read_timings

REPOSITORY = Path(__file__).parents[1]
REPEATS = 2
VISITS = (2, 4, 8)
COHORT = ("04", "20", "T02", "T04", "T05", "T06", "T07", "T08")
LARGE_MM = 0.5
Row = dict[str, Any]


@dataclass(frozen=True)
class Used:
    """What a command took: wall clock, processor time, and the most memory that all its processes held at once."""

    seconds: float
    cpu_seconds: float
    peak_gb: float


def measured(command: Sequence[str | Path], source: Path = REPOSITORY, threads: int | None = None) -> Used:
    """Run a command with the code of a checkout; SystemExit with what it said where it fails."""
    surroundings = {**os.environ, "PYTHONPATH": str(source / "src")}
    if threads is not None:
        surroundings["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryFile() as said:
        begun = time.perf_counter()
        child = subprocess.Popen(
            list(map(str, command)), env=surroundings, cwd=source, stdout=said, stderr=subprocess.STDOUT
        )
        watch = _MemoryWatch(child.pid)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begun
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(map(str, command))}\n{said.read().decode(errors='replace')[-4000:]}")
    return Used(seconds, usage.ru_utime + usage.ru_stime, watch.stop())


class _MemoryWatch(threading.Thread):
    """The largest sum of resident memory (Pss, so that shared pages count once) of a process and its descendants."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process, self.peak_kb, self.over = process, 0, threading.Event()
        self.start()

    def run(self) -> None:
        """Look four times a second."""
        while not self.over.wait(0.25):
            self.peak_kb = max(self.peak_kb, sum(map(_pss_kb, _tree(self.process))))

    def stop(self) -> float:
        """End, in GB."""
        self.over.set()
        self.join()
        return self.peak_kb * 1024 / 1e9


def _tree(process: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{process}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # it has ended meanwhile
        return []
    return [process, *(one for child in children for one in _tree(child))]


def _pss_kb(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def lesiondelta(*arguments: str | Path) -> list[str | Path]:
    """A command line of the program."""
    return [sys.executable, "-m", "lesiondelta", *arguments]


def run_command(raw: Path, out: Path, given: argparse.Namespace, *people: str, processes: int = 1) -> list[str | Path]:
    """`run` from nothing, by the old commit's bundled model."""
    shutil.rmtree(out, ignore_errors=True)
    model, threads = given.old / "src" / "lesiondelta" / "models" / "bundled", str(given.threads // processes)
    chosen = ("--model", model, "--nprocs", str(processes), "--omp-nthreads", threads, "--device", "cpu")
    return lesiondelta("run", raw, out, "participant", "--participant-label", *people, *chosen)


def pair(given: argparse.Namespace) -> list[Row]:
    """The raw pair of sub-12, start to report; and where the time goes."""
    raw, rows = given.data / "ljubljana-longitudinal", []
    outs = {name: given.work / f"pair-{name}" for name in ("old", "new")}
    for _ in range(REPEATS):
        for name, out in outs.items():
            timings = ("--timings",) if name == "new" else ()
            command = [*run_command(raw, out, given, "12"), *timings]
            used = measured(command, given.old if name == "old" else REPOSITORY)
            rows.append({"commit": name, **asdict(used)})
            print(rows[-1], flush=True)
    masks = [_lesions(out) for out in outs.values()]
    overlap = (
        2 * sum(np.count_nonzero(a & b) for a, b in zip(*masks, strict=True)) / sum(m.sum() for v in masks for m in v)
    )
    stages = read_timings(next(outs["new"].rglob("*timings.tsv")))
    write_json(given.work / "stages.json", {name: asdict(spent) for name, spent in stages.items()})
    return [row | {"same_lesion_voxels": float(overlap)} for row in rows]


def _lesions(out: Path) -> list[Array]:
    return [read_mask(path).data for path in sorted(out.rglob("*space-patient_label-L_mask.nii.gz"))]


def visits(given: argparse.Namespace) -> list[Row]:
    """The first visit of sub-12 again and again, moved and with noise: seconds and memory by the number of visits."""
    rows = []
    for number in VISITS:
        raw = given.work / f"visits-{number}"
        for index in range(number):
            rescanned(given.data / "ljubljana-longitudinal" / "sub-12" / "ses-1" / "anat", raw, index)
        write_json(raw / "dataset_description.json", {"Name": "visits", "BIDSVersion": "1.10.0"})
        used = measured(run_command(raw, given.work / f"visits-{number}-out", given, "01"))
        rows.append({"visits": number, **asdict(used), "seconds_a_visit": used.seconds / number})
        print(rows[-1], flush=True)
    return rows


def rescanned(source: Path, raw: Path, index: int) -> None:
    """Add a visit to a dataset: the images of a folder, moved by a little more for each, with 2 % of noise."""
    rng, pose = np.random.default_rng(index), np.eye(4)
    pose[:3, :3], pose[:3, 3] = euler_matrix(0.01 * index, -0.005 * index, 0.01 * index), (index, -index, 0.5 * index)
    folder = raw / "sub-01" / f"ses-{index + 1}" / "anat"
    for contrast in ("T1w", "FLAIR"):
        image = read_image(next(source.glob(f"*_{contrast}.nii.gz")))
        data = resample(image, image.grid, pose).data
        noise = rng.normal(0, 0.02 * np.percentile(data, 90), data.shape)
        folder.mkdir(parents=True, exist_ok=True)
        noisy = np.where(data > 0, np.abs(data + noise), 0).astype(np.float32)
        write_volume(folder / f"sub-01_ses-{index + 1}_{contrast}.nii.gz", replace(image, data=noisy))


def large(given: argparse.Namespace) -> list[Row]:
    """A visit of sub-12 brought to cubes of half a millimetre."""
    raw = given.work / "large"
    source, folder = given.data / "ljubljana-longitudinal" / "sub-12" / "ses-1" / "anat", raw / "sub-01" / "anat"
    folder.mkdir(parents=True, exist_ok=True)
    shape: tuple[int, ...] = ()
    for contrast in ("T1w", "FLAIR"):
        image = read_image(next(source.glob(f"*_{contrast}.nii.gz")))
        fine = replace(image.grid, **_finer(image.grid.shape, image.affine, image.grid.spacing))
        shape = fine.shape
        write_volume(folder / f"sub-01_{contrast}.nii.gz", resample(image, fine, np.eye(4)))
    write_json(raw / "dataset_description.json", {"Name": "large", "BIDSVersion": "1.10.0"})
    used = measured(run_command(raw, given.work / "large-out", given, "01"))
    return [{"grid": " x ".join(map(str, shape)), **asdict(used)}]


def _finer(shape: Sequence[int], affine: Affine, spacing: Array) -> dict[str, Any]:
    factors = np.asarray(spacing, float) / LARGE_MM
    finer = affine.copy()
    finer[:3, :3] = affine[:3, :3] / factors
    return {
        "shape": tuple(int(np.floor((n - 1) * f)) + 1 for n, f in zip(shape, factors, strict=True)),
        "affine": finer,
    }


def predictor(given: argparse.Namespace) -> list[Row]:
    """Both visits of the pair by the same weights: torch and OpenVINO here, and nnU-Net's own predictor."""
    rows = []
    for threads in sorted({1, given.threads}):
        for kind in (NNUNET, "torch", "openvino"):
            command = [sys.executable, __file__, given.work, given.out, "--old", given.old, "--inside", kind]
            measured([*command, "--threads", str(threads)], threads=threads)
            rows.append(json.loads((given.work / "inside.json").read_text()) | {"by": kind, "threads": threads})
            print(rows[-1], flush=True)
    return rows


def inside(given: argparse.Namespace, kind: str) -> None:
    """Segment the prepared pair in this process: writes seconds of the network alone, and the lesion voxels' number."""
    import torch

    torch.set_num_threads(given.threads)
    place = given.work / "pair-new" / "sub-12"
    model = load_model(given.old / "src" / "lesiondelta" / "models" / "bundled")
    images = [
        np.stack([read_image(next(place.rglob(f"*ses-{v}_space-patient_{c}.nii.gz"))).data for c in model.contrasts])
        for v in (1, 2)
    ]
    brain = read_mask(next(place.rglob("*space-patient_label-brain_mask.nii.gz"))).data
    images = [image * brain for image in images]
    begun = time.perf_counter(), time.process_time()
    if kind == NNUNET:
        found = [_nnunets(model, images[i], images[1 - i]) for i in (0, 1)]
    else:
        found = lesion_probabilities(images, [model], mirroring=False, device="cpu", backend=kind)  # type: ignore[arg-type]
    spent = {"seconds": time.perf_counter() - begun[0], "cpu_seconds": time.process_time() - begun[1]}
    masks = [(probability > model.threshold) & brain for probability in found]
    kept = given.work / "predictor-nnunet.npy"
    if kind == NNUNET:
        np.save(kept, np.stack(masks))
    theirs = np.load(kept)
    same = 2 * np.count_nonzero(theirs & masks) / (np.count_nonzero(theirs) + np.count_nonzero(masks))
    write_json(given.work / "inside.json", spent | {"same_lesion_voxels": float(same)})


def _nnunets(model: Any, current: Array, prior: Array) -> Array:  # noqa: ANN401
    """Probabilities of lesion by nnUNetPredictor, given the network as it stands."""
    import torch

    from lesiondelta.nnunet.environment import environment, prints_logged

    with tempfile.TemporaryDirectory() as workplace, environment(Path(workplace)), prints_logged():
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        names = {str(channel): str(channel) for channel in range(2 * len(current))}
        configuration = {"patch_size": model.description.patch, "architecture": {}}
        plans = PlansManager({"configurations": {"3d_fullres": configuration}, "label_manager": "LabelManager"})
        theirs = nnUNetPredictor(model.overlap, True, False, False, torch.device("cpu"), allow_tqdm=False)
        theirs.manual_initialization(
            model.network, plans, plans.get_configuration("3d_fullres"), None,
            {"channel_names": names, "labels": {"background": 0, "lesion": 1}}, "none", (0, 1, 2),
        )  # fmt: skip
        both = torch.from_numpy(np.concatenate([normalise(current), normalise(prior)]))
        logits = theirs.predict_sliding_window_return_logits(both).float()
    probability: Array = ((logits[1] - logits[0]) / model.description.temperature).sigmoid().numpy()
    return probability


def cohort(given: argparse.Namespace) -> list[Row]:
    """Eight patients of two visits: the open heads, and the same moved and with noise."""
    raw, rows = given.work / "cohort", []
    for person in COHORT:
        source = next(
            (given.data / ("tabriz" if person[0] == "T" else "ljubljana-longitudinal") / f"sub-{person}").rglob("anat")
        )
        for index in (0, 1):
            rescanned(source, given.work / "cohort-parts" / person, index)
        parts = given.work / "cohort-parts" / person / "sub-01"
        for path in sorted(parts.rglob("*.nii.gz")):
            there = (
                raw / f"sub-{person}" / path.relative_to(parts).parent / path.name.replace("sub-01", f"sub-{person}")
            )
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, there)
    write_json(raw / "dataset_description.json", {"Name": "cohort", "BIDSVersion": "1.10.0"})
    for name, source in (("old", given.old), ("new", REPOSITORY)):
        command = run_command(raw, given.work / f"cohort-{name}", given, *COHORT, processes=given.threads)
        used = measured(command, source)
        rows.append({"commit": name, **asdict(used), "patients_an_hour": 3600 * len(COHORT) / used.seconds})
        print(rows[-1], flush=True)
    return rows


def registration(given: argparse.Namespace) -> list[Row]:
    """The second FLAIR of sub-12 to the first, affine, and how far inside the brain from the authors' transforms."""
    folder = given.data / "ljubljana-longitudinal"
    authors = folder / "derivatives" / "reference" / "sub-12"
    brain = read_mask(authors / "sub-12_space-common_label-brain_mask.nii.gz")
    first, second = (read_itk_transform(authors / f"study{number}_FLAIR_to_common_space.txt") for number in (1, 2))
    paths = [folder / f"sub-12/ses-{v}/anat/sub-12_ses-{v}_FLAIR.nii.gz" for v in (1, 2)]
    images, points = [read_image(path) for path in paths], inside_mm(brain)
    engines: dict[str, Callable[[], Affine]] = {
        name: lambda name=name: ENGINES[name](images[0], images[1], degrees=12, threads=given.threads)  # type: ignore[misc]
        for name in ("elastix", "niimath")
    }
    if given.peers:
        engines["greedy"] = lambda: _greedy(given.peers, *paths)
    rows = []
    for name, register in engines.items():
        begun = time.perf_counter(), _cpu()
        found = register()
        spent = {"seconds": time.perf_counter() - begun[0], "cpu_seconds": _cpu() - begun[1]}
        away = np.linalg.norm(apply(found, apply(first, points)) - apply(second, points), axis=1)
        rows.append({"engine": name, **spent, "mean_mm": float(away.mean()), "largest_mm": float(away.max())})
        print(rows[-1], flush=True)
    return rows


def _cpu() -> float:
    """Processor seconds of this process and of those it has ended."""
    return sum(os.times()[:4])


def _greedy(peers: Path, fixed: Path, moving: Path) -> Affine:
    """An affine transform, RAS+ mm, as its manual advises for two images of one person."""
    with tempfile.TemporaryDirectory() as folder:
        matrix = Path(folder) / "affine.mat"
        said = f"-d 3 -a -dof 12 -m NCC 4x4x4 -ia-image-centers -n 100x50x10 -i {fixed} {moving} -o {matrix}"
        code = f"from picsl_greedy import Greedy3D; Greedy3D().execute({said!r})"
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(peers)}, check=True, capture_output=True
        )
        return np.loadtxt(matrix)


PARTS: Mapping[str, Callable[[argparse.Namespace], list[Row]]] = {
    "pair": pair, "predictor": predictor, "registration": registration, "visits": visits, "large": large,
    "cohort": cohort,
}  # fmt: skip


def main() -> None:
    """Measure, and write the page of all that has been measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("LESIONDELTA_DATA", REPOSITORY.parent / "shared" / "data")
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--old", type=Path, required=True, help="a clone at an earlier commit")
    parser.add_argument("--peers", type=Path, help="where picsl_greedy is installed")
    parser.add_argument("--data", type=Path, default=Path(default), help="the open MS images")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.work, given.out, given.old = given.work.resolve(), given.out.resolve(), given.old.resolve()
    given.work.mkdir(parents=True, exist_ok=True)
    if given.inside:
        inside(given, given.inside)
        return
    for name in given.part:
        pd.DataFrame(PARTS[name](given)).to_csv(given.work / f"{name}.tsv", sep="\t", index=False)
    write_page(given.work, given.out, given.old)


if __name__ == "__main__":
    main()
