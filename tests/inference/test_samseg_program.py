"""Where SAMSEG is looked for, what is told of its version, and what a run of it may end in."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lesiondelta.errors import DependencyError, ProgramError
from lesiondelta.images import Volume, read_probabilities
from lesiondelta.inference.samseg_program import find_samseg
from tests.samseg import BRIGHT, install
from tests.tiny import AFFINE


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch, tmp_path):
    for name in ("LESIONDELTA_SAMSEG", "FREESURFER_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_it_is_found_by_its_own_variable_then_freesurfers_then_on_path(monkeypatch, tmp_path):
    folders = {name: install(tmp_path / name)[0].resolve() for name in ("path", "freesurfer", "own")}
    monkeypatch.setenv("PATH", str(folders["path"]))
    assert find_samseg().folder == folders["path"]
    monkeypatch.setenv("FREESURFER_HOME", str(tmp_path / "freesurfer"))
    assert find_samseg().folder == folders["freesurfer"]
    monkeypatch.setenv("LESIONDELTA_SAMSEG", str(folders["own"]))
    assert find_samseg().folder == folders["own"]


def test_a_variable_that_names_a_wrong_folder_is_not_overlooked(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(install(tmp_path / "program")[0]))
    monkeypatch.setenv("LESIONDELTA_SAMSEG", str(tmp_path))
    with pytest.raises(DependencyError, match=f"is not in {tmp_path}, which LESIONDELTA_SAMSEG names"):
        find_samseg()


def test_the_version_is_the_wheels_or_the_programs_hash(monkeypatch, tmp_path):
    folder, _ = install(tmp_path / "program")
    monkeypatch.setenv("LESIONDELTA_SAMSEG", str(folder))
    assert find_samseg().version == "freesurfer-linux-7.4.1-20230614"
    (tmp_path / "program/build-stamp.txt").unlink()
    assert find_samseg().version.startswith("unknown, sha256 ")
    (tmp_path / "program/lib/python3.11/site-packages/samseg-0.4a0.dist-info").mkdir(parents=True)
    assert find_samseg().version == "samseg-0.4a0"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#!/nowhere/python\n", "cannot be started"),
        ("#!/bin/sh\necho no atlas >&2\nexit 4\n", r"ends with 4 \(no atlas\)"),
    ],
)
def test_a_broken_program_says_so(monkeypatch, tmp_path, text, said):
    folder, _ = install(tmp_path / "program")
    monkeypatch.setenv("LESIONDELTA_SAMSEG", str(folder))
    (folder / "run_samseg").write_text(text)
    with pytest.raises(DependencyError, match=said):
        find_samseg()


def visits(number):
    """T1w and FLAIR of small heads with one bright voxel, which differs from visit to visit."""
    made = []
    for n in range(number):
        data = np.full((4, 5, 30), 100, np.float32)
        data[1, 1 + n, 25] = BRIGHT + 1
        made.append([Volume(data, AFFINE)] * 2)
    return made


def segment(monkeypatch, tmp_path, number, *args, hours=1.0, **kwargs):
    folder, _ = install(tmp_path / "program", *args, **kwargs)
    monkeypatch.setenv("LESIONDELTA_SAMSEG", str(folder))
    return find_samseg().segment(visits(number), tmp_path / "logs/samseg.log", threads=1, hours=hours)


@pytest.mark.parametrize("number", [1, 3])
def test_every_visit_has_its_own_lesions(monkeypatch, tmp_path, number):
    found = segment(monkeypatch, tmp_path, number)
    assert len(found) == number
    for n, lesions in enumerate(found):
        assert np.argwhere(lesions.mask.data).tolist() == [[1, 1 + n, 25]]
        assert lesions.probability.data[1, 1 + n, 25] == np.float32(0.9)
        np.testing.assert_allclose(lesions.mask.affine, AFFINE, atol=1e-4)


FAILURES = {
    "exit": (
        "print('no memory left'); sys.exit(3)",
        r"`run_samseg_long` failed \(exit 3; its last line: no memory left",
    ),
    "visit": ("places.pop(); segment()", "left no tp002/seg.mgz and no tp002/posteriors/Lesions.mgz"),
    "nothing": ("", "left no tp001/seg.mgz"),
    "damaged": ("segment(); (out / 'tp001/seg.mgz').write_bytes(b'damaged')", "cannot be used"),
    "killed": ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failure_is_one_sentence_that_names_the_log(monkeypatch, tmp_path, kind):
    body, said = FAILURES[kind]
    with pytest.raises(ProgramError, match=said) as raised:
        segment(monkeypatch, tmp_path, 2, body)
    log_file = tmp_path / "logs/samseg.log"
    assert str(raised.value).endswith(f"see {log_file}.")
    assert "run_samseg_long -t visit1" in log_file.read_text()


def test_a_segmentation_without_tissue_is_no_empty_mask(monkeypatch, tmp_path):
    with pytest.raises(ProgramError, match="found no white matter"):
        segment(monkeypatch, tmp_path, 1, tissue=0)


def test_beyond_the_time_limit_the_program_dies_with_its_children(monkeypatch, tmp_path):
    child = tmp_path / "child"
    body = "import subprocess; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)']); "
    body += f"open({str(child)!r}, 'w').write(str(p.pid)); p.wait()"
    start = time.monotonic()
    with pytest.raises(ProgramError, match=r"was stopped after 0\.002 hours: .*allow more \(--samseg-hours\)"):
        segment(monkeypatch, tmp_path, 2, body, hours=0.002)
    assert time.monotonic() - start < 60
    assert eventually(lambda: not alive(int(child.read_text())))


def alive(process):
    """Whether it runs; a zombie does not."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


KILLED = """
from pathlib import Path
from lesiondelta.inference.samseg_program import find_samseg
from tests.inference.test_samseg_program import visits

if __name__ == "__main__":
    find_samseg().segment(visits(2), Path("log.txt"), threads=1, hours=1)
"""


def test_it_dies_with_a_killed_lesiondelta(monkeypatch, tmp_path):
    pid = tmp_path / "pid"
    body = f"import os; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(300)"
    folder, _ = install(tmp_path / "program", body)
    monkeypatch.setenv("LESIONDELTA_SAMSEG", str(folder))
    (tmp_path / "parent.py").write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, tmp_path / "parent.py"], cwd=tmp_path, env=environment) as parent:
        assert eventually(lambda: pid.is_file() and pid.read_text())
        parent.kill()
    assert eventually(lambda: not alive(int(pid.read_text())))


def eventually(condition):
    until = time.monotonic() + 60
    while not condition() and time.monotonic() < until:
        time.sleep(0.1)
    return condition()


def test_probabilities_may_be_zero_everywhere(tmp_path):
    """A patient without lesions."""
    import nibabel as nib

    nib.save(nib.MGHImage(np.zeros((2, 2, 2), np.float32), np.eye(4)), tmp_path / "zero.mgz")
    assert not read_probabilities(tmp_path / "zero.mgz").data.any()
