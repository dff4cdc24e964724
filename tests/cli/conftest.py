import os
from pathlib import Path

import pytest


@pytest.fixture
def odd_folder(tmp_path, monkeypatch, request):
    """A folder whose name is Latin-1. Its name must not reach pytest's own log, which xdist cannot send."""
    own_log = request.config.pluginmanager.get_plugin("logging-plugin").report_handler
    monkeypatch.setattr(own_log, "emit", lambda record: None)
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    return folder
