import errno
import hashlib
import json

import pytest

from lesiondelta.errors import OutputError
from lesiondelta.files import atomic, sha256, write_json


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


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
