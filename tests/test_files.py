import errno
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import threading

import pytest

from lesiondelta.errors import OutputError
from lesiondelta.files import alone, atomic, atomic_folder, contents, files_below, sha256, write_json


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "a.txt"
    with pytest.raises(RuntimeError), atomic(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list((tmp_path / "deep").iterdir()) == []
    with atomic(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, {"a": 1})
    with pytest.raises(OutputError, match=r"Cannot write .*a\.json: No space left"), atomic(target):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert json.loads(target.read_text()) == {"a": 1}


def test_a_folder_in_the_way_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write"), atomic(tmp_path / "file" / "a.txt"):
        pass


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "a"
    with pytest.raises(RuntimeError), atomic_folder(target) as temporary:
        (temporary / "half").touch()
        raise RuntimeError
    assert list((tmp_path / "deep").iterdir()) == []
    with atomic_folder(target) as temporary:
        (temporary / "one").touch()
    with pytest.raises(OutputError, match="a exists: give a new folder"), atomic_folder(target):
        pass
    with atomic_folder(target, replace=True) as temporary:
        (temporary / "two").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["deep", "deep/a", "deep/a/two"]


def test_of_two_that_write_a_folder_the_first_one_wins(tmp_path):
    with pytest.raises(OutputError, match="exists"), atomic_folder(tmp_path / "a") as late:
        (late / "late").touch()
        with atomic_folder(tmp_path / "a") as early:
            (early / "early").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "early"]


def test_locks_and_temporary_files_are_no_contents(tmp_path):
    for name in (".lock", ".lesiondelta-x", ".partial-y", "table.tsv", ".hidden"):
        (tmp_path / name).touch()
    assert contents(tmp_path) == {"table.tsv", ".hidden"}
    assert contents(tmp_path / "absent") == set()


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


HOLDER = """
import sys, time
from pathlib import Path
from lesiondelta.files import alone

with alone(Path(sys.argv[1]), wait=False):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_is_one_processs_until_that_is_killed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match="Another lesiondelta is working in"), alone(tmp_path, wait=False):
            pass
        with alone(tmp_path, wait=False, lock="another.lock"):
            pass
        holder.kill()
    with alone(tmp_path, wait=False):
        pass


def test_who_waits_for_a_folder_says_so_and_gets_it(tmp_path, caplog):
    got = threading.Event()

    def wait():
        with alone(tmp_path, wait=True):
            got.set()

    waiting = threading.Thread(target=wait)
    with caplog.at_level("INFO"), alone(tmp_path, wait=False):
        waiting.start()
        assert not got.wait(0.5)
    waiting.join(30)
    assert got.is_set()
    assert f"another lesiondelta is working in {tmp_path}: waiting for it" in caplog.text


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_a_disk_without_locks_is_refused_or_warned_of(tmp_path, caplog, monkeypatch, code):
    said = os.strerror(code)

    def no_locks(*_):
        raise OSError(code, said)

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(OutputError, match=said), alone(tmp_path, wait=True):
        pass
    with alone(tmp_path, wait=False, needed=False):
        assert f"Cannot lock {tmp_path}: {said}" in caplog.text


def test_files_are_found_in_capitals_or_not_and_hidden_ones_are_not(tmp_path):
    (tmp_path / ".AppleDouble").mkdir()
    for name in ("a_mask.nii", "b_MASK.NII.GZ", "c_mask.txt", "._a_mask.nii", ".AppleDouble/a_mask.nii"):
        (tmp_path / name).touch()
    assert [path.name for path in files_below(tmp_path, "*_Mask.nii*")] == ["a_mask.nii", "b_MASK.NII.GZ"]
