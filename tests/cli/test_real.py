"""The commands with nothing switched off: registration, gate, brain extraction, N4 and the bundled model."""

import shutil

import numpy as np
import pytest

from lesiondelta.images import read_image, read_mask, require_same_grid
from tests.tiny import call, image_path, rows

VISITS = {("sub-04", "ses-1"), ("sub-12", "ses-1"), ("sub-12", "ses-2"), ("sub-20", "ses-2")}


@pytest.mark.slow
def test_demo(capsys, tmp_path):
    outcome = call(capsys, "demo", "-o", tmp_path / "demo")
    assert outcome.code == 0, outcome.err
    pictures = sorted((tmp_path / "demo/results/sub-001/figures").glob("*.png"))
    assert len(pictures) == 2
    assert all(str(picture) in outcome.out for picture in pictures)


@pytest.mark.slow
@pytest.mark.data
def test_real_patients(capsys, data_folder, tmp_path):
    """Every visit is segmented on its own FLAIR; somebody else's images as a second visit are refused."""
    raw, out, work = data_folder / "ljubljana-longitudinal", tmp_path / "out", tmp_path / "work"
    outcome = call(capsys, "run", raw, out, "participant", "--work-dir", work)
    assert outcome.code == 0, outcome.err
    assert set(rows(out)) == VISITS
    for patient, visit in VISITS:
        names = (patient.removeprefix("sub-"), visit.removeprefix("ses-"))
        mask = read_mask(image_path(out, *names, "space-orig_label-L_mask"))
        require_same_grid(mask, read_image(image_path(raw, *names, "FLAIR")))
        assert np.count_nonzero(mask.data)

    for label, source, visit in (("12", "04", "1"), ("04", "12", "2")):
        mixed = tmp_path / f"mixed{label}"
        first, second = (mixed / f"sub-{label}" / f"ses-{number}" / "anat" for number in (1, 2))
        shutil.copytree(raw / f"sub-{label}" / "ses-1" / "anat", first)
        shutil.copytree(raw / f"sub-{source}" / f"ses-{visit}" / "anat", second)
        for path in list(second.iterdir()):
            path.rename(second / path.name.replace(f"sub-{source}_ses-{visit}", f"sub-{label}_ses-2"))
        shutil.copy(raw / "dataset_description.json", mixed)
        outcome = call(capsys, "run", mixed, tmp_path / f"out{label}", "participant")
        assert outcome.code == 1
        found = rows(tmp_path / f"out{label}")
        assert found[f"sub-{label}", "ses-2"]["status"] == "failed"
        assert "one person" in found[f"sub-{label}", "ses-2"]["reason"]
        assert found[f"sub-{label}", "ses-1"]["status"] == "flagged"
