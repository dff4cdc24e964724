"""The table of options: every setting that a user may choose has one, with the setting's own choices and default."""

import inspect
import os
import subprocess
import sys
from typing import get_args

import pytest

from lesiondelta.cli.evaluate import evaluate
from lesiondelta.cli.options import SECTIONS, TABLE, WITHOUT_OPTION, preprocessing_of, settings_of
from lesiondelta.errors import InputError
from lesiondelta.settings import PreprocessingSettings, Settings
from tests.cli.test_commands import COMMANDS
from tests.tiny import call


def test_every_setting_has_one_option_or_is_named_as_having_none():
    fields = [(section, field) for section, model in SECTIONS.items() for field in model.model_fields]
    listed = [(option.section, option.field) for option in TABLE]
    assert sorted(listed) == sorted((s, f) for s, f in fields if f not in WITHOUT_OPTION)
    assert set(SECTIONS) == set(Settings.model_fields)


@pytest.mark.parametrize("option", TABLE, ids=lambda option: option.name)
def test_choices_default_and_help_are_the_settings_own(option):
    info = SECTIONS[option.section].model_fields[option.field]
    kind, typed = get_args(option.parameter.annotation)
    assert typed.help == info.description
    if option.field == "models":
        assert (option.parameter.default, info.default) == (None, ())
    else:
        assert (kind, option.parameter.default) == (info.annotation, info.default)
    assert option.parameter.kind is inspect.Parameter.KEYWORD_ONLY


def test_without_options_the_settings_are_the_defaults():
    given = {
        section: {o.field: SECTIONS[section].model_fields[o.field].default for o in TABLE if o.section == section}
        for section in SECTIONS
    }
    assert settings_of(given, threads=1) == Settings()
    assert preprocessing_of(given, threads=0) == PreprocessingSettings()
    three = settings_of(given, threads=3)
    assert (three.preprocessing.threads, three.segmentation.threads) == (3, 3)
    with pytest.raises(InputError, match="threshold"):
        settings_of({"segmentation": {"threshold": 2.0}}, threads=1)


def test_a_choice_that_does_not_exist_names_those_that_do(capsys, tmp_path):
    outcome = call(capsys, "run", tmp_path, tmp_path / "out", "participant", "--space", "atlas")
    assert outcome.code == 2
    assert "baseline" in outcome.err
    assert "midway" in outcome.err


@pytest.mark.parametrize("command", ["", "convert", *COMMANDS])
def test_no_line_of_the_help_breaks_a_name_at_its_hyphen(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    outcome = call(capsys, *command.split(), "--help")
    assert outcome.code == 0
    assert [line for line in outcome.out.splitlines() if line.endswith("-")] == []


def test_help_names_no_option_that_the_command_lacks(capsys):
    assert "nprocs" not in call(capsys, "segment", "--help").out


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be set apart here")
def test_evaluate_scores_on_the_cores_it_may_use():
    """A mask of one core, set before the start, is heeded: the number is found at call time."""
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from lesiondelta.cli import console; "
    said = subprocess.run(
        [sys.executable, "-c", code + "print(console.cores())"], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "1"
    assert inspect.signature(evaluate).parameters["nprocs"].default is None
