import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lesiondelta.errors import OutputError
from lesiondelta.nnunet.environment import COMPILE, environment, named_as_text, prints_logged, require_text_name

RAW, PREPROCESSED, PROCESSES = "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_n_proc_DA"


def test_variables_are_restored(tmp_path, monkeypatch):
    monkeypatch.setenv(RAW, "mine")
    monkeypatch.delenv(PREPROCESSED, raising=False)
    with pytest.raises(RuntimeError), environment(tmp_path, loader_processes=0):
        assert os.environ[RAW] == str(tmp_path / "raw")
        assert os.environ[PROCESSES] == "0"
        raise RuntimeError
    assert os.environ[RAW] == "mine"
    assert PREPROCESSED not in os.environ


@pytest.mark.parametrize(("users", "compiled"), [(None, "True"), ("false", "false")])
def test_users_can_switch_compilation_off(tmp_path, monkeypatch, users, compiled):
    monkeypatch.delenv(COMPILE, raising=False)
    if users:
        monkeypatch.setenv(COMPILE, users)
    with environment(tmp_path, compile_network=True):
        assert os.environ[COMPILE] == compiled
    assert os.environ.get(COMPILE) == users


def test_nnunet_follows_from_one_folder_to_the_next(tmp_path):
    for name in ("one", "two"):
        with environment(tmp_path / name):
            from nnunetv2.paths import nnUNet_preprocessed

            assert str(nnUNet_preprocessed) == str(tmp_path / name / "preprocessed")
    assert not nnUNet_preprocessed.is_set()


def test_a_folder_whose_name_is_no_text_gets_one_that_is(tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    odd.mkdir()
    with environment(tmp_path) as given:
        assert given == named_as_text(tmp_path) == tmp_path
    with environment(odd) as given:
        assert str(given).isascii()
        named_as_text(odd).joinpath("file").touch()
        assert given.resolve() == odd
        assert (given / "file").is_file()
    assert not given.exists()
    assert [path.name for path in odd.iterdir()] == ["file"]


def test_without_links_such_a_folder_is_refused(tmp_path, monkeypatch):
    def none(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", none)
    require_text_name(tmp_path)
    with pytest.raises(OutputError, match=r"no link to it can lie in .* \(Operation not permitted\).*set TMPDIR"):
        require_text_name(tmp_path / "caf\udce9")


def test_prints_become_log_records(caplog, capsys):
    with caplog.at_level(logging.DEBUG), prints_logged():
        print("planned")  # noqa: T201
    assert "nnU-Net: planned" in caplog.text
    assert not capsys.readouterr().out


def test_importing_the_package_does_not_import_nnunet():
    code = "import sys, lesiondelta.nnunet.training, lesiondelta.methods; print('nnunetv2' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
