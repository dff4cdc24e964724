"""What is looked at before any long work: every image is read, and stands for one visit only."""

import dataclasses
import gzip

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform

from lesiondelta.cohort import CONTRASTS
from lesiondelta.errors import NoVisitError
from lesiondelta.images import read_image
from lesiondelta.inputs.bids import read_cohort
from lesiondelta.inputs.checks import check_patient, visit_contents
from tests.tiny import image_path, write_patient


@pytest.fixture
def patient(tmp_path):
    write_patient(tmp_path, "01", ("1", "2", "3"))
    (found,) = read_cohort(tmp_path).patients
    return found


def labels(checked):
    return [visit.label for visit in checked.visits]


def test_images_and_hashes_come_along(patient):
    checked = check_patient(patient, CONTRASTS)
    assert labels(checked) == ["1", "2", "3"]
    assert not checked.problems
    for visit, contents in zip(checked.visits, visit_contents(patient), strict=True):
        assert visit.contents == contents
        for contrast in CONTRASTS:
            assert (visit.images[contrast].data == read_image(visit.visit.images[contrast]).data).all()


def test_a_visit_without_a_contrast_says_which(patient):
    first = dataclasses.replace(patient.visits[0], images={"FLAIR": patient.visits[0].images["FLAIR"]})
    checked = check_patient(dataclasses.replace(patient, visits=(first, *patient.visits[1:])), CONTRASTS)
    assert labels(checked) == ["2", "3"]
    assert "no T1w" in checked.problems["1"]


def test_a_damaged_image_costs_its_own_visit(patient):
    path = patient.visits[1].images["FLAIR"]
    path.write_bytes(path.read_bytes()[:200])
    checked = check_patient(patient, CONTRASTS)
    assert labels(checked) == ["1", "3"]
    assert path.name in checked.problems["2"]


@pytest.mark.parametrize("level", [1, 9])
def test_an_image_that_is_given_twice_costs_both_visits(patient, tmp_path, level):
    """Packed in another way, too: the files then differ."""
    content = gzip.decompress(image_path(tmp_path, "01", "1", "T1w").read_bytes())
    image_path(tmp_path, "01", "3", "T1w").write_bytes(gzip.compress(content, level))
    checked = check_patient(patient, CONTRASTS)
    assert labels(checked) == ["2"]
    assert {label: "are the same image" in why for label, why in checked.problems.items()} == {"1": True, "3": True}


@pytest.mark.parametrize("voxels", [np.float32, np.float64, np.int16])
@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR"])
def test_an_image_that_is_stored_otherwise_is_the_same(patient, tmp_path, axes, voxels):
    """In another orientation, or rounded to voxels of another type: still one scan for two visits."""
    image = nib.load(image_path(tmp_path, "01", "1", "FLAIR"))
    turn = ornt_transform(nib.io_orientation(image.affine), axcodes2ornt(axes))
    turned = image.as_reoriented(turn)
    again = nib.Nifti1Image(turned.get_fdata(), turned.affine)
    again.set_data_dtype(voxels)  # a header that scales keeps the values of integers
    nib.save(again, image_path(tmp_path, "01", "3", "FLAIR"))
    checked = check_patient(patient, CONTRASTS)
    assert labels(checked) == ["2"]
    assert all("are the same image" in why for why in checked.problems.values())


def test_the_same_voxels_mirrored_are_another_image(patient, tmp_path):
    """A scan whose sides are exchanged is wrong in another way, and two scans are not compared by size only."""
    image = nib.load(image_path(tmp_path, "01", "1", "FLAIR"))
    mirrored = nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine)
    nib.save(mirrored, image_path(tmp_path, "01", "3", "FLAIR"))
    assert labels(check_patient(patient, CONTRASTS)) == ["1", "2", "3"]


def test_no_visit_left_tells_each_ones_reason(patient):
    with pytest.raises(NoVisitError) as raised:
        check_patient(patient, (*CONTRASTS, "T2w"))
    assert set(raised.value.failures) == {"1", "2", "3"}
