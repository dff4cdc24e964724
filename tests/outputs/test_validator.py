"""What we write is valid BIDS, says the validator of BIDS (`pip install bids-validator-deno`)."""

import json
import shutil
import subprocess

import pytest

from tests.models import export_tiny_model
from tests.tiny import call

VALIDATOR = shutil.which("bids-validator-deno")


def errors(folder):
    """Code and files of every error."""
    done = subprocess.run([VALIDATOR, "--json", str(folder)], capture_output=True, text=True, check=False)
    issues = json.loads(done.stdout)["issues"]["issues"]
    return [(issue["code"], issue.get("location")) for issue in issues if issue["severity"] == "error"]


@pytest.mark.slow
@pytest.mark.skipif(VALIDATOR is None, reason="bids-validator-deno is not installed")
def test_simulated_cohorts_and_results_are_valid(tmp_path, capsys):
    simulated = call(capsys, "simulate", tmp_path / "raw", "--patients", 1, "--visits", 2, "--seed", 3, "--stripped")
    assert simulated.code == 0
    assert errors(tmp_path / "raw") == []
    model = export_tiny_model(tmp_path / "model")
    done = call(capsys, "run", tmp_path / "raw", tmp_path / "out", "participant", "--model", model)
    assert done.code == 0, done.err
    assert errors(tmp_path / "out") == []
