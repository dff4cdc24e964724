"""How many processes may load patches for a GPU: nnU-Net waits forever for one that cannot hand over its batches."""

import logging
import math
import tempfile
from collections.abc import Mapping
from typing import Any

from lesiondelta.methods import Method
from lesiondelta.nnunet.job import TrainingJob
from lesiondelta.processes import possible_processes, shared_memory_bytes

log = logging.getLogger(__name__)

LONGEST_FOLDER = 70
"""Bytes of the name of the folder for temporary files: sockets lie below it, whose names have 107 at most."""


def loader_processes(job: TrainingJob, plan: Mapping[str, Any], channels: int) -> int:
    """A share of the threads for each GPU; 0, which is this process, on a CPU and where there can be no others.

    Parameters
    ----------
    job : TrainingJob
    plan : mapping
        nnU-Net's, with one configuration.
    channels : int
        Of one visit.
    """
    if job.device == "cpu":
        return 0  # patches are read in between, which takes 3 % of the time
    processes = max(1, job.threads // job.gpus)
    (configuration,) = plan["configurations"].values()
    needed = job.gpus * held_batches(processes) * batch_bytes(job.method, configuration, channels)
    room, folder = shared_memory_bytes(), tempfile.gettempdir()
    if possible_processes(2) == 1:
        why = "without shared memory"
    elif room < needed:
        why = f"with {room / 1e9:.2f} GB of shared memory, less than {needed / 1e9:.2f} (docker run --shm-size)"
    elif len(folder.encode("utf-8", "surrogateescape")) > LONGEST_FOLDER:
        why = f"with a folder for temporary files of so long a name, {folder} (set TMPDIR)"
    else:
        return processes
    log.warning("%s, no other process can load patches: this one does, and the GPU has to wait for it", why)
    return 0


def held_batches(processes: int) -> int:
    """Batches in nnU-Net's two queues, of training and validation, and one of each on its way to the GPU."""
    return max(6, processes // 2) + max(3, processes // 4) + 2


def batch_bytes(method: Method, configuration: Mapping[str, Any], channels: int) -> int:
    """At most: images as float32, labels as int16, these perhaps at several resolutions."""
    visits = 2 if method.longitudinal else 1
    voxels = math.prod(map(int, configuration["patch_size"]))
    return int(configuration["batch_size"]) * visits * voxels * (4 * channels + 4)
