"""What `run` writes of lesions over time, and how they come onto each visit's own grid."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from lesiondelta.atlas import mni152
from lesiondelta.atlas.location import Location
from lesiondelta.cli import main
from lesiondelta.cohort import Change, LesionChange
from lesiondelta.images import Grid, Volume, read_image, read_mask, write_volume
from lesiondelta.inference.segmenter import counted
from lesiondelta.outputs.derivatives import PatientFiles
from lesiondelta.outputs.lesions import map_files, write_difference
from lesiondelta.pipeline.change_maps import (
    before_on_own_grid,
    changes_on_own_grid,
    lesions_on_own_grid,
    with_resolved,
    with_unmasked,
)
from lesiondelta.pipeline.tracked_lesions import TrackedLesions, shown, step_rows, track_lesions
from lesiondelta.preprocessing.preparation import PreparedPatient, PreparedVisit, with_atlas
from lesiondelta.settings import TrackingSettings
from lesiondelta.tracking import Tracking
from lesiondelta.tracking.change import UNSEEN
from lesiondelta.tracking.places import Place
from tests.models import export_tiny_model
from tests.tiny import call, image_path, write_patient


def arguments(root):
    given = ("run", root / "bids", root / "out", "participant", "--model", root / "model", "--registration", "none")
    return (*given, "--skull-strip", "skip", "--no-bias-correction", "--no-gate", "--threshold", "0.2")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run over three visits."""
    root = tmp_path_factory.mktemp("changes")
    write_patient(root / "bids", "01", ("1", "2", "10"))
    export_tiny_model(root / "model")
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments(root)])
    assert ended.value.code == 0
    return root / "out"


def table(done, name):
    return pd.read_csv(done / "sub-01" / f"sub-01_{name}.tsv", sep="\t", keep_default_na=False)


def anat(done, session, name):
    return done / "sub-01" / f"ses-{session}" / "anat" / f"sub-01_ses-{session}_{name}"


def test_every_lesion_of_every_mask_has_a_row_and_a_number(done):
    lesions = table(done, "lesions")
    for session in ("1", "2", "10"):
        mask, numbers = (
            nib.load(anat(done, session, f"space-orig_{name}.nii.gz")).get_fdata()
            for name in ("label-L_mask", "seg-lesions_dseg")
        )
        np.testing.assert_array_equal(numbers > 0, mask > 0)
        own = lesions[lesions.session_id == f"ses-{session}"]
        assert set(np.unique(numbers[numbers > 0])) <= set(own.lesion_id)
        names = pd.read_csv(anat(done, session, "space-orig_seg-lesions_dseg.tsv"), sep="\t")
        assert set(names["index"]) == set(np.unique(numbers[numbers > 0]))
        assert (own.volume_mm3 > 0).all()
    assert (lesions[lesions.session_id == "ses-1"].change == "n/a").all()
    assert set(lesions.change) - {"n/a"} <= set(Change)


def test_changes_are_listed_step_by_step_and_counted_in_the_table_of_visits(done):
    changes, visits = table(done, "changes"), table(done, "visits")
    assert list(changes[["prior_session_id", "session_id"]].drop_duplicates().itertuples(index=False, name=None)) == [
        ("ses-1", "ses-2"),
        ("ses-2", "ses-10"),
    ]
    for session in ("ses-2", "ses-10"):
        own, row = changes[changes.session_id == session], visits[visits.session_id == session].iloc[0]
        assert {c: int(row[f"{c}_lesions"]) for c in Change} == {c: int((own.change == c).sum()) for c in Change}
    assert visits.iloc[0]["new_lesions"] == "n/a"
    assert (changes[changes.change == "new"].prior_volume_mm3 == 0).all()
    assert (changes[changes.change == "resolved"].lesion_ids == "n/a").all()


def test_maps_of_change_name_their_labels_and_sources(done):
    assert not list((done / "sub-01/ses-1/anat").glob("*seg-change*"))
    stem = "space-orig_seg-change_desc-from2_dseg"
    sidecar = json.loads(anat(done, "10", f"{stem}.json").read_text())
    assert sidecar["SpatialReference"].endswith("sub-01_ses-10_FLAIR.nii.gz")
    names = pd.read_csv(anat(done, "10", f"{stem}.tsv"), sep="\t")
    assert names["name"].tolist() == [str(change) for change in Change]
    numbers = nib.load(anat(done, "10", "space-orig_seg-lesions_dseg.nii.gz")).get_fdata()
    codes = nib.load(anat(done, "10", f"{stem}.nii.gz")).get_fdata()
    lesions = table(done, "lesions")
    for row in lesions[lesions.session_id == "ses-10"].itertuples():
        inside = codes[numbers == row.lesion_id]
        assert (inside == list(Change).index(Change(row.change)) + 1).all()


def test_the_difference_of_the_flairs_is_written_in_the_patients_space(tmp_path):
    """With what it was made from; rounded, so that it compresses."""
    place = PatientFiles(tmp_path, "01").visit("10")
    z = Volume(np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32), OBLIQUE)
    write_difference(place, "2", z)
    path = place.anat("space-patient_desc-differenceFrom2_FLAIR.nii.gz")
    np.testing.assert_allclose(read_image(path).data, z.data, atol=0.0251)
    np.testing.assert_allclose(read_image(path).affine, OBLIQUE, atol=1e-5)
    about = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
    images = [f"bids::sub-01/ses-{n}/anat/sub-01_ses-{n}_space-patient_FLAIR.nii.gz" for n in ("10", "2")]
    assert about["Sources"] == images
    assert about["PriorSession"] == "ses-2"
    assert path in map_files(place, ["2"])


def test_images_with_too_little_tissue_are_judged_by_their_masks(done):
    """The tiny images of these tests: no difference is written, and every visit that was not compared says so."""
    assert not list((done / "sub-01").rglob("*difference*"))
    said = table(done, "visits").reason.str.contains("changes are those of the masks alone")
    assert said.tolist() == [False, True, True]


def test_the_surest_changes_come_first_in_every_step(done):
    for _, step in table(done, "changes").groupby("session_id", sort=False):
        assert pd.to_numeric(step.confidence, errors="coerce").fillna(0).is_monotonic_decreasing


def test_tables_have_a_dictionary_for_every_column(done):
    for name in ("lesions", "changes"):
        described = json.loads((done / "sub-01" / f"sub-01_{name}.json").read_text())
        assert list(described) == list(table(done, name).columns)
        assert all(entry["Description"] for entry in described.values())


def test_a_second_run_is_skipped_and_a_missing_table_is_not(done, capsys):
    path = done / "sub-01" / "sub-01_changes.tsv"
    before = path.stat().st_mtime_ns
    assert call(capsys, *arguments(done.parent)).code == 0
    assert path.stat().st_mtime_ns == before
    path.unlink()
    assert call(capsys, *arguments(done.parent)).code == 0
    assert path.is_file()


def run_on_a_slab(capsys, root, slab, cut):
    """Two visits without lesions, of which one has a FLAIR of six slices of eight, and a lesion drawn above."""
    write_patient(root / "bids", "01", ("1", "2"))
    export_tiny_model(root / "model")
    path = image_path(root / "bids", "01", slab, "FLAIR")
    whole = read_image(path)
    low = whole.data[..., :6]
    write_volume(path, replace(whole, data=low if cut else np.pad(low, ((0, 0), (0, 0), (0, 2)))))
    given = (*arguments(root)[:-1], "0.999")
    assert call(capsys, *given).code == 0
    mask = anat(root / "out", "1" if slab == "2" else "2", "space-orig_label-L_mask.nii.gz")
    drawn = read_mask(mask)
    assert not drawn.data.any()
    drawn.data[5:7, 6:8, 6] = True
    write_volume(mask, drawn)
    assert call(capsys, *given).code == 0
    return root / "out"


@pytest.mark.parametrize(("slab", "cut"), [("1", True), ("2", False)], ids=["six slices", "two slices of zeros"])
def test_a_lesion_that_the_other_visits_slab_leaves_out_is_neither_new_nor_resolved(capsys, tmp_path, slab, cut):
    out = run_on_a_slab(capsys, tmp_path, slab, cut)
    (change,) = table(out, "changes").itertuples()
    assert (change.change, change.reason) == ("stable", UNSEEN)
    second = table(out, "visits").iloc[1]
    assert (second.new_lesions, second.resolved_lesions, second.stable_lesions) == ("0", "0", "1")
    assert "1 lesion lies where the FLAIR of this visit or of the one before shows nothing" in second.reason


def test_fluid_and_what_lies_outside_the_brain_count_as_shown():
    head = np.full((9, 9, 9), 100, np.float32)
    head[4, 4, 4], head[0], head[-1] = 0, 0, 0
    brain = np.ones(head.shape, bool)
    brain[0] = False
    found = shown(Volume(head, np.eye(4)), Volume(brain, np.eye(4)))
    assert found[:-1].all()
    assert not found[-1].any()


OBLIQUE = np.array([[0.9, -0.3, 0.0, -50], [0.3, 0.9, 0.2, -140], [0.0, -0.5, 2.9, 0], [0, 0, 0, 1]])
OWN_SHAPE = (170, 190, 70)


def test_a_lesion_that_no_mask_has_keeps_its_number_on_thick_oblique_slices():
    """One that the nearest voxels show, and one that lies between them."""
    shape = (60, 60, 60)
    blank = Volume(np.ones(shape, np.float32), np.eye(4))
    _, (seen,) = patient([np.zeros(shape, bool)], np.eye(4), blank, blank)
    instances = np.zeros(shape, np.int32)
    instances[20:26, 20:26, 20:26] = 4
    instances[34, 30, 31] = 5
    nothing = Volume(np.zeros(OWN_SHAPE, np.int32), OBLIQUE)
    labels = with_unmasked(nothing, seen, instances).data
    assert set(np.unique(labels)) == {0, 4, 5}
    there = (OBLIQUE @ np.c_[np.argwhere(labels == 4), np.ones((labels == 4).sum())].T)[:3].T
    assert (np.abs(there - 22.5) <= 3.01).all()
    (one,) = np.argwhere(labels == 5)
    assert np.linalg.norm(np.linalg.inv(OBLIQUE)[:3] @ [34, 30, 31, 1] - one) < 1


def test_what_only_images_show_is_a_row_without_numbers():
    """A place that no probability supports."""
    shape = (60, 60, 60)
    blank = Volume(np.ones(shape, np.float32), np.diag([-1.0, 1, 1, 1]))
    _, segmented = patient([np.zeros(shape, bool)] * 2, blank.affine, blank, blank)
    place = Place(-1, np.array([[10, 20, 30], [12, 20, 30]]), 7.5, 0.4, possible=True)
    empty = np.zeros(shape, np.int32)
    tracking = Tracking((empty, empty), (empty,), ((),), possible=((place,),))
    (row,) = step_rows(TrackedLesions(tuple(segmented), tracking, ({}, {}), ({},), ({1: Location.DEEP},)))
    assert (row.step.change, row.step.prior, row.step.current) == (Change.POSSIBLE, (), ())
    assert (row.step.evidence, row.step.confidence) == (-7.5, 0.4)
    assert (row.step.gained_mm3, row.step.lost_mm3) == (0.0, 2.0)
    assert row.centre_mm == (-11.0, 20.0, 30.0)
    assert row.location == Location.DEEP


def flair(t1w, brain, mask, seed):
    """Lesions shine, and no two scans have the same noise."""
    level = np.median(t1w.data[brain.data > 0])
    noisy = t1w.data + np.random.default_rng(seed).normal(0, 0.02 * level, t1w.data.shape) + level * mask
    return t1w.with_data(np.where(brain.data > 0, noisy, 0).astype(np.float32))


def patient(masks, affine, brain, t1w, to_flair=None):
    """A prepared patient whose FLAIR has thick oblique slices, and its visits segmented as given."""
    grid = Grid(masks[0].shape, affine)
    own = {"FLAIR": Grid(OWN_SHAPE, OBLIQUE)}
    transforms, quality = {"FLAIR": np.eye(4) if to_flair is None else to_flair}, {"FLAIR_residual_mm": 0.2}
    visits = tuple(
        PreparedVisit(str(number), {"T1w": t1w, "FLAIR": flair(t1w, brain, mask, number)}, transforms, own, quality)
        for number, mask in enumerate(masks)
    )
    prepared = PreparedPatient("01", grid, brain, visits, {})
    probabilities = [np.where(mask, 0.99, 0.01).astype(np.float32) for mask in masks]
    return prepared, [counted(v, p, m, grid) for v, p, m in zip(visits, probabilities, masks, strict=True)]


def test_numbers_on_an_oblique_grid_of_thick_slices_are_those_of_the_nearest_lesion():
    shape, affine = (60, 60, 60), np.diag([1.0, 1, 1, 1])
    mask = np.zeros(shape, bool)
    mask[20:26, 20:26, 20:26] = mask[34:40, 30:36, 30:36] = True
    blank = Volume(np.ones(shape, np.float32), affine)
    to_flair = np.eye(4)
    to_flair[:3, 3] = (2, -3, 1)
    _, (seen,) = patient([mask], affine, blank, blank, to_flair)
    instances = np.zeros(shape, np.int32)
    instances[20:26, 20:26, 20:26], instances[34:40, 30:36, 30:36] = 7, 9
    own = Volume(np.zeros(OWN_SHAPE, bool), OBLIQUE)
    centres = {7: np.array([22.5, 22.5, 22.5]), 9: np.array([36.5, 32.5, 32.5])}
    voxels = {
        n: np.rint((np.linalg.inv(OBLIQUE) @ to_flair @ [*centre, 1])[:3]).astype(int) for n, centre in centres.items()
    }
    for voxel in voxels.values():
        own.data[tuple(voxel)] = True
    labels = lesions_on_own_grid(own, seen, instances).data
    assert {int(labels[tuple(voxel)]): n for n, voxel in voxels.items()} == {7: 7, 9: 9}
    assert np.count_nonzero(labels) == 2


def test_lesions_that_are_gone_are_drawn_where_they_were_and_locations_are_found():
    """On the atlas itself: one lesion beside a ventricle that goes, one in the pons that stays."""
    t1w, brain = mni152("t1w", 2), mni152("brain", 2)
    spots = {name: np.rint(np.linalg.inv(t1w.affine) @ [*mm, 1])[:3].astype(int) for name, mm in
             (("beside", (-22, -30, 22)), ("pons", (4, -28, -34)))}  # fmt: skip
    masks = [np.zeros(t1w.data.shape, bool) for _ in range(2)]
    for name, (x, y, z) in spots.items():
        for mask in masks if name == "pons" else masks[:1]:
            mask[x : x + 2, y : y + 2, z : z + 2] = True
    prepared, segmented = patient(masks, t1w.affine, brain, t1w)
    tracked = track_lesions(with_atlas(prepared, threads=2), segmented, 0.5, TrackingSettings())
    found = {c.change: tracked.locations[0][c.prior[0]] for c in tracked.tracking.changes[0]}
    assert found == {"resolved": "periventricular", "stable": "infratentorial"}
    own = Volume(np.zeros(OWN_SHAPE, bool), OBLIQUE)
    labels = lesions_on_own_grid(own, segmented[1], tracked.tracking.instances[1])
    before = before_on_own_grid(labels.grid, tracked, 1)
    codes = changes_on_own_grid(labels, before, tracked, 1)
    gone = np.argwhere(codes.data == list(Change).index(Change.RESOLVED) + 1)
    assert len(gone) > 5
    places = (np.linalg.inv(t1w.affine) @ OBLIQUE @ np.c_[gone, np.ones(len(gone))].T).T[:, :3]
    assert (np.abs(places - spots["beside"] - 0.5) < 1.01).all()
    numbered = with_resolved(labels, before, tracked, 1)
    resolved = next(c.prior[0] for c in tracked.tracking.changes[0] if c.change is Change.RESOLVED)
    np.testing.assert_array_equal(numbered.data == resolved, codes.data == list(Change).index(Change.RESOLVED) + 1)


def test_a_lesion_that_may_be_there_still_is_no_segment_where_the_mask_has_none():
    """What was just above the threshold and is just below it is called stable, and is not drawn."""
    shape = (60, 60, 60)
    mask = np.zeros(shape, bool)
    mask[20:26, 20:26, 20:26] = True
    blank = Volume(np.ones(shape, np.float32), np.eye(4))
    _, segmented = patient([mask, np.zeros(shape, bool)], np.eye(4), blank, blank)
    gone = LesionChange((1,), (), Change.STABLE, 216.0, 0.0, 300.0, "within the measurement error")
    labels = mask.astype(np.int32)
    tracking = Tracking((labels, np.zeros(shape, np.int32)), (labels,), ((gone,),))
    own = Volume(np.zeros(OWN_SHAPE, np.int32), OBLIQUE)
    tracked = TrackedLesions(tuple(segmented), tracking, ({}, {}), ({},), ({},))
    assert not with_resolved(own, before_on_own_grid(own.grid, tracked, 1), tracked, 1).data.any()
