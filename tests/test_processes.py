"""Worker processes."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import os, sys, time
from lesiondelta.processes import worker_pool

if __name__ == "__main__":
    with worker_pool(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600).result()
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")
def test_a_worker_ends_with_its_killed_parent(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    with subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True) as parent:
        worker = Path("/proc", parent.stdout.readline().strip())
        assert worker.is_dir()
        parent.kill()
    until = time.monotonic() + 30
    while worker.is_dir() and time.monotonic() < until:
        time.sleep(0.1)
    assert not worker.is_dir()
