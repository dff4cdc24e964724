"""Visits that lack the T1w, with a model that can do without it and with one that cannot."""

import json

import numpy as np
import pytest

from lesiondelta.inference.model import load_model
from lesiondelta.inference.network_segmenter import NetworkSegmenter
from lesiondelta.preprocessing.preparation import PreparedPatient, PreparedVisit
from lesiondelta.settings import SegmentationSettings
from tests.models import export_tiny_model
from tests.tiny import OPTIONS, call, image, image_path, rows, write_patient


@pytest.fixture
def bids(tmp_path):
    """Three visits; the second has a FLAIR only."""
    write_patient(tmp_path / "bids", "01", ("1", "2", "3"))
    image_path(tmp_path / "bids", "01", "2", "T1w").unlink()
    return tmp_path / "bids"


def tiny_model(folder, optional=("T1w",)):
    description = export_tiny_model(folder) / "model.json"
    description.write_text(json.dumps({**json.loads(description.read_text()), "optional": optional}))
    return folder


def run(capsys, bids, out, model, *more):
    return call(capsys, "run", bids, out, "participant", "--model", model, "--threshold", "0.2", *OPTIONS, *more)


def test_a_visit_with_a_flair_only_is_segmented_and_says_so(bids, tmp_path, capsys):
    done = run(capsys, bids, tmp_path / "out", tiny_model(tmp_path / "model"))
    assert done.code == 0, done.out
    found = {session: row["contrasts"] for (_, session), row in rows(tmp_path / "out").items()}
    assert found == {"ses-1": "T1w+FLAIR", "ses-2": "FLAIR", "ses-3": "T1w+FLAIR"}
    second = rows(tmp_path / "out")["sub-01", "ses-2"]
    assert second["status"] == "flagged"
    assert "there is no T1w, without which masks are less accurate" in second["reason"]
    made = {path.name for path in (tmp_path / "out/sub-01/ses-2/anat").glob("*space-patient_*.nii.gz")}
    assert "sub-01_ses-2_space-patient_FLAIR.nii.gz" in made
    assert not any("T1w" in name for name in made)
    assert "FLAIR of all 3 visits and T1w of 2 " in (tmp_path / "out/sub-01.html").read_text()
    again = call(capsys, "run", bids, tmp_path / "out", "participant", "--reports-only")
    assert again.code == 0, again.err
    assert rows(tmp_path / "out")["sub-01", "ses-2"]["contrasts"] == "FLAIR"


def test_a_network_sees_the_mean_in_its_place(tmp_path):
    """An image that is the same everywhere in the brain is 0 once it is standardised."""
    ball = image(0)
    brain = ball.with_data(ball.data > 0)
    probabilities = []
    for images in ({"FLAIR": ball}, {"T1w": ball.with_data(300.0 * brain.data), "FLAIR": ball}):
        visit = PreparedVisit("1", images, {}, {}, {})
        prepared = PreparedPatient("01", ball.grid, brain, (visit,), {})
        models = (load_model(tiny_model(tmp_path / f"model{len(images)}")),)
        (found,) = NetworkSegmenter(models, SegmentationSettings()).segment(None, prepared, tmp_path / "log")
        probabilities.append(found.probability.data)
    np.testing.assert_allclose(*probabilities, atol=1e-6)
    assert probabilities[0].max() > 0


def test_a_model_that_needs_it_fails_the_visit_alone(bids, tmp_path, capsys):
    done = run(capsys, bids, tmp_path / "out", tiny_model(tmp_path / "model", ()))
    assert done.code == 1
    row = rows(tmp_path / "out")["sub-01", "ses-2"]
    assert (row["status"], row["reason"]) == (
        "failed", f"{bids / 'sub-01/ses-2/anat'} has no T1w image: add it, or leave the visit out."
    )  # fmt: skip


def test_a_loose_flair_is_a_visit(bids, tmp_path, capsys):
    flairs = [image_path(bids, "01", session, "FLAIR") for session in ("1", "2")]
    both = ("--visit", image_path(bids, "01", "1", "T1w"), flairs[0], "--visit", flairs[1])
    options = ("--threshold", "0.2", *OPTIONS)
    model = tiny_model(tmp_path / "model")
    done = call(capsys, "segment", "-o", tmp_path / "out", *both, "--model", model, *options)
    assert done.code == 0, done.err + done.out
    assert [row["contrasts"] for row in rows(tmp_path / "out").values()] == ["T1w+FLAIR", "FLAIR"]
    needed = call(
        capsys, "segment", "-o", tmp_path / "other", *both, "--model", tiny_model(tmp_path / "m", ()), *options
    )
    assert needed.code == 1
    (_, second) = rows(tmp_path / "other").values()
    assert f"{flairs[1]} was given without a T1w" in second["reason"]


def test_a_t1w_that_may_be_meant_is_not_passed_over(bids, tmp_path, capsys):
    image_path(bids, "01", "3", "T1w").rename(bids / "sub-01/ses-3/anat/sub-01_ses-3_t1w.nii.gz")
    done = run(capsys, bids, tmp_path / "out", tiny_model(tmp_path / "model"))
    assert done.code == 1
    assert "may be meant" in rows(tmp_path / "out")["sub-01", "ses-3"]["reason"]
