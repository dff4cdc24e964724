import logging
import os
import subprocess
import sys

import pytest

from lesiondelta.nnunet.environment import COMPILE, environment, prints_logged

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


def test_prints_become_log_records(caplog, capsys):
    with caplog.at_level(logging.DEBUG), prints_logged():
        print("planned")  # noqa: T201
    assert "nnU-Net: planned" in caplog.text
    assert not capsys.readouterr().out


def test_importing_the_package_does_not_import_nnunet():
    code = "import sys, lesiondelta.nnunet.training, lesiondelta.methods; print('nnunetv2' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
