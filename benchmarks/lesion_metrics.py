"""Time and memory of scoring one visit, against panoptica and the pairwise matching of the longitudinal nnU-Net fork.

    python benchmarks/lesion_metrics.py DATA [--longiseg CHECKOUT]

DATA is the folder of the open MS images: the masks of sub-06 and sub-23 (1 mm, whole brain) against dilated, shifted
and dropped versions. CHECKOUT is a clone of github.com/MIC-DKFZ/LongiSeg. panoptica is measured where it is installed
(`pip install --no-deps panoptica ruamel.yaml 'plotly<6' tenacity`: its pins exclude our numpy). Every tool runs in a
process of its own, on one thread, on the same masks without size filter: processor seconds of the scoring alone, and
how far its peak memory lies above that before it. The lesion counts must be equal, each in its own way of matching.
"""

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from scipy import ndimage

from lesiondelta.evaluation.metrics import score
from lesiondelta.images import Array, Volume, read_mask

PATIENTS = ("06", "23")
CHANGES = ("dilated", "shifted", "dropped")
TOOLS = ("lesiondelta", "lesiondelta as longiseg", "longiseg", "panoptica")


def main() -> None:
    """Print a line per case and tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--longiseg", type=Path, help="clone of the fork")
    parser.add_argument("--one", nargs=3, metavar=("TOOL", "PATIENT", "CHANGE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(*given.one, given.data, given.longiseg)))
        return
    here = {"longiseg": given.longiseg is not None, "panoptica": importlib.util.find_spec("panoptica") is not None}
    tools = [tool for tool in TOOLS if here.get(tool, True)]
    print("| patient | prediction | tool | CPU s | MB | lesions | found, right |\n|---|---|---|---|---|---|---|")
    for patient in PATIENTS:
        for change in CHANGES:
            for tool in tools:
                print(line(patient, change, tool, run(tool, patient, change, given)), flush=True)


def run(tool: str, patient: str, change: str, given: argparse.Namespace) -> dict[str, float]:
    """Measure in another process."""
    fork = ["--longiseg", str(given.longiseg)] if given.longiseg else []
    command = [sys.executable, "-W", "ignore", __file__, str(given.data), *fork, "--one", tool, patient, change]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PANOPTICA_CITATION_REMINDER": "false"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def line(patient: str, change: str, tool: str, found: dict[str, float]) -> str:
    """A row of the table."""
    lesions = f"{found['reference']:.0f}, {found['predicted']:.0f}"
    matched = f"{found['found']:.0f}, {found['right']:.0f}"
    return (
        f"| {patient} | {change} | {tool} | {found['seconds']:.2f} | {found['megabytes']:.0f} | {lesions} | {matched} |"
    )


def measure(tool: str, patient: str, change: str, data: Path, longiseg: Path | None) -> dict[str, float]:
    """Score one case with one tool."""
    warnings.simplefilter("ignore")
    mask = read_mask(data / "ljubljana-lesion-masks" / f"sub-{patient}_space-MNI152_label-lesion_mask.nii.gz")
    guess = changed(mask.data, change)
    call = {
        "lesiondelta": lambda: ours(mask, guess, "lesiondelta"),
        "lesiondelta as longiseg": lambda: ours(mask, guess, "longiseg"),
        "longiseg": prepared_longiseg(longiseg, mask.data, guess) if tool == "longiseg" else None,
        "panoptica": prepared_panoptica(mask.data, guess) if tool == "panoptica" else None,
    }[tool]
    before, start = peak_megabytes(), time.process_time()
    counts = call()
    return {"seconds": time.process_time() - start, "megabytes": peak_megabytes() - before, **counts}


def peak_megabytes() -> float:
    """Of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def changed(mask: Array, change: str) -> Array:
    """The prediction: wider by a voxel, moved by one and two, or without every third lesion."""
    if change == "dilated":
        return ndimage.binary_dilation(mask)
    if change == "shifted":
        return np.roll(mask, (1, 2, 0), axis=(0, 1, 2))
    labels, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    return mask & (labels % 3 != 0)


def ours(mask: Volume, guess: Array, convention: str) -> dict[str, int]:
    """Every metric of a visit."""
    scores = score(mask.data, guess, mask.grid, min_lesion_mm3=0, convention=convention)  # type: ignore[arg-type]
    return {
        "reference": scores.reference_lesions,
        "predicted": scores.predicted_lesions,
        "found": scores.found_lesions,
        "right": scores.right_lesions,
    }


def prepared_longiseg(checkout: Path, mask: Array, guess: Array):  # noqa: ANN201
    """The fork's lesion detection alone, without its overlaps and distances."""
    path = checkout / "longiseg" / "evaluation" / "metrics" / "detection_metrics.py"
    spec = importlib.util.spec_from_file_location("detection_metrics", path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]

    def call() -> dict[str, int]:
        _, _, _, found, right, false, missed = module.compute_detection_metrics(mask, guess)
        return {"reference": found + missed, "predicted": right + false, "found": found, "right": right}

    return call


def prepared_panoptica(mask: Array, guess: Array):  # noqa: ANN201
    """Its one-to-one matching at IoU > 0.1, and the metrics it gives by default."""
    from panoptica import (
        ConnectedComponentsInstanceApproximator,
        InputType,
        NaiveThresholdMatching,
        Panoptica_Evaluator,
    )

    evaluator = Panoptica_Evaluator(
        expected_input=InputType.SEMANTIC,
        instance_approximator=ConnectedComponentsInstanceApproximator(),
        instance_matcher=NaiveThresholdMatching(matching_threshold=0.1, strict_threshold=True),
    )

    def call() -> dict[str, int]:
        result = evaluator.evaluate(guess.astype(np.uint8), mask.astype(np.uint8))
        result = result["ungrouped"] if isinstance(result, dict) else result
        found = int(result.tp)
        result.to_dict()
        return {"reference": found + result.fn, "predicted": found + result.fp, "found": found, "right": found}

    return call


if __name__ == "__main__":
    main()
