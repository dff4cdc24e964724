"""`run` on tiny patients: outputs, skipping, redoing."""

import json
import shutil
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lesiondelta import records
from lesiondelta.cohort import Patient
from lesiondelta.files import alone
from lesiondelta.images import (
    Volume,
    read_image,
    read_itk_transform,
    read_mask,
    require_same_grid,
    resample,
    write_volume,
)
from lesiondelta.inputs.bids import read_cohort
from lesiondelta.outputs.derivatives import Place
from lesiondelta.pipeline.cohort_run import check_start, run_cohort
from lesiondelta.pipeline.patient_run import RunPlan
from lesiondelta.pipeline.rebuild import report_cohort
from lesiondelta.pipeline.workers import LocalExecutor, completed
from lesiondelta.settings import PreprocessingSettings, SegmentationSettings, Settings
from tests.brains import atlas_brain, shown
from tests.models import export_tiny_model
from tests.preprocessing.heads import write_sheared
from tests.tiny import AFFINE, SHAPE, image, image_path, rows, write_patient

EASY = PreprocessingSettings(registration="none", skull_strip="skip", bias_correction=False, gate=False)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [export_tiny_model(folder / str(seed), seed=seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def done(tmp_path_factory, models):
    """A finished run over one patient with three visits and one with a single visit."""
    root = tmp_path_factory.mktemp("done")
    write_patient(root / "bids", "01", ("1", "2", "10"))
    write_patient(root / "bids", "02", ("1",))
    run(root, models[:1])
    return root


def run(root: Path, models, processes: int = 1, **segmentation):
    chosen = SegmentationSettings(models=tuple(models), device="cpu", **{"threshold": 0.2, **segmentation})
    settings = Settings(preprocessing=EASY, segmentation=chosen)
    plan = check_start(RunPlan(root / "out", root / "bids", settings))
    return run_cohort(read_cohort(root / "bids"), plan, executor=LocalExecutor(processes))


def stamps(out: Path) -> dict[str, int]:
    """Modification times of all images."""
    return {path.relative_to(out).as_posix(): path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}


@pytest.mark.parametrize("session", ["1", "2", "10"])
def test_masks_lie_on_each_visits_own_flair_grid(done, session):
    flair = read_image(image_path(done / "bids", "01", session, "FLAIR"))
    for name in ("space-orig_label-L_mask", "space-orig_label-L_probseg"):
        result = nib.load(image_path(done / "out", "01", session, name))
        assert result.shape == flair.data.shape
        np.testing.assert_allclose(result.affine, flair.affine, atol=1e-4)
    require_same_grid(read_mask(image_path(done / "out", "01", session, "space-orig_label-L_mask")), flair)


def test_the_mask_is_the_thresholded_probability(done):
    mask, probability = (
        nib.load(image_path(done / "out", "01", "1", f"space-orig_label-L_{name}")).get_fdata()
        for name in ("mask", "probseg")
    )
    assert mask.any()
    assert probability[mask > 0].min() > 0.2
    assert probability.max() <= 1


def test_the_table_has_a_row_a_visit_with_volumes_of_the_patient_space(done):
    table = rows(done / "out")
    assert list(table) == [("sub-01", f"ses-{s}") for s in ("1", "2", "10")] + [("sub-02", "ses-1")]
    assert [row["prior_session_id"] for row in table.values()] == ["ses-2", "ses-1", "ses-2", "n/a"]
    for (patient, session), row in table.items():
        place = Place(done / "out", patient.removeprefix("sub-"), session.removeprefix("ses-"))
        mask = read_mask(place.anat("space-patient_label-L_mask.nii.gz"))
        assert float(row["lesion_volume_mm3"]) == pytest.approx(mask.data.sum())
        assert "ml are usual" in row["reason"]  # a head of 24 mm is none
        assert row["status"] == "flagged"
    own = (done / "out/sub-01/sub-01_visits.tsv").read_text().splitlines()
    assert len(own) == 4


def test_sidecars_and_description_say_where_things_come_from(done):
    sidecar = json.loads((done / "out/sub-01/ses-2/anat/sub-01_ses-2_space-orig_label-L_mask.json").read_text())
    assert sidecar["Type"] == "Lesion"
    assert sidecar["SpatialReference"] == "bids:raw:sub-01/ses-2/anat/sub-01_ses-2_FLAIR.nii.gz"
    assert sidecar["SpatialReference"] in sidecar["Sources"]
    description = json.loads((done / "out/dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "lesiondelta"
    assert description["DatasetLinks"]["raw"] == (done / "bids").resolve().as_uri()
    assert json.loads((done / "out/settings.json").read_text())["settings"]["segmentation"]["threshold"] == 0.2


def test_a_brain_mask_given_is_logged_and_a_source(tmp_path, models):
    write_patient(tmp_path / "bids", "01")
    mask = image_path(tmp_path / "bids", "01", "1", "desc-brain_mask")
    write_volume(mask, Volume(np.ones(SHAPE, bool), AFFINE))
    run(tmp_path, models[:1])
    assert f"brain mask {mask}" in (tmp_path / "out/logs/sub-01.log").read_text()
    sidecar = (tmp_path / "out/sub-01/ses-1/anat/sub-01_ses-1_space-orig_label-L_mask.json").read_text()
    assert f"bids:raw:sub-01/ses-1/anat/{mask.name}" in json.loads(sidecar)["Sources"]


def test_the_saved_transform_brings_the_flair_into_the_patients_space(done):
    place = Place(done / "out", "01", "2")
    moved = read_image(place.anat("space-patient_FLAIR.nii.gz"))
    flair = read_image(image_path(done / "bids", "01", "2", "FLAIR"))
    transform = read_itk_transform(place.transform("orig", ".txt"))
    again = resample(flair, moved.grid, transform).data
    np.testing.assert_allclose(again[moved.data > 0], moved.data[moved.data > 0], rtol=1e-4)


def test_every_visit_has_a_picture_and_every_patient_a_log(done):
    for session in ("1", "2", "10"):
        assert (done / f"out/sub-01/figures/sub-01_ses-{session}_lesions.png").read_bytes().startswith(b"\x89PNG")
    assert "in the order ses-1, ses-2, ses-10, by session label" in (done / "out/logs/sub-01.log").read_text()


def test_a_finished_patient_is_skipped_a_changed_one_is_redone(tmp_path, models):
    write_patient(tmp_path / "bids", "01", ("1", "2"))
    write_patient(tmp_path / "bids", "02")
    first = run(tmp_path, models[:1])
    before = stamps(tmp_path / "out")
    assert run(tmp_path, models[:1]) == first
    assert stamps(tmp_path / "out") == before

    shutil.rmtree(tmp_path / "bids/sub-01/ses-2")
    run(tmp_path, models[:1])
    after = stamps(tmp_path / "out")
    assert not [name for name in after if "ses-2" in name], "results of a visit that is gone are cleared"
    assert {n for n in after if after[n] == before[n]} == {n for n in before if n.startswith("sub-02")}


@pytest.mark.parametrize("change", ["setting", "model", "missing output"])
def test_another_setting_or_model_or_a_lost_file_is_redone(tmp_path, models, change):
    write_patient(tmp_path / "bids", "01")
    run(tmp_path, models[:1])
    before = stamps(tmp_path / "out")
    if change == "setting":
        run(tmp_path, models[:1], threshold=0.3)
    elif change == "model":
        run(tmp_path, models)
    else:
        (tmp_path / "out" / next(iter(before))).unlink()
        run(tmp_path, models[:1])
    after = stamps(tmp_path / "out")
    assert after.keys() == before.keys()
    assert all(after[name] > before[name] for name in before)


def test_the_number_of_threads_and_the_models_folder_change_nothing(tmp_path, models):
    write_patient(tmp_path / "bids", "01")
    run(tmp_path, models[:1], threads=1)
    before = stamps(tmp_path / "out")
    models[0].rename(tmp_path / "moved")
    try:
        run(tmp_path, [tmp_path / "moved"], threads=2)
    finally:
        (tmp_path / "moved").rename(models[0])
    assert stamps(tmp_path / "out") == before


def test_a_user_s_own_file_survives_and_a_half_written_one_does_not(tmp_path, models):
    write_patient(tmp_path / "bids", "01")
    run(tmp_path, models[:1])
    kept = tmp_path / "out/sub-01/ses-1/anat/notes.txt"
    kept.write_text("hand work")
    leftover = tmp_path / "out/sub-01/ses-1/anat/.partial-x-sub-01_ses-1_mask.nii.gz"
    leftover.write_text("half")
    run(tmp_path, models[:1], threshold=0.3)
    assert kept.read_text() == "hand work"
    assert not leftover.exists()


def test_an_interrupted_patient_is_done_again(tmp_path, models):
    """A record that is not finished, as a kill leaves it, with files of which some exist."""
    write_patient(tmp_path / "bids", "01", ("1", "2"))
    run(tmp_path, models[:1])
    record = records.read_record(tmp_path / "out", "01")
    whole = {name: (tmp_path / "out" / name).read_bytes() for name in record.files}
    records.write_record(tmp_path / "out", records.Record("01", False, record.fingerprint, record.files))
    (tmp_path / "out" / record.files[0]).unlink()
    run(tmp_path, models[:1])
    assert {name: (tmp_path / "out" / name).read_bytes() for name in record.files if name.endswith(".nii.gz")} == {
        name: content for name, content in whole.items() if name.endswith(".nii.gz")
    }
    assert records.read_record(tmp_path / "out", "01").finished


def test_from_its_start_on_no_table_shows_what_a_run_has_cleared(tmp_path, models):
    """It waits for the working folder, which another run has."""
    write_patient(tmp_path / "bids", "01", ("1", "2"))
    out, work = tmp_path / "out", tmp_path / "work"
    run(tmp_path, models[:1])
    own = out / "sub-01/sub-01_visits.tsv"
    assert records.UNENDED not in own.read_text()
    chosen = SegmentationSettings(models=tuple(models[:1]), device="cpu", threshold=0.3)
    settings = Settings(preprocessing=EASY, segmentation=chosen)
    plan = check_start(RunPlan(out, tmp_path / "bids", settings, work))
    with ThreadPoolExecutor(1) as pool:
        with alone(work / "sub-01", wait=False):
            again = pool.submit(run_cohort, read_cohort(tmp_path / "bids"), plan)
            until = time.monotonic() + 60
            while records.UNENDED not in (out / "group.html").read_text() and time.monotonic() < until:  # written last
                time.sleep(0.1)
            assert {row["status"] for row in rows(out).values()} == {"failed"}
            assert own.read_text().count(records.UNENDED) == 2
        assert [result.status for result in again.result(120)] == ["flagged", "flagged"]
    assert {row["status"] for row in rows(out).values()} == {"flagged"}


def test_a_subset_keeps_the_others_in_the_cohort_table_and_their_settings_on_record(tmp_path, models):
    for label in ("01", "02"):
        write_patient(tmp_path / "bids", label)
    run(tmp_path, models[:1])
    chosen = SegmentationSettings(models=tuple(models[:1]), device="cpu", threshold=0.3)
    settings = Settings(preprocessing=EASY, segmentation=chosen)
    plan = check_start(RunPlan(tmp_path / "out", tmp_path / "bids", settings))
    run_cohort(read_cohort(tmp_path / "bids", ["02"]), plan)
    assert [key[0] for key in rows(tmp_path / "out")] == ["sub-01", "sub-02"]
    latest = json.loads((tmp_path / "out/settings.json").read_text())
    assert latest["settings"]["segmentation"]["threshold"] == 0.3
    assert latest["about"].startswith("the latest run; what decided a patient's results is the fingerprint")
    for label, threshold in (("01", 0.2), ("02", 0.3)):
        record = json.loads((tmp_path / f"out/.lesiondelta/sub-{label}.json").read_text())
        assert record["fingerprint"]["settings"]["segmentation"]["threshold"] == threshold


def test_replaced_image_bytes_are_redone(tmp_path, models):
    write_patient(tmp_path / "bids", "01", ("1", "2"))
    write_patient(tmp_path / "bids", "02")
    probabilities = image_path(tmp_path / "out", "01", "1", "space-orig_label-L_probseg")
    run(tmp_path, models[:1])
    before, first = stamps(tmp_path / "out"), read_image(probabilities).data
    write_volume(image_path(tmp_path / "bids", "01", "2", "FLAIR"), image(7))
    run(tmp_path, models[:1])
    after = stamps(tmp_path / "out")
    assert {name for name in before if after[name] == before[name]} == {n for n in before if n.startswith("sub-02")}
    assert not np.array_equal(read_image(probabilities).data, first), "visit 2 is the prior of visit 1"


def test_a_plausible_result_is_ok_with_and_without_lesions(tmp_path):
    """The atlas's brain, and a model that works at 5 mm."""
    write_patient(tmp_path / "bids", "01")
    brain = atlas_brain(5.0)
    for contrast in ("T1w", "FLAIR"):
        write_volume(image_path(tmp_path / "bids", "01", "1", contrast), shown(brain, contrast))
    description = export_tiny_model(tmp_path / "model") / "model.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | {"spacing_mm": 5.0}))
    mask, probability = (
        image_path(tmp_path / "out", "01", "1", f"space-orig_label-L_{name}") for name in ("mask", "probseg")
    )
    (nothing,) = run(tmp_path, [tmp_path / "model"], threshold=0.999)
    assert (nothing.status, nothing.reason, nothing.figures["lesions"]) == ("ok-zero-lesions", "", 0)
    assert not read_mask(mask).data.any()
    inside = read_image(probability).data
    (some,) = run(tmp_path, [tmp_path / "model"], threshold=float(np.quantile(inside[inside > 0], 0.9)))
    assert (some.status, some.reason) == ("ok", "")
    assert some.figures["lesions"] > 0
    assert read_mask(mask).data.any()


def test_a_patient_another_run_is_working_on_is_left_to_it_and_the_others_go_on(tmp_path, models):
    for label in ("01", "02"):
        write_patient(tmp_path / "bids", label)
    run(tmp_path, models[:1])
    before, record = stamps(tmp_path / "out"), records.record_path(tmp_path / "out", "01").read_bytes()
    with records.only_run(tmp_path / "out", "01"):
        busy, other = run(tmp_path, models[:1], threshold=0.3)
        (again,), _ = report_cohort(tmp_path / "out", ["01"])
    for result in (busy, again):
        assert (result.status, result.visit) == ("failed", "1")
        assert "Another run is working on sub-01 in" in result.reason
    assert other.status == "flagged"
    after = stamps(tmp_path / "out")
    assert {name for name in before if after[name] == before[name]} == {n for n in before if n.startswith("sub-01")}
    assert records.record_path(tmp_path / "out", "01").read_bytes() == record
    assert run(tmp_path, models[:1], threshold=0.3)[0].status == "flagged"


def test_a_sheared_flair_costs_the_segmentation_for_slicer_alone(tmp_path, models):
    write_patient(tmp_path / "bids", "01")
    path, shear = image_path(tmp_path / "bids", "01", "1", "FLAIR"), np.eye(4)
    shear[0, 1] = 0.1
    flair = read_image(path)
    write_sheared(path, replace(flair, affine=flair.affine @ shear))
    (result,) = run(tmp_path, models[:1])
    assert result.status == "flagged"
    assert "there is no .seg.nrrd, which cannot hold the FLAIR's sheared axes" in result.reason
    mask = image_path(tmp_path / "out", "01", "1", "space-orig_label-L_mask")
    np.testing.assert_allclose(read_mask(mask).affine, flair.affine @ shear, atol=1e-4)
    assert not list((tmp_path / "out").rglob("*.seg.nrrd"))


def test_a_failed_patient_is_tried_again(tmp_path, models):
    write_patient(tmp_path / "bids", "01")
    path = image_path(tmp_path / "bids", "01", "1", "T1w")
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    assert run(tmp_path, models[:1])[0].status == "failed"
    path.write_bytes(whole)
    assert run(tmp_path, models[:1])[0].status == "flagged"


def test_a_failed_patient_keeps_each_visits_reason_and_no_mask(tmp_path, models):
    """The second visit is truncated; the first fails later, for another reason: an output is in the way."""
    write_patient(tmp_path / "bids", "01", ("1", "2"))
    bad = image_path(tmp_path / "bids", "01", "2", "FLAIR")
    bad.write_bytes(bad.read_bytes()[:100])
    chosen = SegmentationSettings(models=tuple(models[:1]), device="cpu")
    check_start(RunPlan(tmp_path / "out", tmp_path / "bids", Settings(preprocessing=EASY, segmentation=chosen)))
    (tmp_path / "out/sub-01").mkdir()
    (tmp_path / "out/sub-01/figures").write_text("a file where a folder has to be")
    first, second = run(tmp_path, models[:1])
    assert (first.status, second.status) == ("failed", "failed")
    assert bad.name in second.reason
    assert bad.name not in first.reason
    assert not stamps(tmp_path / "out")


def test_visits_that_fail_together_keep_their_own_reasons(tmp_path, models):
    write_patient(tmp_path / "bids", "01", ("1", "2"))
    bad = [image_path(tmp_path / "bids", "01", session, "FLAIR") for session in ("1", "2")]
    for path in bad:
        path.write_bytes(path.read_bytes()[:100])
    for result, own, other in zip(run(tmp_path, models[:1]), bad, reversed(bad), strict=True):
        assert result.status == "failed"
        assert own.name in result.reason
        assert other.name not in result.reason


def test_an_image_given_for_two_visits_fails_both(tmp_path, models):
    write_patient(tmp_path / "bids", "01", ("1", "2", "3"))
    same = [image_path(tmp_path / "bids", "01", session, "FLAIR") for session in ("1", "3")]
    shutil.copy(*same)
    first, second, third = run(tmp_path, models[:1])
    assert (first.status, second.status, third.status) == ("failed", "flagged", "failed")
    assert (
        first.reason
        == third.reason
        == f"{same[0]} and {same[1]} are the same image: " + ("give every visit its own T1w and FLAIR.")
    )


def test_an_order_by_labels_that_are_no_numbers_is_flagged_until_dates_are_given(tmp_path, models):
    home = write_patient(tmp_path / "bids", "01", ("post", "pre"))
    said = "visits are ordered by session labels, which are not numbers: ses-post, ses-pre; give acq_time in sub-01_ses"
    assert all(said in result.reason for result in run(tmp_path, models[:1]))
    assert said in (tmp_path / "out/sub-01.html").read_text()
    dates = "session_id\tacq_time\nses-post\t{}-01-01\nses-pre\t2019-01-01\n"
    for year, years in ((2020, 1), (2021, 2)):
        (home / "sub-01_sessions.tsv").write_text(dates.format(year))
        pre, post = run(tmp_path, models[:1])
        assert (pre.visit, post.visit) == ("pre", "post")
        assert "labels" not in pre.reason + post.reason
        assert post.figures["years_from_first_visit"] == pytest.approx(years, abs=0.01)


def test_a_run_over_fewer_visits_says_which_results_go(tmp_path, models, caplog):
    write_patient(tmp_path / "bids", "01", ("1", "2"))
    run(tmp_path, models[:1])
    chosen = SegmentationSettings(models=tuple(models[:1]), device="cpu", threshold=0.2)
    settings = Settings(preprocessing=EASY, segmentation=chosen)
    plan = check_start(RunPlan(tmp_path / "out", tmp_path / "bids", settings))
    run_cohort(read_cohort(tmp_path / "bids", sessions=["2"]), plan)
    assert "earlier results of ses-1 are removed" in caplog.text
    assert list(rows(tmp_path / "out")) == [("sub-01", "ses-2")]


def test_a_dataset_without_sessions(tmp_path, models):
    source = write_patient(tmp_path / "bids", "01") / "ses-1/anat"
    target = tmp_path / "bids/sub-01/anat"
    source.rename(target)
    for path in list(target.iterdir()):
        path.rename(target / path.name.replace("_ses-1", ""))
    source.parent.rmdir()
    assert [(r.visit, r.status) for r in run(tmp_path, models[:1])] == [("", "flagged")]
    assert (tmp_path / "out/sub-01/anat/sub-01_space-orig_label-L_mask.nii.gz").is_file()
    assert ("sub-01", "n/a") in rows(tmp_path / "out")


@pytest.mark.slow
def test_processes_give_the_same_as_one(tmp_path, done, models):
    (tmp_path / "bids").symlink_to(done / "bids")
    results = run(tmp_path, models[:1], processes=2)
    assert sorted(results, key=lambda r: (r.patient, r.visit)) == sorted(
        run(done, models[:1]), key=lambda r: (r.patient, r.visit)
    )
    for name in stamps(done / "out"):
        assert (tmp_path / "out" / name).read_bytes() == (done / "out" / name).read_bytes()


def test_patients_in_flight_are_collected_after_the_first_crash():
    """Real futures: one patient fails while another runs and a third waits."""
    started, release = threading.Event(), threading.Event()

    def succeed():
        started.set()
        release.wait(30)
        return (records.VisitResult("02", "1", "ok"),)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(succeed)
        waiting = pool.submit(succeed)
        started.wait(30)
        failed: Future = Future()
        failed.set_result((records.VisitResult("01", "1", "failed"),))
        waiting.add_done_callback(lambda _: release.set())  # it is cancelled
        ended = list(completed([failed, running, waiting], stop=True))
    assert ended == [failed, running]
    assert waiting.cancelled()


def test_patients_are_picklable_for_worker_processes():
    import pickle

    patient = Patient("1", (), problems={"2": "why"})
    assert pickle.loads(pickle.dumps(patient)) == patient
