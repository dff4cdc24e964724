"""One patient's run touches each file as often as it has to: counted by what Python and its libraries are asked for."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lesiondelta import records
from lesiondelta.inference.loading import load_segmenter
from lesiondelta.inputs.bids import read_cohort
from lesiondelta.pipeline.cohort_run import check_start
from lesiondelta.pipeline.patient_run import RunPlan, run_patient
from lesiondelta.pipeline.rebuild import report_cohort
from lesiondelta.settings import PreprocessingSettings, SegmentationSettings, Settings
from tests.models import export_tiny_model
from tests.tiny import write_patient

EASY = PreprocessingSettings(registration="none", skull_strip="skip", bias_correction=False, gate=False)


@pytest.fixture
def plan(tmp_path):
    write_patient(tmp_path / "bids", "01", ("1", "2", "3"))
    model = export_tiny_model(tmp_path / "model")
    chosen = SegmentationSettings(models=(model,), device="cpu", threshold=0.2)
    return check_start(RunPlan(tmp_path / "out", tmp_path / "bids", Settings(preprocessing=EASY, segmentation=chosen)))


def run(plan):
    (patient,) = read_cohort(plan.raw).patients
    return run_patient(patient, plan, load_segmenter(plan.settings))


def test_every_image_is_hashed_once_and_read_once(plan, monkeypatch):
    hashed, read = Counter(), Counter()
    digest, load = hashlib.file_digest, nib.Nifti1Image.from_stream

    def counting_digest(file, name):
        hashed[Path(file.name)] += 1
        return digest(file, name)

    def counting_load(stream):
        read[Path(stream.name)] += 1
        return load(stream)

    monkeypatch.setattr(hashlib, "file_digest", counting_digest)
    monkeypatch.setattr(nib.Nifti1Image, "from_stream", counting_load)
    assert {result.status for result in run(plan)} == {"flagged"}
    images = sorted(plan.raw.rglob("*.nii.gz"))
    assert len(images) == 6
    assert [hashed[path] for path in images] == [1] * 6
    assert [read[path] for path in images] == [1] * 6


def test_the_record_is_read_once_and_written_once_a_stage(plan):
    path = records.record_path(plan.out, "01")
    counted: Counter[str] = Counter()
    listening = True

    def listen(event, arguments):
        if listening and event == "open" and str(arguments[0]) == str(path):
            counted["read"] += 1
        if listening and event == "os.rename" and str(arguments[1]) == str(path):
            counted["written"] += 1

    sys.addaudithook(listen)
    run(plan)
    first = dict(counted)
    counted.clear()
    run(plan)
    listening = False
    assert first == {"read": 1, "written": 2}  # as it begins, and as it ends
    assert counted == {"read": 1}  # a finished patient


def test_reports_only_needs_neither_itk_nor_torch(plan):
    """In a process of its own, since other tests have loaded both."""
    run(plan)
    code = f"""
import sys
from pathlib import Path
from lesiondelta.pipeline.rebuild import report_cohort

results, _ = report_cohort(Path({str(plan.out)!r}))
assert {{result.status for result in results}} == {{"flagged"}}, results
print(*sorted({{name.partition(".")[0] for name in sys.modules}} & {{"itk", "highdicom", "nnunetv2", "torch"}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_what_a_sidecar_says_later_is_told(plan):
    run(plan)
    (plan.raw / "sub-01/ses-2/anat/sub-01_ses-2_T1w.json").write_text('{"ContrastBolusIngredient": "GADOLINIUM"}')
    assert "contrast agent" in run(plan)[1].reason


def test_results_of_a_version_that_recorded_less_are_run_again_and_keep_corrections(plan):
    run(plan)
    path = records.record_path(plan.out, "01")
    older = json.loads(path.read_text(encoding="utf-8"))
    del older["provenance"]
    older["fingerprint"]["lesiondelta"] = "0.0.1"
    older["segmentation"] = {"threshold": 0.5}  # a field that no longer exists
    path.write_text(json.dumps(older), encoding="utf-8")
    mask = next(plan.out.rglob("sub-01_ses-2_space-orig_label-L_mask.nii.gz"))
    image = nib.load(mask)
    edited = np.asarray(image.dataobj).copy()
    edited[:] = 0
    edited[5:8, 5:8, 5:8] = 1
    nib.save(nib.Nifti1Image(edited, image.affine, image.header), mask)
    refused, _ = report_cohort(plan.out)
    assert {result.status for result in refused} == {"failed"}
    assert "run it without --reports-only first, which keeps masks corrected by hand" in refused[0].reason
    assert np.array_equal(np.asarray(nib.load(mask).dataobj), edited)
    run(plan)
    assert np.array_equal(np.asarray(nib.load(mask).dataobj), edited)
    assert records.read_record(plan.out, "01").corrections.keys() == {"2"}
