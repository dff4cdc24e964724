"""A run that locates lesions by the patient's own brain, with a stand-in for the network: lower half, upper half."""

import json

import numpy as np
import pytest

from lesiondelta.anatomy.finding import SPACING_MM, Anatomy
from lesiondelta.atlas.parts import Part
from lesiondelta.images import corners_mm, isotropic_grid, read_labels, resample
from lesiondelta.outputs.derivatives import PatientFiles
from lesiondelta.preprocessing import own_anatomy
from tests.models import export_tiny_model
from tests.tiny import OPTIONS, call, rows, write_patient


def halves(images):
    """White matter above, cerebellum below, wherever the FLAIR is not 0."""
    image = images["FLAIR"]
    grid = isotropic_grid(corners_mm(image.grid), SPACING_MM)
    inside = resample(image.with_data(image.data != 0), grid, order="linear").data
    below = np.arange(grid.shape[2])[None, None, :] < grid.shape[2] // 2
    shares = np.zeros((len(Part), *grid.shape), np.float32)
    shares[Part.CEREBELLUM], shares[Part.WHITE] = inside * below, inside * ~below
    shares[Part.OUTSIDE] = 1 - inside
    return Anatomy(shares, grid.affine)


@pytest.fixture
def out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(own_anatomy, "find_anatomy", halves)
    write_patient(tmp_path / "bids", "01", ("1", "2"))
    export_tiny_model(tmp_path / "model")
    assert run(capsys, tmp_path, "--anatomy", "network", "--work-dir", tmp_path / "work").code == 0
    return tmp_path / "out"


def run(capsys, folder, *more):
    model = ("--model", folder / "model", "--threshold", "0.2")
    return call(capsys, "run", folder / "bids", folder / "out", "participant", *model, *OPTIONS, *more)


def located(out):
    head, *lines = [line.split("\t") for line in (out / "sub-01/sub-01_lesions.tsv").read_text().splitlines()]
    return {line[head.index("location")] for line in lines}


def test_parts_and_volumes_are_written(out):
    parts = PatientFiles(out, "01").visit("").parts()
    assert set(np.unique(read_labels(parts).data)) == {0, Part.WHITE, Part.CEREBELLUM}
    assert (
        json.loads(parts.with_name(parts.name.replace(".nii.gz", ".json")).read_text())["Labels"]["6"] == "cerebellum"
    )
    for row in rows(out).values():
        assert float(row["tissue_mm3"]) == pytest.approx(float(row["brain_volume_mm3"]), rel=0.1)
        assert float(row["ventricles_mm3"]) == 0
    assert located(out)
    assert "n/a" not in located(out)
    assert "own ventricles, cortex" in (out / "sub-01.html").read_text()


def test_reports_alone_locate_as_before(out, tmp_path, capsys, monkeypatch):
    before = located(out)
    monkeypatch.setattr(own_anatomy, "find_anatomy", None)  # not asked again
    assert call(capsys, "run", tmp_path / "bids", out, "participant", "--reports-only").code == 0
    assert located(out) == before


def test_prepared_images_keep_their_parts(out, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(own_anatomy, "find_anatomy", None)
    before = located(out)
    done = run(capsys, tmp_path, "--anatomy", "network", "--work-dir", tmp_path / "work", "--sensitivity", "low")
    assert done.code == 0, done.out
    assert located(out) == before


def test_with_the_atlas_again_nothing_of_it_is_left(out, tmp_path, capsys):
    assert run(capsys, tmp_path, "--work-dir", tmp_path / "work").code == 0
    assert not PatientFiles(out, "01").visit("").parts().exists()
    assert "tissue_mm3" not in rows(out)["sub-01", "ses-1"]


def test_results_of_a_version_without_parts_are_rebuilt(out, tmp_path, capsys):
    assert run(capsys, tmp_path).code == 0
    (record,) = (path for path in out.rglob("*.json") if '"from_atlas"' in path.read_text())
    content = json.loads(record.read_text())
    del content["prepared"]["parts"]
    record.write_text(json.dumps(content))
    done = call(capsys, "run", tmp_path / "bids", out, "participant", "--reports-only")
    assert done.code == 0, done.err + done.out
